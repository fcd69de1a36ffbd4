"""What commands that train have in common: options, settings, what they print at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowwarp.cli import _paths
from flowwarp.errors import InputError

if TYPE_CHECKING:
    from flowwarp.train.loop import Result, Task

Function = TypeVar("Function", bound=Callable[..., Any])


def training_options(folder: str) -> Callable[[Function], Function]:
    """Give a command the options of every training: preset, start, folder, resume … json.

    They arrive as ``preset``, ``start``, ``folder``, ``resume``, ``steps``, ``settings``,
    ``config``, ``seed``, ``device``, ``tensorboard`` and ``as_json``.

    Args:
        folder: where the run goes by default.
    """
    options = [
        click.option(
            "--preset",
            type=click.Choice(["tiny", "small", "base"]),
            default="small",
            show_default=True,
            help="Size of the network, and how long it trains.",
        ),
        click.option(
            "--start",
            metavar="WEIGHTS",
            help="Begin with a trained network, of its size: base, or a .safetensors file.",
        ),
        click.option("--run", "folder", metavar="FOLDER", default=folder, show_default=True),
        click.option(
            "--resume",
            type=click.Choice(["never", "auto", "changed"]),
            default="never",
            show_default=True,
            help="Go on from the run's newest state; changed: with other settings.",
        ),
        click.option("--steps", type=click.IntRange(1), help="How many steps in all."),
        click.option(
            "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Any other setting."
        ),
        click.option(
            "--config", metavar="TOML", help="Settings from a file, such as a run's config.toml."
        ),
        click.option("--seed", type=click.IntRange(0), help="Of weights, data and everything."),
        click.option("--device", default="cpu", show_default=True),
        click.option("--tensorboard", is_flag=True, help="Write event files too (extra: log)."),
        click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object instead of the path."
        ),
    ]

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def configure(
    configs: Mapping[str, Any],
    *,
    config: str | None,
    steps: int | None,
    seed: int | None,
    settings: Sequence[str],
) -> dict[str, Any]:
    """Return a preset's configurations with what the options say; later ones win.

    Raises:
        InputError: an unknown key or a wrong value.
    """
    from flowwarp.train.settings import override, read_toml

    changed = read_toml(config, configs) if config else dict(configs)
    given = {"steps": steps, "seed": seed}
    changes = {name: value for name, value in given.items() if value is not None}
    changed["loop"] = replace(changed["loop"], **changes)
    return override(changed, settings)


@contextmanager
def checked_settings() -> Iterator[None]:
    """Say of a value that does not fit that a setting is at fault; faults of files pass."""
    try:
        yield
    except InputError:
        raise
    except ValueError as fault:
        raise InputError("--set", str(fault)) from fault


def tell_clips(done: int, total: int) -> None:
    """Tell how far the preparation of a folder's videos is."""
    click.echo(f"preparing clips, once: {done} of {total} videos", err=True)


def train(
    task: Task,
    configs: Mapping[str, Any],
    folder: str,
    *,
    device: str,
    resume: str,
    tensorboard: bool,
    as_json: bool,
) -> Result:
    """Run the loop and print where the weights are; of several processes, the first one prints."""
    from flowwarp.train import loop
    from flowwarp.train.processes import is_first

    result = loop.train(
        task,
        configs["loop"],
        folder,
        device=device,
        resume=resume,  # type: ignore[arg-type]
        tensorboard=tensorboard,
    )
    if not is_first():
        return result
    if as_json:
        best = None if result.best is None else {"value": result.best[0], "step": result.best[1]}
        click.echo(json.dumps({"weights": str(result.weights), "step": result.step, "best": best}))
    else:
        _paths.print_path(Path(result.weights))
    return result
