"""Time a step of Muon for matrices of the discrete VAE, the transformer and the upsampler.

Usage: python tools/bench/muon.py [--rounds 5] [--threads 1] [--only gpt]

Beside torch's own: `torch.optim.Muon` sums in bfloat16 on any processor, ours in float32
where that is faster. Networks are those of the base presets; gradients are random, which costs the
same as others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import _measure
import torch
from training import dvae_task, gpt_task, upsampler_task

from flowwarp.train import loop
from flowwarp.train.optimizers import Muon, Optimizer


def sides(make: Callable[[], tuple[loop.Task, loop.LoopConfig]]) -> Mapping[str, _measure.Call]:
    """Return a step of each side; matrices start at 0, so they hold the step afterwards."""
    task, _ = make()
    found = Optimizer(task.model, task.matrices, muon=1.0, beta2=0.99, weight_decay=0.0).parts[1]
    shapes = [matrix.shape for group in found.param_groups for matrix in group["params"]]

    def side(begin: Callable[[list[torch.Tensor]], torch.optim.Optimizer]) -> _measure.Call:
        generator = torch.Generator().manual_seed(0)
        matrices = [torch.zeros(shape) for shape in shapes]
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        optimizer = begin(matrices)

        def step() -> list[torch.Tensor]:
            optimizer.step()
            return matrices

        return step

    theirs = functools.partial(
        torch.optim.Muon, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    return {"flowwarp": side(lambda own: Muon(own, 0.0)), "torch.optim.Muon": side(theirs)}


def agree(results: Mapping[str, Any]) -> float:
    """Return the largest relative difference of the first steps."""
    ours, theirs = results.values()
    return max(
        float((one - two).norm() / two.norm()) for one, two in zip(ours, theirs, strict=True)
    )


TASKS = {"dvae": dvae_task, "gpt": gpt_task, "upsampler": upsampler_task}
CASES = [
    _measure.Case(
        name, functools.partial(sides, make), {"preset": "base"}, agree, "steps differ by {:.1e}"
    )
    for name, make in TASKS.items()
]

if __name__ == "__main__":
    _measure.main(CASES, (__doc__ or "").splitlines()[0])
