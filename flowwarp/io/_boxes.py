"""The number of samples that an MP4 or MOV file states: FFmpeg allocates an index of that size.

Source: ISO/IEC 14496-12, 4.2 "Object structure", 8.7.3 (stsz), 8.8.8 (trun).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flowwarp.errors import InputError

# Boxes that contain boxes and that FFmpeg enters, and the depth to which it does.
_HOLDERS = frozenset(b"moov trak edts mdia minf dinf stbl mvex moof traf tref udta wave".split())
_DEEPEST = 10


def check_samples(path: str | Path, file: BinaryIO, size: int) -> None:
    """Check that an MP4 or MOV file states no more samples than it has bytes; others pass.

    Args:
        path: names the file in messages.
        file: open for reading; its position is 0 afterwards.
        size: of the file, in bytes.

    Raises:
        InputError: it states more.
    """
    stated = 0
    for kind, start in _boxes(file, 0, size):
        if kind in (b"stsz", b"trun"):
            file.seek(start)
            head = file.read(12)  # version and flags; in stsz, the size of all, 0 if each is listed
            first, second = int.from_bytes(head[4:8]), int.from_bytes(head[8:])
            stated += first if kind == b"trun" else second if first else 0
            if stated > size:
                raise InputError(path, f"claims {stated} samples in {size} bytes of file")
    file.seek(0)


def _boxes(file: BinaryIO, at: int, end: int, depth: int = 0) -> Iterator[tuple[bytes, int]]:
    """Yield the type of each box that contains no boxes, and the position of its content."""
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        length, kind, start = int.from_bytes(head[:4]), head[4:8], at + 8
        if length == 1:
            length, start = int.from_bytes(head[8:]), at + 16
        if length == 0:  # up to the end
            length = end - at
        if length < start - at:
            return
        at += length
        if kind not in _HOLDERS:
            yield kind, start
        elif depth < _DEEPEST:
            yield from _boxes(file, start, min(at, end), depth + 1)
