"""Trains the transformer on clips and captions: sequences of media in several orders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowwarp.data.clip import Draw, fingerprint_of
from flowwarp.data.crops import random_crop
from flowwarp.data.media import PICTURE, TEXT, VIDEO
from flowwarp.data.tokens import PATCH, Words, to_patches
from flowwarp.models.dvae import DVAE, TIME
from flowwarp.models.gpt import GPT, MediumConfig
from flowwarp.models.sampling import text_mask
from flowwarp.train import loop, seeding
from flowwarp.train.settings import check_least, check_shares

# Orders of clips without captions: a video, or a picture that goes on. An empty text stands before
# each, so that such a model is trained and used like any other.
WITHOUT_WORDS = (f"{TEXT} {VIDEO} 0.5", f"{TEXT} {PICTURE} {VIDEO} 0.5")
_COUNTED = 64  # clips whose codes are counted


@dataclass(frozen=True)
class GPTDataConfig:
    """What an example is.

    Args:
        size: (height, width) of the frames.
        frames: of a clip.
        orders: sequences of media, and how often each is drawn; all examples of a step share one.
        caption_dropout: share of examples without words, for classifier-free guidance.
        validation: number of held-out clips to measure.
    """

    size: tuple[int, int] = (64, 64)
    frames: int = 16
    orders: tuple[str, ...] = (
        f"{TEXT} {VIDEO} 0.85",
        f"{VIDEO} {TEXT} 0.1",
        f"{TEXT} {PICTURE} {VIDEO} 0.05",
    )
    caption_dropout: float = 0.15
    validation: int = 16

    def __post_init__(self) -> None:
        check_least(self, 1, "frames", "validation")
        check_shares(self, "caption_dropout")
        for order in self.orders:
            media, share = parse_order(order)
            if not media or not 0 <= share < math.inf:
                raise ValueError(f"orders must be media and a share each, got {order!r}")
        if not any(parse_order(order)[1] for order in self.orders):
            raise ValueError("orders must have a share above 0")


@dataclass(frozen=True)
class GPTLossConfig:
    """How digits are weighted.

    Args:
        rare: a code of frequency f counts f^-rare: most of a clip is still background.
    """

    rare: float = 0.3

    def __post_init__(self) -> None:
        check_least(self, 0, "rare")


def parse_order(order: str) -> tuple[list[str], float]:
    """Return the media and the share of an order, such as ``text video 0.85``.

    Raises:
        ValueError: the last word is no number.
    """
    *media, share = order.split() or [""]
    return media, float(share)


def order_of_step(seed: int, step: int, orders: Sequence[str]) -> list[str]:
    """Return the media of a step's sequences, in their order."""
    shares = torch.tensor([parse_order(order)[1] for order in orders])
    chosen = int(torch.multinomial(shares, 1, generator=seeding.generator(seed, step, 3)))
    return parse_order(orders[chosen])[0]


@torch.no_grad()
def encode_clip(dvae: DVAE, video: Tensor) -> dict[str, Tensor]:
    """Return patches of videos and of their first frames, each shown for one time step.

    Args:
        dvae: makes the codes.
        video: (B, T, 3, H, W) in [0, 1], on any device; its codes are on the same.
    """
    made_on, video = video.device, video.to(next(dvae.parameters()).device)
    still = video[:, :1].expand(-1, TIME, -1, -1, -1)
    codes = {VIDEO: dvae.encode(video), PICTURE: dvae.encode(still)}
    return {name: to_patches(part).to(made_on) for name, part in codes.items()}


def draw_examples(
    source: Draw, dvae: DVAE, words: Words, seed: int, numbers: Iterable[int], data: GPTDataConfig
) -> dict[str, Tensor]:
    """Return examples; each is a function of seed and number.

    Returns:
        ``text`` (B, n, 1), ``video`` (B, n, digits), ``picture`` (B, n, digits), all int64, and
        ``dropped`` (B,) bool, where words in front are left out.
    """
    clips, texts, dropped = [], [], []
    for number in numbers:
        clip = source(seed, number)
        random = seeding.generator(seed, number, 1)
        clips.append(random_crop(clip.video[: data.frames], data.size, random))
        texts.append(words.encode(clip.caption))
        dropped.append(float(torch.rand((), generator=random)) < data.caption_dropout)
    return {
        TEXT: torch.tensor(texts)[..., None],
        **encode_clip(dvae, torch.stack(clips)),
        "dropped": torch.tensor(dropped),
    }


def codes_of(patches: Tensor, digits: int) -> Tensor:
    """Return the codes of patches, (B, n, PATCH^2, digits), of (B, n, PATCH^2 * digits)."""
    return patches.reshape(*patches.shape[:2], PATCH**2, digits)


def code_weights(codes: Tensor, levels: Sequence[int], rare: float) -> Tensor:
    """Return the weight of each code by how rare it is, as a table with an axis per digit.

    Args:
        codes: (N, digits) of int64, codes of some clips.
        levels: number of values of each digit.
        rare: the power of 1 / frequency; codes that do not occur count as if they did once.

    Returns:
        Of the shape ``levels``; the mean over ``codes`` is 1.
    """
    table = torch.zeros(tuple(levels))
    table.index_put_(tuple(codes.T), torch.ones(len(codes)), accumulate=True)
    weights = (table.clamp_min(1) / len(codes)) ** -rare
    mean = (weights * table).sum() / len(codes)
    return weights / mean


def gpt_losses(
    net: nn.Module, batch: Mapping[str, Tensor], order: Sequence[str], weights: Tensor
) -> dict[str, Tensor]:
    """Return the loss of each example, and nats per digit of each medium that is predicted, (B,).

    All segments but words in front are predicted.

    Args:
        net: the transformer.
        batch: as :func:`draw_examples` returns it.
        order: media of the sequence.
        weights: of each code; see :func:`code_weights`.
    """
    segments = []
    for place, name in enumerate(order):
        digits = batch[name]
        if name == TEXT and place + 1 < len(order):  # words that condition what follows
            digits = torch.where(batch["dropped"][:, None, None], 0, digits)
        segments.append((name, digits))
    terms: dict[str, Tensor] = {}
    loss = torch.zeros(len(batch["dropped"]), device=batch["dropped"].device)
    for (name, digits), nats in zip(segments, net(segments), strict=True):
        if name == TEXT and name != order[-1]:
            continue
        if name == TEXT:
            weight = text_mask(digits)
        else:
            codes = codes_of(digits, weights.dim())  # (B, n, PATCH^2, digits)
            weight = weights.to(digits.device)[tuple(codes.unbind(-1))]
            weight = weight.repeat_interleave(weights.dim(), -1)
            terms[name] = nats.detach().flatten(1).mean(1)
        term = (nats * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
        terms.setdefault(name, term.detach())
        loss = loss + term
    return {"loss": loss, **terms}


def gpt_task(
    source: Draw,
    validation: Draw,
    dvae: DVAE,
    words: Words,
    media: Sequence[MediumConfig],
    configs: Mapping[str, Any],
) -> loop.Task:
    """Return what the loop needs to train a transformer.

    Args:
        source: of clips with captions.
        validation: of held-out clips.
        dvae: makes the codes; it is not trained.
        words: the vocabulary.
        media: what the transformer reads and writes.
        configs: ``loop``, ``model`` (:class:`GPTConfig`), ``data`` and ``losses``.
    """
    training: loop.LoopConfig = configs["loop"]
    data: GPTDataConfig = configs["data"]
    torch.manual_seed(training.seed)
    net = GPT(configs["model"], media)

    def examples_of(draw: Draw, seed: int, numbers: Iterable[int]) -> dict[str, Tensor]:
        return draw_examples(draw, dvae, words, seed, numbers, data)

    counted = examples_of(source, training.seed, range(_COUNTED))[VIDEO]
    codes = codes_of(counted, len(dvae.config.levels)).flatten(0, -2)
    weights = code_weights(codes, dvae.config.levels, configs["losses"].rare)

    def batch(numbers: range) -> dict[str, Tensor]:
        return examples_of(source, training.seed, numbers)

    def loss(model: nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        order = order_of_step(training.seed, step, data.orders)
        return gpt_losses(model, examples, order, weights)

    series = seeding.held_out_series(training.seed)
    fixed = examples_of(validation, series, range(data.validation))
    fixed["dropped"] = torch.zeros_like(fixed["dropped"])

    judged = [[TEXT, VIDEO]] + ([[VIDEO, TEXT]] if words.words else [])

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        held_out = {name: part.to(device) for name, part in fixed.items()}
        figures = {}
        for order in judged:
            terms = gpt_losses(model, held_out, order, weights)
            figures[f"{order[-1]}_nats"] = float(terms[order[-1]].mean())
        return {"loss": figures[f"{VIDEO}_nats"], **figures}

    return loop.Task(
        name="gpt",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": configs["model"], "data": data, "losses": configs["losses"]},
        validate=validate,
        matrices=("blocks",),
        layers=("blocks",),
        data=fingerprint_of(source),
    )
