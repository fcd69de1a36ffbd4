"""``generate-video`` by a model of ``train-video``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths, _video_output
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.cli._video_jobs import Job, say, shown
from flowwarp.cli.device import choose_device
from flowwarp.errors import InputError, OutputError

if TYPE_CHECKING:
    from flowwarp.pipelines.video.generate import Request
    from flowwarp.pipelines.video.load import VideoModel
    from flowwarp.pipelines.video.prompt import Prompt

_MOST_NAMED = 5  # words that a line names


def make_videos(
    jobs: Sequence[Job],
    weights: str,
    given: Mapping[str, Any],
    device: str,
    *,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Make videos and print their paths, or one JSON object.

    Args:
        jobs: what to make.
        weights: the folder of a run, or a file.
        given: options by name, those that were given; and ``image`` (3, H, W) or None.
        device: the option.
        as_json: whether to print JSON.
        dry_run: whether to make none.

    Raises:
        click.UsageError: an option does not fit the model, or there is one prompt alone, of which
            no word is known.
        InputError, OutputError: a file cannot be read; or there is one video alone, and it cannot
            be written.
        SomeFailed: of several videos, some could not be made.
    """
    from flowwarp.pipelines.video.load import load_video_model

    start = time.perf_counter()
    model = load_video_model(weights, choose_device(device))
    load = time.perf_counter() - start
    fps, seed = given.get("fps", model.config.fps), given.get("seed", 0)
    for job in jobs:
        if not job.folder:  # frames have no rate
            _video_output.check_rate(job.target, fps)
    request = _request(model, given, fps)
    about = {
        "seed": seed,
        "frames": request.frames,
        "width": model.config.size[1],
        "height": model.config.size[0],
        "fps": fps,
        "best_of": request.candidates,
    }
    results: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for number, (job, prompt) in enumerate(_parse(model, jobs, failed), start=1):
        label = "generate" if len(jobs) == 1 else f"generate {number}/{len(jobs)}"
        named = {"prompt": job.prompt, "output": str(job.target)}
        start = time.perf_counter()
        try:
            if not dry_run:
                _make(model, job, replace(request, prompt=job.prompt), seed, fps, label)
        except OutputError as fault:
            if len(jobs) == 1:
                raise
            failed.append(named | {"error": str(fault)})
            continue
        seconds = round(time.perf_counter() - start, 3)
        results.append(named | {**_words_of(prompt), **about, "seconds": seconds})
        if not as_json:
            print_path(job.target)
    if as_json:
        outcome = {"dry_run": dry_run, "load_seconds": round(load, 3), "results": results}
        click.echo(json.dumps(outcome | {"failed": failed}))
    raise_if_failed(failed, len(jobs))


def _request(model: VideoModel, given: Mapping[str, Any], fps: float) -> Request:
    """Return what the options ask for, with an empty prompt.

    Raises:
        click.UsageError: a value is out of range, or two exclude each other.
        InputError: the video to continue cannot be read.
    """
    from flowwarp.models.sampling import SamplingConfig
    from flowwarp.pipelines.video.encode import read_end
    from flowwarp.pipelines.video.generate import Request

    named = {"steps": "steps", "best": "candidates"}  # options, and their names in the request
    choices = {field: given[name] for name, field in named.items() if name in given}
    drawn = {name: given[name] for name in ("temperature", "top_p", "guidance") if name in given}
    if given["image"] is not None and "continue_from" in given:
        raise click.UsageError("--image and --continue-from exclude each other")
    try:
        sampling = SamplingConfig(**drawn)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from fault
    before = None
    if "continue_from" in given:
        before = read_end(model, given["continue_from"], fps)
    return Request(
        prompt="",
        frames=given.get("frames", model.config.frames),
        image=given["image"],
        before=before,
        sampling=sampling,
        upsample="no_upsampler" not in given,
        temporal="no_temporal" not in given,
        **choices,
    )


def _parse(
    model: VideoModel, jobs: Sequence[Job], failed: list[dict[str, str]]
) -> list[tuple[Job, Prompt]]:
    """Return the jobs whose prompts can be read, and note the others.

    What of a prompt will not be shown is said.

    Raises:
        click.UsageError: there is a job alone, and its prompt cannot be read.
    """
    from flowwarp.pipelines.video.learned import not_learned, word_figures
    from flowwarp.pipelines.video.prompt import Prompt, parse_prompt

    missed = not_learned(word_figures(model.notes))
    parsed = []
    for job in jobs:
        if not job.prompt and model.words.words:
            raise click.UsageError("say what to show: PROMPT, or --prompts FILE")
        if job.prompt and not model.words.words:
            raise click.UsageError("this model was trained without words; leave PROMPT out")
        try:
            prompt = parse_prompt(job.prompt, model.words, missed) if job.prompt else Prompt("")
        except InputError as fault:
            if len(jobs) == 1:
                raise click.UsageError(str(fault)) from fault
            output = str(job.target)
            failed.append({"prompt": job.prompt, "output": output, "error": str(fault)})
            continue
        if prompt.unknown:
            named = _named(prompt.unknown)
            say(f"{shown(job.prompt)}: left out, as no training caption has it: {named}")
        if prompt.not_learned:
            named = _named(prompt.not_learned)
            say(f"{shown(job.prompt)}: makes no difference, as training did not learn it: {named}")
        parsed.append((job, prompt))
    return parsed


def _words_of(prompt: Prompt) -> dict[str, Any]:
    return {"unknown": prompt.unknown, "not_learned": prompt.not_learned}


def _named(words: Sequence[str]) -> str:
    more = ", …" if len(words) > _MOST_NAMED else ""
    return ", ".join(map(repr, words[:_MOST_NAMED])) + more


def _make(model: VideoModel, job: Job, request: Request, seed: int, fps: float, label: str) -> None:
    """Make a video and write it, frame by frame."""
    from flowwarp.io.video_writer import write_frames, write_video
    from flowwarp.pipelines.video.generate import generate_frames

    _paths.make_folder(job.target.parent)
    frames = generate_frames(model, request, seed)
    with progress_bar(frames, label, length=request.frames) as bar:
        if job.folder:
            write_frames(job.target, ((frame, None) for frame in bar))
        else:
            write_video(job.target, bar, fps)
