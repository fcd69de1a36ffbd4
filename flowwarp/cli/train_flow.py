"""``flowwarp train-flow``: a flow network of one's own, from footage without labels."""

from __future__ import annotations

from functools import partial

import click

from flowwarp.cli._training import checked_settings, configure, train, training_options


@click.command()
@click.argument("data", metavar="DATA...", nargs=-1)
@click.option("--val", metavar="FOLDER", help="Pairs with known flow, to judge by (see eval-flow).")
@click.option("--photos", metavar="FOLDER", help="Still photos to set in motion as well.")
@training_options("runs/flow")
def command(
    data: tuple[str, ...],
    val: str | None,
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
    """Train a flow network from footage that nobody labelled.

    DATA is any number of videos, folders of frames (and folders in them), or lists of pairs, two
    paths a line. Stop it whenever you like, go on with --resume auto. The run's folder has the
    weights, metrics.jsonl and sample pictures: both frames, the flow, and frame 2 warped. The
    known flow of --val, or of moved photos, decides which weights are best; nothing learns from it.
    What is prepared once is kept in ~/.cache/flowwarp: the frames of DATA, and of presets small
    and base 5.5 GB of pairs with fitted flow. FLOWWARP_CACHE_DIR names another folder.

    \b
    flowwarp train-flow clip.mp4 --preset tiny
    flowwarp train-flow clips/ --photos photos/ --run runs/mine --resume auto
    flowwarp train-flow clips/ --start base --steps 500 --set loop.learning_rate=1e-4
    flowwarp train-flow clips/ --set loop.learning_rate=2e-4 --set smoothness=2
    """  # noqa: D301 - click wants the character itself
    if not data and not photos:
        raise click.UsageError("give some DATA, or --photos")
    from flowwarp.data.clips import prepare_pairs
    from flowwarp.data.recipes import load_recipe, pairs_of, read_pair
    from flowwarp.data.synthesis import load_photos
    from flowwarp.pipelines.flow_estimation import load_flownet
    from flowwarp.train import flow
    from flowwarp.train.fitted import disk_space

    configs = configure(
        flow.presets(preset),  # type: ignore[arg-type]
        config=config,
        steps=steps,
        seed=seed,
        settings=settings,
    )
    net = load_flownet(start) if start else None
    pairs = prepare_pairs(data, progress=_tell_preparation) if data else None
    pictures = load_photos(photos) if photos else []
    size = (configs["data"].height, configs["data"].width)
    truths = []
    if val:
        truths = [read_pair(pair) for pair in pairs_of(load_recipe("pairs"), val)]
    elif pictures:
        truths = flow.synthetic_truths(pictures, configs["loop"].seed, 8, size)
    with checked_settings():
        material = flow.Material(pairs, pictures)
        space = disk_space(configs["data"].fitted_pairs, configs["data"].fitted_size)
        told = partial(_tell_fits, space=space)
        task = flow.flow_task(material, configs, truths, start=net, told=told)
    train(
        task,
        configs,
        folder,
        device=device,
        resume=resume,
        tensorboard=tensorboard,
        as_json=as_json,
    )


def _tell_preparation(done: int, total: int) -> None:
    click.echo(f"preparing footage, once: {done} of {total} clips", err=True)


def _tell_fits(done: int, total: int, *, space: int) -> None:
    from flowwarp.data.clips import store_folder

    if done == 0:
        place = store_folder(None)
        click.echo(f"fitting flow, once: it takes {space / 1e9:.1f} GB in {place}", err=True)
    elif done == total or done % 256 == 0:
        click.echo(f"fitting flow, once: {done} of {total} pairs", err=True)
