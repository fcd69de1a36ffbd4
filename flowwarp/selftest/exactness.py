"""Measures how exact operators, networks and trainers are: minutes, and no data.

What is computed for an example depends neither on its neighbours nor on how a step is split, into
micro-batches or over processes. ``flowwarp doctor --full`` prints the figures, and the tests hold
them to what is allowed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowwarp.io.checkpoints import load_tensors, save_tensors
from flowwarp.metrics import perceptual
from flowwarp.models import captioner, classifier, dvae, flownet, gpt, reviser, upsampler
from flowwarp.nn import BatchDependence, Example, measure_batch_dependence
from flowwarp.ops import matching, variational
from flowwarp.ops.census import census_distance
from flowwarp.ops.correlation import correlation
from flowwarp.ops.drawing import draw_tokens
from flowwarp.ops.splatting import splat
from flowwarp.ops.warping import warp
from flowwarp.selftest.small_tasks import awake, hearing, processes, small_config, small_task
from flowwarp.train.loop import LoopConfig, train
from flowwarp.train.numbering import generator

Model = Callable[..., Any]

ROUNDING = 1e-6  # relative, of float32 sums in another order
PARTS = (2, 3, 5)  # micro-batches of five examples: even and uneven
THREADS = (1, 2, 3, 7)
_PATIENCE = 60  # s that one of two processes may end after the other


# ------------------------------------------------------------------ one example in a batch


@cache
def dependence(name: str) -> BatchDependence:
    """Return how much an example of an operator or network depends on its batch."""
    return measure_batch_dependence(*(operators() | without_gradients() | networks())[name])


@cache
def operators() -> dict[str, tuple[Model, Example]]:
    """Return each operator with arguments for one example."""
    image, other = torch.rand(2, 1, 8, 37, 70, generator=generator(0))
    flow = 12 * torch.rand(1, 2, 37, 70, generator=generator(1)) - 6
    return {
        "warp": (warp, (image, flow)),
        "splat": (splat, (image, flow)),
        "correlation": (correlation, (image, other)),
        "census": (census_distance, (image[:, :3], other[:, :3])),
    }


@cache
def without_gradients() -> dict[str, tuple[Model, Example]]:
    """Return likewise what has no gradients: the steps of a variational fit, and drawing."""
    random = generator(0)
    features, others = torch.rand(2, 1, 3, 75, 140, generator=random)
    start, flow, edges = torch.rand(3, 1, 2, 75, 140, generator=random)
    known = torch.rand(1, 1, 75, 140, generator=random)
    equate = partial(variational.normal_equations, zeta=1e-2, epsilon=1e-3)
    smooth = partial(variational.smoothness_weights, epsilon=1e-2)
    median = partial(variational.weighted_median, radius=3, sigma_space=2.0, sigma_colour=0.2)
    terms = features, others, start, flow, known
    steepness = torch.linspace(0.1, 8, 64)[:, None]  # of many rows a few tokens are likely, or all
    logits = steepness * torch.randn(1, 64, 1000, generator=random)
    return {
        "normal equations": (equate, terms),
        "smoothness weights": (smooth, (flow, edges)),
        "relaxation": (partial(variational.relax, sweeps=7), (equate(*terms), edges, flow)),
        "weighted median": (median, (flow, features, known)),
        "drawing": (_draw_rows, (logits, torch.rand(1, 64, generator=random))),
    }


def _draw_rows(logits: Tensor, draws: Tensor) -> Tensor:
    """Draw a token of each row of each example, (B, R) of (B, R, V)."""
    return draw_tokens(logits.flatten(0, 1), draws.flatten(), top_p=0.9).view(draws.shape)


@cache
def networks() -> dict[str, tuple[Model, Example]]:
    """Return a small network of each kind, with and without its norms, and one example for it.

    Of networks that know kinds of places, what these are for: a method, not the whole.
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
    for coded in (replace(dvae.TINY, norm="group"), replace(dvae.TINY, norm="none")):
        found[f"DVAE, norm {coded.norm}"] = dvae.DVAE(coded), (video,)
    for written in (replace(gpt.TINY, norm="rms"), replace(gpt.TINY, norm="none")):
        found[f"GPT, norm {written.norm}"] = awake(gpt.GPT(written)), (ids, places)
    told = {"hidden": torch.arange(5)[None] % 2 == 1, "ahead": torch.arange(5)[None]}
    of_kinds = gpt.GPT(replace(gpt.TINY, kinds=4))
    found["GPT, kinds"] = of_kinds.features, {"ids": ids, "places": places, **told}
    for drawn in (replace(upsampler.TINY, norm="group"), replace(upsampler.TINY, norm="none")):
        example = noise, time, video[:, 0, :, :16, :16], previous, visible
        found[f"upsampler, norm {drawn.norm}"] = awake(upsampler.Upsampler(drawn)), example
    # Many values: the few of one attribute may all be near 0, where rounding is relatively large.
    attributes = (("action", tuple("abcdefghijklmnop")), ("color", tuple("abcdefghijklmnop")))
    judging = classifier.ClassifierConfig(attributes, size=32, widths=(16, 32))
    for judged in (replace(judging, norm="group"), replace(judging, norm="none")):
        judge = classifier.Classifier(judged)
        for head in judge.heads:
            nn.init.normal_(head.weight)  # type: ignore[arg-type]
        found[f"classifier, norm {judged.norm}"] = judge, (video,)
    telling = captioner.CaptionerConfig(50, size=32, widths=(16, 32), hidden=24)
    words = torch.randint(50, (1, 9), generator=random)
    for taught in (replace(telling, norm="group"), replace(telling, pooled=8)):
        found[f"captioner, norm {taught.norm}"] = awake(captioner.Captioner(taught)), (video, words)
    sorting = captioner.Captioner(replace(telling, kinds=6))
    codes = torch.randint(7, (1, 4, sorting.side, sorting.side), generator=random)
    found["LPIPS"] = perceptual.LPIPS(), images
    found["captioner, sketch"] = sorting.sketch, (video,)
    found["captioner, by a sketch"] = sorting.look_at_sketch, (codes,)
    worn = (("hair", ("red", "blue")), ("weapon", ("bow", "spear")))
    revising = reviser.ReviserConfig(worn, widths=(16, 32), blocks=(1, 1), embedding=32)
    for revised in (replace(revising, norm="group"), replace(revising, norm="none")):
        net = hearing(awake(reviser.Reviser(revised)))
        found[f"reviser, norm {revised.norm}"] = net, (video, torch.tensor([[1, 2]]))
    return found


def thread_differences() -> float:
    """Return how many results and gradients of operators change with the number of threads."""
    before, results = torch.get_num_threads(), []
    try:
        for count in THREADS:
            torch.set_num_threads(count)
            results.append(
                [
                    *(tensor for call, _ in operators().values() for tensor in _all(call)),
                    *(call(*example) for call, example in without_gradients().values()),
                    *_matches(),
                ]
            )
    finally:
        torch.set_num_threads(before)
    first, *others = results
    return sum(
        not all(torch.equal(result[place], wanted) for result in others)
        for place, wanted in enumerate(first)
    )


def _all(operator: Callable[..., Any]) -> list[Tensor]:
    """Return what an operator makes of arguments large enough to be shared out, and gradients."""
    two = operator in (correlation, census_distance)
    channels = 3 if operator is census_distance else 32
    image, other = torch.rand(2, 3, channels, 75, 140, generator=generator(0))
    flow = 12 * torch.rand(3, 2, 75, 140, generator=generator(1)) - 6
    inputs = [image.requires_grad_(), (other if two else flow).requires_grad_()]
    result = operator(*inputs)
    weight = torch.rand(result.shape, generator=generator(2))
    return [result.detach(), *torch.autograd.grad(result, inputs, weight)]


def _matches() -> tuple[Tensor, ...]:
    """Return descriptors of two frames, and a round of matching them: of one example at a time."""
    frames = torch.rand(2, 1, 1, 75, 140, generator=generator(0))
    features1, features2 = map(matching.describe, frames)
    begin = torch.zeros(75, 140, 2, dtype=torch.int32)
    found = matching.match_round(features1, features2, begin, radius=8, round=0)
    return features1, features2, *found


# ------------------------------------------------------------------ one step, split


def step_gradient(name: str, config: LoopConfig, folder: Path, run: str) -> Tensor:
    """Return the gradient of a trainer's first step, by the loop, as one vector.

    Args:
        name: of ``TRAINERS`` or ``OTHERWISE``.
        config: of the loop; ``clip`` and the number of steps are set here.
        folder: for ``small_task``; the run is made in it.
        run: its name.
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
    """Return the gradient of a first step that is not split, for several to be compared with."""
    return step_gradient(name, small_config(), folder, f"{name}-whole")


def micro_batch_difference(name: str, folder: Path) -> float:
    """Return by how much, relatively, a step's gradient changes as it is split: the most."""
    whole = whole_gradient(name, folder)
    parts = (
        step_gradient(name, small_config(accumulate=count), folder, f"{name}-of-{count}")
        for count in PARTS
    )
    return max(relative(part, whole) for part in parts)


def process_difference(name: str, folder: Path) -> float:
    """Return by how much, relatively, a step's gradient changes over two processes (gloo).

    One has two of three micro-batches, the other one.
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
    # When one has ended, so does the other soon, or it waits for one that is dead.
    connection.wait([member.sentinel for member in members])
    for member in members:
        member.join(_PATIENCE)
        member.kill()
        member.join()
    codes = [member.exitcode for member in members]
    if any(codes):
        raise RuntimeError(f"two processes ended with {codes}")
    shared = load_tensors(folder / f"{run}.safetensors")[0]["gradient"]
    return relative(shared, whole)


def _member(rank: int, port: int, name: str, folder: Path, run: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    gradient = step_gradient(name, small_config(accumulate=3), folder, run)
    if rank == 0:
        save_tensors(folder / f"{run}.safetensors", {"gradient": gradient}, {})


def relative(one: Tensor, two: Tensor) -> float:
    """Return the norm of a difference over the norm of what it is from."""
    return float((one - two).norm() / two.norm())
