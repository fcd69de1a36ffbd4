"""Running means of a training's losses, for metrics.jsonl, TensorBoard and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowwarp.errors import InputError, install_extra
from flowwarp.train.training import Training


def report_step(training: Training, figures: Mapping[str, float], rate: float) -> None:
    """Add a step's figures to the running means; log the means when their line is due."""
    for name, value in figures.items():
        total, steps = training.sums.get(name, (0.0, 0))
        training.sums[name] = total + value, steps + 1
    training.progress.step(training.step, figures["loss"])
    if training.is_every(training.config.log_every):
        means = {name: total / steps for name, (total, steps) in training.sums.items()}
        training.sums = {}
        log(training, "train", {**means, "learning_rate": rate})


def log(training: Training, split: str, figures: Mapping[str, float]) -> None:
    """Write figures to metrics.jsonl, and to TensorBoard as ``SPLIT/NAME``."""
    if training.run is not None:
        training.run.log({"step": training.step, "split": split, **figures})
    if training.writer is not None:
        for name, value in figures.items():
            training.writer.add_scalar(f"{split}/{name}", value, training.step)


def event_writer() -> Any:
    """Return TensorBoard's class that writes event files.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as fault:
        raise InputError("tensorboard", "is not installed", install_extra("log")) from fault
    return SummaryWriter
