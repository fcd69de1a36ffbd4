"""Contact sheets: frames of several videos in one image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.tensors import check_image
from flowwarp.viz.overlay import side_by_side
from flowwarp.viz.text import ADVANCE, text_block

_MARGIN = 4  # px around a caption


def video_sheet(rows: Sequence[Tensor], *, every: int = 1, gap: int = 2) -> Tensor:
    """Put the frames of each video in a row, left to right, on white.

    Args:
        rows: videos, each (T, 3, H, W) in [0, 1].
        every: show every n-th frame.
        gap: white pixels between two frames.

    Returns:
        (3, H', W').

    Raises:
        TypeError: a video is not a floating-point tensor.
        ValueError: there is no video, or one is not (T, 3, H, W).
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


def captioned_sheet(
    rows: Sequence[tuple[str, Tensor]], *, every: int = 1, columns: int = 28, gap: int = 2
) -> Tensor:
    """Put the frames of each video in a row, with a caption to the left.

    Args:
        rows: captions and videos (T, 3, H, W) in [0, 1]. A caption is cut at the height of a frame.
        every: show every n-th frame.
        columns: characters in a line of a caption.
        gap: white pixels between two frames.

    Returns:
        (3, H', W').

    Raises:
        TypeError: a video is not a floating-point tensor.
        ValueError: there is no video, or one is not (T, 3, H, W).
    """
    frames = video_sheet([video for _, video in rows], every=every, gap=gap)
    picture = F.pad(frames, (columns * ADVANCE + 2 * _MARGIN, 0), value=1.0)
    top = 0
    for text, video in rows:
        height = video.shape[-2]
        ink = text_block(text, columns)[: max(height - _MARGIN, 0)]
        ink_height, ink_width = ink.shape
        picture[:, top + _MARGIN : top + _MARGIN + ink_height, _MARGIN : _MARGIN + ink_width] = (
            1 - ink
        )
        top += height + gap
    return picture


def time_slices(videos: Sequence[Tensor], row: int, *, tall: int = 6) -> Tensor:
    """Show one row of pixels over time, of several videos side by side.

    Time runs down. Static content gives straight vertical lines, flicker gives ragged ones.

    Args:
        videos: each (T, 3, H, W) in [0, 1], with the same T.
        row: index of the row of pixels.
        tall: height in pixels of one frame's row.

    Returns:
        (3, T * tall, W').
    """
    slices = [video[:, :, row].movedim(0, 1)[None] for video in videos]  # (1, 3, T, W)
    return side_by_side([part.repeat_interleave(tall, 2) for part in slices])[0]
