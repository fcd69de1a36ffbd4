"""Frames in a cache folder, memory-mapped and read as windows of neighbouring frames.

A store is a folder of three files: ``frames.bin`` holds the pixels, ``index.npz`` the offset and
size of each frame and the runs of frames that follow one another, ``about.json`` where they come
from.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, final
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.bundled import cache_folder
from flowwarp.errors import InputError, OutputError
from flowwarp.io.atomic import rename, sync_file, sync_folder
from flowwarp.io.cache import lock_entry, make_room, mark_used
from flowwarp.io.files import reason
from flowwarp.tensors import check_whole

_LOG = logging.getLogger(__name__)
_MAX_AGE = 24 * 3600  # s; unfinished folders of killed processes are removed after that


@final
class FrameStore:
    """Windows of neighbouring frames in a cache folder: pairs by default.

    ``store[i]`` is a tuple of uint8 RGB tensors (3, H, W) in order of time. All frames of a window
    have the same size; those of different clips may differ. Only the pages that are accessed are
    read from disk. A store can be pickled for the workers of a ``DataLoader``.

    Args:
        folder: written by :func:`write_store`.
        frames: number of frames in a window.

    Raises:
        InputError: the folder is incomplete.
    """

    def __init__(self, folder: Path, frames: int = 2) -> None:
        check_whole(frames, "frames", 1)
        self.folder, self.frames = folder, frames
        mark_used(folder)
        self._places, runs, about = _read_index(folder)
        self._pixels = np.memmap(folder / "frames.bin", np.uint8, "r")
        self.skipped: tuple[str, ...] = tuple(about["skipped"])
        self._clips: tuple[str, ...] = tuple(about["clips"])
        # A run (start, stop, clip) of n frames holds n - (frames - 1) windows.
        counts = np.maximum(runs[:, 1] - runs[:, 0] - (frames - 1), 0)
        self._firsts = np.concatenate(
            [np.arange(n) + start for start, n in zip(runs[:, 0], counts, strict=True)]
        ).astype(np.int64)
        self._sources = np.repeat(runs[:, 2], counts)

    def windows(self, frames: int) -> FrameStore:
        """Return the same footage as windows of ``frames`` frames: 3 gives triplets."""
        return FrameStore(self.folder, frames)

    def clip(self, index: int) -> str:
        """Return the name of the clip that a window comes from: a folder, video or first frame."""
        return self._clips[self.source(index)]

    def source(self, index: int) -> int:
        """Return the number of the clip that a window comes from."""
        return int(self._sources[index])

    def __len__(self) -> int:
        return len(self._firsts)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        first = self._firsts[index]
        return tuple(self._frame(first + k) for k in range(self.frames))

    def __reduce__(self) -> tuple[type[FrameStore], tuple[Path, int]]:
        # Pickled by name: a memory map would be copied whole.
        return FrameStore, (self.folder, self.frames)

    def _frame(self, number: int) -> Tensor:
        offset, height, width = self._places[number]
        pixels = np.array(self._pixels[offset : offset + 3 * height * width])
        return torch.from_numpy(pixels).view(3, int(height), int(width))


def _read_index(folder: Path) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    """Return places (N, 3), runs (M, 3) and the table of a store; see :data:`Index`.

    Raises:
        InputError: the store is incomplete, as after a power cut or on a full disk.
    """
    try:
        with (folder / "index.npz").open("rb") as file, np.load(file) as index:
            places, runs = index["places"], index["runs"]
        about = json.loads((folder / "about.json").read_text("utf-8"))
        offset, height, width = places[-1]
        if (folder / "frames.bin").stat().st_size != offset + 3 * height * width:
            raise ValueError("its frames are not all there")
        return places, runs, {"clips": about["clips"], "skipped": about["skipped"], **about}
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, BadZipFile) as fault:
        raise InputError(folder, f"is broken ({fault})", "remove it: it is made again") from fault


def store_folder(cache: str | Path | None) -> Path:
    """Return the folder in which prepared footage is cached.

    Args:
        cache: the folder; None for ``FLOWWARP_CACHE_DIR``, else ``flowwarp`` in ``XDG_CACHE_HOME``
            or ``~/.cache``.

    Raises:
        OutputError: ``cache`` is None, and this machine has no such folder.
    """
    folder = Path(cache) if cache is not None else cache_folder()
    if folder is None:
        raise OutputError("cache", "there is no folder for it", "set FLOWWARP_CACHE_DIR")
    return folder


# For each frame (offset in bytes, height, width); for each run of neighbouring frames (first frame,
# last frame + 1, number of the clip); and the content of about.json: at least the names of the
# clips, and the messages about what was skipped.
Index = tuple[list[tuple[int, int, int]], list[tuple[int, int, int]], dict[str, list[str]]]


def write_store(target: Path, fill: Callable[[BinaryIO], Index]) -> None:
    """Write a folder for :class:`FrameStore` atomically: it is complete or not there.

    Args:
        target: the folder; if another process writes it meanwhile, that process's folder remains.
        fill: writes the frames, uint8 (3, H, W) each, and returns their index.

    Raises:
        OutputError: the folder cannot be written.
        Locked: another process writes it, and was not started together with this one.
    """
    root, name = target.parent, f".{target.name}.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
    except OSError as fault:
        raise OutputError(root, reason(fault)) from fault
    with lock_entry(root, "another process prepares this footage", name=name):
        try:
            if not is_complete(target):
                if target.is_dir():  # renamed, so that it is removed as abandoned
                    target.rename(target.with_name(f".pairs-{secrets.token_hex(6)}"))
                _write_store(target, fill)
                mark_used(target)
                make_room(root)
        finally:
            with suppress(OSError):  # Windows refuses while waiting processes have it open
                (root / name).unlink()


def is_complete(target: Path) -> bool:
    """Return whether a folder holds all files of :func:`write_store`; log broken ones."""
    if not target.is_dir():
        return False
    try:
        _read_index(target)
    except InputError as fault:
        _LOG.warning("%s", fault)
        return False
    return True


def _write_store(target: Path, fill: Callable[[BinaryIO], Index]) -> None:
    try:
        work = Path(tempfile.mkdtemp(prefix=".pairs-", dir=target.parent))
    except OSError as fault:
        raise OutputError(target.parent, reason(fault)) from fault
    try:
        with (work / "frames.bin").open("wb") as file:
            places, runs, about = fill(file)
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        np.savez(work / "index.npz", places=np.array(places), runs=np.array(runs))
        (work / "about.json").write_text(json.dumps(about), "utf-8")
        for name in ("index.npz", "about.json"):
            sync_file(work / name)
        sync_folder(work)
        try:
            rename(work, target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster
                raise
        sync_folder(target.parent)
    except OutputError:
        raise
    except OSError as fault:
        raise OutputError(target, reason(fault)) from fault
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _LOG.info("%d frames, %.0f MB, in %s", len(places), size / 1e6, target)


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(".pairs-*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _MAX_AGE:
                shutil.rmtree(path, ignore_errors=True)
