"""``flowwarp train-dvae``: a discrete VAE of one's own, from captioned clips."""

from __future__ import annotations

from typing import Any

import click

from flowwarp.cli._options import input_argument
from flowwarp.cli._splits import (
    captioner_option,
    find_motion,
    flow_option,
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
@sprite_options
@flow_option
@click.option(
    "--keep-codes", is_flag=True, help="With --start: train only the decoder, so that codes stay."
)
@captioner_option
@training_options("runs/dvae")
def command(
    data: str,
    layers: str | None,
    photos: str | None,
    flow: str | None,
    keep_codes: bool,
    captioners: tuple[str, ...],
    **options: Any,
) -> None:
    """Train a discrete VAE, which turns video into integers and back.

    DATA is sprites or digits, two worlds that are made up as training goes, or a folder of videos
    with captions (captions.csv, a .txt beside each, or tar files). Stop it whenever you like, go on
    with --resume auto. The run's folder has the weights, metrics.jsonl and sample pictures: clips
    over their reconstructions. Other clips decide which weights are best.

    Reconstructions are also taught to move as their originals do: sprites and digits know how, of a
    folder's videos a flow network finds it (--flow). What few pixels show is kept better if a
    captioner looks at them, too (--captioner).

    With --start and --keep-codes, a transformer that was trained on the codes stays of use.

    A quantiser of the kind residual (preset base, and the weights base) has books of vectors that
    are found before the first step of a new network. With --start they stay as they are, with
    --keep-codes or without: for other footage begin anew, with --preset base.

    \b
    flowwarp train-dvae digits --preset tiny
    flowwarp train-dvae sprites --layers LPC --run runs/dvae --resume auto
    flowwarp train-dvae clips/ --flow small --set loop.batch_size=8
    """  # noqa: D301 - click wants the character itself
    given = TrainingOptions(**options)
    if keep_codes and not given.start:
        raise click.UsageError("--keep-codes needs --start")
    from flowwarp.data.clip import WorldFiles
    from flowwarp.data.sources import ClipReading, open_split
    from flowwarp.legacy.pipelines.captions import load_captioner
    from flowwarp.legacy.pipelines.tokens import load_dvae
    from flowwarp.legacy.train import dvae
    from flowwarp.train.processes import own_device

    net = load_dvae(given.start) if given.start else None
    configs, net = configure_start(net, dvae.presets(given.preset, net), given)
    check_loop(configs["loop"], "dvae")
    about = configs["data"]
    place = own_device(given.device)
    flow, motion = find_motion(data, flow, place)
    sources = note_sources(
        [data],
        layers=layers,
        photos=photos,
        flow=flow,
        start=given.start,
        keep_codes=keep_codes,
        captioners=captioners,
    )
    eyes = [load_captioner(name, place).net for name in captioners]
    if is_plan_only(data, configs, sources, given, layers=layers, photos=photos):
        return
    with checked_settings():
        source, other = open_split(
            data,
            about.size,
            about.frames,
            world_files=WorldFiles(layers, photos),
            reading=ClipReading(motion=motion),
            progress=report_clips,
        )
        task = dvae.dvae_task(source, configs, other, start=net, keep_codes=keep_codes, eyes=eyes)
    train(task, configs, sources, given)
