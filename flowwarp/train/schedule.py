"""The learning rate of each step, and where a training ends before all its steps are done.

Both are pure functions of the step and of what validation found, so that a resumed training takes
the same steps.
"""

from __future__ import annotations

import math

from flowwarp.train.task import LoopConfig


def learning_rate(config: LoopConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then constant, then the decay.

    Args:
        config: the shape.
        step: counted from 0.
        steps: of the whole training.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.decay == "constant":
        return config.learning_rate
    begin = max(config.warmup, config.flat * steps)
    progress = min(max(0.0, step - begin) / max(1.0, steps - begin), 1.0)
    shape = (1 + math.cos(math.pi * progress)) / 2 if config.decay == "cosine" else 1 - progress
    return config.learning_rate * (config.floor + (1 - config.floor) * shape)


def planned_end(config: LoopConfig, steps: int, step: int, best_step: int, gained_step: int) -> int:
    """Return of how many steps a training is to be, after a validation.

    A network that has learned what it can from its data gets worse with more steps. So if
    ``patience`` validations in a row gain nothing while the rate is constant, it begins to fall at
    once, and the training becomes shorter in proportion. If as many in a row are no better while
    the rate falls, the training ends.

    Args:
        config: the shape.
        steps: of the whole training, as planned so far.
        step: steps done.
        best_step: step of the best figure.
        gained_step: step of the newest figure better by ``least_gain`` than the one before it.
    """
    if not config.patience:
        return steps
    wait = config.patience * config.validate_every
    falls_from = config.flat * steps
    if step >= falls_from:
        return step if step - max(best_step, falls_from) >= wait else steps
    if step - gained_step < wait:
        return steps
    return min(steps, math.ceil(step / config.flat))
