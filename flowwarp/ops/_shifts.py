"""Where an image and a shifted image overlap, for the references that go through displacements."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def shifted_pair(here: Tensor, there: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """Cut ``here`` to the pixels whose partner at ``(+dy, +dx)`` is inside, ``there`` to those."""
    (top, bottom), (left, right) = _overlap(dy, here.shape[-2]), _overlap(dx, here.shape[-1])
    below, beside = max(0, dy), max(0, dx)  # where the partners of the first pixel begin
    return (
        here[..., top:bottom, left:right],
        there[..., below : below + bottom - top, beside : beside + right - left],
    )


def pad_back(cut: Tensor, like: Tensor, dy: int, dx: int) -> Tensor:
    """Put what was computed on a cut back in its place, with zeros where there was no partner."""
    (top, bottom), (left, right) = _overlap(dy, like.shape[-2]), _overlap(dx, like.shape[-1])
    return F.pad(cut, (left, like.shape[-1] - right, top, like.shape[-2] - bottom))


def _overlap(shift: int, size: int) -> tuple[int, int]:
    """Return the pixels [first, last) whose partner at ``+ shift`` is inside; maybe none."""
    first, last = max(0, -shift), min(size, size - shift)
    return (first, last) if first < last else (0, 0)
