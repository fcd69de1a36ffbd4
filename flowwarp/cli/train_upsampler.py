"""``flowwarp train-upsampler``: an upsampler of one's own, for the frames of one's own DVAE."""

from __future__ import annotations

from typing import Any

import click

from flowwarp.cli._options import input_argument
from flowwarp.cli._paths import is_folder
from flowwarp.cli._splits import (
    find_flownet,
    find_motion,
    finds_motion,
    is_plan_only,
    sprite_options,
)
from flowwarp.cli._training import (
    TrainingOptions,
    check_loop,
    checked_settings,
    configure_start,
    report_clips,
    train,
    training_options,
)
from flowwarp.cli._training_sources import note_sources


@click.command()
@input_argument("data", "DATA")
@click.option(
    "--dvae",
    metavar="WEIGHTS",
    required=True,
    help="Of train-dvae, or base: what blurs. Or a folder of diffusers' AutoencoderKL (extra: hf).",
)
@sprite_options
@click.option(
    "--flow",
    metavar="WEIGHTS",
    help="What finds motion between decoded frames (data.estimated), and that of a folder's videos:"
    " base (if not said), small, a file, none.",
)
@training_options("runs/upsampler")
def command(
    data: str,
    dvae: str,
    layers: str | None,
    photos: str | None,
    flow: str | None,
    **options: Any,
) -> None:
    """Train an upsampler, which draws sharp frames over those a discrete VAE decodes.

    DATA is sprites, digits, or a folder of videos with captions. The upsampler learns to restore
    what the VAE of --dvae loses, at twice the size, and to hold on to the frame before. Stop it
    whenever you like, go on with --resume auto. The run's folder has the weights, metrics.jsonl and
    sample pictures: clips as decoded, drawn frame by frame, drawn with the frame before, and as
    they were; and a row of pixels of each over time, which shows what flickers.

    \b
    flowwarp train-upsampler digits --dvae runs/dvae/best.safetensors --preset tiny
    flowwarp train-upsampler sprites --dvae runs/dvae/best.safetensors --resume auto
    """  # noqa: D301 - click wants the character itself
    given = TrainingOptions(**options)
    from flowwarp.compat.hugging_face import vae_codec
    from flowwarp.data.clip import WorldFiles
    from flowwarp.data.sources import ClipReading, open_split
    from flowwarp.legacy.pipelines.load import load_upsampler
    from flowwarp.legacy.pipelines.tokens import load_dvae
    from flowwarp.legacy.train import upsampler
    from flowwarp.train.processes import own_device

    net = load_upsampler(given.start) if given.start else None
    configs, net = configure_start(net, upsampler.presets(given.preset), given)
    check_loop(configs["loop"], "upsampler")
    about: upsampler.UpsamplerDataConfig = configs["data"]
    half = configs["loop"].precision == "bf16"
    device = own_device(given.device)
    place = str(device)
    if is_folder(dvae):
        codec = upsampler.Codec(*vae_codec(dvae, place), place)
    else:
        codec = upsampler.dvae_codec(load_dvae(dvae), place, half=half)
    with checked_settings():
        upsampler.check_size(about.size, codec)
    flownet = None
    if about.estimated:
        flow, flownet = find_flownet(flow, device)
        motion = finds_motion(data, flownet)
    else:
        flow, motion = find_motion(data, flow, device)

    sources = note_sources(
        [data], layers=layers, photos=photos, dvae=dvae, flow=flow, start=given.start
    )
    if is_plan_only(data, configs, sources, given, layers=layers, photos=photos):
        return
    with checked_settings():
        source, other = open_split(
            data,
            about.size,
            about.length,
            world_files=WorldFiles(layers, photos),
            reading=ClipReading(motion=motion),
            progress=report_clips,
        )
        task = upsampler.upsampler_task(source, codec, configs, other, net, flownet)
    train(task, configs, sources, given)
