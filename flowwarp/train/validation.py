"""Validation and sample pictures, the choice of the best weights, and an early end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import nn

from flowwarp.train.checkpoint import save_weights
from flowwarp.train.reporting import log
from flowwarp.train.runs import BEST
from flowwarp.train.schedule import planned_end
from flowwarp.train.seeding import seed_of
from flowwarp.train.training import Training


def evaluate(training: Training, *, pending: bool = False) -> None:
    """Validate and write samples where they are due.

    The first process does it, and the others wait.

    Args:
        training: its network is averaged, in eval mode and without gradients meanwhile.
        pending: validate in any case: the run was resumed from a state that was saved before a
            validation which had been due, such as one at the end of a run that is made longer.
    """
    config, task = training.config, training.task
    validates = training.validation_is_due() or (pending and task.validate is not None)
    draws = task.samples is not None and training.is_every(config.samples_every)
    if not (validates or draws):
        return
    networks, process = training.networks, training.process
    model = networks.result().eval()
    if training.run is not None:
        model.to(process.device)
        # One process that has just saved may stop at once: resuming repeats the validation.
        saved = training.saved_step == training.step
        with training.stop.at_once(process.world == 1 and saved), torch.no_grad():
            if validates and task.validate is not None:
                torch.manual_seed(seed_of(config.seed, training.step))
                _record(training, model, task.validate(model))
                draws |= training.step == training.steps  # it ends here
            if draws and task.samples is not None:
                torch.manual_seed(seed_of(config.seed, training.step))
                for name, image in task.samples(model):
                    path = training.run.write_sample(training.step, name, image)
                    training.progress.sample(path)
        if networks.assembled is not None:
            networks.assembled.cpu()
    if process.world > 1:
        steps = [training.steps]
        dist.broadcast_object_list(steps, 0)  # waits for the first process
        training.steps = steps[0]
    training.progress.steps = training.steps


def _record(training: Training, model: nn.Module, figures: Mapping[str, float]) -> None:
    """Log a validation, save the weights if they are the best, and see when to end."""
    training.figures = dict(figures)
    log(training, "val", figures)
    text = ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items())
    training.progress.say(f"step {training.step}: {text}")
    value = figures[training.task.metric]
    if not math.isfinite(value):
        return
    config, found = training.config, (value, training.step)
    if training.gained is None or value < training.gained[0] - config.least_gain * abs(
        training.gained[0]
    ):
        training.gained = found
    if training.best is None or value < training.best[0]:
        training.best = found
        save_weights(training, BEST, model, figures)
    training.steps = planned_end(
        config, training.steps, training.step, training.best[1], training.gained[1]
    )
