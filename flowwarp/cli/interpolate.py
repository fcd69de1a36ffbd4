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
    check_footage,
    check_target,
    codec_options,
    default_kind,
    is_folder_name,
    is_video_name,
)
from flowwarp.cli.device import check_device, choose_device, device_option
from flowwarp.errors import InputError
from flowwarp.io.limits import MIN_FPS

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.defaults import Quality
    from flowwarp.io.footage import Recording
    from flowwarp.io.footage_writer import Timing
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
        recording: what the source says of itself; None for images that become images.
        timing: when the frames of an output video are shown.
        codec: of an output video, if given.
        crf: of an output video, if given.
    """

    sources: tuple[Path, ...]
    from_video: bool
    target: Path
    kind: Literal["video", "frames", "middle"]
    recording: Recording | None
    timing: Timing
    codec: str | None
    crf: int | None

    @property
    def fps(self) -> Fraction | None:
        """Frames per second of an output video."""
        if self.kind != "video" or self.recording is None:
            return None
        return self.timing.rate_of(self.recording)


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
@codec_options
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
    codec: str | None,
    crf: int | None,
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

    A video keeps its sound, subtitles, metadata, times, transparency, bits and colours, as far as
    the type of OUT can hold them; a line says what is lost. Slow motion stretches the sound at the
    same pitch. Images become a video of 25 frames per second, before --times.

    \b
    flowwarp interpolate clip.mp4                    twice the frame rate
    flowwarp interpolate clip.mp4 --times 4 --slow   slow motion, 4 times as long
    flowwarp interpolate frames/ -o out.mp4 --fps 30
    flowwarp interpolate frame1.png frame2.png -o middle.png
    """  # noqa: D301 - click wants the character itself
    if slow and fps is not None:
        raise click.UsageError("--slow means --fps keep: give only one of them")
    check_device(device)
    job = _plan(inputs, output, times, "keep" if slow else fps, codec, crf)
    check = partial(
        check_target,
        job.target,
        folder=job.kind == "frames",
        overwrite=overwrite,
        read=_paths.real_names(job.sources),
        source=job.sources[0] if job.from_video else None,
    )
    check()
    result = _run(job, times, quality, weights, device, dry_run, check)
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "results": [result], "failed": []}))
    else:
        print_path(job.target)


# ------------------------------------------------------------------ plan


def _plan(
    inputs: tuple[str, ...],
    output: str | None,
    times: int,
    fps: str | None,
    codec: str | None,
    crf: int | None,
) -> Job:
    """Return the input files and the output.

    Raises:
        click.UsageError: the arguments do not fit together.
        InputError: a folder or glob contains no images, or a video cannot be read.
    """
    from flowwarp.io.file_types import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, kind_of
    from flowwarp.io.footage import open_footage, open_pictures

    if len(inputs) > 1 and any(kind_of(name) in VIDEO_EXTENSIONS for name in inputs):
        raise click.UsageError(f"one clip at a time, got {len(inputs)}")
    first = Path(inputs[0])
    single = len(inputs) == 1 and not _paths.wants_folder(inputs, "")
    if single and kind_of(first) in IMAGE_EXTENSIONS:
        raise click.UsageError("one image has no motion: give two, a folder or a video")
    # One by one, because an image may be given twice: expand_inputs drops duplicates.
    several = (_paths.expand_inputs([name], IMAGE_EXTENSIONS) for name in inputs)
    sources = [first] if single else list(chain.from_iterable(several))
    recording = open_footage(first) if single else None
    target = Path(output) if output else _name_target(inputs, first, recording, times)
    kind: Literal["video", "frames", "middle"] = "video" if single else "frames"
    if output is not None:  # a default name may end in anything
        kind = _kind(output, len(sources) == 2 and times == 2)
    if kind != "video" and fps is not None:
        raise click.UsageError(f"--fps and --slow are for a video, but OUT is {str(target)!r}")
    if recording is None and kind == "video":
        recording = open_pictures(sources)
    timing = _timing(fps, recording, times)
    if recording is not None:
        check_footage(target, recording, timing, codec, crf, folder=kind != "video")
    elif codec is not None or crf is not None:
        raise click.UsageError(f"--codec and --crf are for a video, but OUT is {str(target)!r}")
    return Job(tuple(sources), single, target, kind, recording, timing, codec, crf)


def _name_target(
    inputs: tuple[str, ...], first: Path, recording: Recording | None, times: int
) -> Path:
    if recording is not None:
        return _paths.name_beside(first, f"x{times}", default_kind(recording))
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


def _timing(fps: str | None, recording: Recording | None, times: int) -> Timing:
    """Return when output frames are shown.

    Raises:
        click.UsageError: ``fps`` is neither a rate nor "keep".
    """
    from flowwarp.io.footage_writer import Timing

    if fps is not None and fps != "keep":
        return Timing(times, fps=_rate(fps))
    if recording is not None and recording.kind == "pictures":  # have no times of their own
        return Timing(times, fps=recording.info.fps * (times if fps is None else 1))
    return Timing(times, Fraction(times if fps == "keep" else 1))


def _rate(fps: str) -> Fraction:
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
    from flowwarp.io.footage_writer import report_losses

    reader = _Reader(job)
    skipped: Counter[str] = Counter()  # pairs of frames without interpolation: cut, repeat
    several = job.kind != "middle"
    estimate = _estimator(weights, quality, device)
    with progress_bar(reader, "interpolate", length=reader.length(), shown=several) as frames:
        if dry_run:
            if job.recording is not None:
                folder = job.kind != "video"
                report_losses(job.target, job.recording, job.timing, job.codec, job.crf, folder)
            for _ in frames:
                pass
        else:
            _write(job, times, reader, frames, estimate, skipped, check)
    if skipped["cut"] and len(job.sources) == 2:
        click.echo("flowwarp: the images show two scenes: the first image is repeated", err=True)
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
    from flowwarp.io.footage_writer import write_footage
    from flowwarp.io.images import write_image
    from flowwarp.io.video_writer import write_frames
    from flowwarp.pipelines.flow.interpolate import interpolate_video

    result = interpolate_video(frames, times, estimate, report=lambda kind: skipped.update([kind]))
    _paths.make_folder(job.target.parent)
    if job.recording is not None:
        folder = job.kind != "video"
        write_footage(
            job.target,
            result,
            job.recording,
            job.timing,
            codec=job.codec,
            crf=job.crf,
            folder=folder,
        )
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
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.count = 0
        self.size = (0, 0)
        self.format: ImageFormat | None = None
        self.between: ImageFormat | None = None

    def length(self) -> int | None:
        if self.job.from_video and self.job.recording is not None:
            return self.job.recording.info.frames
        return len(self.job.sources)

    def __iter__(self) -> Iterator[Tensor]:
        source = self.job.sources[0]
        for frame in self._frames():
            self.count += 1
            self.size = (frame.shape[1], frame.shape[2])
            yield frame
        if self.count < 2:
            raise InputError(source, "is a single frame", "motion needs two")

    def _frames(self) -> Iterator[Tensor]:
        if self.job.from_video and self.job.recording is not None:
            return self.job.recording.frames()
        return self._pictures()

    def formatted(
        self, frames: Iterable[Tensor], times: int
    ) -> Iterator[tuple[Tensor, ImageFormat | None]]:
        """Pair each output frame with its file format: a source frame's own, or ``between``."""
        for number, frame in enumerate(frames):
            yield frame, self.between if number % times else self.format

    def _pictures(self) -> Iterator[Tensor]:
        from flowwarp.io.images import check_kind, read_image_with_format
        from flowwarp.io.video_reader import fit_channels

        first: tuple[int, ...] | None = None
        for path in self.job.sources:
            before = self.format
            image, self.format = read_image_with_format(path)
            self.between = _join(before or self.format, self.format)
            if self.job.recording is not None:  # becomes a video
                image = fit_channels(path, image, 4 if self.job.recording.layout.alpha else 3)
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
