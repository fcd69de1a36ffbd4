"""A network and data small enough to train in milliseconds, with all that the loop has to keep."""

import io
import json
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from flowwarp.errors import InputError
from flowwarp.io.checkpoints import load_tensors
from flowwarp.legacy.models.gpt import GPT, GPTConfig
from flowwarp.train.loop import LoopConfig, Task, train
from flowwarp.train.seeding import generator, shuffled

STATE = "state-00000012.safetensors"  # the last one of a run with `config()`
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


def make(before=None, spoil=None, dropout=0.0, width=8, seed=0, matrices=()):
    """Return a task.

    Args:
        before: called with the number of each step before its first batch is made.
        spoil: example whose loss is NaN.
        matrices: parts that Muon may move.
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
    return Task(
        "tiny", model, batch, loss, {"model": tiny}, validate, "error", samples, notes,
        matrices=matrices,
    )  # fmt: skip


def gpt_config(**changes):
    return config(**{"steps": 8, "batch_size": 4, "accumulate": 2, "learning_rate": 1e-3} | changes)


def make_gpt(before=None):
    """Return the task of a transformer that learns which of 40 ids comes after which."""
    sizes = GPTConfig(
        vocabulary=41, embedded=8, width=32, depth=1, heads=2, hidden=24, inner_width=13
    )  # 13: not every axis divides among two
    torch.manual_seed(0)
    model = GPT(sizes)
    torch.nn.init.normal_(model.head.weight, std=0.2)

    def batch(indices):
        if before is not None:
            before(indices.start // 4)
        steps = torch.arange(16)
        ids = torch.stack([1 + (index + steps * (1 + index % 3)) % 40 for index in indices])
        places = torch.zeros(len(indices), 16, 4)
        places[..., 0] = steps
        return {"ids": ids, "places": places}

    def loss(model, batch, step):
        return {"loss": model.nats(batch["ids"], batch["places"], [torch.arange(1, 41)]).mean(1)}

    def validate(model):
        assert type(model) is GPT  # no part of one
        return {"loss": float(loss(model, batch(range(100, 104)), 0)["loss"].mean())}

    return Task("gpt", model, batch, loss, {"model": sizes}, validate, layers=("blocks", "inner"))


def fail(step):
    """Be the fault of an example of the fourth step."""
    if step == 3:
        raise InputError("data", "is at fault")


def run(task, config, folder, **options):
    """Train quietly."""
    return train(task, config, folder, stream=io.StringIO(), **options)


def weights(folder, state=STATE):
    """Return all weights of a state as one vector."""
    tensors = load_tensors(folder / state)[0]
    return torch.cat([t.flatten() for k, t in tensors.items() if k.startswith("model.")])


def assert_close_metrics(one, two):
    """Compare the metrics of two runs up to rounding."""
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert a.pop("split") == b.pop("split")
        assert a == pytest.approx(b, rel=1e-5)


def metrics(folder):
    """Return the lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
