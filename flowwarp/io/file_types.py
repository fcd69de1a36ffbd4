"""Which extensions name flow files, pictures and videos, and the files of a kind in a folder."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from flowwarp.errors import InputError
from flowwarp.io.files import open_input, reason

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
