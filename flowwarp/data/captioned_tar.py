"""Captioned videos in tar files as WebDataset writes them, read without unpacking.

Members of the same stem belong together: a video and a ``.txt`` or ``.json`` (if both are there,
the ``.txt`` counts). Of members of the same name the last counts. Members are read one by one,
never extracted to a path of the archive's choice.
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, final

from flowwarp.errors import InputError
from flowwarp.io.file_types import VIDEO_EXTENSIONS
from flowwarp.io.files import open_input

_LOG = logging.getLogger(__name__)
PACKED_EXTENSIONS = frozenset(
    {".gz", ".bz2", ".xz", ".zst", ".lz4", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"}
)
MAX_CAPTION_BYTES = 2**16  # of a caption's file
# An animated .webp is a video; in a tar file only the name can tell.
_MEMBER_EXTENSIONS = VIDEO_EXTENSIONS | {".webp"}
_MAX_HEADER_BYTES = 2**14  # of a member, whose name has at most 4096
_MAX_VIDEO_BYTES = 2**31  # of a member
_MAX_CAPTION_LENGTH = 1000  # characters
_CAPTION_KEYS = ("caption", "text", "txt", "prompt")  # in a .json
_NO_TEXT = re.compile("[\\0\ud800-\udfff]")  # JSON may hold NUL and halves of surrogate pairs


@dataclass(frozen=True)
class CaptionedVideo:
    """A video file, a folder of frames or a member of a tar file, with its caption.

    Args:
        file: the video, the folder or the tar file.
        caption: what the whole video shows; empty if captions are not used.
        member: name of the member of a tar file; empty for a video file.
        start: offset of the member's bytes in the tar file.
        length: number of the member's bytes.
        original: name of an earlier video of the same bytes; empty if there is none.
    """

    file: Path
    caption: str
    member: str = ""
    start: int = 0
    length: int = 0
    original: str = ""

    @property
    def name(self) -> str:
        """The path of the file; for a member, followed by its name."""
        return f"{self.file}:{self.member}" if self.member else str(self.file)


def find_in_tar(
    path: Path, skipped: list[str], *, captioned: bool = True
) -> Iterator[CaptionedVideo]:
    """Yield the captioned videos of a tar file.

    Args:
        path: of the tar file.
        skipped: messages about members without a use are appended to it.
        captioned: if False, captions are not read, and no video needs one.

    Raises:
        InputError: it is broken or compressed.
    """
    videos: dict[PurePosixPath, CaptionedVideo] = {}  # a later member replaces an earlier one
    texts: dict[PurePosixPath, CaptionedVideo] = {}
    if path.suffix.lower() in PACKED_EXTENSIONS:
        raise InputError(path, "is compressed", "unpack it to a .tar")
    with open_input(path) as (file, size):
        for member in list_members(path, file, size):
            name = PurePosixPath(member.name)
            if name.name.startswith(".") or not name.name:  # hidden; or "" or "."
                continue
            kind = name.suffix.lower()
            if not member.isfile():
                if kind in _MEMBER_EXTENSIONS or kind in _CAPTIONS:
                    skip(f"{path}: {member.name!r} is a link; put in the file itself", skipped)
                continue
            if name.is_absolute() or ".." in name.parts or "\\" in member.name:
                skip(f"{path}: {member.name!r} leads out of its folder", skipped)
                continue
            # Not the member itself, which holds a copy of its header in memory.
            item = CaptionedVideo(path, "", member.name, member.offset_data, member.size)
            if kind in _MEMBER_EXTENSIONS:
                videos[name] = item
            elif kind in _CAPTIONS:
                texts[name.with_suffix(kind)] = item
        for name, item in videos.items():
            if item.length > _MAX_VIDEO_BYTES:
                skip(f"{path}: {item.member!r} has {item.length} bytes", skipped)
                continue
            try:
                caption = _read_caption(file, path, name, texts) if captioned else ""
            except InputError as fault:
                skip(str(fault), skipped)
            else:
                yield replace(item, caption=caption)


def list_members(path: Path, file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files and links of an uncompressed tar file.

    Raises:
        InputError: it is broken.
    """
    try:
        with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # otherwise all stay in memory
                archive.pax_headers = {}  # global headers, which each member would copy
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


@final
class _Headers(io.RawIOBase):
    """A tar file that refuses to read a header of implausible length.

    A header may claim any length. tarfile allocates that much memory before it reads, and parses a
    long number in quadratic time.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MAX_HEADER_BYTES:
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


def _read_caption(
    file: BinaryIO, path: Path, video: PurePosixPath, texts: Mapping[PurePosixPath, CaptionedVideo]
) -> str:
    """Read the caption of a video in a tar file.

    Raises:
        InputError: there is none, or it is not UTF-8.
    """
    for kind, caption_of in _CAPTIONS.items():
        text = texts.get(video.with_suffix(kind))
        if text and text.length <= MAX_CAPTION_BYTES:
            file.seek(text.start)
            data = file.read(text.length)
            caption = caption_of(decode_caption(f"{path}:{video}", data, text.length))
            if caption:
                return caption
    raise InputError(path, f"{str(video)!r} has no caption")


def _caption_of_json(text: str) -> str:
    """Return the first caption in a JSON object; empty if there is none."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(table, dict):
        return ""
    captions = (to_line(table.get(key)) for key in _CAPTION_KEYS)
    return next(filter(None, captions), "")


def to_line(caption: Any) -> str:
    """Return a caption as one line, cut at 1000 characters; empty if it is no text."""
    if not isinstance(caption, str) or _NO_TEXT.search(caption):
        return ""
    return " ".join(caption.split())[:_MAX_CAPTION_LENGTH]


def decode_caption(video: str | Path, data: bytes, size: int) -> str:
    """Decode the first bytes of a caption.

    Args:
        video: named in the error.
        data: the first bytes.
        size: number of bytes that the caption has.

    Raises:
        InputError: the caption is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:  # NUL is valid UTF-8 but not text; cut data may end within a character
        return decoder.decode(data.replace(b"\0", b"\xff"), final=len(data) == size)
    except UnicodeDecodeError as fault:
        raise InputError(video, "its caption is not UTF-8", "save it as UTF-8") from fault


_CAPTIONS = {".txt": to_line, ".json": _caption_of_json}  # in order of preference


@contextmanager
def open_video(item: CaptionedVideo) -> Iterator[Path]:
    """Give the path of a video; a member of a tar file is copied to a temporary file of its own."""
    if not item.member:
        yield item.file
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "video" + PurePosixPath(item.member).suffix.lower())
        with plain.open("wb") as copy:
            for part in read_member(item):
                copy.write(part)
        yield plain


def read_member(item: CaptionedVideo) -> Iterator[bytes]:
    """Yield the bytes of a member of a tar file.

    Raises:
        InputError: the tar file cannot be read, or has changed.
    """
    # A generator, so that a full disk at the target is not reported as a fault of the tar file.
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


def skip(fault: str, skipped: list[str]) -> None:
    """Log a message about a file that is left out, and append it to a list."""
    _LOG.warning("skipped %s", fault)
    skipped.append(fault)
