"""Does each network need its normalisation, or scales? Trains it with and without, by seeds.

python tools/bench/norms.py [--seeds 3] [--share 1.0] [--only dvae]

The small networks and rates of the presets, on the world of digits, for a short fixed number of
steps; all sides see the same examples. The third has no norms, but a factor for each branch that
is trained, as in Fixup (Zhang et al., ICLR 2019). Given are the training loss over the last fifth
of the steps, and what the trainer validates by. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowwarp.data.clip import Clip
from flowwarp.data.digits import COLORS, GROUNDS, MOTIONS, compose_digits
from flowwarp.legacy.models.captioner import CaptionerConfig
from flowwarp.legacy.models.dvae import DVAE
from flowwarp.legacy.models.upsampler import coarse, detail, enlarge
from flowwarp.legacy.pipelines.tokens import load_dvae
from flowwarp.legacy.train import captioner, dvae, gpt, upsampler
from flowwarp.legacy.train.kept import keep_clips
from flowwarp.legacy.train.tokenized import grid_media, tokenize_clips
from flowwarp.models.classifier import Classifier, ClassifierConfig
from flowwarp.train.classifier import classifier_losses
from flowwarp.train.loop import LoopConfig, Task, train

FRAMES = 8
CLIPS = 512
STEPS = {"dvae": 300, "gpt": 300, "upsampler": 200, "captioner": 300, "classifier": 300}
CODEC_STEPS = 100
SCALES = "none, scales"
NORMS = {name: ("rms" if name == "gpt" else "group", "none", SCALES) for name in STEPS}
LAST = ("second", "out", "down")  # layers that a branch of any of the networks ends in
ATTRIBUTES = {"color": tuple(COLORS), "ground": tuple(GROUNDS), "direction": tuple(MOTIONS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each side (default 3)")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps (default 1)")
    parser.add_argument("--only", choices=STEPS, help="one network")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in [arguments.only] if arguments.only else STEPS:
            steps = max(1, round(STEPS[name] * arguments.share))
            sides = figures[name] = {norm: [] for norm in NORMS[name]}
            for seed, (norm, found) in itertools.product(range(arguments.seeds), sides.items()):
                found.append(run(name, norm, seed, steps, Path(folder)))
                minutes = (time.monotonic() - started) / 60
                print(f"{minutes:5.1f} min  {name} {norm} {seed}: {found[-1]}", flush=True)
    print("\n| network | norm | training loss | seeds | held out | to the norm |")
    print("|---|---|---|---|---|---|")
    for name, sides in figures.items():
        first = mean(next(iter(sides.values())), "loss")
        for norm, found in sides.items():
            losses = ", ".join(f"{figure['loss']:.4g}" for figure in found)
            share = f"{100 * (mean(found, 'loss') / first - 1):+.1f} %"
            row = [name, norm, f"{mean(found, 'loss'):.4g}", losses]
            print("|", " | ".join([*row, f"{mean(found, 'held_out'):.4g}", share]), "|")
    print(json.dumps({"torch": torch.__version__, "figures": figures}))


def mean(found: list[dict[str, float]], name: str) -> float:
    return statistics.mean(figure[name] for figure in found)


def run(name: str, norm: str, seed: int, steps: int, folder: Path) -> dict[str, float]:
    """Train a network; return its final loss and its validation metric."""
    configs = PRESETS[name]()
    configs["loop"] = replace(
        configs["loop"],
        steps=steps,
        seed=seed,
        warmup=steps // 10,
        threads=1,
        log_every=1,
        validate_every=0,
        save_every=steps,
    )
    configs["model"] = replace(configs["model"], norm="none" if norm == SCALES else norm)
    task = replace(TASKS[name](configs, folder), samples=None)
    if norm == SCALES:
        add_scales(task.model)
    place = folder / f"{name}-{norm}-{seed}"
    result = train(task, configs["loop"], place)
    lines = map(json.loads, (place / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    end = statistics.mean(losses[-max(1, steps // 5) :])
    return {"loss": end, "held_out": result.figures[task.metric]}


class Scale(nn.Module):
    """A learned factor of a matrix, 1 at initialisation."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, weight: Tensor) -> Tensor:
        return self.factor * weight


def add_scales(net: nn.Module) -> None:
    """Give each branch of a network a learned factor."""
    for name, layer in list(net.named_modules()):
        if name.rpartition(".")[2] in LAST and isinstance(layer, nn.Linear | nn.Conv2d):
            parametrize.register_parametrization(layer, "weight", Scale())


@cache
def compose(size: int, seed: int, index: int) -> Clip:
    return compose_digits(seed, index, size, FRAMES)


def clip(size: int, seed: int, index: int) -> Clip:
    """Draw a clip; there are some hundred of them, as composing takes longer than a step."""
    return compose(size, seed, index % CLIPS)


@cache
def codec(folder: Path) -> DVAE:
    """Return a DVAE trained for a short while."""
    configs = dvae_preset()
    configs["loop"] = replace(configs["loop"], steps=CODEC_STEPS, threads=1)
    result = train(dvae_task(configs, folder), configs["loop"], folder / "codec")
    return load_dvae(result.weights)


def dvae_task(configs: dict[str, Any], folder: Path) -> Task:
    return dvae.dvae_task(partial(clip, 32), configs)


def gpt_task(configs: dict[str, Any], folder: Path) -> Task:
    net = codec(folder)
    media = grid_media(net, 32, FRAMES)
    stores = [
        tokenize_clips(partial(clip, 32, seed), net, media, str(seed), count, cache=folder)
        for seed, count in ((0, configs["data"].clips), (1, configs["data"].checked))
    ]
    material = gpt.GPTMaterial(stores[0], {"val": stores[1]}, media)
    return gpt.gpt_task(material, configs)


def upsampler_task(configs: dict[str, Any], folder: Path) -> Task:
    coder = upsampler.dvae_codec(codec(folder))
    # The target should have unit variance; three quarters of white noise are detail.
    videos = [clip(32, 9, index).video for index in range(8)]
    off = torch.cat([video / 255 - enlarge(upsampler.lossy(video, coder)) for video in videos])
    units = {"residual": coarse(off).std(), "detail": detail(off).std() / 0.75**0.5}
    units = {name: round(float(unit), 3) for name, unit in units.items()}
    configs["model"] = replace(configs["model"], **units)
    task = upsampler.upsampler_task(partial(clip, 32), coder, configs)
    examples = task.batch(range(10**9, 10**9 + 32))  # training does not get there

    def validate(model: nn.Module) -> dict[str, float]:
        return {"loss": float(task.loss(model, examples, configs["loop"].steps)["loss"].mean())}

    return replace(task, validate=validate)


def captioner_task(configs: dict[str, Any], folder: Path) -> Task:
    kept = [
        keep_clips(partial(clip, 32, seed), str(seed), count, cache=folder)
        for seed, count in ((0, configs["data"].clips), (1, 64))
    ]
    return captioner.captioner_task(kept[0], {"val": kept[1]}, configs)


def classifier_task(configs: dict[str, Any], folder: Path) -> Task:
    torch.manual_seed(configs["loop"].seed)
    per_step = configs["loop"].batch_size

    def batch(numbers: range, seed: int = 0) -> dict[str, Tensor]:
        clips = [clip(32, seed, number) for number in numbers]
        seen = [item.attributes | item.attributes["actors"][0] for item in clips]
        labels = {
            name: torch.tensor([values.index(about[name]) for about in seen])
            for name, values in ATTRIBUTES.items()
        }
        return {"video": torch.stack([item.video for item in clips]) / 255} | labels

    examples = batch(range(2 * per_step), seed=1)

    def loss(net: nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        assert isinstance(net, Classifier)
        return classifier_losses(net, examples)

    def validate(net: nn.Module) -> dict[str, float]:
        return {"nats": float(loss(net, examples, 0)["loss"].mean())}

    return Task(
        name="classifier",
        model=Classifier(configs["model"]),
        batch=batch,
        loss=loss,
        configs={"model": configs["model"]},
        validate=validate,
        metric="nats",
    )


def dvae_preset() -> dict[str, Any]:
    return dvae.presets("tiny") | {"data": dvae.DVAEDataConfig(32, FRAMES, validation=8)}


def gpt_preset() -> dict[str, Any]:
    data = gpt.GPTDataConfig(clips=CLIPS, checked=16, size=32, frames=FRAMES, merges=64)
    return gpt.presets("tiny") | {"data": data}


def upsampler_preset() -> dict[str, Any]:
    data = upsampler.UpsamplerDataConfig(size=32, length=FRAMES, frames=4)
    return upsampler.presets("tiny") | {"data": data}


def captioner_preset() -> dict[str, Any]:
    model = CaptionerConfig(1, size=32, widths=(16, 32), hidden=48)
    data = captioner.CaptionerDataConfig(clips=CLIPS, length=FRAMES, merges=64, text_limit=32)
    return captioner.presets("tiny") | {"data": data, "model": model}


def classifier_preset() -> dict[str, Any]:
    model = ClassifierConfig(tuple(ATTRIBUTES.items()), size=32, widths=(16, 32))
    training = LoopConfig(batch_size=16, learning_rate=2e-3, weight_decay=0.02, beta2=0.98)
    return {"loop": training, "model": model}


PRESETS: dict[str, Callable[[], dict[str, Any]]] = {
    "dvae": dvae_preset,
    "gpt": gpt_preset,
    "upsampler": upsampler_preset,
    "captioner": captioner_preset,
    "classifier": classifier_preset,
}
TASKS: dict[str, Callable[[dict[str, Any], Path], Task]] = {
    "dvae": dvae_task,
    "gpt": gpt_task,
    "upsampler": upsampler_task,
    "captioner": captioner_task,
    "classifier": classifier_task,
}


if __name__ == "__main__":
    main()
