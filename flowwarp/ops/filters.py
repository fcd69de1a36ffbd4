"""Separable blurs, differences and resizing of images.

Blurs are sums of shifted images: with few channels, torch's convolution and pooling take several
times as long. The terms of each pixel are summed in one order, so the result is the same bits for
any number of threads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Largest factor of one reduction on a GPU: torch's kernel keeps the weights of a block in shared
# memory, and 48 KiB are enough up to a factor of 94, in fp64 of 46.
SHRINK_AT_ONCE = 32


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian, cut off at three standard deviations; the border is repeated.

    Args:
        image: (B, C, H, W).
        sigma: standard deviation in pixels.

    Returns:
        (B, C, H, W).
    """
    radius = max(1, round(3 * sigma))
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = (-0.5 * (steps / sigma).square()).exp()
    weights = (kernel / kernel.sum()).tolist()
    for axis in (3, 2):
        image = _weighted_sum(image, weights, axis, "replicate")
    return image


def box_blur(image: Tensor, radius: int) -> Tensor:
    """Return the mean over a square around each pixel, of the pixels that are inside the image.

    Args:
        image: (B, C, H, W).
        radius: of the square in pixels; its side is ``2 * radius + 1``.

    Returns:
        (B, C, H, W).
    """
    ones = [1.0] * (2 * radius + 1)
    for axis in (3, 2):
        size = image.shape[axis]
        place = torch.arange(size, dtype=image.dtype, device=image.device)
        inside = (place + radius).clamp_max(size - 1) - (place - radius).clamp_min(0) + 1
        total = _weighted_sum(image, ones, axis, "constant")
        image = total.div_(inside if axis == 3 else inside[:, None])
    return image


def half_band(image: Tensor) -> Tensor:
    """Low-pass filter an image at the Nyquist frequency of an image of half its size.

    It is the maximally flat half-band filter of seven taps (Deslauriers and Dubuc, "Symmetric
    Iterative Interpolation Processes", 1989): along each axis, frequencies below a quarter cycle a
    pixel pass, those above do not. The border is repeated.

    Args:
        image: (B, C, H, W).

    Returns:
        (B, C, H, W).
    """
    weights = [-1 / 32, 0.0, 9 / 32, 0.5, 9 / 32, 0.0, -1 / 32]
    for axis in (3, 2):
        image = _weighted_sum(image, weights, axis, "replicate")
    return image


def forward_differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return forward differences along x and y, each (B, C, H, W) and 0 at the last pixel."""
    dx = F.pad(image[..., 1:] - image[..., :-1], (0, 1))
    dy = F.pad(image[..., 1:, :] - image[..., :-1, :], (0, 0, 0, 1))
    return dx, dy


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image bilinearly with antialiasing; the edges of the image stay in place.

    The grid is that of ``align_corners=False``: the outer edges of the outer pixels coincide.

    Args:
        image: (B, C, H, W), fp32 or fp64.
        size: the new (height, width).

    Returns:
        (B, C, height, width).
    """
    if image.device.type == "cuda":
        image = _shrink_first(image, size)
    return _resize(image, size)


def _shrink_first(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Shrink an image, if its factor to ``size`` is too large for torch's kernel on a GPU."""
    height, width = image.shape[-2:]
    near = (min(height, SHRINK_AT_ONCE * size[0]), min(width, SHRINK_AT_ONCE * size[1]))
    return image if near == (height, width) else _resize(image, near)


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def _weighted_sum(image: Tensor, weights: list[float], axis: int, mode: str) -> Tensor:
    """Correlate (B, C, H, W) with ``weights`` along axis 3 or 2; ``mode`` as for ``F.pad``."""
    radius, size = len(weights) // 2, image.shape[axis]
    pad = (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius)
    padded = F.pad(image, pad, mode=mode)
    total = weights[0] * padded.narrow(axis, 0, size)
    for shift, weight in enumerate(weights[1:], 1):
        total.add_(padded.narrow(axis, shift, size), alpha=weight)
    return total
