"""``flowwarp train-flow``: train a flow network on unlabelled footage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths
from flowwarp.cli._options import input_argument
from flowwarp.cli._training import (
    TrainingOptions,
    check_loop,
    check_resumed,
    checked_settings,
    configure_start,
    print_plan,
    train,
    training_options,
)
from flowwarp.cli._training_sources import note_sources
from flowwarp.errors import InputError

if TYPE_CHECKING:
    from flowwarp.data.footage import Footage
    from flowwarp.data.recipes import GroundTruth, GroundTruthPair
    from flowwarp.models.flownet import FlowNet
    from flowwarp.train.loop import Task

_MAX_VAL_PAIRS = 100  # about 30 s per validation, and 2 GB of memory at Sintel's size


@click.command()
@input_argument("data", "[DATA]...", nargs=-1, required=False)
@click.option(
    "--recipe",
    metavar="NAME",
    help="DATA is the root of a data set: sintel, kitti2015, ..., or a TOML file.",
)
@click.option(
    "--val", metavar="FOLDER", help="Pairs with ground truth for validation (see eval-flow)."
)
@click.option(
    "--val-recipe",
    metavar="NAME",
    default="pairs",
    show_default=True,
    help="Layout of --val: sintel, kitti2015, ..., or a TOML file.",
)
@click.option(
    "--photos", metavar="FOLDER", help="Photos; training also uses pairs made by moving them."
)
@training_options("runs/flow")
def command(
    data: tuple[str, ...],
    recipe: str | None,
    val: str | None,
    val_recipe: str,
    photos: str | None,
    **options: Any,
) -> None:
    """Train a flow network on footage without labels.

    DATA is one or more videos, folders of frames (subfolders included), globs, or text files with
    two image paths per line. With --recipe it is the root of a known data set (`flowwarp datasets
    list`), of which only the footage is used.

    Interrupt it at any time and continue with --resume auto. The run folder contains weights,
    metrics.jsonl and sample images: both frames, the flow, and frame 2 warped. best.safetensors has
    the lowest error on --val (at most 100 pairs, evenly spread), else on moved photos, else the
    lowest loss on four pairs of DATA. Nothing is trained on --val.

    The presets small and base are the recipes of the shipped weights. The presets take 1,500, 3,000
    and 11,200 steps: on one thread of a Xeon with AMX about 20 minutes, 1 hour and 4 hours.

    Prepared data is cached in ~/.cache/flowwarp (or FLOWWARP_CACHE_DIR): the frames of DATA, and
    pairs with fitted flow, 1.4 GB for the preset small and 4.1 GB for base.

    --start continues from trained weights: 500 steps at a low learning rate, with 500 fitted pairs
    (256 with tiny).

    \b
    flowwarp train-flow clip.mp4 --preset tiny
    flowwarp train-flow clips/ --photos photos/ --run runs/mine --resume auto
    flowwarp train-flow clips/ --start base
    flowwarp train-flow /data/sintel --recipe sintel --val /data/kitti --val-recipe kitti2015
    """  # noqa: D301 - click wants the character itself
    given = TrainingOptions(**options)
    if not data and not photos:
        raise click.UsageError("give DATA or --photos")
    if recipe and not data:
        raise click.UsageError("--recipe needs DATA, the folder of the data set")
    from flowwarp.data.recipes import load_recipe, pairs_of
    from flowwarp.data.synthesis import find_photos
    from flowwarp.pipelines.flow.estimate import load_flownet
    from flowwarp.train import flow

    net = load_flownet(given.start) if given.start else None
    configs, net = configure_start(net, flow.presets(given.preset, net), given)
    with checked_settings():
        flow.check_sizes(configs["model"], configs["data"], configs["losses"])
        check_loop(configs["loop"], "flownet", muon=False)
    clips = _find_clips(data, recipe)
    val_pairs = pairs_of(load_recipe(val_recipe), val) if val else []
    sources = note_sources(
        data,
        of_flow=True,
        val=val,
        photos=photos,
        recipe=recipe,
        val_recipe=val_recipe,
        start=given.start,
    )
    check_resumed(configs, sources, given)
    if given.dry_run:
        shown = len(list(find_photos(Path(photos)))) if photos else 0
        found = {"clips": len(clips), "photos": shown, "pairs to judge by": len(val_pairs)}
        print_plan(configs, sources, found, given)
        return
    truths = [_read_val_pair(pair) for pair in _spread(val_pairs)]
    train(_make_task(configs, clips, photos, truths, net), configs, sources, given)


def _find_clips(data: Sequence[str], recipe: str | None) -> list[Footage]:
    """Return the clips in DATA, or in the data set of --recipe."""
    from flowwarp.data.footage import list_footage
    from flowwarp.data.recipes import footage_of, load_recipe

    paths = _paths.expand_patterns(data, _paths.expand_clips)
    if recipe:
        layout = load_recipe(recipe)
        return [clip for root in paths for clip in footage_of(layout, root)]
    return list_footage(paths) if paths else []


def _make_task(
    configs: Mapping[str, Any],
    clips: Sequence[Footage],
    photos: str | None,
    truths: Sequence[GroundTruth],
    start: FlowNet | None,
) -> Task:
    """Prepare the data and return the training task.

    Args:
        configs: the configurations by section.
        clips: footage to train on.
        photos: the folder of --photos, or None.
        truths: pairs of --val; without any, moved photos are used for validation.
        start: the network of --start, or None.
    """
    from flowwarp.data.pairs import prepare_pairs
    from flowwarp.data.synthesis import load_photos
    from flowwarp.train import flow
    from flowwarp.train.fitted_pairs import disk_space

    config: flow.FlowDataConfig = configs["data"]
    images = load_photos(photos) if photos else []
    pairs = None
    if clips:
        pairs = prepare_pairs(
            clips,
            longest=config.longest,
            max_bytes=config.max_bytes,
            progress=_report_preparation,
        )
    if images and not truths:
        size = config.height, config.width
        truths = flow.synthetic_truths(images, configs["loop"].seed, 8, size)
    with checked_settings():
        material = flow.Material(pairs, images)
        space = disk_space(config.fitted_pairs, config.fitted_size)
        report = partial(_report_fits, space=space)
        return flow.flow_task(material, configs, truths, start=start, fit_progress=report)


def _spread(pairs: Sequence[GroundTruthPair]) -> list[GroundTruthPair]:
    """Choose at most 100 pairs, evenly spread."""
    from flowwarp.train.processes import is_first

    count = min(len(pairs), _MAX_VAL_PAIRS)
    if count < len(pairs) and is_first():
        click.echo(f"validating on {count} of {len(pairs)} pairs", err=True)
    return [pairs[number * len(pairs) // count] for number in range(count)]


def _read_val_pair(pair: GroundTruthPair) -> GroundTruth:
    """Read a pair for validation.

    Raises:
        InputError: it cannot be read; or no pixel has known flow, and the mean error would be NaN.
    """
    from flowwarp.data.recipes import read_pair

    truth = read_pair(pair)
    if not truth.valid.any():
        raise InputError(pair.flow, "has no pixel with valid flow", "leave the pair out of --val")
    return truth


def _report_preparation(done: int, total: int) -> None:
    click.echo(f"preparing footage, once: {done} of {total} clips", err=True)


def _report_fits(done: int, total: int, *, space: int) -> None:
    from flowwarp.data.frame_store import store_folder

    if done == 0:
        place = store_folder(None)
        click.echo(f"fitting flow, once: needs {space / 1e9:.1f} GB in {place}", err=True)
    elif done == total or done % 256 == 0:
        click.echo(f"fitting flow, once: {done} of {total} pairs", err=True)
