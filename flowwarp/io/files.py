"""Opening files, and checks of paths and of disks before work begins."""

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
    """Open a file for reading and say how many bytes it has.

    Raises:
        InputError: no such file, not a regular file (a pipe would block, and has no size to check
            a header against), empty, unreadable, or an error of the disk while it is read.
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
    """Check that the disk of a folder has room for so many bytes.

    Args:
        folder: one that exists.
        size: in bytes.
        remedy: what the user can do besides freeing some.

    Raises:
        OutputError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OutputError(
            folder,
            f"this takes up to {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free",
            f"free some space, or {remedy}",
        )


def check_regular(path: str | Path) -> None:
    """Refuse to go on with, or to replace, what is no regular file; a pipe would block, say.

    Raises:
        OutputError: it is there, and is something else.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(path, "is a folder, not a file")
    if path.exists() and not path.is_file():
        raise OutputError(path, "is not a regular file")


def folded(name: str | Path) -> str:
    """Return what names share that are one name to the disks of Windows and macOS."""
    return str(name).casefold() if sys.platform in ("win32", "darwin") else str(name)


def nearest(path: str | Path) -> Path:
    """Return a path if it exists, else the nearest above it that does.

    Raises:
        OSError: it cannot be looked at.
    """
    path = Path(path)
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def is_writable(folder: Path) -> bool:
    """Return whether it is a folder in which files can be made; makes none."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def reason(fault: OSError) -> str:
    """Say what the system said, without its number."""
    return (fault.strerror or str(fault)).lower()
