"""Options of commands that make videos of prompts: networks, how they draw, and what is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from flowwarp.pipelines._defaults import (
    BEGINNINGS,
    BEST,
    CANDIDATES,
    DETAIL,
    GUIDANCE,
    PLAUSIBLE,
    TEMPERATURE,
    TOP_P,
)

if TYPE_CHECKING:
    from flowwarp.models.gpt import Sampling


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
    optioned = _gathering(command, "weights", _NETWORKS)
    for name, default, text in (
        ("--flow", "base", "Of train-flow."),
        ("--upsampler", "base", "Of train-upsampler."),
        ("--dvae", "base", "Of train-dvae."),
        ("--sketcher", None,
         "Of train-captioner --kinds: whose sketches the --gpt learned; by default the package's, "
         "if it is that."),
        ("--captioner", None,
         "Of train-captioner: it tells what videos show, so which is as prompted; by default the "
         "package's, if the sketcher is."),
        ("--gpt", "base", "Of train-gpt."),
    ):  # fmt: skip
        option = click.option(
            name, metavar="WEIGHTS", default=default, show_default=default is not None, help=text
        )
        optioned = option(optioned)
    return optioned


_NETWORKS = ("gpt", "captioner", "sketcher", "dvae", "upsampler", "flow")


def _gathering(
    command: Callable[..., Any], together: str, names: Sequence[str]
) -> Callable[..., Any]:
    """Return a command that takes some of its options as one dictionary."""

    @wraps(command)
    def gathered(**given: Any) -> Any:
        return command(**{together: {name: given.pop(name) for name in names}}, **given)

    return gathered


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of sampling; they arrive together, as ``drawn``."""
    optioned = _gathering(command, "drawn", _SAMPLING)
    for name, kind, default, text in (
        ("--plausible", click.FloatRange(0, 1), PLAUSIBLE,
         "Stress no token that has less than this share of the likeliest one's chance."),
        ("--detail", click.FloatRange(0), DETAIL,
         "Temperature of a code's later digits, times --temperature."),
        ("--guidance", click.FloatRange(0), GUIDANCE,
         "How much the prompt is stressed; 1 for as much as was learned."),
        ("--top-p", click.FloatRange(0, 1, min_open=True), TOP_P,
         "Draw from the likeliest with this probability together."),
        ("--top-k", click.IntRange(0), 0, "Draw from the K likeliest tokens; 0 for all."),
        ("--temperature", click.FloatRange(0), TEMPERATURE, "Of tokens; 0 takes the likeliest."),
    ):  # fmt: skip
        option = click.option(name, type=kind, default=default, show_default=True, help=text)
        optioned = option(optioned)
    return optioned


_SAMPLING = ("temperature", "top_k", "top_p", "guidance", "detail", "plausible")


def sampling_of(drawn: Mapping[str, Any]) -> Sampling:
    """Return how tokens shall be drawn, by what :func:`sampling_options` has gathered.

    Raises:
        click.UsageError: a value is not a number, or without end.
    """
    from flowwarp.models.gpt import Sampling

    try:
        return Sampling(**drawn)
    except ValueError as fault:
        raise click.UsageError(str(fault)) from fault
