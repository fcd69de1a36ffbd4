"""``flowwarp generate-video``: from words to video files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths, _video_model, _video_output
from flowwarp.cli._options import output_option
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.cli._video_jobs import (
    MOST_FRAMES,
    Job,
    given_options,
    is_there,
    over_gray,
    plan_jobs,
    read_prompts,
    refuse_options,
    say,
    shown,
)
from flowwarp.cli._video_options import (
    choosing_options,
    load_networks,
    network_options,
    sampling_of,
    sampling_options,
)
from flowwarp.cli.device import check_device, choose_device, device_option
from flowwarp.defaults import FPS, MAX_SEED, STEPS
from flowwarp.errors import InputError, OutputError

if TYPE_CHECKING:
    from flowwarp.legacy.pipelines.hearing import Heard
    from flowwarp.legacy.pipelines.load import VideoModels

# Options of the weights in the package, which a model of train-video has no use for.
_OF_PACKAGE = {"candidates", "top_k", "detail", "plausible"} | {
    *("gpt", "captioner", "sketcher", "dvae", "reviser", "upsampler", "flow")
}


@click.command()
@click.argument("prompts", metavar="PROMPT...", nargs=-1)
@click.option(
    "--weights",
    "model",
    metavar="RUN",
    help="A model of train-video: the folder of a run, or a file that it exported.",
)
@output_option("A video or a folder of its frames.")
@click.option(
    "--format",
    type=click.Choice([kind[1:] for kind in sorted(_video_output.VIDEOS)]),
    help="What OUT does not say: mp4, if not said.",
)
@click.option("--prompts", "listed", metavar="FILE", help="Prompts, one a line; - for stdin.")
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=0,
    show_default=True,
    help="Which of all possible videos.",
)
@click.option(
    "--frames",
    type=click.IntRange(1, MOST_FRAMES),
    metavar="N",
    help=f"How many, at most {MOST_FRAMES}; as many as the training clips have if not said.",
)
@click.option(
    "--fps",
    type=click.FloatRange(0.001, _video_output.MAX_FPS),  # `MIN_FPS`, rounded up
    default=FPS,
    show_default=True,
    help="Frames a second; with --weights, that of the training clips if not said.",
)
@click.option("--image", metavar="FILE", help="A picture for the video to begin with.")
@click.option(
    "--continue-from",
    metavar="VIDEO",
    help="A video to go on from where it ends; with --weights only.",
)
@choosing_options
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    default=STEPS,
    show_default=True,
    help="Of the upsampler, a frame; 1: what is likely, sharpened; more: made-up detail too.",
)
@click.option("--no-upsampler", is_flag=True, help="Leave frames at half the size.")
@click.option("--no-temporal", is_flag=True, help="Sharpen each frame by itself; it will flicker.")
@sampling_options
@network_options
@device_option
@click.option("--overwrite", is_flag=True, help="Replace a video; a folder must be empty.")
@click.option(
    "--skip-existing", is_flag=True, help="Of several, make those that are not there yet."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of paths.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be written.")
def command(
    prompts: tuple[str, ...],
    model: str | None,
    output: str | None,
    format: str | None,
    listed: str | None,
    seed: int,
    frames: int | None,
    fps: float,
    image: str | None,
    continue_from: str | None,
    candidates: int,
    best: int,
    steps: int,
    no_upsampler: bool,
    no_temporal: bool,
    drawn: dict[str, Any],
    weights: dict[str, Any],
    device: str,
    overwrite: bool,
    skip_existing: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Make a video of what PROMPT says.

    OUT is .mp4, .m4v, .mov, .mkv, .gif or .webp, or a folder, which is filled with frames. Without
    -o the video is named after its prompt, here. Of several PROMPTs, and of --prompts, each becomes
    a video in folder OUT, of --format; one that cannot be read or written does not stop the others,
    and with --skip-existing a list that was stopped goes on. The paths written are printed on
    stdout.

    The same prompt, seed and options make the same video on the same machine with as many threads,
    on a CPU bit for bit. More than 16 frames are made piece by piece, each going on where the one
    before it ends. A prompt may be in any words, but the weights know only what they were trained
    on: what they are told of it is said if it is in others. docs/video.md says what they know, and
    how to train others.

    --weights takes a model of your own clips, by train-video, instead. It makes frames of their
    size and rate, and knows the words of their captions.

    \b
    flowwarp generate-video "a knight in plate armor walks to the left"
    flowwarp generate-video "a skeleton casts a spell on sand" -o spell.gif --seed 3 --best-of 8
    flowwarp generate-video "a woman in a blue dress stands still" --image first.png --frames 40
    flowwarp generate-video --prompts prompts.txt -o videos/ --json
    flowwarp generate-video "a red ball falls" --weights runs/video
    """  # noqa: D301 - click wants the character itself
    if math.isnan(fps):  # click finds it in every range
        raise click.UsageError("--fps must be a number, got nan")
    check_device(device)
    given = given_options()
    if model is None and "continue_from" in given:
        raise click.UsageError("--continue-from needs --weights")
    refuse_options(_OF_PACKAGE, given if model is not None else {})
    unprompted = model is not None and not prompts and listed is None
    asked = [""] if unprompted else read_prompts(prompts, listed)
    jobs = plan_jobs(asked, output, format, many=listed is not None)
    if len(asked) > 1 and not any(" " in prompt for prompt in asked):
        say(f"a video for each of {len(asked)} words; put quotes around a prompt of several")
    if skip_existing:
        if overwrite:
            raise click.UsageError("--overwrite and --skip-existing exclude each other")
        jobs = [job for job in jobs if not is_there(job)]
        say(f"{len(asked) - len(jobs)} of {len(asked)} videos are there")
    read = _paths.real_names(name for name in (image, listed, continue_from) if name)
    for job in jobs:
        _video_output.check_target(job.target, folder=job.folder, overwrite=overwrite, read=read)
        if not job.folder:  # of frames, which has no rate
            _video_output.check_rate(job.target, fps)
    from flowwarp.io.images import read_image

    first = None if image is None else over_gray(read_image(image, alpha=True))
    if model is not None:
        _video_model.make_videos(
            jobs,
            model,
            given | {"image": first},
            device,
            as_json=as_json,
            dry_run=dry_run,
        )
        return
    if no_upsampler:
        weights["upsampler"] = None
    if no_upsampler or no_temporal:
        weights["flow"] = None
    options = {
        "seed": seed,
        "frames": frames,
        "best": best,
        "candidates": candidates,
        "sampling": sampling_of(drawn),
        "steps": steps,
        "temporal": not no_temporal,
        "image": first,
    }
    load, results, failed = _run(jobs, weights, device, fps, options, as_json, dry_run)
    if as_json:
        outcome = {"dry_run": dry_run, "load_seconds": round(load, 3), "results": results}
        click.echo(json.dumps(outcome | {"failed": failed}))
    raise_if_failed(failed, len(jobs))


def _hear(models: VideoModels, prompts: Iterable[str]) -> dict[str, Heard]:
    """Return what is heard of each prompt, and say on stderr what of it will not be understood."""
    from flowwarp.legacy.pipelines.hearing import hear

    heard = {prompt: hear(models.gpt, prompt) for prompt in prompts}
    for prompt, told in heard.items():
        _warn(prompt, told)
    _warn_alike(heard)
    return heard


def _warn(prompt: str, heard: Heard) -> None:
    """Say on stderr what of a prompt will not be understood."""
    from flowwarp.legacy.pipelines.sequences import words_of

    if not heard.text:
        return  # it is refused
    name = shown(prompt)
    if len(heard.read) < len(heard.text):
        say(f"{name}: is too long; nothing after {heard.read[-20:]!r} is read")
    if not words_of(heard.read):
        say(f"{name}: holds no word that the network knows; expect anything")
    if heard.reworded:
        say(f"{name}: read as {heard.read!r}")
    if heard.left_out:
        say(f"{name}: left out: {_some(heard.left_out)}")
    if heard.unknown:
        listed = _some(heard.unknown)
        say(f"{name}: the network has never learned {listed}; expect anything there")


def _some(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words[:5])) + (", …" if len(words) > 5 else "")


def _warn_alike(heard: Mapping[str, Heard]) -> None:
    """Say on stderr which prompts are read alike, so that their videos are the same."""
    read: dict[str, str] = {}
    for prompt, told in heard.items():
        before = read.setdefault(told.text, prompt)
        if told.text and before != prompt:
            say(f"{prompt!r}: is read like {before!r}, and gives the same video")


# ------------------------------------------------------------------ making it


def _run(
    jobs: Sequence[Job],
    weights: dict[str, Any],
    device: str,
    fps: float,
    options: dict[str, Any],
    as_json: bool,
    dry_run: bool,
) -> tuple[float, list[dict[str, Any]], list[dict[str, str]]]:
    """Make the videos; return the seconds that loading took, what was made, and what failed.

    Raises:
        click.UsageError: they are longer than this transformer can go on.
        InputError, OutputError: there is one video alone, and it cannot be made or written.
    """
    if not jobs:
        return 0.0, [], []
    start = time.perf_counter()
    models = _load(weights, device)
    load = time.perf_counter() - start
    heard = _hear(models, [job.prompt for job in jobs])
    frames = models.window if options["frames"] is None else options["frames"]
    if frames > models.window and not models.goes_on:
        raise click.UsageError(f"--frames must be at most {models.window} with this --gpt")
    sketched = models.uses_sketches and options["image"] is None
    about = {
        "seed": options["seed"],
        "frames": frames,
        "width": models.size,
        "height": models.size,
        "fps": fps,
        "candidates": options["candidates"] if sketched else 1,
        "best_of": options["best"],
    }
    results: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for number, job in enumerate(jobs, start=1):
        label = "generate" if len(jobs) == 1 else f"generate {number}/{len(jobs)}"
        told = {"prompt": job.prompt, "output": str(job.target)}
        try:
            if not heard[job.prompt].text:
                raise InputError(shown(job.prompt), "holds nothing that can be read")
            seconds = {} if dry_run else _make(models, job, fps, options, label)
        except (InputError, OutputError) as fault:
            if len(jobs) == 1:
                raise
            failed.append(told | {"error": str(fault)})
            continue
        results.append(told | {"read_as": heard[job.prompt].read, **about, "seconds": seconds})
        if not as_json:
            print_path(job.target)
    return load, results, failed


def _load(weights: dict[str, Any], device: str) -> VideoModels:
    models = load_networks(weights, choose_device(device))
    if models.gpt.sketches is not None and not models.uses_sketches:
        say(f"{weights['gpt']}: it learned to make videos by way of sketches; give its --sketcher")
    if models.sketcher is not None and not models.uses_sketches:
        say(f"{weights['gpt']}: it makes no sketches; --candidates changes nothing")
    return models


def _make(
    models: VideoModels,
    job: Job,
    fps: float,
    options: dict[str, Any],
    label: str,
) -> dict[str, float]:
    """Make a video and write it; return the seconds that each stage took."""
    from flowwarp.io.video_writer import write_frames, write_video
    from flowwarp.legacy.pipelines.generate import STAGES, generate

    start = time.perf_counter()
    seconds: dict[str, float] = {}
    with progress_bar(range(1000), label) as bar:
        try:
            frames = generate(
                models,
                job.prompt,
                seconds=seconds,
                progress=lambda done, total: bar.update(1000 * done // total - bar.pos),
                **options,
            )
        except ValueError as fault:
            raise click.UsageError(str(fault)) from fault
        _paths.make_folder(job.target.parent)
        if job.folder:
            write_frames(job.target, ((frame, None) for frame in frames))
        else:
            write_video(job.target, frames, fps)
    taken = {stage: seconds.get(stage, 0.0) for stage in STAGES}
    taken["write"] = time.perf_counter() - start - sum(seconds.values())
    return {stage: round(value, 3) for stage, value in taken.items()}
