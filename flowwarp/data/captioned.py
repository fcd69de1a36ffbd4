"""Users' captioned videos as clips, prepared once and memory-mapped from then on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, final

import torch

from flowwarp.data.captioned_duplicates import files_of
from flowwarp.data.captioned_files import list_captioned
from flowwarp.data.captioned_tar import CaptionedVideo, open_video, skip
from flowwarp.data.clip import Clip, clip_without_flow
from flowwarp.data.frame_store import FrameStore, Index, is_complete, store_folder, write_store
from flowwarp.data.resizing import middle_part
from flowwarp.errors import InputError, OutputError
from flowwarp.io.video_reader import read_video
from flowwarp.tensors import check_whole

_LOG = logging.getLogger(__name__)
_VERSION = 3  # of the cache; part of its key


@final
class CaptionedStore:
    """Windows of captioned videos in a cache folder, as clips without flow.

    It can be pickled for the workers of a DataLoader.

    Args:
        folder: written by :func:`load_captioned`.
        frames: number of frames in a window.
    """

    def __init__(self, folder: Path, frames: int) -> None:
        self._store = FrameStore(folder, frames)
        about = json.loads((folder / "about.json").read_text("utf-8"))
        self._captions: list[str] = about["captions"]
        self.skipped: tuple[str, ...] = self._store.skipped

    @property
    def key(self) -> str:
        """Changes with the files, their captions, and the size of the frames."""
        return self._store.folder.name

    def name(self, index: int) -> str:
        """Return the name of the video that a window comes from; of identical files the first."""
        return self._store.clip(index)

    def caption(self, index: int) -> str:
        """Return the caption of the video that a window comes from."""
        return self._captions[self.row(index)]

    def row(self, index: int) -> int:
        """Return the number of the window's entry; a video listed twice has two entries."""
        return self._store.source(index)

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> Clip:
        video = torch.stack(self._store[index])
        return clip_without_flow(video, self.caption(index))

    def __reduce__(self) -> tuple[type[CaptionedStore], tuple[Path, int]]:
        return CaptionedStore, (self._store.folder, self._store.frames)


def load_captioned(
    source: str | Path,
    size: int | tuple[int, int] = 64,
    frames: int = 16,
    *,
    step: int = 1,
    captions: str | Path | None = None,
    cache: str | Path | None = None,
    max_bytes: int = 32 * 2**30,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionedStore:
    """Prepare captioned videos; a second call with the same files is free.

    The largest part in the middle of each frame that has the aspect of ``size`` is resized to it. A
    video that cannot be read, has no caption, or is shorter than a window is left out; the store's
    ``skipped`` lists them.

    Args:
        source: a folder (see :mod:`flowwarp.data.captioned_files`), or a tar file.
        size: (height, width) of the frames, in pixels; a number is both.
        frames: number of frames in a window.
        step: every so many frames of a video one is used, from the first.
        captions: as in :func:`flowwarp.data.captioned_files.list_captioned`.
        cache: where the frames are stored; see :func:`flowwarp.data.frame_store.store_folder`.
        max_bytes: limit of this data on disk.
        progress: called with (videos done, videos in all).

    Raises:
        InputError: there is no captioned video, a table or tar file is broken, or no video is
            left.
        OutputError: the cache cannot be written, or would grow beyond ``max_bytes``.
        ValueError: ``size``, ``frames`` or ``step`` is not a whole number of at least 1.
    """
    height, width = size if isinstance(size, tuple) else (size, size)
    for number, name in ((height, "size"), (width, "size"), (frames, "frames"), (step, "step")):
        check_whole(number, name, 1)
    skipped: list[str] = []
    videos = list_captioned(source, skipped, captions)
    layout = _Layout((height, width), frames, step, max_bytes)
    folder = store_folder(cache) / f"captioned-{_key(videos, layout)}"
    if not is_complete(folder):

        def fill(file: BinaryIO) -> Index:
            return _fill(file, videos, layout, skipped, progress)

        write_store(folder, fill)
    store = CaptionedStore(folder, frames)
    logged = set(skipped)
    for fault in store.skipped:
        if fault not in logged:  # logged when the folder was filled, but not now
            _LOG.warning("skipped %s", fault)
    return store


def count_captioned(source: str | Path, captions: str | Path | None = None) -> int:
    """Count the videos that :func:`load_captioned` would read; none is decoded.

    Raises:
        InputError: there is none, or a table or tar file is broken.
    """
    return len(list_captioned(source, [], captions))


@dataclass(frozen=True)
class _Layout:
    """What is stored: (height, width) in pixels, frames in a window, frame step, limit of bytes."""

    size: tuple[int, int]
    frames: int
    step: int
    max_bytes: int


def _key(videos: Sequence[CaptionedVideo], layout: _Layout) -> str:
    about = (_VERSION, layout.size, layout.frames, layout.step)
    digest = hashlib.sha256(repr(about).encode())
    for video in videos:
        digest.update(repr((video.member, video.caption, video.original)).encode())
        for path in files_of(video):
            status = path.stat()
            state = (os.fsencode(path.absolute()), status.st_mtime_ns, status.st_size)
            digest.update(repr(state).encode())
    return digest.hexdigest()[:20]


def _fill(
    file: BinaryIO,
    videos: Sequence[CaptionedVideo],
    layout: _Layout,
    skipped: list[str],
    progress: Callable[[int, int], None] | None,
) -> Index:
    """Write the frames of all videos, (3, H, W) uint8 each, and return their index."""
    places: list[tuple[int, int, int]] = []
    runs: list[tuple[int, int, int]] = []
    for number, video in enumerate(videos):
        first = len(places)
        try:
            _write_frames(file, video, layout, places)
        except InputError as fault:  # the frames before the damage are used
            cause = str(fault).removeprefix(f"{fault.source}: ")
            skip(f"{video.name}: {cause}" if video.member else str(fault), skipped)
        count = len(places) - first
        if count >= layout.frames:
            runs.append((first, len(places), number))
        elif count:
            counted = f"frames at a step of {layout.step}" if layout.step > 1 else "frames"
            skip(f"{video.name}: has {count} {counted}, not {layout.frames}", skipped)
            file.seek(places[first][0])
            file.truncate()
            del places[first:]
        if progress:
            progress(number + 1, len(videos))
    if not runs:
        raise InputError(
            videos[0].file.parent, f"no video is of use; the first fault: {skipped[0]}"
        )
    about = {
        "clips": [video.original or video.name for video in videos],
        "captions": [video.caption for video in videos],
        "skipped": skipped,
    }
    return places, runs, about


def _write_frames(
    file: BinaryIO, video: CaptionedVideo, layout: _Layout, places: list[tuple[int, int, int]]
) -> None:
    """Write the frames of a video; append the place of each as soon as it is written.

    Raises:
        InputError: the video cannot be read, or only in part.
        OutputError: the limit of bytes is exceeded.
    """
    with open_video(video) as path:
        for frame in islice(read_video(path), None, None, layout.step):
            places.append((file.tell(), *layout.size))
            file.write(middle_part(frame, layout.size).numpy().tobytes())
            if file.tell() > layout.max_bytes:
                raise OutputError(
                    file.name,
                    f"the frames need more than {layout.max_bytes / 1e9:.3g} GB",
                    "lower the size or raise max_bytes",
                )
