"""Metrics of video codecs: PSNR, and how evenly the codes of a codebook are used.

:func:`psnr` is one number for each example, (B,). :func:`code_use` is a property of a codebook and
counts the codes of all examples together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowwarp.tensors import check_video


def psnr(video: Tensor, target: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each example, for a peak of 1.

    The squared error is averaged over all frames first: -10 log10(MSE).

    Args:
        video: (B, T, C, H, W) in [0, 1].
        target: the same shape, in [0, 1].

    Returns:
        (B,) in dB; infinite where both are equal.

    Raises:
        TypeError: one is not a floating-point tensor.
        ValueError: the shapes differ or are not (B, T, C, H, W).

    >>> psnr(torch.zeros(1, 2, 3, 4, 4), torch.full((1, 2, 3, 4, 4), 0.1))
    tensor([20.])
    """
    check_video(video)
    check_video(target, "target")
    if video.shape != target.shape:
        raise ValueError(
            f"target must have the shape {tuple(video.shape)} of video, got {tuple(target.shape)}"
        )
    return -10 * (video.float() - target.float()).square().mean((1, 2, 3, 4)).log10()


@dataclass(frozen=True)
class CodeUse:
    """How evenly codes are used; every number is a share in (0, 1].

    Args:
        used: share of the codes that occur; with several groups, the mean over groups.
        effective: perplexity, exp(entropy), over the number of codes: 1 if all are equally
            frequent. With several groups, the mean over groups.
        dimensions: ``effective`` of each number of the latent over its levels.
    """

    used: float
    effective: float
    dimensions: tuple[float, ...]


def code_use(codes: Tensor, levels: Sequence[int], groups: int = 1) -> CodeUse:
    """Measure how evenly the codes of a codebook are used.

    A code consists of ``groups`` digits, each the index of a vector in a codebook of K vectors, the
    product of ``levels``. With finite scalar quantisation the vector has ``len(levels)`` numbers.

    Args:
        codes: integers of any shape in [0, K ** groups).
        levels: number of levels of each number of a vector, most significant first; one entry, K,
            for a codebook of other vectors.
        groups: digits of a code.

    Raises:
        ValueError: there are no codes, or a code is out of range.

    >>> code_use(torch.tensor([0, 1, 2, 3]), (2, 4))
    CodeUse(used=0.5, effective=0.5, dimensions=(0.5, 1.0))
    """
    size, codes = math.prod(levels), codes.cpu()  # MPS has no float64
    if not codes.numel() or codes.amin() < 0 or codes.amax() >= size**groups:
        raise ValueError(f"codes must be one or more integers from 0 to {size**groups - 1}")
    used, effective, dimensions = 0.0, 0.0, []
    for group in reversed(range(groups)):
        digits = codes.flatten().long() // size**group % size
        counts = torch.bincount(digits, minlength=size)  # (K,)
        used += float((counts > 0).double().mean()) / groups
        effective += _effective(counts) / groups
        table = counts.reshape(tuple(levels))
        for dimension in range(len(levels)):
            others = [other for other in range(len(levels)) if other != dimension]
            dimensions.append(_effective(table.sum(others) if others else table))
    return CodeUse(used, effective, tuple(dimensions))


def _effective(counts: Tensor) -> float:
    """Return exp(entropy) / K of frequencies (K,)."""
    shares = counts.double() / counts.sum()
    entropy = -torch.special.xlogy(shares, shares).sum()
    return float(entropy.exp()) / len(counts)
