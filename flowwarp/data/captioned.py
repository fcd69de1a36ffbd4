"""Anyone's own captioned videos, prepared once and memory-mapped from then on.

Three layouts are read, also side by side in one folder:

* ``captions.csv`` with the columns ``file`` and ``caption``;
* a text file beside each video, of the same name: ``dog.mp4`` and ``dog.txt``;
* tar files as WebDataset keeps them: members of the same stem, a video and a ``.txt`` or ``.json``
  (of both the ``.txt``), and of members of the same name the last.

Captions are in UTF-8. A tar file is not unpacked: its members are read one by one, so that none can
lie anywhere.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import logging
import os
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, final

import torch
from torch import Tensor

from flowwarp.data._resizing import resized_bytes
from flowwarp.data.clip import Clip, clip_without_flow
from flowwarp.data.clips import Index, PairStore, is_whole, store_folder, write_store
from flowwarp.errors import InputError, OutputError
from flowwarp.io.file_types import VIDEO_EXTENSIONS, list_folder
from flowwarp.io.files import open_input
from flowwarp.io.video_reader import read_video
from flowwarp.tensors import check_float, check_range, check_whole

_LOG = logging.getLogger(__name__)
_VERSION = 2  # of the cache; part of its key
_MEMBERS = VIDEO_EXTENSIONS | {".webp"}  # of a tar file, by their names alone
_TABLE = "captions.csv"
_OTHER = {".csv", ".tar", ".txt"}  # what else lies in such folders
_PACKED = frozenset(
    {".gz", ".bz2", ".xz", ".zst", ".lz4", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"}
)
_LARGEST_TABLE = 2**28  # bytes
_LARGEST_TEXT = 2**16  # bytes; of one caption's file
_LARGEST_HEADER = 2**14  # bytes; of a member of a tar file, whose name has at most 4096
_LARGEST_VIDEO = 2**31  # bytes; of a member of a tar file
_LONGEST_CAPTION = 1000  # characters; what is longer is cut there
_CAPTION_KEYS = ("caption", "text", "txt")  # in a .json


@final
class CaptionedStore:
    """Windows of captioned videos, in a cache folder; can be sent to the workers of a DataLoader.

    Args:
        folder: made by :func:`load_captioned`.
        frames: of a window.
    """

    def __init__(self, folder: Path, frames: int) -> None:
        self._store = PairStore(folder, frames)
        about = json.loads((folder / "about.json").read_text("utf-8"))
        self._captions: list[str] = about["captions"]
        self.skipped: tuple[str, ...] = self._store.skipped

    @property
    def key(self) -> str:
        """What changes with the files, their captions, and the size of frames."""
        return self._store.folder.name

    def name(self, index: int) -> str:
        """Return which video a window comes from."""
        return self._store.clip(index)

    def row(self, index: int) -> int:
        """Return which of the captioned videos it is; one that is listed twice is two of them."""
        return self._store.source(index)

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> Clip:
        video = torch.stack(self._store[index])
        return clip_without_flow(video, self._captions[self.row(index)])

    def __reduce__(self) -> tuple[type[CaptionedStore], tuple[Path, int]]:
        return CaptionedStore, (self._store.folder, self._store.frames)


@dataclass(frozen=True)
class _Item:
    """A video with its caption; of a tar file, the member that holds it."""

    file: Path
    caption: str
    member: str = ""
    start: int = 0  # of the member's bytes in the tar file
    length: int = 0

    @property
    def name(self) -> str:
        return f"{self.file}:{self.member}" if self.member else str(self.file)


def load_captioned(
    source: str | Path,
    size: int = 64,
    frames: int = 16,
    *,
    cache: str | Path | None = None,
    max_bytes: int = 32 * 2**30,
    progress: Callable[[int, int], None] | None = None,
) -> CaptionedStore:
    """Prepare captioned videos; a second call with the same files is free.

    The middle square of each frame is made ``size`` wide. A video that cannot be read, has no
    caption, or is shorter than a window is left out; the store's ``skipped`` says which.

    Args:
        source: a folder (the layouts are in the module's text), or a tar file.
        size: of the frames.
        frames: of a window.
        cache: where to keep the frames; see :func:`flowwarp.data.clips.prepare_pairs`.
        max_bytes: how large this data may become on disk.
        progress: called with (videos done, videos in all).

    Raises:
        InputError: nothing of the kind is there, a table or tar file is broken, or no video
            is left.
        OutputError: the cache cannot be written, or would grow beyond ``max_bytes``.
        ValueError: ``size`` or ``frames`` is no whole number from 1.
    """
    check_whole(size, "size", 1)
    check_whole(frames, "frames", 1)
    skipped: list[str] = []
    items = _list(source, skipped)
    folder = store_folder(cache) / f"captioned-{_key(items, size, frames)}"
    if not is_whole(folder):

        def fill(file: BinaryIO) -> Index:
            return _fill(file, items, size, frames, max_bytes, skipped, progress)

        write_store(folder, fill)
    store = CaptionedStore(folder, frames)
    told = set(skipped)
    for fault in store.skipped:
        if fault not in told:  # it was when the folder was filled
            _LOG.warning("skipped %s", fault)
    return store


def _key(items: list[_Item], size: int, frames: int) -> str:
    digest = hashlib.sha256(repr((_VERSION, size, frames)).encode())
    for item in items:
        status = item.file.stat()
        state = (item.member, item.caption, status.st_mtime_ns, status.st_size)
        digest.update(repr((os.fsencode(item.file.absolute()), *state)).encode())
    return digest.hexdigest()[:20]


def _fill(
    file: BinaryIO,
    items: list[_Item],
    size: int,
    frames: int,
    max_bytes: int,
    skipped: list[str],
    progress: Callable[[int, int], None] | None,
) -> Index:
    places: list[tuple[int, int, int]] = []
    runs: list[tuple[int, int, int]] = []
    for number, item in enumerate(items):
        first = len(places)
        try:
            with _opened(item) as path:
                for frame in read_video(path):
                    places.append((file.tell(), size, size))
                    file.write(middle_square(frame, size).numpy().tobytes())
                    if file.tell() > max_bytes:
                        raise OutputError(
                            file.name,
                            f"the frames need more than {max_bytes / 1e9:.3g} GB",
                            "lower the size or raise max_bytes",
                        )
        except InputError as fault:  # what came before the damage is of use
            _skip(f"{item.name}: {_cause(fault)}" if item.member else str(fault), skipped)
        if len(places) - first >= frames:
            runs.append((first, len(places), number))
        elif len(places) > first:
            _skip(f"{item.name}: has {len(places) - first} frames, not {frames}", skipped)
            file.seek(places[first][0])
            file.truncate()
            del places[first:]
        if progress:
            progress(number + 1, len(items))
    if not runs:
        raise InputError(items[0].file.parent, f"no video is of use; the first fault: {skipped[0]}")
    about = {
        "clips": [item.name for item in items],
        "captions": [item.caption for item in items],
        "skipped": skipped,
    }
    return places, runs, about


def middle_square(frame: Tensor, size: int, name: str = "frame") -> Tensor:
    """Cut out the middle square and resize it, antialiased.

    Args:
        frame: (3, H, W) in [0, 1].
        size: of the result's side, in pixels.
        name: how a message calls the frame.

    Returns:
        (3, size, size) uint8.

    Raises:
        TypeError: the frame is not a floating-point tensor.
        ValueError: its shape is another, or it is in 0 … 255 or holds NaN in its middle.
    """
    check_float(frame, name)
    if frame.ndim != 3 or len(frame) != 3 or not frame.numel():
        raise ValueError(f"{name} must be (3, H, W), got shape {tuple(frame.shape)}")
    height, width = frame.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    part = frame[:, top : top + side, left : left + side]
    check_range(part[None], name)
    return resized_bytes(part, (size, size))


def _skip(fault: str, skipped: list[str]) -> None:
    _LOG.warning("skipped %s", fault)
    skipped.append(fault)


def _cause(fault: InputError) -> str:
    return str(fault).removeprefix(f"{fault.source}: ")


# ------------------------------------------------------------------ what there is


def count_captioned(source: str | Path) -> int:
    """Count the videos that :func:`load_captioned` would read, without a look into them.

    Raises:
        InputError: nothing of the kind is there, or a table or tar file is broken.
    """
    return len(_list(source, []))


def _list(source: str | Path, skipped: list[str]) -> list[_Item]:
    items = list(_find(Path(source), skipped))
    if not items:
        layouts = f"it needs {_TABLE} (of files here or below), videos with .txt, or .tar files"
        raise InputError(source, skipped[0] if skipped else "holds no captioned video", layouts)
    return items


def _find(source: Path, skipped: list[str]) -> Iterator[_Item]:
    if not source.is_dir():
        with open_input(source):  # a name mistyped is said at once
            yield from _read_tar(source, skipped)
        return
    listed: set[Path] = set()
    if (source / _TABLE).is_file():
        for item in _read_table(source / _TABLE, skipped):
            listed.add(item.file)
            yield item
    yield from _read_pairs(source, listed, skipped)
    for archive in list_folder(source, frozenset({".tar"})):
        yield from _read_tar(archive, skipped)
    for packed in list_folder(source, _PACKED):
        if packed.suffix.lower().startswith(".t") or packed.stem.lower().endswith(".tar"):
            _skip(f"{packed}: is compressed; unpack it to a .tar", skipped)


def _read_pairs(folder: Path, listed: set[Path], skipped: list[str]) -> Iterator[_Item]:
    videos = list_folder(folder, VIDEO_EXTENSIONS)
    texts = {text.stem: text for text in list_folder(folder, frozenset({".txt"}))}
    alike = {_composed(stem): text for stem, text in texts.items()}
    for video in videos:
        if video not in listed:
            try:
                text = texts.get(video.stem, alike.get(_composed(video.stem)))
                caption = _read_text(video, text)
            except InputError as fault:
                _skip(str(fault), skipped)
            else:
                yield _Item(video, caption)
    claimed = {_composed(video.stem) for video in videos}
    alone = {stem: text for stem, text in texts.items() if _composed(stem) not in claimed}
    _report(alone, folder, skipped)


def _composed(name: str) -> str:
    """Return a name with é as one character, which may be two, as Macs write it."""
    return unicodedata.normalize("NFC", name)


def _report(texts: dict[str, Path], folder: Path, skipped: list[str]) -> None:
    """Say of which texts the video may be one that is not known; a README.txt stands alone."""
    for other in sorted(folder.iterdir()):
        text = texts.get(other.stem, other)
        if text != other and other.is_file() and other.suffix.lower() not in _OTHER:
            known = " ".join(sorted(VIDEO_EXTENSIONS))
            _skip(f"{text}: has no video; {other.name} ends in none of {known}", skipped)


def _read_text(video: Path, text: Path | None) -> str:
    """Read the caption of a video from the file beside it.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if text is None:
        raise InputError(video, "has no caption")
    with open_input(text) as (file, size):
        caption = _tidy(_decode(video, file.read(_LARGEST_TEXT), size))
    if not caption:
        raise InputError(video, "its caption is empty")
    return caption


def _decode(video: str | Path, data: bytes, size: int) -> str:
    """Decode the first bytes of a video's caption, which has ``size``.

    Raises:
        InputError: it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:  # NUL is UTF-8 but no text; what is cut may end within a character
        return decoder.decode(data.replace(b"\0", b"\xff"), final=len(data) == size)
    except UnicodeDecodeError as fault:
        raise InputError(video, "its caption is not UTF-8", "save it as UTF-8") from fault


def _tidy(caption: Any) -> str:
    """Make one line of a caption; nothing if it is no text."""
    return " ".join(caption.split())[:_LONGEST_CAPTION] if isinstance(caption, str) else ""


def _read_table(path: Path, skipped: list[str]) -> Iterator[_Item]:
    with open_input(path) as (file, size):
        if size > _LARGEST_TABLE:
            raise InputError(path, f"has {size} bytes", "split it over several folders")
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise InputError(path, f"is not in UTF-8 ({fault})", "save it as UTF-8") from fault
    (_, header), *rows = _rows(path, text) or [(1, [])]
    if header.count("file") != 1 or header.count("caption") != 1:
        begin = ",".join(header)[:60]
        advice = "its first line must be file,caption, or have both among others, parted by commas"
        raise InputError(path, f"begins with {begin!r}", advice)
    if not rows:
        _skip(f"{path}: has no row below its first line", skipped)
    root = path.parent.resolve()
    for line, row in rows:
        known = dict(zip(header, row, strict=False))
        name, caption = known.get("file", ""), _tidy(known.get("caption", ""))
        try:
            video = path.parent / name
            inside = video.resolve().is_relative_to(root) and not Path(name).is_absolute()
            found = inside and video.is_file()
        except (OSError, ValueError):  # a name too long, or with a null byte
            found = inside = False
        if any(row[len(header) :]):  # the caption would be cut there
            _skip(f"{path}: line {line}: a comma too many; quote captions that hold any", skipped)
        elif not inside:
            _skip(f"{path}: line {line}: {name!r} does not lie in this folder", skipped)
        elif not found:
            _skip(f"{path}: line {line}: {name!r}: no such file", skipped)
        elif not caption or "\0" in caption:  # NUL is UTF-8 but no text
            _skip(f"{path}: line {line}: the caption of {name!r} is empty or no text", skipped)
        else:
            yield _Item(video, caption)


def _rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Return the rows of a table, its header first, and the line that each begins with.

    Raises:
        InputError: a quote is not closed, or there is more after one: what follows, to the next
            quote, would be taken for a caption.
    """
    reader = csv.reader(io.StringIO(text, newline=None), strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as fault:
        advice = "close each quote, and write those within a caption twice"
        raise InputError(path, f"line {line} begins no row of a table ({fault})", advice) from fault
    return rows


# ------------------------------------------------------------------ tar files


@final
class _Headers(io.RawIOBase):
    """A tar file of which only headers are read, each of a size that makes sense.

    A header may claim any length; Python takes that much memory before it reads, and much longer
    for a long one.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _LARGEST_HEADER:
            raise ValueError(f"one of its headers has {count} bytes")
        return self._file.read(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _members(path: Path, file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files of a tar file that is not packed, and links to such."""
    try:
        with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or all stay in memory
                archive.pax_headers = {}  # of all members; each would copy it
                if not (member.isfile() or member.islnk() or member.issym()):
                    continue
                if member.sparse is not None:
                    continue
                if member.isfile() and member.offset_data + member.size > size:
                    raise InputError(path, f"breaks off in {member.name!r}")
                yield member
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as fault:
        if isinstance(fault, InputError):
            raise
        raise InputError(path, f"is not a tar file that can be read ({fault})") from fault


def _read_tar(path: Path, skipped: list[str]) -> Iterator[_Item]:
    videos: dict[PurePosixPath, _Item] = {}  # what is appended later replaces
    texts: dict[PurePosixPath, _Item] = {}
    if path.suffix.lower() in _PACKED:
        raise InputError(path, "is compressed", "unpack it to a .tar")
    with open_input(path) as (file, size):
        for member in _members(path, file, size):
            name = PurePosixPath(member.name)
            if name.name.startswith(".") or not name.name:  # hidden, as in folders; "" or "."
                continue
            kind = name.suffix.lower()
            if not member.isfile():
                if kind in _MEMBERS or kind in _CAPTIONS:
                    _skip(f"{path}: {member.name!r} is a link; put in the file itself", skipped)
                continue
            if name.is_absolute() or ".." in name.parts or "\\" in member.name:
                _skip(f"{path}: {member.name!r} leads out of its folder", skipped)
                continue
            # Not the member itself, which holds a copy of its header.
            item = _Item(path, "", member.name, member.offset_data, member.size)
            if kind in _MEMBERS:
                videos[name] = item
            elif kind in _CAPTIONS:
                texts[name.with_suffix(kind)] = item
        for name, item in videos.items():
            if item.length > _LARGEST_VIDEO:
                _skip(f"{path}: {item.member!r} has {item.length} bytes", skipped)
                continue
            try:
                caption = _read_packed(file, path, name, texts)
            except InputError as fault:
                _skip(str(fault), skipped)
            else:
                yield replace(item, caption=caption)


def _read_packed(
    file: BinaryIO, path: Path, video: PurePosixPath, texts: Mapping[PurePosixPath, _Item]
) -> str:
    """Read the caption of a video in a tar file.

    Raises:
        InputError: there is none, or it is not UTF-8.
    """
    for kind, caption_of in _CAPTIONS.items():
        text = texts.get(video.with_suffix(kind))
        if text and text.length <= _LARGEST_TEXT:
            file.seek(text.start)
            data = file.read(text.length)
            caption = caption_of(_decode(f"{path}:{video}", data, text.length))
            if caption:
                return caption
    raise InputError(path, f"{str(video)!r} has no caption")


def _caption_of(text: str) -> str:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(table, dict):
        return ""
    captions = (_tidy(table.get(key)) for key in _CAPTION_KEYS)
    return next(filter(None, captions), "")


_CAPTIONS = {".txt": _tidy, ".json": _caption_of}  # how each is read; the first is preferred


@contextmanager
def _opened(item: _Item) -> Iterator[Path]:
    """Give the file of an item; a member of a tar file is copied out under a name of ours."""
    if not item.member:
        yield item.file
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "video" + PurePosixPath(item.member).suffix.lower())
        with plain.open("wb") as copy:
            for part in _read_member(item):
                copy.write(part)
        yield plain


def _read_member(item: _Item) -> Iterator[bytes]:
    # A generator, so that a full disk where the bytes go is not taken for a fault of the tar file.
    with open_input(item.file) as (file, size):
        file.seek(item.start)
        if item.start + item.length > size:
            raise InputError(item.file, "was changed while it was read")
        left = item.length
        while left:
            part = file.read(min(left, 2**20))
            if not part:
                raise InputError(item.file, "was changed while it was read")
            yield part
            left -= len(part)
