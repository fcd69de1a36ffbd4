"""Sheets of videos: a row of frames each, one under the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.tensors import check_image
from flowwarp.viz.overlay import side_by_side


def video_sheet(rows: Sequence[Tensor], *, every: int = 1, gap: int = 2) -> Tensor:
    """Put frames of videos in rows, left to right, on white.

    Args:
        rows: each (T, 3, H, W) in [0, 1]; shorter ones leave white.
        every: show every so many-th frame.
        gap: white pixels between two frames.

    Returns:
        (3, H', W').

    Raises:
        TypeError: a row is not a floating-point tensor.
        ValueError: there is none, or one is not (T, 3, H, W).
    """
    if not rows:
        raise ValueError("rows must hold at least one video")
    pictures = []
    for index, row in enumerate(rows):
        check_image(row, f"rows[{index}]")
        pictures.append(side_by_side(list(row[::every, None].float()), gap=gap)[0])
    width = max(picture.shape[-1] for picture in pictures)
    padded = [
        F.pad(picture, (0, width - picture.shape[-1], 0, gap if last else 0), value=1.0)
        for last, picture in zip([*[True] * (len(pictures) - 1), False], pictures, strict=True)
    ]
    return torch.cat(padded, 1)
