"""Arrays on disk that are filled bit by bit, over several calls if need be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from flowwarp.errors import OutputError


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
            part.rename(path)
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
