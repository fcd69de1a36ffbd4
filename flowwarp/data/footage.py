"""Finds footage on disk: frames of a clip, videos, and pairs of frames. Decodes nothing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowwarp.errors import InputError
from flowwarp.io.file_types import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, kind_of, list_folder
from flowwarp.io.files import open_input, reason

_LISTS = frozenset({".txt", ".lst"})
_MAX_LIST_BYTES = 2**28


@dataclass(frozen=True)
class Footage:
    """Files that belong together: the frames of a clip, one video, or a pair taken as it is."""

    kind: Literal["frames", "video", "pair"]
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The folder of the frames, the video, or the first frame of the pair."""
        return str(self.files[0].parent if self.kind == "frames" else self.files[0])


def list_footage(sources: Sequence[str | Path | Footage]) -> list[Footage]:
    """Return the footage of :func:`find_footage` as a list; none is an error.

    Raises:
        InputError: a folder, list or video is missing or unreadable, or there is no footage.
    """
    footage = list(find_footage(sources))
    if not footage:
        named = ", ".join(map(str, sources)) or "no source"
        raise InputError(named, "holds neither pictures nor videos")
    return footage


def find_footage(sources: Sequence[str | Path | Footage]) -> Iterator[Footage]:
    """Find the clips, videos and pairs in files and folders.

    A source is

    * a folder: the pictures in it are the frames of one clip, ``frame2`` before ``frame10``; each
      video in it is a clip; likewise in the folders below;
    * a video file;
    * a picture: all pictures given by name are the frames of one clip;
    * a text file (.txt, .lst) with two pictures a line, relative to it and quoted if their names
      hold spaces: each line is a pair;
    * a :class:`Footage`, as :func:`flowwarp.data.recipes.footage_of` returns.

    Raises:
        InputError: a folder, list or video is missing or unreadable.
    """
    pictures: list[Path] = []  # given by name: together one clip
    visited: set[Path] = set()
    for given in sources:
        if isinstance(given, Footage):
            yield given
            continue
        source = Path(given)
        extension = kind_of(source)
        if source.is_dir():
            yield from _find_below(source, visited)
        elif extension in _LISTS:
            yield from _read_list(source)
        else:
            with open_input(source):  # a mistyped name is an error at once, not skipped
                pass
            if extension in IMAGE_EXTENSIONS:
                pictures.append(source)
            else:
                yield Footage("video", (source,))
    if pictures:
        yield Footage("frames", tuple(pictures))


def _find_below(top: Path, visited: set[Path]) -> Iterator[Footage]:
    for folder in walk_folders(top, visited):
        frames = list_folder(folder, IMAGE_EXTENSIONS)
        if len(frames) > 1:
            yield Footage("frames", tuple(frames))
        yield from (Footage("video", (video,)) for video in list_folder(folder, VIDEO_EXTENSIONS))


def walk_folders(folder: Path, visited: set[Path]) -> Iterator[Path]:
    """Yield a folder and the folders below it that may hold footage; links are followed.

    Hidden folders are left out, and those of training runs, whose sample pictures change.

    Args:
        folder: where to begin.
        visited: resolved folders that were yielded before, and are skipped; new ones are added.

    Raises:
        InputError: a folder cannot be read.
    """
    real = folder.resolve()
    if real in visited:  # a link to a folder above, or the same folder given twice
        return
    visited.add(real)
    if _is_training_run(folder):
        return
    yield folder
    try:
        below = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    except OSError as fault:
        raise InputError(folder, reason(fault)) from fault
    for path in sorted(below):
        yield from walk_folders(path, visited)


def _is_training_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.toml", "metrics.jsonl"))


def _read_list(path: Path) -> Iterator[Footage]:
    with open_input(path) as (file, size):
        if size > _MAX_LIST_BYTES:
            raise InputError(path, f"has {size} bytes", "split it into several lists")
        data = file.read()
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as fault:
        raise InputError(path, "is not a text file in UTF-8") from fault
    for number, line in enumerate(lines, start=1):
        if "\0" in line:  # no file name holds one
            raise InputError(path, f"line {number} holds a null byte")
        try:
            names = _split(line)
        except ValueError as fault:
            raise InputError(path, f"line {number}: {fault}") from fault
        if names and len(names) != 2:
            raise InputError(
                path, f"line {number} holds {len(names)} names, not 2", "quote those with spaces"
            )
        if names:
            yield Footage("pair", tuple(path.parent / name for name in names))


def _split(line: str) -> list[str]:
    """Split a line into names as a shell does; on Windows a backslash is part of a path.

    Raises:
        ValueError: a quote is not closed.
    """
    words = shlex.shlex(line, posix=True)
    words.whitespace_split = True
    if sys.platform == "win32":
        words.escape = ""
    return list(words)
