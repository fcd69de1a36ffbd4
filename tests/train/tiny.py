"""A network and data small enough to train in milliseconds, with all that the loop has to keep."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from flowwarp.train.loop import LoopConfig, Task, generator, shuffled

LENGTH = 11  # of the data: no multiple of any batch size here


@dataclass(frozen=True)
class TinyConfig:
    width: int = 8
    dropout: float = 0.0


class Tiny(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.first = nn.Linear(6, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.last = nn.Linear(config.width, 1)
        self.unused = nn.Parameter(torch.ones(3))  # never gets a gradient

    def forward(self, x):
        return self.last(self.dropout(torch.tanh(self.first(x))))[:, 0]


def config(**changes):
    return LoopConfig(
        **{
            "steps": 12, "batch_size": 5, "learning_rate": 1e-2, "warmup": 2, "ema": 0.9,
            "validate_every": 4, "samples_every": 6, "log_every": 3, "save_every": 5, "threads": 1,
        }
        | changes
    )  # fmt: skip


def make(before=None, spoil=None, dropout=0.0, width=8, seed=0):
    """Return a task.

    Args:
        before: called with the number of each step before its first batch is made.
        spoil: example whose loss is NaN.
    """
    tiny = TinyConfig(width, dropout)
    torch.manual_seed(seed)
    model = Tiny(tiny)

    begun = set()

    def batch(indices):
        if before is not None and indices.start // 5 not in begun:
            begun.add(indices.start // 5)
            before(indices.start // 5)
        xs = []
        for index in indices:
            item = shuffled(seed, index, LENGTH)
            noise = torch.randn(6, generator=generator(seed, index)) / 10
            xs.append(torch.randn(6, generator=generator(seed, 1, item)) + noise)
        x = torch.stack(xs)
        y = torch.sin(x).sum(1)
        numbers = torch.tensor(list(indices))
        return {"x": x, "y": y, "bad": numbers == (-1 if spoil is None else spoil)}

    def loss(model, batch, step):
        error = model(batch["x"]).float() - batch["y"]
        squared = torch.where(batch["bad"], math.nan, error.square())
        return {"loss": squared, "absolute": error.detach().abs()}

    def validate(model):
        assert not model.training
        held_out = batch(range(1000, 1007))
        return {"error": float(loss(model, held_out, 0)["absolute"].mean())}

    def samples(model):
        yield "field", torch.rand(3, 4, 5)

    notes = {"licence": "MIT"}
    return Task("tiny", model, batch, loss, {"model": tiny}, validate, "error", samples, notes)
