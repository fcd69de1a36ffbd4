"""``flowwarp steady``: take the flicker out of a video that was processed frame by frame."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, final

import click

from flowwarp.cli import _paths
from flowwarp.cli._options import (
    dry_run_option,
    input_argument,
    json_option,
    output_option,
    overwrite_option,
    weights_option,
)
from flowwarp.cli._report import print_path, progress_bar
from flowwarp.cli._video_output import check_rate, check_target, is_video_name, warn_pixel_shape
from flowwarp.cli.device import check_device, choose_device, device_option
from flowwarp.defaults import QUALITIES
from flowwarp.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.defaults import Quality
    from flowwarp.pipelines.flow.steady import Estimate


@dataclass(frozen=True)
class Job:
    """Input and output.

    Attributes:
        source: a video or a folder of frames.
        guide: the same video before processing, or None.
        target: a video or a folder of frames.
        fps: frames per second of the source; None for a folder as output.
        pixel_aspect: pixel width / pixel height of the source.
    """

    source: Path
    guide: Path | None
    target: Path
    fps: Fraction | None
    pixel_aspect: Fraction


@click.command()
@input_argument("processed", "PROCESSED")
@click.option(
    "--guide",
    metavar="ORIGINAL",
    help="The video before processing: it shows the motion better, and gives no colours.",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 10),
    default=1.0,
    show_default=True,
    help="How large a flicker is removed; 0 changes nothing.",
)
@output_option("The result, a video or a folder.  [default: beside PROCESSED]")
@click.option(
    "--quality",
    type=click.Choice(QUALITIES),
    default="fast",
    show_default=True,
    help="Accuracy of the flow, as in `flowwarp flow`.",
)
@weights_option("Flow network: base or small (shipped), or a file from train-flow.")
@device_option
@overwrite_option("Replace a file that exists.")
@json_option("the path")
@dry_run_option()
def command(
    processed: str,
    guide: str | None,
    strength: float,
    output: str | None,
    quality: Quality,
    weights: str,
    device: str,
    overwrite: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Take the flicker out of a video, or a folder of frames, that was processed frame by frame.

    Colour and brightness that jump from frame to frame become those of the frames around, along
    the motion; so does detail, where it matches. Real changes, such as a fade, stay. A cut begins
    anew.

    The motion is that of the original video, if --guide names it, else of PROCESSED itself. Both
    have the same number of frames; their sizes may differ.

    Default output: clip_steady.mp4 beside clip.avi, folder NAME_steady beside folder NAME. Frames
    in a folder are numbered from 000000.png; the folder must be new or empty. The path is printed
    on stdout. Sound and transparency are lost. A variable frame rate becomes its average.

    \b
    flowwarp steady colourised.mp4
    flowwarp steady stylised.mp4 --guide original.mp4 -o steady.mp4
    flowwarp steady depth_frames/ --strength 2 -o depth.mp4
    """  # noqa: D301 - click wants the character itself
    if math.isnan(strength):
        raise click.UsageError("--strength must be a number, got nan")
    check_device(device)
    job = _plan(processed, guide, output)
    check = partial(
        check_target,
        job.target,
        folder=job.fps is None,
        overwrite=overwrite,
        read=_paths.real_names([job.source] if job.guide is None else [job.source, job.guide]),
        source=job.source,
    )
    check()
    warn_pixel_shape(job.target, job.pixel_aspect, folder=job.fps is None)
    reader = _Reader(job.source)
    load = partial(_load, weights, quality)
    with progress_bar(reader, "steady", length=reader.length()) as frames:
        cuts = _run(job, reader, frames, strength, load, device, dry_run)
    if as_json:
        result = {
            "input": str(job.source),
            "guide": None if job.guide is None else str(job.guide),
            "output": str(job.target),
            "strength": strength,
            "quality": quality,
            "height": reader.size[0],
            "width": reader.size[1],
            "frames": reader.count,
            "fps": None if job.fps is None else round(float(job.fps), 6),
            "cuts": None if dry_run else cuts,
        }
        click.echo(json.dumps({"dry_run": dry_run, "results": [result], "failed": []}))
    else:
        print_path(job.target)


def _plan(processed: str, guide: str | None, output: str | None) -> Job:
    """Name the output.

    Raises:
        click.UsageError: an image is given, or the output has an unknown extension.
        InputError: PROCESSED cannot be read.
    """
    from flowwarp.io.file_types import IMAGE_EXTENSIONS, kind_of
    from flowwarp.io.video_container import DEFAULT_FPS
    from flowwarp.io.video_info import video_info

    source = Path(processed)
    folder = _paths.is_folder(processed)
    if not folder and kind_of(source) in IMAGE_EXTENSIONS:
        raise click.UsageError("one image cannot flicker: give a video or a folder of frames")
    if output is not None:
        target, video = Path(output), is_video_name(output)
    elif folder:
        target, video = _paths.name_folder_beside(source, "steady"), False
    else:
        target, video = _paths.name_beside(source, "steady", ".mp4"), True
    rate, aspect = Fraction(DEFAULT_FPS), Fraction(1)
    if not folder:
        info = video_info(source)
        rate, aspect = info.fps, info.pixel_aspect
    if video:
        check_rate(target, rate)
    original = None if guide is None else Path(guide)
    return Job(source, original, target, rate if video else None, aspect)


def _run(
    job: Job,
    reader: _Reader,
    frames: Iterable[Tensor],
    strength: float,
    load: Callable[[str], Estimate],
    device: str,
    dry_run: bool,
) -> int:
    """Write the steady video, or read all there is to read; return the number of cuts."""
    from flowwarp.io.video_writer import write_video
    from flowwarp.pipelines.flow.steady import steady

    guide = None if job.guide is None else _guide_frames(job.guide, reader)
    place = choose_device(device)
    estimate = load(place)
    if dry_run:
        for _ in frames:
            if guide is not None:
                next(guide)
        if guide is not None:
            next(guide, None)
        return 0
    cuts: list[int] = []
    placed = (frame.to(place) for frame in frames)
    shown = None if guide is None else (frame.to(place) for frame in guide)
    made = steady(placed, shown, strength, estimate=estimate, report=cuts.append)
    _paths.make_folder(job.target.parent)
    write_video(job.target, made, job.fps or 25, job.pixel_aspect)
    return len(cuts)


@final
class _Reader:
    """Iterates over the frames of the source, (3, H, W), and counts them."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.count = 0
        self.size = (0, 0)

    def length(self) -> int | None:
        from flowwarp.io.video_container import list_pictures
        from flowwarp.io.video_info import video_info

        if self.source.is_dir():
            return len(list_pictures(self.source))
        return video_info(self.source).frames

    def __iter__(self) -> Iterator[Tensor]:
        from flowwarp.io.video_reader import read_video

        for frame in read_video(self.source):
            self.count += 1
            self.size = (frame.shape[1], frame.shape[2])
            yield frame


def _guide_frames(path: Path, reader: _Reader) -> Iterator[Tensor]:
    """Yield the frames of the guide; each is asked for after the frame that it belongs to.

    Raises:
        InputError: it has fewer frames than the source, or more.
    """
    from flowwarp.io.video_reader import read_video

    count = 0
    remedy = f"it must have as many as {reader.source}"
    for frame in read_video(path):
        count += 1
        if count > reader.count:
            raise InputError(path, f"has more than {reader.count} frames", remedy)
        yield frame
    if count < reader.count:
        raise InputError(path, f"has {count} frames", remedy)


def _load(weights: str, quality: Quality, place: str) -> Estimate:
    from flowwarp.pipelines.flow.estimate import estimate_both, load_flownet

    net = load_flownet(weights, place)
    return lambda one, two: estimate_both(net, one, two, quality)
