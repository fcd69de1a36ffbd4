"""Options, arguments and choices that several commands share. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from flowwarp.defaults import QUALITIES
from flowwarp.errors import InputError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def input_argument(name: str, metavar: str, *, nargs: int = 1, required: bool = True) -> Decorator:
    """Return a click argument for files to read: one, or any number with ``nargs=-1``.

    An empty name is refused, because ``Path("")`` is the current folder.
    """
    return click.argument(
        name, metavar=metavar, nargs=nargs, required=required, callback=_check_input
    )


def _check_input(
    _context: click.Context, _argument: click.Parameter, names: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    if "" in ((names,) if isinstance(names, str) else names):
        raise InputError("''", "is an empty file name")
    return names


def output_option(
    help: str, *names: str, metavar: str = "OUT", required: bool = False
) -> Decorator:
    """Return a click option for a file or folder to write, by default ``-o``/``--output``.

    An empty name and ``-`` (stdout) are refused.
    """
    return click.option(
        *(names or ("-o", "--output")),
        callback=_check_output_name,
        metavar=metavar,
        required=required,
        help=help,
    )


def _check_output_name(
    context: click.Context, option: click.Parameter, name: str | None
) -> str | None:
    if name == "":  # for example an unset variable in a script
        raise click.BadParameter("it is empty; name a file or a folder", context, option)
    if name == "-":
        problem = "results cannot go to stdout; name a file or a folder"
        raise click.BadParameter(problem, context, option)
    return name


def weights_option(help: str) -> Decorator:
    """Return the option --weights of commands that use a flow network."""
    return click.option("--weights", metavar="FILE", default="base", show_default=True, help=help)


def quality_option(help: str) -> Decorator:
    """Return the option --quality of commands that estimate flow."""
    return click.option(
        "--quality",
        type=click.Choice(QUALITIES),
        default="balanced",
        show_default=True,
        help=help,
    )


def overwrite_option(help: str = "Replace files that exist.") -> Decorator:
    """Return the flag --overwrite."""
    return click.option("--overwrite", is_flag=True, help=help)


def json_option(instead_of: str) -> Decorator:
    """Return the flag --json; it arrives as ``as_json``."""
    text = f"Print one JSON object instead of {instead_of}."
    return click.option("--json", "as_json", is_flag=True, help=text)


def dry_run_option(help: str = "Read and check everything, write nothing.") -> Decorator:
    """Return the flag --dry-run."""
    return click.option("--dry-run", is_flag=True, help=help)
