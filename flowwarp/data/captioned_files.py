"""Captioned videos on disk: which videos there are, and the caption of each. Decodes no video.

Three layouts are read, also side by side in one folder:

* ``captions.csv`` with the columns ``file`` and ``caption``;
* a text file beside each video, of the same name: ``dog.mp4`` and ``dog.txt``;
* tar files, see :mod:`flowwarp.data.captioned_tar`.

Captions are in UTF-8.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from flowwarp.data.captioned_tar import (
    MAX_CAPTION_BYTES,
    PACKED_EXTENSIONS,
    CaptionedVideo,
    decode_caption,
    find_in_tar,
    skip,
    to_line,
)
from flowwarp.errors import InputError
from flowwarp.io.file_types import VIDEO_EXTENSIONS, list_folder
from flowwarp.io.files import open_input

_TABLE = "captions.csv"
_OTHER_EXTENSIONS = {".csv", ".tar", ".txt"}  # of files in such folders that are no videos
_MAX_TABLE_BYTES = 2**28


def list_captioned(source: str | Path, skipped: list[str]) -> list[CaptionedVideo]:
    """List the captioned videos of a folder or tar file.

    Args:
        source: a folder, or a tar file.
        skipped: messages about files without a use are appended to it; they are logged as well.

    Raises:
        InputError: there is none, or a table or tar file is broken.
    """
    items = list(_find(Path(source), skipped))
    if not items:
        layouts = f"it needs {_TABLE} (of files here or below), videos with .txt, or .tar files"
        raise InputError(source, skipped[0] if skipped else "holds no captioned video", layouts)
    return items


def _find(source: Path, skipped: list[str]) -> Iterator[CaptionedVideo]:
    if not source.is_dir():
        with open_input(source):  # a mistyped name is an error at once
            yield from find_in_tar(source, skipped)
        return
    listed: set[Path] = set()
    if (source / _TABLE).is_file():
        for item in _read_table(source / _TABLE, skipped):
            listed.add(item.file)
            yield item
    yield from _read_sidecars(source, listed, skipped)
    for archive in list_folder(source, frozenset({".tar"})):
        yield from find_in_tar(archive, skipped)
    for packed in list_folder(source, PACKED_EXTENSIONS):
        if packed.suffix.lower().startswith(".t") or packed.stem.lower().endswith(".tar"):
            skip(f"{packed}: is compressed; unpack it to a .tar", skipped)


def _read_sidecars(folder: Path, listed: set[Path], skipped: list[str]) -> Iterator[CaptionedVideo]:
    videos = list_folder(folder, VIDEO_EXTENSIONS)
    texts = {text.stem: text for text in list_folder(folder, frozenset({".txt"}))}
    composed = {_composed(stem): text for stem, text in texts.items()}
    for video in videos:
        if video not in listed:
            try:
                text = texts.get(video.stem, composed.get(_composed(video.stem)))
                caption = _read_text(video, text)
            except InputError as fault:
                skip(str(fault), skipped)
            else:
                yield CaptionedVideo(video, caption)
    stems = {_composed(video.stem) for video in videos}
    unused = {stem: text for stem, text in texts.items() if _composed(stem) not in stems}
    _report_unused(unused, folder, skipped)


def _composed(name: str) -> str:
    """Return a name with é as one character; macOS writes it as two."""
    return unicodedata.normalize("NFC", name)


def _report_unused(texts: dict[str, Path], folder: Path, skipped: list[str]) -> None:
    """Report each text beside a file of the same name whose format is not known.

    A text without any such file, as README.txt, is not reported.
    """
    for other in sorted(folder.iterdir()):
        text = texts.get(other.stem, other)
        if text != other and other.is_file() and other.suffix.lower() not in _OTHER_EXTENSIONS:
            known = " ".join(sorted(VIDEO_EXTENSIONS))
            skip(f"{text}: has no video; {other.name} ends in none of {known}", skipped)


def _read_text(video: Path, text: Path | None) -> str:
    """Read the caption of a video from the text file beside it.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if text is None:
        raise InputError(video, "has no caption")
    with open_input(text) as (file, size):
        caption = to_line(decode_caption(video, file.read(MAX_CAPTION_BYTES), size))
    if not caption:
        raise InputError(video, "its caption is empty")
    return caption


def _read_table(path: Path, skipped: list[str]) -> Iterator[CaptionedVideo]:
    with open_input(path) as (file, size):
        if size > _MAX_TABLE_BYTES:
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
        skip(f"{path}: has no row below its first line", skipped)
    root = path.parent.resolve()
    for line, row in rows:
        known = dict(zip(header, row, strict=False))
        name, caption = known.get("file", ""), to_line(known.get("caption", ""))
        try:
            video = path.parent / name
            inside = video.resolve().is_relative_to(root) and not Path(name).is_absolute()
            found = inside and video.is_file()
        except (OSError, ValueError):  # a name too long, or with a null byte
            found = inside = False
        if any(row[len(header) :]):  # the caption would be cut there
            skip(f"{path}: line {line}: a comma too many; quote captions that hold any", skipped)
        elif not inside:
            skip(f"{path}: line {line}: {name!r} does not lie in this folder", skipped)
        elif not found:
            skip(f"{path}: line {line}: {name!r}: no such file", skipped)
        elif not caption or "\0" in caption:  # NUL is valid UTF-8 but not text
            skip(f"{path}: line {line}: the caption of {name!r} is empty or no text", skipped)
        else:
            yield CaptionedVideo(video, caption)


def _rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Return (number of its first line, fields) of each row of a table, the header included.

    Raises:
        InputError: a quote is not closed, or text follows a closing quote: all up to the next quote
            would be read as one caption.
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
