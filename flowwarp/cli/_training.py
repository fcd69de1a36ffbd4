"""What commands that train have in common: options, settings, what they print at the end."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowwarp.cli import _paths
from flowwarp.cli._device import choose_device
from flowwarp.errors import InputError

if TYPE_CHECKING:
    from flowwarp.train.loop import LoopConfig, Result, Task

_DEVICES = ("cpu", "cuda", "mps")
_SOURCES = "sources"  # a section of config.toml

Function = TypeVar("Function", bound=Callable[..., Any])


def training_options(folder: str) -> Callable[[Function], Function]:
    """Give a command the options of every training: preset, start, folder, resume … json.

    They arrive as ``preset``, ``start``, ``folder``, ``resume``, ``steps``, ``settings``,
    ``config``, ``seed``, ``device``, ``tensorboard``, ``as_json`` and ``dry_run``.

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
        click.option(
            "--seed", type=click.IntRange(0, 2**32 - 1), help="Of weights, data and everything."
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            callback=_usable_device,
            help="auto, cpu, cuda or cuda:N; auto is a GPU where there is one.",
        ),
        click.option("--tensorboard", is_flag=True, help="Write event files too (extra: log)."),
        click.option(
            "--json", "as_json", is_flag=True, help="Print one JSON object instead of the path."
        ),
        click.option(
            "--dry-run", is_flag=True, help="Say what would be trained on what, write nothing."
        ),
    ]

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _usable_device(context: click.Context, option: click.Parameter, device: str) -> str:
    """Return the device to use, which is there.

    Raises:
        click.BadParameter: it is not.
    """
    import torch

    if device == "auto":
        return choose_device(device)
    try:
        if torch.device(device).type not in _DEVICES:
            raise click.BadParameter(f"{device!r} is none of auto, {', '.join(_DEVICES)}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as fault:  # torch has no kind of its own for this
        raise click.BadParameter(str(fault).splitlines()[0]) from fault
    return device


def configure(
    configs: Mapping[str, Any],
    *,
    config: str | None,
    steps: int | None,
    seed: int | None,
    settings: Sequence[str],
) -> dict[str, Any]:
    """Return a preset's configurations with what the options say; later ones win.

    It comes before what takes long, so it also refuses to begin a run where there is one or nothing
    can be written, and to write event files without TensorBoard. Where bfloat16 is slow, presets
    train in float32, but a run stays with what it began with.

    Raises:
        InputError: an unknown key or a wrong value, or TensorBoard is not installed.
        OutputError: the folder holds a run that is not to be resumed, or cannot be written.
    """
    import torch

    from flowwarp.pipelines.precision import fast_dtype
    from flowwarp.train.loop import event_writer
    from flowwarp.train.runs import begun_with, check_writable, refuse_run
    from flowwarp.train.settings import override, read_toml

    asked = click.get_current_context().params
    if asked["resume"] == "never":
        refuse_run(asked["folder"])
    if not asked["dry_run"]:
        check_writable(asked["folder"])
    if asked["tensorboard"]:
        event_writer()
    slow = fast_dtype(torch.device(asked["device"])) != torch.bfloat16
    begun = None if asked["resume"] == "never" else begun_with(asked["folder"], "loop", "precision")
    precision = "fp32" if slow else configs["loop"].precision
    if begun in ("bf16", "fp32"):
        precision = begun
    preset = {**configs, "loop": replace(configs["loop"], precision=precision)}
    changed = read_toml(config, preset, (_SOURCES,)) if config else preset
    given = {"steps": steps, "seed": seed}
    changes = {name: value for name, value in given.items() if value is not None}
    changed["loop"] = replace(changed["loop"], **changes)
    result = override(changed, settings)
    if slow and begun == result["loop"].precision == "bf16":
        click.echo(
            "this run computes in bf16, which is slow here; faster, if not the same to the bit: "
            "--resume changed --set precision=fp32",
            err=True,
        )
    return result


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


def begun_weights(folder: str, resume: str) -> Path | None:
    """Return the weights of the run that is to be resumed, if there are any yet."""
    from flowwarp.train.runs import LAST

    own = Path(folder) / LAST
    return own if resume != "never" and own.exists() else None


@dataclass(frozen=True)
class Sources:
    """What a run learns from, for its config.toml: options of the commands by their names."""

    data: tuple[str, ...] = ()
    val: str = ""
    layers: str = ""
    photos: str = ""
    dvae: str = ""
    gpt: str = ""
    flow: str = ""
    sketcher: str = ""
    recipe: str = ""
    val_recipe: str = "pairs"  # the option's default: what runs have of before there was one
    start: str = ""
    keep_codes: bool = False


def _sources(asked: Mapping[str, Any]) -> Sources:
    """Return them with whole paths, and weights with their digest: another file is another run."""
    found: dict[str, Any] = {}
    for item in fields(Sources):
        value = asked.get(item.name)
        if isinstance(value, tuple):
            found[item.name] = tuple(map(_whole, value))
        elif isinstance(value, str):
            found[item.name] = (_whole(value),) if item.name == "data" else _whole(value)
        elif value is not None:
            found[item.name] = value
    return Sources(**found)


def _whole(name: str) -> str:
    path = Path(name)
    if not path.exists():  # a pattern, or a name such as sprites or base
        return name
    if path.suffix != ".safetensors":
        return str(path.absolute())
    with path.open("rb") as file:
        return f"{path.absolute()} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def tell_plan(
    configs: Mapping[str, Any], found: Mapping[str, int | None], *, as_json: bool
) -> None:
    """Print what a command would do that trains: of --dry-run, once all was checked.

    Args:
        configs: of the run.
        found: how many there are of each kind of thing to learn from; None if without end.
        as_json: print one JSON object.
    """
    asked = click.get_current_context().params
    training: LoopConfig = configs["loop"]
    given, nothing = asdict(_sources(asked)), asdict(Sources())
    sources = {name: value for name, value in given.items() if value != nothing[name]}
    if as_json:
        plan = {
            "run": asked["folder"],
            "device": asked["device"],
            "sources": sources,
            "found": dict(found),
            "settings": {section: asdict(config) for section, config in configs.items()},
        }
        click.echo(json.dumps({"dry_run": True, **plan}))
        return
    model = ", ".join(f"{name} {value}" for name, value in asdict(configs["model"]).items())
    counts = (f"{'endless' if n is None else n} {kind}" for kind, n in found.items())
    names = (f"{k} {' '.join(v) if isinstance(v, tuple) else v}" for k, v in sources.items())
    lines = {
        "sources": ", ".join(names),
        "found": ", ".join(counts),
        "network": model,
        "training": f"{training.steps} steps of {training.batch_size} examples, "
        f"{training.precision}, on {asked['device']}",
        "run": asked["folder"],
    }
    for name, line in lines.items():
        click.echo(os.fsencode(f"{name}: {line}"))


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

    sources = _sources(click.get_current_context().params)
    result = loop.train(
        replace(task, configs={**task.configs, _SOURCES: sources}),
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
