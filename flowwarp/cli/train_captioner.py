"""``flowwarp train-captioner``: what says in words what a video shows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli._options import input_argument
from flowwarp.cli._splits import is_plan_only, keep_splits, report_every, sprite_options
from flowwarp.cli._training import (
    TrainingOptions,
    begun_weights,
    check_loop,
    checked_settings,
    configure_start,
    train,
    training_options,
)
from flowwarp.cli._training_sources import note_sources

if TYPE_CHECKING:
    from flowwarp.legacy.models.captioner import CaptionerConfig
    from flowwarp.legacy.train.captioner import CaptionerDataConfig
    from flowwarp.train.loop import LoopConfig


@click.command()
@input_argument("data", "DATA")
@sprite_options
@click.option(
    "--kinds",
    type=click.IntRange(2, 4096),
    metavar="N",
    help="Sort the places that --start sees into N kinds, for sketches.",
)
@training_options("runs/captioner")
def command(
    data: str,
    layers: str | None,
    photos: str | None,
    kinds: int | None,
    **options: Any,
) -> None:
    """Train a captioner, which says in words what a video shows.

    DATA is sprites, digits, or a folder of videos with captions. Clips are kept on disk, 200 kB
    each; --set clips=N says how many.

    For a transformer that makes videos by way of sketches, train it once more with --kinds: each
    place that it sees is taken for one of N kinds, and it learns to tell captions from these.

    \b
    flowwarp train-captioner digits --preset tiny
    flowwarp train-captioner clips/ --preset base --resume auto
    flowwarp train-captioner clips/ --start runs/captioner/best.safetensors --kinds 1024 \\
        --preset base --steps 2000 --run runs/sketcher
    """  # noqa: D301 - click wants the character itself
    given = TrainingOptions(**options)
    from flowwarp.legacy.pipelines.captions import load_captioner
    from flowwarp.legacy.train import captioner
    from flowwarp.legacy.train.kept import keep_clips

    trained = load_captioner(given.start) if given.start else None
    first = trained.net if trained else None
    later = ("vocabulary",) if kinds is None else ("vocabulary", "kinds", "pooled")
    configs, first = configure_start(first, captioner.presets(given.preset), given, later)
    check_loop(configs["loop"], "captioner")
    if trained and first:
        trained = replace(trained, net=first)
    sources = note_sources([data], layers=layers, photos=photos, start=given.start)
    if kinds is not None and (trained is None or trained.net.config.kinds):
        raise click.UsageError("--kinds needs --start: a captioner that has none yet")
    if kinds is not None:
        configs["model"] = replace(configs["model"], kinds=kinds, pooled=0)
    if configs["model"].kinds and trained is None:
        raise click.UsageError("kinds need --start: a captioner that has learned to see")
    with checked_settings():
        captioner.check_example(configs)
    if is_plan_only(data, configs, sources, given, layers=layers, photos=photos):
        return
    with checked_settings():
        model: CaptionerConfig = configs["model"]
        wanted: CaptionerDataConfig = configs["data"]
        training: LoopConfig = configs["loop"]
        kept, checks = keep_splits(
            data,
            model.size,
            wanted.length,
            training.seed,
            (wanted.clips, wanted.checked),
            partial(keep_clips, progress=report_every("composing clips")),
            layers=layers,
            photos=photos,
            rewordings=wanted.captions - 1,
        )
        begun = begun_weights(given)
        words = load_captioner(begun).vocabulary if begun else None
        begin = None if trained is None else (trained.net, trained.vocabulary)
        task = captioner.captioner_task(
            kept, checks, configs, start=begin, vocabulary=words, kinds=kinds
        )
    train(task, configs, sources, given)
