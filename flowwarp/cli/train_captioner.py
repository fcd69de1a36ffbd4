"""``flowwarp train-captioner``: what says in words what a video shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowwarp.cli._training import (
    checked_settings,
    configure,
    tell_clips,
    train,
    training_options,
)

if TYPE_CHECKING:
    from flowwarp.data.sources import Source
    from flowwarp.models.captioner import CaptionerConfig
    from flowwarp.train.captioner import CaptionerDataConfig
    from flowwarp.train.kept import KeptClips
    from flowwarp.train.loop import LoopConfig


@click.command()
@click.argument("data", metavar="DATA")
@click.option("--layers", metavar="FOLDER", help="Sprite layers, instead of those in the package.")
@click.option("--photos", metavar="FOLDER", help="Pictures for sprites to stand before.")
@training_options("runs/captioner")
def command(
    data: str,
    layers: str | None,
    photos: str | None,
    preset: str,
    start: str | None,
    folder: str,
    resume: str,
    steps: int | None,
    settings: tuple[str, ...],
    config: str | None,
    seed: int | None,
    device: str,
    tensorboard: bool,
    as_json: bool,
) -> None:
    """Train a captioner, which says in words what a video shows.

    DATA is sprites, digits, or a folder of videos with captions. Clips are kept on disk, 200 kB
    each; --set clips=N says how many.

    \b
    flowwarp train-captioner digits --preset tiny
    flowwarp train-captioner clips/ --preset base --resume auto
    """  # noqa: D301 - click wants the character itself
    from flowwarp.data.sources import SPRITES, open_source, open_split
    from flowwarp.pipelines.captions import load_captioner
    from flowwarp.pipelines.text_video import find_weights
    from flowwarp.train import captioner
    from flowwarp.train.kept import keep_clips
    from flowwarp.train.runs import LAST

    configs = configure(
        captioner.presets(preset),  # type: ignore[arg-type]
        config=config,
        steps=steps,
        seed=seed,
        settings=settings,
    )
    with checked_settings():
        trained = load_captioner(find_weights(start, "captioner")) if start else None
        model: CaptionerConfig = configs["model"] if trained is None else trained.net.config
        wanted: CaptionerDataConfig = configs["data"]
        size, length = model.size, wanted.length
        source, other = open_split(
            data, size, length, layers=layers, photos=photos, progress=tell_clips
        )

        def keep(name: str, clips: Source, series: int, count: int) -> KeptClips:
            key = repr((name, data, layers, photos, series, *clips.state))
            count = min(count, clips.count or count)
            return keep_clips(
                lambda number: clips(series, number), key, count, progress=_tell_clips
            )

        training: LoopConfig = configs["loop"]
        kept = keep("training", source, training.seed, wanted.clips)
        checks = {"val": keep("val", other, training.seed + 1, wanted.checked)}
        if data == SPRITES:
            aside = open_source(data, size, length, layers=layers, photos=photos, held_out=True)
            checks["held_out"] = keep("held_out", aside, training.seed + 1, wanted.checked)
        own = Path(folder) / LAST
        words = load_captioner(own).vocabulary if resume != "never" and own.exists() else None
        begin = None if trained is None else (trained.net, trained.vocabulary)
        task = captioner.captioner_task(kept, checks, configs, start=begin, vocabulary=words)
    train(
        task,
        configs,
        folder,
        device=device,
        resume=resume,
        tensorboard=tensorboard,
        as_json=as_json,
    )


def _tell_clips(done: int, total: int) -> None:
    if done == total or done % 512 == 0:
        click.echo(f"composing clips, once: {done} of {total}", err=True)
