"""Arrays on disk that are filled row by row, over several calls if necessary."""

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
from flowwarp.io.cache import lock_entry, make_room, mark_used, process_count
from flowwarp.io.files import check_room, reason
from flowwarp.train.memory import freed_memory_kept

_CHUNK = 16  # rows that are marked as done together

CAPTION = 2048  # bytes stored of a caption: enough for the 256 tokens that are used at most

Kind = tuple[tuple[int, ...], type[np.generic]]  # shape and dtype of a row


def pack_caption(caption: str) -> NDArray[np.uint8]:
    """Return the first bytes of a caption, (``CAPTION``,), padded with zeros."""
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
    """Fill arrays in the cache row by row; a second call returns at once, a stopped one resumes.

    Args:
        folder: where ``NAME.npy`` of each array is.
        rows: shape and dtype of a row of each array, by name.
        count: number of rows.
        make: from the number of a row to that row of each array; threads call it in parallel.
        problem: the message if another process fills them.
        progress: called with (rows done, rows in all); for a new folder first with 0, before any
            space is allocated.

    Raises:
        OutputError: the arrays cannot be written.
        Locked: another process fills them. (Of processes that train together one fills them, and
            the others wait.)
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_entry(folder, problem), freed_memory_kept():
            _fill(folder, rows, count, make, progress)
            mark_used(folder)
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
    # Rows in parallel, each on one thread: a row is too small for torch to split its sums.
    threads = torch.get_num_threads()
    workers = _cores() if _others_wait() else threads
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for start in range(0, len(waiting), _CHUNK):
                chunk = waiting[start : start + _CHUNK]
                list(pool.map(fill, chunk))
                for array in arrays.values():
                    array.flush()  # rows must be on the disk before they are marked as done
                done[chunk] = 1
                if progress:
                    progress(count - len(waiting) + start + len(chunk), count)
    finally:
        torch.set_num_threads(threads)  # otherwise every later thread would have one
    done.flush()


def _others_wait() -> bool:
    """Whether torchrun gave this process one thread: the other processes are idle meanwhile."""
    threads = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    return process_count() > 1 and threads == ("1", 1)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_array(path: Path, shape: tuple[int, ...], kind: type[np.generic]) -> np.memmap:
    """Open an array on disk; if there is none, make one of zeros.

    Args:
        path: a ``.npy`` file.
        shape: shape of the array.
        kind: its dtype.

    Raises:
        OutputError: the file holds another array, or is broken.
        OSError: it cannot be made; if the disk is full, before anything is written.
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
    """Allocate all blocks of a file.

    Otherwise a block is allocated when its page is first written, and on a full disk that write
    ends the process by SIGBUS.
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
