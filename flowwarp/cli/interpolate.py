"""``flowwarp interpolate``: insert frames into videos, folders of frames, and image pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import click

from flowwarp.cli import _paths
from flowwarp.cli._options import (
    dry_run_option,
    input_argument,
    json_option,
    output_option,
    overwrite_option,
    quality_option,
    weights_option,
)
from flowwarp.cli._report import print_path, progress_bar
from flowwarp.cli._video_output import (
    MAX_FPS,
    check_rate,
    check_target,
    is_folder_name,
    is_video_name,
    warn_pixel_shape,
)
from flowwarp.cli.device import check_device, choose_device, device_option
from flowwarp.errors import InputError, OutputError
from flowwarp.io.limits import MIN_FPS

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.defaults import Quality
    from flowwarp.io.images import ImageFormat
    from flowwarp.pipelines.flow.interpolate import Estimate


@dataclass(frozen=True)
class Job:
    """Input and output.

    Attributes:
        sources: one video, or images in order.
        from_video: whether the source is a video.
        target: the output.
        kind: of the output: a video, a folder of frames, or the one middle frame of two images.
        fps: frames per second of an output video.
        pixel_aspect: pixel width / pixel height of the source video.
    """

    sources: tuple[Path, ...]
    from_video: bool
    target: Path
    kind: Literal["video", "frames", "middle"]
    fps: Fraction | None
    pixel_aspect: Fraction = Fraction(1)


@click.command()
@input_argument("inputs", "CLIP|FOLDER|FRAMES...", nargs=-1)
@output_option("The result: a video or folder; for two images also one image, the middle.")
@click.option(
    "--times",
    type=click.IntRange(2, 8),
    default=2,
    show_default=True,
    metavar="N",
    help="Multiply the number of frames by N, 2 to 8.",
)
@click.option("--slow", is_flag=True, help="Slow motion: keep the frame rate (same as --fps keep).")
@click.option(
    "--fps",
    metavar="RATE",
    help="Frames per second of the output video, or keep.  [default: N times the input's]",
)
@quality_option("Accuracy of the flow, as in `flowwarp flow`.")
@weights_option("Flow network: base or small (shipped), or a file from train-flow.")
@device_option
@overwrite_option("Replace a file that exists.")
@json_option("the path")
@dry_run_option()
def command(
    inputs: tuple[str, ...],
    output: str | None,
    times: int,
    slow: bool,
    fps: str | None,
    quality: Quality,
    weights: str,
    device: str,
    overwrite: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Insert frames between the frames of a video, a folder or glob of images, or two images.

    N - 1 new frames follow each frame but the last, placed along the motion to the next frame. At
    a cut, and between equal frames, the earlier frame is repeated. The input frames stay the same:
    bit for bit where images are written (16-bit colour TIFFs are read as 8-bit).

    Default output: clip_x2.mp4 beside clip.avi, folder NAME_x2 beside folder NAME, folder a_x2 for
    a.png b.png. Frames in a folder are numbered from 000000.png; the folder must be new or empty.
    The path is printed on stdout.

    Videos lose sound and transparency. A variable frame rate becomes its average. In .mp4, .m4v,
    .mov and .mkv, which need even sizes, an odd last column or row is repeated; only these keep
    pixels that are not square. Images become a video of 25 frames per second, before --times.

    \b
    flowwarp interpolate clip.mp4                    twice the frame rate
    flowwarp interpolate clip.mp4 --times 4 --slow   slow motion, 4 times as long
    flowwarp interpolate frames/ -o out.mp4 --fps 30
    flowwarp interpolate frame1.png frame2.png -o middle.png
    """  # noqa: D301 - click wants the character itself
    if slow and fps is not None:
        raise click.UsageError("--slow means --fps keep: give only one of them")
    check_device(device)
    job = _plan(inputs, output, times, "keep" if slow else fps)
    check = partial(
        check_target,
        job.target,
        folder=job.kind == "frames",
        overwrite=overwrite,
        read=_paths.real_names(job.sources),
        source=job.sources[0] if job.from_video else None,
    )
    check()
    warn_pixel_shape(job.target, job.pixel_aspect, folder=job.kind != "video")
    result = _run(job, times, quality, weights, device, dry_run, check)
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "results": [result], "failed": []}))
    else:
        print_path(job.target)


# ------------------------------------------------------------------ plan


def _plan(inputs: tuple[str, ...], output: str | None, times: int, fps: str | None) -> Job:
    """Return the input files and the output.

    Raises:
        click.UsageError: inputs, ``output``, ``times`` and ``fps`` do not fit together.
        InputError: a folder or glob contains no images, or a video cannot be read.
    """
    from flowwarp.io.file_types import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, kind_of
    from flowwarp.io.video_container import DEFAULT_FPS
    from flowwarp.io.video_info import video_info

    if len(inputs) > 1 and any(kind_of(name) in VIDEO_EXTENSIONS for name in inputs):
        raise click.UsageError(f"one clip at a time, got {len(inputs)}")
    first = Path(inputs[0])
    single = len(inputs) == 1 and not _paths.wants_folder(inputs, "")
    if single and kind_of(first) in IMAGE_EXTENSIONS:
        raise click.UsageError("one image has no motion: give two, a folder or a video")
    # One by one, because an image may be given twice: expand_inputs drops duplicates.
    several = (_paths.expand_inputs([name], IMAGE_EXTENSIONS) for name in inputs)
    sources = [first] if single else list(chain.from_iterable(several))
    target = Path(output) if output else _name_target(inputs, first, single, times)
    kind: Literal["video", "frames", "middle"] = "video" if single else "frames"
    if output is not None:  # a default name may end in anything
        kind = _kind(output, len(sources) == 2 and times == 2)
    if kind != "video" and fps is not None:
        raise click.UsageError(f"--fps and --slow are for a video, but OUT is {str(target)!r}")
    rate, aspect = DEFAULT_FPS, Fraction(1)
    if single:
        info = video_info(first)
        rate, aspect = info.fps, info.pixel_aspect
    if kind != "video":
        return Job(tuple(sources), single, target, kind, None, aspect)
    rate = _rate(fps, rate, times)
    check_rate(target, rate)
    return Job(tuple(sources), single, target, kind, rate, aspect)


def _name_target(inputs: tuple[str, ...], first: Path, single: bool, times: int) -> Path:
    if single:
        return _paths.name_beside(first, f"x{times}", ".mp4")
    if first.is_dir():
        return _paths.name_folder_beside(first, f"x{times}")
    if _paths.wants_folder(inputs[:1], ""):
        raise click.UsageError("give -o OUT when the frames are a pattern")
    return first.with_name(f"{first.stem}_x{times}")


def _kind(output: str, one_new: bool) -> Literal["video", "frames", "middle"]:
    """Return the kind of ``output``; ``one_new``: there is one new frame, so it can be an image."""
    from flowwarp.io.file_types import IMAGE_EXTENSIONS

    picture = Path(output).suffix.lower() in IMAGE_EXTENSIONS
    if one_new and picture and not is_folder_name(output):
        return "middle"
    return "video" if is_video_name(output) else "frames"


def _rate(fps: str | None, rate: Fraction, times: int) -> Fraction:
    if fps is None:
        return rate * times
    if fps == "keep":
        return rate
    wanted = Fraction(0)
    if "e" not in fps.lower():  # Fraction("1e999999999") would fill the memory
        with suppress(ValueError, ZeroDivisionError):
            wanted = Fraction(fps)
    if not MIN_FPS <= wanted <= MAX_FPS:
        span = f"a number from {MIN_FPS} to {MAX_FPS}"
        raise click.UsageError(f"--fps must be keep, or {span}, got {fps!r}")
    return wanted


# ------------------------------------------------------------------ run


def _run(
    job: Job,
    times: int,
    quality: Quality,
    weights: str,
    device: str,
    dry_run: bool,
    check: Callable[[], None],
) -> dict[str, Any]:
    """Interpolate one frame at a time; write nothing unless every frame can be read.

    Returns:
        The record for --json.
    """
    reader = _Reader(job)
    skipped: Counter[str] = Counter()  # pairs of frames without interpolation: cut, repeat
    several = job.kind != "middle"
    estimate = _estimator(weights, quality, device)
    with progress_bar(reader, "interpolate", length=reader.length(), shown=several) as frames:
        if dry_run:
            for _ in frames:
                pass
        else:
            _write(job, times, reader, frames, estimate, skipped, check)
    if skipped["cut"] and len(job.sources) == 2:
        click.echo("flowwarp: the images show two scenes: the first image is repeated", err=True)
    if reader.loses_alpha:
        lost = OutputError(job.target, "has no transparency", "hidden colours become visible")
        click.echo(f"flowwarp: {lost}", err=True)
    sources = [str(source) for source in job.sources]
    return {
        "input": sources[0] if job.from_video else sources,
        "output": str(job.target),
        "times": times,
        "quality": quality,
        "height": reader.size[0],
        "width": reader.size[1],
        "frames_read": reader.count,
        "frames": 1 if job.kind == "middle" else times * (reader.count - 1) + 1,
        "fps": None if job.fps is None else round(float(job.fps), 6),
        "cuts": None if dry_run else skipped["cut"],
        "repeats": None if dry_run else skipped["repeat"],
    }


def _write(
    job: Job,
    times: int,
    reader: _Reader,
    frames: Iterable[Tensor],
    estimate: Estimate,
    skipped: Counter[str],
    check: Callable[[], None],
) -> None:
    """Interpolate between frames (C, H, W) and write the video, the folder or the middle frame."""
    from flowwarp.io.images import write_image
    from flowwarp.io.video_writer import write_frames, write_video
    from flowwarp.pipelines.flow.interpolate import interpolate_video

    result = interpolate_video(frames, times, estimate, report=lambda kind: skipped.update([kind]))
    _paths.make_folder(job.target.parent)
    if job.kind == "video":
        assert job.fps is not None
        colors = (frame[:3] for frame in result)
        write_video(job.target, colors, job.fps, job.pixel_aspect)
    elif job.kind == "frames":
        write_frames(job.target, reader.formatted(result, times))
    else:
        _, middle, _ = result
        check()  # again: the fit may have taken minutes
        write_image(job.target, middle, reader.between)


@final
class _Reader:
    """Iterates over the frames of a job, (C, H, W), and records their properties.

    Attributes:
        count: number of frames read.
        size: their height and width.
        format: file format of the newest frame; None for frames of a video.
        between: file format for frames between the newest two; None for frames of a video.
        loses_alpha: whether an image has transparent pixels, which the output video cannot store.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.count = 0
        self.size = (0, 0)
        self.format: ImageFormat | None = None
        self.between: ImageFormat | None = None
        self.loses_alpha = False

    def length(self) -> int | None:
        from flowwarp.io.video_info import video_info

        if self.job.from_video:
            return video_info(self.job.sources[0]).frames
        return len(self.job.sources)

    def __iter__(self) -> Iterator[Tensor]:
        from flowwarp.io.video_reader import read_video

        source = self.job.sources[0]
        for frame in read_video(source) if self.job.from_video else self._pictures():
            self.count += 1
            self.size = (frame.shape[1], frame.shape[2])
            yield frame
        if self.count < 2:
            raise InputError(source, "is a single frame", "motion needs two")

    def formatted(
        self, frames: Iterable[Tensor], times: int
    ) -> Iterator[tuple[Tensor, ImageFormat | None]]:
        """Pair each output frame with its file format: a source frame's own, or ``between``."""
        for number, frame in enumerate(frames):
            yield frame, self.between if number % times else self.format

    def _pictures(self) -> Iterator[Tensor]:
        from flowwarp.io.images import check_kind, read_image_with_format

        first: tuple[int, ...] | None = None
        for path in self.job.sources:
            before = self.format
            image, self.format = read_image_with_format(path)
            self.between = _join(before or self.format, self.format)
            if self.job.kind == "video":
                self.loses_alpha |= bool((image[3:] < 1).any())
                image = image[:3]  # our video formats store no alpha
            shape = tuple(image.shape)
            first = first or shape
            if shape[1:] != first[1:]:
                sizes = [f"{width}x{height}" for _, height, width in (shape, first)]
                raise InputError(path, f"is {sizes[0]}, the first is {sizes[1]}")
            if shape != first:
                has = ("has", "has none") if shape[0] == 4 else ("has no", "has some")
                raise InputError(path, f"{has[0]} transparency, the first {has[1]}")
            if self.job.kind == "middle" and before is not None:
                check_kind(self.job.target, self.between)
            yield image


def _join(one: ImageFormat, other: ImageFormat) -> ImageFormat:
    """Return the file format for a frame between two: colour and the greater bit depth of both."""
    wider = other if one.gray else one
    return replace(wider, bits=max(one.bits, other.bits))


def _estimator(weights: str, quality: Quality, device: str) -> Estimate:
    from flowwarp.pipelines.flow.estimate import estimate_both, load_flownet

    place = choose_device(device)
    net = load_flownet(weights, place)
    return lambda one, two: estimate_both(net, one.to(place), two.to(place), quality)
