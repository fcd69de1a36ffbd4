"""The extensions of flow files, pictures and videos, and the files of a type in a folder."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from flowwarp.errors import InputError
from flowwarp.io.files import open_input, reason

# Every list of flow formats, such as that of ``convert --to``, is made from this one.
# `flowwarp.io.flow_files` has a reader and a writer for each.
FLOW_FORMATS = ("flo", "png", "pfm", "npy", "npz")
FLOW_EXTENSIONS = frozenset(f".{name}" for name in FLOW_FORMATS)

IMAGE_EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
)
COLOR_EXTENSIONS = IMAGE_EXTENSIONS - {".pgm"}  # .pgm is grey only
ANIMATED_WEBP = "animated .webp"  # has the extension of a picture; `kind_of` reads its header
VIDEO_EXTENSIONS = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".gif", ".apng"}
    | {".mts", ".m2ts", ".wmv", ".flv", ".ogv", ".3gp", ANIMATED_WEBP}
)


def kind_of(path: str | Path) -> str:
    """Return the extension of a file in lower case, or ``ANIMATED_WEBP``.

    The result shows whether an existing file is a picture or a video. For a file that cannot be
    read, it depends on the name alone; the reader raises the error.
    """
    suffix = Path(path).suffix.lower()
    return ANIMATED_WEBP if suffix == ".webp" and _is_animated(path) else suffix


def _is_animated(webp: str | Path) -> bool:
    """Return whether the header of a WebP states that it is animated.

    Source: developers.google.com/speed/webp/docs/riff_container, "Extended File Format".
    """
    with suppress(InputError), open_input(webp) as (file, _):
        head = file.read(21)
        is_extended = len(head) == 21 and head[:4] + head[8:16] == b"RIFFWEBPVP8X"
        return is_extended and bool(head[20] & 0b10)
    return False


def list_folder(folder: str | Path, extensions: frozenset[str]) -> list[Path]:
    """Return the files of some types in natural order, ``frame2`` before ``frame10``.

    Hidden files are omitted.

    Args:
        folder: the folder to list.
        extensions: as :func:`kind_of` returns them, such as ``IMAGE_EXTENSIONS``.

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
    """Return a sort key by which ``frame2`` comes before ``frame10``."""
    # int() accepts at most 4300 digits, so longer runs are split. The name itself comes last, so
    # that the order of a01 and a1 is defined.
    parts = re.split(r"([0-9]{1,18})", name.lower())
    return [
        (p.isdecimal(), int(p) if p.isdecimal() and p.isascii() else 0, p) for p in [*parts, name]
    ]
