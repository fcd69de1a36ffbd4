"""``flowwarp train-gpt``: a transformer over captions, video and motion of one's own."""

from __future__ import annotations

from functools import partial
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
    from flowwarp.train.tokenized import TokenStore


@click.command()
@click.argument("data", metavar="DATA")
@click.option(
    "--dvae", metavar="WEIGHTS", required=True, help="Of train-dvae, or base: what makes tokens."
)
@click.option("--layers", metavar="FOLDER", help="Sprite layers, instead of those in the package.")
@click.option("--photos", metavar="FOLDER", help="Pictures for sprites to stand before.")
@click.option("--flow", metavar="WEIGHTS", help="A flow network, for a folder of videos.")
@training_options("runs/gpt")
def command(
    data: str,
    dvae: str,
    layers: str | None,
    photos: str | None,
    flow: str | None,
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
    """Train a transformer, which makes video of words, and words of video.

    DATA is sprites, digits, or a folder of videos with captions. Its clips are turned into tokens
    by the VAE of --dvae first, once. Stop it whenever you like, go on with --resume auto. The run's
    folder has the weights, metrics.jsonl (bits a token of each medium, given what comes before it)
    and sample pictures: clips of a few prompts, each over what the network makes of the prompt.

    With --flow, the transformer also learns the motion of a folder's videos; sprites and digits
    know theirs.

    \b
    flowwarp train-gpt digits --dvae runs/dvae/best.safetensors --preset tiny
    flowwarp train-gpt sprites --dvae runs/dvae/best.safetensors --resume auto
    """  # noqa: D301 - click wants the character itself
    from flowwarp.data.sources import SPRITES, open_source, open_split
    from flowwarp.pipelines.clip_motion import estimate_motion
    from flowwarp.pipelines.flow_estimation import load_flownet
    from flowwarp.pipelines.sequences import load_gpt
    from flowwarp.pipelines.text_video import find_weights
    from flowwarp.pipelines.video_tokens import load_dvae
    from flowwarp.train import gpt
    from flowwarp.train.processes import own_device
    from flowwarp.train.runs import LAST
    from flowwarp.train.tokenized import grid_media, tokenize_clips

    configs = configure(
        gpt.presets(preset),  # type: ignore[arg-type]
        config=config,
        steps=steps,
        seed=seed,
        settings=settings,
    )
    about: gpt.GPTDataConfig = configs["data"]
    first: int = configs["loop"].seed
    place = own_device(device)
    vae = load_dvae(find_weights(dvae, "dvae"), place)
    media = grid_media(vae, about.size, about.frames)
    motion = partial(estimate_motion, load_flownet(flow, place)) if flow else None

    def prepare(name: str, source: Source, series: int, count: int) -> TokenStore:
        key = repr((name, data, layers, photos, flow, series, *source.state))
        count = min(count, source.count or count)
        return tokenize_clips(
            lambda number: source(series, number),
            vae,
            media,
            key,
            count,
            half=configs["loop"].precision == "bf16",
            progress=_tell_tokens,
        )

    with checked_settings():
        source, other = open_split(
            data,
            about.size,
            about.frames,
            layers=layers,
            photos=photos,
            motion=motion,
            progress=tell_clips,
        )
        training = prepare("training", source, first, about.clips)
        checks = {"val": prepare("val", other, first + 1, about.checked)}
        if data == SPRITES:
            aside = open_source(
                data, about.size, about.frames, layers=layers, photos=photos, held_out=True
            )
            checks["held_out"] = prepare("held_out", aside, first + 1, about.checked)
        material = gpt.GPTMaterial(training, checks, media)
        trained = load_gpt(find_weights(start, "gpt")) if start else None
        own = Path(folder) / LAST
        words = load_gpt(own).vocabulary if resume != "never" and own.exists() else None
        task = gpt.gpt_task(material, configs, vae, start=trained, vocabulary=words)
    train(
        task,
        configs,
        folder,
        device=device,
        resume=resume,
        tensorboard=tensorboard,
        as_json=as_json,
    )


def _tell_tokens(done: int, total: int) -> None:
    if done == total or done % 512 == 0:
        click.echo(f"turning clips into tokens, once: {done} of {total}", err=True)
