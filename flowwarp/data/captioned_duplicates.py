"""Finds videos of the same bytes, so that each is used once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from flowwarp.data.captioned_tar import CaptionedVideo, read_member, skip
from flowwarp.errors import InputError
from flowwarp.io.file_types import IMAGE_EXTENSIONS, list_folder
from flowwarp.io.files import open_input

_PART = 2**16  # bytes; few videos of the same length begin alike


def drop_duplicates(videos: Sequence[CaptionedVideo], skipped: list[str]) -> list[CaptionedVideo]:
    """Leave out each video whose bytes and caption an earlier one has.

    Videos of the same bytes with other captions stay, as one video may have several; ``original``
    of the later ones is the name of the first. Only files of equal length are read.

    Args:
        videos: in the order in which they are listed.
        skipped: a message about each that is left out is appended to it.
    """
    groups = _group(videos, range(len(videos)))
    originals = {number: group[0] for group in groups for number in group}
    firsts: dict[tuple[int, str], CaptionedVideo] = {}
    kept = []
    for number, video in enumerate(videos):
        original = originals[number]
        first = firsts.setdefault((original, video.caption), video)
        if first is not video:
            again = (
                "is listed twice" if first.name == video.name else f"is the same as {first.name}"
            )
            skip(f"{video.name}: {again}; it is used once", skipped)
        elif original == number:
            kept.append(video)
        else:
            kept.append(replace(video, original=videos[original].name))
    return kept


def _group(videos: Sequence[CaptionedVideo], numbers: Iterable[int]) -> list[list[int]]:
    """Divide numbers of videos into groups of the same bytes, comparing as little as is needed."""
    groups = [list(numbers)]
    for step in (_length, _beginning, _content):
        finer: list[list[int]] = []
        for group in groups:
            if len({videos[number].name for number in group}) == 1:  # nothing is to be told apart
                finer.append(group)
                continue
            parts: defaultdict[Hashable, list[int]] = defaultdict(list)
            for number in group:
                try:
                    key: Hashable = step(videos[number])
                except (InputError, OSError):  # such a video is reported when it is read
                    key = videos[number].name
                parts[key].append(number)
            finer += parts.values()
        groups = finer
    return groups


def _length(video: CaptionedVideo) -> int:
    return video.length if video.member else sum(path.stat().st_size for path in files_of(video))


def _beginning(video: CaptionedVideo) -> bytes:
    return next(_parts(video), b"")[:_PART]


def _content(video: CaptionedVideo) -> bytes:
    digest = hashlib.sha256()
    for part in _parts(video):
        digest.update(part)
    return digest.digest()


def _parts(video: CaptionedVideo) -> Iterator[bytes]:
    """Yield the bytes of a video; of a folder those of its pictures."""
    if video.member:
        yield from read_member(video)
        return
    for path in files_of(video):
        with open_input(path) as (file, _):
            while part := file.read(_PART):
                yield part


def files_of(video: CaptionedVideo) -> list[Path]:
    """Return the files that a video consists of: its pictures if it is a folder."""
    folder = video.file
    return list_folder(folder, IMAGE_EXTENSIONS) if folder.is_dir() else [folder]
