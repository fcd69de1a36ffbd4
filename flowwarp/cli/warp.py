"""``flowwarp warp``: warp images, folders of frames and videos by optical flow."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths
from flowwarp.cli._options import (
    dry_run_option,
    input_argument,
    json_option,
    output_option,
    overwrite_option,
)
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.cli._video_output import (
    VIDEOS,
    check_footage,
    check_target,
    codec_options,
    is_folder_name,
    is_video_name,
)
from flowwarp.cli.device import check_device, choose_device, device_option
from flowwarp.errors import InputError, OutputError, printable
from flowwarp.ops.padding import PADDINGS

if TYPE_CHECKING:
    from torch import Tensor

BACKWARD = ("bilinear", "nearest", "bicubic")
FORWARD = ("average", "softmax")
_NOT_RESULT = ("device", "codec", "crf")  # options that do not change a picture
SOFTMAX_RANGE = 20.0  # the fastest pixel has e^20 times the weight of a still one


@dataclass(frozen=True)
class WarpOptions:
    """How to warp: the options of the command by their names."""

    forward: bool
    mode: str | None
    padding: str | None
    scale: float
    resize: bool
    device: str
    codec: str | None
    crf: int | None


@dataclass(frozen=True)
class Job:
    """One source and its output: an image with one flow, or a video with its flows.

    Attributes:
        source: an image or a video.
        flows: one flow file; of a video one, or one per frame.
        target: the output.
        mask: output image; of a video, a folder of images.
        folder: whether the target of a video is a folder of frames.
    """

    source: Path
    flows: Sequence[Path]
    target: Path
    mask: Path | None
    folder: bool = False

    @property
    def results(self) -> list[Path]:
        """The files and folders to write."""
        return [self.target, *([self.mask] if self.mask else [])]


@click.command()
@input_argument("image", "IMAGE")
@input_argument("flow", "FLOW")
@output_option("The result: an image or video; for a folder of frames, a folder.")
@click.option(
    "--forward", is_flag=True, help="Forward warping (splatting): move each pixel along the flow."
)
@click.option(
    "--mode",
    type=click.Choice(BACKWARD + FORWARD),
    help="Interpolation: bilinear (default), nearest or bicubic. With --forward, where several"
    " pixels meet: average (default), or softmax, by which the faster pixel wins.",
)
@click.option(
    "--padding", type=click.Choice(PADDINGS), help="Values outside the image.  [default: border]"
)
@click.option(
    "--scale",
    default=1.0,
    metavar="T",
    show_default=True,
    help="Multiply the flow by T, for example 0.5.",
)
@click.option("--resize", is_flag=True, help="Resize a flow of another size to the image.")
@output_option("Also write a mask: white where the result is known.", "--mask", metavar="PNG")
@codec_options
@device_option
@overwrite_option()
@json_option("paths")
@dry_run_option()
def command(
    image: str,
    flow: str,
    output: str | None,
    mask: str | None,
    overwrite: bool,
    as_json: bool,
    dry_run: bool,
    **given: Any,
) -> None:
    """Warp IMAGE by FLOW. IMAGE is an image, a video, or a folder or glob of frames.

    Backward warping (default) reads each pixel of the result where the flow points: the flow from
    frame 1 to frame 2 makes frame 2 look like frame 1. With --forward each pixel moves along the
    flow, which makes frame 1 look like frame 2. Unknown pixels are black, or transparent if IMAGE
    has alpha.

    A single flow file warps every frame. A folder of flow files has one per frame, or one fewer:
    flow k then leads from frame k to frame k + 1, and the results begin with frame 2, with
    --forward with frame 1.

    Default output: image_warped.png beside image.jpg, clip_warped.mp4 beside clip.mp4, folder
    NAME_warped beside folder NAME. The paths are printed on stdout.

    A video keeps its sound, subtitles, metadata, times, transparency, bits and colours, as far as
    the type of OUT can hold them; a line says what is lost.

    With a folder of frames, a broken frame does not stop the others, and the same command resumes
    an interrupted job and retries frames that failed. OUT/manifest.jsonl lists the frames done.

    \b
    flowwarp warp frame2.png flow.flo                        looks like frame 1
    flowwarp warp frame1.png flow.flo --forward              looks like frame 2
    flowwarp warp frame1.png flow.flo --forward --scale 0.5  halfway
    flowwarp warp clip.mp4 flow.flo --resize -o warped.mp4   the same flow for every frame
    """  # noqa: D301 - click wants the character itself
    options = WarpOptions(**given)
    _check_options(options)
    shared = not _paths.wants_folder([flow], "")
    flows = _paths.expand_flows([flow])
    if shared:
        _read_flow(flows[0], options)  # if it is broken, report it once

    video = _is_video(image, output)
    if not video and (options.codec is not None or options.crf is not None):
        raise click.UsageError("--codec and --crf are for a video")
    jobs = _list_jobs(image, flows, output, mask, shared, video, options)
    many = not video and _paths.wants_folder([image], "")
    # A folder of results is checked as a whole later: an earlier run may have begun to fill it.
    read = {} if many else _paths.real_names([jobs[0].source, *jobs[0].flows])
    check = functools.partial(check_target, overwrite=overwrite or many, read=read)
    for job in jobs:
        check(job.target, folder=job.folder, source=job.source)
        if job.mask:
            check(job.mask, folder=video)

    results: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []

    def report(job: Job, result: dict[str, Any]) -> None:
        results.append(result)
        if not as_json:
            print_path(job.target)

    if many:
        about = {
            "job": "warp",
            "source": [os.path.abspath(image), os.path.abspath(flow)],  # noqa: PTH100 - no links
            "mask": mask and os.path.abspath(mask),  # noqa: PTH100
            **{key: value for key, value in asdict(options).items() if key not in _NOT_RESULT},
        }
        failed = _warp_many(jobs, about, options, report, dry_run=dry_run, overwrite=overwrite)
    elif video:
        report(jobs[0], _warp_video(jobs[0], options, shared, dry_run))
    else:
        report(jobs[0], _warp_picture(jobs[0], options, dry_run))
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "results": results, "failed": failed}))
    raise_if_failed(failed, len(jobs))


def _check_options(options: WarpOptions) -> None:
    """Refuse options that exclude each other.

    Raises:
        click.UsageError: there are such options.
    """
    if options.mode in (BACKWARD if options.forward else FORWARD):
        raise click.UsageError(
            f"--mode {options.mode} does not go with --forward"
            if options.forward
            else f"--mode {options.mode} needs --forward"
        )
    if options.forward and options.padding:
        raise click.UsageError("--padding does not go with --forward, which reads nothing outside")
    if not math.isfinite(options.scale):
        raise click.UsageError(f"--scale must be a finite number, got {options.scale}")
    check_device(options.device)


# ------------------------------------------------------------------ plan


def _is_video(image: str, output: str | None) -> bool:
    from flowwarp.io.file_types import VIDEO_EXTENSIONS, kind_of

    path = Path(image)
    if path.is_dir():
        kind = Path(output or "").suffix.lower()
        return kind in VIDEOS and not is_folder_name(output or "")
    return kind_of(path) in VIDEO_EXTENSIONS


def _list_jobs(
    image: str,
    flows: list[Path],
    output: str | None,
    mask: str | None,
    shared: bool,
    video: bool,
    options: WarpOptions,
) -> list[Job]:
    """Pair each source with its flows, output and mask."""
    from flowwarp.io.file_types import IMAGE_EXTENSIONS

    if video:
        target = Path(output) if output else _name_video(Path(image))
        folder = not is_video_name(output or str(target))
        if mask and not is_folder_name(mask):
            raise click.UsageError(f"--mask must name a folder for a video, got {mask!r}")
        jobs = [Job(Path(image), flows, target, Path(mask) if mask else None, folder)]
    else:
        sources = _paths.expand_inputs([image], IMAGE_EXTENSIONS)
        first = 0 if shared else _first_frame(flows, len(sources), options)
        if not shared:
            _warn_order(sources, flows)
        pairs = list(zip(sources[first:], flows * len(sources) if shared else flows, strict=False))
        sources = [source for source, _ in pairs]
        targets = _name_pictures(image, sources, output or _default_output(image), "OUT")
        masks = _name_pictures(image, sources, mask, "--mask") if mask else repeat(None)
        jobs = [
            Job(source, [flow], target, known)
            for (source, flow), target, known in zip(pairs, targets, masks, strict=False)
        ]
    if any(job.mask and os.path.realpath(job.target) == os.path.realpath(job.mask) for job in jobs):
        raise click.UsageError(f"--mask and OUT are both {mask!r}")
    return jobs


def _first_frame(flows: Sequence[Path], frames: int, options: WarpOptions) -> int:
    """Return the index of the frame that the first flow warps.

    With one flow per frame it is 0. With one fewer, flow k leads from frame k to k + 1: backward
    warping reads frame k + 1, so it is 1; forward warping moves frame k, so it is 0.

    Raises:
        InputError: another number of flows.
    """
    if len(flows) == frames:
        return 0
    if len(flows) == frames - 1:
        return 0 if options.forward else 1
    raise InputError(
        flows[0].parent,
        f"holds {len(flows)} flow files for {frames} frames",
        "give one per frame, one fewer, or a single file for all frames",
    )


def _warn_order(sources: Sequence[Path], flows: Sequence[Path]) -> None:
    """Warn if flows, which are paired with frames in order, are named after other frames."""
    names = {source.stem for source in sources}
    for source, flow in zip(sources, flows, strict=False):
        if flow.stem in names and flow.stem != source.stem:
            line = f"{flow}: is used for {source.name}, but is named after another frame"
            click.echo(f"flowwarp: {printable(line)}", err=True)
            return


def _default_output(image: str) -> str:
    path = Path(image)
    if path.is_dir():
        return str(_paths.name_folder_beside(path, "warped"))
    if _paths.wants_folder([image], ""):
        raise click.UsageError("give -o FOLDER when IMAGE is a pattern")
    return str(_paths.name_beside(path, "warped", ".png"))


def _name_video(source: Path) -> Path:
    kind = source.suffix.lower()
    return _paths.name_beside(source, "warped", kind if kind in VIDEOS else ".mp4")


def _name_pictures(image: str, sources: list[Path], output: str, name: str) -> list[Path]:
    """Return the output file of each source.

    Args:
        image: the argument IMAGE.
        sources: the files it stands for.
        output: the value of the option.
        name: the option, for messages.
    """
    from flowwarp.io.file_types import IMAGE_EXTENSIONS

    if _paths.wants_folder([image], output):
        _paths.check_folder_name(output, f"many frames need a folder, but {name} is")
        return _paths.name_outputs(sources, Path(output), ".png")
    known = IMAGE_EXTENSIONS if name == "OUT" else {".png"}
    if Path(output).suffix.lower() not in known:
        raise click.UsageError(f"{name} must end in {', '.join(sorted(known))}, got {output!r}")
    return [Path(output)]


# ------------------------------------------------------------------ work


def _warp_many(
    jobs: Sequence[Job],
    about: Mapping[str, Any],
    options: WarpOptions,
    report: Callable[[Job, dict[str, Any]], None],
    *,
    dry_run: bool,
    overwrite: bool,
) -> list[dict[str, str]]:
    """Warp the frames that the manifest does not list as done; return which frames failed.

    Raises:
        Locked: another process works on this folder.
        OutputError: the output folder contains input files or another job's results, or a result
            cannot be written.
    """
    from flowwarp.io.manifests import find_done, open_manifest, read_manifests, stamp

    folders = list(dict.fromkeys(path.parent for path in jobs[0].results))
    read = dict.fromkeys(_paths.folders_of(flow for job in jobs for flow in job.flows), "flows")
    read |= dict.fromkeys(_paths.folders_of(job.source for job in jobs), "frames")
    for folder in folders:
        kind = read.get(folder.resolve())
        if kind:
            raise OutputError(folder, f"contains input {kind}", "name another folder")
    failed: list[dict[str, str]] = []

    def work(done: Mapping[str, Any], note: Callable[[Mapping[str, Any]], None]) -> None:
        with progress_bar(jobs, "warp") as bar:
            for job in bar:
                files = [job.source, *job.flows]
                part = {
                    "part": job.target.stem,
                    "frames": [file.name for file in files],
                    "stamp": [stamp(file) for file in files],
                }
                before = find_done(done, part, job.results)
                if before is not None:
                    report(job, {**_describe(job), **before["result"], "kept": True})
                    continue
                try:
                    result = _warp_picture(job, options, dry_run)
                except InputError as fault:
                    note({**part, "status": "failed", "error": str(fault)})
                    failed.append({"input": str(job.source), "error": str(fault)})
                    continue
                figures = {key: value for key, value in result.items() if key not in _describe(job)}
                note({**part, "status": "done", "result": figures})
                report(job, {**result, "kept": False})

    if dry_run:
        done = read_manifests(folders[0], about, others=folders[1:], overwrite=overwrite)
        work(done or {}, lambda record: None)
    else:
        with open_manifest(folders[0], about, others=folders[1:], overwrite=overwrite) as manifest:
            work(manifest.done, manifest.append)
    return failed


def _warp_picture(job: Job, options: WarpOptions, dry_run: bool) -> dict[str, Any]:
    from flowwarp.io.images import check_kind, read_image_with_format, write_image

    image, format = read_image_with_format(job.source)
    check_kind(job.target, format)
    height, width = image.shape[1:]
    flow = _read_fitting(job.flows[0], job.source, (height, width), options)
    result = {**_describe(job), "height": height, "width": width}
    if not dry_run:
        warped, known = _warp_image(image, flow, options)
        _paths.make_folder(job.target.parent)
        write_image(job.target, warped, format)
        if job.mask:
            _paths.make_folder(job.mask.parent)
            write_image(job.mask, known)
        result["known"] = round(known.double().mean().item(), 6)
    return result


def _warp_video(job: Job, options: WarpOptions, shared: bool, dry_run: bool) -> dict[str, Any]:
    """Warp frame by frame; write nothing unless every frame and flow can be read."""
    import torch

    from flowwarp.io.footage import open_footage
    from flowwarp.io.footage_writer import Timing, report_losses, write_footage
    from flowwarp.io.video_writer import write_frames

    recording = open_footage(job.source)
    info = recording.info
    first, length = 0, info.frames
    if not shared:
        # Containers may lack their length, or state a wrong one: count the frames.
        length = sum(1 for _ in recording.frames())
        first = _first_frame(job.flows, length, options)
        length = len(job.flows)
    timing = Timing(first=first)
    check_footage(job.target, recording, timing, options.codec, options.crf, folder=job.folder)
    size = (info.height, info.width)

    @functools.lru_cache(1)
    def field(path: Path) -> Tensor:
        return _read_fitting(path, job.source, size, options)

    fields = map(field, repeat(job.flows[0]) if shared else job.flows)

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        # Close the reader: the result may replace the source; Windows replaces no open file.
        with closing(recording.frames()) as frames:
            # The last frame may have no flow.
            yield from zip(fields, islice(frames, first, None), strict=False)

    with progress_bar(pairs(), "warp", length=length) as bar:
        chosen = (timing, options.codec, options.crf)
        if dry_run:
            report_losses(job.target, recording, *chosen, job.folder)
            count = sum(1 for _ in bar)
        else:
            _paths.make_folder(job.target.parent)
            moved = (_warp_image(frame, flow, options)[0] for flow, frame in bar)
            count = write_footage(
                job.target,
                moved,
                recording,
                timing,
                codec=options.codec,
                crf=options.crf,
                folder=job.folder,
            )
    if job.mask and not dry_run:
        blank = torch.zeros(3, *size)
        _paths.make_folder(job.mask.parent)
        known = (_warp_image(blank, field(path), options)[1] for path in job.flows)
        write_frames(job.mask, ((mask.expand_as(blank), None) for mask in known))
    return {**_describe(job), "height": info.height, "width": info.width, "frames": count}


def _describe(job: Job) -> dict[str, Any]:
    return {
        "input": str(job.source),
        "flow": [str(path) for path in job.flows],
        "output": str(job.target),
        "mask": str(job.mask) if job.mask else None,
    }


def _read_flow(path: Path, options: WarpOptions) -> Tensor:
    """Read a flow (1, 2, H, W), scaled; NaN where unknown: the operators leave that empty."""
    from flowwarp.io.flow_files import read_flow

    flow, valid = read_flow(path)
    return (options.scale * flow).masked_fill(~valid, math.nan)[None]


def _read_fitting(path: Path, source: Path, size: tuple[int, int], options: WarpOptions) -> Tensor:
    """Read a flow (1, 2, H, W) for an image of size (H, W).

    Raises:
        InputError: it cannot be read, or has another size and --resize is not given.
    """
    flow = _read_flow(path, options)
    height, width = flow.shape[2:]
    if (height, width) == size:
        return flow
    if options.resize:
        from flowwarp.ops.fields import resize_flow

        return resize_flow(flow, size)
    raise InputError(
        path,
        f"is {width}x{height}, but {source} is {size[1]}x{size[0]}",
        "--resize fits the flow to the image",
    )


def _warp_image(image: Tensor, flow: Tensor, options: WarpOptions) -> tuple[Tensor, Tensor]:
    """Warp an image (C, H, W), C = 1, 3 or 4, by a flow (1, 2, H, W).

    Returns:
        The warped image (C, H, W), and a mask (1, H, W), 1 where it is known, 0 elsewhere.
    """
    import torch

    device = choose_device(options.device)
    image, flow = (tensor.to(device) for tensor in (image[None], flow))
    if image.shape[1] < 4:
        warped, known = _warp_channels(image, flow, options)
    else:
        color, alpha = image[:, :3], image[:, 3:]  # (1, 3, H, W), (1, 1, H, W)
        # Interpolate colours premultiplied by alpha, so that transparent pixels do not bleed into
        # others. The plain colours are needed where the result is fully transparent: there the
        # division by alpha has no value, but the colours should stay in the file.
        layers = torch.cat([color, color * alpha, alpha], 1)  # (1, 7, H, W)
        layers, known = _warp_channels(layers, flow, options)
        color, premultiplied, alpha = layers[:, :3], layers[:, 3:6], layers[:, 6:]
        warped = torch.cat([torch.where(alpha > 0, premultiplied / alpha, color), alpha], 1)
    return warped[0].cpu(), known[0].cpu().to(image.dtype)


def _warp_channels(layers: Tensor, flow: Tensor, options: WarpOptions) -> tuple[Tensor, Tensor]:
    """Warp or splat (1, C, H, W) by (1, 2, H, W); return the result and a mask (1, 1, H, W)."""
    import torch

    from flowwarp.ops.splatting import splat
    from flowwarp.ops.warping import warp

    mode: Any = options.mode or ("average" if options.forward else "bilinear")
    if not options.forward:
        padding: Any = options.padding or "border"
        warped, known = warp(layers, flow, mode=mode, padding=padding, mask=True)
        return warped, known
    weight = None
    if mode == "softmax":
        speed = flow.norm(dim=1, keepdim=True).nan_to_num(0, 0, 0)  # (1, 1, H, W)
        weight = SOFTMAX_RANGE * speed / speed.amax().clamp(min=1)  # 0 ... 20, no overflow in exp
    known = splat(torch.ones_like(flow[:, :1]), flow) > 0  # some pixel arrived
    return splat(layers, flow, mode, weight), known
