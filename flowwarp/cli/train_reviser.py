"""``flowwarp train-reviser``: what makes of decoded frames what a prompt asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli._options import input_argument
from flowwarp.cli._splits import captioner_option, is_plan_only, report_every, sprite_options
from flowwarp.cli._training import (
    TrainingOptions,
    check_loop,
    checked_settings,
    configure_start,
    train,
    training_options,
)
from flowwarp.cli._training_sources import note_sources

if TYPE_CHECKING:
    from flowwarp.legacy.train.reviser import ReviserDataConfig, Revisions
    from flowwarp.train.loop import LoopConfig


@click.command()
@input_argument("data", "DATA")
@click.option("--dvae", metavar="WEIGHTS", required=True, help="Of train-dvae, or base.")
@click.option(
    "--gpt",
    metavar="WEIGHTS",
    required=True,
    help="Of train-gpt, or base: whose errors shall be mended.",
)
@captioner_option
@sprite_options
@training_options("runs/reviser")
def command(
    data: str,
    dvae: str,
    gpt: str,
    captioners: tuple[str, ...],
    layers: str | None,
    photos: str | None,
    **options: Any,
) -> None:
    """Train a reviser, which makes of decoded frames what a prompt asks for.

    DATA is sprites: of these alone it is known how a clip looks in other clothes. The reviser is
    shown a clip as the VAE decodes it, in other clothes, and with errors such as the transformer
    makes, is told what there should be to see, and learns to bring it back. What it learns from is
    made once and kept on disk, 460 kB a clip; --set clips=N says how many.

    \b
    flowwarp train-reviser sprites --dvae runs/dvae/best.safetensors \\
        --gpt runs/gpt/best.safetensors --preset tiny
    flowwarp train-reviser sprites --layers LPC --dvae base --gpt base --resume auto
    """  # noqa: D301 - click wants the character itself
    given = TrainingOptions(**options)
    from flowwarp.data.sources import SPRITES

    if data != SPRITES:
        raise click.UsageError(f"DATA must be {SPRITES}: of other clips there are no counterparts")
    from flowwarp.data.sprite_world.labels import actor_values
    from flowwarp.data.sprite_world.layers import load_layers
    from flowwarp.data.sprite_world.source import digest_photos
    from flowwarp.data.sprite_world.world import check_held_out
    from flowwarp.data.synthesis import load_photos
    from flowwarp.legacy.models.reviser import deepened
    from flowwarp.legacy.pipelines.captions import load_captioner
    from flowwarp.legacy.pipelines.load import VideoModels, check_codes, load_reviser
    from flowwarp.legacy.pipelines.sequences import load_gpt
    from flowwarp.legacy.pipelines.tokens import load_dvae
    from flowwarp.legacy.train import reviser
    from flowwarp.train.processes import own_device
    from flowwarp.train.seeding import held_out_series

    net = load_reviser(given.start) if given.start else None
    preset = reviser.presets(given.preset)
    configs, net = configure_start(net, preset, given, ("attributes",), deepened)
    check_loop(configs["loop"], "reviser")
    about: ReviserDataConfig = configs["data"]
    training: LoopConfig = configs["loop"]
    vae, writer = load_dvae(dvae), load_gpt(gpt)
    place = own_device(given.device)
    eyes = [load_captioner(name, place).net for name in captioners]
    makers = VideoModels(writer, vae)
    check_codes(makers, gpt)
    sources = note_sources(
        [data],
        layers=layers,
        photos=photos,
        dvae=dvae,
        gpt=gpt,
        start=given.start,
        captioners=captioners,
    )
    if net is None:
        attributes = actor_values(load_layers(layers))
        configs["model"] = replace(configs["model"], attributes=attributes)
    with checked_settings():
        reviser.check_example(about, configs["model"], makers, eyes)
    if is_plan_only(data, configs, sources, given, layers=layers, photos=photos):
        return
    wardrobe = load_layers(layers)
    pictures = [] if photos is None else load_photos(photos)
    check_held_out(wardrobe, layers, photos=bool(pictures))
    # Photos that few clips have are in none of the first.
    state = (wardrobe.digest, *([digest_photos(pictures)] if pictures else []))
    spoil = reviser.Spoiler(vae, writer, half=training.precision == "bf16")

    def keep(name: str, seed: int, count: int, held_out: bool) -> Revisions:
        pairs = reviser.Pairs(wardrobe, pictures, seed, about, held_out)
        key = repr((name, layers, photos, *state))
        tell = report_every("spoiling clips")
        return reviser.keep_revisions(pairs, spoil, key, count, seed, about, progress=tell)

    series = held_out_series(training.seed)
    with checked_settings():
        learned = keep("training", training.seed, about.clips, False)
        checks = {
            "val": keep("val", series, about.checked, False),
            "held_out": keep("held_out", series, about.checked, True),
        }
        task = reviser.reviser_task(learned, checks, configs, net, eyes)
    train(task, configs, sources, given)
