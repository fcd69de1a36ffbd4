"""``flowwarp flow``: optical flow of a pair, of folders of frames, of videos."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths, show
from flowwarp.cli._device import check_device, choose_device, device_option
from flowwarp.cli._options import input_argument, output_option
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.cli._video_output import VIDEOS, check_rate
from flowwarp.defaults import QUALITIES
from flowwarp.errors import InputError, OutputError
from flowwarp.io.file_types import FLOW_FORMATS

if TYPE_CHECKING:
    from fractions import Fraction

    from flowwarp.data.clips import Footage
    from flowwarp.io.manifests import Manifest, Shard
    from flowwarp.models.flownet import FlowNet
    from flowwarp.pipelines.flow.jobs import Job, Outcome


def _read_shard(ctx: click.Context, param: click.Parameter, value: str | None) -> Shard | None:
    """Read ``2/8`` as (2, 8)."""
    if value is None:
        return None
    number, _, count = value.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise click.BadParameter(f"{value!r} is none of 1/N to N/N", ctx, param)


@dataclass(frozen=True)
class Options:
    """The options of the command by their names, and its inputs."""

    inputs: tuple[str, ...]
    output: str | None
    quality: Any
    weights: str
    format: str | None
    backward: str | None
    occlusion: str | None
    show: str | None
    device: str
    workers: int | None
    shard: Shard | None
    ray: str | None
    overwrite: bool
    dry_run: bool
    as_json: bool


@click.command()
@input_argument("inputs", "INPUT...", nargs=-1)
@output_option("A flow file; for many, a folder.")
@click.option(
    "--quality",
    type=click.Choice(QUALITIES),
    default="balanced",
    show_default=True,
    help="The network alone; with a short fit to each pair; with one until the flow settles.",
)
@click.option(
    "--weights",
    metavar="FILE",
    default="base",
    show_default=True,
    help="Of the network: base, small, or a file of train-flow.",
)
@click.option("--format", type=click.Choice(FLOW_FORMATS), help="Of flow files; flo if not said.")
@output_option("Write the flow from frame 2 to frame 1 too.", "--backward")
@output_option(
    "Write a mask, white where frame 2 shows the pixel (the reverse of eval-flow's occ.png).",
    "--occlusion",
)
@output_option("Write colours: a picture; for many, .mp4 or a folder.", "--show")
@device_option
@click.option(
    "--workers", type=click.IntRange(1, 256), metavar="N", help="Processes; 1 if not said."
)
@click.option(
    "--shard", callback=_read_shard, metavar="I/N", help="Do the I-th of N parts of a job."
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Work on a ray cluster; local starts one here. All files are read and written by this"
    " machine: for many that share a disk, rather give each a --shard.",
)
@click.option("--overwrite", is_flag=True, help="Begin again, and replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of paths.")
@click.option("--dry-run", is_flag=True, help="Read and check everything, write nothing.")
def command(**options: Any) -> None:
    """Estimate optical flow: where each pixel of a frame is in the next one.

    INPUT is two pictures, which are a pair; or more pictures, a glob, a folder of frames, or a
    video, whose flow is estimated from each frame to the next. A folder may hold folders and
    videos, and there may be several INPUTs. Without -o, the flow of a.png and b.png is a_flow.flo,
    that of NAME is in folder NAME_flow beside it, named after the first frame's file or number:
    frame7.flo, 000006.flo. Each clip has a folder of its own if there are several. The paths
    written are printed on stdout.

    Many pairs are noted in OUT/manifest.jsonl as they are finished. Stopped at whatever moment, the
    same command goes on where it was, and tries again what had failed. A frame that cannot be read
    does not stop the others. Each --shard may run on a machine of its own, where INPUT may lie
    elsewhere, or be a copy that keeps the times of its files (cp -p); the same command without it
    then checks that all is there, and makes what --show asks for.

    \b
    flowwarp flow a.png b.png                                  a_flow.flo
    flowwarp flow a.png b.png -o ab.flo --show ab.png --quality best
    flowwarp flow clip.mp4 --show flow.mp4                     clip_flow/000000.flo ...
    flowwarp flow clips/ -o flows/ --workers 4 --format png
    flowwarp flow frames/ --backward back/ --occlusion visible/
    flowwarp flow clips/ -o flows/ --shard 2/8
    """  # noqa: D301 - click wants the character itself
    given = Options(**options)
    if not given.ray:  # else it is the cluster's
        check_device(given.device)
    sources = _list_sources(given.inputs)
    if len(given.inputs) == 2 and _is_pair(given.inputs, sources):
        _estimate_pair(given, sources)
    else:
        _estimate_clips(given, sources)


def _list_sources(inputs: Sequence[str]) -> list[Path]:
    """Expand patterns.

    Raises:
        InputError: nothing matches one, or it is a flow.
    """
    from flowwarp.io.file_types import FLOW_EXTENSIONS, IMAGE_EXTENSIONS, natural_order

    if len(inputs) > 2 and list(inputs) == sorted(inputs):  # as a shell expands a pattern
        inputs = sorted(inputs, key=natural_order)
    found: list[Path] = []
    for name in inputs:
        matches = [Path(name)]
        if _paths.is_glob(name):
            matches = _paths.expand_clips(name)
            if not matches:
                raise InputError(name, "no frame, video or folder matches")
        elif Path(name).suffix.lower() in FLOW_EXTENSIONS - IMAGE_EXTENSIONS:
            remedy = "give two pictures, a folder of frames or a video"
            raise InputError(name, "is named like a flow file, and flow is what comes out", remedy)
        found += matches
    return found


def _is_pair(inputs: Sequence[str], sources: Sequence[Path]) -> bool:
    from flowwarp.pipelines.flow.jobs import is_picture

    return not any(map(_paths.is_glob, inputs)) and all(map(is_picture, sources))


def _load(given: Options) -> FlowNet:
    from flowwarp.pipelines.flow.estimate import load_flownet

    return load_flownet(given.weights, "cpu" if given.ray else choose_device(given.device))


# ------------------------------------------------------------------ one pair


def _estimate_pair(given: Options, frames: Sequence[Path]) -> None:
    from flowwarp.pipelines.flow import pairs

    target, picture = _name_pair(given, frames[0])
    outputs = [*target.paths, *([picture] if picture else [])]
    read = _paths.real_names(frames)

    def check() -> None:
        for path in outputs:
            _paths.check_output(path, overwrite=given.overwrite, read=read)

    check()
    if len(set(map(os.path.realpath, outputs))) < len(outputs):
        raise click.UsageError("OUT, --backward, --occlusion and --show must differ")
    images = pairs.read_pair(frames, [str(frame) for frame in frames])
    net = _load(given)
    if not given.dry_run:
        with progress_bar(range(100), "flow") as bar:
            fields = pairs.estimate_fields(
                net,
                *images,
                given.quality,
                backward=target.backward is not None,
                visible=target.occlusion is not None,
                progress=lambda share: bar.update(round(100 * share) - bar.pos),
            )
        check()  # anew: the fit may have taken minutes
        for path in outputs:
            _paths.make_folder(path.parent)
        pairs.write_fields(fields, target)
        if picture:
            show.write_picture(target.flow, picture, show.View())
    if given.as_json:
        height, width = images[0].shape[1:]
        result = {
            "input": [str(frame) for frame in frames],
            **_describe(target),
            "show": str(picture) if picture else None,
            "height": height,
            "width": width,
        }
        click.echo(json.dumps({"dry_run": given.dry_run, "results": [result], "failed": []}))
    else:
        for path in outputs:
            print_path(path)


def _name_pair(given: Options, frame: Path) -> tuple[Any, Path | None]:
    """Name the results of a pair: the target, and the picture if there is to be one."""
    from flowwarp.io.file_types import COLOR_EXTENSIONS, FLOW_EXTENSIONS
    from flowwarp.pipelines.flow.pairs import Target

    for option, value in (("shard", given.shard), ("workers", given.workers), ("ray", given.ray)):
        if value is not None:
            raise click.UsageError(f"--{option} is for many pairs, and this is one")
    kind = f".{given.format or 'flo'}"

    def named(name: str | None, option: str, known: frozenset[str], kind: str) -> Path | None:
        if name is None:
            return None
        if _paths.wants_folder([], name):
            return Path(name) / f"{frame.stem}{kind}"
        if Path(name).suffix.lower() not in known:
            listed = ", ".join(sorted(known))
            raise click.UsageError(f"{option} must end in {listed} for a pair, got {name!r}")
        return Path(name)

    flows = FLOW_EXTENSIONS if given.format is None else frozenset({kind})
    flow = named(given.output, "OUT", flows, kind) or _paths.name_beside(frame, "flow", kind)
    backward = named(given.backward, "--backward", flows, kind)
    occlusion = named(given.occlusion, "--occlusion", frozenset({".png"}), ".png")
    return Target(flow, backward, occlusion), named(given.show, "--show", COLOR_EXTENSIONS, ".png")


def _describe(target: Any) -> dict[str, str | None]:
    return {
        "output": str(target.flow),
        "backward": str(target.backward) if target.backward else None,
        "occlusion": str(target.occlusion) if target.occlusion else None,
    }


# ------------------------------------------------------------------ many pairs


@dataclass
class Tally:
    """What became of the pairs so far."""

    total: int = 0
    flows: list[tuple[tuple[int, int], Path]] = field(default_factory=list)  # only if to be shown
    results: list[dict[str, Any]] = field(default_factory=list)  # only for JSON
    failed: list[dict[str, Any]] = field(default_factory=list)
    foreign: set[Path] = field(default_factory=set)  # flow among the results, if not made by a pair


def _estimate_clips(given: Options, sources: Sequence[Path]) -> None:
    from flowwarp.io.manifests import open_manifest, read_manifests
    from flowwarp.pipelines import workers
    from flowwarp.pipelines.flow import bulk, jobs

    if given.ray:
        workers.check_ray(given.ray)  # before anything is written
    job = _plan(given, sources)
    _check_outputs(given, job)
    for clip, _ in job.clips:
        # Pictures named one by one are a clip; a single one beside others would be dropped unsaid.
        if len(job.clips) == 1 or (clip.kind == "frames" and len(clip.files) == 1):
            jobs.check_clip(clip)
    net = _load(given)
    about = job.describe(net)
    # Of a shard it may be another's.
    tally = Tally(foreign=set() if given.shard else _list_flows(job))
    length = jobs.count_pairs(job.clips)
    if length is not None and given.shard:
        length = -(-length // given.shard[1])
    with progress_bar(count(), "flow", length=length) as bar:

        def report(outcome: Outcome) -> None:
            _tell(outcome, tally, given)
            bar.update(1)

        if given.dry_run:
            done = read_manifests(job.folder, about, others=job.others, overwrite=given.overwrite)
            _check_show(given, done or {})
            for outcome in bulk.check_pairs(job, done or {}, given.shard):
                report(outcome)
        else:
            with open_manifest(
                job.folder, about, others=job.others, shard=given.shard, overwrite=given.overwrite
            ) as manifest:
                _check_show(given, manifest.done)
                for folder in job.folders:
                    _paths.make_folder(folder)
                bulk.run_pairs(
                    job,
                    net,
                    manifest,
                    report,
                    shard=given.shard,
                    workers=given.workers,
                    ray=given.ray,
                    ray_device=given.device,
                )
                if given.show:
                    _check_show(given, manifest.done)  # anew: the work may have taken hours
                    _show(Path(given.show), job, tally, manifest)
    if tally.foreign:
        _tell_foreign(tally.foreign)
    if given.show and not given.as_json:
        print_path(Path(given.show))
    if given.as_json:
        described = {"output": str(job.folder), "show": given.show}
        outcomes = {"results": tally.results, "failed": tally.failed}
        click.echo(json.dumps({"dry_run": given.dry_run, **described, **outcomes}))
    raise_if_failed(tally.failed, tally.total)


def _plan(given: Options, sources: Sequence[Path]) -> Job:
    """Say what there is to do.

    Raises:
        InputError: there is nothing.
        OutputError: results would have one name.
    """
    from flowwarp.pipelines.flow import jobs

    found = (path.parent if jobs.is_picture(path) else path for path in sources)
    roots = list(dict.fromkeys(found))
    folder = Path(given.output) if given.output else _default_folder(roots)
    backward = Path(given.backward) if given.backward else None
    occlusion = Path(given.occlusion) if given.occlusion else None
    # What an earlier call has written among the inputs is no input.
    named = (folder, backward, occlusion, Path(given.show) if given.show else None)
    results = [path.resolve() for path in named if path is not None]
    inside = [r for r in results if any(root.resolve() in r.parents for root in roots)]
    clips = [
        (clip, name)
        for clip, name in jobs.place_clips(sources)
        if not any(clip.files[0].resolve().is_relative_to(path) for path in inside)
    ]
    if not clips:
        raise InputError(roots[0], "holds nothing but results")
    return jobs.Job(
        tuple(os.path.abspath(root) for root in roots),  # noqa: PTH100 - resolves no links
        clips,
        folder,
        given.quality,
        given.weights,
        f".{given.format or 'flo'}",
        backward,
        occlusion,
    )


def _default_folder(roots: Sequence[Path]) -> Path:
    if len(roots) > 1:
        raise click.UsageError("give -o FOLDER when there are several INPUTs")
    (root,) = roots
    if root.is_dir():
        return _paths.name_folder_beside(root, "flow")
    return root.with_name(f"{root.stem}_flow")


def _check_outputs(given: Options, job: Job) -> None:
    """Refuse early what could not be written, and folders that would be mixed up.

    Raises:
        click.UsageError: options do not go together.
        OutputError: a folder cannot be written, or holds frames.
    """
    from flowwarp.io.file_types import FLOW_EXTENSIONS, IMAGE_EXTENSIONS

    folders = list(job.folders)
    if given.show:
        kind = Path(given.show).suffix.lower()
        if _is_video(Path(given.show)):
            if len({name for _, name in job.clips}) > 1:
                raise click.UsageError("--show must be a folder for several clips")
            read = _paths.real_names(file for clip, _ in job.clips for file in clip.files)
            _paths.check_output(Path(given.show), overwrite=True, read=read)
            for clip, _ in job.clips:
                check_rate(Path(given.show), _rate(clip))
        elif kind in FLOW_EXTENSIONS | IMAGE_EXTENSIONS and not Path(given.show).is_dir():
            known = ", ".join(sorted(VIDEOS))
            raise click.UsageError(f"--show must end in {known} or be a folder for many pairs")
        else:
            folders += dict.fromkeys(Path(given.show, name) for _, name in job.clips)
        if given.shard:
            raise click.UsageError("--show needs all pairs: run once more without --shard for it")
    names = {"OUT": given.output, "--backward": given.backward, "--occlusion": given.occlusion}
    for option, name in names.items():
        if name is not None:
            _paths.check_folder_name(name, f"many pairs need a folder, but {option} is")
    for root in (job.folder, *job.others):
        if os.path.lexists(root) and not root.is_dir():
            raise OutputError(root, "is a file, not a folder", "name a folder")
        _paths.check_output(root / "manifest.jsonl", overwrite=True)
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise click.UsageError("OUT, --backward, --occlusion and --show must differ")
    frames = _paths.folders_of(
        file for clip, _ in job.clips if clip.kind != "video" for file in clip.files
    )
    for folder in folders:
        if folder.resolve() in frames:
            raise OutputError(folder, "holds frames to read", "name another folder")


def _list_flows(job: Job) -> set[Path]:
    """Return the flow that lies where a job writes its own."""
    found: set[Path] = set()
    for folder in filter(_paths.is_folder, job.folders):
        with suppress(InputError):  # it holds none
            found.update(_paths.expand_flows([str(folder)]))
    return {path for path in found if path.suffix == job.format}


def _tell_foreign(flows: set[Path]) -> None:
    """Say that flow of no pair of a job, such as of frames that are gone, lies among the job's.

    Who pairs the flow of a folder with frames by their order, as `warp` does, would take it too.
    """
    more = f" (and {len(flows) - 1} more)" if len(flows) > 1 else ""
    problem = "is not of this job, but lies among its flow"
    line = InputError(f"{min(flows)}{more}", problem, "move it away before the folder is used")
    click.echo(f"flowwarp: {line}", err=True)


def _tell(outcome: Outcome, tally: Tally, given: Options) -> None:
    """Count an outcome and print where its results are."""
    tally.total += 1
    tally.foreign.difference_update(outcome.target.paths)
    if outcome.error is not None:
        line = str(InputError(outcome.target.flow, outcome.error))
        tally.failed.append({"input": list(outcome.names), "error": line})
        return
    if given.show:
        tally.flows.append((outcome.place, outcome.target.flow))
    if given.as_json:
        assert outcome.size is not None
        tally.results.append(
            {
                "input": list(outcome.names),
                **_describe(outcome.target),
                "height": outcome.size[0],
                "width": outcome.size[1],
                "seconds": round(outcome.seconds, 3),
                "kept": outcome.state == "kept",
            }
        )
    else:
        for path in outcome.target.paths:
            print_path(path)


def _check_show(given: Options, done: Mapping[str, Any]) -> None:
    """Refuse to replace what this job has not made, or what was put in its place since.

    Raises:
        OutputError: there is such a thing.
    """
    if given.show is None:
        return
    path = Path(given.show)
    line = _line_of(path)
    if done.get(line["part"]) == line:
        return
    if not path.is_dir():
        _paths.check_output(path, overwrite=given.overwrite)
    elif any(path.iterdir()) and not given.overwrite:
        raise OutputError(path, "is not empty", "use --overwrite to write into it")


def _line_of(shown: Path) -> dict[str, Any]:
    """Return the line of a manifest that says what the job has drawn.

    A folder is the job's own once it was found empty, as those of flow are; a file only as it is.
    """
    from flowwarp.io.manifests import stamp

    part = f"show {os.path.abspath(shown)}"  # noqa: PTH100 - resolves no links
    return {"part": part, "status": "done", "stamp": None if shown.is_dir() else stamp(shown)}


def _show(target: Path, job: Job, tally: Tally, manifest: Manifest) -> None:
    """Draw what was estimated: each clip at one scale, so that its frames can be compared."""
    video = _is_video(target)
    if not video:
        _paths.make_folder(target)
        manifest.append(_line_of(target))  # before, as it may be filled in several goes
    clips: dict[int, list[Path]] = {}
    for (number, _), path in sorted(tally.flows):
        clips.setdefault(number, []).append(path)
    for number, flows in clips.items():
        clip, _ = job.clips[number]
        try:
            if video:
                show.write_sequence(flows, target, show.View(), _rate(clip))
                manifest.append(_line_of(target))
                continue
            view = show.View(max_flow=show.common_scale(flows))
            for path in flows:
                drawn = target / path.relative_to(job.folder).with_suffix(".png")
                show.write_picture(path, drawn, view)
        except InputError as fault:  # sizes change on the way, which a video does not show
            tally.total += 1
            tally.failed.append(
                {"input": [str(target)], "error": str(InputError(target, str(fault)))}
            )


def _is_video(shown: Path) -> bool:
    return shown.suffix.lower() in VIDEOS and not shown.is_dir()


def _rate(clip: Footage) -> Fraction:
    from flowwarp.io.video_container import DEFAULT_FPS
    from flowwarp.io.video_info import video_info

    if clip.kind == "video":
        with suppress(InputError):  # its first frame is damaged
            return video_info(clip.files[0]).fps
    return DEFAULT_FPS
