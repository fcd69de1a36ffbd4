"""``flowwarp flow``: estimate optical flow of a pair, of folders of frames, of videos.

The work is in pipelines/flow: run_job.py → pair_fields.py → estimate.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths, show
from flowwarp.cli._flow_job import FlowOptions, describe_target, load_network, run_job
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
from flowwarp.cli.device import check_device, device_option
from flowwarp.errors import InputError
from flowwarp.io.file_types import FLOW_FORMATS

if TYPE_CHECKING:
    from flowwarp.io.manifests import Shard


def _read_shard(ctx: click.Context, param: click.Parameter, value: str | None) -> Shard | None:
    """Parse --shard: ``2/8`` gives (2, 8)."""
    if value is None:
        return None
    number, _, count = value.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise click.BadParameter(f"{value!r} is not I/N with I from 1 to N", ctx, param)


@click.command()
@input_argument("inputs", "INPUT...", nargs=-1)
@output_option("The flow file of a pair; otherwise the folder for flow files.")
@quality_option("fast: the network alone; balanced: plus a short fit; best: a fit to convergence.")
@weights_option("Flow network: base or small (shipped), or a file from train-flow.")
@click.option(
    "--format", type=click.Choice(FLOW_FORMATS), help="Format of flow files.  [default: flo]"
)
@output_option("Also write the flow from frame 2 to frame 1: a file or folder.", "--backward")
@output_option(
    "Also write a mask PNG: white where the pixel is visible in frame 2, black where occluded.",
    "--occlusion",
)
@output_option("Also draw the flow in colour: an image; or a video or folder.", "--show")
@device_option
@click.option(
    "--workers", type=click.IntRange(1, 256), metavar="N", help="Worker processes.  [default: 1]"
)
@click.option(
    "--shard",
    callback=_read_shard,
    metavar="I/N",
    help="Estimate only part I of N, for N machines.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Use a ray cluster; local: start one here. This machine reads and writes all files; if"
    " the machines share a disk, prefer --shard.",
)
@overwrite_option("Start again; replace files that exist.")
@json_option("paths")
@dry_run_option()
def command(**values: Any) -> None:
    """Estimate optical flow: where each pixel of a frame moves to in the next frame.

    INPUT is two images (a pair); or a video, a folder of frames, a glob or more images, whose flow
    is estimated from each frame to the next. Folders may contain folders and videos.

    Default output: a_flow.flo for the pair a.png b.png; otherwise folder NAME_flow beside NAME,
    with one flow file per pair, named after its first frame (frame7.flo; of a video 000006.flo). If
    there are several clips, each has its own subfolder. The paths are printed on stdout.

    A job of many pairs can be interrupted at any time: the same command resumes it and retries
    pairs that failed. OUT/manifest.jsonl lists the pairs that are done. A broken frame fails only
    its own pairs. Shards may run on different machines, with INPUT in another folder or copied with
    its file times (cp -p). At the end run the command without --shard: it checks that all shards
    are complete, and draws --show.

    \b
    flowwarp flow frame1.png frame2.png                  writes frame1_flow.flo
    flowwarp flow frame1.png frame2.png -o ab.flo --show ab.png --quality best
    flowwarp flow clip.mp4 --show flow.mp4               writes clip_flow/000000.flo, ...
    flowwarp flow clips/ -o flows/ --workers 4 --format png
    flowwarp flow clips/ -o flows/ --shard 2/8
    """  # noqa: D301 - click wants the character itself
    options = FlowOptions(**values)
    if not options.ray:  # with ray, the cluster needs the GPU
        check_device(options.device)
    sources = _list_sources(options.inputs)
    if len(options.inputs) == 2 and _is_pair(options.inputs, sources):
        _estimate_pair(options, sources)
    else:
        run_job(options, sources)


def _list_sources(inputs: Sequence[str]) -> list[Path]:
    """Expand globs.

    Raises:
        InputError: a glob matches nothing, or an input has the extension of a flow file.
    """
    from flowwarp.io.file_types import FLOW_EXTENSIONS, IMAGE_EXTENSIONS, natural_order

    # Probably a glob that the shell expanded: shells sort frame10 before frame2.
    if len(inputs) > 2 and list(inputs) == sorted(inputs):
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
            raise InputError(name, "has the extension of a flow file, which is output", remedy)
        found += matches
    return found


def _is_pair(inputs: Sequence[str], sources: Sequence[Path]) -> bool:
    from flowwarp.pipelines.flow.job_pairs import is_picture

    return not any(map(_paths.is_glob, inputs)) and all(map(is_picture, sources))


# ------------------------------------------------------------------ one pair


def _estimate_pair(options: FlowOptions, frames: Sequence[Path]) -> None:
    from flowwarp.pipelines.flow import pair_fields

    target, picture = _pair_outputs(options, frames[0])
    outputs = [*target.paths, *([picture] if picture else [])]
    input_paths = _paths.real_names(frames)

    def check() -> None:
        for path in outputs:
            _paths.check_output(path, overwrite=options.overwrite, read=input_paths)

    check()
    if len(set(map(os.path.realpath, outputs))) < len(outputs):
        raise click.UsageError("OUT, --backward, --occlusion and --show must differ")
    images = pair_fields.read_pair(frames, [str(frame) for frame in frames])
    net = load_network(options)
    if not options.dry_run:
        with progress_bar(range(100), "flow") as bar:
            fields = pair_fields.estimate_fields(
                net,
                *images,
                options.quality,
                backward=target.backward is not None,
                visible=target.occlusion is not None,
                progress=lambda share: bar.update(round(100 * share) - bar.pos),
            )
        check()  # again: the fit may have taken minutes
        for path in outputs:
            _paths.make_folder(path.parent)
        pair_fields.write_fields(fields, target)
        if picture:
            show.write_picture(target.flow, picture, show.View())
    if options.as_json:
        height, width = images[0].shape[1:]
        result = {
            "input": [str(frame) for frame in frames],
            **describe_target(target),
            "show": str(picture) if picture else None,
            "height": height,
            "width": width,
        }
        click.echo(json.dumps({"dry_run": options.dry_run, "results": [result], "failed": []}))
    else:
        for path in outputs:
            print_path(path)


def _pair_outputs(options: FlowOptions, frame: Path) -> tuple[Any, Path | None]:
    """Return the output files of a pair, and the image of --show or None."""
    from flowwarp.io.file_types import COLOR_EXTENSIONS, FLOW_EXTENSIONS
    from flowwarp.pipelines.flow.pair_fields import Target

    for option in ("shard", "workers", "ray"):
        if getattr(options, option) is not None:
            raise click.UsageError(f"--{option} is for many pairs, this is one pair")
    extension = f".{options.format or 'flo'}"

    def named(name: str | None, option: str, known: frozenset[str], extension: str) -> Path | None:
        if name is None:
            return None
        if _paths.wants_folder([], name):
            return Path(name) / f"{frame.stem}{extension}"
        if Path(name).suffix.lower() not in known:
            listed = ", ".join(sorted(known))
            raise click.UsageError(f"{option} must end in {listed} for a pair, got {name!r}")
        return Path(name)

    flows = FLOW_EXTENSIONS if options.format is None else frozenset({extension})
    flow = named(options.output, "OUT", flows, extension)
    flow = flow or _paths.name_beside(frame, "flow", extension)
    backward = named(options.backward, "--backward", flows, extension)
    occlusion = named(options.occlusion, "--occlusion", frozenset({".png"}), ".png")
    picture = named(options.show, "--show", COLOR_EXTENSIONS, ".png")
    return Target(flow, backward, occlusion), picture
