"""Where a command computes: ``--device auto|cpu|cuda``, and how its threads wait."""

from __future__ import annotations

import os
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


def set_wait_policy() -> None:
    """Have threads that wait for each other leave their core to others before long.

    Torch reads it when it is loaded. They would not do so for milliseconds, which beside two busy
    programs on two cores takes four times as long; if they did so at once, to wake them would make
    the small networks between which they wait half as slow again, even beside such programs.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # some tenth of a millisecond
