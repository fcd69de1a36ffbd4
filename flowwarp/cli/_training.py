"""What commands that train have in common: options, settings, what they print at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flowwarp.cli._device import choose_device
from flowwarp.cli._report import print_path, print_text
from flowwarp.defaults import MAX_SEED
from flowwarp.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from flowwarp.train.loop import LoopConfig, Result, Task

_DEVICES = ("cpu", "cuda", "mps")
_SOURCES = "sources"  # a section of config.toml

Function = TypeVar("Function", bound=Callable[..., Any])
Network = TypeVar("Network", bound="nn.Module")


@dataclass(frozen=True)
class TrainingOptions:
    """The options of every training, by their names."""

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
    """Give a command the options of every training, as :class:`TrainingOptions` has them.

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
            help="Begin with a trained network, of its size: base (of flow small, too), or a file.",
        ),
        click.option(
            "--run",
            "folder",
            metavar="FOLDER",
            default=folder,
            show_default=True,
            help="Where weights, figures, samples and states go.",
        ),
        click.option(
            "--resume",
            type=click.Choice(["never", "auto", "changed"]),
            default="never",
            show_default=True,
            help="Go on from the run's newest state; changed: with other settings.",
        ),
        click.option("--steps", type=click.IntRange(1), help="How many steps in all."),
        click.option(
            "--set",
            "settings",
            metavar="KEY=VALUE",
            multiple=True,
            help="Any other setting, repeatable; --dry-run --json lists them.",
        ),
        click.option(
            "--config", metavar="TOML", help="Settings from a file, such as a run's config.toml."
        ),
        click.option(
            "--seed", type=click.IntRange(0, MAX_SEED), help="Of weights, data and everything."
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            callback=_usable_device,
            help="auto, cpu, cuda, cuda:N or mps; auto is a GPU where there is one.",
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
    configs: Mapping[str, Any], given: TrainingOptions, later: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a preset's configurations with what the options say; later ones win.

    It comes before what takes long, so it also refuses to begin a run where there is one or nothing
    can be written, and to write event files without TensorBoard. Where bfloat16 is slow, presets
    train in float32, but a run stays with what it began with.

    Args:
        configs: the preset's.
        given: what the options say.
        later: settings of the network that training itself changes; what a configuration file, such
            as a run's, says of them is passed over.

    Raises:
        click.UsageError: --run names nothing, or --set what is no setting.
        InputError: an unknown key in a file or a wrong value, or TensorBoard is not installed.
        OutputError: the folder holds a run that is not to be resumed, or cannot be written.
    """
    import torch

    from flowwarp.precision import fast_dtype
    from flowwarp.train.loop import event_writer
    from flowwarp.train.runs import begun_with, check_writable, refuse_run
    from flowwarp.train.settings import UnclearSetting, override, read_toml

    if not given.folder:
        raise click.UsageError("--run must name a folder")
    if given.resume == "never":
        refuse_run(given.folder)
    check_writable(given.folder)
    if given.tensorboard:
        event_writer()
    slow = fast_dtype(torch.device(given.device)) != torch.bfloat16
    begun = None if given.resume == "never" else begun_with(given.folder, "loop", "precision")
    precision = "fp32" if slow else configs["loop"].precision
    if begun in ("bf16", "fp32"):
        precision = begun
    preset = {**configs, "loop": replace(configs["loop"], precision=precision)}
    changed = read_toml(given.config, preset, (_SOURCES,)) if given.config else preset
    kept = {name: getattr(preset["model"], name) for name in later}
    changed = {**changed, "model": replace(changed["model"], **kept)}
    asked = {"steps": given.steps, "seed": given.seed}
    changes = {name: value for name, value in asked.items() if value is not None}
    changed["loop"] = replace(changed["loop"], **changes)
    try:
        result = override(changed, given.settings)
    except UnclearSetting as fault:
        raise click.UsageError(str(fault)) from fault
    if slow and begun == result["loop"].precision == "bf16":
        click.echo(
            "flowwarp: this run computes in bf16, which is slow here; faster, if not the same to "
            "the bit: --resume changed --set precision=fp32",
            err=True,
        )
    return result


def configure_start(
    net: Network | None,
    preset: Mapping[str, Any],
    given: TrainingOptions,
    later: Sequence[str] = (),
    change: Callable[[Network, Any], Network] | None = None,
) -> tuple[dict[str, Any], Network | None]:
    """Return what :func:`configure` does, of a network to start with, and that network.

    Settings may change what decides none of its weights, such as the sharpness of an upsampler.

    Args:
        net: that of ``--start``, whose configuration is the preset's then; None if there is none.
        preset: the configurations.
        given: what the options say.
        later: see :func:`configure`.
        change: makes of a network one of another configuration, or raises ValueError. Default: its
            weights as they are.

    Raises:
        click.UsageError, InputError, OutputError: as :func:`configure` does.
        InputError: its weights do not fit the settings.
    """
    if net is None:
        return configure(preset, given), None
    configs = configure({**preset, "model": net.config}, given, later)
    return configs, _reconfigured(net, configs["model"], change or _with_weights)


def _with_weights(net: Network, config: Any) -> Network:
    changed = type(net)(config)
    changed.load_state_dict(net.state_dict())
    return changed


def _reconfigured(net: Network, config: Any, change: Callable[[Network, Any], Network]) -> Network:
    own: Any = net.config
    if config == own:
        return net
    try:
        return change(net, config).eval()
    except (RuntimeError, ValueError) as fault:  # torch has no kind of its own for this
        before, after = asdict(own), asdict(config)
        names = ", ".join(f"model.{name}" for name in before if before[name] != after[name])
        raise InputError(names, "does not fit the weights of --start", "leave it out") from fault


@contextmanager
def checked_settings() -> Iterator[None]:
    """Say of a value that does not fit that a setting is at fault; faults of files pass."""
    try:
        yield
    except InputError:
        raise
    except ValueError as fault:
        raise InputError("--set", str(fault)) from fault


def check_loop(training: LoopConfig, network: str, *, muon: bool = True) -> None:
    """Refuse of a network that no processes share what the loop would refuse after what takes long.

    Args:
        training: settings of the loop.
        network: the task's name.
        muon: whether the task has matrices for Muon.

    Raises:
        InputError: see :func:`flowwarp.train.loop.check_network`.
    """
    from flowwarp.train.loop import check_network

    check_network(training, network, muon=muon, shared=False)


def check_resumed(configs: Mapping[str, Any], sources: Sources, given: TrainingOptions) -> None:
    """Refuse to go on with a run under other settings, before what takes long.

    Of its network not all is known by then; of the rest nothing is changed any more.

    Raises:
        InputError: the first setting that differs, or there is no state to go on from.
        OutputError: its config.toml is no file.
    """
    from flowwarp.train.loop import FREE
    from flowwarp.train.runs import check_settings

    known = {section: config for section, config in configs.items() if section != "model"}
    check_settings(given.folder, {**known, _SOURCES: sources}, FREE, given.resume)


def report_clips(done: int, total: int) -> None:
    """Tell how far the preparation of a folder's videos is."""
    click.echo(f"preparing clips, once: {done} of {total} videos", err=True)


def begun_weights(given: TrainingOptions) -> Path | None:
    """Return the weights of the run that is to be resumed, if there are any yet."""
    from flowwarp.train.runs import LAST

    own = Path(given.folder) / LAST
    return own if given.resume != "never" and own.exists() else None


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
    captioners: tuple[str, ...] = ()


def note_sources(
    data: Sequence[str], *, of_flow: bool = False, **given: str | bool | tuple[str, ...] | None
) -> Sources:
    """Return them with whole paths, and weights with their digest: another file is another run.

    What a command takes for a name stays one, whatever lies in the folder that it is called in.

    Args:
        data: worlds, files, folders or patterns.
        of_flow: whether a flow network learns from it, for which ``data`` cannot name worlds.
        given: other options.
    """
    from flowwarp.data.recipes import recipe_names
    from flowwarp.data.sources import WORLDS
    from flowwarp.io.shipped import FLOWNETS, SHIPPED

    recipes = tuple(recipe_names())
    names = {
        "dvae": (SHIPPED,),
        "gpt": (SHIPPED,),
        "sketcher": (SHIPPED,),
        "captioners": (SHIPPED,),
        "start": FLOWNETS if of_flow else (SHIPPED,),
        "flow": (*FLOWNETS, "none"),
        "recipe": recipes,
        "val_recipe": recipes,
    }

    def noted(value: str | bool | tuple[str, ...], known: Sequence[str]) -> Any:
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            return value if value in known else _whole(value)
        return tuple(noted(name, known) for name in value)

    sources = {
        name: noted(value, names.get(name, ()))
        for name, value in given.items()
        if value is not None
    }
    return Sources(noted(tuple(data), () if of_flow else WORLDS), **sources)


def _whole(name: str) -> str:
    from flowwarp.compat.hugging_face import CONFIG, WEIGHTS

    path = Path(name)
    if not path.exists():  # such as a pattern
        return name
    files = [path]
    if path.is_dir():  # a VAE of diffusers, or data
        files = [path / CONFIG, path / WEIGHTS]
    if files[-1].suffix != ".safetensors" or not all(file.is_file() for file in files):
        return str(path.absolute())
    digest = hashlib.sha256()
    for part in files:
        with part.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # goes on with it
    return f"{path.absolute()} sha256:{digest.hexdigest()[:16]}"


def print_plan(
    configs: Mapping[str, Any],
    sources: Sources,
    found: Mapping[str, int | None],
    given: TrainingOptions,
) -> None:
    """Print what a command would do that trains: of --dry-run, once all was checked.

    Of several processes, the first one prints.

    Args:
        configs: of the run.
        sources: that it would learn from.
        found: how many there are of each kind of thing in them; None if without end.
        given: options of the command.
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
    """Run the loop and print where the weights are; of several processes, the first one prints."""
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
