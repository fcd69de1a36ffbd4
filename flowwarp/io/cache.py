"""Prepared data on disk: who makes it, who reads it, and what goes when there is too much of it.

A folder below the cache is one piece of it. Whoever reads it holds the file ``.used`` in it until
the process ends; when that was done last says how long nobody has needed it.
"""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import shutil
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from flowwarp.errors import InputError, Locked
from flowwarp.io.locks import lock

LIMIT = 2**35  # bytes; as much as `prepare_pairs` makes of one set of footage

_LOG = logging.getLogger(__name__)
_USED = ".used"
# What a folder of ours is called: by what it holds, and a digest of what that was made from.
_NAME = re.compile("(pairs|captioned|fitted|tokens|clips|revisions)-[0-9a-f]{20}")
_IN_USE: set[Path] = set()


def making(folder: Path, problem: str, *, name: str = ".lock") -> AbstractContextManager[None]:
    """Let one process make something; those that ``torchrun`` started with it wait.

    Args:
        folder: as for :func:`flowwarp.io.locks.lock`.
        problem: likewise.
        name: likewise.

    Raises:
        Locked: a process that was started by itself is at it.
        OutputError: the file cannot be made.
    """
    return lock(folder, problem, "wait for it", name=name, wait=launched() > 1)


def launched() -> int:
    """Return how many processes were started together; 1 without torchrun.

    Raises:
        InputError: the environment says something that torchrun does not.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):  # int() takes at most 4300 digits
        raise InputError("WORLD_SIZE", f"must be a number of processes, got {text[:40]!r}")
    return int(text)


def use(folder: Path) -> None:
    """Note that a folder is in use, until this process ends."""
    path = folder.absolute() / _USED
    with suppress(OSError):  # a cache that can only be read is not cleared either
        if path not in _IN_USE:
            # Never closed: the system lets go when the process ends, however it ends.
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            if sys.platform != "win32":  # which does not remove what is open
                import fcntl

                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            _IN_USE.add(path)
        os.utime(path)


def make_room(root: Path) -> None:
    """Remove what was not needed for longest until prepared data takes no more than the limit.

    That is ``FLOWWARP_CACHE_LIMIT`` in bytes, or ``LIMIT``. What is being made or in use stays.

    Args:
        root: the cache.

    Raises:
        InputError: the limit is not a number.
    """
    text = os.environ.get("FLOWWARP_CACHE_LIMIT") or str(LIMIT)
    try:
        limit = float(text)
        if math.isnan(limit):
            raise ValueError(text)
    except ValueError as fault:
        problem = f"must be a number of bytes, got {text!r}"
        raise InputError("FLOWWARP_CACHE_LIMIT", problem) from fault
    folders = [path for path in root.glob("*-*") if _is_ours(path)]
    sizes = {folder: _size(folder) for folder in folders}
    excess = sum(sizes.values()) - limit
    for folder in sorted(folders, key=_last_use):
        if excess <= 0:
            return
        if _remove(folder):
            excess -= sizes[folder]
            _LOG.warning(
                "removed %s, %.1f GB: prepared data exceeds the limit", folder, sizes[folder] / 1e9
            )


def _is_ours(path: Path) -> bool:
    """Return whether it is a folder of prepared data, not one that a user keeps beside them.

    A folder that was made whole has been used, and one that is filled bit by bit was locked.
    """
    if not _NAME.fullmatch(path.name):
        return False
    return any((path / mark).is_file() for mark in (_USED, ".lock"))


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # it has just gone
            size += path.stat().st_size
    return size


def _last_use(folder: Path) -> float:
    for path in (folder / _USED, folder):
        with suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _remove(folder: Path) -> bool:
    """Remove a folder unless a process makes or uses it; return whether it is gone."""
    gone = folder.with_name(f".pairs-{secrets.token_hex(6)}")  # left behind, it counts as abandoned
    try:
        for name in (".lock", _USED):
            with lock(folder, "is in use", name=name):
                pass  # let go before it is moved: Windows moves nothing that is open
        folder.rename(gone)
    except (Locked, OSError):
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True
