"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowwarp.errors import OutputError
from flowwarp.io.files import check_regular, reason
from flowwarp.io.locks import POLL, lock_now

_PATIENCE = 5  # s that Windows has to let a file be renamed


@contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what is written there appears whole, or not at all.

    The name keeps the extension, since muxers choose their format by it. On leaving the block the
    file is flushed to disk and renamed; on any exception it is removed. A link is followed, so
    that its target is replaced rather than the link. A file that is replaced leaves its permissions
    to the new one. A file that came to be within the block is not replaced: nobody was asked.

    Raises:
        OutputError: the folder is missing or not writable, the disk is full, ``path`` is something
            other than a regular file, or there is one by now, or on Windows a program has it open;
            what was written then stays under a temporary name.
    """
    target = Path(os.path.realpath(path))
    try:
        check_regular(path)
        replaces = os.path.lexists(target)
        with _temporary_file(target) as temporary:
            yield temporary
            sync_file(temporary)
            if replaces:
                with suppress(OSError):  # it is gone, or the file system knows no permissions
                    temporary.chmod(stat.S_IMODE(target.stat().st_mode))
                with _kept_if_refused(temporary, path):
                    rename(temporary, target)
            else:
                with _kept_if_refused(temporary, path):
                    _name_new(temporary, target)
            sync_folder(target.parent)
    except OutputError:
        raise
    except OSError as fault:
        raise OutputError(path, reason(fault)) from fault


class _Kept(OutputError):
    """A result cannot have its name; it stays under the temporary one, ``kept``."""

    def __init__(self, path: str | Path, problem: str, kept: Path) -> None:
        super().__init__(path, problem, f"the result is {kept}")
        self.kept = kept


@contextmanager
def _kept_if_refused(temporary: Path, path: str | Path) -> Iterator[None]:
    """Say where a result is that took long and cannot have its name."""
    try:
        yield
    except FileExistsError as fault:
        raise _Kept(path, "exists by now", temporary) from fault
    except PermissionError as fault:
        if sys.platform != "win32":
            raise
        raise _Kept(path, reason(fault), temporary) from fault


def rename(source: Path, target: Path) -> None:
    """Rename a file or a folder that is finished; a file or an empty folder there is replaced.

    Windows renames and replaces nothing that a program has open, which one that looks for viruses
    has for a moment: there it is tried for ``_PATIENCE``.

    Raises:
        OSError: it cannot be renamed.
    """
    end = time.monotonic() + _PATIENCE
    while sys.platform == "win32" and time.monotonic() < end:
        with suppress(OSError):  # only an empty folder goes
            target.rmdir()
        with suppress(PermissionError):
            source.replace(target)
            return
        time.sleep(POLL)
    source.replace(target)


def _name_new(temporary: Path, target: Path) -> None:
    """Name a file what no other is named.

    Raises:
        FileExistsError: there is one.
    """
    try:
        os.link(temporary, target)  # a rename would replace what is there
    except FileExistsError:
        raise
    except (OSError, AttributeError, NotImplementedError):  # a file system or Python without links
        if os.path.lexists(target):
            raise FileExistsError from None
        rename(temporary, target)
    else:
        with suppress(PermissionError):  # open for a moment on Windows; it has its name already
            temporary.unlink()


@contextmanager
def _temporary_file(target: Path) -> Iterator[Path]:
    """Give an empty file beside ``target``, locked until it is renamed or removed at the end.

    It is not removed on `_Kept`.
    """
    while True:
        temporary = _temporary_beside(target)
        kept = False
        with temporary.open("x") as file:
            try:
                if sys.platform == "win32":
                    file.close()  # nothing that is open can be renamed there
                else:
                    import fcntl

                    with suppress(OSError):  # not every file system has locks
                        fcntl.flock(file, fcntl.LOCK_EX)
                    if os.fstat(file.fileno()).st_nlink == 0:  # taken for abandoned before that
                        continue
                yield temporary
            except _Kept as fault:
                kept = fault.kept == temporary
                raise
            finally:
                if not kept:
                    with suppress(OSError):
                        temporary.unlink()
        return


def _temporary_beside(target: Path) -> Path:
    return target.with_name(f"{_temporary_name()}{target.suffix.lower()}")


def _temporary_name() -> str:
    return f".flowwarp-{secrets.token_hex(6)}"


def remove_abandoned(path: Path) -> None:
    """Remove what `atomic_output` left as its process was killed; what is being written stays.

    Args:
        path: matches ``.flowwarp-*``. On Windows, which removes nothing that is open, it stays.
    """
    with suppress(OSError), path.open("rb+") as file:  # locked, a folder, or gone by now
        lock_now(file)
        path.unlink()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``, which appears there whole, or not at all.

    A link is followed. A folder that cannot be replaced gets what is in the temporary one, file by
    file at the end.

    Raises:
        OutputError: ``path`` is something other than an empty folder, or cannot be written. Where
            on Windows a program has something of it open, what was written stays.
    """
    target = Path(os.path.realpath(path))
    temporary = target.parent / _temporary_name()
    kept = False
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputError(path, "exists and is not an empty folder", "name a new one")
        temporary = _make_folder(temporary, target)
        yield temporary
        with _kept_if_refused(temporary, path):
            if temporary.parent == target:
                for part in sorted(temporary.iterdir()):
                    rename(part, target / part.name)
            else:
                rename(temporary, target)
        sync_folder(temporary.parent)
    except OutputError as fault:
        kept = isinstance(fault, _Kept) and fault.kept == temporary
        cause = fault.__cause__
        if isinstance(cause, OSError) and Path(fault.target).is_relative_to(temporary):
            raise OutputError(path, reason(cause)) from cause  # nobody knows the name it has
        raise
    except OSError as fault:
        raise OutputError(path, reason(fault)) from fault
    finally:
        if not kept:
            shutil.rmtree(temporary, ignore_errors=True)


def _make_folder(beside: Path, target: Path) -> Path:
    """Make a folder beside ``target``; or in it, where that is there and cannot be replaced.

    So it is with a mount point, and where nothing may be written above: what is made in it cannot
    be moved out. And whoever is in the current folder would be in one that is gone.
    """
    if not target.exists():
        beside.mkdir()
        return beside
    inside = target / beside.name
    inside.mkdir()
    with suppress(OSError):
        if target != Path.cwd():
            return inside.rename(beside)
    return inside


def sync_file(path: Path) -> None:
    """Have a file on the disk, not only on its way there.

    Raises:
        OSError: it cannot be written.
    """
    _flush(path, os.O_RDWR)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` outlast a power cut, where the file system can."""
    with suppress(OSError):
        _flush(folder, os.O_RDONLY)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
