"""Time a training step of each network, beside the plain version of the same network.

Usage: python tools/bench/training.py [--rounds 9] [--threads 2] [--only flow]

Ours is what the trainers do by default: the base preset, bf16 autocast, channels-last where the
network wants it, the package's own operators. The plain version is the same network, examples and
losses in eager fp32, contiguous, as one would write it: it warps by `grid_sample`, with the grid
made per call, and else has the operators' torch references. Both are moved by the optimiser of the
preset. A step is losses, gradients, clipping and optimiser; examples are drawn beforehand, as a
worker thread does it meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import _measure
import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.bundled import bundled
from flowwarp.data.sources import SPRITES, open_source
from flowwarp.data.sprite_world.labels import actor_values
from flowwarp.data.sprite_world.layers import load_layers
from flowwarp.data.synthesis import load_photos
from flowwarp.legacy.models.dvae import DVAE
from flowwarp.legacy.pipelines.sequences import load_gpt
from flowwarp.legacy.pipelines.tokens import load_dvae
from flowwarp.legacy.train import captioner, dvae, gpt, reviser, upsampler
from flowwarp.legacy.train.kept import keep_clips
from flowwarp.legacy.train.tokenized import grid_media, tokenize_clips
from flowwarp.ops import native
from flowwarp.ops.fields import coordinate_grid
from flowwarp.ops.warping import warp
from flowwarp.train import flow, loop
from flowwarp.train.optimizers import Optimizer

RATE = 1e-5  # so that all steps cost the same
OFF = native.Native(None, "off", "", "switched off by the benchmark")


def drawn(task: loop.Task, config: loop.LoopConfig) -> tuple[loop.Task, loop.LoopConfig]:
    """Draw a step's examples while their folder exists."""
    batch = task.batch(range(config.batch_size))
    return replace(task, batch=lambda _: batch), config


def flow_task() -> tuple[loop.Task, loop.LoopConfig]:
    configs = flow.presets("base")
    configs["data"] = replace(configs["data"], fitted_pairs=0)
    photos = load_photos(bundled("datasets") / "sample")
    return flow.flow_task(flow.Material(None, photos), configs), configs["loop"]


def dvae_task() -> tuple[loop.Task, loop.LoopConfig]:
    configs = dvae.presets("base")
    configs["data"] = replace(configs["data"], validation=1)
    source = open_source(SPRITES, configs["data"].size, configs["data"].frames)
    return dvae.dvae_task(source, configs), configs["loop"]


def gpt_task() -> tuple[loop.Task, loop.LoopConfig]:
    configs = gpt.presets("base")
    data = replace(configs["data"], orders=("text video 1",))  # all examples of one length
    net = DVAE().eval()
    media = grid_media(net, data.size, data.frames)
    source = open_source(SPRITES, data.size, data.frames)
    with tempfile.TemporaryDirectory() as cache:
        store = tokenize_clips(functools.partial(source, 0), net, media, "", 16, cache=Path(cache))
        material = gpt.GPTMaterial(store, {"val": store}, media)
        task = gpt.gpt_task(material, configs | {"data": data})
        return drawn(task, configs["loop"])


def upsampler_task() -> tuple[loop.Task, loop.LoopConfig]:
    configs = upsampler.presets("base")
    data = configs["data"]
    source = open_source(SPRITES, data.size, data.length)
    codec = upsampler.dvae_codec(DVAE().eval())
    return upsampler.upsampler_task(source, codec, configs), configs["loop"]


def captioner_task() -> tuple[loop.Task, loop.LoopConfig]:
    configs = captioner.presets("base")
    draw = functools.partial(open_source(SPRITES, configs["model"].size, 16), 0)
    with tempfile.TemporaryDirectory() as cache:
        clips = keep_clips(draw, "", configs["loop"].batch_size, cache=Path(cache))
        task = captioner.captioner_task(clips, {"val": clips}, configs)
        return drawn(task, configs["loop"])


def reviser_task() -> tuple[loop.Task, loop.LoopConfig]:
    configs = reviser.presets("base")
    data, layers = configs["data"], load_layers()
    configs["model"] = replace(configs["model"], attributes=actor_values(layers))
    spoil = reviser.Spoiler(load_dvae(), load_gpt())
    pairs = reviser.Pairs(layers, [], 0, data)
    with tempfile.TemporaryDirectory() as cache:
        clips = reviser.keep_revisions(pairs, spoil, "", 4, 0, data, cache=Path(cache))
        task = reviser.reviser_task(clips, {"val": clips}, configs)
        return drawn(task, configs["loop"])


def plain_warp(
    image: Tensor, flow: Tensor, *, padding: str = "border", mode: str = "bilinear",
    mask: bool = False,
) -> Any:  # fmt: skip
    """Warp in plain torch."""
    height, width = image.shape[-2:]
    scale = flow.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)]).view(1, 2, 1, 1)
    grid = ((coordinate_grid(height, width, dtype=flow.dtype) + flow) * scale - 1).movedim(1, -1)
    out = F.grid_sample(image, grid, mode, padding, align_corners=True)
    return (out, (grid.abs() <= 1).all(-1)[:, None]) if mask else out


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Replace the CPU library and every imported ``warp`` by plain torch."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(native, "native", return_value=OFF))
        for name, module in list(sys.modules.items()):
            if name.startswith("flowwarp.") and vars(module).get("warp") is warp:
                stack.enter_context(mock.patch.object(module, "warp", plain_warp))
        yield


def sides(make: Callable[[], tuple[loop.Task, loop.LoopConfig]]) -> Mapping[str, Callable[[], Any]]:
    """Return a step of each side; each has a network of its own."""
    ours, config = make()
    plain, _ = make()
    plain.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch = ours.batch(range(config.batch_size))
    late = config.steps * 9 // 10  # when all losses have joined

    def step(task: loop.Task, optimizer: Optimizer, half: bool) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = task.loss(task.model, batch, late)
        loss = losses["loss"].float().mean()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), config.clip)
        optimizer.step(RATE)
        return float(loss.detach())

    own, other = (
        Optimizer(
            task.model, task.matrices, muon=config.muon, beta2=config.beta2,
            weight_decay=config.weight_decay,
        )
        for task in (ours, plain)
    )  # fmt: skip

    def plain_step() -> float:
        with plainly():
            return step(plain, other, half=False)

    return {
        "flowwarp": lambda: step(ours, own, half=config.precision == "bf16"),
        "plain fp32": plain_step,
    }


def agree(results: Mapping[str, float]) -> float:
    """Return by how much the loss of the first step differs."""
    first, second = results.values()
    return abs(first - second) / abs(second)


AGREEMENT = "the loss of the first step differs by {:.1e} of itself"
TASKS = {
    "flow": flow_task,
    "dvae": dvae_task,
    "gpt": gpt_task,
    "upsampler": upsampler_task,
    "captioner": captioner_task,
    "reviser": reviser_task,
}
CASES = [
    _measure.Case(name, functools.partial(sides, make), {"preset": "base"}, agree, AGREEMENT)
    for name, make in TASKS.items()
]

if __name__ == "__main__":
    _measure.main(CASES, (__doc__ or "").splitlines()[0])
