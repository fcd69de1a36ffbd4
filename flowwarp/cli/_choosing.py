"""Options of commands that make several of a prompt and choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from flowwarp.pipelines._defaults import BEGINNINGS, BEST, CANDIDATES


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
            help=f"Make N videos, of {BEGINNINGS} N beginnings, keep the one that the prompt "
            "describes best.",
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
