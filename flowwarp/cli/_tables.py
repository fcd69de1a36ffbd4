"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def align(lines: Sequence[Sequence[str]], left: int) -> str:
    """Return lines of cells as text, column under column.

    Args:
        lines: of as many cells each.
        left: the first so many columns begin below each other, the others end there.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
