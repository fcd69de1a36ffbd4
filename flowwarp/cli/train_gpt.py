"""``flowwarp train-gpt``: a transformer over captions, video and motion of one's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli._options import input_argument
from flowwarp.cli._splits import (
    find_motion,
    flow_option,
    is_plan_only,
    keep_splits,
    report_every,
    sprite_options,
)
from flowwarp.cli._training import (
    TrainingOptions,
    begun_weights,
    checked_settings,
    configure_start,
    train,
    training_options,
)
from flowwarp.cli._training_sources import note_sources

if TYPE_CHECKING:
    from flowwarp.legacy.train.gpt import GPTDataConfig
    from flowwarp.train.loop import LoopConfig


@click.command()
@input_argument("data", "DATA")
@click.option(
    "--dvae", metavar="WEIGHTS", required=True, help="Of train-dvae, or base: what makes tokens."
)
@sprite_options
@flow_option
@click.option(
    "--sketcher", metavar="WEIGHTS", help="Of train-captioner --kinds: videos by way of sketches."
)
@training_options("runs/gpt")
def command(
    data: str,
    dvae: str,
    layers: str | None,
    photos: str | None,
    flow: str | None,
    sketcher: str | None,
    **options: Any,
) -> None:
    """Train a transformer, which makes video of words, and words of video.

    DATA is sprites, digits, or a folder of videos with captions. Its clips are turned into tokens
    by the VAE of --dvae first, once. Stop it whenever you like, go on with --resume auto. The run's
    folder has the weights, metrics.jsonl (bits a token of each medium, given what comes before it)
    and sample pictures: clips of a few prompts, each over what the network makes of the prompt.

    The transformer also learns how clips move: sprites and digits know it, of a folder's videos a
    flow network finds it (--flow).

    With --sketcher, it learns to write a sketch first, which says what is to be seen where, and
    then the video. That way it learns in a tenth of the time to show what a caption says.

    \b
    flowwarp train-gpt digits --dvae runs/dvae/best.safetensors --preset tiny
    flowwarp train-gpt sprites --dvae runs/dvae/best.safetensors --resume auto
    """  # noqa: D301 - click wants the character itself
    given = TrainingOptions(**options)
    from flowwarp.data.media import TEXT
    from flowwarp.legacy.pipelines.captions import load_captioner
    from flowwarp.legacy.pipelines.sequences import load_gpt
    from flowwarp.legacy.pipelines.sketches import check_kinds, eye_print, kinds
    from flowwarp.legacy.pipelines.tokens import load_dvae
    from flowwarp.legacy.train import gpt
    from flowwarp.legacy.train.tokenized import grid_media, tokenize_clips
    from flowwarp.train.processes import own_device

    trained = load_gpt(given.start) if given.start else None
    first = trained.net if trained else None
    configs, first = configure_start(
        first, gpt.presets(given.preset), given, ("vocabulary", "kinds")
    )
    if trained and first:
        trained = replace(trained, net=first)
    place = own_device(given.device)
    vae = load_dvae(dvae, place)
    eye = None
    if sketcher is not None:
        eye = load_captioner(sketcher, place, "sketcher")
        check_kinds(eye, sketcher)
        configs["data"] = gpt.mix_in_sketches(configs["data"])
    flow, motion = find_motion(data, flow, place)
    sources = note_sources(
        [data],
        layers=layers,
        photos=photos,
        dvae=dvae,
        flow=flow,
        sketcher=sketcher,
        start=given.start,
    )
    configs["model"] = replace(configs["model"], kinds=0 if eye is None else kinds(eye))
    with checked_settings():
        about: GPTDataConfig = configs["data"]
        media = grid_media(vae, about.size, about.frames, eye)
        gpt.check_media(about, configs["losses"], [TEXT, *(medium.name for medium in media)])
    if is_plan_only(data, configs, sources, given, layers=layers, photos=photos):
        return
    with checked_settings():
        training: LoopConfig = configs["loop"]
        half = training.precision == "bf16"
        tell = report_every("turning clips into tokens")
        tokens, checks = keep_splits(
            data,
            about.size,
            about.frames,
            training.seed,
            (about.clips, about.checked),
            lambda draw, key, count: tokenize_clips(
                draw, vae, media, key, count, captioner=eye, half=half, progress=tell
            ),
            layers=layers,
            photos=photos,
            flow=flow,
            motion=motion,
        )
        material = gpt.GPTMaterial(tokens, checks, media, None if eye is None else eye_print(eye))
        begun = begun_weights(given)
        words = load_gpt(begun).vocabulary if begun else None
        task = gpt.gpt_task(material, configs, vae, start=trained, vocabulary=words)
    train(task, configs, sources, given)
