"""``flowwarp train-critic``: what tells whether a video in the making is as its prompt says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flowwarp.cli._tokens import prepare_material
from flowwarp.cli._training import (
    checked_settings,
    configure,
    train,
    training_options,
)

if TYPE_CHECKING:
    from flowwarp.train.loop import LoopConfig


@click.command()
@click.argument("data", metavar="DATA")
@click.option(
    "--dvae", metavar="WEIGHTS", required=True, help="Of train-dvae, or base: what makes tokens."
)
@click.option(
    "--gpt", metavar="WEIGHTS", required=True, help="Of train-gpt, or base: what it is for."
)
@click.option("--layers", metavar="FOLDER", help="Sprite layers, instead of those in the package.")
@click.option("--photos", metavar="FOLDER", help="Pictures for sprites to stand before.")
@training_options("runs/critic")
def command(
    data: str,
    dvae: str,
    gpt: str,
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
    """Train a critic, which tells whether a video in the making is as its prompt says.

    DATA is what the transformer of --gpt learned from: sprites, digits, or a folder of videos with
    captions. The critic learns to find a clip's caption among others. With it, generate-video draws
    several videos at once and goes on with those that fit the prompt.

    \b
    flowwarp train-critic digits --dvae runs/dvae/best.safetensors --gpt runs/gpt/best.safetensors
    """  # noqa: D301 - click wants the character itself
    from flowwarp.pipelines.critique import load_critic
    from flowwarp.pipelines.sequences import load_gpt
    from flowwarp.pipelines.text_video import find_weights
    from flowwarp.pipelines.video_tokens import load_dvae
    from flowwarp.train import critic
    from flowwarp.train.processes import own_device

    configs = configure(
        critic.presets(preset),  # type: ignore[arg-type]
        config=config,
        steps=steps,
        seed=seed,
        settings=settings,
    )
    training: LoopConfig = configs["loop"]
    place = own_device(device)
    vae = load_dvae(find_weights(dvae, "dvae"), place)
    words = load_gpt(find_weights(gpt, "gpt")).vocabulary
    with checked_settings():
        material = prepare_material(
            data,
            vae,
            configs["data"],
            training.seed,
            layers=layers,
            photos=photos,
            flow=None,
            half=training.precision == "bf16",
            device=place,
        )
        trained = None
        if start:
            trained = load_critic(find_weights(start, "critic"), words, vae).net
        task = critic.critic_task(material, configs, words, vae, start=trained)
    train(
        task,
        configs,
        folder,
        device=device,
        resume=resume,
        tensorboard=tensorboard,
        as_json=as_json,
    )
