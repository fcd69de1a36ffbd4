"""Options of commands that make videos of prompts: networks, how they draw, and what is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli._paths import is_folder
from flowwarp.defaults import (
    BEGINNINGS,
    BEST,
    CANDIDATES,
    DETAIL,
    GUIDANCE,
    MAX_SCALE,
    PLAUSIBLE,
    TEMPERATURE,
    TOP_P,
)

if TYPE_CHECKING:
    from flowwarp.legacy.models.gpt import Sampling
    from flowwarp.legacy.pipelines.load import VideoModels


def choosing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --candidates and --best-of; they arrive as ``candidates`` and ``best``."""
    for option in (
        click.option(
            "--best-of",
            "best",
            type=click.IntRange(1, 64),
            default=BEST,
            show_default=True,
            metavar="N",
            help="Make N videos and keep the one that the prompt describes best; of several, begin "
            f"{BEGINNINGS} N of the first 16 frames.",
        ),
        click.option(
            "--candidates",
            type=click.IntRange(1, 1024),
            default=CANDIDATES,
            show_default=True,
            metavar="N",
            help="Make N sketches of a prompt, at least one for each video begun; the sketcher "
            "chooses among them.",
        ),
    ):
        command = option(command)
    return command


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for each network; they arrive together, as ``weights``."""
    return _together(command, "weights", {
        f"--{name}": {
            "metavar": "WEIGHTS", "default": default, "show_default": default is not None,
            "help": text,
        }
        for name, default, text in (
            ("gpt", "base", "Of train-gpt."),
            ("captioner", None,
             "Of train-captioner: it judges which video shows the prompt best; or a folder with a "
             "pretrained CLIP (extra hf). If not given, the package's if the sketcher is the "
             "package's, else the sketcher, else the --gpt."),
            ("sketcher", None,
             "Of train-captioner --kinds: the one that the --gpt was trained with. If not given, "
             "the package's, if the --gpt was trained with that; else none."),
            ("dvae", "base", "Of train-dvae."),
            ("reviser", None,
             "Of train-reviser: it mends what came out otherwise than prompted; none for nothing. "
             "If not given, the package's if the --gpt is the package's, else none."),
            ("upsampler", "base", "Of train-upsampler."),
            ("flow", "base", "Of train-flow."),
        )
    })  # fmt: skip


def load_networks(weights: Mapping[str, Any], device: str) -> VideoModels:
    """Load what :func:`network_options` has gathered, each by its name.

    Raises:
        InputError: a file is missing, broken, or does not fit the others.
    """
    from flowwarp.compat.hugging_face import clip_judge
    from flowwarp.legacy.pipelines.load import load_models

    named, captioner = dict(weights), weights["captioner"]
    if captioner is None or not is_folder(captioner):
        return load_models(**named, device=device)
    judge = clip_judge(captioner, device)
    return replace(load_models(**named | {"captioner": None}, device=device), judge=judge)


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of sampling; they arrive together, as ``drawn``."""
    return _together(command, "drawn", {
        name: {"type": kind, "default": default, "show_default": True, "help": text}
        for name, kind, default, text in (
            ("--temperature", click.FloatRange(0, MAX_SCALE), TEMPERATURE,
             "Of tokens; 0 takes the likeliest."),
            ("--top-k", click.IntRange(0), 0, "Draw from the K likeliest tokens; 0 for all."),
            ("--top-p", click.FloatRange(0, 1, min_open=True), TOP_P,
             "Draw from the likeliest with this probability together."),
            ("--guidance", click.FloatRange(0, MAX_SCALE), GUIDANCE,
             "How much the prompt is stressed; 1 for as much as was learned."),
            ("--detail", click.FloatRange(0, MAX_SCALE), DETAIL,
             "Temperature of a code's later digits, times --temperature."),
            ("--plausible", click.FloatRange(0, 1), PLAUSIBLE,
             "Never draw a token that has less than this share of the likeliest one's chance, by "
             "the prompt alone; 0 for no bound."),
        )
    })  # fmt: skip


def _together(
    command: Callable[..., Any], name: str, options: Mapping[str, Mapping[str, Any]]
) -> Callable[..., Any]:
    """Give a command options, in their order, that arrive as one dictionary called ``name``."""
    keys = [option.removeprefix("--").replace("-", "_") for option in options]

    @wraps(command)
    def gathered(**given: Any) -> Any:
        return command(**{name: {key: given.pop(key) for key in keys}}, **given)

    optioned: Callable[..., Any] = gathered
    for option, settings in reversed(list(options.items())):
        optioned = click.option(option, **settings)(optioned)
    return optioned


def sampling_of(drawn: Mapping[str, Any]) -> Sampling:
    """Return how tokens shall be drawn, by what :func:`sampling_options` has gathered.

    Raises:
        click.UsageError: a value is not a number: click finds NaN in every range.
    """
    from flowwarp.legacy.models.gpt import Sampling

    try:
        return Sampling(**drawn)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from fault
