"""Where clips come from: the two worlds that are made up, and folders of captioned videos."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from flowwarp.data.captioned import CaptionedStore, count_captioned, load_captioned
from flowwarp.data.digits import compose_digits
from flowwarp.data.sprite_world.layers import load_layers
from flowwarp.data.sprite_world.world import Clip, check_held_out, compose_clip
from flowwarp.data.stage import check_take
from flowwarp.data.synthesis import find_photos, load_photos
from flowwarp.errors import InputError

_LOG = logging.getLogger(__name__)

Draw = Callable[[int, int], Clip]  # (seed, index): the same numbers, the same clip

SPRITES, DIGITS = "sprites", "digits"
WORLDS = (SPRITES, DIGITS)  # any other name is a folder's
_ASIDE = 10  # of a folder, one video in so many is for validation


@final
@dataclass(frozen=True)
class Source:
    """Clips by seed and index: the same numbers give the same clip. Threads may call it.

    It can be sent to the workers of a DataLoader, if what finds the motion of a folder's can.

    Args:
        draw: makes a clip.
        count: how many clips a series has before they come again; None if there is no end.
        state: changes with the files that clips are read or made from, captions included; empty for
            a world that needs none.
    """

    draw: Draw
    count: int | None = None
    state: tuple[str, ...] = ()

    def __call__(self, seed: int, index: int) -> Clip:
        """Return a clip of a series."""
        return self.draw(seed, index)


def state_of(draw: Draw) -> str:
    """Return the state of a source in one line; empty for any other function."""
    return " ".join(draw.state) if isinstance(draw, Source) else ""


class Motion(Protocol):
    """Finds the flow of a clip of which none is known."""

    def __call__(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return flow_12, flow_21, visible_12 and visible_21 as a `Clip` has them.

        Args:
            video: (T, 3, S, S) uint8.
        """


def open_source(
    name: str | Path,
    size: int,
    frames: int,
    *,
    layers: str | Path | None = None,
    photos: str | Path | None = None,
    held_out: bool | None = False,
    motion: Motion | None = None,
    progress: Callable[[int, int], None] | None = None,
    rewordings: int = 0,
) -> Source:
    """Open a source of clips.

    Args:
        name: ``sprites``, ``digits``, or a folder or tar file of captioned videos.
        size: of the frames, pixels.
        frames: of each clip.
        layers: for sprites: a folder of layers instead of the small set in the package.
        photos: for sprites: a folder of pictures to stand before.
        held_out: False leaves out what is kept for tests, True gives only that, None all. Of
            sprites these are combinations of attributes; of a folder one video in ten; of a single
            video the last tenth, or nothing where it is too short; of digits nothing.
        motion: for a folder: finds the flow, which is then taken to be valid where it is visible.
            Without it flow is 0 and nowhere valid.
        progress: for a folder, while it is prepared: called with (videos done, videos in all).
        rewordings: how many other captions a clip has of a world that is made up.

    Returns:
        The source. From a folder, whose clips are few, each series has all, in an order of its own,
        then all again in another.

    Raises:
        InputError: a folder is missing or broken, layers or photos are given for other clips, or
            only what is held out is wanted of layers that hold none of it.
        OutputError: a folder cannot be prepared, since the cache cannot be written.
        ValueError: a size or length that the world does not have.
    """
    _refuse_others(name, layers, photos)
    if str(name) in WORLDS:
        check_take(size, frames)
    if str(name) == DIGITS:
        return Source(partial(compose_digits, size=size, frames=frames, rewordings=rewordings))
    if str(name) == SPRITES:
        drawn = load_layers(layers)
        pictures = [] if photos is None else load_photos(photos)
        if held_out:
            check_held_out(drawn, layers, photos=bool(pictures))
        draw = partial(compose_clip, drawn, size=size, frames=frames, photos=pictures)
        draw = partial(draw, held_out=held_out, rewordings=rewordings)
        return Source(draw, state=(drawn.digest, digest_photos(pictures)))
    store = load_captioned(name, size, frames, progress=progress)
    windows = _choose(store, held_out, frames)
    return Source(partial(_draw_window, store, windows, motion), len(windows), (store.key,))


def check_source(
    name: str | Path, *, layers: str | Path | None = None, photos: str | Path | None = None
) -> int | None:
    """Check what a source would be opened with, but for the videos themselves.

    Returns:
        How many videos there are; None of a world, which has no end.

    Raises:
        InputError: a folder is missing, broken or empty, or layers or photos are given for others.
    """
    _refuse_others(name, layers, photos)
    if str(name) not in WORLDS:
        return count_captioned(name)
    if layers is not None:
        load_layers(layers)
    if photos is not None and not any(find_photos(Path(photos))):
        raise InputError(photos, "holds no picture")
    return None


def _refuse_others(name: str | Path, *given: str | Path | None) -> None:
    for path in given:
        if path is not None and str(name) != SPRITES:
            raise InputError(path, f"sprites could use it, {name} cannot", "leave it out")


def open_split(
    name: str | Path,
    size: int,
    frames: int,
    *,
    layers: str | Path | None = None,
    photos: str | Path | None = None,
    motion: Motion | None = None,
    progress: Callable[[int, int], None] | None = None,
    rewordings: int = 0,
) -> tuple[Source, Source]:
    """Open a source for training, and one for validation by another seed.

    Of a world that is made up both are the same, since no clip comes twice; what is held out stays
    so. Of a folder, the second gives what the first leaves out. Arguments and faults are those of
    :func:`open_source`.
    """
    kwargs: dict[str, Any] = {"motion": motion, "progress": progress, "rewordings": rewordings}
    source = open_source(name, size, frames, layers=layers, photos=photos, **kwargs)
    if str(name) in WORLDS:
        return source, source
    return source, open_source(name, size, frames, held_out=True, **kwargs)


def digest_photos(photos: Sequence[Tensor]) -> str:
    """Return what is another of any other photos."""
    digest = hashlib.blake2b(digest_size=10)
    for photo in photos:
        digest.update(repr(photo.shape).encode())
        digest.update(photo.contiguous().numpy().data)
    return digest.hexdigest()


def _choose(store: CaptionedStore, held_out: bool | None, frames: int) -> Sequence[int]:
    """Return the windows that are wanted, of which neither kind shows what the other does."""
    if held_out is None:
        return range(len(store))
    names = [store.name(index) for index in range(len(store))]
    videos = set(names)
    if len(videos) == 1:
        # It may be listed under several captions: all are divided at the same place.
        runs = [list(run) for _, run in groupby(range(len(store)), store.row)]
        aside = len(runs[0]) - max(1, len(runs[0]) // _ASIDE)
        kept = aside - (frames - 1)  # those between have frames of both
        if kept > 0:
            part = slice(aside, None) if held_out else slice(kept)
            return [window for run in runs for window in run[part]]
        _LOG.warning(
            "%s is too short to keep a part aside: it is learned from and judged by", *videos
        )
        return range(len(store))
    chosen = _aside(videos)
    return [index for index, name in enumerate(names) if (name in chosen) == held_out]


def _aside(videos: Iterable[str]) -> set[str]:
    """Choose videos to judge by, of several: about one in ten, but not none nor all.

    By a hash of its name alone, so that a video that was learned from is never judged by later
    because others came or went.
    """
    ranks = {video: _rank(PurePath(video).name) for video in videos}
    first, *_, last = sorted(ranks, key=lambda video: (ranks[video], video))
    aside = {video for video in ranks if ranks[video] % _ASIDE == 0}
    return aside - {last} if len(aside) == len(ranks) else aside or {first}


def _rank(name: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8])


def _draw_window(
    store: CaptionedStore, windows: Sequence[int], motion: Motion | None, seed: int, index: int
) -> Clip:
    number = _shuffled(seed, index // len(windows), len(windows))[index % len(windows)]
    window = store[windows[number]]
    moves = _unknown(window.video) if motion is None else motion(window.video)
    flow_12, flow_21, visible_12, visible_21 = moves
    return Clip(
        video=window.video,
        flow_12=flow_12,
        flow_21=flow_21,
        valid_12=visible_12,
        valid_21=visible_21,
        visible_12=visible_12,
        visible_21=visible_21,
        caption=window.caption,
        attributes={},
    )


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, length: int) -> Sequence[int]:
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(length).tolist()
    return order


def _unknown(video: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pairs, size = len(video) - 1, video.shape[-2:]
    flow = torch.zeros(pairs, 2, *size)
    nowhere = torch.zeros(pairs, 1, *size, dtype=torch.bool)
    return flow, flow, nowhere, nowhere
