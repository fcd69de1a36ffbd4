"""What the readers and writers share: which name is what, safe opening, limits, atomic writing."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, BinaryIO

from flowwarp.errors import InputError, Locked, OutputError

FLOW_EXTENSIONS = frozenset({".flo", ".png", ".pfm", ".npy", ".npz"})
IMAGE_EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
)
COLOR_EXTENSIONS = IMAGE_EXTENSIONS - {".pgm"}  # of those that can be in colour
ANIMATED_WEBP = "animated .webp"  # which no name tells from a picture; `kind_of` does
VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".gif"}
    | {".mts", ".m2ts", ".wmv", ".flv", ".ogv", ".3gp", ANIMATED_WEBP}
)

LEAST_FPS = Fraction(1, 1001)  # of a video that is written; slower is a broken header

# 16384 x 8192. A 100-megapixel camera fits; Pillow refuses above 179 million on its own.
MAX_PIXELS = 2**27
# A frame of a video, 8K as cinemas have it, in whole macroblocks: what is decoded, its neighbours
# that the decoder keeps and the float32 picture then take less than 1 GiB together.
MAX_FRAME_PIXELS = 8192 * 4352

# A JPEG of one colour has some 170 pixels a byte, a GIF 2,700. A WebP can have any number, so up
# to 4K is taken at its word.
_PIXELS_PER_BYTE, _SMALL_PIXELS = 2**14, 2**23

# No deflate stream expands more than this (1032:1 is reached by one repeated byte).
_DEFLATE_LIMIT = 1032
# Above this size a file that expands a hundredfold is a bomb rather than a flow field or a picture:
# an 8K flow still fits under it, however well it packs, and so does a picture of 89 megapixels.
_BOMB_BYTES, _BOMB_RATIO = 2**28, 100

_POLL = 0.1  # s between looks at a lock, or at a file in use, that is waited for
_PATIENCE = 5  # s that Windows has to let a file be renamed


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


def kind_of(path: str | Path) -> str:
    """Return what the name of a file ends in, in small letters, or ``ANIMATED_WEBP``.

    Of a file that is to be read that says whether it is a picture or a video. One that cannot be
    read counts by its name: reading it will say what is wrong.
    """
    suffix = Path(path).suffix.lower()
    return ANIMATED_WEBP if suffix == ".webp" and _is_animated(path) else suffix


def _is_animated(webp: str | Path) -> bool:
    """Return whether a WebP says that it is animated.

    Source: developers.google.com/speed/webp/docs/riff_container, "Extended File Format".
    """
    with suppress(InputError), open_input(webp) as (file, _):
        head = file.read(21)
        is_extended = len(head) == 21 and head[:4] + head[8:16] == b"RIFFWEBPVP8X"
        return is_extended and bool(head[20] & 0b10)
    return False


def check_pixels(
    path: str | Path,
    width: int,
    height: int,
    file_bytes: int | None = None,
    most: int = MAX_PIXELS,
) -> None:
    """Check a size that a header states, for a packed format against the size of the file too.

    Raises:
        InputError: zero, negative or absurd; more than ``most`` pixels; or it looks like a bomb.
    """
    if width < 1 or height < 1:
        raise InputError(path, f"its header says {width}x{height} pixels", "the file is broken")
    if width * height > most:
        limit = f"at most {most // 10**6} million pixels are read"
        raise InputError(path, f"its header says {width}x{height} pixels", limit)
    if file_bytes and width * height > max(_SMALL_PIXELS, _PIXELS_PER_BYTE * file_bytes):
        raise InputError(
            path, f"its header says {width}x{height} pixels in {file_bytes} bytes of file"
        )
    if file_bytes:
        _refuse_bomb(path, file_bytes, 3 * width * height)  # as RGB of 8 bits, whatever it holds


def check_expansion(path: str | Path, packed: int, unpacked: int) -> None:
    """Check that ``packed`` bytes of deflate can and should become ``unpacked`` bytes.

    Raises:
        InputError: they cannot (truncated, or a header that lies), or it looks like a bomb.
    """
    if unpacked > _DEFLATE_LIMIT * packed:
        raise InputError(
            path, f"holds {packed} bytes of data where its header needs {unpacked} unpacked"
        )
    _refuse_bomb(path, packed, unpacked)


def _refuse_bomb(path: str | Path, packed: int, unpacked: int) -> None:
    if unpacked > _BOMB_BYTES and unpacked > _BOMB_RATIO * packed:
        problem = f"would unpack from {packed} to {unpacked} bytes"
        raise InputError(path, problem, "refused as a decompression bomb")


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
        time.sleep(_POLL)
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
        _lock_now(file)
        path.unlink()


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


@contextmanager
def lock(
    folder: str | Path,
    problem: str,
    remedy: str | None = None,
    *,
    name: str = ".lock",
    wait: bool = False,
) -> Iterator[None]:
    """Hold a folder by a file in it; the system lets go when the process ends, however it ends.

    Args:
        folder: must exist.
        problem: what to say where another process holds it.
        remedy: what to do about it.
        name: of the file, which stays.
        wait: until the process that holds it lets go.

    Raises:
        Locked: another process holds it, and ``wait`` is not set.
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
                _lock_now(file)
                break
            except (BlockingIOError, PermissionError) as fault:
                if not wait:
                    raise Locked(folder, problem, remedy) from fault
                time.sleep(_POLL)
            except OSError as fault:
                raise OutputError(folder, f"cannot be locked: {reason(fault)}") from fault
        yield


def _lock_now(file: IO[Any]) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def list_folder(folder: str | Path, extensions: frozenset[str]) -> list[Path]:
    """List the files of these kinds, ``frame2`` before ``frame10``, hidden ones left out.

    Raises:
        InputError: not a readable folder.
    """
    try:
        names = [path.name for path in Path(folder).iterdir() if not path.name.startswith(".")]
        paths = [Path(folder, name) for name in sorted(names, key=natural_order)]
        return [path for path in paths if kind_of(path) in extensions and path.is_file()]
    except OSError as fault:
        raise InputError(folder, reason(fault)) from fault


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Return what sorts names so that ``frame2`` comes before ``frame10``."""
    # int() takes at most 4300 digits, so a longer run is compared as text. The name itself comes
    # last so that a01 and a1 keep one order.
    parts = re.split(r"([0-9]{1,18})", name.lower())
    return [
        (p.isdecimal(), int(p) if p.isdecimal() and p.isascii() else 0, p) for p in [*parts, name]
    ]


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


def reason(fault: OSError) -> str:
    """Say what the system said, without its number."""
    return (fault.strerror or str(fault)).lower()
