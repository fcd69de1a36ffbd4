"""Parts of a video that are looked at to say what it shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flowwarp.data.resizing import middle_square

MOST_WINDOWS = 4  # of a video that are described


@dataclass(frozen=True)
class Description:
    """What a video shows.

    Args:
        text: of all that was tried, what describes the whole best.
        nats: log-likelihood of it, the mean of the windows.
        windows: how many parts of the video were looked at.
    """

    text: str
    nats: float
    windows: int


def some_windows(
    frames: Iterable[Tensor], length: int, size: int, least: int | None = None
) -> list[Tensor]:
    """Return parts of a video's middle square: all of a short one, else evenly over it.

    Args:
        frames: (3, H, W) in [0, 1]; taken one at a time.
        length: frames of a part.
        size: of its frames.
        least: frames of the only part of a video that is shorter; ``length`` by default.

    Returns:
        (length, 3, size, size) uint8 each, at most ``MOST_WINDOWS``; or one of fewer frames.

    Raises:
        TypeError: a frame is not a floating-point tensor.
        ValueError: there are no frames, or one is none, is in 0 … 255 or holds NaN.
    """
    kept: list[Tensor] = []
    every = 1
    for number, window in enumerate(_windows(frames, length, size, least or length)):
        if number % every == 0:
            kept.append(window)
        if len(kept) > MOST_WINDOWS:  # half as many, evenly still
            kept, every = kept[::2], 2 * every
    if not kept:
        raise ValueError("frames must not be empty")
    return kept


def _windows(frames: Iterable[Tensor], length: int, size: int, least: int) -> Iterator[Tensor]:
    """Yield windows (length, 3, size, size) uint8, one after the other.

    What is left over at the end is filled up with what came before; if nothing did, with its own
    last frame to the least that there may be.
    """
    before: list[Tensor] = []
    window: list[Tensor] = []
    for frame in frames:
        window.append(middle_square(frame, size))
        if len(window) == length:
            yield torch.stack(window)
            before, window = window, []
    if window:
        still = window[-1:] * (least - len(window))
        filled = [*before[len(window) :], *window] if before else window + still
        yield torch.stack(filled)
