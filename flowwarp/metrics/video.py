"""How faithful a video is to another, and how many of a codec's codes it uses.

Measures of a video are one number for each frame or example; only :func:`code_use`, which is a
property of a code book, looks at all examples together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowwarp.tensors import check_video


def psnr(video: Tensor, target: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each example, of the mean square over its frames.

    The peak is 1.

    Args:
        video: (B, T, C, H, W) in [0, 1].
        target: likewise.

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
    """How codes are used.

    Args:
        used: share of the codes that occur; of digits, where codes are made of several.
        effective: how many equally frequent codes would have their entropy, as a share of all.
        dimensions: the same for each number of the latent and its levels.
    """

    used: float
    effective: float
    dimensions: tuple[float, ...]


def code_use(codes: Tensor, levels: Sequence[int], groups: int = 1) -> CodeUse:
    """Count codes.

    Args:
        codes: integers of any shape in [0, product of ``levels`` to the power of ``groups``).
        levels: how many each number of a group of the latent has, the first one counting the most;
            one number where a code is not made of several.
        groups: digits of a code, which are counted one by one; shares are their mean.

    Raises:
        ValueError: no codes, or one that does not exist.

    >>> code_use(torch.tensor([0, 1, 2, 3]), (2, 4))
    CodeUse(used=0.5, effective=0.5, dimensions=(0.5, 1.0))
    """
    book, codes = math.prod(levels), codes.cpu()  # MPS has no float64
    if not codes.numel() or codes.amin() < 0 or codes.amax() >= book**groups:
        raise ValueError(f"codes must be integers from 0 to {book**groups - 1}, and some")
    used, effective, dimensions = 0.0, 0.0, []
    for group in reversed(range(groups)):
        digits = codes.flatten().long() // book**group % book
        counts = torch.bincount(digits, minlength=book)
        used += float((counts > 0).double().mean()) / groups
        effective += _effective(counts) / groups
        table = counts.reshape(tuple(levels))
        for place in range(len(levels)):
            others = [other for other in range(len(levels)) if other != place]
            dimensions.append(_effective(table.sum(others) if others else table))
    return CodeUse(used, effective, tuple(dimensions))


def _effective(counts: Tensor) -> float:
    shares = counts.double() / counts.sum()
    entropy = -torch.special.xlogy(shares, shares).sum()
    return float(entropy.exp()) / len(counts)
