"""Crops of clips at the size that networks train on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 1 / 16  # share of each side that a crop leaves out


def random_crop(video: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Cut a clip at a random place and resize it, so that it is seen in many positions.

    Few hundred clips show each thing at few places, and shifted by a pixel its codes are others.
    All frames are cut alike.

    Args:
        video: (T, 3, H, W) uint8.
        size: (height, width) of the result.
        generator: of random numbers.

    Returns:
        (T, 3, height, width) float32 in [0, 1].
    """
    y, x = torch.rand(2, generator=generator).tolist()
    return _crop(video, size, y, x)


def middle_crop(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut the middle as :func:`random_crop` cuts any place; shapes are the same."""
    return _crop(video, size, 0.5, 0.5)


def crop_window(height: int, width: int, y: float, x: float) -> tuple[slice, slice]:
    """Return the rows and columns of a crop at relative place (y, x), each in [0, 1]."""
    rows, columns = (max(1, round(side * (1 - MARGIN))) for side in (height, width))
    top, left = round((height - rows) * y), round((width - columns) * x)
    return slice(top, top + rows), slice(left, left + columns)


def resize_video(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize video (T, 3, H, W) in [0, 1] to (T, 3, height, width), antialiased."""
    if video.shape[-2:] == size:
        return video
    resized = F.interpolate(video, size, mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp(0, 1)


def _crop(video: Tensor, size: tuple[int, int], y: float, x: float) -> Tensor:
    rows, columns = crop_window(video.shape[-2], video.shape[-1], y, x)
    return resize_video(video[..., rows, columns].float() / 255, size)
