"""Opens a source of captioned clips by name: the synthetic worlds, folders and tar files."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from flowwarp.data.captioned import CaptionedStore, count_captioned, load_captioned
from flowwarp.data.clip import Clip, Source, WorldFiles
from flowwarp.data.digits import open_digits
from flowwarp.data.sprite_world.source import check_sprites, open_sprites
from flowwarp.data.stage import check_take
from flowwarp.errors import InputError

_LOG = logging.getLogger(__name__)

SPRITES, DIGITS = "sprites", "digits"
_OPEN_WORLD = {SPRITES: open_sprites, DIGITS: open_digits}
WORLDS = tuple(_OPEN_WORLD)  # any other name is that of a folder or tar file
_HELD_OUT = 10  # one video of a folder in so many is for validation


class Motion(Protocol):
    """Estimates the flow of a clip whose flow is unknown."""

    def __call__(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return flow_12, flow_21, visible_12 and visible_21, shaped as in `Clip`.

        Args:
            video: (T, 3, H, W) uint8.
        """


@dataclass(frozen=True)
class ClipReading:
    """How the clips of a folder or tar file are read; a synthetic world has no use for it.

    Args:
        step: every so many frames of a video one is used.
        captions: as in :func:`flowwarp.data.captioned_files.list_captioned`.
        motion: estimates the flow, which then counts as valid where it is visible. Without it flow
            is 0 and nowhere valid.
    """

    step: int = 1
    captions: str | Path | None = None
    motion: Motion | None = None


def open_source(
    name: str | Path,
    size: int | tuple[int, int],
    frames: int,
    *,
    world_files: WorldFiles = WorldFiles(),  # noqa: B008 - frozen
    held_out: bool | None = False,
    reading: ClipReading = ClipReading(),
    progress: Callable[[int, int], None] | None = None,
    rewordings: int = 0,
) -> Source:
    """Open a source of clips.

    Args:
        name: ``sprites``, ``digits``, or a folder or tar file of captioned videos.
        size: (height, width) of the frames, in pixels; a number is both. A synthetic world makes
            squares only.
        frames: number of frames in each clip.
        world_files: files that sprites are made of.
        held_out: False leaves out the clips reserved for tests, True gives only these, None gives
            all. Reserved are: combinations of attributes of sprites; one video in ten of a folder;
            the last tenth of a single video, unless it is too short; no digits.
        reading: of the clips of a folder.
        progress: for a folder, while it is prepared: called with (videos done, videos in all).
        rewordings: number of further captions of each clip of a synthetic world.

    Returns:
        The source. A folder has few clips: each series holds all of them in an order of its own,
        then all again in another order.

    Raises:
        InputError: a folder is missing or broken, files are given for other clips than sprites,
            or ``held_out`` is True and the layers have no combination that is held out.
        OutputError: a folder cannot be prepared, since the cache cannot be written.
        ValueError: a size or length that the world does not have.
    """
    _check_world_files(name, world_files)
    if str(name) in WORLDS:
        height, width = size if isinstance(size, tuple) else (size, size)
        if height != width:
            raise ValueError(f"size of {name} must be square, got {height} x {width}")
        check_take(height, frames)
        open_world = _OPEN_WORLD[str(name)]
        return open_world(
            height, frames, world_files=world_files, held_out=held_out, rewordings=rewordings
        )
    store = load_captioned(
        name, size, frames, step=reading.step, captions=reading.captions, progress=progress
    )
    windows = _split_windows(store, held_out, frames)
    captions = dict.fromkeys(store.caption(window) for window in windows)
    draw = partial(_draw_window, store, windows, reading.motion)
    return Source(draw, len(windows), (store.key,), tuple(captions))


def check_source(
    name: str | Path,
    world_files: WorldFiles = WorldFiles(),  # noqa: B008 - frozen
    captions: str | Path | None = None,
) -> int | None:
    """Check that a source can be opened; no video is decoded.

    Arguments are those of :func:`open_source` and of :class:`ClipReading`.

    Returns:
        The number of videos; None for a synthetic world, which has no end.

    Raises:
        InputError: a folder is missing, broken or empty, or files are given for other clips
            than sprites.
    """
    _check_world_files(name, world_files)
    if str(name) not in WORLDS:
        return count_captioned(name, captions)
    check_sprites(world_files)
    return None


def _check_world_files(name: str | Path, world_files: WorldFiles) -> None:
    for path in (world_files.layers, world_files.photos):
        if path is not None and str(name) != SPRITES:
            raise InputError(path, f"sprites could use it, {name} cannot", "leave it out")


def open_split(
    name: str | Path,
    size: int | tuple[int, int],
    frames: int,
    *,
    world_files: WorldFiles = WorldFiles(),  # noqa: B008 - frozen
    reading: ClipReading = ClipReading(),
    progress: Callable[[int, int], None] | None = None,
    rewordings: int = 0,
) -> tuple[Source, Source]:
    """Open a source for training, and one for validation, which is to be read with another seed.

    Both are the same for a synthetic world, since no clip occurs twice; held-out clips stay held
    out. For a folder, the second holds the videos that the first leaves out. Arguments and errors
    are those of :func:`open_source`.
    """
    kwargs: dict[str, Any] = {"reading": reading, "progress": progress, "rewordings": rewordings}
    source = open_source(name, size, frames, world_files=world_files, **kwargs)
    if str(name) in WORLDS:
        return source, source
    return source, open_source(name, size, frames, held_out=True, **kwargs)


def _split_windows(store: CaptionedStore, held_out: bool | None, frames: int) -> Sequence[int]:
    """Return the indices of the windows of one part; the two parts share no frame."""
    if held_out is None:
        return range(len(store))
    names = [store.name(index) for index in range(len(store))]
    videos = set(names)
    if len(videos) == 1:
        # One video may be listed under several captions: all are divided at the same place.
        runs = [list(run) for _, run in groupby(range(len(store)), store.row)]
        first_held_out = len(runs[0]) - max(1, len(runs[0]) // _HELD_OUT)
        stop = first_held_out - (frames - 1)  # windows in between share frames with both parts
        if stop > 0:
            part = slice(first_held_out, None) if held_out else slice(stop)
            return [window for run in runs for window in run[part]]
        _LOG.warning(
            "%s is too short to keep a part aside: it is learned from and judged by", *videos
        )
        return range(len(store))
    chosen = hold_out(videos)
    return [index for index, name in enumerate(names) if (name in chosen) == held_out]


def hold_out(videos: Iterable[str]) -> set[str]:
    """Choose about one in ten of several videos for validation, but neither none nor all.

    The choice follows from a hash of each video's own name, so that a video that was trained on is
    not held out later because others were added or removed.
    """
    ranks = {video: _rank(PurePath(video).name) for video in videos}
    first, *_, last = sorted(ranks, key=lambda video: (ranks[video], video))
    chosen = {video for video in ranks if ranks[video] % _HELD_OUT == 0}
    return chosen - {last} if len(chosen) == len(ranks) else chosen or {first}


def _rank(name: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8])


def _draw_window(
    store: CaptionedStore, windows: Sequence[int], motion: Motion | None, seed: int, index: int
) -> Clip:
    number = _shuffled(seed, index // len(windows), len(windows))[index % len(windows)]
    clip = store[windows[number]]
    if motion is None:
        return clip
    flow_12, flow_21, visible_12, visible_21 = motion(clip.video)
    return replace(
        clip,
        flow_12=flow_12,
        flow_21=flow_21,
        valid_12=visible_12,
        valid_21=visible_21,
        visible_12=visible_12,
        visible_21=visible_21,
    )


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, length: int) -> Sequence[int]:
    """Return the order of a series' windows: a permutation of ``range(length)``."""
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(length).tolist()
    return order
