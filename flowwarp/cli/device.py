"""The option ``--device auto|cpu|cuda``, and how idle threads wait."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --device to a command; it arrives as ``device``, which ``check_device`` checks."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where to compute; auto: a GPU if there is one.",
    )(command)


def check_device(device: str) -> None:
    """Refuse ``cuda`` without a GPU, before any work; imports torch only for ``cuda``.

    Raises:
        click.UsageError: ``device`` is cuda, and torch finds no GPU.
    """
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise click.UsageError("--device cuda: torch finds no CUDA GPU here")


def choose_device(device: str) -> str:
    """Return ``cuda`` or ``cpu`` for the value of --device."""
    import torch

    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def set_wait_policy() -> None:
    """Let idle OpenMP threads sleep after about 0.1 ms; call it before torch is imported.

    By default they spin for milliseconds: beside two busy programs on two cores that makes the
    work 4 times slower. Sleeping at once makes small networks 1.5 times slower, because their
    threads must be woken for each operator.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # about 0.1 ms
