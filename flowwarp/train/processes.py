"""This process's rank among those of ``torchrun``, and sharding a network over all of them.

There are two ways of training together. By default each process has the whole network, and
gradients are added up (:mod:`flowwarp.train.step`). Or each process has a part of every parameter,
of its gradient, its average and its optimiser state, and layers are gathered when they are used
(FSDP2; Zhao et al., "PyTorch FSDP", VLDB 2023): :func:`share`, :func:`whole`, :func:`own_part`.
Then memory for these, 20 bytes per parameter, is divided by the number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flowwarp.errors import Diverged, FlowwarpError, InputError, Stopped
from flowwarp.io.cache import process_count

_T = TypeVar("_T")


class Process(NamedTuple):
    """This process among those that torchrun started."""

    rank: int  # 0 is the one that writes and prints
    world: int  # how many processes there are
    device: torch.device


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def own_device(device: str | torch.device) -> torch.device:
    """Return the device of this process: with several on one machine, each has its own GPU."""
    own = torch.device(device)
    if own == torch.device("cuda") and process_count() > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return own


# How long processes wait for one that prepares data, validates or writes; NCCL's default is 10
# minutes. The end of a process is noticed earlier, by its closed connections or by torchrun.
_TIMEOUT = timedelta(hours=12)
_RENDEZVOUS = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun, like WORLD_SIZE


@contextmanager
def joined(device: torch.device) -> Iterator[Process]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Raises:
        InputError: a variable of torchrun is missing, so that the others cannot be reached.
    """
    if process_count() == 1 or not dist.is_available():
        yield Process(0, 1, device)
        return
    device = own_device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mine = not dist.is_initialized()
    missing = [name for name in _RENDEZVOUS if name not in os.environ]
    if mine and missing:
        problem = f"is not set, though WORLD_SIZE is {process_count()}"
        raise InputError(missing[0], problem, "start it by torchrun")
    if mine:
        # gloo for tensors on the CPU: NCCL alone would send objects, such as a state, through GPUs.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT)
    together = True
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), device)
    except BaseException as fault:
        together = isinstance(fault, (Stopped, Diverged))  # all processes raise these
        raise
    finally:
        # If this process fails alone, destroying the group would wait for the others (NCCL), which
        # wait for this one, and the error would never be printed. The others notice when this
        # process exits, since its connections close, or torchrun ends them.
        if mine and together:
            dist.destroy_process_group()


@contextmanager
def raise_in_all_processes(world: int) -> Iterator[None]:
    """Raise an error of the first of ``world`` processes in this block in all of them.

    Otherwise the others would wait for it forever. Every process must enter the block.
    """
    refusals: list[FlowwarpError | None] = [None]
    try:
        yield
    except FlowwarpError as fault:
        refusals = [fault]
    if world > 1:
        dist.broadcast_object_list(refusals, 0)
    if refusals[0] is not None:
        raise refusals[0]


def from_first(value: _T) -> _T:
    """Return the first process's value in all of them; every process must call this.

    Args:
        value: of this process; any object that can be pickled.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


# ------------------------------------------------------------------ a sharded network


def share(model: nn.Module, layers: Iterable[nn.Module], device: torch.device) -> None:
    """Shard a network over all processes; every process must call this.

    Args:
        model: equal in all processes. Its parameters are replaced by parts, which are gathered in
            its ``forward`` and only there; its results stay the same.
        layers: parts of it. Each is gathered when it runs; parameters outside of them are gathered
            for all of ``forward`` and ``backward``.
        device: this process's device.

    Raises:
        InputError: this torch is too old.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise InputError("loop.shard", f"needs a newer torch than {torch.__version__}")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in [*layers, model]:
        shared = fully_shard(unit, mesh=mesh)
        # Gradients are added, not averaged: the loop divides by the examples of the step itself.
        shared.set_gradient_divide_factor(1.0)
        shared.set_force_sum_reduction_for_comms(True)


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor gathered on the CPU; any other tensor as it is.

    Every process must call this for the same tensors in the same order.
    """
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Gather tensors one after the other, as `whole` does; every process must call this.

    Args:
        tensors: in the same order in every process.
        keep: whether this process needs them; otherwise it drops each at once, to save memory.
    """
    gathered = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            gathered[name] = full
    return gathered


def own_part(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a tensor, sharded like ``like``; a copy if that is not."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor.clone()
    return distribute_tensor(tensor, like.device_mesh, like.placements)
