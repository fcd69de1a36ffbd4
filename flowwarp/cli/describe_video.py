"""``flowwarp describe-video``: from video files to words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import click

from flowwarp.cli import _paths
from flowwarp.cli._options import input_argument
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.cli._video_jobs import given_options, refuse_options, say
from flowwarp.cli.device import check_device, choose_device, device_option
from flowwarp.defaults import MAX_SEED
from flowwarp.errors import InputError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.legacy.pipelines.windows import Description

MOST_FRAMES = 1000  # that a model looks at
# Options of the weights in the package, which a model of train-video has no use for.
_OF_PACKAGE = {"best", "seed", "captioner", "gpt", "dvae"}


@click.command()
@input_argument("videos", "VIDEO...", nargs=-1)
@click.option(
    "--weights",
    "model",
    metavar="RUN",
    help="A model of train-video: the folder of a run, or a file that it exported.",
)
@click.option(
    "--best-of",
    "best",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Follow N beginnings of a description side by side, 4 if not said; with --gpt, weigh N "
    "descriptions of each part of a video, 1 if not said.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=0,
    show_default=True,
    help="Of what --gpt tries.",
)
@click.option(
    "--captioner", metavar="WEIGHTS", default="base", show_default=True, help="Of train-captioner."
)
@click.option(
    "--gpt", metavar="WEIGHTS", help="Of train-gpt, or base: describe by it, not by the captioner."
)
@click.option(
    "--dvae", metavar="WEIGHTS", default="base", show_default=True, help="Of train-dvae, for --gpt."
)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.option("--dry-run", is_flag=True, help="Read networks and the first frames, describe none.")
def command(
    videos: tuple[str, ...],
    model: str | None,
    best: int | None,
    seed: int,
    captioner: str,
    gpt: str | None,
    dvae: str,
    device: str,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Say in words what each VIDEO shows.

    VIDEO is a video file of any size and length, a folder of frames, a folder of videos, or a
    glob. The middle square of a frame is looked at, 16 frames at a time, up to four parts of a
    long video; the description that fits all of them best is printed on stdout, after the path if
    there are several videos. --json also says how likely it is, in nats (the higher, the better).

    The weights know only what they were trained on: of other footage they say what comes nearest.

    --weights takes a model of your own clips, by train-video, instead. It looks at whole frames of
    the first thousand, at the rate of those clips, and says on stderr if a video is unlike them.

    \b
    flowwarp describe-video clip.mp4
    flowwarp describe-video clips/ --best-of 16 --json
    flowwarp describe-video clip.mp4 --weights runs/video
    """  # noqa: D301 - click wants the character itself
    check_device(device)
    refuse_options(_OF_PACKAGE, given_options() if model is not None else {})
    sources = _list_sources(videos)
    if model is not None:
        describe_by_model(sources, model, device, as_json=as_json, dry_run=dry_run)
        return
    from flowwarp.io.video_reader import read_video
    from flowwarp.legacy.pipelines.captions import BEAMS, caption_video, load_captioner
    from flowwarp.legacy.pipelines.generate import describe_video
    from flowwarp.legacy.pipelines.load import load_models

    describe: Callable[[Iterable[Tensor]], Description]
    if gpt is None:
        loaded = load_captioner(captioner, choose_device(device))
        describe = partial(caption_video, loaded, beams=best or BEAMS)
    else:
        models = load_models(gpt, dvae, None, None, choose_device(device))
        describe = partial(describe_video, models, best=best or 1, seed=seed)
    results: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    with progress_bar(sources, "describe", shown=len(sources) > 1) as bar:
        for source in bar:
            start = time.perf_counter()
            frames = _Counted(read_video(source))
            try:
                if dry_run:
                    next(iter(frames), None)
                    results.append({"input": str(source)})
                    if not as_json:
                        print_path(source)
                    continue
                found = describe(frames)
            except InputError as fault:
                if len(sources) == 1:
                    raise
                failed.append({"input": str(source), "error": str(fault)})
                continue
            text = printable(found.text)  # the network is free to write any bytes
            results.append(
                {
                    "input": str(source),
                    "text": text,
                    "nats": round(found.nats, 3),
                    "frames": frames.count,
                    "windows": found.windows,
                    "seconds": round(time.perf_counter() - start, 3),
                }
            )
            if not as_json:
                click.echo(text if len(sources) == 1 else f"{printable(str(source))}: {text}")
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "results": results, "failed": failed}))
    raise_if_failed(failed, len(sources))


def describe_by_model(
    sources: Sequence[Path], weights: str, device: str, *, as_json: bool, dry_run: bool
) -> None:
    """Describe videos by a model of ``train-video``, and print lines or one JSON object.

    Raises:
        InputError: the model cannot be read; or there is one video alone, and it cannot.
        SomeFailed: of several videos, some cannot be read.
    """
    from flowwarp.pipelines.video.describe import describe, unlike_training
    from flowwarp.pipelines.video.encode import read_start
    from flowwarp.pipelines.video.load import load_video_model

    model = load_video_model(weights, choose_device(device))
    if not model.words.words:
        raise click.UsageError("this model was trained without words, and can describe nothing")
    results: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    with progress_bar(sources, "describe", shown=len(sources) > 1) as bar:
        for source in bar:
            start = time.perf_counter()
            name = printable(str(source))
            try:
                video = read_start(model, source, 1 if dry_run else MOST_FRAMES)
            except InputError as fault:
                if len(sources) == 1:
                    raise
                failed.append({"input": str(source), "error": str(fault)})
                continue
            if dry_run:
                results.append({"input": str(source)})
                if not as_json:
                    print_path(source)
                continue
            found = describe(model, video)
            unlike = unlike_training(model.notes, found)
            results.append(
                {
                    "input": str(source),
                    "text": found.text,
                    "psnr": round(found.psnr, 2),
                    "nats_per_digit": round(found.nats, 4),
                    "unlike_training": unlike,
                    "frames": len(video),
                    "windows": found.windows,
                    "seconds": round(time.perf_counter() - start, 3),
                }
            )
            if unlike and not as_json:
                say(f"{name}: is unlike the training clips ({unlike}); the words are a guess")
            if not as_json:
                click.echo(found.text if len(sources) == 1 else f"{name}: {found.text}")
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "results": results, "failed": failed}))
    raise_if_failed(failed, len(sources))


def _list_sources(videos: Sequence[str]) -> list[Path]:
    """Expand patterns and folders of videos; each video once.

    Raises:
        InputError: there is none in one.
    """
    found: dict[Path, None] = {}
    for name in videos:
        paths = _paths.expand_clips(name) if _paths.is_glob(name) else [Path(name)]
        files: list[Path] = []
        for path in paths:
            files += _videos_in(path) if _paths.wants_folder((), str(path)) else [path]
        if not files:
            raise InputError(name, "no video is here")
        found.update(dict.fromkeys(files))
    return list(found)


def _videos_in(folder: Path) -> list[Path]:
    """Return what a folder holds: its videos, and itself if its pictures are frames.

    A picture beside videos, such as a poster, is none.
    """
    from flowwarp.io.file_types import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, list_folder

    videos = list_folder(folder, VIDEO_EXTENSIONS)
    frames = list_folder(folder, IMAGE_EXTENSIONS)
    return [folder] * (len(frames) > 1 or bool(frames and not videos)) + videos


@final
class _Counted:
    """Frames passed on one by one, and how many there were so far."""

    def __init__(self, frames: Iterator[Tensor]) -> None:
        self.frames, self.count = frames, 0

    def __iter__(self) -> Iterator[Tensor]:
        for frame in self.frames:
            self.count += 1
            yield frame
