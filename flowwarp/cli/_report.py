"""What commands print: a progress bar, the paths of results, tables, and which inputs failed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from flowwarp.errors import SomeFailed, printable

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # what click returns; it has no public name

Item = TypeVar("Item")


def progress_bar(
    items: Iterable[Item], label: str, *, length: int | None = None, shown: bool = True
) -> ProgressBar[Item]:
    """Return a progress bar on stderr; if stderr is not a terminal, it prints nothing.

    Args:
        items: what the bar iterates over; or call the bar's ``update`` instead of iterating.
        label: the text before the bar.
        length: the number of items, if ``items`` has no ``len``.
        shown: False hides the bar, for example if there is only one item.
    """
    hidden = not shown or not sys.stderr.isatty()
    return click.progressbar(items, length, label, file=sys.stderr, hidden=hidden)


def raise_if_failed(failed: Sequence[Mapping[str, str]], total: int) -> None:
    """Raise at the end of a command if some of its inputs failed.

    Args:
        failed: one record per failed input, as in ``--json``; ``error`` is the line to print.
        total: the number of inputs.

    Raises:
        SomeFailed: ``failed`` is not empty.
    """
    if failed:
        raise SomeFailed([record["error"] for record in failed], total)


def print_path(path: Path) -> None:
    """Print the path of a result on stdout."""
    print_text(str(path))


def print_text(text: str) -> None:
    """Print text that may contain file names on stdout.

    A file or pipe gets the file names byte for byte. A terminal gets control characters replaced,
    because it would obey them.
    """
    if sys.stdout.isatty():
        text = "\n".join(map(printable, text.split("\n")))
    try:
        click.echo(os.fsencode(text))
    except UnicodeEncodeError:  # the locale's encoding lacks a character
        click.echo(text)


def align(rows: Sequence[Sequence[str]], left: int) -> str:
    """Format a table as text with two spaces between the columns.

    Args:
        rows: cells; all rows have the same number.
        left: how many leading columns are left-aligned; the others are right-aligned.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
