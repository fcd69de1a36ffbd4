"""Atomic writing: a file or folder appears complete under its name, or not at all."""

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

_RENAME_SECONDS = 5  # for which renaming is retried on Windows


@contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` that is renamed to ``path`` at the end of the block.

    The temporary name has the same extension, since muxers choose their format by it. At the end of
    the block the file is flushed to disk and renamed; on an exception it is removed. A link is
    followed: its target is replaced, not the link. A file that is replaced passes its permissions
    on. A file that another program creates during the block is not replaced.

    Raises:
        OutputError: the folder is missing or not writable, the disk is full, or ``path`` is not a
            regular file. Or a file was created there meanwhile, or on Windows a program has it
            open; the result then stays under the temporary name, which the message states.
    """
    target = Path(os.path.realpath(path))
    try:
        check_regular(path)
        replaces = os.path.lexists(target)
        with _temporary_file(target) as temporary:
            yield temporary
            sync_file(temporary)
            with _rename_errors(temporary, path):
                if replaces:
                    with suppress(OSError):  # it is gone, or the file system has no permissions
                        temporary.chmod(stat.S_IMODE(target.stat().st_mode))
                    rename(temporary, target)
                else:
                    _rename_to_new(temporary, target)
            sync_folder(target.parent)
    except OutputError:
        raise
    except OSError as fault:
        raise OutputError(path, reason(fault)) from fault


class _NotRenamed(OutputError):
    """A finished result that cannot be renamed and stays at ``temporary``."""

    def __init__(self, path: str | Path, problem: str, temporary: Path) -> None:
        super().__init__(path, problem, f"the result is {temporary}")
        self.temporary = temporary


@contextmanager
def _rename_errors(temporary: Path, path: str | Path) -> Iterator[None]:
    """Turn errors of renaming into :class:`_NotRenamed`, so that long work is not lost."""
    try:
        yield
    except FileExistsError as fault:
        raise _NotRenamed(path, "was created meanwhile", temporary) from fault
    except PermissionError as fault:
        if sys.platform != "win32":
            raise
        raise _NotRenamed(path, reason(fault), temporary) from fault


def rename(source: Path, target: Path) -> None:
    """Rename a finished file or folder; an existing file or empty folder is replaced.

    Windows does not rename or replace a file that a program has open, and a virus scanner opens new
    files for a moment. There it is retried for ``_RENAME_SECONDS``.

    Raises:
        OSError: it cannot be renamed.
    """
    end = time.monotonic() + _RENAME_SECONDS
    while sys.platform == "win32" and time.monotonic() < end:
        with suppress(OSError):  # removes an empty folder only
            target.rmdir()
        with suppress(PermissionError):
            source.replace(target)
            return
        time.sleep(POLL)
    source.replace(target)


def _rename_to_new(temporary: Path, target: Path) -> None:
    """Rename a file to a name that must not exist.

    Raises:
        FileExistsError: it exists.
    """
    try:
        os.link(temporary, target)  # renaming would replace an existing file
    except FileExistsError:
        raise
    except (OSError, AttributeError, NotImplementedError):  # a file system or Python without links
        if os.path.lexists(target):
            raise FileExistsError from None
        rename(temporary, target)
    else:
        with suppress(PermissionError):  # a scanner on Windows has it open; the link exists already
            temporary.unlink()


@contextmanager
def _temporary_file(target: Path) -> Iterator[Path]:
    """Yield an empty, locked file beside ``target``; it is removed at the end unless renamed.

    It is not removed on `_NotRenamed`. The lock shows `remove_abandoned` that it is in use.
    """
    while True:
        temporary = target.with_name(f"{_temporary_name()}{target.suffix.lower()}")
        stays = False
        with temporary.open("x") as file:
            try:
                if sys.platform == "win32":
                    file.close()  # an open file cannot be renamed there
                else:
                    import fcntl

                    with suppress(OSError):  # not every file system has locks
                        fcntl.flock(file, fcntl.LOCK_EX)
                    if os.fstat(file.fileno()).st_nlink == 0:  # removed as abandoned before that
                        continue
                yield temporary
            except _NotRenamed as fault:
                stays = fault.temporary == temporary
                raise
            finally:
                if not stays:
                    with suppress(OSError):
                        temporary.unlink()
        return


def _temporary_name() -> str:
    return f".flowwarp-{secrets.token_hex(6)}"


def remove_abandoned(path: Path) -> None:
    """Remove a temporary file whose process was killed; a file that is being written stays.

    Args:
        path: matches ``.flowwarp-*``. On Windows it always stays, since open files cannot be
            removed there.
    """
    with suppress(OSError), path.open("rb+") as file:  # locked, a folder, or already gone
        lock_now(file)
        path.unlink()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that is renamed to ``path`` at the end of the block.

    On an exception it is removed. A link is followed. Where an existing folder cannot be replaced,
    the files are moved into it one by one at the end.

    Raises:
        OutputError: ``path`` exists and is not an empty folder, or cannot be written. Or on Windows
            a program has a file in it open; the result then stays in the temporary folder.
    """
    target = Path(os.path.realpath(path))
    temporary = target.parent / _temporary_name()
    stays = False
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputError(path, "exists and is not an empty folder", "name a new one")
        temporary = _make_folder(temporary, target)
        yield temporary
        with _rename_errors(temporary, path):
            if temporary.parent == target:
                for part in sorted(temporary.iterdir()):
                    rename(part, target / part.name)
            else:
                rename(temporary, target)
        sync_folder(temporary.parent)
    except OutputError as fault:
        stays = isinstance(fault, _NotRenamed) and fault.temporary == temporary
        cause = fault.__cause__
        if isinstance(cause, OSError) and Path(fault.target).is_relative_to(temporary):
            raise OutputError(path, reason(cause)) from cause  # users do not know temporary names
        raise
    except OSError as fault:
        raise OutputError(path, reason(fault)) from fault
    finally:
        if not stays:
            shutil.rmtree(temporary, ignore_errors=True)


def _make_folder(beside: Path, target: Path) -> Path:
    """Make a temporary folder beside ``target``, or inside it if it exists and cannot be replaced.

    A mount point cannot be replaced, nor a folder whose parent is not writable: a folder that is
    made inside cannot be moved out. The current folder must not be replaced, since processes that
    are in it would be in a removed folder.
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
    """Flush a file to disk.

    Raises:
        OSError: it cannot be written.
    """
    _flush(path, os.O_RDWR)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the file system can."""
    with suppress(OSError):
        _flush(folder, os.O_RDONLY)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
