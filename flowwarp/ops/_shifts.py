"""Crops of an image and a shifted image to their overlap, for references that loop over shifts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def shifted_pair(here: Tensor, there: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """Crop two (..., H, W) tensors to the pixel pairs ``here[y, x]``, ``there[y + dy, x + dx]``.

    Returns:
        Two (..., H - abs(dy), W - abs(dx)) views; empty where no pair is inside.
    """
    (top, bottom), (left, right) = _overlap(dy, here.shape[-2]), _overlap(dx, here.shape[-1])
    below, beside = max(0, dy), max(0, dx)  # the first row and column of ``there``
    return (
        here[..., top:bottom, left:right],
        there[..., below : below + bottom - top, beside : beside + right - left],
    )


def pad_back(cut: Tensor, like: Tensor, dy: int, dx: int) -> Tensor:
    """Pad a result on the crop of ``here`` to the (..., H, W) of ``like`` again, with zeros."""
    (top, bottom), (left, right) = _overlap(dy, like.shape[-2]), _overlap(dx, like.shape[-1])
    return F.pad(cut, (left, like.shape[-1] - right, top, like.shape[-2] - bottom))


def _overlap(shift: int, size: int) -> tuple[int, int]:
    """Return the range [first, last) of pixels for which ``pixel + shift`` is inside."""
    first, last = max(0, -shift), min(size, size - shift)
    return (first, last) if first < last else (0, 0)
