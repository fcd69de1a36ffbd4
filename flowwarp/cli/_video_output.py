"""Checks for commands that write a video file or a folder of frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths
from flowwarp.errors import OutputError

if TYPE_CHECKING:
    from flowwarp.io.footage import Recording
    from flowwarp.io.footage_writer import Timing

# Formats we write; the first ones keep sound, times and the shape of pixels.
_CONTAINERS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm"})
VIDEOS = _CONTAINERS | {".gif", ".webp", ".apng"}
CODECS = ("h264", "h265", "vp9", "av1", "prores", "ffv1")  # of `flowwarp.io.footage_formats`
MAX_FPS = 1000  # for --fps


def codec_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options --codec and --crf of commands that make a video from a video."""
    crf = click.option(
        "--crf",
        type=click.IntRange(0, 63),
        help="Constant rate factor, less is better.  [default: visually lossless]",
    )
    codec = click.option(
        "--codec",
        type=click.Choice(CODECS),
        help="Video codec.  [default: the input's, if the file type allows it]",
    )
    return codec(crf(command))


def check_footage(
    target: Path,
    recording: Recording,
    timing: Timing,
    codec: str | None,
    crf: int | None,
    *,
    folder: bool,
) -> None:
    """Refuse a codec or frame rate that the output cannot have, before any work.

    Args:
        target: the output.
        recording: the input.
        timing: of the output.
        codec: the value of --codec.
        crf: the value of --crf.
        folder: whether the output is a folder of frames.

    Raises:
        click.UsageError: :func:`flowwarp.io.footage_writer.write_footage` would refuse them.
    """
    from flowwarp.io.footage_writer import find_losses

    if folder and (codec is not None or crf is not None):
        raise click.UsageError("--codec and --crf are for a video, but OUT is a folder")
    try:
        find_losses("" if folder else target.suffix.lower(), recording, timing, codec, crf)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from fault


def default_kind(recording: Recording) -> str:
    """Return the extension of the output of a video: the input's if it keeps what that has."""
    own = recording.path.suffix.lower()
    return own if own in _CONTAINERS or (recording.layout.alpha and own in VIDEOS) else ".mp4"


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
    if aspect == 1 or (target.suffix.lower() in _CONTAINERS and not folder):
        return
    shape = f"{aspect.numerator}:{aspect.denominator}"
    problem = f"will have square pixels, those of the video are {shape}"
    formats = ", ".join(sorted(_CONTAINERS))
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
