"""The loop that trains every network here.

What an example is follows from the seed and its number alone, so nothing about the data's order or
augmentation has to be saved, and the batch of a step is the same however it is split: into
micro-batches, over processes, or by an interruption. Example ``i`` of step ``s`` has the number
``s * batch_size + i``.

A state is saved after a step and *before* what is due at that step (validation, samples), which
a resumed run does first. So a signal need not wait for a validation to end.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowwarp.defaults import MAX_SEED
from flowwarp.errors import Diverged, InputError, Stopped, install_extra
from flowwarp.io.checkpoints import Card, fill, save_weights
from flowwarp.precision import fast_dtype
from flowwarp.train.memory import freed_memory_kept
from flowwarp.train.numbering import seed_of
from flowwarp.train.optimizers import Optimizer
from flowwarp.train.processes import gather, joined, refused_together, share, whole
from flowwarp.train.progress import Progress
from flowwarp.train.runs import BEST, LAST, Resume, Run, State, open_run
from flowwarp.train.settings import check_least
from flowwarp.train.stopping import RESUME, Stop, signals, stopping

MOST_EXAMPLES = 2**20  # a step; a slip of the keyboard would fill the memory before it is noticed

Batch = Mapping[str, Tensor]
Figures = dict[str, float]
_Kind = TypeVar("_Kind")

_BEFORE = {"muon": str(torch.bfloat16)}  # what held where a state does not say it
# Of some settings; more is a slip of the finger, or cannot be computed with.
_MOST = {
    **dict.fromkeys(("learning_rate", "muon"), 1e6),
    **dict.fromkeys(("threads", "workers"), 1024),
    **dict.fromkeys(("steps", "warmup"), 1e12),
}


@dataclass(frozen=True)
class LoopConfig:
    """How to train.

    Args:
        steps: of the optimiser.
        batch_size: examples a step, over all processes.
        accumulate: micro-batches a step is computed in, to save memory; the result is the same.
        learning_rate: at its highest.
        warmup: steps until it is reached, linearly from zero.
        decay: how it falls from there to the last step.
        floor: what it falls to, as a part of ``learning_rate``.
        weight_decay: for matrices and kernels; never for biases, scales and norms.
        beta2: AdamW's memory for squared gradients.
        muon: the learning rate of the matrices that a trainer lets Muon move, as a part of
            ``learning_rate``; 0 for AdamW everywhere. See :mod:`flowwarp.train.optimizers`.
        clip: the norm that gradients are cut to; 0 for never.
        ema: decay of the averaged weights that are validated and shipped; 0 for none. Early on it
            is ``(1 + step) / (10 + step)`` where that is less, or short runs would average their
            beginning.
        precision: ``bf16`` is autocast; weights, optimiser and average stay fp32.
        validate_every: steps; 0 for at the end only.
        samples_every: steps; 0 for at the end only.
        log_every: steps that a line of metrics.jsonl is the mean of.
        save_every: steps.
        save_seconds: or after so long, whichever comes first.
        keep: states to keep: at least two, one to fall back to.
        seed: of everything.
        threads: torch's, 0 for its own choice. Sums may round differently with another number.
        workers: threads that prepare batches ahead; 0 for none.
        shard: let each of several processes keep a part of the network, its average and its
            optimiser rather than all of it; see :func:`flowwarp.train.processes.share`.
    """

    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 4e-4
    warmup: int = 100
    decay: Literal["cosine", "constant"] = "cosine"
    floor: float = 0.01
    weight_decay: float = 1e-4
    beta2: float = 0.999
    muon: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    precision: Literal["fp32", "bf16"] = "fp32"
    validate_every: int = 500
    samples_every: int = 500
    log_every: int = 20
    save_every: int = 500
    save_seconds: float = 300.0
    keep: int = 2
    seed: int = 0
    threads: int = 0
    workers: int = 0
    shard: bool = False

    def __post_init__(self) -> None:
        check_least(self, 1, "steps", "batch_size", "accumulate", "log_every", "save_every")
        check_least(self, 2, "keep")  # one to fall back to
        numbers = (item.name for item in fields(self) if item.type in ("int", "float"))
        check_least(self, 0, *numbers)
        for name in ("ema", "beta2"):
            if not getattr(self, name) < 1:
                raise ValueError(f"{name} must be less than 1, got {getattr(self, name)}")
        if self.batch_size > MOST_EXAMPLES:
            raise ValueError(f"batch_size must be at most {MOST_EXAMPLES}, got {self.batch_size}")
        for name, most in _MOST.items():
            if not getattr(self, name) <= most:
                raise ValueError(f"{name} must be at most {most:g}, got {getattr(self, name)}")
        if self.seed > MAX_SEED:
            raise ValueError(f"seed must be at most {MAX_SEED}, got {self.seed}")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate ({self.accumulate}) must be at most batch_size ({self.batch_size})"
            )


# What a resumed run may change: the weights do not hang on it.
FREE = frozenset(
    f"loop.{name}"
    for name in ("save_every", "save_seconds", "keep", "samples_every", "workers", "shard")
)


@dataclass(frozen=True)
class Task:
    """What a trainer gives the loop.

    Args:
        name: of the network, for the card of its weights.
        model: the network.
        batch: from the numbers of examples to tensors whose first axis is the example. A pure
            function: example ``i`` is the same in whatever range it is asked for.
        loss: from network, batch and step to tensors of one number an example, ``(B,)``, with the
            key ``loss``; what else it returns is logged.
        configs: frozen dataclasses for config.toml besides the loop's: ``{"model": ...}``.
            ``model`` also goes into the card of the weights.
        validate: from network (averaged, in eval mode, without gradients) to figures.
        metric: the figure that decides which weights are best; the lower, the better.
        samples: from network to names and pictures ``(3, H, W)``, 0…1.
        notes: for the card: licence, data.
        layers: names of the lists of layers that processes put together one at a time where they
            share the network (`LoopConfig.shard`); none, and it cannot be shared.
        matrices: names of the parts of the network whose matrices Muon may move
            (`LoopConfig.muon`); none, and it may not.
        prepare: called once, when the run is sure to begin, for what takes long: data to make.
        data: names what examples are made of, so far as the first of them does not tell.
        trained: whether the network has been trained before. Then it is validated before the first
            step, too: what comes of it has to be better to be the best.
    """

    name: str
    model: nn.Module
    batch: Callable[[range], Batch]
    loss: Callable[[nn.Module, Batch, int], Mapping[str, Tensor]]
    configs: Mapping[str, Any] = field(default_factory=dict)
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None
    metric: str = "loss"
    samples: Callable[[nn.Module], Iterable[tuple[str, Tensor]]] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    matrices: tuple[str, ...] = ()
    prepare: Callable[[], None] | None = None
    data: str = ""
    trained: bool = False


def measure_each(checks: Mapping[str, _Kind], measure: Callable[[_Kind], Figures]) -> Figures:
    """Return figures of several sets: the first's as they are called, others' after their name.

    Args:
        checks: the sets, by name.
        measure: from a set to its figures.
    """
    figures: Figures = {}
    for number, (name, one) in enumerate(checks.items()):
        prefix = f"{name}_" if number else ""
        figures |= {f"{prefix}{key}": value for key, value in measure(one).items()}
    return figures


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Args:
        step: the last step done.
        best: the best figure, and the step it is of; none without validation.
        last: the newest figures of ``validate``.
        weights: the file to use: the best weights, or the last ones.
    """

    step: int
    best: tuple[float, int] | None
    last: Mapping[str, float]
    weights: Path


def check_network(config: LoopConfig, name: str, *, muon: bool, shared: bool) -> None:
    """Refuse settings that a network cannot be trained by.

    Args:
        config: the settings.
        name: of the task.
        muon: whether it has matrices for Muon.
        shared: whether it has layers that processes may share.

    Raises:
        InputError: Muon, or a network in parts, where there is none.
    """
    if config.muon and not muon:
        raise InputError("loop.muon", f"a {name} has no matrices for Muon", "leave it 0")
    if config.shard and not shared:
        raise InputError("loop.shard", f"cannot share a {name}", "leave it false")


def learning_rate(config: LoopConfig, step: int) -> float:
    """Return the rate of a step, counted from 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.decay == "constant":
        return config.learning_rate
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    shape = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return config.learning_rate * (config.floor + (1 - config.floor) * shape)


def train(
    task: Task,
    config: LoopConfig,
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    resume: Resume = "never",
    tensorboard: bool = False,
    stream: TextIO | None = None,
) -> Result:
    """Train a network in a run's folder, from the beginning or from its newest state.

    Started by ``torchrun``, the processes share each step's micro-batches, so ``accumulate`` should
    be a multiple of their number, and must be one where they share the network too.

    Args:
        task: the network, its data and its loss.
        config: how to train.
        folder: ``runs/NAME``.
        device: where to train.
        resume: ``never``, ``auto`` or ``changed``; see `open_run`.
        tensorboard: write event files too; needs the extra ``log``.
        stream: where progress goes; by default stderr.

    Raises:
        Diverged: the loss or a gradient is not finite; the last good state is saved.
        Stopped: SIGINT, SIGTERM or SIGHUP came; the step is finished and saved.
        Locked: another process trains this run.
        InputError: it cannot be resumed or shared like this, or the data is at fault.
        OutputError: the run cannot be written; the state before is intact.
    """
    writer = event_writer() if tensorboard else None  # before what takes long
    with (
        freed_memory_kept(),
        _threads(config.threads),
        stopping(folder),  # outside of `joined`: who stops at once is alone
        joined(torch.device(device)) as (rank, world, place),
    ):
        progress = Progress(stream or sys.stderr, config.steps, shown=rank == 0)
        configs: dict[str, Any] = {"loop": config, **task.configs}
        with contextlib.ExitStack() as stack:
            run = None
            with refused_together(world):
                if rank == 0:
                    run = stack.enter_context(
                        open_run(folder, configs, resume=resume, keep=config.keep, free=FREE)
                    )
            stop = stack.enter_context(signals(Path(folder)))
            stack.callback(progress.end)
            loop = _Loop(task, config, place, rank, world, run, stop, progress)
            loop.begin(resume)
            with refused_together(world):
                if run is not None:  # not before it is known that the state fits
                    run.write_config(configs)
            if task.prepare is not None:
                with stop.at_once(world == 1):  # what it keeps on disk is gone on with
                    task.prepare()
                if not loop.shared:
                    loop.begin_alike()  # each may have fitted codebooks for itself
            loop.compare()  # not before examples are what they will be
            if writer is not None and rank == 0:
                loop.writer = writer(str(folder), purge_step=loop.step + 1)
                stack.callback(loop.writer.close)
            loop.go()
            return loop.result(Path(folder))


class _Losses(nn.Module):
    """A task's losses as a network, so that however it calls its own, that is in a ``forward``."""

    def __init__(
        self, model: nn.Module, loss: Callable[[nn.Module, Batch, int], Mapping[str, Tensor]]
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        return dict(self.loss(self.model, batch, step))


@final
class _Loop:
    """One training: the network, its optimiser and average, and where they stand."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        device: torch.device,
        rank: int,
        world: int,
        run: Run | None,
        stop: Stop,
        progress: Progress,
    ) -> None:
        self.task, self.config, self.device = task, config, device
        self.rank, self.world = rank, world
        self.run, self.stop, self.progress = run, stop, progress
        self.writer: Any = None  # of TensorBoard
        self.shared = config.shard and world > 1
        self.model = task.model.to(device)
        self.begin_alike()
        self.losses = _Losses(self.model, task.loss)
        self.average = AveragedModel(self.model) if config.ema else None
        # Of a shared network, to validate and ship; on the CPU but for that.
        self.complete: nn.Module | None = None
        self.step = 0
        self.best: tuple[float, int] | None = None
        self.owed = False  # a validation that was due at the state that is resumed
        self.before: dict[str, str] | None = None  # circumstances of the state that is resumed
        self.last: Mapping[str, float] = {}
        # Of what is logged since the last line: the sum, and of how many steps; not all have all.
        self.sums: dict[str, tuple[float, int]] = {}
        self.seconds = 0.0  # trained in all
        self.agreed = 0, False  # what some process had to say at the last step: see `news`
        self.wide = torch.float32 if device.type == "mps" else torch.float64
        self.saved_step, self.saved_at = -1, time.monotonic()
        self.micros = _split(range(config.batch_size), config.accumulate)

    def begin_alike(self) -> None:
        """Give every process the network of the first, if it is not shared yet."""
        if self.world > 1:
            for tensor in self.model.state_dict().values():
                dist.broadcast(tensor, 0)

    # What a state holds

    def state(self) -> State:
        """Return all that the next step depends on; of a shared network, every process must."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{name}": t for name, t in self.average.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state()}
        facts = {
            "best": self.best,
            "metric": self.task.metric,
            "validates": self.validates(),
            "sums": self.sums,
            "seconds": self.seconds,
            "machine": self._circumstances(),
        }
        return State(self.step, gather(tensors, keep=self.run is not None), facts)

    def begin(self, resume: Resume) -> None:
        """Take up the newest state, if there is one, and share the network if it shall be.

        Raises:
            InputError: the state is of another network, or it cannot be shared.
        """
        self._check_settings()
        state = self._newest_state()
        source = "state" if state is None else f"state {state.step}"
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        if state is not None:
            for name, tensor in state.tensors.items():
                group, _, rest = name.partition(".")
                groups.setdefault(group, {})[rest] = tensor
            fill(self.model, groups["model"], source)
            if self.average is not None:
                if groups["average"]:
                    fill(self.average, groups["average"], source)
                else:  # changed from a run that had none
                    self.average.update_parameters(self.model)
        if self.shared:
            if self.rank == 0:
                self.complete = copy.deepcopy(self.model).cpu()
            share(self.losses, self._layers(self.model), self.device)
            if self.average is not None:
                share(self.average.module, self._layers(self.average.module), self.device)
        self.optimizer = Optimizer(
            self.model,
            self.task.matrices,
            muon=self.config.muon,
            beta2=self.config.beta2,
            weight_decay=self.config.weight_decay,
        )
        self.optimizer.load(groups["optimizer"])
        if state is not None:
            if resume == "changed":
                self.progress.say("with the configuration given now, whatever it was before")
            self._take_up(state, source)
            if self.run is not None and self.run.measures_anew:
                # Else who resumes after a stop before the next state would not know of the change.
                self.run.save_state(replace(state, facts={**state.facts, "best": None}))

    def compare(self) -> None:
        """Say how exactly a state is gone on with."""
        if self.before is None:
            return
        now = self._circumstances()
        before = now | _BEFORE | self.before  # older states do not say all of it
        changed = [key for key, value in now.items() if before[key] != value]
        # Of other examples; but on another machine the same ones may be rounded otherwise.
        if "data" in changed or changed == ["examples"]:
            self.best = None
        changes = [f"{key} {before[key]} → {now[key]}" for key in changed]
        how = f"approximately ({', '.join(changes)})" if changes else "exactly"
        self.progress.say(f"resuming {how} after step {self.step}")

    def _circumstances(self) -> dict[str, str]:
        """Return what bits hang on besides the configuration."""
        about = {"data": self.task.data, "examples": self._first_example}
        if self.config.muon:
            about["muon"] = str(fast_dtype(self.device))
        return _machine(self.device, self.world) | about

    @cached_property
    def _first_example(self) -> str:
        """Return a digest of an example, which tells of all that it is made of."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.task.batch(range(1)).items()):
            digest.update(name.encode())
            # Of one example the stride is any, though it counts as contiguous.
            values = tensor.cpu().flatten().clone(memory_format=torch.contiguous_format)
            digest.update(values.view(torch.uint8).numpy().data)
        return digest.hexdigest()[:12]

    def _layers(self, model: nn.Module) -> list[nn.Module]:
        return [part for name in self.task.layers for part in model.get_submodule(name).children()]

    def _check_settings(self) -> None:
        config = self.config
        task = self.task
        check_network(config, task.name, muon=bool(task.matrices), shared=bool(task.layers))
        if config.accumulate % self.world == 0:
            return
        problem = f"{config.accumulate} does not divide among {self.world} processes"
        if self.shared:  # each has to give its parts for every micro-batch of another
            raise InputError(
                "loop.accumulate", problem, f"with loop.shard, make it a multiple of {self.world}"
            )
        self.progress.say(f"accumulate = {problem}: some wait for the others")

    def _newest_state(self) -> State | None:
        """Return the newest state, if there is one, in every process."""
        state = None
        with refused_together(self.world):
            if self.run is not None:
                state = self.run.newest_state(self.progress.say)
                self.run.rewind_metrics(0 if state is None else state.step)
        if self.world > 1:
            holder = [state]
            dist.broadcast_object_list(holder, 0)
            state = holder[0]
        return state

    def _take_up(self, state: State, source: str) -> None:
        """Go on from where a state stood."""
        try:
            best = state.facts["best"]
            # Of something else, nothing is the best so far.
            anew = self.run is not None and self.run.measures_anew
            anew |= state.facts.get("metric", self.task.metric) != self.task.metric
            if best is not None and not anew:
                self.best = float(best[0]), int(best[1])
            self.owed = bool(state.facts.get("validates", False))
            # Older states have one number of steps for all.
            steps = state.facts.get("summed", state.step % self.config.log_every)
            self.sums = {
                name: (float(value[0]), int(value[1]))
                if isinstance(value, list)
                else (float(value), int(steps))
                for name, value in state.facts["sums"].items()
            }
            self.seconds = float(state.facts["seconds"])
            self.before = {**state.facts["machine"]}
        except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as fault:
            raise InputError(source, f"its facts are broken ({fault})") from fault
        self.step = self.saved_step = state.step

    # The work

    def go(self) -> None:
        """Do what is left of the run."""
        config = self.config
        if self.step:  # resumed: a state is saved before its weights, and what is due at its step
            self.save_weights(LAST, self.to_use(), {})
            self.duties(owed=self.owed)
        elif self.task.trained:
            self.save()  # no weights without a state, which nothing could go on from
            self.duties()
        started = time.monotonic() - self.seconds
        with _prepared(self._load, self._wanted(), config.workers) as batches:
            while self.step < config.steps:
                self.one_step(batches)
                self.seconds = time.monotonic() - started
                # Processes must agree; a signal since their last sum waits for the next one.
                signalled, late = self.agreed if self.world > 1 else self.news()
                if signalled or late or self.due():
                    self.save()
                if signalled:
                    raise Stopped(self.stop.folder, signalled, RESUME)
                self.duties()

    def _wanted(self) -> Iterator[range]:
        """Yield the numbers of examples of each micro-batch that falls to this process."""
        for step in range(self.step, self.config.steps):
            first = step * self.config.batch_size
            for part in self.micros[self.rank :: self.world]:
                yield range(first + part.start, first + part.stop)

    def _load(self, indices: range) -> Batch:
        batch = self.task.batch(indices)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def one_step(self, batches: Iterator[tuple[range, Batch]]) -> None:
        """Take one step of the optimiser.

        Raises:
            Diverged: its loss or gradient is not finite. Then, as after a fault of the data, the
                state before the step is saved.
        """
        try:
            sums, norm = self.gradients(batches)
            if not all(map(math.isfinite, (*sums.values(), norm))):
                bad = next((name for name, v in sums.items() if not math.isfinite(v)), "gradient")
                raise Diverged(
                    self.stop.folder,
                    f"the {bad} of step {self.step + 1} is not finite",
                    "lower learning_rate or clip"
                    + (" and go on from the step before (--resume changed)" if self.step else ""),
                )
        except Exception as fault:
            # A shared network takes all processes to save. What diverged, did so in all of them.
            together = isinstance(fault, Diverged)
            possible = not self.shared or together
            if possible and self.step > 0 and self.saved_step != self.step:
                self.save(together=together)
            raise
        rate = learning_rate(self.config, self.step)
        self.optimizer.step(rate)
        self.step += 1
        if self.average is not None:
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            self.average.multi_avg_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            self.average.update_parameters(self.model)
        self.count(sums | {"gradient_norm": norm}, rate)

    def gradients(self, batches: Iterator[tuple[range, Batch]]) -> tuple[dict[str, float], float]:
        """Leave the mean gradient of a step in the parameters.

        Returns:
            The mean of each loss over the step's examples, and the gradient's norm before clipping.
        """
        config = self.config
        self.model.train()
        self.optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        for indices, batch in itertools.islice(batches, len(self.micros[self.rank :: self.world])):
            torch.manual_seed(seed_of(config.seed, self.step, indices.start))
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=config.precision == "bf16"
            ):
                losses = self.losses(batch, self.step)
            for name, value in losses.items():
                if value.shape != (len(indices),):
                    raise ValueError(
                        f"loss {name!r} must have one number an example, ({len(indices)},), "
                        f"got {tuple(value.shape)}"
                    )
                part = value.detach().to(self.wide).sum() / config.batch_size
                totals[name] = totals[name] + part if name in totals else part
            torch.autograd.backward(losses["loss"].float().sum() / config.batch_size)
        parameters = list(self.optimizer.named.values())
        if self.world > 1:
            if not self.shared:  # otherwise they were added as each part was computed
                self.add_gradients(parameters)
            totals = self.add_losses(totals)
        limit = config.clip or math.inf
        norm = whole(nn.utils.clip_grad_norm_(parameters, limit))
        # One transfer, so that a GPU is waited for once a step.
        values = torch.stack([*totals.values(), norm.to(self.device, self.wide)]).tolist()
        return dict(zip(totals, values[:-1], strict=True)), values[-1]

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add gradients over the processes.

        One sum of all gradients rather than DistributedDataParallel: a task may call its network
        how it likes, and a parameter that no example used keeps no gradient, as in one process.
        """
        used = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        parts = [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters
        ]
        flat = torch.cat([*parts, used])
        dist.all_reduce(flat)
        *parts, used = torch.split(flat, [*(p.numel() for p in parameters), len(parameters)])
        for parameter, part, users in zip(parameters, parts, used.tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if users else None

    def add_losses(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add losses over the processes, and pass on what they have to say."""
        names = [list(totals)]
        dist.broadcast_object_list(names, 0)  # a rank may have had no micro-batch
        zero = torch.zeros((), dtype=self.wide, device=self.device)
        news = torch.tensor([float(fact) for fact in self.news()], device=self.device)
        values = torch.stack([totals.get(name, zero) for name in names[0]])
        dist.all_reduce(values)
        dist.all_reduce(news, dist.ReduceOp.MAX)
        number, late = news.tolist()
        self.agreed = int(number), bool(late)
        return dict(zip(names[0], values, strict=True))

    # What comes after a step

    def count(self, sums: Mapping[str, float], rate: float) -> None:
        """Add a step to the running means; write them when their line is due."""
        for name, value in sums.items():
            total, steps = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, steps + 1
        self.progress.step(self.step, sums["loss"])
        if self.step % self.config.log_every and self.step != self.config.steps:
            return
        means = {name: total / steps for name, (total, steps) in self.sums.items()}
        self.sums = {}
        self.log("train", {**means, "learning_rate": rate})

    def log(self, split: str, figures: Mapping[str, float]) -> None:
        if self.run is not None:
            self.run.log({"step": self.step, "split": split, **figures})
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(f"{split}/{name}", value, self.step)

    def at(self, every: int) -> bool:
        return self.step == self.config.steps or (every > 0 and self.step % every == 0)

    def news(self) -> tuple[int, bool]:
        """Return which signal came, 0 for none, and whether the last state is too long ago."""
        return self.stop.number, time.monotonic() - self.saved_at > self.config.save_seconds

    def due(self) -> bool:
        """Say whether this step is one to save after."""
        return self.validates() or self.at(self.config.save_every)

    def validates(self) -> bool:
        """Say whether this step is one to validate after."""
        return self.task.validate is not None and self.at(self.config.validate_every)

    def save(self, *, together: bool = True) -> None:
        """Write the state, and the weights to use.

        Args:
            together: every process saves, and waits until it is written. If one ended before,
                torchrun would end the one that writes.

        Raises:
            Diverged: a weight is not finite, so that there is nothing to save.
        """
        for name, parameter in self.optimizer.named.items():
            if not bool(whole(torch.isfinite(parameter).all())):  # in every part
                raise Diverged(self.stop.folder, f"{name} is not finite after step {self.step}")
        state, model = self.state(), self.to_use()
        with refused_together(self.world if together else 1):
            if self.run is not None:
                self.run.save_state(state)
                self.save_weights(LAST, model, {})
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def save_weights(self, name: str, model: nn.Module, figures: Mapping[str, float]) -> None:
        if self.run is None:
            return
        config = self.task.configs.get("model")
        card = Card(
            self.task.name,
            {} if config is None else {f.name: getattr(config, f.name) for f in fields(config)},
            self.step,
            dict(self.task.notes)
            | {"seed": str(self.config.seed), "hours": f"{self.seconds / 3600:.2f}"}
            | ({"figures": json.dumps(dict(figures))} if figures else {}),
        )
        save_weights(self.run.folder / name, model, card)

    def to_use(self) -> nn.Module:
        """Return the averaged network, or the network itself where there is no average.

        A shared one is put together for the first process; every process must call this.
        """
        model: nn.Module = self.model if self.average is None else self.average.module
        if not self.shared:
            return model
        tensors = gather(model.state_dict(), keep=self.complete is not None)
        if self.complete is None:
            return model
        self.complete.load_state_dict(tensors)
        return self.complete

    def duties(self, *, owed: bool = False) -> None:
        """Validate and draw samples where they are due; the first process does.

        Args:
            owed: a validation is due anyway: where a run ended that is made longer, say.
        """
        config, task = self.config, self.task
        checks = self.validates() or (owed and task.validate is not None)
        draws = task.samples is not None and self.at(config.samples_every)
        if not (checks or draws):
            return
        model = self.to_use().eval()
        if self.run is not None:
            model.to(self.device)
            with (
                self.stop.at_once(self.world == 1 and self.saved_step == self.step),
                torch.no_grad(),
            ):
                if checks and task.validate is not None:
                    torch.manual_seed(seed_of(config.seed, self.step))
                    self.judge(model, task.validate(model))
                if draws and task.samples is not None:
                    torch.manual_seed(seed_of(config.seed, self.step))
                    for name, image in task.samples(model):
                        self.run.write_sample(self.step, name, image)
            if self.complete is not None:
                self.complete.cpu()
        if self.world > 1:
            dist.barrier()

    def judge(self, model: nn.Module, figures: Mapping[str, float]) -> None:
        """Log a validation; keep the weights if they are the best so far."""
        self.last = dict(figures)
        self.log("val", figures)
        value = figures[self.task.metric]
        told = ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items())
        self.progress.say(f"step {self.step}: {told}")
        if math.isfinite(value) and (self.best is None or value < self.best[0]):
            self.best = (value, self.step)
            self.save_weights(BEST, model, figures)

    def result(self, folder: Path) -> Result:
        """Say how it ended; each process says the same."""
        result = [
            Result(self.step, self.best, self.last, folder / (LAST if self.best is None else BEST))
        ]
        if self.world > 1:
            dist.broadcast_object_list(result, 0)
        return result[0]


def _split(indices: range, parts: int) -> list[range]:
    """Cut a range into parts whose lengths differ by one at most."""
    cuts = [len(indices) * part // parts for part in range(parts + 1)]
    return [indices[a:b] for a, b in itertools.pairwise(cuts)]


@contextlib.contextmanager
def _prepared(
    load: Callable[[range], Batch], wanted: Iterator[range], workers: int
) -> Iterator[Iterator[tuple[range, Batch]]]:
    """Give batches in order, prepared ahead by threads if there are any."""
    if not workers:
        yield ((indices, load(indices)) for indices in wanted)
        return

    pool = ThreadPoolExecutor(workers, thread_name_prefix="batch")

    def ahead() -> Iterator[tuple[range, Batch]]:
        waiting: list[tuple[range, Future[Batch]]] = []
        for indices in itertools.chain(wanted, [None] * (workers + 1)):
            if indices is not None:
                waiting.append((indices, pool.submit(load, indices)))
            if waiting and (indices is None or len(waiting) > workers + 1):
                first, future = waiting.pop(0)
                yield first, future.result()

    try:
        yield ahead()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Use so many of torch's threads in this block; 0 for as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _machine(device: torch.device, world: int) -> dict[str, str]:
    """Return what of a machine bits hang on."""
    cuda = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "bf16": _bf16_by(),
        "threads": str(torch.get_num_threads()),
        "processes": str(world),
    }


def _bf16_by() -> str:
    """Return which instructions of the CPU multiply bf16: processors of one capability differ."""
    probes = {"AMX": "_is_amx_tile_supported", "AVX-512": "_is_avx512_bf16_supported"}
    found = (name for name, probe in probes.items() if getattr(torch.cpu, probe, bool)())
    return next(found, "none")


def event_writer() -> Any:
    """Return TensorBoard's class that writes event files.

    Raises:
        InputError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as fault:
        raise InputError("tensorboard", "is not installed", install_extra("log")) from fault
    return SummaryWriter
