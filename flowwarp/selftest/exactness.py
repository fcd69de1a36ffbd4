"""Measures how exact operators, networks and trainers are.

The result for an example should not depend on the other examples of its batch, and the gradient of
a step should not depend on how the step is split into micro-batches or over processes. All of it
runs on the CPU in some minutes and needs no data. ``flowwarp doctor --full`` prints the figures;
tests check them against their limits.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from multiprocessing import connection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowwarp.io.checkpoints import load_tensors, save_tensors
from flowwarp.legacy.models import captioner, dvae, gpt, reviser, upsampler
from flowwarp.metrics import perceptual
from flowwarp.models import classifier, flownet
from flowwarp.nn import BatchDependence, Example, measure_batch_dependence
from flowwarp.ops import matching, variational
from flowwarp.ops.census import census_distance
from flowwarp.ops.correlation import correlation
from flowwarp.ops.drawing import draw_tokens
from flowwarp.ops.splatting import splat
from flowwarp.ops.warping import warp
from flowwarp.selftest.small_tasks import (
    processes,
    randomize_conditioning,
    randomize_head,
    small_config,
    small_task,
)
from flowwarp.train.loop import LoopConfig, train
from flowwarp.train.seeding import generator

Model = Callable[..., Any]

ROUNDING = 1e-6  # relative difference of float32 sums that are added in another order
PARTS = (2, 3, 5)  # numbers of micro-batches for five examples: uneven and even
THREADS = (1, 2, 3, 7)
_NORMS: tuple[Literal["group", "none"], ...] = ("group", "none")
_TIMEOUT = 60  # seconds that one of two processes may end after the other


# ------------------------------------------------------------------ one example in a batch


@cache
def batch_dependence(name: str) -> BatchDependence:
    """Return how much the result for an example depends on its batch, of an operator or network."""
    every = operators() | operators_without_gradient() | networks()
    return measure_batch_dependence(*every[name])


@cache
def operators() -> dict[str, tuple[Model, Example]]:
    """Return each differentiable operator with arguments for one example."""
    image, other = torch.rand(2, 1, 8, 37, 70, generator=generator(0))  # (1, 8, H, W) each
    flow = 12 * torch.rand(1, 2, 37, 70, generator=generator(1)) - 6  # up to 6 px
    return {
        "warp": (warp, (image, flow)),
        "splat": (splat, (image, flow)),
        "correlation": (correlation, (image, other)),
        "census": (census_distance, (image[:, :3], other[:, :3])),
    }


@cache
def operators_without_gradient() -> dict[str, tuple[Model, Example]]:
    """Return the same for operators without a gradient: variational fit and token sampling."""
    random = generator(0)
    features, others = torch.rand(2, 1, 3, 75, 140, generator=random)
    start, flow, edges = torch.rand(3, 1, 2, 75, 140, generator=random)
    known = torch.rand(1, 1, 75, 140, generator=random)
    equate = partial(variational.normal_equations, zeta=1e-2, epsilon=1e-3)
    smooth = partial(variational.smoothness_weights, epsilon=1e-2)
    median = partial(variational.weighted_median, radius=3, sigma_space=2.0, sigma_colour=0.2)
    terms = features, others, start, flow, known
    # From rows in which all 1000 tokens are likely to rows in which a few are.
    scale = torch.linspace(0.1, 8, 64)[:, None]
    logits = scale * torch.randn(1, 64, 1000, generator=random)  # (1, R, V)
    return {
        "normal equations": (equate, terms),
        "smoothness weights": (smooth, (flow, edges)),
        "relaxation": (partial(variational.relax, sweeps=7), (equate(*terms), edges, flow)),
        "weighted median": (median, (flow, features, known)),
        "token sampling": (_draw_rows, (logits, torch.rand(1, 64, generator=random))),
    }


def _draw_rows(logits: Tensor, draws: Tensor) -> Tensor:
    """Draw a token by each row of ``logits`` (B, R, V) and number of ``draws`` (B, R); (B, R)."""
    return draw_tokens(logits.flatten(0, 1), draws.flatten(), top_p=0.9).view(draws.shape)


@cache
def networks() -> dict[str, tuple[Model, Example]]:
    """Return small networks of each kind, with and without norms, each with one example.

    Where a network has a second entry point, that method stands beside the network.
    """
    found: dict[str, tuple[Model, Example]] = {}
    random = generator(0)
    images = torch.rand(2, 1, 3, 64, 96, generator=random).unbind()
    video = torch.rand(1, 8, 3, 32, 32, generator=random)
    noise, previous = torch.rand(2, 1, 3, 32, 32, generator=random)
    visible, time = previous[:, :1] > 0.5, torch.rand(1, generator=random)
    ids = torch.randint(2048, (1, 40), generator=random)
    places = 8 * torch.rand(1, 40, 4, generator=random)
    torch.manual_seed(0)
    found["flow network"] = flownet.FlowNet(flownet.TINY), images
    for norm in _NORMS:
        found[f"DVAE, norm {norm}"] = dvae.DVAE(replace(dvae.TINY, norm=norm)), (video,)
    for config in (replace(gpt.TINY, norm="rms"), replace(gpt.TINY, norm="none")):
        transformer = randomize_head(gpt.GPT(config))
        found[f"GPT, norm {config.norm}"] = transformer, (ids, places)
    masked = {"hidden": torch.arange(5)[None] % 2 == 1, "ahead": torch.arange(5)[None]}
    with_layout = gpt.GPT(replace(gpt.TINY, kinds=4))
    found["GPT, with layout"] = with_layout.features, {"ids": ids, "places": places, **masked}
    for norm in _NORMS:
        unet = randomize_head(upsampler.Upsampler(replace(upsampler.TINY, norm=norm)))
        example = noise, time, video[:, 0, :, :16, :16], previous, visible
        found[f"upsampler, norm {norm}"] = unet, example
    # Sixteen values: two or three logits may all be near 0, where rounding is relatively large.
    attributes = (("action", tuple("abcdefghijklmnop")), ("color", tuple("abcdefghijklmnop")))
    for norm in _NORMS:
        judge = classifier.Classifier(
            classifier.ClassifierConfig(attributes, size=32, widths=(16, 32), norm=norm)
        )
        for head in judge.heads:
            nn.init.normal_(head.weight)  # type: ignore[arg-type]
        found[f"classifier, norm {norm}"] = judge, (video,)
    plain = captioner.CaptionerConfig(50, size=32, widths=(16, 32), hidden=24)
    words = torch.randint(50, (1, 9), generator=random)
    for sizes in (replace(plain, norm="group"), replace(plain, pooled=8)):
        describing = randomize_head(captioner.Captioner(sizes))
        found[f"captioner, norm {sizes.norm}"] = describing, (video, words)
    layouts = captioner.Captioner(replace(plain, kinds=6))
    codes = torch.randint(7, (1, 4, layouts.side, layouts.side), generator=random)
    found["LPIPS"] = perceptual.LPIPS(), images
    found["captioner, layout of a video"] = layouts.sketch, (video,)
    found["captioner, from a layout"] = layouts.look_at_sketch, (codes,)
    clothes = (("hair", ("red", "blue")), ("weapon", ("bow", "spear")))
    for norm in _NORMS:
        revisions = reviser.ReviserConfig(
            clothes, widths=(16, 32), blocks=(1, 1), embedding=32, norm=norm
        )
        revising = randomize_conditioning(randomize_head(reviser.Reviser(revisions)))
        found[f"reviser, norm {norm}"] = revising, (video, torch.tensor([[1, 2]]))
    return found


def thread_differences() -> float:
    """Return how many results and gradients of operators change with the number of threads."""
    before = torch.get_num_threads()
    results: list[list[Tensor]] = []  # for each number of threads
    try:
        for count in THREADS:
            torch.set_num_threads(count)
            results.append(
                [
                    *(tensor for call, _ in operators().values() for tensor in _gradients(call)),
                    *(call(*example) for call, example in operators_without_gradient().values()),
                    *_matches(),
                ]
            )
    finally:
        torch.set_num_threads(before)
    first, *others = results
    return sum(
        not all(torch.equal(result[index], expected) for result in others)
        for index, expected in enumerate(first)
    )


def _gradients(operator: Callable[..., Any]) -> list[Tensor]:
    """Return an operator's result and its gradients, of inputs large enough for several threads."""
    takes_two_images = operator in (correlation, census_distance)
    channels = 3 if operator is census_distance else 32
    image, other = torch.rand(2, 3, channels, 75, 140, generator=generator(0))  # (3, C, H, W) each
    flow = 12 * torch.rand(3, 2, 75, 140, generator=generator(1)) - 6  # up to 6 px
    inputs = [image.requires_grad_(), (other if takes_two_images else flow).requires_grad_()]
    result = operator(*inputs)
    weight = torch.rand(result.shape, generator=generator(2))
    return [result.detach(), *torch.autograd.grad(result, inputs, weight)]


def _matches() -> tuple[Tensor, ...]:
    """Return descriptors of two frames, and one round of PatchMatch between them.

    These functions take one example without a batch axis, and so are not among the operators.
    """
    frames = torch.rand(2, 1, 1, 75, 140, generator=generator(0))
    features1, features2 = map(matching.describe, frames)
    begin = torch.zeros(75, 140, 2, dtype=torch.int32)
    found = matching.match_round(features1, features2, begin, radius=8, round=0)
    return features1, features2, *found


# ------------------------------------------------------------------ one step, split


def step_gradient(name: str, config: LoopConfig, folder: Path, run: str) -> Tensor:
    """Return the gradient of a trainer's first step, (P,) float64 over all parameters.

    Args:
        name: one of ``TRAINERS`` or ``VARIANTS``.
        config: settings of the loop; ``clip`` and ``steps`` are replaced.
        folder: for ``small_task``, and where the run is made.
        run: name of the run's folder.
    """
    config = replace(config, steps=1, clip=0.0)
    task = replace(small_task(name, config, folder), validate=None, samples=None)
    with Path(os.devnull).open("w") as nowhere:
        train(task, config, folder / run, stream=nowhere)
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten().double()
            for p in task.model.parameters()
        ]
    )


@cache
def whole_gradient(name: str, folder: Path) -> Tensor:
    """Return the gradient of a first step that is not split."""
    return step_gradient(name, small_config(), folder, f"{name}-whole")


def micro_batch_difference(name: str, folder: Path) -> float:
    """Return the largest relative change of a gradient by splitting a step into micro-batches."""
    whole = whole_gradient(name, folder)
    parts = (
        step_gradient(name, small_config(accumulate=count), folder, f"{name}-of-{count}")
        for count in PARTS
    )
    return max(relative_difference(part, whole) for part in parts)


def process_difference(name: str, folder: Path) -> float:
    """Return the relative change of the gradient when two processes (gloo) share a step.

    One process computes two of three micro-batches, the other one.
    """
    whole = whole_gradient(name, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = f"{name}-shared"
    members = [
        processes().Process(target=_member, args=(rank, port, name, folder, run))
        for rank in range(2)
    ]
    for member in members:
        member.start()
    # Where one has failed, the other waits for it in vain: it gets a limit.
    connection.wait([member.sentinel for member in members])
    for member in members:
        member.join(_TIMEOUT)
        member.kill()
        member.join()
    codes = [member.exitcode for member in members]
    if any(codes):
        raise RuntimeError(f"two processes ended with {codes}")
    shared = load_tensors(folder / f"{run}.safetensors")[0]["gradient"]
    return relative_difference(shared, whole)


def _member(rank: int, port: int, name: str, folder: Path, run: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    gradient = step_gradient(name, small_config(accumulate=3), folder, run)
    if rank == 0:
        save_tensors(folder / f"{run}.safetensors", {"gradient": gradient}, {})


def relative_difference(result: Tensor, expected: Tensor) -> float:
    """Return ``|result - expected| / |expected|``, by Euclidean norms."""
    return float((result - expected).norm() / expected.norm())
