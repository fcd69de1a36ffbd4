"""Captioned videos on disk: which videos there are, and the caption of each. Decodes no video.

A video is a file such as ``dog.mp4``, or a folder of its frames. These layouts are read, also side
by side in one folder:

* ``captions.csv``, ``metadata.csv`` and any ``.jsonl``, see :mod:`flowwarp.data.captioned_table`;
* a text file beside each video, of the same name: ``dog.mp4`` and ``dog.txt``, or for the folder
  ``dog`` of frames ``dog.txt`` beside it, else ``dog/caption.txt``;
* tar files, see :mod:`flowwarp.data.captioned_tar`.

A video that a table names needs no text beside it. Captions are in UTF-8.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from flowwarp.data.captioned_duplicates import drop_duplicates
from flowwarp.data.captioned_table import TABLE_EXTENSIONS, read_table
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
from flowwarp.io.file_types import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, list_folder, natural_order
from flowwarp.io.files import open_input, reason

NO_CAPTIONS = "none"  # in place of a table: videos need no caption
_TABLES = ("captions.csv", "captions.jsonl")
_INSIDE = "caption.txt"  # of a folder of frames
_OTHER_EXTENSIONS = {
    ".csv",
    ".jsonl",
    ".tar",
    ".txt",
}  # of files in such folders that are no videos


def list_captioned(
    source: str | Path, skipped: list[str], captions: str | Path | None = None
) -> list[CaptionedVideo]:
    """List the captioned videos of a folder or tar file, each once.

    Args:
        source: a folder, or a tar file.
        skipped: messages about files without a use are appended to it; they are logged as well.
        captions: None for the captions that lie with the videos; ``"none"`` gives each video an
            empty caption, and no table or text is read; else a .csv or .jsonl, which may lie
            elsewhere: the files that it names lie in ``source``, and it alone has captions.

    Raises:
        InputError: there is none, a table or tar file is broken, or a table is given for a tar
            file.
    """
    source, found_before = Path(source), len(skipped)
    if captions is None or captions == NO_CAPTIONS:
        items = list(_find(source, skipped, captioned=captions is None))
    else:
        items = list(_find_by_table(source, Path(captions), skipped))
    if not items:
        layouts = (
            f"it needs {_TABLES[0]} or .jsonl (of files here or below), videos or folders of "
            f"frames with .txt, or .tar files"
        )
        faults = skipped[found_before:]
        raise InputError(source, faults[0] if faults else "holds no captioned video", layouts)
    return drop_duplicates(items, skipped)


def _find(source: Path, skipped: list[str], *, captioned: bool) -> Iterator[CaptionedVideo]:
    if not source.is_dir():
        with open_input(source):  # a mistyped name is an error at once
            yield from find_in_tar(source, skipped, captioned=captioned)
        return
    if captioned:
        listed: set[Path] = set()
        for item in _read_tables(source, skipped):
            listed.add(item.file)
            yield item
        yield from _read_sidecars(source, listed, skipped)
    else:
        for video in _list_videos(source, set(), skipped):
            yield CaptionedVideo(video, "")
    for archive in list_folder(source, frozenset({".tar"})):
        yield from find_in_tar(archive, skipped, captioned=captioned)
    for packed in list_folder(source, PACKED_EXTENSIONS):
        if packed.suffix.lower().startswith(".t") or packed.stem.lower().endswith(".tar"):
            skip(f"{packed}: is compressed; unpack it to a .tar", skipped)


# ------------------------------------------------------------------ tables


def _find_by_table(source: Path, table: Path, skipped: list[str]) -> Iterator[CaptionedVideo]:
    if table.suffix.lower() not in TABLE_EXTENSIONS:
        known = " or ".join(sorted(TABLE_EXTENSIONS))
        raise InputError(table, f"is no table of captions: its name must end in {known}")
    if not source.is_dir():
        raise InputError(table, f"needs a folder of videos, and {source} is none")
    listed: set[Path] = set()
    for item in _read_rows(source, table, skipped):
        listed.add(item.file)
        yield item
    for video in _list_videos(source, listed, skipped):
        if video not in listed:
            skip(f"{video}: has no caption in {table}", skipped)


def _read_tables(folder: Path, skipped: list[str]) -> Iterator[CaptionedVideo]:
    for table in list_folder(folder, TABLE_EXTENSIONS):
        if table.name in _TABLES:
            yield from _read_rows(folder, table, skipped)
        elif table.name == "metadata.csv" or table.suffix.lower() == ".jsonl":
            try:
                yield from _read_rows(folder, table, skipped)
            except InputError as fault:  # it may be about something else
                skip(str(fault), skipped)


def _read_rows(folder: Path, table: Path, skipped: list[str]) -> Iterator[CaptionedVideo]:
    """Yield the videos that a table names, as far as they lie in a folder or below."""
    root = folder.resolve()
    for row in read_table(table, skipped):
        video = folder / row.file
        try:
            inside = video.resolve().is_relative_to(root) and not Path(row.file).is_absolute()
            found = inside and (video.is_file() or video.is_dir())
        except (OSError, ValueError):  # a name too long, or with a null byte
            found = inside = False
        if not inside:
            skip(f"{table}: line {row.line}: {row.file!r} does not lie in {folder}", skipped)
        elif not found or video.resolve() == root:
            skip(f"{table}: line {row.line}: {row.file!r}: no such file", skipped)
        else:
            yield CaptionedVideo(video, row.caption)


# ------------------------------------------------------------------ texts beside videos


def _list_videos(folder: Path, listed: set[Path], skipped: list[str]) -> list[Path]:
    """Return the videos and the folders of frames in a folder; report folders of videos.

    A folder beside a video of the same name is none: ``flowwarp datasets make --flow`` writes the
    frames of the video there.

    Args:
        folder: the folder, whose sub-folders are not searched.
        listed: videos that a table names; they may lie below sub-folders.
        skipped: messages are appended to it.
    """
    videos = list_folder(folder, VIDEO_EXTENSIONS)
    try:
        below = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    except OSError as fault:
        raise InputError(folder, reason(fault)) from fault
    stems = {video.stem for video in videos}
    parents = {parent for video in listed for parent in video.parents}
    for path in sorted(below, key=lambda path: natural_order(path.name)):
        if path.name in stems:
            continue
        try:
            if list_folder(path, IMAGE_EXTENSIONS):
                videos.append(path)
            elif path not in parents and list_folder(path, VIDEO_EXTENSIONS):
                remedy = f"name them in {_TABLES[0]}, or move them up"
                skip(f"{path}: holds videos, and folders are not searched; {remedy}", skipped)
        except InputError as fault:
            skip(str(fault), skipped)
    return videos


def _read_sidecars(folder: Path, listed: set[Path], skipped: list[str]) -> Iterator[CaptionedVideo]:
    videos = _list_videos(folder, listed, skipped)
    texts = {text.stem: text for text in list_folder(folder, frozenset({".txt"}))}
    composed = {_composed(stem): text for stem, text in texts.items()}
    for video in videos:
        if video not in listed:
            stem = _stem(video)
            try:
                text = texts.get(stem, composed.get(_composed(stem)))
                caption = _read_text(video, text or _text_inside(video))
            except InputError as fault:
                skip(str(fault), skipped)
            else:
                yield CaptionedVideo(video, caption)
    stems = {_composed(_stem(video)) for video in videos}
    unused = {stem: text for stem, text in texts.items() if _composed(stem) not in stems}
    _report_unused(unused, folder, skipped)


def _stem(video: Path) -> str:
    """Return the name of a video without its extension; a folder has none, whatever its dots."""
    return video.name if video.is_dir() else video.stem


def _text_inside(video: Path) -> Path | None:
    return video / _INSIDE if (video / _INSIDE).is_file() else None


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
