"""The network in training and the moving average of its weights, in one process or in several."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import final

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowwarp.train.processes import Process, gather, share
from flowwarp.train.task import Batch, LoopConfig, Loss, Task


class _Losses(nn.Module):
    """A task's loss as a module, for a sharded network.

    FSDP gathers parameters in ``forward`` only, and a task may call its network in any way. So the
    whole loss is the ``forward`` of the module that is sharded.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        return dict(self.loss(self.model, batch, step))


@final
class Networks:
    """The network that is trained and its exponential moving average.

    Args:
        task: gives the network.
        config: whether there is an average, and whether processes share the network.
        process: this one; the weights of the first process become those of all.
    """

    def __init__(self, task: Task, config: LoopConfig, process: Process) -> None:
        self.layers, self.ema, self.process = task.layers, config.ema, process
        self.sharded = config.shard and process.world > 1
        self.model = task.model.to(process.device)
        self.broadcast()
        self.loss = task.loss
        # From a batch and its step to losses: name to (B,).
        self.losses: Callable[[Batch, int], Mapping[str, Tensor]] = partial(self.loss, self.model)
        self.average = AveragedModel(self.model) if config.ema else None
        # A whole copy of a sharded network, in the first process, to validate and to ship. It is
        # on the CPU except while it is validated.
        self.assembled: nn.Module | None = None

    def broadcast(self) -> None:
        """Copy the weights of the first process to all others."""
        if self.process.world > 1:
            for tensor in self.model.state_dict().values():
                dist.broadcast(tensor, 0)

    def shard(self) -> None:
        """Leave each process its part of the network and of the average, if they share them."""
        if not self.sharded:
            return
        if self.process.rank == 0:
            self.assembled = copy.deepcopy(self.model).cpu()
        self.losses = root = _Losses(self.model, self.loss)
        share(root, self._layers_of(self.model), self.process.device)
        if self.average is not None:
            average = self.average.module
            share(average, self._layers_of(average), self.process.device)

    def update_average(self, step: int) -> None:
        """Move the average towards the weights after step ``step``, counted from 1.

        ``average = decay * average + (1 - decay) * weights``. Until ``ema`` is less, the decay is
        ``(1 + step) / (10 + step)``, so that the initial weights do not linger in the average.
        """
        if self.average is None:
            return
        decay = min(self.ema, (1 + step) / (10 + step))
        self.average.multi_avg_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average.update_parameters(self.model)

    def result(self) -> nn.Module:
        """Return the network to validate and ship: the averaged one, or else the trained one.

        Every process must call this. If it is sharded, the first process gets the assembled
        copy, the others their own part.
        """
        model: nn.Module = self.model if self.average is None else self.average.module
        if not self.sharded:
            return model
        tensors = gather(model.state_dict(), keep=self.assembled is not None)
        if self.assembled is None:
            return model
        self.assembled.load_state_dict(tensors)
        return self.assembled

    def _layers_of(self, model: nn.Module) -> list[nn.Module]:
        return [part for name in self.layers for part in model.get_submodule(name).children()]
