"""The state of one training, on which the parts of the loop work.

The loop (:mod:`flowwarp.train.loop`) calls functions that each do one thing to a `Training`:
gradients (:mod:`~flowwarp.train.step`), running means (:mod:`~flowwarp.train.reporting`), states
(:mod:`~flowwarp.train.checkpoint`), validation (:mod:`~flowwarp.train.validation`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

from flowwarp.train.batches import first_example_digest
from flowwarp.train.networks import Networks
from flowwarp.train.optimizers import Optimizer
from flowwarp.train.processes import Process
from flowwarp.train.progress import Progress
from flowwarp.train.runs import Run
from flowwarp.train.stopping import Stop
from flowwarp.train.task import LoopConfig, Task


@final
@dataclass
class Training:
    """One training.

    Args:
        task: network, data and loss.
        config: how to train.
        process: this process.
        run: the run's folder, open in the first process only.
        stop: the signal that came, if any.
        progress: where messages go.
        networks: the network and its average.
        optimizer: set by `checkpoint.restore_or_start`, since sharding replaces the parameters.
        writer: TensorBoard's, if events are written.
        step: steps done.
        seconds: time spent in the loop, over all resumptions.
        steps: of the whole training: those of ``config``, or fewer if it ends early.
        best: the best figure and its step.
        gained: the newest figure that was better by ``config.least_gain`` than the one before it,
            and its step.
        figures: of the newest validation.
        sums: of each logged figure since the last line of metrics.jsonl: its sum, and the number
            of steps that had it.
        interruption: see `interrupted`; of several processes, what they agreed on.
        saved_step: step of the newest state; -1 before there is one.
        saved_at: when it was saved, by the monotonic clock.
    """

    task: Task
    config: LoopConfig
    process: Process
    run: Run | None
    stop: Stop
    progress: Progress
    networks: Networks
    optimizer: Optimizer = field(init=False)
    writer: Any = None
    step: int = 0
    seconds: float = 0.0
    steps: int = field(init=False)
    best: tuple[float, int] | None = None
    gained: tuple[float, int] | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    interruption: tuple[int, bool] = (0, False)
    saved_step: int = -1
    saved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.steps = self.config.steps

    @property
    def folder(self) -> Path:
        """The run's folder, in every process."""
        return self.stop.folder

    def is_every(self, steps: int) -> bool:
        """Whether something is due that happens every ``steps`` steps and at the end."""
        return self.step == self.steps or (steps > 0 and self.step % steps == 0)

    def validation_is_due(self) -> bool:
        """Whether there is a validation after the step that was just done."""
        return self.task.validate is not None and self.is_every(self.config.validate_every)

    @cached_property
    def first_example(self) -> str:
        """Digest of example 0; read it only once the task is prepared."""
        return first_example_digest(self.task)

    def own_interruption(self) -> tuple[int, bool]:
        """Return the signal that came to this process (0: none), and whether a save is overdue."""
        overdue = time.monotonic() - self.saved_at > self.config.save_seconds
        return self.stop.number, overdue

    def interrupted(self) -> tuple[int, bool]:
        """Return the signal that ends the training (0: none), and whether it is time to save.

        Several processes must agree, since either all of them save or none. They exchange this with
        the losses of each step; a signal that comes later waits for the next step.
        """
        return self.interruption if self.process.world > 1 else self.own_interruption()
