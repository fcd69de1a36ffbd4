"""What commands that write clips have in common: a video file, or a folder of frames."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import click

from flowwarp.cli import _paths
from flowwarp.errors import OutputError

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".gif", ".webp"})  # that can be written
_SHAPED = VIDEOS - {".gif", ".webp"}  # those that say which shape their pixels have
MAX_FPS = 1000  # of what is asked for


def is_folder_name(output: str) -> bool:
    """Say whether a clip of this name becomes a folder of frames."""
    return _paths.wants_folder((), output) or not Path(output).suffix


def is_video_name(output: str) -> bool:
    """Say whether a clip of this name becomes a video; if not, it becomes a folder of frames.

    Raises:
        click.UsageError: neither.
    """
    from flowwarp.io.file_types import IMAGE_EXTENSIONS

    suffix = Path(output).suffix.lower()
    if is_folder_name(output):
        return False
    if suffix in VIDEOS:
        return True
    if suffix in IMAGE_EXTENSIONS:
        raise click.UsageError(f"many frames need a folder or a video, but OUT is {output!r}")
    known = ", ".join(sorted(VIDEOS))
    raise click.UsageError(f"OUT must end in {known}, or be a folder, got {output!r}")


def check_rate(target: Path, rate: Fraction | float) -> None:
    """Refuse frames a second that the video cannot say, before any work.

    Raises:
        click.UsageError: as ``flowwarp.io.video_writer.check_fps``.
    """
    from flowwarp.io.video_writer import check_fps

    try:
        check_fps(target, rate)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from fault


def warn_pixel_shape(target: Path, aspect: Fraction, *, folder: bool) -> None:
    """Say so on stderr if a clip is made of pixels that are not square, and cannot tell it.

    Args:
        target: the clip.
        aspect: of the video it is made from, the width of a pixel by its height.
        folder: whether it becomes a folder of frames.
    """
    if aspect == 1 or (target.suffix.lower() in _SHAPED and not folder):
        return
    shape = f"{aspect.numerator}:{aspect.denominator}"
    problem = f"its pixels will be square, and those of the video are {shape}"
    lost = OutputError(target, problem, f"{', '.join(sorted(_SHAPED))} keep their shape")
    click.echo(f"flowwarp: {lost}", err=True)


def check_target(
    target: Path,
    *,
    folder: bool,
    overwrite: bool,
    read: Mapping[str, Path] | None = None,
    source: Path | None = None,
) -> None:
    """Refuse early what could not be written at the end; arguments as of `_paths.check_output`.

    Raises:
        OutputError: the file exists and ``overwrite`` is off, or is to be read; the folder is not
            empty; or it lies where nothing can be written.
    """
    if folder and os.path.lexists(target):  # False, not an exception, for a name too long
        if not target.is_dir() or any(target.iterdir()):
            raise OutputError(target, "exists and is not an empty folder", "name a new one")
    else:
        _paths.check_output(target, overwrite=overwrite, read=read, source=source)
