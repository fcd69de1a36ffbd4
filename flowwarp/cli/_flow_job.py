"""Estimate the flow of many pairs: plan the job, check it, run or resume it, draw the results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths, show
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.cli._video_output import VIDEOS, check_rate
from flowwarp.cli.device import choose_device
from flowwarp.errors import InputError, OutputError

if TYPE_CHECKING:
    from fractions import Fraction

    from flowwarp.data.footage import Footage
    from flowwarp.io.manifests import Manifest, Shard
    from flowwarp.models.flownet import FlowNet
    from flowwarp.pipelines.flow.job_pairs import Job, Outcome
    from flowwarp.pipelines.flow.pair_fields import Target


@dataclass(frozen=True)
class FlowOptions:
    """Inputs and options of ``flowwarp flow``, by their names."""

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


def load_network(options: FlowOptions) -> FlowNet:
    """Load the network of --weights; with --ray on the CPU, from where it is sent."""
    from flowwarp.pipelines.flow.estimate import load_flownet

    return load_flownet(options.weights, "cpu" if options.ray else choose_device(options.device))


def describe_target(target: Target) -> dict[str, str | None]:
    """Return the output files of a pair as --json prints them."""
    return {
        "output": str(target.flow),
        "backward": str(target.backward) if target.backward else None,
        "occlusion": str(target.occlusion) if target.occlusion else None,
    }


@dataclass
class Tally:
    """Outcomes of the pairs so far.

    Attributes:
        total: number of pairs.
        flows: (clip, pair) index and flow file of each pair; only filled for --show.
        results: records of finished pairs; only filled for --json.
        failed: records of failed pairs.
        unknown: flow files in the output folders that belong to no pair so far.
    """

    total: int = 0
    flows: list[tuple[tuple[int, int], Path]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    unknown: set[Path] = field(default_factory=set)


def run_job(options: FlowOptions, sources: Sequence[Path]) -> None:
    """Estimate the flow of many pairs: plan, check, run or resume, draw, print.

    Raises:
        click.UsageError: options do not fit together.
        InputError: there is nothing to estimate.
        OutputError: an output folder cannot be used.
        SomeFailed: some pairs failed.
    """
    from flowwarp.pipelines import workers
    from flowwarp.pipelines.flow import job_pairs

    if options.ray:
        workers.check_ray(options.ray)  # before anything is written
    job = _plan(options, sources)
    _check_outputs(options, job)
    for clip, _ in job.clips:
        # Images given one by one are a clip. A single one beside others has no pair.
        if len(job.clips) == 1 or (clip.kind == "frames" and len(clip.files) == 1):
            job_pairs.check_clip(clip)
    net = load_network(options)
    # Another shard may have written flow that this shard does not know.
    tally = Tally(unknown=set() if options.shard else _list_flows(job))
    length = job_pairs.count_pairs(job.clips)
    if length is not None and options.shard:
        length = -(-length // options.shard[1])
    with progress_bar(count(), "flow", length=length) as bar:

        def report(outcome: Outcome) -> None:
            _report(outcome, tally, options)
            bar.update(1)

        if options.dry_run:
            _check_pairs(options, job, job.describe(net), report)
        else:
            _estimate_pairs(options, job, net, tally, report)
    if tally.unknown:
        _warn_unknown(tally.unknown)
    if options.show and not options.as_json:
        print_path(Path(options.show))
    if options.as_json:
        described = {"output": str(job.folder), "show": options.show}
        outcomes = {"results": tally.results, "failed": tally.failed}
        click.echo(json.dumps({"dry_run": options.dry_run, **described, **outcomes}))
    raise_if_failed(tally.failed, tally.total)


def _check_pairs(
    options: FlowOptions, job: Job, about: Mapping[str, Any], report: Callable[[Outcome], None]
) -> None:
    """Read all frames and report each pair, as --dry-run does."""
    from flowwarp.io.manifests import read_manifests
    from flowwarp.pipelines.flow.run_job import check_pairs

    done = read_manifests(job.folder, about, others=job.others, overwrite=options.overwrite) or {}
    _check_show(options, done)
    for outcome in check_pairs(job, done, options.shard):
        report(outcome)


def _estimate_pairs(
    options: FlowOptions, job: Job, net: FlowNet, tally: Tally, report: Callable[[Outcome], None]
) -> None:
    """Estimate the pairs that the manifest does not list as done, and draw --show."""
    from flowwarp.io.manifests import open_manifest
    from flowwarp.pipelines.flow.run_job import run_pairs

    with open_manifest(
        job.folder,
        job.describe(net),
        others=job.others,
        shard=options.shard,
        overwrite=options.overwrite,
    ) as manifest:
        _check_show(options, manifest.done)
        for folder in job.folders:
            _paths.make_folder(folder)
        run_pairs(
            job,
            net,
            manifest,
            report,
            shard=options.shard,
            workers=options.workers,
            ray=options.ray,
            ray_device=options.device,
        )
        if options.show:
            _check_show(options, manifest.done)  # again: the work may take hours
            _draw(Path(options.show), job, tally, manifest)


def _plan(options: FlowOptions, sources: Sequence[Path]) -> Job:
    """Return the job: clips, output folders, format.

    Raises:
        InputError: there are no clips.
        OutputError: two results would have one name.
    """
    from flowwarp.pipelines.flow import job_pairs

    found = (path.parent if job_pairs.is_picture(path) else path for path in sources)
    roots = list(dict.fromkeys(found))
    folder = Path(options.output) if options.output else _default_folder(roots)
    backward = Path(options.backward) if options.backward else None
    occlusion = Path(options.occlusion) if options.occlusion else None
    # Results of an earlier run inside the input folders are not input.
    named = (folder, backward, occlusion, Path(options.show) if options.show else None)
    results = [path.resolve() for path in named if path is not None]
    inside = [r for r in results if any(root.resolve() in r.parents for root in roots)]
    clips = [
        (clip, name)
        for clip, name in job_pairs.place_clips(sources)
        if not any(clip.files[0].resolve().is_relative_to(path) for path in inside)
    ]
    if not clips:
        raise InputError(roots[0], "contains only results of an earlier run")
    return job_pairs.Job(
        tuple(os.path.abspath(root) for root in roots),  # noqa: PTH100 - resolves no links
        clips,
        folder,
        options.quality,
        options.weights,
        f".{options.format or 'flo'}",
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


def _check_outputs(options: FlowOptions, job: Job) -> None:
    """Refuse output that could not be written or would mix with other files, before any work.

    Raises:
        click.UsageError: options do not fit together.
        OutputError: a folder cannot be written, or contains input frames.
    """
    from flowwarp.io.file_types import FLOW_EXTENSIONS, IMAGE_EXTENSIONS

    folders = list(job.folders)
    if options.show:
        kind = Path(options.show).suffix.lower()
        if _is_video(Path(options.show)):
            if len({name for _, name in job.clips}) > 1:
                raise click.UsageError("--show must be a folder for several clips")
            read = _paths.real_names(file for clip, _ in job.clips for file in clip.files)
            _paths.check_output(Path(options.show), overwrite=True, read=read)
            for clip, _ in job.clips:
                check_rate(Path(options.show), _rate(clip))
        elif kind in FLOW_EXTENSIONS | IMAGE_EXTENSIONS and not Path(options.show).is_dir():
            known = ", ".join(sorted(VIDEOS))
            raise click.UsageError(f"--show must end in {known} or be a folder for many pairs")
        else:
            folders += dict.fromkeys(Path(options.show, name) for _, name in job.clips)
        if options.shard:
            raise click.UsageError(
                "--show needs all pairs: add it to the last run, without --shard"
            )
    names = {
        "OUT": options.output,
        "--backward": options.backward,
        "--occlusion": options.occlusion,
    }
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
            raise OutputError(folder, "contains input frames", "name another folder")


def _list_flows(job: Job) -> set[Path]:
    """Return the flow files in a job's output folders."""
    found: set[Path] = set()
    for folder in filter(_paths.is_folder, job.folders):
        with suppress(InputError):  # it contains none
            found.update(_paths.expand_flows([str(folder)]))
    return {path for path in found if path.suffix == job.format}


def _warn_unknown(flows: set[Path]) -> None:
    """Warn of flow files in the output folders that belong to no pair, such as of deleted frames.

    `warp` pairs the flow files of a folder with frames in order, so it would use them, too.
    """
    more = f" (and {len(flows) - 1} more)" if len(flows) > 1 else ""
    problem = "is in the output folder, but belongs to no pair of this job"
    line = InputError(f"{min(flows)}{more}", problem, "move it before you use the folder")
    click.echo(f"flowwarp: {line}", err=True)


def _report(outcome: Outcome, tally: Tally, options: FlowOptions) -> None:
    """Count an outcome and print the paths of its results."""
    tally.total += 1
    tally.unknown.difference_update(outcome.target.paths)
    if outcome.error is not None:
        line = str(InputError(outcome.target.flow, outcome.error))
        tally.failed.append({"input": list(outcome.names), "error": line})
        return
    if options.show:
        tally.flows.append((outcome.place, outcome.target.flow))
    if options.as_json:
        assert outcome.size is not None
        tally.results.append(
            {
                "input": list(outcome.names),
                **describe_target(outcome.target),
                "height": outcome.size[0],
                "width": outcome.size[1],
                "seconds": round(outcome.seconds, 3),
                "kept": outcome.state == "kept",
            }
        )
    else:
        for path in outcome.target.paths:
            print_path(path)


def _check_show(options: FlowOptions, done: Mapping[str, Any]) -> None:
    """Refuse to replace a --show file or folder that this job has not written.

    Raises:
        OutputError: there is one, and --overwrite is not options.
    """
    if options.show is None:
        return
    path = Path(options.show)
    record = _show_record(path)
    if done.get(record["part"]) == record:
        return
    if not path.is_dir():
        _paths.check_output(path, overwrite=options.overwrite)
    elif any(path.iterdir()) and not options.overwrite:
        raise OutputError(path, "is not empty", "use --overwrite to write into it")


def _show_record(shown: Path) -> dict[str, Any]:
    """Return the manifest record of what --show has written.

    A file belongs to the job only while it is unchanged, so its stamp is recorded. A folder belongs
    to it once it was found empty, like those of flow.
    """
    from flowwarp.io.manifests import stamp

    part = f"show {os.path.abspath(shown)}"  # noqa: PTH100 - resolves no links
    return {"part": part, "status": "done", "stamp": None if shown.is_dir() else stamp(shown)}


def _draw(target: Path, job: Job, tally: Tally, manifest: Manifest) -> None:
    """Draw the flow of each clip at one scale, so that its frames can be compared."""
    video = _is_video(target)
    if not video:
        _paths.make_folder(target)
        manifest.append(_show_record(target))  # before drawing, which may be interrupted
    clips: dict[int, list[Path]] = {}
    for (number, _), path in sorted(tally.flows):
        clips.setdefault(number, []).append(path)
    for number, flows in clips.items():
        clip, _ = job.clips[number]
        try:
            if video:
                show.write_sequence(flows, target, show.View(), _rate(clip))
                manifest.append(_show_record(target))
                continue
            view = show.View(max_flow=show.common_scale(flows))
            for path in flows:
                drawn = target / path.relative_to(job.folder).with_suffix(".png")
                show.write_picture(path, drawn, view)
        except InputError as fault:  # the frame size changes, which a video cannot show
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
