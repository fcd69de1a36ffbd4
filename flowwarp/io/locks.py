"""Locks on folders, by which a process excludes others."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from flowwarp.errors import Locked, OutputError
from flowwarp.io.files import reason

POLL = 0.1  # s between two attempts to lock, or to rename a file in use


@contextmanager
def lock(
    folder: str | Path,
    problem: str,
    remedy: str | None = None,
    *,
    name: str = ".lock",
    wait: bool = False,
) -> Iterator[None]:
    """Lock a folder by a file in it; the system releases the lock when the process ends.

    Args:
        folder: must exist.
        problem: the message if another process has the lock.
        remedy: what the user can do about it.
        name: of the lock file, which is not removed.
        wait: whether to wait until the lock is free.

    Raises:
        Locked: another process has the lock, and ``wait`` is not set.
        OutputError: the file cannot be made.
    """
    path = Path(folder, name)
    try:
        file = path.open("a+")
    except OSError as fault:
        raise OutputError(path, reason(fault)) from fault
    with file:
        while True:
            try:
                lock_now(file)
                break
            except (BlockingIOError, PermissionError) as fault:
                if not wait:
                    raise Locked(folder, problem, remedy) from fault
                time.sleep(POLL)
            except OSError as fault:
                raise OutputError(folder, f"cannot be locked: {reason(fault)}") from fault
        yield


def lock_now(file: IO[Any]) -> None:
    """Lock an open file until it is closed.

    Raises:
        BlockingIOError: another process holds it; on Windows, PermissionError.
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
