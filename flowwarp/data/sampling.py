"""Reads an image at arbitrary points, for crops, scaling, rotation and synthetic motion."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(
    image: Tensor,
    points: Tensor,
    *,
    padding: Literal["border", "zeros", "reflection"] = "border",
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Tensor:
    """Read an image at given points. Unlike ``warp``, the result may have a size of its own.

    Args:
        image: (B, C, H, W), floating point.
        points: (B, 2, h, w), x then y, in pixels of ``image``.
        padding: the values outside the image, as in :func:`flowwarp.ops.warping.warp`.
        mode: how to read between pixels.

    Returns:
        (B, C, h, w).
    """
    height, width = image.shape[-2:]
    # -1 is the centre of the first pixel, 1 that of the last; a lone pixel is at 0.
    span = points.new_tensor([max(width - 1, 1), max(height - 1, 1)]).view(2, 1, 1)
    grid = (points * (2 / span) - 1).movedim(1, -1)
    return F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=True)


def inside(points: Tensor, height: int, width: int) -> Tensor:
    """Return which points lie in an image, (B, 1, h, w) bool."""
    # A tolerance of a thousandth of a pixel: points on the border stay inside after rounding.
    far = points.new_tensor([width - 1, height - 1]).view(2, 1, 1) + 1e-3
    return ((points >= -1e-3) & (points <= far)).all(1, keepdim=True)


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply affine maps (B, 2, 3) to points (B, 2, h, w)."""
    moved = torch.einsum("bij,bjhw->bihw", matrix[:, :, :2], points)
    return moved + matrix[:, :, 2, None, None]
