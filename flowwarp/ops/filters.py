"""Averages over the surroundings of each pixel, one axis after the other.

As sums of shifted pictures: for so few channels, torch's convolution and pooling take several times
as long. Each pixel is summed in one order, so the bits are the same for any number of threads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    for pad in ((radius, radius, 0, 0), (0, 0, radius, radius)):
        image = _weigh(F.pad(image, pad, mode="replicate"), weights, across=bool(pad[0]))
    return image


def box_blur(image: Tensor, radius: int) -> Tensor:
    """Return the mean over the square around each pixel, as far as it lies in the image.

    Args:
        image: (B, C, H, W).
        radius: of the square, in pixels; its side is twice that and one.
    """
    ones = [1.0] * (2 * radius + 1)
    for pad in ((radius, radius, 0, 0), (0, 0, radius, radius)):
        across = bool(pad[0])
        size = image.shape[3 if across else 2]
        place = torch.arange(size, dtype=image.dtype, device=image.device)
        within = (place + radius).clamp_max(size - 1) - (place - radius).clamp_min(0) + 1
        total = _weigh(F.pad(image, pad), ones, across=across)
        image = total.div_(within if across else within[:, None])
    return image


def _weigh(padded: Tensor, weights: list[float], *, across: bool) -> Tensor:
    """Sum shifted pictures of the padded one, along x or y."""
    axis = 3 if across else 2
    size = padded.shape[axis] - len(weights) + 1
    shifted = [padded.narrow(axis, k, size) for k in range(len(weights))]
    total = weights[0] * shifted[0]
    for weight, picture in zip(weights[1:], shifted[1:], strict=True):
        total.add_(picture, alpha=weight)
    return total
