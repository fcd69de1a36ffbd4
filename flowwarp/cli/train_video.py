"""``flowwarp train-video``: a text-to-video model of one's own captioned clips."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowwarp.cli._options import (
    dry_run_option,
    input_argument,
    json_option,
    output_option,
    overwrite_option,
)
from flowwarp.cli._paths import check_output
from flowwarp.cli._report import print_path, print_text
from flowwarp.cli._training import report_clips
from flowwarp.cli.device import choose_device, device_option
from flowwarp.defaults import MAX_SEED
from flowwarp.errors import FlowwarpError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowwarp.data.captioned_survey import Survey
    from flowwarp.data.clip import WorldFiles
    from flowwarp.pipelines.video.load import VideoModel
    from flowwarp.train.video_plan import Plan
    from flowwarp.train.video_run import VideoData

_EVERY = 64  # videos between two lines of progress


@dataclass(frozen=True)
class _Options:
    """The options of the command, by their names."""

    captioned: str
    captions: str | None
    layers: str | None
    folder: str
    export: str | None
    device: str
    as_json: bool

    def world_files(self) -> WorldFiles:
        from flowwarp.data.clip import WorldFiles

        return WorldFiles(self.layers)


@click.command()
@input_argument("captioned", "CAPTIONED")
@click.option(
    "--hours",
    type=click.FloatRange(0.001, 10_000),
    help="Wall time of the whole training, report included.  [default: 1]",
)
@click.option(
    "--preset",
    type=click.Choice(["own", "sprites", "large"]),
    help="Sizes of the networks: for own clips, the sprite world, or a GPU.  [default: own]",
)
@click.option(
    "--captions",
    metavar="FILE|none",
    help="A table of captions elsewhere; none: train without words, to continue pictures.",
)
@click.option("--layers", metavar="FOLDER", help="Sprite layers, instead of those in the package.")
@click.option("--run", "folder", default="runs/video", show_default=True, help="Folder of the run.")
@click.option(
    "--resume",
    type=click.Choice(["never", "auto"]),
    default="never",
    show_default=True,
    help="auto: continue the run in the folder, if there is one, by its own plan.",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Random seed.  [default: 0]")
@output_option("Also write the model to this file.", "--export", metavar="FILE")
@overwrite_option("Replace the file of --export if it exists.")
@click.option(
    "--mirror",
    is_flag=True,
    default=None,
    help="Also learn from mirrored clips; refused if captions say left or right.",
)
@click.option(
    "--check", is_flag=True, help="Only overfit eight clips in two minutes, and show them."
)
@device_option
@json_option("the paths")
@dry_run_option("Check everything, print the plan, write nothing.")
def command(
    captioned: str,
    hours: float | None,
    preset: str | None,
    captions: str | None,
    layers: str | None,
    folder: str,
    resume: str,
    seed: int | None,
    export: str | None,
    overwrite: bool,
    mirror: bool | None,
    check: bool,
    device: str,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Train a text-to-video model of CAPTIONED clips.

    CAPTIONED is a folder or tar file of videos with captions, or one of the worlds that are made as
    they are needed: sprites, digits. Three networks are trained one after the other: a discrete
    VAE, a transformer and an upsampler. Their sizes and steps follow from the time there is and
    the speed of this machine. Stop it whenever you like, and continue with --resume auto.

    The run's folder is what --weights of generate-video and describe-video takes. Its report.html
    shows what was learned.

    \b
    flowwarp train-video clips/ --check
    flowwarp train-video clips/ --hours 1 --run runs/mine
    flowwarp generate-video "a red ball rolls" --weights runs/mine -o ball.mp4
    """  # noqa: D301 - click wants the character itself
    started = time.monotonic()
    options = _Options(captioned, captions, layers, folder, export, choose_device(device), as_json)
    if export is not None:
        if Path(export).suffix != ".safetensors":
            raise click.BadParameter("it must end in .safetensors", param_hint="--export")
        check_output(Path(export), overwrite=overwrite)
    from flowwarp.train.video_folder import choose_plan

    plan = choose_plan(
        folder,
        "auto" if resume == "auto" else "never",
        hours=hours,
        seed=seed,
        preset=preset,
        mirror=mirror,
    )
    found = _survey(options)
    if plan.mirror:
        _check_mirror(found)
    if dry_run:
        _print_plan(options, plan, found)
    elif check:
        _check(options, found)
    else:
        _train(options, plan, found, started)


def _survey(options: _Options) -> Survey:
    """Look through the source, and print what is there.

    Raises:
        InputError: no clip is of use, or files do not fit the source.
    """
    from flowwarp.data.captioned_survey import format_survey, survey
    from flowwarp.data.sources import WORLDS, check_source
    from flowwarp.train.processes import is_first

    # Before the survey, as it is fast. It refuses layers for other clips than sprites.
    if options.captioned in WORLDS or options.layers is not None:
        check_source(options.captioned, options.world_files())
    if options.captioned in WORLDS and options.captions not in (None, "none"):
        raise click.UsageError(f"--captions FILE: the captions of {options.captioned} are made")
    found = survey(options.captioned, captions=options.captions, progress=_report_survey)
    if is_first():
        click.echo(format_survey(found), err=True)
        if not found.enough:
            click.echo("flowwarp: there is little to learn from; see 'too few' above", err=True)
    return found


def _check_mirror(found: Survey) -> None:
    """Refuse to mirror clips whose captions tell left from right."""
    from flowwarp.data.captioned_survey import SIDES

    if found.files is None:
        raise click.UsageError(f"--mirror: the captions of {found.source} say left and right")
    sides = [word for word, _ in found.files.words if word in SIDES]
    if sides:
        raise click.UsageError(f"--mirror: captions have the word {sides[0]!r}")


def _report_survey(done: int, total: int) -> None:
    if done % _EVERY == 0 and done < total:
        click.echo(f"looking through the clips: {done} of {total} videos", err=True)


def _report_clips(done: int, total: int) -> None:
    if done % _EVERY == 0 or done == total:
        report_clips(done, total)


def _open_data(options: _Options, found: Survey) -> VideoData:
    from flowwarp.train.video_data import open_video_data

    return open_video_data(
        found,
        captions=options.captions,
        world_files=options.world_files(),
        progress=_report_clips,
    )


def _train(options: _Options, plan: Plan, found: Survey, started: float) -> None:
    """Train, or continue; print the paths of the model and of the report."""
    import torch

    from flowwarp.data.captioned_survey import format_survey
    from flowwarp.pipelines.video.load import MODEL, save_video_model
    from flowwarp.train.processes import is_first
    from flowwarp.train.video_folder import locked
    from flowwarp.train.video_report import REPORT, write_report
    from flowwarp.train.video_run import VideoRun, train_video

    folder, table = Path(options.folder), format_survey(found)
    with locked(folder):
        data = _open_data(options, found)
        # As if the stages that are done were of this process, so that the whole takes its hours.
        began = started - sum(plan.seconds.values())
        run = VideoRun(folder, plan, torch.device(options.device), began)

        def report(model: VideoModel) -> None:
            if is_first():
                write_report(run, table, (model, data))

        try:
            model = train_video(data, run, report)
        except BaseException:  # a signal may also come between two stages
            if is_first() and not (folder / MODEL).exists():  # else the report with its samples
                with suppress(FlowwarpError):
                    write_report(run, table)
            raise
        if not is_first():
            return
        if options.export is not None:
            save_video_model(options.export, model, model.notes)
    written = {"model": folder / MODEL, "report": folder / REPORT}
    if options.export is not None:
        written["export"] = Path(options.export)
    _print_paths(options, written)


def _check(options: _Options, found: Survey) -> None:
    """Overfit eight clips and print where they can be seen."""
    import torch

    from flowwarp.data.captioned_survey import format_survey
    from flowwarp.train.video_check import check_clips
    from flowwarp.train.video_folder import locked

    with locked(options.folder):
        data, folder = _open_data(options, found), Path(options.folder)
        checked = check_clips(
            data, folder, format_survey(found), torch.device(options.device), say=_say
        )
    _say(f"{checked.right} of {checked.clips} samples are most like the clip of their caption")
    _print_paths(options, {"check": checked.page})


def _say(line: str) -> None:
    click.echo(line, err=True)


def _print_paths(options: _Options, written: Mapping[str, Path]) -> None:
    if options.as_json:
        paths = {name: str(path) for name, path in written.items()}
        click.echo(json.dumps({"run": options.folder, **paths}))
        return
    for path in written.values():
        print_path(path)


def _print_plan(options: _Options, plan: Plan, found: Survey) -> None:
    """Print what would be trained, as --dry-run does; only the first process prints."""
    from flowwarp.train.processes import is_first
    from flowwarp.train.video_plan import seconds_of_stage, stages_of

    if not is_first():
        return
    layout = found.layout
    if options.as_json:
        about = {"dry_run": True, "run": options.folder, "device": options.device}
        click.echo(json.dumps({**about, "plan": asdict(plan), "survey": asdict(found)}))
        return
    stages = stages_of(plan.preset, enlarges=layout.size != layout.base)
    left, minutes = 3600 * plan.hours, []
    for stage in stages:
        seconds = seconds_of_stage(stage, left, stages)
        minutes.append(f"{stage} {seconds / 60:.3g} min")
        left -= seconds
    steps = (f"{name} {count}" for name, count in plan.steps.items())
    lines = {
        "clips": f"{found.source}, {layout.frames} frames of {layout.size[1]}x{layout.size[0]}",
        "stages": f"{', '.join(minutes)}; the rest reads clips and writes the report",
        "steps": ", ".join(steps) or "measured on this machine before each stage",
        "done": ", ".join(plan.seconds) or "nothing yet",
        "preset": f"{plan.preset}, seed {plan.seed}, on {options.device}",
        "run": options.folder,
    }
    for name, line in lines.items():
        print_text(f"{name}: {line}")
