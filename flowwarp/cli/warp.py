"""``flowwarp warp``: pictures, folders of them and videos, moved by flow."""

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
from flowwarp.cli._device import check_device, choose_device, device_option
from flowwarp.cli._options import input_argument, output_option
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.cli._video_output import (
    VIDEOS,
    check_rate,
    check_target,
    is_folder_name,
    is_video_name,
    warn_pixel_shape,
)
from flowwarp.errors import InputError, OutputError, printable

if TYPE_CHECKING:
    from torch import Tensor

BACKWARD = ("bilinear", "nearest", "bicubic")
FORWARD = ("average", "softmax")
PADDINGS = ("border", "zeros", "reflection")
FASTEST = 20.0  # in softmax the fastest pixel counts e^20 times as much as one at rest


@dataclass(frozen=True)
class Motion:
    """How pixels move: the options of the command by their names."""

    forward: bool
    mode: str | None
    padding: str | None
    scale: float
    resize: bool
    device: str


@dataclass(frozen=True)
class Job:
    """What to make: of a picture and a flow a picture, of a video and its flows a video.

    Attributes:
        mask: a picture; of a video, a folder of them.
        folder: whether the target is a folder, for the frames of a video.
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
@output_option("A picture or video; for a folder, a folder.")
@click.option("--forward", is_flag=True, help="Send pixels along the flow; holes are left empty.")
@click.option(
    "--mode",
    type=click.Choice(BACKWARD + FORWARD),
    help="bilinear (default), nearest or bicubic; with --forward, whether pixels that meet are"
    " averaged (default) or, by softmax, the faster one wins.",
)
@click.option("--padding", type=click.Choice(PADDINGS), help="What lies outside; default border.")
@click.option("--scale", default=1.0, metavar="T", help="Go T of the way, for example 0.5.")
@click.option("--resize", is_flag=True, help="Resize a flow of another size to its image.")
@output_option("Write where the result is known; many: a folder.", "--mask", metavar="PNG")
@device_option
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of paths.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, write nothing.")
def command(
    image: str,
    flow: str,
    output: str | None,
    mask: str | None,
    overwrite: bool,
    as_json: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Warp IMAGE, a picture, a folder or glob of frames or a video, by FLOW.

    The flow from frame 1 to frame 2 makes frame 2 look like frame 1: each pixel of the result is
    read where the flow points. With --forward each pixel of IMAGE is sent there instead, which
    makes frame 1 look like frame 2. What is unknown is black, or transparent if IMAGE has alpha.

    A flow file moves every frame. A folder of them has one for each frame, or one fewer: flow k
    then leads from frame k to frame k + 1, so that the results begin with frame 2, in --forward
    with frame 1. Without -o, image.jpg becomes image_warped.png, clip.mp4 clip_warped.mp4, and
    folder NAME folder NAME_warped. The paths written are printed on stdout.

    Of a video, sound and transparency are lost, a varying rate becomes its average, and in .mp4,
    .m4v, .mov and .mkv, which hold even sizes only, an odd last column or row is repeated. They
    alone keep pixels that are not square as they are.

    Of a folder of frames, each that is done is noted in OUT/manifest.jsonl, and one that cannot be
    read does not stop the others. The same command then goes on where it was, and tries again what
    had failed.

    \b
    flowwarp warp frame2.png flow.flo                        looks like frame 1
    flowwarp warp frame1.png flow.flo --forward              looks like frame 2
    flowwarp warp frame1.png flow.flo --forward --scale 0.5  halfway
    flowwarp warp clip.mp4 flows/ -o out.mp4
    """  # noqa: D301 - click wants the character itself
    motion = Motion(**options)
    _check_motion(motion)
    shared = not _paths.wants_folder([flow], "")
    flows = _paths.expand_flows([flow])
    if shared:
        _read_flow(flows[0], motion)  # if it is broken, say so once

    video = _is_video(image, output)
    jobs = _list_jobs(image, flows, output, mask, shared, video, motion)
    many = not video and _paths.wants_folder([image], "")
    # What many frames go into is looked at as a whole: an earlier call may have begun.
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
            **{key: value for key, value in asdict(motion).items() if key != "device"},
        }
        failed = _warp_many(jobs, about, motion, report, dry_run=dry_run, overwrite=overwrite)
    elif video:
        report(jobs[0], _warp_video(jobs[0], motion, shared, dry_run))
    else:
        report(jobs[0], _warp_picture(jobs[0], motion, dry_run))
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "results": results, "failed": failed}))
    raise_if_failed(failed, len(jobs))


def _check_motion(motion: Motion) -> None:
    """Refuse options that do not go together.

    Raises:
        click.UsageError: they do not.
    """
    if motion.mode in (BACKWARD if motion.forward else FORWARD):
        raise click.UsageError(
            f"--mode {motion.mode} does not go with --forward"
            if motion.forward
            else f"--mode {motion.mode} needs --forward"
        )
    if motion.forward and motion.padding:
        raise click.UsageError("--padding does not go with --forward: nothing is read outside")
    if not math.isfinite(motion.scale):
        raise click.UsageError(f"--scale must be a finite number, got {motion.scale}")
    check_device(motion.device)


# ------------------------------------------------------------------ what becomes what


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
    motion: Motion,
) -> list[Job]:
    """Pair sources, flows, results and masks."""
    from flowwarp.io.file_types import IMAGE_EXTENSIONS

    if video:
        target = Path(output) if output else _name_video(Path(image))
        folder = not is_video_name(output or str(target))
        if mask and not is_folder_name(mask):
            raise click.UsageError(f"--mask must name a folder for a video, got {mask!r}")
        jobs = [Job(Path(image), flows, target, Path(mask) if mask else None, folder)]
    else:
        sources = _paths.expand_inputs([image], IMAGE_EXTENSIONS)
        first = 0 if shared else _first_frame(flows, len(sources), motion)
        if not shared:
            _tell_order(sources, flows)
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


def _first_frame(flows: Sequence[Path], frames: int, motion: Motion) -> int:
    """Return the frame that the first flow moves: 0, or 1 where flows lie between frames.

    Raises:
        InputError: neither one flow for each frame nor one fewer.
    """
    if len(flows) == frames:
        return 0
    if len(flows) == frames - 1:
        return 0 if motion.forward else 1
    raise InputError(
        flows[0].parent,
        f"holds {len(flows)} flow files for {frames} frames",
        "give one for each frame, or one fewer, or a single file for all",
    )


def _tell_order(sources: Sequence[Path], flows: Sequence[Path]) -> None:
    """Say so if flows, which are taken in their order, have the names of other frames."""
    names = {source.stem for source in sources}
    for source, flow in zip(sources, flows, strict=False):
        if flow.stem in names and flow.stem != source.stem:
            line = f"{flow}: is taken as the flow of {source.name}: the names do not agree"
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
    """Return where the picture of each source goes; ``name`` is the option's."""
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
    motion: Motion,
    report: Callable[[Job, dict[str, Any]], None],
    *,
    dry_run: bool,
    overwrite: bool,
) -> list[dict[str, str]]:
    """Warp what an earlier call has not; return which frames failed.

    Raises:
        Locked: another process works on this.
        OutputError: the results would lie among frames or flows, or where another job's are; or
            one cannot be written, which stops all.
    """
    from flowwarp.io.manifests import find_done, open_manifest, read_manifests, stamp

    folders = list(dict.fromkeys(path.parent for path in jobs[0].results))
    read = dict.fromkeys(_paths.folders_of(flow for job in jobs for flow in job.flows), "flows")
    read |= dict.fromkeys(_paths.folders_of(job.source for job in jobs), "frames")
    for folder in folders:
        kind = read.get(folder.resolve())
        if kind:
            raise OutputError(folder, f"holds {kind} to read", "name another folder")
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
                    result = _warp_picture(job, motion, dry_run)
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


def _warp_picture(job: Job, motion: Motion, dry_run: bool) -> dict[str, Any]:
    from flowwarp.io.images import check_kind, read_image_with_format, write_image

    image, format = read_image_with_format(job.source)
    check_kind(job.target, format)
    height, width = image.shape[1:]
    flow = _read_fitting(job.flows[0], job.source, (height, width), motion)
    result = {**_describe(job), "height": height, "width": width}
    if not dry_run:
        warped, known = _move(image, flow, motion)
        _paths.make_folder(job.target.parent)
        write_image(job.target, warped, format)
        if job.mask:
            _paths.make_folder(job.mask.parent)
            write_image(job.mask, known)
        result["known"] = round(known.double().mean().item(), 6)
    return result


def _warp_video(job: Job, motion: Motion, shared: bool, dry_run: bool) -> dict[str, Any]:
    """Warp frame by frame; nothing is written unless every frame and flow is right."""
    import torch

    from flowwarp.io.video_info import video_info
    from flowwarp.io.video_reader import read_video
    from flowwarp.io.video_writer import write_frames, write_video

    info = video_info(job.source)
    if not job.folder:
        check_rate(job.target, info.fps)
    warn_pixel_shape(job.target, info.pixel_aspect, folder=job.folder)
    first, length = 0, info.frames
    if not shared:
        # Not every container states its length, and not every one that does is right.
        length = sum(1 for _ in read_video(job.source))
        first = _first_frame(job.flows, length, motion)
        length = len(job.flows)
    size = (info.height, info.width)

    @functools.lru_cache(1)
    def field(path: Path) -> Tensor:
        return _read_fitting(path, job.source, size, motion)

    fields = map(field, repeat(job.flows[0]) if shared else job.flows)

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        # Closed at its end: the result may replace the source, and on Windows nothing that is open.
        with closing(read_video(job.source)) as frames:
            # The last frame may have no flow.
            yield from zip(fields, islice(frames, first, None), strict=False)

    with progress_bar(pairs(), "warp", length=length) as bar:
        if dry_run:
            count = sum(1 for _ in bar)
        else:
            _paths.make_folder(job.target.parent)
            moved = (_move(frame, flow, motion)[0] for flow, frame in bar)
            if job.folder:
                count = write_frames(job.target, ((frame, None) for frame in moved))
            else:
                count = write_video(job.target, moved, info.fps, info.pixel_aspect)
    if job.mask and not dry_run:
        blank = torch.zeros(3, *size)
        _paths.make_folder(job.mask.parent)
        known = (_move(blank, field(path), motion)[1] for path in job.flows)
        write_frames(job.mask, ((mask.expand_as(blank), None) for mask in known))
    return {**_describe(job), "height": info.height, "width": info.width, "frames": count}


def _describe(job: Job) -> dict[str, Any]:
    return {
        "input": str(job.source),
        "flow": [str(path) for path in job.flows],
        "output": str(job.target),
        "mask": str(job.mask) if job.mask else None,
    }


def _read_flow(path: Path, motion: Motion) -> Tensor:
    """Read a flow as (1, 2, H, W), scaled, NaN where it is unknown: the ops leave that empty."""
    from flowwarp.io.flow_files import read_flow

    flow, valid = read_flow(path)
    return (motion.scale * flow).masked_fill(~valid, math.nan)[None]


def _read_fitting(path: Path, source: Path, size: tuple[int, int], motion: Motion) -> Tensor:
    """Read a flow for an image of this (height, width).

    Raises:
        InputError: it cannot be read, or has another size and --resize was not given.
    """
    flow = _read_flow(path, motion)
    height, width = flow.shape[2:]
    if (height, width) == size:
        return flow
    if motion.resize:
        from flowwarp.ops.fields import resize_flow

        return resize_flow(flow, size)
    raise InputError(
        path,
        f"is {width}x{height}, but {source} is {size[1]}x{size[0]}",
        "--resize fits the flow to the image",
    )


def _move(image: Tensor, flow: Tensor, motion: Motion) -> tuple[Tensor, Tensor]:
    """Warp one image (C, H, W); return it and where it is known, (1, H, W), 1 or 0."""
    import torch

    place = choose_device(motion.device)
    image, flow = (tensor.to(place) for tensor in (image[None], flow))
    if image.shape[1] < 4:
        warped, known = _transport(image, flow, motion)
    else:
        # Colours mix by their opacity, so that nothing shines through that was not to be seen.
        # Where all is transparent they mix evenly: they are not seen, but stay as they were.
        color, alpha = image[:, :3], image[:, 3:]
        layers, known = _transport(torch.cat([color, color * alpha, alpha], 1), flow, motion)
        color, opaque, alpha = layers[:, :3], layers[:, 3:6], layers[:, 6:]
        warped = torch.cat([torch.where(alpha > 0, opaque / alpha, color), alpha], 1)
    return warped[0].cpu(), known[0].cpu().to(image.dtype)


def _transport(layers: Tensor, flow: Tensor, motion: Motion) -> tuple[Tensor, Tensor]:
    import torch

    from flowwarp.ops.splatting import splat
    from flowwarp.ops.warping import warp

    mode: Any = motion.mode or ("average" if motion.forward else "bilinear")
    if not motion.forward:
        padding: Any = motion.padding or "border"
        warped, known = warp(layers, flow, mode=mode, padding=padding, mask=True)
        return warped, known
    weight = None
    if mode == "softmax":
        speed = flow.norm(dim=1, keepdim=True).nan_to_num(0, 0, 0)
        weight = FASTEST * speed / speed.amax().clamp(min=1)
    known = splat(torch.ones_like(flow[:, :1]), flow) > 0
    return splat(layers, flow, mode, weight), known
