"""Any footage as pairs of neighbouring frames, prepared once and memory-mapped from then on.

Decoding costs more than a training step. Therefore every frame is decoded once, shrunk, and cached
as plain bytes; a pair is then two slices of a file. Frames and pairs from which no network can
learn are left out: a frame in which nothing moved, and a pair across a cut.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from flowwarp.data.cuts import average_blocks, changed_share, is_cut_of_blocks
from flowwarp.data.footage import Footage, list_footage
from flowwarp.data.frame_store import FrameStore, Index, is_complete, store_folder, write_store
from flowwarp.data.resizing import shrink, shrunk_size
from flowwarp.errors import InputError, OutputError
from flowwarp.io.files import check_room
from flowwarp.io.images import read_image
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video

_LOG = logging.getLogger(__name__)
_VERSION = 2  # of the cache; part of its key
_MIN_FRAME_BYTES = 16  # of a video: a frame that repeats the one before it
_SMALLER = "lower longest or raise max_bytes (train-flow: --set longest=..., --set max_bytes=...)"


def prepare_pairs(
    sources: Sequence[str | Path | Footage],
    *,
    longest: int = 640,
    still: float = 0.01,
    cache: str | Path | None = None,
    max_bytes: int = 32 * 2**30,
    progress: Callable[[int, int], None] | None = None,
) -> FrameStore:
    """Turn footage into pairs of neighbouring frames; a second call with the same files is free.

    A frame that hardly differs from the last one in the store is dropped, so that slow motion adds
    up. No pair crosses a cut, a change of size, or a frame that cannot be read. The pairs of a text
    file are all taken, whatever moved in them.

    Args:
        sources: files and folders; see :func:`flowwarp.data.footage.find_footage`.
        longest: longest side of the frames in pixels; larger ones are shrunk, antialiased.
        still: share of the picture that must change for a frame to be stored.
        cache: where the frames are stored; see :func:`flowwarp.data.frame_store.store_folder`.
        max_bytes: limit of this data on disk. An estimate from lengths and sizes in the files'
            headers is compared with it before anything is decoded.
        progress: called with (clips done, clips in all).

    Returns:
        The pairs. ``skipped`` lists unreadable files; each was also logged as a warning.

    Raises:
        InputError: a source is missing, nothing can be read, or no pair is left.
        OutputError: the cache cannot be written, has no room, or would grow beyond ``max_bytes``.
        Locked: another process prepares this footage. (Of processes that train together, one
            prepares it and the others wait.)
    """
    if longest < 1:
        raise ValueError(f"longest must be at least 1, got {longest}")
    clips = list_footage(sources)
    folder = store_folder(cache) / f"pairs-{_key(clips, longest, still)}"
    if not is_complete(folder):
        _prepare(clips, folder, longest, still, max_bytes, progress)
        return FrameStore(folder)
    store = FrameStore(folder)
    for fault in store.skipped:  # when the folder was filled they were logged
        _LOG.warning("skipped %s", fault)
    return store


def _key(clips: Sequence[Footage], longest: int, still: float) -> str:
    """Hash the inputs of the cache: names, times and sizes of all files, and the options."""
    digest = hashlib.sha256(repr((_VERSION, longest, still)).encode())
    for clip in clips:
        digest.update(repr(len(clip.files)).encode())  # one folder may hold several
        for file in clip.files:
            try:
                status = file.stat()
                state: tuple[object, ...] = (status.st_mtime_ns, status.st_size)
            except OSError as fault:
                state = (fault.errno,)
            digest.update(repr((clip.kind, os.fsencode(file.absolute()), *state)).encode())
    return digest.hexdigest()[:20]


def _prepare(
    clips: Sequence[Footage],
    target: Path,
    longest: int,
    still: float,
    max_bytes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    skipped: list[str] = []

    def fill(file: BinaryIO) -> Index:
        _check_size(clips, target.parent, longest, max_bytes)
        places: list[tuple[int, int, int]] = []
        runs: list[tuple[int, int, int]] = []
        for number, clip in enumerate(clips):
            frames = _select(_read(clip, longest, skipped), still, clip.kind == "pair")
            written = _write_runs(frames, file, places, max_bytes)
            runs += [(*run, number) for run in written]
            if progress:
                progress(number + 1, len(clips))
        _check_found(clips, skipped, len(runs))
        return places, runs, {"clips": [clip.name for clip in clips], "skipped": skipped}

    write_store(target, fill)


def _check_size(clips: Sequence[Footage], root: Path, longest: int, max_bytes: int) -> None:
    """Refuse footage that would not fit, by the sizes in the files' headers.

    Raises:
        OutputError: with all frames stored, it would exceed ``max_bytes`` or the disk.
    """
    size = sum(_expected_size(clip, longest) for clip in clips)
    if size > max_bytes:
        problem = f"the frames take up to {size / 1e9:.3g} GB, more than {max_bytes / 1e9:.3g} GB"
        raise OutputError(root, problem, _SMALLER)
    check_room(root, size, "lower longest (train-flow: --set longest=...)")


def _expected_size(clip: Footage, longest: int) -> int:
    """Return the number of bytes of a clip's frames; 0 if that is expensive to find out."""
    first = clip.files[0]
    try:
        if clip.kind == "pair":  # a list may hold millions of them
            return 0
        if clip.kind == "video":
            info = video_info(first)
            height, width = info.height, info.width
            # A broken header may hold any number.
            frames = min(info.frames or 0, first.stat().st_size // _MIN_FRAME_BYTES)
        else:
            _, height, width = read_image(first).shape
            frames = len(clip.files)
    except (InputError, OSError):  # it is skipped, or an error, once it is read
        return 0
    return frames * 3 * math.prod(shrunk_size(height, width, longest))


def _read(clip: Footage, longest: int, skipped: list[str]) -> Iterator[Tensor | None]:
    """Yield a clip's frames as (3, h, w) uint8, None where one cannot be read."""
    if clip.kind == "video":
        try:
            for frame in read_video(clip.files[0]):
                yield shrink(frame, longest)
        except InputError as fault:
            _skip(fault, skipped)
        return
    for file in clip.files:
        try:
            yield shrink(read_image(file), longest)
        except InputError as fault:
            _skip(fault, skipped)
            yield None


def _skip(fault: InputError, skipped: list[str]) -> None:
    _LOG.warning("skipped %s", fault)
    skipped.append(str(fault))


def _select(
    frames: Iterable[Tensor | None], still: float, keep_all: bool
) -> Iterator[tuple[Tensor, bool]]:
    """Drop frames in which nothing moved; yield the others, each with whether it begins a run.

    Args:
        frames: (3, h, w) uint8 each; None where one is missing.
        still: share of blocks that must change.
        keep_all: drop none.
    """
    last, last_blocks = None, None
    for frame in frames:
        if frame is None:
            last = None
            continue
        blocks = average_blocks(frame)
        if last is None or last_blocks is None or frame.shape != last.shape:
            begins = True
        elif keep_all:
            begins = False
        elif changed_share(last_blocks, blocks) <= still:
            continue
        else:
            begins = is_cut_of_blocks(last_blocks, blocks)
        last, last_blocks = frame, blocks
        yield frame, begins


def _write_runs(
    frames: Iterable[tuple[Tensor, bool]],
    file: BinaryIO,
    places: list[tuple[int, int, int]],
    max_bytes: int,
) -> Iterator[tuple[int, int]]:
    """Write runs of two frames or more; yield (first frame, last frame + 1) of each."""
    start, waiting = len(places), None
    for frame, begins in frames:
        if begins:
            if len(places) > start:
                yield start, len(places)
            start, waiting = len(places), frame  # written once a second frame follows
            continue
        for image in (waiting, frame):
            if image is not None:
                places.append((file.tell(), *image.shape[1:]))
                file.write(image.numpy().tobytes())
        waiting = None
        if file.tell() > max_bytes:
            raise OutputError(
                file.name, f"the frames need more than {max_bytes / 1e9:.3g} GB", _SMALLER
            )
    if len(places) > start:
        yield start, len(places)


def _check_found(clips: Sequence[Footage], skipped: Sequence[str], runs: int) -> None:
    if runs:
        return
    where = clips[0].name if len(clips) == 1 else f"{clips[0].name} and {len(clips) - 1} more"
    if skipped:
        raise InputError(where, f"nothing could be read; the first fault was: {skipped[0]}")
    raise InputError(where, "no two frames in a row show motion in one scene")
