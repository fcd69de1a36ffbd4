"""Saving the state of a training, and resuming from one.

A state is saved after a step and *before* the validation and the samples that are due at that
step; a resumed run does these first. So a signal need not wait for the end of a validation.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flowwarp.errors import Diverged, InputError
from flowwarp.io.checkpoints import Card, fill
from flowwarp.io.checkpoints import save_weights as write_weights
from flowwarp.precision import fast_dtype
from flowwarp.train.optimizers import Optimizer
from flowwarp.train.processes import Process, gather, raise_in_all_processes, whole
from flowwarp.train.runs import LAST, Resume, State
from flowwarp.train.training import Training

# Circumstances that older states do not record, with the values that they had then.
_DEFAULT_CIRCUMSTANCES = {"muon": str(torch.bfloat16)}


# ------------------------------------------------------------------ saving


def save_is_due(training: Training) -> bool:
    """Whether to save after this step; always before a validation."""
    return training.validation_is_due() or training.is_every(training.config.save_every)


def save(training: Training, *, together: bool = True) -> None:
    """Write the state and the weights to use.

    Args:
        training: what to save.
        together: True if every process calls this; they wait until the state is written, because
            torchrun kills the writer when another process exits first.

    Raises:
        Diverged: a weight is not finite, so that there is nothing to save.
    """
    for name, parameter in training.optimizer.named.items():
        if not bool(whole(torch.isfinite(parameter).all())):  # in every process's part
            problem = f"{name} is not finite after step {training.step}"
            raise Diverged(training.folder, problem)
    state, model = _state(training), training.networks.result()
    with raise_in_all_processes(training.process.world if together else 1):
        if training.run is not None:
            training.run.save_state(state)
            save_weights(training, LAST, model, {})
    training.saved_step, training.saved_at = training.step, time.monotonic()


@contextmanager
def saved_on_failure(training: Training) -> Iterator[None]:
    """If computing a step's gradients fails, save the state from before that step, where possible.

    Saving a sharded network needs every process. A diverged step raises in all of them; a data
    error may raise in only one.
    """
    try:
        yield
    except Exception as fault:
        together = isinstance(fault, Diverged)
        possible = together or not training.networks.sharded
        if possible and training.step > 0 and training.saved_step != training.step:
            save(training, together=together)
        raise


def save_weights(
    training: Training, name: str, model: nn.Module, figures: Mapping[str, float]
) -> None:
    """Write weights with their card to a file of the run's folder; the first process does."""
    if training.run is None:
        return
    config = training.task.configs.get("model")
    card = Card(
        training.task.name,
        {} if config is None else {f.name: getattr(config, f.name) for f in fields(config)},
        training.step,
        dict(training.task.notes)
        | {"seed": str(training.config.seed), "hours": f"{training.seconds / 3600:.2f}"}
        | ({"figures": json.dumps(dict(figures))} if figures else {}),
    )
    write_weights(training.run.folder / name, model, card)


def _state(training: Training) -> State:
    """Return all that the next step depends on.

    Every process must call it if the network is sharded (`gather` is collective).
    """
    networks = training.networks
    tensors = {f"model.{name}": tensor for name, tensor in networks.model.state_dict().items()}
    if networks.average is not None:
        average = networks.average.state_dict()
        tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in training.optimizer.state()}
    facts = {
        "steps": training.steps,
        "best": training.best,
        "gained": training.gained,
        "metric": training.task.metric,
        "validates": training.validation_is_due(),
        "sums": training.sums,
        "seconds": training.seconds,
        "machine": _circumstances(training),
    }
    return State(training.step, gather(tensors, keep=training.run is not None), facts)


# ------------------------------------------------------------------ resuming


def restore_or_start(training: Training, resume: Resume) -> State | None:
    """Restore the newest state, if there is one; shard the network; make the optimiser.

    Returns:
        The state, the same in every process.

    Raises:
        InputError: the state is of another network, or broken.
    """
    state = _newest_state(training)
    tensors = _by_group(state)
    networks, config = training.networks, training.config
    if state is not None:
        fill(networks.model, tensors["model"], _name(state))
        if networks.average is not None:
            if tensors["average"]:
                fill(networks.average, tensors["average"], _name(state))
            else:  # the run had no average before its settings were changed
                networks.average.update_parameters(networks.model)
    networks.shard()  # replaces the parameters, so that the optimiser comes after it
    training.optimizer = Optimizer(
        networks.model,
        training.task.matrices,
        muon=config.muon,
        beta2=config.beta2,
        weight_decay=config.weight_decay,
    )
    training.optimizer.load(tensors["optimizer"])
    if state is not None:
        if resume == "changed":
            training.progress.say("continuing with the configuration given now")
        _restore_facts(training, state)
        if resume == "changed":
            training.steps = config.steps
        if training.run is not None and training.run.validation_changed:
            # Otherwise a run that is stopped before its next state, and resumed, would compare
            # with a best figure of another validation.
            training.run.save_state(replace(state, facts={**state.facts, "best": None}))
    return state


def compare_circumstances(training: Training, state: State) -> None:
    """Report whether the run resumes exactly; forget the best figure if the data changed."""
    now = _circumstances(training)
    before = now | _DEFAULT_CIRCUMSTANCES | {**state.facts["machine"]}
    changed = [key for key, value in now.items() if before[key] != value]
    # Validations on other data are not comparable. (If the machine changed, too, the examples may
    # be the same, rounded differently.)
    if "data" in changed or changed == ["examples"]:
        training.best = None
    changes = [f"{key} {before[key]} → {now[key]}" for key in changed]
    how = f"approximately ({', '.join(changes)})" if changes else "exactly"
    training.progress.say(f"resuming {how} after step {training.step}")


def validation_was_due(state: State) -> bool:
    """Whether the run was to validate right after this state was saved."""
    return bool(state.facts.get("validates", False))


def _newest_state(training: Training) -> State | None:
    """Return the newest state, if there is one, in every process."""
    state = None
    with raise_in_all_processes(training.process.world):
        if training.run is not None:
            state = training.run.newest_state(training.progress.say)
            training.run.rewind_metrics(0 if state is None else state.step)
    if training.process.world > 1:
        holder = [state]
        dist.broadcast_object_list(holder, 0)
        state = holder[0]
    return state


def _name(state: State) -> str:
    return f"state {state.step}"


def _by_group(state: State | None) -> dict[str, dict[str, Tensor]]:
    """Sort the tensors of a state, named ``GROUP.NAME``, by group."""
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, tensor in ({} if state is None else state.tensors).items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    return groups


def _restore_facts(training: Training, state: State) -> None:
    """Set counters, running means and the best figure to those of a state.

    Raises:
        InputError: the facts are not as `_state` writes them.
    """
    try:
        best = state.facts["best"]
        # Best figures of another validation or metric are not comparable.
        changed = training.run is not None and training.run.validation_changed
        changed |= state.facts.get("metric", training.task.metric) != training.task.metric
        if best is not None and not changed:
            training.best = float(best[0]), int(best[1])
            gained = state.facts.get("gained") or best
            training.gained = float(gained[0]), int(gained[1])
        # Older states have one number of steps for all sums.
        steps = state.facts.get("summed", state.step % training.config.log_every)
        training.sums = {
            name: (float(value[0]), int(value[1]))
            if isinstance(value, list)
            else (float(value), int(steps))
            for name, value in state.facts["sums"].items()
        }
        training.seconds = float(state.facts["seconds"])
        training.steps = int(state.facts.get("steps", training.config.steps))
        _ = {**state.facts["machine"]}  # a mapping; see `compare_circumstances`
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as fault:
        raise InputError(_name(state), f"its facts are broken ({fault})") from fault
    training.step = training.saved_step = state.step


# ------------------------------------------------------------------ circumstances


def _circumstances(training: Training) -> dict[str, str]:
    """Return what the bits of a step depend on besides the configuration."""
    device = training.process.device
    about = {"data": training.task.data, "examples": training.first_example}
    if training.config.muon:
        about["muon"] = str(fast_dtype(device))
    return _machine(training.process) | about


def _machine(process: Process) -> dict[str, str]:
    """Return what rounding depends on: torch, device, processor, threads, processes."""
    cuda = process.device.type == "cuda"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(process.device) if cuda else process.device.type,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "bf16": _bf16_instructions(),
        "threads": str(torch.get_num_threads()),
        "processes": str(process.world),
    }


def _bf16_instructions() -> str:
    """Return which instructions multiply bf16; CPUs of one capability may differ in these."""
    probes = {"AMX": "_is_amx_tile_supported", "AVX-512": "_is_avx512_bf16_supported"}
    found = (name for name, probe in probes.items() if getattr(torch.cpu, probe, bool)())
    return next(found, "none")
