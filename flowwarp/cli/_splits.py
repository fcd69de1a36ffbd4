"""What commands have in common that train on clips: which, of which series, and how they move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowwarp.cli._training import TrainingOptions, check_resumed, print_plan, report_clips
from flowwarp.cli._training_sources import Sources

if TYPE_CHECKING:
    import torch

    from flowwarp.data.clip import Clip, Source
    from flowwarp.data.sources import Motion
    from flowwarp.models.flownet import FlowNet

Function = TypeVar("Function", bound=Callable[..., Any])
Kept = TypeVar("Kept")


def sprite_options(command: Function) -> Function:
    """Give a command --layers and --photos, by these names: what sprites are made of."""
    photos = click.option(
        "--photos", metavar="FOLDER", help="Pictures for sprites to stand before."
    )
    layers = click.option(
        "--layers", metavar="FOLDER", help="Sprite layers, instead of those in the package."
    )
    return layers(photos(command))


def captioner_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --captioner, several times; they arrive as ``captioners``."""
    return click.option(
        "--captioner",
        "captioners",
        metavar="WEIGHTS",
        multiple=True,
        help="Of train-captioner, such as base: what it sees of what comes out shall be what it "
        "sees of originals. It may be given several times.",
    )(command)


def flow_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --flow; it arrives as ``flow``, for :func:`find_motion`."""
    return click.option(
        "--flow",
        metavar="WEIGHTS",
        help="What finds the motion of a folder's videos: base (if not said), small, a file, none.",
    )(command)


def find_motion(
    data: str, flow: str | None, device: torch.device
) -> tuple[str | None, Motion | None]:
    """Return which flow network finds the motion of a source's clips, and how.

    Args:
        data: sprites, digits, which know their motion, or a folder of captioned videos.
        flow: of the option.
        device: where it shall be found.

    Raises:
        click.UsageError: a network for what needs none.
        InputError: its weights are missing or broken.
    """
    from flowwarp.data.sources import WORLDS

    if data in WORLDS:
        if flow is not None:
            problem = f"--flow goes with a folder of videos; {data} know how they move"
            raise click.UsageError(problem)
        return None, None
    flow, net = find_flownet(flow, device)
    return flow, finds_motion(data, net)


def find_flownet(flow: str | None, device: torch.device) -> tuple[str, FlowNet | None]:
    """Return the name of the flow network that is wanted, and the network.

    Args:
        flow: of an option: weights, ``none``, or None for the default.
        device: where it shall be.

    Raises:
        InputError: its weights are missing or broken.
    """
    from flowwarp.pipelines.flow.estimate import load_flownet

    chosen = flow or "base"
    return chosen, None if chosen == "none" else load_flownet(chosen, device)


def finds_motion(data: str, net: FlowNet | None) -> Motion | None:
    """Return what finds the motion of a source's clips; None if nothing does or they know it."""
    from flowwarp.data.sources import WORLDS
    from flowwarp.legacy.pipelines.clip_motion import estimate_motion

    return None if net is None or data in WORLDS else partial(estimate_motion, net)


def keep_splits(
    data: str,
    size: int,
    frames: int,
    seed: int,
    counts: tuple[int, int],
    keep: Callable[[Callable[[int], Clip], str, int], Kept],
    *,
    layers: str | None,
    photos: str | None,
    flow: str | None = None,
    motion: Motion | None = None,
    rewordings: int = 0,
) -> tuple[Kept, dict[str, Kept]]:
    """Make what is learned from, and by name what it is judged by, from clips of a source.

    Args:
        data: sprites, digits, or a folder of captioned videos.
        size: of the frames.
        frames: of a clip.
        seed: the series of those to learn from.
        counts: how many to learn from, and of each kind to judge by.
        keep: makes it, from a function from the number of a clip to the clip, what names that, and
            how many there are.
        layers: of sprites.
        photos: that sprites stand before.
        flow: names what ``motion`` hangs on.
        motion: finds the motion of a folder's videos.
        rewordings: how many other captions a clip has of a world that is made up.
    """
    from flowwarp.data.clip import WorldFiles
    from flowwarp.data.sources import SPRITES, ClipReading, open_source, open_split
    from flowwarp.train.seeding import held_out_series

    def make(name: str, source: Source, series: int, count: int) -> Kept:
        key = repr((name, data, layers, photos, flow, series, *source.fingerprint))
        return keep(lambda number: source(series, number), key, min(count, source.count or count))

    clips, checked = counts
    made_of: dict[str, Any] = {"world_files": WorldFiles(layers, photos), "rewordings": rewordings}
    reading = ClipReading(motion=motion)
    source, other = open_split(
        data, size, frames, reading=reading, progress=report_clips, **made_of
    )
    judged = {"val": other}
    if data == SPRITES:  # before anything is made: layers may hold nothing that is held out
        judged["held_out"] = open_source(data, size, frames, held_out=True, **made_of)
    training = make("training", source, seed, clips)
    series = held_out_series(seed)
    return training, {name: make(name, own, series, checked) for name, own in judged.items()}


def is_plan_only(
    data: str,
    configs: Mapping[str, Any],
    sources: Sources,
    given: TrainingOptions,
    *,
    layers: str | None,
    photos: str | None,
) -> bool:
    """Return whether --dry-run is given, and what would be trained on what is told herewith.

    It comes before what takes long, so it also refuses to go on with a run under other settings.

    Args:
        data: sprites, digits, or a folder of captioned videos.
        configs: of the run.
        sources: that it would learn from.
        given: options of the command.
        layers: of sprites.
        photos: that sprites stand before.

    Raises:
        InputError: a setting differs from those of the run that shall go on, or, of --dry-run, what
            is to be learned from is missing or broken.
        OutputError: the run's config.toml is no file.
    """
    from flowwarp.data.clip import WorldFiles
    from flowwarp.data.sources import check_source

    check_resumed(configs, sources, given)
    if given.dry_run:
        found = {"videos": check_source(data, WorldFiles(layers, photos))}
        print_plan(configs, sources, found, given)
    return given.dry_run


def report_every(doing: str) -> Callable[[int, int], None]:
    """Return what tells now and then how far something is that is done once."""

    def tell(done: int, total: int) -> None:
        if done == total or done % 512 == 0:
            click.echo(f"{doing}, once: {done} of {total}", err=True)

    return tell
