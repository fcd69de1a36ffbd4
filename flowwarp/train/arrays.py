"""Arrays on disk that are filled bit by bit, over several calls if need be."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowwarp.errors import OutputError
from flowwarp.io.atomic import rename
from flowwarp.io.cache import launched, make_room, making, use
from flowwarp.io.files import check_room, reason
from flowwarp.train.memory import freed_memory_kept

_CHUNK = 16  # rows that are marked as done together

CAPTION = 2048  # bytes that are kept of one: more than 256 tokens, the most that are used, have

Kind = tuple[tuple[int, ...], type[np.generic]]  # shape and numbers of a row


def pack_caption(caption: str) -> NDArray[np.uint8]:
    """Return the first bytes of a caption, (``CAPTION``,), filled up with zeros."""
    text = caption.encode("utf-8", "replace")[:CAPTION].ljust(CAPTION, b"\0")
    return np.frombuffer(text, np.uint8)


def unpack_caption(row: NDArray[np.uint8]) -> str:
    """Return the caption that :func:`pack_caption` packed."""
    text: bytes = row.tobytes()
    return text.rstrip(b"\0").decode("utf-8", "ignore")


def fill_arrays(
    folder: Path,
    rows: Mapping[str, Kind],
    count: int,
    make: Callable[[int], Mapping[str, NDArray[Any]]],
    *,
    problem: str,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fill arrays in the cache row by row; a second call is free, and a stopped one goes on.

    Args:
        folder: for ``NAME.npy`` of each array.
        rows: what a row of each array is.
        count: how many.
        make: from the number of a row to that row of each array, in threads side by side.
        problem: what to say where another process is at it.
        progress: called with (rows done, rows in all), of a new folder before it takes space.

    Raises:
        OutputError: the arrays cannot be written.
        Locked: another process is at it. Of those that train together one fills them, and the
            others find them filled.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with making(folder, problem), freed_memory_kept():
            _fill(folder, rows, count, make, progress)
            use(folder)
    except OutputError:
        raise
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault


def _fill(
    folder: Path,
    rows: Mapping[str, Kind],
    count: int,
    make: Callable[[int], Mapping[str, NDArray[Any]]],
    progress: Callable[[int, int], None] | None,
) -> None:
    new = not (folder / "done.npy").exists()
    if new:
        size = count * sum(math.prod(shape) * kind(0).nbytes for shape, kind in rows.values())
        check_room(folder, size, f"ask for fewer than {count}")
        if progress:
            progress(0, count)
    arrays = {
        name: open_array(folder / f"{name}.npy", (count, *shape), kind)
        for name, (shape, kind) in rows.items()
    }
    done = open_array(folder / "done.npy", (count,), np.uint8)
    if new:
        make_room(folder.parent)

    def fill(number: int) -> None:
        for name, row in make(number).items():
            arrays[name][number] = row

    waiting = [number for number in range(count) if not done[number]]
    # Side by side: a row is too small for its sums to be shared out among threads.
    threads = torch.get_num_threads()
    workers = _cores() if _waited_for() else threads
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for start in range(0, len(waiting), _CHUNK):
                chunk = waiting[start : start + _CHUNK]
                list(pool.map(fill, chunk))
                for array in arrays.values():
                    array.flush()  # what is marked as done is on the disk
                done[chunk] = 1
                if progress:
                    progress(count - len(waiting) + start + len(chunk), count)
    finally:
        torch.set_num_threads(threads)  # else every thread that is begun from now on has one
    done.flush()


def _waited_for() -> bool:
    """Say whether torchrun gave this process one thread: while it fills, the others are idle."""
    threads = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    return launched() > 1 and threads == ("1", 1)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_array(path: Path, shape: tuple[int, ...], kind: type[np.generic]) -> np.memmap:
    """Open an array on disk, made of zeros if it is not there.

    Args:
        path: a ``.npy`` file.
        shape: of the array.
        kind: of its numbers.

    Raises:
        OutputError: what is there is another array, or a broken one.
        OSError: it cannot be made; of a full disk, before anything is written.
    """
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        try:
            np.lib.format.open_memmap(part, "w+", kind, shape).flush()
            _take_space(part)
            rename(part, path)
        finally:
            part.unlink(missing_ok=True)
    try:
        found = np.lib.format.open_memmap(path, "r")  # r+ would make a short file longer
    except ValueError as fault:  # cut short
        raise OutputError(path, f"is broken ({fault})", "remove its folder") from fault
    if found.shape != shape or found.dtype != kind:
        raise OutputError(path, "holds another array", "remove its folder")
    return np.lib.format.open_memmap(path, "r+")


def _take_space(path: Path) -> None:
    """Give a file all its blocks.

    Else it has them only as pages are written, and a page for which the disk has no room ends the
    process by SIGBUS.
    """
    size = path.stat().st_size
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        file.seek(np.lib.format.open_memmap(path, "r").offset)
        block = bytes(2**20)
        while (left := size - file.tell()) > 0:
            file.write(block[:left])
