"""Layers of the networks that say what is seen: the judge and the captioner.

Convolutions begin with the variance that keeps signals as they are through them (He et al., ICCV
2015); norms are over groups of channels of one example.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.models._layers import GROUPS, convolution, group_norm
from flowwarp.tensors import check_choice, check_video, check_whole, check_wholes

PATCH = 4  # side of the square of pixels that is folded into channels
PAIR_CHANNELS = 2 * 3 * PATCH**2
STRIDE = 2 * PATCH  # of what :func:`looking` makes of pairs of frames
CHANGE = 4.0  # how much the difference of a pair is enlarged; of pictures alike it is small
THIN = 16  # channels that are left before places are joined
# All frames of a clip are looked at together; more of them, or larger ones, fill the memory.
MOST_APART, LARGEST_SIDE = 64, 512


class Block(nn.Module):
    """A residual block; the branches of a stage together add about what comes in."""

    def __init__(self, width: int, branches: int, norm: str) -> None:
        super().__init__()
        self.norm = group_norm(width, norm)
        self.first = convolution(width, width, gain=math.sqrt(2))
        self.second = convolution(width, width, gain=math.sqrt(2 / branches))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H, W)."""
        change: Tensor = self.second(F.silu(self.first(F.silu(self.norm(x)))))
        return x + change


def pool(features: Tensor) -> Tensor:
    """Return the largest and the mean of each feature over places: (..., C, places) to (..., 2 C).

    What a thing is, as of a small weapon, is the same wherever it is.
    """
    return torch.cat([features.amax(-1), features.mean(-1)], -1)


def check_sizes(widths: tuple[int, ...], blocks: tuple[int, ...], norm: str) -> None:
    """Raise ValueError if :func:`looking` cannot be made like this."""
    check_wholes(widths, "widths", GROUPS)
    if len(widths) != 2 or any(width % GROUPS for width in widths):
        raise ValueError(f"widths must be two multiples of {GROUPS}, got {widths}")
    check_wholes(blocks, "blocks", 0)
    if len(blocks) != 2:
        raise ValueError(f"blocks must be two numbers, got {blocks}")
    check_choice(norm, "norm", ("group", "none"))


def looking(
    inputs: int, widths: tuple[int, int], blocks: tuple[int, int], norm: str, outputs: int = THIN
) -> nn.Sequential:
    """Return layers from (N, inputs, H, W) to (N, outputs, H / 2, W / 2).

    Args:
        inputs: channels.
        widths: channels at the resolution of the input and at half of it.
        blocks: residual blocks there.
        norm: ``group`` or ``none``.
        outputs: channels that are left.
    """
    fine, coarse = widths
    some, more = blocks
    return nn.Sequential(
        convolution(inputs, fine),
        *(Block(fine, some, norm) for _ in range(some)),
        nn.PixelUnshuffle(2),
        convolution(4 * fine, coarse, size=1),
        *(Block(coarse, more, norm) for _ in range(more)),
        group_norm(coarse, norm),
        nn.SiLU(),
        convolution(coarse, outputs, size=1, gain=math.sqrt(2)),
    )


def check_pairs(size: int, apart: int) -> None:
    """Raise ValueError if :func:`pair_frames` cannot make pairs like this for :func:`looking`."""
    check_whole(size, "size", STRIDE, LARGEST_SIDE)
    if size % STRIDE:
        raise ValueError(f"size must be a multiple of {STRIDE}, got {size}")
    check_whole(apart, "apart", 1, MOST_APART)


def pair_frames(video: Tensor, size: int, apart: int) -> Tensor:
    """Return each frame of (B, T, 3, S, S) in [0, 1], and how it differs from one so far after it.

    Pixels are folded into channels: (B (T - apart), ``PAIR_CHANNELS``, S / 4, S / 4). Such pairs
    tell pose, colours and motion alike; neighbours hardly differ.

    Raises:
        TypeError: the video is not floating-point.
        ValueError: it has another shape, S other than ``size``, or no pair.
    """
    check_video(video)
    if tuple(video.shape[2:]) != (3, size, size) or video.shape[1] <= apart:
        raise ValueError(
            f"video must be (B, T, 3, {size}, {size}), T from {apart + 1}, got {tuple(video.shape)}"
        )
    frames = F.pixel_unshuffle(2 * video - 1, PATCH)
    first, change = frames[:, :-apart], frames[:, apart:] - frames[:, :-apart]
    pairs = torch.cat([first, CHANGE * change], 2).flatten(0, 1)
    return pairs.contiguous(memory_format=torch.channels_last)
