"""Averages over the surroundings of each pixel, one axis after the other; differences; resizing.

Averages are sums of shifted pictures: for so few channels, torch's convolution and pooling take
several times as long. Each pixel is summed in one order, so the bits are the same for any number of
threads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# How many times smaller at once on a GPU: torch's kernel there keeps all weights of a block in
# shared memory, whose 48 KiB suffice up to 94, in fp64 up to 46.
SHRINK_AT_ONCE = 32


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian, cut off at three deviations; the border repeats.

    Args:
        image: (B, C, H, W).
        sigma: its deviation in pixels.
    """
    radius = max(1, round(3 * sigma))
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = (-0.5 * (steps / sigma).square()).exp()
    weights = (kernel / kernel.sum()).tolist()
    for axis in (3, 2):
        image = _weigh(image, weights, axis, "replicate")
    return image


def box_blur(image: Tensor, radius: int) -> Tensor:
    """Return the mean over the square around each pixel, as far as it lies in the image.

    Args:
        image: (B, C, H, W).
        radius: of the square, in pixels; its side is twice that and one.
    """
    ones = [1.0] * (2 * radius + 1)
    for axis in (3, 2):
        size = image.shape[axis]
        place = torch.arange(size, dtype=image.dtype, device=image.device)
        within = (place + radius).clamp_max(size - 1) - (place - radius).clamp_min(0) + 1
        image = _weigh(image, ones, axis, "constant").div_(within if axis == 3 else within[:, None])
    return image


def half_band(image: Tensor) -> Tensor:
    """Return what a picture of half the size can hold of an image, the border repeated.

    Frequencies below a quarter cycle a pixel pass along either axis, those above do not; in between
    it is the maximally flat filter of seven taps (Lagrange's, as in Deslauriers and Dubuc, 1989).

    Args:
        image: (B, C, H, W).
    """
    weights = [-1 / 32, 0.0, 9 / 32, 0.5, 9 / 32, 0.0, -1 / 32]
    for axis in (3, 2):
        image = _weigh(image, weights, axis, "replicate")
    return image


def forward_differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return forward differences along x and y, each (B, C, H, W) and 0 at the last pixel."""
    dx = F.pad(image[..., 1:] - image[..., :-1], (0, 1))
    dy = F.pad(image[..., 1:, :] - image[..., :-1, :], (0, 0, 0, 1))
    return dx, dy


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image bilinearly, antialiased; the outer edges of its outer pixels stay in place.

    Args:
        image: (B, C, H, W), fp32 or fp64.
        size: the new (height, width).
    """
    if image.device.type == "cuda":
        image = _within_reach(image, size)
    return _resize(image, size)


def _within_reach(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Make an image smaller, if need be, so that a GPU can resize it to ``size``."""
    height, width = image.shape[-2:]
    near = (min(height, SHRINK_AT_ONCE * size[0]), min(width, SHRINK_AT_ONCE * size[1]))
    return image if near == (height, width) else _resize(image, near)


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def _weigh(image: Tensor, weights: list[float], axis: int, mode: str) -> Tensor:
    """Sum shifted pictures along an axis, 3 or 2; ``mode`` says what lies beyond the border."""
    radius, size = len(weights) // 2, image.shape[axis]
    pad = (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius)
    padded = F.pad(image, pad, mode=mode)
    total = weights[0] * padded.narrow(axis, 0, size)
    for shift, weight in enumerate(weights[1:], 1):
        total.add_(padded.narrow(axis, shift, size), alpha=weight)
    return total
