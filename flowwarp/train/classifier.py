"""What the judge learns from: original clips of one actor, now and then worn as a codec wears them.

It shall read what a discrete VAE decodes as surely as originals, as far as the thing is still to be
seen. So some examples are blurred in space and time and get noise of several sizes; nothing that
anyone draws is ever shown to it. Composing a clip takes ten times as long as learning from two of
its frames, so clips are kept, and come many times: two other frames, half of the time in a mirror.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.data.clip import Draw
from flowwarp.data.sprite_world.labels import label_clip, mirror
from flowwarp.legacy.train.wear import WearConfig, wear
from flowwarp.models.classifier import Classifier, ClassifierConfig
from flowwarp.train import loop, seeding
from flowwarp.train.settings import check_least, check_shares


@dataclass(frozen=True)
class ClassifierDataConfig(WearConfig):
    """How many clips there are, and how much examples are worn.

    Args:
        clips: to learn from; once composed they are kept in memory, 200 kB each. Of 10,000 it
            remembers which is which.
        frames: in a row, of a clip, for an example: one pair of the network's, or more.
        mirrored: share of examples with left and right exchanged.
        validation: clips of another series to judge by.
    """

    clips: int = 40_000
    frames: int = 5
    mirrored: float = 0.5
    validation: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "clips", "frames", "validation")
        check_shares(self, "mirrored")


Shown = Callable[[int, int], tuple[Tensor, dict[str, str]]]  # (seed, index) to pixels and labels

_AT_ONCE = 16  # clips of a validation side by side
UNKNOWN = -100  # of an attribute that cannot be told; cross entropy passes over it


def draw_batch(
    shown: Shown,
    seed: int,
    numbers: Iterable[int],
    model: ClassifierConfig,
    config: ClassifierDataConfig,
) -> dict[str, Tensor]:
    """Return examples, each a pure function of the seed and its number.

    Args:
        shown: clips with one actor, and their labels.
        seed: which series.
        numbers: which of them.
        model: the attributes and their values.
        config: how many clips there are, and how examples are worn.

    Returns:
        ``video`` (B, F, 3, S, S) in [0, 1], and for each attribute the number of its value, (B,);
        -100 where it cannot be told.

    Raises:
        ValueError: a clip has a value that the network does not know.
    """
    videos, rows = [], []
    for number in numbers:
        pixels, labels = shown(seed, seeding.shuffled(seed, number, config.clips))
        generator = seeding.generator(seed, number)
        first = int(torch.randint(len(pixels) - config.frames + 1, (), generator=generator))
        video = pixels[first : first + config.frames].float() / 255
        if float(torch.rand((), generator=generator)) < config.mirrored:
            video, labels = mirror(video, labels)
        videos.append(wear(video, config, generator))
        rows.append(
            [
                values.index(labels[name]) if name in labels else UNKNOWN
                for name, values in model.attributes
            ]
        )
    targets = torch.tensor(rows).unbind(1)
    names = [name for name, _ in model.attributes]
    return {"video": torch.stack(videos), **dict(zip(names, targets, strict=True))}


def show(source: Draw, kept: int) -> Shown:
    """Return clips of a source with one actor and their labels, so many of them kept in memory."""

    @lru_cache(maxsize=kept)
    def shown(seed: int, index: int) -> tuple[Tensor, dict[str, str]]:
        clip = source(seed, index)
        return clip.video, label_clip(clip.attributes)

    return shown


def classifier_losses(net: Classifier, examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the cross entropy, the sum over attributes as ``loss``, and ``wrong``, (B,) each.

    ``wrong`` is the share of attributes that can be told whose likeliest value is not the right
    one.
    """
    scores = net(examples["video"])
    losses = [
        F.cross_entropy(s, examples[name], reduction="none", ignore_index=UNKNOWN)
        for name, s in scores.items()
    ]
    told = torch.stack([examples[name] != UNKNOWN for name in scores])
    wrong = torch.stack([s.argmax(1) != examples[name] for name, s in scores.items()]) & told
    return {"loss": torch.stack(losses).sum(0), "wrong": wrong.sum(0) / told.sum(0).clamp_min(1)}


def classifier_task(
    source: Draw,
    frames: int,
    configs: Mapping[str, Any],
    start: Classifier | None = None,
) -> loop.Task:
    """Return what the loop needs to train the judge.

    Args:
        source: of clips with one actor; see :func:`flowwarp.data.sprite_world.labels.one_actor`.
        frames: of a clip.
        configs: ``loop``, ``model`` and ``data``.
        start: a network to go on from; ``configs["model"]`` is its own.

    Raises:
        ValueError: examples are longer than a clip, or too short for the network.
    """
    training: loop.LoopConfig = configs["loop"]
    model: ClassifierConfig = configs["model"] if start is None else start.config
    data: ClassifierDataConfig = configs["data"]
    if not model.apart < data.frames <= frames:
        raise ValueError(f"frames must be {model.apart + 1} … {frames}, got {data.frames}")
    torch.manual_seed(training.seed)
    net = Classifier(model)
    if start is not None:
        net.load_state_dict(start.state_dict())
    shown = show(source, data.clips + data.validation)
    plain = replace(data, clips=data.validation, share=0.0, mirrored=0.0, frames=frames)
    series = seeding.held_out_series(training.seed)

    def batch(numbers: range) -> dict[str, Tensor]:
        return draw_batch(shown, training.seed, numbers, model, data)

    def loss(net: nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        assert isinstance(net, Classifier)
        return classifier_losses(net, examples)

    def validate(net: nn.Module) -> dict[str, float]:
        assert isinstance(net, Classifier)
        correct: dict[str, int] = {name: 0 for name, _ in model.attributes}
        told = dict(correct)
        for first in range(0, data.validation, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, data.validation))
            examples = draw_batch(shown, series, numbers, model, plain)
            device = next(net.parameters()).device
            for name, scores in net(examples["video"].to(device)).items():
                correct[name] += int((scores.argmax(1).cpu() == examples[name]).sum())
                told[name] += int((examples[name] != UNKNOWN).sum())
        shares = {name: right / max(told[name], 1) for name, right in correct.items()}
        return {"error": 1 - sum(shares.values()) / len(shares)} | shares

    return loop.Task(
        name="classifier",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": model, "data": data},
        validate=validate,
        metric="error",
        matrices=("see", "join"),
        trained=start is not None,
    )
