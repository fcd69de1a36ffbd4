"""Video to tokens and back, by the weights of a discrete VAE."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from flowwarp.io.checkpoints import build
from flowwarp.io.shipped import SHIPPED, find_weights
from flowwarp.legacy.models.dvae import DVAE, DVAEConfig
from flowwarp.tensors import check_float, check_range


def load_dvae(weights: str | Path = SHIPPED, device: str | torch.device = "cpu") -> DVAE:
    """Make a discrete VAE from weights.

    Args:
        weights: a ``.safetensors`` file with its card, such as ``train-dvae`` writes, or
            ``"base"`` for those in the package.
        device: where the network shall be.

    Raises:
        InputError: the file is missing, broken, or of another network.
    """
    path = find_weights(weights, "dvae")
    net, _ = build(path, "dvae", lambda settings: DVAE(DVAEConfig(**settings)))
    return net.to(device).eval()


def encoder_parts(net: DVAE, dtype: torch.dtype | None = None) -> Iterator[bytes | memoryview]:
    """Return what decides what codes mean, to be digested: names and values of the encoder.

    Args:
        net: from :func:`load_dvae`.
        dtype: what values are rounded to; by default they are taken as they are.
    """
    return weight_bytes(net.coding(), dtype)


def weight_bytes(
    parts: Iterable[nn.Module], dtype: torch.dtype | None = None
) -> Iterator[bytes | memoryview]:
    """Yield the names and values of what some layers learned, to be digested.

    Args:
        parts: the layers.
        dtype: what values are rounded to; by default they are taken as they are.
    """
    for part in parts:
        for name, tensor in part.state_dict().items():
            values = tensor.detach().cpu()
            if dtype is not None and values.is_floating_point():
                values = values.to(dtype)
            yield name.encode()
            yield values.contiguous().reshape(-1).view(torch.uint8).numpy().data


def fingerprint(net: DVAE) -> str:
    """Return what tells a discrete VAE from others by what its codes mean.

    The decoder is of no account, nor how codes are searched for.

    Weights are shipped in bfloat16, so it is taken of values rounded to that.
    """
    digest = hashlib.sha256()
    for part in encoder_parts(net, torch.bfloat16):
        digest.update(part)
    return digest.hexdigest()[:20]


def tokenize(net: DVAE, video: Tensor) -> Tensor:
    """Return the codes of a clip, in the order in which they are decoded: time, row, column.

    Args:
        net: from :func:`load_dvae`.
        video: (T, 3, H, W), uint8 or in [0, 1]; T = 1 is a still picture.

    Returns:
        (t, h, w) int64; see :meth:`DVAE.encode`.

    Raises:
        TypeError: the clip is neither floating point nor uint8.
        ValueError: the shape does not fit the network, or the clip is floating point and in
            0 … 255, or holds NaN.
    """
    if video.dtype == torch.uint8:
        video = video.float() / 255
    check_float(video, "video")
    check_range(video, "video")
    return net.encode(video[None].to(_device(net)))[0].cpu()


def detokenize(net: DVAE, codes: Iterable[Tensor]) -> Iterator[Tensor]:
    """Decode token frames one by one, as they come.

    Args:
        net: from :func:`load_dvae`.
        codes: (t, h, w) integers, or an iterable of (h, w) that may still be in the making.

    Yields:
        Frames (3, H, W) in [0, 1], ``net.config.stride_time`` for each token frame.

    Raises:
        ValueError: a code that does not exist, or a wrong shape.
    """
    place = _device(net)
    for group in net.decode_stream(part[None, None].to(place) for part in codes):
        yield from group[0].cpu()


def _device(net: DVAE) -> torch.device:
    return next(net.parameters()).device
