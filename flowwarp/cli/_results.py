"""What commands have in common that work on many things: how far they are, and what failed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from flowwarp.errors import SomeFailed

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # what click returns; it has no other name

Item = TypeVar("Item")


def progress_bar(
    items: Iterable[Item], label: str, *, length: int | None = None, shown: bool = True
) -> ProgressBar[Item]:
    """Return a bar on stderr that tells how many of some items are done; a file gets nothing.

    Args:
        items: what it gives one by one, or counts if its ``update`` is called instead.
        label: stands before it.
        length: how many items there are, where they have no length.
        shown: False where nobody shall see it, such as with one item only.
    """
    hidden = not shown or not sys.stderr.isatty()
    return click.progressbar(items, length, label, file=sys.stderr, hidden=hidden)


def raise_if_failed(failed: Sequence[Mapping[str, str]], total: int) -> None:
    """End a command some of whose inputs failed, once the others are done.

    Args:
        failed: what ``--json`` prints of each, with the line to say as ``error``.
        total: how many inputs there were.

    Raises:
        SomeFailed: there is one.
    """
    if failed:
        raise SomeFailed([fault["error"] for fault in failed], total)
