"""Describes video in words, by the transformer that generates it, and how like its training it is.

A model describes any clip, also one that shows nothing it knows. Two figures tell: how well the
discrete VAE reconstructs the clip, and how likely the transformer finds its codes, without words.
``train-video`` notes what both typically are for held-out clips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowwarp.data.crops import middle_crop
from flowwarp.data.media import TEXT, VIDEO
from flowwarp.data.tokens import to_patches
from flowwarp.metrics.video import psnr
from flowwarp.models.sampling import SamplingConfig, log_likelihood, sample
from flowwarp.pipelines.video.encode import fit_frames
from flowwarp.pipelines.video.load import VideoModel
from flowwarp.precision import fast_autocast

MOST_WINDOWS = 4  # parts of a long video that are looked at
# The likeliest word each time; the words themselves are what is asked for, so no guidance.
_GREEDY = SamplingConfig(temperature=0, guidance=1)
# Notes of a model: mean and standard deviation over held-out clips.
TYPICAL_PSNR, TYPICAL_NATS = "typical_psnr", "typical_nats"
UNLIKE = 3.0  # standard deviations from the mean, by which a clip is unlike the training clips
_LEAST_DEVIATION = {TYPICAL_PSNR: 1.0, TYPICAL_NATS: 0.1}  # few held-out clips may be much alike


@dataclass(frozen=True)
class Description:
    """What a video shows, and how like the training clips it is.

    Args:
        text: in words of the training captions.
        psnr: of the discrete VAE's reconstruction, in dB.
        nats: of the video under the transformer without words, a digit; the fewer, the likelier.
        windows: parts of the video that were looked at.
    """

    text: str
    psnr: float
    nats: float
    windows: int


@torch.no_grad()
def describe(model: VideoModel, video: Tensor) -> Description:
    """Describe a video; of a long one, up to 4 parts, by the words that fit all of them best.

    Args:
        model: the networks.
        video: (T, 3, H, W) in [0, 1], of any size; of too few frames the last is repeated.

    Raises:
        TypeError, ValueError: ``video`` is not such.
    """
    windows = _cut_windows(model, fit_frames(video, model.config.size))
    reconstructed, patches, nats = measure_clips(model, windows)
    text = describe_patches(model, patches)
    return Description(text, float(reconstructed.mean()), float(nats.mean()), len(windows))


@torch.no_grad()
def describe_patches(model: VideoModel, patches: Tensor) -> str:
    """Describe the parts of a video, (B, n, digits), by the words that fit all of them best."""
    if not model.words.words:  # a model without words
        return ""
    with fast_autocast(model.device):
        words = sample(model.gpt, [(VIDEO, patches)], TEXT, _GREEDY, torch.Generator())
        likelihoods = torch.stack(
            [
                log_likelihood(model.gpt, [(VIDEO, patches), (TEXT, row.expand(len(words), -1, 1))])
                for row in words
            ]
        )  # (descriptions, parts)
    best = int(likelihoods.sum(1).argmax())
    return model.words.decode(words[best, :, 0].tolist())


@torch.no_grad()
def measure_clips(model: VideoModel, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Encode clips, and measure how like the training clips they are.

    Args:
        model: the networks.
        clips: (B, T, 3, H, W) uint8, of the size and length that the model makes.

    Returns:
        The PSNR of reconstructions, (B,), the patches, (B, n, digits), and the nats a digit of
        each video without words, (B,).
    """
    video = torch.stack([middle_crop(clip, model.config.base) for clip in clips]).to(model.device)
    codes = model.dvae.encode(video)
    patches = to_patches(codes)
    words = torch.zeros(len(clips), model.config.text_length, 1, dtype=torch.int64)
    with fast_autocast(model.device):
        decoded = model.dvae.decode(codes)
        nats = model.gpt([(TEXT, words.to(model.device)), (VIDEO, patches)])[-1]
    return psnr(decoded.float().clamp(0, 1), video), patches, nats.flatten(1).mean(1)


def typical_notes(model: VideoModel, clips: Sequence[Tensor]) -> dict[str, str]:
    """Return the notes by which :func:`unlike_training` judges.

    Args:
        model: the networks.
        clips: held-out clips, (T, 3, H, W) uint8 each.
    """
    figures = [measure_clips(model, clip[None]) for clip in clips]
    values = {
        TYPICAL_PSNR: torch.cat([psnr for psnr, _, _ in figures]),
        TYPICAL_NATS: torch.cat([nats for _, _, nats in figures]),
    }
    return {
        name: f"{float(value.mean()):.4g} {float(value.std(correction=0)):.4g}"
        for name, value in values.items()
    }


def unlike_training(notes: Mapping[str, str], described: Description) -> str | None:
    """Say in which way a described video is unlike the training clips; None if it is like them."""
    wrong = []
    for name, value, sign, label in (
        (TYPICAL_PSNR, described.psnr, -1, "its reconstruction has {:.1f} dB, theirs {:.1f}"),
        (TYPICAL_NATS, described.nats, 1, "it has {:.2f} nats a digit, they {:.2f}"),
    ):
        try:
            mean, deviation = map(float, notes[name].split())
        except (KeyError, ValueError):  # the file of a model that was made otherwise
            continue
        bound = mean + sign * UNLIKE * max(deviation, _LEAST_DEVIATION[name])
        if math.isfinite(bound) and sign * (value - bound) > 0:
            wrong.append(label.format(value, mean))
    return ", and ".join(wrong) or None


def _cut_windows(model: VideoModel, video: Tensor) -> Tensor:
    """Return windows that spread over a video (T, 3, H, W), (B, frames, 3, H, W)."""
    frames = model.config.frames
    missing = video[-1:].expand(max(0, frames - len(video)), -1, -1, -1)
    video = torch.cat([video, missing])
    count = min(MOST_WINDOWS, -(-len(video) // frames))
    last = len(video) - frames
    starts = [round(last * number / max(1, count - 1)) for number in range(count)]
    return torch.stack([video[start : start + frames] for start in starts])
