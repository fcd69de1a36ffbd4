"""The loop that trains every network here: `train`, and below it the steps of a training.

`_run_steps` is the loop itself. Each piece it calls has its own file: the gradient of a step in
step.py, states in checkpoint.py, validation and samples in validation.py, running means in
reporting.py. They work on a `Training` (training.py), made from a `Task` and a `LoopConfig`
(task.py).

The example with number i is a pure function of the seed and i. So neither the order of the data
nor the state of a generator has to be saved, and a resumed run takes exactly the examples that it
would have taken without the interruption.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist

from flowwarp.errors import InputError, Stopped
from flowwarp.train import checkpoint, validation
from flowwarp.train.batches import example_numbers, prefetched
from flowwarp.train.memory import freed_memory_kept
from flowwarp.train.networks import Networks
from flowwarp.train.processes import joined, raise_in_all_processes
from flowwarp.train.progress import Part, Progress
from flowwarp.train.reporting import event_writer, report_step
from flowwarp.train.runs import BEST, LAST, Resume, Run, open_run
from flowwarp.train.schedule import learning_rate
from flowwarp.train.step import check_finite, compute_gradients
from flowwarp.train.stopping import RESUME, signals, stopping
from flowwarp.train.task import (
    MAY_CHANGE_ON_RESUME,
    Batch,
    Figures,
    LoopConfig,
    Task,
    check_network,
    measure_each,
)
from flowwarp.train.training import Training

__all__ = [
    "MAY_CHANGE_ON_RESUME",
    "Batch",
    "Figures",
    "LoopConfig",
    "Result",
    "Task",
    "check_network",
    "event_writer",
    "learning_rate",
    "measure_each",
    "train",
]


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Args:
        step: the last step done.
        best: the best figure, and its step; None without validation.
        figures: the newest figures of ``validate``.
        weights: the file to use: the best weights, or else the last ones.
    """

    step: int
    best: tuple[float, int] | None
    figures: Mapping[str, float]
    weights: Path


def train(
    task: Task,
    config: LoopConfig,
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    resume: Resume = "never",
    tensorboard: bool = False,
    stream: TextIO | None = None,
    part: Part | None = None,
) -> Result:
    """Train a network in a run's folder, from the beginning or from its newest state.

    If ``torchrun`` started several processes, they share the micro-batches of each step.
    ``accumulate`` should then be a multiple of their number, and must be one if they share the
    network too.

    Args:
        task: the network, its data and its loss.
        config: how to train.
        folder: ``runs/NAME``.
        device: where to train.
        resume: ``never``, ``auto`` or ``changed``; see `open_run`.
        tensorboard: write event files too; needs the extra ``log``.
        stream: where progress goes; by default stderr.
        part: the place of this training within a longer one, for its progress.

    Raises:
        Diverged: the loss or a gradient is not finite; the last good state is saved.
        Stopped: SIGINT, SIGTERM or SIGHUP came; the step is finished and saved.
        Locked: another process trains this run.
        InputError: the run cannot be resumed, the network cannot be sharded, or the data cannot be
            read.
        OutputError: the run cannot be written; the previous state is intact.
    """
    # First: a missing TensorBoard should fail before the slow work.
    writer = event_writer() if tensorboard else None
    with (
        freed_memory_kept(),
        _threads(config.threads),
        # Outside of `joined`, which must still see StopNow: only one process raises it, so the
        # process group cannot be destroyed together.
        stopping(folder),
        joined(torch.device(device)) as process,
        ExitStack() as stack,
    ):
        configs: dict[str, Any] = {"loop": config, **task.configs}
        run: Run | None = None
        with raise_in_all_processes(process.world):
            if process.rank == 0:
                run = stack.enter_context(
                    open_run(
                        folder,
                        configs,
                        resume=resume,
                        keep=config.keep,
                        may_change=MAY_CHANGE_ON_RESUME,
                    )
                )
        stop = stack.enter_context(signals(Path(folder)))
        shown = process.rank == 0
        progress = Progress(stream or sys.stderr, config.steps, shown=shown, part=part)
        stack.callback(progress.end)
        networks = Networks(task, config, process)
        training = Training(task, config, process, run, stop, progress, networks)
        _check_settings(training)
        state = checkpoint.restore_or_start(training, resume)
        with raise_in_all_processes(process.world):
            if run is not None:  # after `restore_or_start`, which may refuse the state
                run.write_config(configs)
        _prepare(training)
        if state is not None:
            # After `_prepare`: example 0, whose digest is compared, may need the prepared data.
            checkpoint.compare_circumstances(training, state)
        if writer is not None and process.rank == 0:
            training.writer = writer(str(folder), purge_step=training.step + 1)
            stack.callback(training.writer.close)
        _catch_up(training, pending=state is not None and checkpoint.validation_was_due(state))
        _run_steps(training)
        return _result(training)


def _run_steps(training: Training) -> None:
    """Train to the last step.

    Raises:
        Stopped: a signal came; the state is saved.
        Diverged: a loss, a gradient or a weight is not finite.
    """
    config = training.config
    # Earlier than now by the time before the resumption, so that `seconds` adds up.
    started = time.monotonic() - training.seconds
    numbers = example_numbers(config, training.process, training.step)
    with prefetched(lambda indices: _load(training, indices), numbers, config.workers) as batches:
        while training.step < training.steps:
            step = training.step
            # Forward and backward passes over all micro-batches, then clipping.
            with checkpoint.saved_on_failure(training):
                losses, norm = compute_gradients(training, batches)
                check_finite(training, losses, norm)
            rate = learning_rate(config, step, training.steps)
            training.optimizer.step(rate)
            training.step += 1  # from here on this step is done
            training.networks.update_average(training.step)
            report_step(training, losses | {"gradient_norm": norm}, rate)
            training.seconds = time.monotonic() - started

            # Before the validation: stopping must not wait for it. The resumed run validates first.
            signal, overdue = training.interrupted()
            if signal or overdue or checkpoint.save_is_due(training):
                checkpoint.save(training)
            if signal:
                raise Stopped(training.folder, signal, RESUME)
            validation.evaluate(training)


def _catch_up(training: Training, *, pending: bool) -> None:
    """Finish the weights and the validation that an interruption left open.

    A pretrained network is validated before its first step, as the baseline.
    """
    if training.step:
        # The run may have ended between the state and its weights, or before its validation.
        checkpoint.save_weights(training, LAST, training.networks.result(), {})
        validation.evaluate(training, pending=pending)
    elif training.task.trained:
        # Validation writes the best weights, and weights without a state cannot be resumed.
        checkpoint.save(training)
        validation.evaluate(training)


def _prepare(training: Training) -> None:
    """Let the task do its slow work; a signal stops it at once, since its cache is on disk."""
    if training.task.prepare is None:
        return
    with training.stop.at_once(training.process.world == 1):
        training.task.prepare()
    if not training.networks.sharded:
        training.networks.broadcast()  # each process may have changed its copy, as by k-means


def _load(training: Training, indices: range) -> Batch:
    batch = training.task.batch(indices)
    return {name: tensor.to(training.process.device) for name, tensor in batch.items()}


def _check_settings(training: Training) -> None:
    """Refuse settings that do not fit the network or the number of processes.

    Raises:
        InputError: see `check_network`; or micro-batches do not divide evenly among processes that
            share the network.
    """
    config, task, world = training.config, training.task, training.process.world
    check_network(config, task.name, muon=bool(task.matrices), shared=bool(task.layers))
    if config.accumulate % world == 0:
        return
    problem = f"{config.accumulate} does not divide evenly among {world} processes"
    if training.networks.sharded:
        # Each forward pass gathers parts from every process, so all need equally many passes.
        remedy = f"with loop.shard, make it a multiple of {world}"
        raise InputError("loop.accumulate", problem, remedy)
    training.progress.say(f"accumulate = {problem}; some idle in each step")


def _result(training: Training) -> Result:
    """Return how the training ended, the same in each process."""
    weights = training.folder / (LAST if training.best is None else BEST)
    result = [Result(training.step, training.best, training.figures, weights)]
    if training.process.world > 1:
        dist.broadcast_object_list(result, 0)
    return result[0]


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Set torch's number of threads in this block; 0 leaves it unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
