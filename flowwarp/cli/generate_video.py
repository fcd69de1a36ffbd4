"""``flowwarp generate-video``: from words to video files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths, _video_output
from flowwarp.cli._options import output_option
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.cli._video_options import (
    choosing_options,
    load_networks,
    network_options,
    sampling_of,
    sampling_options,
)
from flowwarp.cli.device import check_device, choose_device, device_option, set_wait_policy
from flowwarp.defaults import FPS, MAX_SEED, STEPS
from flowwarp.errors import InputError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.legacy.pipelines.hearing import Heard
    from flowwarp.legacy.pipelines.load import VideoModels

LARGEST_LIST = 2**24  # bytes of prompts
MOST_FRAMES = 10_000  # 14 minutes at 12 a second; more is a slip, and would take days
LONGEST_NAME = 60  # characters made of a prompt; every file system takes 143
# Names that Windows keeps for devices, whatever their extension.
_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)\d")


@dataclass(frozen=True)
class Job:
    """A prompt, and where its video goes.

    Attributes:
        prompt: on one line.
        target: a video file, or a folder of frames.
        folder: whether it is the latter.
    """

    prompt: str
    target: Path
    folder: bool


@click.command()
@click.argument("prompts", metavar="PROMPT...", nargs=-1)
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
    help=f"How many, at most {MOST_FRAMES}; 16 if not said.",
)
@click.option(
    "--fps",
    type=click.FloatRange(0.001, _video_output.MAX_FPS),  # `MIN_FPS`, rounded up
    default=FPS,
    show_default=True,
    help="Frames a second.",
)
@click.option("--image", metavar="FILE", help="A picture for the video to begin with.")
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
    output: str | None,
    format: str | None,
    listed: str | None,
    seed: int,
    frames: int | None,
    fps: float,
    image: str | None,
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

    \b
    flowwarp generate-video "a knight in plate armor walks to the left"
    flowwarp generate-video "a skeleton casts a spell on sand" -o spell.gif --seed 3 --best-of 8
    flowwarp generate-video "a woman in a blue dress stands still" --image first.png --frames 40
    flowwarp generate-video --prompts prompts.txt -o videos/ --json
    """  # noqa: D301 - click wants the character itself
    set_wait_policy()
    if math.isnan(fps):  # click finds it in every range
        raise click.UsageError("--fps must be a number, got nan")
    check_device(device)
    asked = _read_prompts(prompts, listed)
    jobs = _plan(asked, output, format, many=listed is not None)
    if len(asked) > 1 and not any(" " in prompt for prompt in asked):
        _say(f"a video for each of {len(asked)} words; put quotes around a prompt of several")
    if skip_existing:
        if overwrite:
            raise click.UsageError("--overwrite and --skip-existing exclude each other")
        jobs = [job for job in jobs if not _is_there(job)]
        _say(f"{len(asked) - len(jobs)} of {len(asked)} videos are there")
    read = _paths.real_names(name for name in (image, listed) if name)
    for job in jobs:
        _video_output.check_target(job.target, folder=job.folder, overwrite=overwrite, read=read)
        if not job.folder:  # of frames, which has no rate
            _video_output.check_rate(job.target, fps)
    from flowwarp.io.images import read_image

    first = None if image is None else _over_gray(read_image(image, alpha=True))
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


# ------------------------------------------------------------------ what to make


def _read_prompts(prompts: Sequence[str], listed: str | None) -> list[str]:
    """Return all prompts, each on one line and once.

    Raises:
        click.UsageError: there is none.
        InputError: one is empty, or the list cannot be read or holds none.
    """
    if not prompts and listed is None:
        raise click.UsageError("say what to show: PROMPT, or --prompts FILE")
    found = [" ".join(prompt.split()) for prompt in prompts]
    if "" in found:
        raise InputError("PROMPT", "is empty", "say what the video shall show")
    if listed is not None:
        lines = [" ".join(line.split()) for line in _read_list(listed).split("\n")]
        if not any(lines):
            raise InputError(listed, "holds no prompt", "write one a line")
        found += filter(None, lines)
    return list(dict.fromkeys(found))


def _read_list(listed: str) -> str:
    from flowwarp.io.files import open_input

    if listed == "-":
        data = sys.stdin.buffer.read(LARGEST_LIST + 1)
    else:
        with open_input(listed) as (file, _):
            data = file.read(LARGEST_LIST + 1)
    if len(data) > LARGEST_LIST:
        raise InputError(listed, f"has more than {LARGEST_LIST >> 20} MB", "split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise InputError(listed, "is not a text file in UTF-8") from fault


def _plan(prompts: Sequence[str], output: str | None, kind: str | None, *, many: bool) -> list[Job]:
    """Say where the video of each prompt goes, and of what ``kind`` it is.

    Raises:
        click.UsageError: OUT is no name for one, or says of what kind it is.
    """
    if len(prompts) == 1 and not many:
        if output and kind:
            raise click.UsageError("--format is of several prompts; of one, OUT says it")
        target = Path(output or f"{name_of(prompts[0])}.{kind or 'mp4'}")
        return [Job(prompts[0], target, not _video_output.is_video_name(str(output or target)))]
    folder = Path(output or ".")
    if folder.suffix.lower() in _video_output.VIDEOS and not _paths.wants_folder((), output or "."):
        listed = "a list of prompts needs" if len(prompts) == 1 else "several prompts need"
        raise click.UsageError(f"{listed} a folder, but OUT is {output!r}")
    jobs, taken = [], Counter[str]()
    for prompt in prompts:
        name = base = _own_name_of(prompt)
        while taken[name]:
            taken[base] += 1
            name = f"{base}_{taken[base]}"
        taken[name] = 1
        jobs.append(Job(prompt, folder / f"{name}.{kind or 'mp4'}", False))
    return jobs


def _is_there(job: Job) -> bool:
    """Return whether a video has been made: frames are put into their folder all at once."""
    if job.folder and job.target.is_dir():
        return any(job.target.iterdir())
    return os.path.lexists(job.target)


def name_of(prompt: str) -> str:
    """Return a name for a prompt's video that every file system takes, without extension.

    >>> name_of("A knight -- in PLATE armor!")
    'a_knight_in_plate_armor'
    """
    name = _spell(prompt)[:LONGEST_NAME].rstrip("_")
    if not name or _DEVICES.fullmatch(name):
        return f"video_{name}".rstrip("_")
    return name


def _own_name_of(prompt: str) -> str:
    """Return a name that tells a prompt from others, wherever in a list it stands.

    Where it cannot have all letters, a number stands for the prompt: what was made of another one
    shall not pass for its video.
    """
    name, letters = name_of(prompt), unicodedata.normalize("NFKD", prompt)
    spelt = "".join(letter for letter in letters.lower() if letter.isalnum())
    if spelt and spelt == _spell(prompt).replace("_", "") and len(_spell(prompt)) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9].rstrip('_')}_{digest}"


def _spell(prompt: str) -> str:
    """Return the words of a prompt, or of the beginning of a long one, in plain letters."""
    plain = unicodedata.normalize("NFKD", prompt[: 4 * LONGEST_NAME])
    return "_".join(re.findall(r"[a-z0-9]+", plain.encode("ascii", "ignore").decode().lower()))


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
    name = _shown(prompt)
    if len(heard.read) < len(heard.text):
        _say(f"{name}: is too long; nothing after {heard.read[-20:]!r} is read")
    if not words_of(heard.read):
        _say(f"{name}: holds no word that the network knows; expect anything")
    if heard.reworded:
        _say(f"{name}: read as {heard.read!r}")
    if heard.left_out:
        _say(f"{name}: left out: {_some(heard.left_out)}")
    if heard.unknown:
        listed = _some(heard.unknown)
        _say(f"{name}: the network has never learned {listed}; expect anything there")


def _some(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words[:5])) + (", …" if len(words) > 5 else "")


def _shown(prompt: str) -> str:
    """Return a prompt as messages name it."""
    return repr(prompt if len(prompt) <= LONGEST_NAME else f"{prompt[:LONGEST_NAME]}…")


def _warn_alike(heard: Mapping[str, Heard]) -> None:
    """Say on stderr which prompts are read alike, so that their videos are the same."""
    read: dict[str, str] = {}
    for prompt, told in heard.items():
        before = read.setdefault(told.text, prompt)
        if told.text and before != prompt:
            _say(f"{prompt!r}: is read like {before!r}, and gives the same video")


def _over_gray(image: Tensor) -> Tensor:
    """Lay a picture (4, H, W) over gray, so that nothing shows that nobody could see."""
    return image[:3] * image[3:] + (1 - image[3:]) * 0.5


def _say(line: str) -> None:
    click.echo(f"flowwarp: {line}", err=True)


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
                raise InputError(_shown(job.prompt), "holds nothing that can be read")
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
        _say(f"{weights['gpt']}: it learned to make videos by way of sketches; give its --sketcher")
    if models.sketcher is not None and not models.uses_sketches:
        _say(f"{weights['gpt']}: it makes no sketches; --candidates changes nothing")
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
