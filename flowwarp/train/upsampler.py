"""Trains the upsampler on what a discrete VAE makes of clips.

An example is a few frames in a row. Flow is estimated between their decodes, known or not: at
generation there is nothing else. At first the frame before is the true one. Late in training it is
the network's own output, drawn frame after frame with carried noise as at generation, so that its
errors do not add up (Bengio et al., "Scheduled Sampling", NeurIPS 2015; no gradient through time).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from flowwarp.data.clip import Draw, fingerprint_of
from flowwarp.models.flownet import FlowNet
from flowwarp.models.upsampler import (
    Upsampler,
    enlarge,
    flow_matching_error,
    noisy_detail,
    sample,
)
from flowwarp.pipelines.video.decoded import (
    Decode,
    Decoded,
    Words,
    compare,
    decode_clip,
    upsample_decoded,
)
from flowwarp.pipelines.video.motion import resize_motion
from flowwarp.pipelines.video.upsample import next_noise, warp_previous
from flowwarp.train import loop, seeding
from flowwarp.train.settings import check_least, check_shares
from flowwarp.viz.sheets import video_sheet

# Odds of time 0 to any later time: sampling begins there, and the first step is the longest.
BEGUN = 0.3


@dataclass(frozen=True)
class UpsamplerDataConfig:
    """What an example is.

    Args:
        clips: how many are learned from; their decodes and flow stay in memory, 1 MB each.
        frames: of an example.
        group: frames that the discrete VAE decodes from the same codes.
        validation: held-out clips to measure.
    """

    clips: int = 512
    frames: int = 4
    group: int = 4
    validation: int = 4

    def __post_init__(self) -> None:
        check_least(self, 1, "clips", "frames", "group", "validation")


@dataclass(frozen=True)
class PreviousConfig:
    """What the network sees of the frame before.

    Args:
        dropout: share of frames without any.
        noise: largest deviation of noise on a true one, in [0, 1].
        own_from: share of training after which it is the network's own output.
        own_steps: steps in which that is drawn.
    """

    dropout: float = 0.15
    noise: float = 0.06
    own_from: float = 0.5
    own_steps: int = 2

    def __post_init__(self) -> None:
        check_shares(self, "dropout", "noise", "own_from")
        check_least(self, 1, "own_steps")


# ------------------------------------------------------------------ examples


def draw_example(
    decoded: Decoded,
    data: UpsamplerDataConfig,
    previous: PreviousConfig,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return F frames in a row of a clip, at a random place.

    Returns:
        ``video`` (F + 1, 3, H, W) uint8, the frame before and the frames; ``decode`` (F, 3, h, w)
        in [0, 1]; ``flow`` (F, 2, H, W), from each frame to the one before; ``visible``
        (F, 1, H, W) bool, False in frames that have none or are not shown it; ``noise`` and
        ``other`` (F, 3, H, W), unit Gaussian; ``time`` (F,) in [0, 1]; ``deviation`` (F,), of
        noise on true previous frames; ``words`` (W,), if there are any.
    """
    video, count = decoded.clip.video, data.frames
    first = int(torch.randint(len(video) - count + 1, (), generator=generator))
    flow, visible = (
        torch.cat([torch.zeros_like(x[:1]), x]) for x in (decoded.flow, decoded.visible)
    )
    window = slice(first, first + count)
    flow, visible = resize_motion(flow[window], visible[window], decoded.size)
    shown = torch.rand(count, generator=generator) >= previous.dropout
    noise, other = torch.randn(2, count, *video.shape[1:], generator=generator)
    words = {} if decoded.words is None else {"words": decoded.words}
    return {
        **words,
        "video": torch.cat([video[max(first - 1, 0)][None], video[window]]),
        "decode": decoded.decode[window],
        "flow": flow,
        "visible": visible & shown.view(-1, 1, 1, 1),
        "noise": noise,
        "other": other,
        "time": (torch.rand(count, generator=generator) * (1 + BEGUN) - BEGUN).clamp_min(0),
        "deviation": previous.noise * torch.rand(count, generator=generator),
    }


# ------------------------------------------------------------------ loss


def upsampler_losses(
    net: Upsampler, examples: Mapping[str, Tensor], progress: float, config: PreviousConfig
) -> dict[str, Tensor]:
    """Return ``loss``, the squared error of the velocity, its mean over frames and pixels, (B,).

    Args:
        net: the network.
        examples: as :func:`draw_example` returns them, stacked.
        progress: share of training that is done, in [0, 1].
        config: what the network sees of the frame before.
    """
    video = examples["video"].float() / 255  # (B, F + 1, 3, H, W)
    batch, count = examples["time"].shape
    size = (video.shape[-2], video.shape[-1])
    enlarged = enlarge(examples["decode"].flatten(0, 1), size)  # (B F, 3, H, W)
    words = examples.get("words")
    noise = examples["noise"]
    previous = video[:, :-1] + examples["deviation"][..., None, None, None] * examples["other"]
    if progress >= config.own_from:
        previous, noise = roll_out(
            net, examples, enlarged.view(video[:, 1:].shape), previous[:, 0], config.own_steps
        )
        # It holds weights cast to bf16 without gradients, which older torch would go on with.
        torch.clear_autocast_cache()
    warped, seen = warp_previous(
        *(x.flatten(0, 1) for x in (previous, examples["flow"], examples["visible"]))
    )
    residual = net.residual(video[:, 1:].flatten(0, 1), enlarged)
    time = examples["time"].flatten()
    noisy = noisy_detail(noise.flatten(0, 1), residual, time)
    all_words = None if words is None else words.repeat_interleave(count, 0)
    predicted = net(noisy, time, enlarged, warped, seen, all_words)
    return {"loss": flow_matching_error(predicted, residual, time).view(batch, count).mean(1)}


@torch.no_grad()
def roll_out(
    net: Upsampler, examples: Mapping[str, Tensor], enlarged: Tensor, before: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Draw frame after frame, as at generation.

    Args:
        net: the network.
        examples: as for :func:`upsampler_losses`.
        enlarged: (B, F, 3, H, W), the decodes.
        before: (B, 3, H, W) in [0, 1], the frame before the first.
        steps: of sampling.

    Returns:
        The frame before each of the F frames, and the noise of each, (B, F, 3, H, W).
    """
    fresh, other, words = examples["noise"], examples["other"], examples.get("words")
    flows, masks = examples["flow"], examples["visible"]
    previous, noises = [before], [fresh[:, 0]]
    for t in range(1, fresh.shape[1]):
        warped, seen = warp_previous(previous[-1], flows[:, t - 1], masks[:, t - 1])
        output = sample(net, noises[-1], enlarged[:, t - 1], warped, seen, words, steps=steps)
        previous.append(output)
        noises.append(next_noise(noises[-1], flows[:, t], masks[:, t], fresh[:, t], other[:, t], t))
    return torch.stack(previous, 1), torch.stack(noises, 1)


# ------------------------------------------------------------------ the run


def upsampler_task(
    source: Draw,
    decode: Decode,
    configs: Mapping[str, Any],
    validation: Draw,
    flownet: FlowNet,
    words: Words | None = None,
) -> loop.Task:
    """Return what the loop needs to train an upsampler.

    Args:
        source: of clips of the output's size.
        decode: see :data:`flowwarp.pipelines.video.decoded.Decode`.
        configs: ``loop``, ``model``, ``data`` and ``previous``.
        validation: of clips to measure by.
        flownet: estimates flow between decodes.
        words: see :data:`flowwarp.pipelines.video.decoded.Words`; None for a network without.
    """
    training: loop.LoopConfig = configs["loop"]
    data: UpsamplerDataConfig = configs["data"]
    previous: PreviousConfig = configs["previous"]
    seed, series = training.seed, seeding.held_out_series(training.seed)
    torch.manual_seed(seed)

    @lru_cache(maxsize=data.clips)
    def kept(index: int) -> Decoded:
        generator = seeding.generator(seed, index, 1)
        return decode_clip(source(seed, index), decode, flownet, data.group, words, generator)

    def batch(numbers: range) -> dict[str, Tensor]:
        return stack(
            draw_example(
                kept(seeding.shuffled(seed, number, data.clips)),
                data,
                previous,
                seeding.generator(seed, number),
            )
            for number in numbers
        )

    def loss(net: nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        assert isinstance(net, Upsampler)
        return upsampler_losses(net, examples, step / training.steps, previous)

    clips = [
        decode_clip(validation(series, index), decode, flownet, data.group, words)
        for index in range(data.validation)
    ]
    held_out = stack(
        draw_example(decoded, data, previous, seeding.generator(series, index))
        for index, decoded in enumerate(clips)
    )

    def validate(net: nn.Module) -> dict[str, float]:
        assert isinstance(net, Upsampler)
        examples = {name: tensor.to(net.head.weight.device) for name, tensor in held_out.items()}
        error = upsampler_losses(net, examples, 1.0, previous)["loss"].mean()
        return {"loss": float(error), **compare(net, clips, flownet, series)}

    def samples(net: nn.Module) -> Iterable[tuple[str, Tensor]]:
        assert isinstance(net, Upsampler)
        rows = []
        for index, decoded in enumerate(clips[:2]):
            generator = seeding.generator(series, index)
            drawn = upsample_decoded(net, decoded, generator, temporal=True)
            rows += [decoded.bicubic, drawn, decoded.original]
        yield "clips", video_sheet(rows, every=2)

    return loop.Task(
        name="upsampler",
        model=Upsampler(configs["model"]),
        batch=batch,
        loss=loss,
        configs={name: configs[name] for name in ("model", "data", "previous")},
        validate=validate,
        samples=samples,
        matrices=("down", "up", "shrink", "grow"),
        data=fingerprint_of(source),
    )


def stack(examples: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack examples, each a mapping of tensors, along a new first axis."""
    rows = list(examples)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
