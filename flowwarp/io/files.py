"""Opening of input files, and checks of paths and of disk space."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from flowwarp.errors import InputError, OutputError


@contextmanager
def open_input(path: str | Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file for reading; yield the file and its size in bytes.

    Raises:
        InputError: missing, empty, unreadable, not a regular file (a pipe would block, and has no
            size to compare a header with), or a disk error within the block.
    """
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(path, "is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(path, "is not a regular file", "save it to disk first")
        if status.st_size == 0:
            raise InputError(path, "is empty")
        file = Path(path).open("rb")  # noqa: SIM115 - closed below
    except OSError as fault:
        raise InputError(path, reason(fault)) from fault
    except ValueError as fault:
        if isinstance(fault, InputError):
            raise
        raise InputError(path, str(fault)) from fault  # a null byte in the name
    with file:
        try:
            yield file, status.st_size
        except OSError as fault:
            if isinstance(fault, OutputError):
                raise
            raise InputError(path, reason(fault)) from fault


def check_room(folder: str | Path, size: int, remedy: str) -> None:
    """Check that the disk of a folder has enough free space.

    Args:
        folder: must exist.
        size: space that is needed, in bytes.
        remedy: what the user can do, besides freeing space.

    Raises:
        OutputError: there is less.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OutputError(
            folder,
            f"this takes up to {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free",
            f"free some space, or {remedy}",
        )


def check_regular(path: str | Path) -> None:
    """Check that an output is a regular file, if it exists; a pipe would block.

    Raises:
        OutputError: it is a folder or a special file.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(path, "is a folder, not a file")
    if path.exists() and not path.is_file():
        raise OutputError(path, "is not a regular file")


def fold_case(name: str | Path) -> str:
    """Return a key that is equal for names that are the same file on this system.

    The file systems of Windows and macOS ignore case.
    """
    return str(name).casefold() if sys.platform in ("win32", "darwin") else str(name)


def nearest_existing(path: str | Path) -> Path:
    """Return a path if it exists, else its nearest parent that exists.

    Raises:
        OSError: it cannot be accessed.
    """
    path = Path(path)
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def is_writable(folder: Path) -> bool:
    """Return whether a path is a folder in which files can be made; makes none."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def reason(fault: OSError) -> str:
    """Return the system's error message in lower case, without the error number."""
    return (fault.strerror or str(fault)).lower()
