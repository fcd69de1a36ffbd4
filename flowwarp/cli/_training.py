"""Options, settings and output that all training commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowwarp.cli._options import dry_run_option, json_option
from flowwarp.cli._report import print_path, print_text
from flowwarp.cli._training_sources import Sources
from flowwarp.cli.device import choose_device
from flowwarp.defaults import MAX_SEED
from flowwarp.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from flowwarp.train.loop import LoopConfig, Result, Task

_DEVICES = ("cpu", "cuda", "mps")
_SOURCES = "sources"  # section of config.toml

Function = TypeVar("Function", bound=Callable[..., Any])
Network = TypeVar("Network", bound="nn.Module")


@dataclass(frozen=True)
class TrainingOptions:
    """The options that all training commands share, by their names."""

    preset: Any  # one of the choices
    start: str | None
    folder: str
    resume: Any  # one of the choices
    steps: int | None
    settings: tuple[str, ...]
    config: str | None
    seed: int | None
    device: str
    tensorboard: bool
    as_json: bool
    dry_run: bool


def training_options(folder: str) -> Callable[[Function], Function]:
    """Add the options of :class:`TrainingOptions` to a command.

    Args:
        folder: the default of --run.
    """
    options: list[Callable[[Any], Any]] = [
        click.option(
            "--preset",
            type=click.Choice(["tiny", "small", "base"]),
            default="small",
            show_default=True,
            help="Size of the network and length of the training.",
        ),
        click.option(
            "--start",
            metavar="WEIGHTS",
            help="Start from trained weights, and their size: base (flow: also small), or a file.",
        ),
        click.option(
            "--run",
            "folder",
            metavar="FOLDER",
            default=folder,
            show_default=True,
            help="Folder for weights, metrics, samples and checkpoints.",
        ),
        click.option(
            "--resume",
            type=click.Choice(["never", "auto", "changed"]),
            default="never",
            show_default=True,
            help="auto: resume from the newest checkpoint, if any; changed: allow other settings.",
        ),
        click.option(
            "--steps",
            type=click.IntRange(1),
            help="Total number of steps.  [default: the preset's]",
        ),
        click.option(
            "--set",
            "settings",
            metavar="KEY=VALUE",
            multiple=True,
            help="Any other setting; repeatable. --dry-run --json lists all settings.",
        ),
        click.option(
            "--config",
            metavar="TOML",
            help="Read settings from a TOML file, such as a run's config.toml.",
        ),
        click.option(
            "--seed", type=click.IntRange(0, MAX_SEED), help="Random seed.  [default: the preset's]"
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            callback=_usable_device,
            help="Where to compute: auto, cpu, cuda, cuda:N or mps; auto: a GPU if there is one.",
        ),
        click.option(
            "--tensorboard", is_flag=True, help="Also write TensorBoard event files (extra: log)."
        ),
        json_option("the path"),
        dry_run_option("Check everything, print what would be trained on what data."),
    ]

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _usable_device(context: click.Context, option: click.Parameter, device: str) -> str:
    """Return the device to use.

    Raises:
        click.BadParameter: it does not exist here.
    """
    import torch

    if device == "auto":
        return choose_device(device)
    try:
        if torch.device(device).type not in _DEVICES:
            raise click.BadParameter(f"{device!r} is none of auto, {', '.join(_DEVICES)}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as fault:  # torch has no narrower exception
        raise click.BadParameter(str(fault).splitlines()[0]) from fault
    return device


def configure(
    configs: Mapping[str, Any], given: TrainingOptions, learned: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a preset's configurations, changed by --config, then --steps and --seed, then --set.

    It runs before slow work, so it also checks the run folder and TensorBoard. If bfloat16 is slow
    here, presets use float32; a resumed run keeps the precision it began with.

    Args:
        configs: the preset's configurations by section.
        given: the options.
        learned: settings of the network that training itself changes; their values in a
            configuration file are ignored.

    Raises:
        click.UsageError: --run is empty, or --set names no setting.
        InputError: an unknown key or a wrong value in a file, or TensorBoard is not installed.
        OutputError: the folder contains a run and --resume is not given, or cannot be written.
    """
    import torch

    from flowwarp.precision import fast_dtype
    from flowwarp.train.loop import event_writer
    from flowwarp.train.runs import check_writable, refuse_run, saved_setting
    from flowwarp.train.settings import UnclearSetting, override, read_toml

    if not given.folder:
        raise click.UsageError("--run must name a folder")
    if given.resume == "never":
        refuse_run(given.folder)
    check_writable(given.folder)
    if given.tensorboard:
        event_writer()
    bf16_is_slow = fast_dtype(torch.device(given.device)) != torch.bfloat16
    begun = None if given.resume == "never" else saved_setting(given.folder, "loop", "precision")
    precision = "fp32" if bf16_is_slow else configs["loop"].precision
    if begun in ("bf16", "fp32"):
        precision = begun
    preset = {**configs, "loop": replace(configs["loop"], precision=precision)}
    changed = read_toml(given.config, preset, (_SOURCES,)) if given.config else preset
    unchanged = {name: getattr(preset["model"], name) for name in learned}
    changed = {**changed, "model": replace(changed["model"], **unchanged)}
    options = {"steps": given.steps, "seed": given.seed}
    changes = {name: value for name, value in options.items() if value is not None}
    changed["loop"] = replace(changed["loop"], **changes)
    try:
        result = override(changed, given.settings)
    except UnclearSetting as fault:
        raise click.UsageError(str(fault)) from fault
    if bf16_is_slow and begun == result["loop"].precision == "bf16":
        click.echo(
            "flowwarp: this run uses bf16, which is slow here; faster, but not bit-identical: "
            "--resume changed --set precision=fp32",
            err=True,
        )
    return result


def configure_start(
    net: Network | None,
    preset: Mapping[str, Any],
    given: TrainingOptions,
    learned: Sequence[str] = (),
    change: Callable[[Network, Any], Network] | None = None,
) -> tuple[dict[str, Any], Network | None]:
    """Return the configurations and the network to start from.

    Settings may change only parts of the network's configuration that no weight depends on.

    Args:
        net: the network of --start, whose configuration replaces the preset's; or None.
        preset: the preset's configurations by section.
        given: the options.
        learned: see :func:`configure`.
        change: builds the network with another configuration, or raises ValueError. Default: load
            the same weights.

    Raises:
        click.UsageError, InputError, OutputError: as :func:`configure` does.
        InputError: the weights do not fit the settings.
    """
    if net is None:
        return configure(preset, given), None
    configs = configure({**preset, "model": net.config}, given, learned)
    return configs, _reconfigure(net, configs["model"], change or _with_weights)


def _with_weights(net: Network, config: Any) -> Network:
    changed = type(net)(config)
    changed.load_state_dict(net.state_dict())
    return changed


def _reconfigure(net: Network, config: Any, change: Callable[[Network, Any], Network]) -> Network:
    own: Any = net.config
    if config == own:
        return net
    try:
        return change(net, config).eval()
    except (RuntimeError, ValueError) as fault:  # torch has no narrower exception
        before, after = asdict(own), asdict(config)
        names = ", ".join(f"model.{name}" for name in before if before[name] != after[name])
        raise InputError(names, "does not fit the weights of --start", "leave it out") from fault


@contextmanager
def checked_settings() -> Iterator[None]:
    """Turn a ValueError into an InputError about --set; let errors of files pass."""
    try:
        yield
    except InputError:
        raise
    except ValueError as fault:
        raise InputError("--set", str(fault)) from fault


def check_loop(training: LoopConfig, network: str, *, muon: bool = True) -> None:
    """Check settings of the loop before slow work, for a network that cannot be sharded.

    Args:
        training: settings of the loop.
        network: the name of the task.
        muon: whether the network has matrices for the optimizer Muon.

    Raises:
        InputError: see :func:`flowwarp.train.loop.check_network`.
    """
    from flowwarp.train.loop import check_network

    check_network(training, network, muon=muon, shared=False)


def check_resumed(configs: Mapping[str, Any], sources: Sources, given: TrainingOptions) -> None:
    """Refuse to resume a run with other settings, before slow work.

    The network's settings are checked later, when all of them are known.

    Raises:
        InputError: a setting differs, or there is no checkpoint.
        OutputError: its config.toml is not a file.
    """
    from flowwarp.train.loop import MAY_CHANGE_ON_RESUME
    from flowwarp.train.runs import check_settings

    known = {section: config for section, config in configs.items() if section != "model"}
    check_settings(given.folder, {**known, _SOURCES: sources}, MAY_CHANGE_ON_RESUME, given.resume)


def report_clips(done: int, total: int) -> None:
    """Print how many videos of a folder are prepared."""
    click.echo(f"preparing clips, once: {done} of {total} videos", err=True)


def begun_weights(given: TrainingOptions) -> Path | None:
    """Return the weights file of the run to resume, or None."""
    from flowwarp.train.runs import LAST

    own = Path(given.folder) / LAST
    return own if given.resume != "never" and own.exists() else None


def print_plan(
    configs: Mapping[str, Any],
    sources: Sources,
    found: Mapping[str, int | None],
    given: TrainingOptions,
) -> None:
    """Print the settings and data of a run, as --dry-run does; only the first process prints.

    Args:
        configs: the configurations by section.
        sources: the training data.
        found: how many items of each kind it contains; None if endless.
        given: the options.
    """
    from flowwarp.train.processes import is_first

    if not is_first():
        return
    training: LoopConfig = configs["loop"]
    nothing = asdict(Sources())
    named = {name: value for name, value in asdict(sources).items() if value != nothing[name]}
    if given.as_json:
        plan = {
            "run": given.folder,
            "device": given.device,
            "sources": named,
            "found": dict(found),
            "settings": {section: asdict(config) for section, config in configs.items()},
        }
        click.echo(json.dumps({"dry_run": True, **plan}))
        return
    model = ", ".join(f"{name} {value}" for name, value in asdict(configs["model"]).items())
    counts = (f"{'endless' if n is None else n} {kind}" for kind, n in found.items())
    names = (f"{k} {' '.join(v) if isinstance(v, tuple) else v}" for k, v in named.items())
    lines = {
        "sources": ", ".join(names),
        "found": ", ".join(counts),
        "network": model,
        "training": f"{training.steps} steps of {training.batch_size} examples, "
        f"{training.precision}, on {given.device}",
        "run": given.folder,
    }
    for name, line in lines.items():
        print_text(f"{name}: {line}")


def train(
    task: Task, configs: Mapping[str, Any], sources: Sources, given: TrainingOptions
) -> Result:
    """Run the training loop and print the path of the weights; only the first process prints."""
    from flowwarp.train import loop
    from flowwarp.train.processes import is_first

    result = loop.train(
        replace(task, configs={**task.configs, _SOURCES: sources}),
        configs["loop"],
        given.folder,
        device=given.device,
        resume=given.resume,
        tensorboard=given.tensorboard,
    )
    if not is_first():
        return result
    if given.as_json:
        best = None if result.best is None else {"value": result.best[0], "step": result.best[1]}
        click.echo(json.dumps({"weights": str(result.weights), "step": result.step, "best": best}))
    else:
        print_path(Path(result.weights))
    return result
