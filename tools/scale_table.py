"""Print what training costs, for the presets and for larger networks: the table of docs/scaling.md.

Usage: python tools/scale_table.py [--rounds 5] [--preset tiny --preset small ...]

It takes some minutes of one free core.

Presets are measured here: one thread takes the steps of the real trainers, with the preset's
optimiser, on the world of digits (that of flow on a photo, that of the reviser on noise), and the
time is the median of that of the processor, so that other work on the machine counts little. As in
training, those of bf16 are taken in fp32 where the processor has no instructions for it. Larger
transformers are counted on paper: FLOPs of their step by torch's own counter, on tensors without
memory, and hours from the assumptions named below the table. FLOPs are those of all products of a
step, forward and backward, a multiplication and an addition being two.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from flowwarp.bundled import bundled
from flowwarp.data.sources import DIGITS, open_source
from flowwarp.data.sprite_world.labels import actor_values
from flowwarp.data.sprite_world.layers import bundled_layers
from flowwarp.data.synthesis import load_photos
from flowwarp.legacy.data.tokens import AXES, PATCH
from flowwarp.legacy.models.dvae import DVAE, DVAEConfig
from flowwarp.legacy.models.gpt import GPT, GPTConfig
from flowwarp.legacy.train import captioner, dvae, gpt, reviser, upsampler
from flowwarp.legacy.train.kept import keep_clips
from flowwarp.legacy.train.tokenized import grid_media, tokenize_clips
from flowwarp.precision import fast_dtype
from flowwarp.train import flow, loop
from flowwarp.train.arrays import pack_caption
from flowwarp.train.optimizers import Optimizer

PRESETS = ("tiny", "small", "base")

# Wide heads and a feed-forward layer of 8/3, as is usual; each width is a multiple of 8 * heads.
LARGER = {
    "100 M": GPTConfig(
        embedded=192, width=768, depth=14, heads=12, kv_heads=4, hidden=2048,
        inner_width=512, inner_depth=3, inner_hidden=1024,
    ),
    "300 M": GPTConfig(
        embedded=256, width=1280, depth=16, heads=20, kv_heads=5, hidden=3456,
        inner_width=768, inner_depth=3, inner_hidden=1536,
    ),
    "1 B": GPTConfig(
        embedded=384, width=2048, depth=22, heads=32, kv_heads=8, hidden=5504,
        inner_width=1024, inner_depth=4, inner_hidden=2048,
    ),
}  # fmt: skip

# Assumptions for costs that are counted, not measured.
TOKENS_PER_PARAMETER = 20  # Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022
EXAMPLES = 256  # a step
PEAK = 989e12  # FLOP/s of an H100 (SXM) in bf16, without sparsity, by its data sheet
UTILISATION = 0.35  # of that: usual for transformers of this size with FSDP
CHOICES = math.prod(DVAEConfig().levels)  # ids that a token of video is one of
FITTED = 2  # pairs that flow is fitted to: as many examples come of them as of any number
CAPTIONED = 64  # clips that are composed, or of noise; likewise
ACTOR = 64  # of 256 pixels those that are the actor's
BYTES = 20  # a parameter in fp32: itself, its gradient, its average, and two that AdamW remembers


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    network: str
    size: str
    parameters: int
    tokens: int | None  # of an example
    examples: int  # a step
    flops: float  # a step
    steps: int
    seconds: float  # a step
    measured: bool


# ------------------------------------------------------------------ measured


def tasks(preset: Any) -> Iterator[tuple[loop.Task, loop.LoopConfig]]:
    """Yield the task of each trainer at a preset, on digits, with untrained networks."""
    yield flow_task(preset)

    configs = dvae.presets(preset)
    data = configs["data"] = replace(configs["data"], validation=1)
    source = open_source(DIGITS, data.size, data.frames)
    yield dvae.dvae_task(source, configs), configs["loop"]

    torch.manual_seed(0)
    net = DVAE(configs["model"]).eval()
    configs = gpt.presets(preset)
    data = configs["data"]
    media = grid_media(net, data.size, data.frames)
    batch_size = configs["loop"].batch_size
    with tempfile.TemporaryDirectory() as cache:
        draw = functools.partial(source, 0)
        store = tokenize_clips(draw, net, media, preset, batch_size, cache=Path(cache))
        # The longest order, that most of the work is for.
        about = replace(data, orders=("text video 1",), caption_dropout=0.0)
        material = gpt.GPTMaterial(store, {"val": store}, media)
        task = gpt.gpt_task(material, configs | {"data": about})
        batch = task.batch(range(batch_size))
    yield replace(task, batch=lambda _: batch), configs["loop"]

    yield captioner_task(preset)

    configs = upsampler.presets(preset)
    data = configs["data"]
    source = open_source(DIGITS, data.size, data.length)
    yield upsampler.upsampler_task(source, upsampler.dvae_codec(net), configs), configs["loop"]

    yield reviser_task(preset)


def flow_task(preset: Any) -> tuple[loop.Task, loop.LoopConfig]:
    configs = flow.presets(preset)
    configs["data"] = replace(configs["data"], fitted_pairs=FITTED)
    photos = load_photos(bundled("datasets") / "sample")
    task = flow.flow_task(flow.Material(None, photos), configs)
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, {"FLOWWARP_CACHE_DIR": cache}),
    ):
        assert task.prepare is not None
        task.prepare()
        batch = task.batch(last_numbers(configs["loop"]))
    return replace(task, batch=lambda _: batch), configs["loop"]


def captioner_task(preset: Any) -> tuple[loop.Task, loop.LoopConfig]:
    configs = captioner.presets(preset)
    data = configs["data"]
    source = open_source(DIGITS, configs["model"].size, data.length)
    with tempfile.TemporaryDirectory() as cache:
        kept = keep_clips(functools.partial(source, 0), preset, CAPTIONED, cache=Path(cache))
        task = captioner.captioner_task(kept, {"val": kept}, configs)
        batch = task.batch(last_numbers(configs["loop"]))
    return replace(task, batch=lambda _: batch), configs["loop"]


def reviser_task(preset: Any) -> tuple[loop.Task, loop.LoopConfig]:
    """Return the task of the reviser, on clips of noise: their content changes no cost."""
    configs = reviser.presets(preset)
    data = configs["data"]
    configs["model"] = replace(configs["model"], attributes=actor_values(bundled_layers()))
    noise = torch.Generator().manual_seed(0)
    shape = CAPTIONED, data.length, 3, data.size, data.size
    with tempfile.TemporaryDirectory() as folder:
        for name in ("shown", "wanted"):
            clips = torch.randint(256, shape, dtype=torch.uint8, generator=noise)
            np.save(Path(folder) / f"{name}.npy", clips.numpy())
        np.save(Path(folder) / "actor.npy", (clips[:, :, :1] < ACTOR).numpy())
        caption = pack_caption(json.dumps([{"hair_color": "red"}, []]))
        np.save(Path(folder) / "told.npy", np.stack([caption] * CAPTIONED))
        kept = reviser.Revisions(Path(folder))
        task = reviser.reviser_task(kept, {"val": kept}, configs)
        batch = task.batch(last_numbers(configs["loop"]))
    return replace(task, batch=lambda _: batch), configs["loop"]


def last_numbers(config: loop.LoopConfig) -> range:
    """Return the examples of the last step, when all losses have joined."""
    return range(config.batch_size * (config.steps - 1), config.batch_size * config.steps)


def measure(task: loop.Task, config: loop.LoopConfig, preset: str, rounds: int) -> Row:
    """Time some steps of a trainer on a batch that is drawn before."""
    batch = task.batch(last_numbers(config))
    optimizer = Optimizer(
        task.model, task.matrices, muon=config.muon, beta2=config.beta2,
        weight_decay=config.weight_decay,
    )  # fmt: skip
    parameters = list(optimizer.named.values())
    half = config.precision == "bf16" and _has_bf16()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = task.loss(task.model, batch, config.steps - 1)
        torch.autograd.backward(losses["loss"].mean())
        nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step(1e-4)

    flops = count(step)  # the first step also warms up
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        step()
        seconds.append(time.process_time() - began)
    tokens = batch["ids"].shape[1] if task.name == "gpt" else None
    size = sum(p.numel() for p in task.model.parameters())
    return Row(
        task.name, preset, size, tokens, config.batch_size, flops, config.steps,
        statistics.median(seconds), measured=True,
    )  # fmt: skip


def count(step: Callable[[], Any]) -> float:
    """Return the FLOPs of a function; attention counts all pairs, masked or not."""
    # Torch's counter does not know the CPU's kernel of attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


# ------------------------------------------------------------------ on paper


def on_paper(size: str, config: GPTConfig, tokens: int, choices: float) -> Row:
    """Count a step of a transformer that does not run here.

    Args:
        size: its name.
        config: its sizes.
        tokens: of an example.
        choices: ids that a token is chosen among, on average.
    """
    parameters, flops = transformer_cost(config, tokens, choices)
    steps = round(TOKENS_PER_PARAMETER * parameters / (EXAMPLES * tokens))
    seconds = flops * EXAMPLES / (PEAK * UTILISATION)
    return Row(
        "gpt", size, parameters, tokens, EXAMPLES, flops * EXAMPLES, steps, seconds, measured=False
    )


def transformer_cost(config: GPTConfig, tokens: int, choices: float) -> tuple[int, float]:
    """Return how many parameters a transformer has, and the FLOPs of one example, both ways."""
    with torch.device("meta"):
        net = GPT(config)
        ids, places = torch.zeros(1, tokens, dtype=torch.int64), torch.zeros(1, tokens, AXES)
    flops = count(lambda: torch.autograd.backward(net.features(ids, places).sum()))
    # Logits, and their two gradients; each token's only of the ids of its kind.
    flops += 3 * 2 * (tokens - PATCH) * config.inner_width * choices
    return sum(p.numel() for p in net.parameters()), flops


# ------------------------------------------------------------------ the page


def table(rows: list[Row]) -> str:
    """Write rows as Markdown."""
    heads = [
        "network", "size", "parameters, M", "tokens an example", "examples a step", "TFLOP a step",
        "steps", "tokens in all, M", "s a step", "hours", "memory, GB",
    ]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    for row in rows:
        read = (row.tokens or 0) * row.examples * row.steps
        cells = [
            row.network, row.size, f"{row.parameters / 1e6:,.4g}", str(row.tokens or ""),
            str(row.examples), f"{row.flops / 1e12:.3g}", f"{row.steps:,}",
            f"{read / 1e6:,.0f}" if read else "", f"{row.seconds:.3g}",
            f"{row.steps * row.seconds / 3600:.3g}", f"{row.parameters * BYTES / 1e9:.2g}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(measured: list[Row], counted: list[Row]) -> str:
    speeds = ", ".join(
        f"{row.network} {row.size} {row.examples / row.seconds:.3g}" for row in measured
    )
    rates = [row.flops / row.seconds / 1e9 for row in measured]
    return "\n".join(
        [
            f"Measured, one thread of {_processor()}, torch {torch.__version__}, "
            f"{'bf16 where a preset says so' if _has_bf16() else 'fp32'}, "
            "seconds of the processor:",
            "",
            table(measured),
            "",
            f"Examples a second: {speeds}. That is {min(rates):.0f} to {max(rates):.0f} GFLOP/s.",
            "",
            "On paper, hours of one GPU:",
            "",
            table(counted),
            "",
            f"Assumed: {TOKENS_PER_PARAMETER} tokens a parameter; {EXAMPLES} examples a step; "
            f"{PEAK / 1e12:.0f} TFLOP/s of which {UTILISATION:.0%} are reached; as many ids to "
            f"choose a token among as in the presets. Memory is {BYTES} bytes a parameter, without "
            "activations; with `loop.shard`, divided by the number of processes, and so are hours "
            "at best.",
        ]
    )


def _has_bf16() -> bool:
    return fast_dtype(torch.device("cpu")) == torch.bfloat16


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="steps that are timed (default 5)")
    parser.add_argument("--preset", action="append", choices=PRESETS, help="default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured = [
        measure(task, config, preset, arguments.rounds)
        for preset in arguments.preset or PRESETS
        for task, config in tasks(preset)
    ]
    measured.sort(key=lambda row: row.network)
    tokens = next(row.tokens for row in measured if row.tokens)
    counted = [on_paper(size, config, tokens, CHOICES) for size, config in LARGER.items()]
    print(page(measured, counted))


if __name__ == "__main__":
    main()
