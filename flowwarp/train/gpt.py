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
from flowwarp.data.tokens import PATCH, Words
from flowwarp.models.dvae import DVAE
from flowwarp.models.gpt import GPT, MediumConfig
from flowwarp.models.sampling import text_mask
from flowwarp.pipelines.video.encode import encode_pictures, encode_video
from flowwarp.train import loop, seeding
from flowwarp.train.settings import check_least, check_shares

# Orders of clips without captions: a video, or a picture that goes on. An empty text stands before
# each, so that such a model is trained and used like any other.
WITHOUT_WORDS = (f"{TEXT} {VIDEO} 0.5", f"{TEXT} {PICTURE} {VIDEO} 0.5")
_COUNTED = 64  # clips whose codes are counted
_AT_ONCE = 16  # clips that are encoded together


@dataclass(frozen=True)
class GPTDataConfig:
    """What an example is.

    Args:
        size: (height, width) of the frames.
        frames: of a clip.
        orders: sequences of media, and how often each is drawn; all examples of a step share one.
        caption_dropout: share of examples without words, for classifier-free guidance.
        distinct: number of examples that are drawn anew; later ones repeat these.
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
    distinct: int = 2**14
    validation: int = 16

    def __post_init__(self) -> None:
        check_least(self, 1, "frames", "distinct", "validation")
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


class Examples:
    """Draws examples, each a function of seed and number, and keeps the first of them as tokens.

    Reading and encoding a clip costs as much as a fifth of a step. The first ``data.distinct``
    examples are new clips, or new crops of them; each later one repeats the tokens of one of these.

    Args:
        source: of clips with captions.
        dvae: makes the codes.
        words: the vocabulary.
        seed: of the series.
        data: what an example is.
    """

    def __init__(
        self, source: Draw, dvae: DVAE, words: Words, seed: int, data: GPTDataConfig
    ) -> None:
        self.source, self.dvae, self.words = source, dvae, words
        self.seed, self.data = seed, data
        self._kept: dict[int, dict[str, Tensor]] = {}

    def __call__(self, numbers: Iterable[int]) -> dict[str, Tensor]:
        """Return examples.

        Returns:
            ``text`` (B, n, 1), ``video`` (B, n, digits), ``picture`` (B, n, digits), all int64,
            and ``dropped`` (B,) bool, where words in front are left out.
        """
        drawn, dropped = [], []
        for number in numbers:
            random = seeding.generator(self.seed, number, 1)
            dropped.append(float(torch.rand((), generator=random)) < self.data.caption_dropout)
            first = number < self.data.distinct
            drawn.append(
                number if first else seeding.shuffled(self.seed, number, self.data.distinct)
            )
        self._keep(drawn)
        tokens = [self._kept[number] for number in drawn]
        batch = {name: torch.stack([each[name] for each in tokens]).long() for name in tokens[0]}
        return batch | {"dropped": torch.tensor(dropped)}

    def prepare(self) -> None:
        """Encode all that later examples repeat, so that every step takes the same time."""
        for first in range(0, self.data.distinct, _AT_ONCE):
            self._keep(range(first, min(first + _AT_ONCE, self.data.distinct)))

    def _keep(self, numbers: Iterable[int]) -> None:
        """Encode and keep the clips of these numbers that are not kept yet."""
        missing = [number for number in dict.fromkeys(numbers) if number not in self._kept]
        if not missing:
            return
        clips, texts = [], []
        for number in missing:
            clip = self.source(self.seed, number)
            random = seeding.generator(self.seed, number, 4)
            clips.append(random_crop(clip.video[: self.data.frames], self.data.size, random))
            texts.append(self.words.encode(clip.caption))
        video = torch.stack(clips)
        tokens = {
            TEXT: torch.tensor(texts)[..., None],
            VIDEO: encode_video(self.dvae, video),
            PICTURE: encode_pictures(self.dvae, video[:, 0]),
        }
        for row, number in enumerate(missing):
            # Digits, of at most 1000 values, fit in 16 bits: a quarter of the memory.
            self._kept[number] = {
                name: part[row].to(torch.int32 if name == TEXT else torch.int16)
                for name, part in tokens.items()
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
        batch: as :class:`Examples` returns it.
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
    examples: Examples,
    held_out: Examples,
    media: Sequence[MediumConfig],
    configs: Mapping[str, Any],
) -> loop.Task:
    """Return what the loop needs to train a transformer.

    Args:
        examples: to learn from.
        held_out: to measure by.
        media: what the transformer reads and writes.
        configs: ``loop``, ``model`` (:class:`GPTConfig`) and ``losses``.
    """
    training: loop.LoopConfig = configs["loop"]
    data, levels = examples.data, examples.dvae.config.levels
    torch.manual_seed(training.seed)
    net = GPT(configs["model"], media)

    codes = codes_of(examples(range(_COUNTED))[VIDEO], len(levels)).flatten(0, -2)
    weights = code_weights(codes, levels, configs["losses"].rare)

    def loss(model: nn.Module, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        order = order_of_step(training.seed, step, data.orders)
        return gpt_losses(model, batch, order, weights)

    fixed = held_out(range(data.validation))
    fixed["dropped"] = torch.zeros_like(fixed["dropped"])

    judged = [[TEXT, VIDEO]] + ([[VIDEO, TEXT]] if examples.words.words else [])

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        batch = {name: part.to(device) for name, part in fixed.items()}
        figures = {}
        for order in judged:
            terms = gpt_losses(model, batch, order, weights)
            figures[f"{order[-1]}_nats"] = float(terms[order[-1]].mean())
        return {"loss": figures[f"{VIDEO}_nats"], **figures}

    return loop.Task(
        name="gpt",
        model=net,
        batch=examples,
        loss=loss,
        configs={"model": configs["model"], "data": data, "losses": configs["losses"]},
        validate=validate,
        matrices=("blocks",),
        layers=("blocks",),
        data=fingerprint_of(examples.source),
    )
