"""Trains the transformer on clips and captions: sequences of media in several orders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from flowwarp.data.clip import Draw, fingerprint_of
from flowwarp.data.crops import middle_crop, random_crop
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
MEDIA = (TEXT, PICTURE, VIDEO)
SEEN = "seen"  # what the network sees of the video
_COUNTED = 64  # clips whose codes are counted, and whose patches are seen in others


@dataclass(frozen=True)
class GPTDataConfig:
    """What an example is.

    Args:
        size: (height, width) of the frames.
        frames: of a clip.
        orders: sequences of media, and how often each is drawn; all examples of a step share one.
        caption_dropout: share of examples without words, for classifier-free guidance.
        swapped: mean share of the patches seen that are of another clip; see :class:`Examples`.
        mirror: whether every second example is mirrored, left and right exchanged.
    """

    size: tuple[int, int] = (64, 64)
    frames: int = 16
    orders: tuple[str, ...] = (
        f"{TEXT} {VIDEO} 0.85",
        f"{VIDEO} {TEXT} 0.1",
        f"{TEXT} {PICTURE} {VIDEO} 0.05",
    )
    caption_dropout: float = 0.15
    swapped: float = 0.1
    mirror: bool = False

    def __post_init__(self) -> None:
        check_least(self, 1, "frames")
        check_shares(self, "caption_dropout", "swapped")
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
    """Draws examples, each a function of seed and number: a new crop of a clip every time.

    A share of the patches that the network sees are those of another clip at the same place, up to
    twice ``data.swapped``, by example. What it has to predict stays as it is. So the network must
    trust the words more than what it wrote, which has errors at generation, and a clip looks
    different each time.

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

    def __call__(self, numbers: Sequence[int], media: Sequence[str] = MEDIA) -> dict[str, Tensor]:
        """Return examples.

        Args:
            numbers: of the examples.
            media: that are read; a picture takes time to encode, and few sequences have one.

        Returns:
            ``text`` (B, n, 1), ``video`` and, if it is read, ``picture`` (B, n, digits), ``seen``
            (B, n, digits), the video with patches of other clips, all int64, and ``dropped`` (B,)
            bool, where words in front are left out.
        """
        clips, texts, dropped = zip(*(self._draw(number) for number in numbers), strict=True)
        videos = torch.stack(clips)
        patches = encode_video(self.dvae, videos)
        examples = {
            TEXT: torch.tensor(texts)[..., None],
            VIDEO: patches,
            SEEN: self._with_others(patches, numbers),
            "dropped": torch.tensor(dropped),
        }
        if PICTURE in media:
            examples[PICTURE] = encode_pictures(self.dvae, videos[:, 0])
        return examples

    def _draw(self, number: int) -> tuple[Tensor, list[int], bool]:
        """Return the frames of an example, its words, and whether they are left out."""
        clip = self.source(self.seed, number)
        random = seeding.generator(self.seed, number, 4)
        video = random_crop(clip.video[: self.data.frames], self.data.size, random)
        if self.data.mirror and _share_of_draws(random, 0.5):
            video = video.flip(-1)
        random = seeding.generator(self.seed, number, 1)
        dropped = _share_of_draws(random, self.data.caption_dropout)
        return video, self.words.encode(clip.caption), dropped

    def _with_others(self, patches: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return patches of examples (B, n, digits), some of them those of other clips."""
        if not self.data.swapped:
            return patches
        places = torch.arange(patches.shape[1])
        seen = []
        for number, own in zip(numbers, patches, strict=True):
            random = seeding.generator(self.seed, number, 5)
            share = 2 * self.data.swapped * float(torch.rand((), generator=random))
            others = torch.randint(len(self.some_patches), places.shape, generator=random)
            swapped = torch.rand(places.shape, generator=random) < share
            seen.append(torch.where(swapped[:, None], self.some_patches[others, places], own))
        return torch.stack(seen)

    @cached_property
    def some_patches(self) -> Tensor:
        """Patches of the first clips of the series, (N, n, digits) of int64."""
        series = range(_COUNTED)
        videos = (self.source(self.seed, number).video[: self.data.frames] for number in series)
        return encode_video(
            self.dvae, torch.stack([middle_crop(v, self.data.size) for v in videos])
        )


def _share_of_draws(random: torch.Generator, share: float) -> bool:
    """Draw true in a share of all draws."""
    return float(torch.rand((), generator=random)) < share


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
    inputs = [(name, batch[SEEN] if name == VIDEO else digits) for name, digits in segments]
    terms: dict[str, Tensor] = {}
    loss = torch.zeros(len(batch["dropped"]), device=batch["dropped"].device)
    for (name, digits), nats in zip(segments, net(segments, inputs), strict=True):
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
    held_out: Mapping[str, Tensor],
    media: Sequence[MediumConfig],
    configs: Mapping[str, Any],
) -> loop.Task:
    """Return what the loop needs to train a transformer.

    Args:
        examples: to learn from.
        held_out: examples to measure by, with their words and as they are.
        media: what the transformer reads and writes.
        configs: ``loop``, ``model`` (:class:`GPTConfig`) and ``losses``.
    """
    training: loop.LoopConfig = configs["loop"]
    data, levels = examples.data, examples.dvae.config.levels
    torch.manual_seed(training.seed)
    net = GPT(configs["model"], media)

    codes = codes_of(examples.some_patches, len(levels)).flatten(0, -2)
    weights = code_weights(codes, levels, configs["losses"].rare)

    def loss(model: nn.Module, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        order = order_of_step(training.seed, step, data.orders)
        return gpt_losses(model, batch, order, weights)

    def batch(numbers: range) -> dict[str, Tensor]:
        step = numbers[0] // training.batch_size
        return examples(numbers, order_of_step(training.seed, step, data.orders))

    judged = [[TEXT, VIDEO]] + ([[VIDEO, TEXT]] if examples.words.words else [])

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        batch = {name: part.to(device) for name, part in held_out.items()}
        figures = {}
        for order in judged:
            terms = gpt_losses(model, batch, order, weights)
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
        data=fingerprint_of(examples.source),
    )
