"""Where a command computes: ``--device auto|cpu|cuda``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --device; it arrives as ``device``, to be checked before any work."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where to compute; auto is a GPU where there is one.",
    )(command)


def check_device(device: str) -> None:
    """Refuse a GPU that is not there, before any work; torch is imported only if one is named.

    Raises:
        click.UsageError: ``device`` is cuda, and there is none.
    """
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise click.UsageError("--device cuda: torch finds no CUDA GPU here")


def choose_device(device: str) -> str:
    """Return ``cuda`` or ``cpu``; auto is a GPU where there is one."""
    import torch

    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
