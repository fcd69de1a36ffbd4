"""The gradient of one step, accumulated over micro-batches and processes.

It equals the gradient of the whole batch computed in one pass, up to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flowwarp.errors import Diverged
from flowwarp.train.batches import micro_batches
from flowwarp.train.processes import Process, whole
from flowwarp.train.seeding import seed_of
from flowwarp.train.task import Batch
from flowwarp.train.training import Training


def compute_gradients(
    training: Training, batches: Iterator[tuple[range, Batch]]
) -> tuple[dict[str, float], float]:
    """Write the clipped mean gradient of a step to ``parameter.grad``.

    Args:
        training: its network and settings.
        batches: (example numbers, tensors) of this process's micro-batches, in order.

    Returns:
        The mean of each loss over the step's examples, and the gradient's norm before clipping.

    Raises:
        ValueError: a loss is not one number per example.
    """
    config, process = training.config, training.process
    networks, optimizer = training.networks, training.optimizer
    networks.model.train()
    optimizer.zero_grad()
    totals: dict[str, Tensor] = {}
    for indices, batch in itertools.islice(batches, len(micro_batches(config, process))):
        # Seeded by step and example, not by earlier draws, so that resuming is exact.
        torch.manual_seed(seed_of(config.seed, training.step, indices.start))
        with torch.autocast(
            process.device.type, torch.bfloat16, enabled=config.precision == "bf16"
        ):
            losses = networks.losses(batch, training.step)  # name: (B,)
        _check_shapes(losses, len(indices))
        for name, value in losses.items():
            part = value.detach().to(_sum_dtype(process)).sum() / config.batch_size
            totals[name] = totals[name] + part if name in totals else part
        # Divided by the examples of the whole step, not of the micro-batch: so micro-batches may
        # differ in length, and gradients add up to the mean, here and over the processes.
        torch.autograd.backward(losses["loss"].float().sum() / config.batch_size)
    parameters = list(optimizer.named.values())
    if process.world > 1:
        if not networks.sharded:  # otherwise FSDP added them in the backward pass
            _add_gradients(parameters, process)
        totals = _sync_losses_and_signals(training, totals)
    norm = whole(nn.utils.clip_grad_norm_(parameters, config.clip or math.inf))
    # One transfer, so that the GPU is waited for once a step.
    norm = norm.to(process.device, _sum_dtype(process))
    values = torch.stack([*totals.values(), norm]).tolist()
    return dict(zip(totals, values[:-1], strict=True)), values[-1]


def check_finite(training: Training, losses: Mapping[str, float], norm: float) -> None:
    """Refuse a step whose losses or gradient are not finite.

    Raises:
        Diverged: names the first loss that is not finite, or the gradient.
    """
    values = {**losses, "gradient": norm}
    bad = next((name for name, value in values.items() if not math.isfinite(value)), None)
    if bad is not None:
        remedy = "lower learning_rate or clip (0 does not clip)"
        if training.step:  # there is a state to resume from
            remedy += " and go on from the step before (--resume changed)"
        problem = f"the {bad} of step {training.step + 1} is not finite"
        raise Diverged(training.folder, problem, remedy)


def _check_shapes(losses: Mapping[str, Tensor], count: int) -> None:
    for name, value in losses.items():
        if value.shape != (count,):
            raise ValueError(
                f"loss {name!r} must have one number an example, ({count},), "
                f"got {tuple(value.shape)}"
            )


def _sum_dtype(process: Process) -> torch.dtype:
    """Return the precision for sums of losses: MPS has no float64."""
    return torch.float32 if process.device.type == "mps" else torch.float64


def _add_gradients(parameters: Sequence[Tensor], process: Process) -> None:
    """Add up gradients over the processes.

    One sum of all gradients instead of DistributedDataParallel: a task may call its network in any
    way, and a parameter that no example used keeps no gradient, as in one process.
    """
    # 1 where this process has a gradient; after the sum, in how many processes
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=process.device)
    parts = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
    flat = torch.cat([*parts, used])  # (all parameters' elements + number of parameters,)
    dist.all_reduce(flat)
    *parts, used = torch.split(flat, [*(p.numel() for p in parameters), len(parameters)])
    for parameter, part, count in zip(parameters, parts, used.tolist(), strict=True):
        parameter.grad = part.view_as(parameter) if count else None


def _sync_losses_and_signals(training: Training, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add up losses over the processes, and agree on signals and saving.

    One exchange per step serves both.
    """
    device = training.process.device
    # A process without a micro-batch does not know the names. The first process always has one.
    names = [list(totals)]
    dist.broadcast_object_list(names, 0)
    zero = torch.zeros((), dtype=_sum_dtype(training.process), device=device)
    values = torch.stack([totals.get(name, zero) for name in names[0]])
    dist.all_reduce(values)
    # The highest signal number of all, and whether any process finds that a save is overdue.
    events = torch.tensor([float(event) for event in training.own_interruption()], device=device)
    dist.all_reduce(events, dist.ReduceOp.MAX)
    signal, overdue = events.tolist()
    training.interruption = int(signal), bool(overdue)
    return dict(zip(names[0], values, strict=True))
