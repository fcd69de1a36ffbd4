"""Checks for commands that write a video file or a folder of frames."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import click

from flowwarp.cli import _paths
from flowwarp.errors import OutputError

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".gif", ".webp"})  # formats we write
_WITH_PIXEL_ASPECT = VIDEOS - {".gif", ".webp"}  # formats that store the shape of pixels
MAX_FPS = 1000  # for --fps


def is_folder_name(output: str) -> bool:
    """Return whether output of this name is a folder of frames."""
    return _paths.wants_folder((), output) or not Path(output).suffix


def is_video_name(output: str) -> bool:
    """Return whether output of this name is a video; if not, it is a folder of frames.

    Raises:
        click.UsageError: it is neither.
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
    """Refuse a frame rate that the video format cannot store, before any work.

    Raises:
            click.UsageError: ``flowwarp.io.video_writer.check_fps`` refuses it.
    """
    from flowwarp.io.video_writer import check_fps

    try:
        check_fps(target, rate)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from fault


def warn_pixel_shape(target: Path, aspect: Fraction, *, folder: bool) -> None:
    """Warn on stderr if the source's pixels are not square and the output cannot store that.

    Args:
        target: the output.
        aspect: pixel width / pixel height of the source.
        folder: whether the output is a folder of frames.
    """
    if aspect == 1 or (target.suffix.lower() in _WITH_PIXEL_ASPECT and not folder):
        return
    shape = f"{aspect.numerator}:{aspect.denominator}"
    problem = f"will have square pixels, those of the video are {shape}"
    formats = ", ".join(sorted(_WITH_PIXEL_ASPECT))
    click.echo(f"flowwarp: {OutputError(target, problem, f'{formats} keep the shape')}", err=True)


def check_target(
    target: Path,
    *,
    folder: bool,
    overwrite: bool,
    read: Mapping[str, Path] | None = None,
    source: Path | None = None,
) -> None:
    """Refuse output that could not be written at the end; arguments as in `_paths.check_output`.

    Raises:
        OutputError: the file exists and ``overwrite`` is off, or is an input; the folder is not
            empty; or nothing can be written there.
    """
    if folder and os.path.lexists(target):  # False, not an exception, if the name is too long
        if not target.is_dir() or any(target.iterdir()):
            raise OutputError(target, "exists and is not an empty folder", "name a new one")
    else:
        _paths.check_output(target, overwrite=overwrite, read=read, source=source)
