"""The cache of prepared training data: locks while it is made or used, and a limit of its size.

Each folder in the cache is one entry. A process that reads an entry locks the file ``.used`` in it
until the process ends. The time of that file is the time of last use.
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

LIMIT = 2**35  # bytes; `prepare_pairs` makes no more than that of one set of footage

_LOG = logging.getLogger(__name__)
_USED = ".used"
# Name of an entry: what it contains, and a digest of what it was made from.
_NAME = re.compile("(pairs|captioned|fitted|tokens|clips|revisions)-[0-9a-f]{20}")
_IN_USE: set[Path] = set()


def lock_entry(folder: Path, problem: str, *, name: str = ".lock") -> AbstractContextManager[None]:
    """Lock an entry while this process makes it; processes of one ``torchrun`` wait for each other.

    Args:
        folder: of the entry.
        problem: the message if another process has the lock.
        name: of the lock file.

    Raises:
        Locked: a process of another command makes it.
        OutputError: the lock file cannot be made.
    """
    return lock(folder, problem, "wait for it", name=name, wait=process_count() > 1)


def process_count() -> int:
    """Return the number of processes that torchrun has started; 1 without torchrun.

    Raises:
        InputError: ``WORLD_SIZE`` is not a positive number.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):  # int() takes at most 4300 digits
        raise InputError("WORLD_SIZE", f"must be a number of processes, got {text[:40]!r}")
    return int(text)


def mark_used(folder: Path) -> None:
    """Mark an entry as in use until this process ends."""
    path = folder.absolute() / _USED
    with suppress(OSError):  # a read-only cache; no process can remove entries from it either
        if path not in _IN_USE:
            # Never closed: the system releases the lock when the process ends.
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            if sys.platform != "win32":  # which does not remove open files anyway
                import fcntl

                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            _IN_USE.add(path)
        os.utime(path)


def make_room(root: Path) -> None:
    """Remove the least recently used entries until the cache is no larger than its limit.

    The limit is ``FLOWWARP_CACHE_LIMIT`` in bytes, or ``LIMIT``. Entries that are being made or are
    in use stay.

    Args:
        root: folder of the cache.

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
    """Return whether a folder is an entry of the cache, not a folder of the user.

    A finished entry contains ``.used``, an unfinished one ``.lock``.
    """
    if not _NAME.fullmatch(path.name):
        return False
    return any((path / mark).is_file() for mark in (_USED, ".lock"))


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # another process has just removed it
            size += path.stat().st_size
    return size


def _last_use(folder: Path) -> float:
    for path in (folder / _USED, folder):
        with suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _remove(folder: Path) -> bool:
    """Remove an entry unless a process makes or uses it; return whether it is removed."""
    # If this process is killed, a folder of this name is removed later as abandoned.
    gone = folder.with_name(f".pairs-{secrets.token_hex(6)}")
    try:
        for name in (".lock", _USED):
            with lock(folder, "is in use", name=name):
                pass  # released before the folder is renamed: Windows renames no open files
        folder.rename(gone)
    except (Locked, OSError):
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True
