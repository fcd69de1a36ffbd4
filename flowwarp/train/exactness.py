"""Measures what is promised of every operator, network and trainer: minutes, and no data.

Batches: what is computed for an example depends neither on its neighbours nor on how a step is
split, into micro-batches or over processes. Runs: one that was interrupted or killed ends bit for
bit like one that was not. The trainers here are the real ones, at small sizes, on the world of
digits; every third example has nothing that its masks keep, as it happens.

``flowwarp doctor --full`` prints the figures, and the tests hold them to what is allowed.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.data.digits import compose_digits
from flowwarp.data.synthesis import synthesize_pair
from flowwarp.errors import Stopped
from flowwarp.io.checkpoints import load_tensors, save_tensors
from flowwarp.models import captioner, classifier, dvae, flownet, gpt, upsampler
from flowwarp.nn import BatchDependence, Example, measure_batch_dependence
from flowwarp.ops import matching, variational
from flowwarp.ops.census import census_distance
from flowwarp.ops.correlation import correlation
from flowwarp.ops.splatting import splat
from flowwarp.ops.warping import warp
from flowwarp.train import captioner as train_captioner
from flowwarp.train import dvae as train_dvae
from flowwarp.train import flow as train_flow
from flowwarp.train import gpt as train_gpt
from flowwarp.train import upsampler as train_upsampler
from flowwarp.train.fitted import fit_pairs
from flowwarp.train.kept import keep_clips
from flowwarp.train.loop import Batch, LoopConfig, Task, generator, train
from flowwarp.train.runs import BEST, CONFIG, LAST, METRICS, SAMPLES, open_run
from flowwarp.train.tokenized import grid_media, tokenize_clips

Model = Callable[..., Any]

TRAINERS = ("flow", "dvae", "gpt", "captioner", "upsampler")
ROUNDING = 1e-6  # relative, of float32 sums in another order
PARTS = (2, 3, 5)  # micro-batches of five examples: even and uneven
THREADS = (1, 2, 3, 7)

_NOTHING = {
    "known": 0,
    "visible": 0,
    "weights": 0,
    "asked": 0,
    "flow_12": torch.nan,
    "flow_21": torch.nan,
}
_SMALL, _LARGE = 16, 32  # px: frames of the DVAE; of the others
_FRAMES = 8
_PATIENCE = 60  # s that one of two processes may end after the other


@dataclass(frozen=True)
class Promise:
    """Something promised, and how to measure it.

    Args:
        name: what it is about.
        allowed: the largest figure that keeps it.
        text: what the figure is, with ``{}`` for it.
        measure: measures it.
    """

    name: str
    allowed: float
    text: str
    measure: Callable[[], float]


def promises(folder: Path) -> Iterator[Promise]:
    """Yield all promises; what they need on disk goes into a folder.

    Args:
        folder: empty; the caller removes it.
    """
    exact = operators().keys() | refinements().keys()
    for name in [*operators(), *refinements(), *networks()]:
        yield Promise(
            f"{name}: neighbours",
            0,
            "change an example by {}",
            lambda n=name: dependence(n).neighbours,  # type: ignore[misc]
        )
        yield Promise(
            f"{name}: batch size",
            0 if name in exact else ROUNDING,
            "changes an example by {}",
            lambda n=name: dependence(n).size,  # type: ignore[misc]
        )
    yield Promise("operators: threads", 0, "change {} results", thread_differences)
    for name in TRAINERS:
        words = "change the gradient by {}"
        part = partial(micro_batch_difference, name, folder)
        yield Promise(f"{name}: micro-batches", ROUNDING, words, part)
        part = partial(process_difference, name, folder)
        yield Promise(f"{name}: 2 processes", ROUNDING, words, part)
    for name in TRAINERS:
        for kind in RESUMED:
            part = partial(resume_differences, name, kind, folder)
            yield Promise(f"{name}: resumed, {kind}", 0, "changes {} files", part)
    yield Promise("kill -9, five times", 0, "costs or changes {} files", partial(kills, folder))


# ------------------------------------------------------------------ one example in a batch


@cache
def dependence(name: str) -> BatchDependence:
    """Return how much an example of an operator or network depends on its batch."""
    return measure_batch_dependence(*(operators() | refinements() | networks())[name])


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
def refinements() -> dict[str, tuple[Model, Example]]:
    """Return each step of a variational fit, which has no gradients, with arguments likewise."""
    random = generator(0)
    features, others = torch.rand(2, 1, 3, 75, 140, generator=random)
    start, flow, edges = torch.rand(3, 1, 2, 75, 140, generator=random)
    known = torch.rand(1, 1, 75, 140, generator=random)
    equate = partial(variational.normal_equations, zeta=1e-2, epsilon=1e-3)
    smooth = partial(variational.smoothness_weights, epsilon=1e-2)
    median = partial(variational.weighted_median, radius=3, sigma_space=2.0, sigma_colour=0.2)
    terms = features, others, start, flow, known
    return {
        "normal equations": (equate, terms),
        "smoothness weights": (smooth, (flow, edges)),
        "relaxation": (partial(variational.relax, sweeps=7), (equate(*terms), edges, flow)),
        "weighted median": (median, (flow, features, known)),
    }


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
    found["captioner, sketch"] = sorting.sketch, (video,)
    found["captioner, by a sketch"] = sorting.look_at_sketch, (codes,)
    return found


def awake(net: nn.Module) -> nn.Module:
    """Give a network whose head begins at zero one that lets the rest be seen; return it."""
    head = net.head
    assert isinstance(head, nn.Linear | nn.Conv2d)
    nn.init.normal_(head.weight, std=head.weight[0].numel() ** -0.5)
    return net


def thread_differences() -> float:
    """Return how many results and gradients of operators change with the number of threads."""
    before, results = torch.get_num_threads(), []
    try:
        for count in THREADS:
            torch.set_num_threads(count)
            results.append(
                [
                    *(tensor for call, _ in operators().values() for tensor in _all(call)),
                    *(call(*example) for call, example in refinements().values()),
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


# ------------------------------------------------------------------ small trainers


def small_config(**changes: Any) -> LoopConfig:
    """Return how the small trainers train: five steps of five examples."""
    settings: dict[str, Any] = {
        "steps": 5,
        "batch_size": 5,
        "learning_rate": 1e-3,
        "warmup": 2,
        "ema": 0.9,
        "validate_every": 3,
        "samples_every": 3,
        "log_every": 2,
        "save_every": 2,
        "threads": 1,
    }
    return LoopConfig(**settings | changes)


def small_task(name: str, config: LoopConfig, folder: Path) -> Task:
    """Return the task of a trainer, small; the same arguments, the same task.

    Args:
        name: of ``TRAINERS``.
        config: of the loop.
        folder: where codes and fitted flow are kept.
    """
    task = _TASKS[name](config, folder / "cache")
    inner = task.batch

    def batch(numbers: range) -> dict[str, Tensor]:
        examples = dict(inner(numbers))
        for row, number in enumerate(numbers):
            for key in _NOTHING.keys() & examples.keys() if number % 3 == 1 else ():
                examples[key][row] = _NOTHING[key]
        return examples

    return replace(task, batch=batch)


def _flow_task(config: LoopConfig, folder: Path) -> Task:
    coarse = torch.rand(3, 3, 30, 40, generator=generator(0))
    photos = list(F.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1))
    data = train_flow.FlowDataConfig(64, 64, 16, fitted_share=0.6)

    def draw(number: int) -> tuple[Tensor, Tensor]:
        pair = synthesize_pair(photos, 0, number, (128, 128))
        return pair.image1[None], pair.image2[None]

    fitted = fit_pairs(draw, "small", 3, (128, 128), cache=folder)
    material = train_flow.Material(None, photos, fitted)
    # All terms from the first step on.
    losses = train_flow.FlowLossConfig(occlusion_from=0, self_supervision_from=0, student_margin=16)
    configs = {"loop": config, "model": flownet.TINY, "data": data, "losses": losses}
    return train_flow.flow_task(material, configs)


def _dvae_task(config: LoopConfig, folder: Path) -> Task:
    data = train_dvae.DVAEDataConfig(_SMALL, _FRAMES, validation=2)
    losses = train_dvae.DVAELossConfig()
    configs = {"loop": config, "model": dvae.TINY, "data": data, "losses": losses}
    return train_dvae.dvae_task(partial(_digits, _SMALL), configs)


def _gpt_task(config: LoopConfig, folder: Path) -> Task:
    net = _codec()
    material = _coded(net, folder)
    data = train_gpt.GPTDataConfig(
        clips=12, checked=2, size=_LARGE, frames=_FRAMES, merges=20, text_limit=12
    )
    configs = {
        "loop": config,
        "model": gpt.GPTConfig(phrases=4096, width=32, depth=2, heads=4, hidden=48),
        "data": data,
        "losses": train_gpt.GPTLossConfig(),
    }
    task = train_gpt.gpt_task(material, configs, net)
    awake(task.model)
    return task


def _captioner_task(config: LoopConfig, folder: Path) -> Task:
    data = train_captioner.CaptionerDataConfig(
        clips=12, checked=2, length=_FRAMES, merges=20, text_limit=12
    )
    model = captioner.CaptionerConfig(1, size=_SMALL, widths=(16, 16), hidden=24, norm="none")
    configs = {"loop": config, "model": model, "data": data}
    kept, other = (
        keep_clips(partial(_digits, _SMALL, seed), str(seed), count, cache=folder)
        for seed, count in ((0, 12), (1, 2))
    )
    task = train_captioner.captioner_task(kept, {"val": other}, configs)
    awake(task.model)
    return task


def _coded(net: dvae.DVAE, folder: Path) -> train_gpt.GPTMaterial:
    media = grid_media(net, _LARGE, _FRAMES)
    training, checked = (
        tokenize_clips(partial(_digits, _LARGE, seed), net, media, str(seed), count, cache=folder)
        for seed, count in ((0, 12), (1, 2))
    )
    return train_gpt.GPTMaterial(training, {"val": checked}, media)


def _upsampler_task(config: LoopConfig, folder: Path) -> Task:
    data = train_upsampler.UpsamplerDataConfig(size=_LARGE, length=_FRAMES, frames=3)
    configs = {
        "loop": config,
        "model": replace(upsampler.TINY, widths=(16, 24)),
        "data": data,
        # Half of the examples are rolled out from the first step on.
        "condition": train_upsampler.ConditionConfig(own_share=0.5, own_from=0.0),
    }
    codec = train_upsampler.dvae_codec(_codec())
    task = train_upsampler.upsampler_task(partial(_digits, _LARGE), codec, configs)
    awake(task.model)
    return task


_TASKS: Mapping[str, Callable[[LoopConfig, Path], Task]] = {
    "flow": _flow_task,
    "dvae": _dvae_task,
    "gpt": _gpt_task,
    "captioner": _captioner_task,
    "upsampler": _upsampler_task,
}


@cache
def _digits(size: int, seed: int, index: int) -> Any:
    return compose_digits(seed, index, size, _FRAMES)


@cache
def _codec() -> dvae.DVAE:
    torch.manual_seed(0)
    return dvae.DVAE(dvae.TINY).eval()


# ------------------------------------------------------------------ one step, split


def step_gradient(name: str, config: LoopConfig, folder: Path, run: str) -> Tensor:
    """Return the gradient of a trainer's first step, by the loop, as one vector.

    Args:
        name: of ``TRAINERS``.
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


def micro_batch_difference(name: str, folder: Path) -> float:
    """Return by how much, relatively, a step's gradient changes as it is split: the most."""
    whole = step_gradient(name, small_config(), folder, f"{name}-whole")
    parts = (
        step_gradient(name, small_config(accumulate=count), folder, f"{name}-of-{count}")
        for count in PARTS
    )
    return max(relative(part, whole) for part in parts)


def process_difference(name: str, folder: Path) -> float:
    """Return by how much, relatively, a step's gradient changes over two processes (gloo).

    One has two of three micro-batches, the other one.
    """
    whole = step_gradient(name, small_config(), folder, f"{name}-alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = f"{name}-shared"
    members = [
        _processes().Process(target=_member, args=(rank, port, name, folder, run))
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


def _processes() -> Any:
    """Return how to start processes: as copies of one that has imported all this, if possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # AdamW imports it
    return context


# ------------------------------------------------------------------ runs that end early

RESUMED: Mapping[str, Mapping[str, Any]] = {
    "fp32": {"accumulate": 2, "workers": 2},
    "bf16": {"precision": "bf16", "ema": 0.0, "muon": 0.1},  # for what has matrices
}


def run_differences(one: Path, two: Path) -> list[str]:
    """Return the names of files in which two runs differ, by what is in them.

    The newest state and the weights (of which only times may differ), settings, figures, pictures.
    """
    newest = max(path.name for path in one.glob("state-*"))
    pictures = {path.name for run in (one, two) for path in (run / SAMPLES).glob("*")}
    files = (newest, BEST, LAST, CONFIG, METRICS, *(f"{SAMPLES}/{name}" for name in pictures))
    return sorted(name for name in files if _differ(one / name, two / name))


def _differ(one: Path, two: Path) -> bool:
    if not (one.exists() and two.exists()):
        return one.exists() != two.exists()
    if one.suffix != ".safetensors":
        return one.read_bytes() != two.read_bytes()
    a, b = load_tensors(one)[0], load_tensors(two)[0]
    return a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a)


def resume_differences(name: str, kind: str, folder: Path) -> float:
    """Return in how many files a run that was stopped twice differs from one that was not."""
    config = small_config(**RESUMED[kind])
    if not (small_task(name, config, folder).matrices and hasattr(torch.optim, "Muon")):
        config = replace(config, muon=0.0)
    whole, cut = folder / f"{name}-{kind}-whole", folder / f"{name}-{kind}-cut"
    with Path(os.devnull).open("w") as nowhere:
        train(small_task(name, config, folder), config, whole, stream=nowhere)
        for stop in (1, 3):
            task = _stopped(small_task(name, config, folder), stop)
            try:
                train(task, config, cut, resume="auto", stream=nowhere)
            except Stopped:
                continue
            raise RuntimeError(f"{name} was not stopped")
        train(small_task(name, config, folder), config, cut, resume="auto", stream=nowhere)
    return len(run_differences(whole, cut))


def _stopped(task: Task, last: int) -> Task:
    """Return a task that gets SIGTERM in a step."""
    sent = False

    def loss(model: nn.Module, examples: Batch, step: int) -> Mapping[str, Tensor]:
        nonlocal sent
        if step == last and not sent:  # a second one would not wait for the step to end
            sent = True
            signal.raise_signal(signal.SIGTERM)
        return task.loss(model, examples, step)

    return replace(task, loss=loss)


def kills(folder: Path, count: int = 5) -> float:
    """Kill a training at random moments; return how many states were lost and files differ.

    Raises:
        RuntimeError: one was over before it could be killed, or failed.
    """
    config = small_config(steps=30, save_every=1, validate_every=10, samples_every=10)
    configs = {"loop": config, **small_task("dvae", config, folder).configs}
    whole, killed = folder / "kill-whole", folder / "killed"
    _end(_child(whole, config, folder), 0)
    chance = random.Random(0)  # noqa: S311 - when to kill is no secret
    step = lost = 0
    for _ in range(count):
        child = _child(killed, config, folder)
        step += chance.randint(1, config.steps // (count + 1))
        while child.is_alive() and not any(n >= step for n in _saved_steps(killed)):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))  # in the midst of a step, or of a write
        child.kill()
        _end(child, -signal.SIGKILL)
        said: list[str] = []  # of states that are broken
        with open_run(killed, configs, resume="auto") as run:
            state = run.newest_state(said.append)
        step = 0 if state is None else state.step
        lost += len(said)
    _end(_child(killed, config, folder), 0)
    return lost + len(run_differences(whole, killed))


def _saved_steps(run: Path) -> list[int]:
    return [int(path.stem.removeprefix("state-")) for path in run.glob("state-*.safetensors")]


def _end(child: Any, code: int) -> None:
    child.join()
    if child.exitcode != code:
        raise RuntimeError(f"a training ended with {child.exitcode}, not {code}")


def _child(run: Path, config: LoopConfig, folder: Path) -> Any:
    child = _processes().Process(target=_train, args=(run, config, folder))
    child.start()
    return child


def _train(run: Path, config: LoopConfig, folder: Path) -> None:
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process lives
    train(small_task("dvae", config, folder), config, run, resume="auto")
