"""The processes that ``torchrun`` started: who this one is, and a network shared out over them.

There are two ways of training together. By default each process has the whole network, and
gradients are added up (:mod:`flowwarp.train.loop`). Or each has a part of every parameter, of its
gradient and average and of what the optimiser remembers, and layers are put together when it is
their turn (FSDP2; Zhao et al., "PyTorch FSDP", VLDB 2023): :func:`share`, :func:`whole`,
:func:`own_part`. Then memory for these, 20 bytes a parameter, is divided by the number of
processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flowwarp.errors import Diverged, FlowwarpError, InputError, Stopped
from flowwarp.io.cache import launched


class Process(NamedTuple):
    """This process among those that torchrun started."""

    rank: int  # 0 is the one that writes and prints
    world: int  # how many processes there are
    device: torch.device


def is_first() -> bool:
    """Say whether this process is the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def own_device(device: str | torch.device) -> torch.device:
    """Return the device of this process: of several GPUs, each process of a machine has its own."""
    own = torch.device(device)
    if own == torch.device("cuda") and launched() > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return own


# How long processes wait for one that prepares data, validates or writes; else 10 minutes of NCCL.
# One that has ended is noticed without it, by its connections or by torchrun.
_PATIENCE = timedelta(hours=12)
_MEETING = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets besides WORLD_SIZE


@contextmanager
def joined(device: torch.device) -> Iterator[Process]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Raises:
        InputError: the environment names no other processes.
    """
    if launched() == 1 or not dist.is_available():
        yield Process(0, 1, device)
        return
    device = own_device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mine = not dist.is_initialized()
    missing = [name for name in _MEETING if name not in os.environ]
    if mine and missing:
        problem = f"is not set, though WORLD_SIZE is {launched()}"
        raise InputError(missing[0], problem, "start it by torchrun")
    if mine:
        # NCCL alone would send objects, such as a whole state, by way of every GPU's memory.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
    together = True
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), device)
    except BaseException as fault:
        together = isinstance(fault, (Stopped, Diverged))  # which all raise
        raise
    finally:
        # While others wait for this process, NCCL would wait for them, and the fault never be seen.
        # They are told by the end of this process: by its connections, or by torchrun.
        if mine and together:
            dist.destroy_process_group()


@contextmanager
def refused_together(world: int) -> Iterator[None]:
    """Raise what the first of ``world`` processes refuses in this block in all of them.

    The others would wait for it in vain. Every process must enter the block.
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


# ------------------------------------------------------------------ a network in parts


def share(model: nn.Module, layers: Iterable[nn.Module], device: torch.device) -> None:
    """Leave each process its part of a network, which does as before; every process must call it.

    Args:
        model: equal in all processes. Its parameters are replaced by parts of them; they are put
            together in its ``forward``, and only there.
        layers: in it; each is put together when it is its turn, and what is in none of them for the
            whole of ``forward`` and of its gradient.
        device: of the process.

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
        # The loop divides by the examples of the step itself: gradients are to be added.
        shared.set_gradient_divide_factor(1.0)
        shared.set_force_sum_reduction_for_comms(True)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor put together from its parts, on the CPU; one that is not in parts as it is.

    Every process must call it, for the same tensors in the same order.
    """
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Put tensors together one after the other, as `whole` does; every process must call it.

    Args:
        tensors: in the same order everywhere.
        keep: whether this process wants them; otherwise it has none for longer than a moment.
    """
    found = {}
    for name, tensor in tensors.items():
        put = whole(tensor)
        if keep:
            found[name] = put
    return found


def own_part(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a tensor, as that of ``like`` is; a copy if that is whole."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor.clone()
    return distribute_tensor(tensor, like.device_mesh, like.placements)
