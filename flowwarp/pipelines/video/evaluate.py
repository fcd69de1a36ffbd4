"""Measures a text-to-video model by figures that need no judge.

What a sample shows is not among them: that takes a classifier trained apart. The nearest is
*self-consistency*, how often the transformer describes its own sample by the words it was asked
for. It is no accuracy: a model can be wrong both ways alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowwarp.data.clip import Clip, Draw, Source
from flowwarp.data.crops import middle_crop
from flowwarp.data.media import TEXT, VIDEO
from flowwarp.data.tokens import split_words, to_patches
from flowwarp.metrics.temporal import fine_energy, fine_ratio, warping_error
from flowwarp.metrics.video import psnr
from flowwarp.models.dvae import TIME
from flowwarp.pipelines.flow.estimate import load_flownet
from flowwarp.pipelines.video.describe import describe_patches
from flowwarp.pipelines.video.encode import encode_prompts
from flowwarp.pipelines.video.generate import Request, decode, enlarge_frames, write_codes
from flowwarp.pipelines.video.load import VideoModel
from flowwarp.pipelines.video.motion import clip_flow, resize_motion
from flowwarp.pipelines.video.nearest import find_nearest
from flowwarp.precision import fast_autocast

Figures = dict[str, float | None]

TRAINING = 1000  # clips that are searched for copies, at most


@dataclass(frozen=True)
class Sample:
    """A video of a prompt, before it is brought to its full size.

    Args:
        prompt: the caption of a held-out clip.
        described: what the transformer says it shows; empty without words.
        decode: (T, 3, h, w) in [0, 1].
    """

    prompt: str
    described: str
    decode: Tensor


def evaluate(
    model: VideoModel,
    source: Source,
    validation: Draw,
    count: int,
    *,
    seed: int = 0,
    series: int = 0,
) -> dict[str, Any]:
    """Measure a model on held-out clips, and on samples of their captions.

    The result holds floats, strings, lists and None alone, so that it can be written as JSON:

    - ``clips``: how many clips and samples.
    - ``dvae``: ``psnr`` of held-out clips in dB, and ``detail``, the amplitude of their high
      frequencies after the discrete VAE over that before.
    - ``gpt``: ``nats_per_digit`` of held-out clips by their captions, and ``nats_without_words``.
    - ``samples``: ``self_consistency``, the share of samples that the transformer describes by
      exactly the words of the prompt (None without words); ``copy_candidates``, the share that is
      nearer to a training clip than any held-out clip is; ``distance`` to the nearest training
      clip, a median, and ``distance_held_out``, the same of the held-out clips; see
      :func:`flowwarp.pipelines.video.nearest.find_nearest`.
    - ``video``: for each way to the full size (``bicubic``; with an upsampler also ``single``, each
      frame by itself, and ``temporal``), ``warping`` error and ``detail`` of samples, the latter
      over that of the held-out clips; and both of the ``original`` held-out clips.
    - ``nearest``: for each sample its ``prompt``, ``described``, the ``caption`` of the nearest
      training clip and the ``distance``.

    Args:
        model: the networks.
        source: of training clips, of the size and length that the model makes.
        validation: of held-out clips.
        count: how many of them to measure, and to sample.
        seed: of the samples, and of the series of training clips.
        series: of the held-out clips.
    """
    clips = [validation(series, index) for index in range(count)]
    samples = draw_samples(model, [clip.caption for clip in clips], seed)
    searched = min(TRAINING, source.count or TRAINING)
    training = [_as_seen(model, source(seed, index)) for index in range(searched)]
    held_out = [_as_seen(model, clip) for clip in clips]
    copies, rows = _compare_with_training(samples, held_out, training)
    consistent = [split_words(sample.prompt) == split_words(sample.described) for sample in samples]
    return {
        "clips": count,
        "dvae": measure_dvae(model, clips),
        "gpt": measure_gpt(model, clips),
        "samples": {
            "self_consistency": _mean(consistent) if model.words.words else None,
            **copies,
        },
        "video": measure_ways(model, samples, clips, seed),
        "nearest": rows,
    }


def _as_seen(model: VideoModel, clip: Clip) -> Clip:
    """Return a clip cut as in training, so that it can be compared with samples."""
    return replace(clip, video=(_at_base(model, clip)[0] * 255).round().byte().cpu())


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean of the values that are numbers; None if there is none."""
    numbers = [value for value in values if math.isfinite(value)]
    return sum(numbers) / len(numbers) if numbers else None


@torch.no_grad()
def draw_samples(model: VideoModel, prompts: Sequence[str], seed: int) -> list[Sample]:
    """Generate a video of each prompt, as long as the training clips, and describe it."""
    samples = []
    for number, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed(seed + number)
        codes = next(write_codes(model, Request(prompt), generator))
        described = describe_patches(model, to_patches(codes))
        known = model.words.decode(model.words.encode(prompt))
        samples.append(Sample(known, described, decode(model, codes, prompt)))
    return samples


# ------------------------------------------------------------------ networks by themselves


def _at_base(model: VideoModel, clip: Clip) -> Tensor:
    """Return a clip as the discrete VAE sees it, (1, T, 3, h, w) in [0, 1]."""
    return middle_crop(clip.video, model.config.base)[None].to(model.device)


@torch.no_grad()
def measure_dvae(model: VideoModel, clips: Sequence[Clip]) -> Figures:
    """Return the mean ``psnr`` in dB and ``detail`` of reconstructions."""
    figures = []
    for clip in clips:
        video = _at_base(model, clip)
        decoded = decode(model, model.dvae.encode(video), clip.caption)[None]
        figures.append((float(psnr(decoded, video)), float(fine_ratio(decoded, video))))
    quality, detail = zip(*figures, strict=True)
    return {"psnr": _mean(quality), "detail": _mean(detail)}


@torch.no_grad()
def measure_gpt(model: VideoModel, clips: Sequence[Clip]) -> Figures:
    """Return the nats of a digit of clips, with and without their captions."""
    nats: dict[str, list[float]] = {"nats_per_digit": [], "nats_without_words": []}
    for clip in clips:
        patches = to_patches(model.dvae.encode(_at_base(model, clip)))
        words = encode_prompts(model, [clip.caption])
        with fast_autocast(model.device):
            for name, given in zip(nats, (words, torch.zeros_like(words)), strict=True):
                nats[name].append(float(model.gpt([(TEXT, given), (VIDEO, patches)])[-1].mean()))
    return {name: _mean(values) for name, values in nats.items()}


# ------------------------------------------------------------------ samples


def _compare_with_training(
    samples: Sequence[Sample], clips: Sequence[Clip], training: Sequence[Clip]
) -> tuple[Figures, list[dict[str, Any]]]:
    """Return figures of copies, and a row for each sample."""
    near = find_nearest([sample.decode for sample in samples], training)
    near_held_out = find_nearest([clip.video.float() / 255 for clip in clips], training)
    distances, held_out = (
        torch.tensor([found.distance for found in each]) for each in (near, near_held_out)
    )
    rows = [
        {
            "prompt": sample.prompt,
            "described": sample.described,
            "caption": found.clip.caption,
            "distance": found.distance,
        }
        for sample, found in zip(samples, near, strict=True)
    ]
    figures: Figures = {
        "copy_candidates": float((distances < held_out.min()).float().mean()),
        "distance": float(distances.median()),
        "distance_held_out": float(held_out.median()),
    }
    return figures, rows


@torch.no_grad()
def measure_ways(
    model: VideoModel, samples: Sequence[Sample], clips: Sequence[Clip], seed: int
) -> dict[str, Figures]:
    """Return the warping error and the detail of samples by each way to their full size."""
    ways: dict[str, dict[str, Any]] = {"bicubic": {"upsample": False}}
    if model.upsampler is not None:
        ways |= {"single": {"temporal": False}, "temporal": {"temporal": True}}
    flownet = load_flownet("small", model.device)
    errors: dict[str, list[float]] = {way: [] for way in (*ways, "original")}
    energies: dict[str, list[float]] = {way: [] for way in errors}

    def note(way: str, video: Tensor, flow: Tensor, visible: Tensor) -> None:
        errors[way].append(float(warping_error(video[None], flow[None], visible[None])))
        energies[way].append(float(fine_energy(video).mean()))

    for number, (sample, clip) in enumerate(zip(samples, clips, strict=True)):
        motion = resize_motion(*clip_flow(flownet, sample.decode, TIME), model.config.size)
        for way, options in ways.items():
            noise = torch.Generator().manual_seed(seed + number)
            request = Request(sample.prompt, **options)
            frames = enlarge_frames(model, iter([sample.decode]), request, noise)
            note(way, torch.cat(list(frames)), *motion)
        original = (clip.video.float() / 255).to(model.device)
        note("original", original, *clip_flow(flownet, original, 1))
    return {
        way: {
            "warping": _mean(errors[way]),
            "detail": (sum(energies[way]) / max(sum(energies["original"]), 1e-12)) ** 0.5,
        }
        for way in errors
    }
