"""Trains the discrete VAE: the colours of clips, and how these change from pixel to pixel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flowwarp.data.clip import Draw, fingerprint_of
from flowwarp.data.crops import detail_crop, middle_crop
from flowwarp.data.tokens import Words
from flowwarp.losses.reconstruction import gradient_error, l1_loss
from flowwarp.metrics.video import psnr
from flowwarp.models.dvae import DVAE, SIDE, TIME
from flowwarp.train import loop, seeding
from flowwarp.train.settings import check_least, check_shares
from flowwarp.viz.sheets import video_sheet

_SHOWN = 4  # clips on a sheet, the original above the reconstruction
_AT_ONCE = 4  # clips that are validated together
_BEST = 100.0  # dB; a clip without any error must not make the mean infinite


@dataclass(frozen=True)
class DVAEDataConfig:
    """What an example is.

    Args:
        size: (height, width) of the frames, multiples of a block's side.
        crop: side of the square that is cut from them, at most their sides.
        frames: number of consecutive frames, a multiple of a block's frames.
        caption_dropout: share of examples that are decoded without the words of their captions.
        validation: number of held-out clips to measure.
    """

    size: tuple[int, int] = (64, 64)
    crop: int = 32
    frames: int = 8
    caption_dropout: float = 0.15
    validation: int = 16

    def __post_init__(self) -> None:
        check_least(self, 1, "frames", "validation")
        check_least(self, SIDE, "crop")
        check_shares(self, "caption_dropout")
        if any(side % SIDE or side < SIDE for side in self.size) or (
            self.frames % TIME or self.crop % SIDE
        ):
            raise ValueError(f"{self.frames} frames of {self.size} are not whole blocks")


@dataclass(frozen=True)
class DVAELossConfig:
    """Weights of the terms beside the absolute error of colours, which has weight 1.

    Args:
        square: of the squared error, which PSNR measures.
        gradient: of the absolute error of differences between neighbouring pixels: edges.
    """

    square: float = 2.0
    gradient: float = 2.0

    def __post_init__(self) -> None:
        check_least(self, 0, "square", "gradient")


def draw_examples(
    source: Draw, words: Words, seed: int, numbers: Iterable[int], config: DVAEDataConfig
) -> dict[str, Tensor]:
    """Return examples; each is a function of seed and number.

    Returns:
        ``video`` (B, frames, 3, crop, crop) in [0, 1], and ``words`` (B, n) of int64.
    """
    videos, texts = [], []
    for number in numbers:
        clip = source(seed, number)
        random = seeding.generator(seed, number, 1)
        last = max(0, len(clip.video) - config.frames)
        first = int(torch.randint(last + 1, (), generator=random))
        part = clip.video[first : first + config.frames]
        crop = min(config.crop, config.size[0]), min(config.crop, config.size[1])
        videos.append(detail_crop(part, config.size, crop, random))
        dropped = float(torch.rand((), generator=random)) < config.caption_dropout
        texts.append(words.encode("" if dropped else clip.caption))
    return {"video": torch.stack(videos), "words": torch.tensor(texts)}


def dvae_losses(
    net: nn.Module, batch: Mapping[str, Tensor], config: DVAELossConfig
) -> dict[str, Tensor]:
    """Return the terms of a batch, each (B,), and their weighted sum as ``loss``."""
    error = net(batch["video"], batch["words"]).float() - batch["video"]
    color, gradient = l1_loss(error), gradient_error(error)
    square = error.square().mean((1, 2, 3, 4))
    loss = color + config.square * square + config.gradient * gradient
    return {"loss": loss, "color": color, "square": square, "gradient": gradient}


def dvae_task(
    source: Draw, validation: Draw, words: Words, configs: Mapping[str, Any]
) -> loop.Task:
    """Return what the loop needs to train a discrete VAE.

    Args:
        source: of clips (T, 3, H, W), T at least ``frames``.
        validation: of held-out clips.
        words: the vocabulary, which the decoder sees if its configuration has as many words.
        configs: ``loop``, ``model`` (:class:`DVAEConfig`), ``data`` and ``losses``.
    """
    training: loop.LoopConfig = configs["loop"]
    data: DVAEDataConfig = configs["data"]
    losses: DVAELossConfig = configs["losses"]
    torch.manual_seed(training.seed)
    net = DVAE(configs["model"])

    def batch(numbers: range) -> dict[str, Tensor]:
        return draw_examples(source, words, training.seed, numbers, data)

    def loss(model: nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        return dvae_losses(model, examples, losses)

    series = seeding.held_out_series(training.seed)
    clips = [validation(series, number) for number in range(data.validation)]
    videos = torch.stack([middle_crop(clip.video[: data.frames], data.size) for clip in clips])
    captions = torch.tensor([words.encode(clip.caption) for clip in clips])

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        errors, codes = [], []
        for part, texts in zip(
            torch.split(videos, _AT_ONCE), torch.split(captions, _AT_ONCE), strict=True
        ):
            assert isinstance(model, DVAE)
            original = part.to(device)
            found = model.encode(original)
            decoded = model.decode(found, texts.to(device)).clamp(0, 1)
            errors.append(psnr(decoded, original).clamp(max=_BEST))
            codes.append(found.flatten(0, -2))
        ratio = float(torch.cat(errors).mean())
        used = len(torch.unique(torch.cat(codes), dim=0))
        return {"psnr": ratio, "negative_psnr": -ratio, "codes_used": used}

    def samples(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
        device = next(model.parameters()).device
        rows = []
        for clip, text in zip(videos[:_SHOWN].to(device), captions.to(device), strict=False):
            rows += [clip, model(clip[None], text[None])[0].clamp(0, 1)]
        yield "clips", video_sheet([row.float().cpu() for row in rows], every=2)

    return loop.Task(
        name="dvae",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": configs["model"], "data": data, "losses": losses},
        validate=validate,
        metric="negative_psnr",
        samples=samples,
        matrices=("encoder", "enter", "decode_codes", "decode_frames"),
        data=fingerprint_of(source),
    )
