"""Trains the upsampler on what a discrete VAE makes of clips.

An example is a few frames in a row. Flow is estimated between their decodes, known or not: at
generation there is nothing else. At first the frame before is the true one. Late in training it is
the network's own output, drawn frame after frame with carried noise as at generation, so that its
errors do not add up (Bengio et al., "Scheduled Sampling", NeurIPS 2015; no gradient through time).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from flowwarp.data.clip import Clip, Draw, fingerprint_of
from flowwarp.metrics.temporal import fine_ratio, warping_error
from flowwarp.metrics.video import psnr
from flowwarp.models.flownet import FlowNet
from flowwarp.models.upsampler import Upsampler, UpsamplerConfig, enlarge, sample, velocity_error
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.pipelines.flow.estimate import estimate_both
from flowwarp.pipelines.video.motion import clip_flow, resize_motion
from flowwarp.pipelines.video.upsample import next_noise, upsample_clip, warp_previous
from flowwarp.train import loop, seeding
from flowwarp.train.settings import check_least, check_shares
from flowwarp.viz.sheets import video_sheet

# From a clip to its lossy decode (T, 3, h, w) in [0, 1]. It may corrupt codes at random if it is
# given a generator.
Decode = Callable[[Clip, torch.Generator | None], Tensor]
Words = Callable[[str], Tensor]  # from a caption to (W,) int64


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


@dataclass(frozen=True)
class Decoded:
    """A clip and what is known of its decode: flow to the frame before, at the decode's size."""

    clip: Clip
    decode: Tensor  # (T, 3, h, w) in [0, 1]
    flow: Tensor  # (T - 1, 2, h, w)
    visible: Tensor  # (T - 1, 1, h, w) bool

    @property
    def original(self) -> Tensor:
        """The clip's video, (T, 3, H, W) in [0, 1]."""
        return self.clip.video.float() / 255

    @property
    def bicubic(self) -> Tensor:
        """The decode, enlarged to (T, 3, H, W) in [0, 1]."""
        return enlarge(self.decode, self.size).clamp(0, 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the clip."""
        return self.clip.video.shape[-2], self.clip.video.shape[-1]


def decode_clip(
    clip: Clip, decode: Decode, flownet: FlowNet, group: int, generator: torch.Generator | None
) -> Decoded:
    """Return a clip with its decode and the flow that is estimated in it."""
    decoded = decode(clip, generator).float().clamp(0, 1)
    return Decoded(clip, decoded, *clip_flow(flownet, decoded, group))


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
        noise on true previous frames.
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
    return {
        "video": torch.cat([video[max(first - 1, 0)][None], video[window]]),
        "decode": decoded.decode[window],
        "flow": flow,
        "visible": visible & shown.view(-1, 1, 1, 1),
        "noise": noise,
        "other": other,
        "time": torch.rand(count, generator=generator),
        "deviation": previous.noise * torch.rand(count, generator=generator),
    }


# ------------------------------------------------------------------ loss


def upsampler_losses(
    net: Upsampler, examples: Mapping[str, Tensor], progress: float, config: PreviousConfig
) -> dict[str, Tensor]:
    """Return ``loss``, the squared error of the velocity, its mean over frames and pixels, (B,).

    Args:
        net: the network.
        examples: as :func:`draw_example` returns them, stacked, with ``words`` (B, W) or not.
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
    noisy = torch.lerp(noise.flatten(0, 1), residual, time.view(-1, 1, 1, 1))
    all_words = None if words is None else words.repeat_interleave(count, 0)
    predicted = net(noisy, time, enlarged, warped, seen, all_words)
    return {"loss": velocity_error(predicted, residual, time).view(batch, count).mean(1)}


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


def measure(decoded: Decoded, flow: Tensor, visible: Tensor, video: Tensor) -> dict[str, float]:
    """Return ``psnr`` in dB, ``detail`` (1 is the original's) and ``warping`` error of a video.

    Args:
        decoded: the clip.
        flow: (T - 1, 2, H, W), true or estimated in the original, to the frame before.
        visible: (T - 1, 1, H, W) bool, where it is valid.
        video: (T, 3, H, W) in [0, 1].
    """
    original = decoded.original[None]
    return {
        "psnr": float(psnr(video[None], original)),
        "detail": float(fine_ratio(video[None], original)),
        "warping": float(warping_error(video[None], flow[None], visible[None])),
    }


def true_flow(clip: Clip, flownet: FlowNet) -> tuple[Tensor, Tensor]:
    """Return ``flow_21`` and where it is valid and visible; estimated where it is not known."""
    known = clip.valid_21 & clip.visible_21
    if known.any():
        return clip.flow_21, known
    video = clip.video.float() / 255
    flow_12, flow_21 = estimate_both(flownet, video[:-1], video[1:], "fast")
    return flow_21, visible_by_consistency(flow_21, flow_12)


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
        decode: see :data:`Decode`.
        configs: ``loop``, ``model``, ``data`` and ``previous``.
        validation: of clips to measure by.
        flownet: estimates flow between decodes.
        words: see :data:`Words`; None for a network without.
    """
    training: loop.LoopConfig = configs["loop"]
    model: UpsamplerConfig = configs["model"]
    data: UpsamplerDataConfig = configs["data"]
    previous: PreviousConfig = configs["previous"]
    torch.manual_seed(training.seed)

    @lru_cache(maxsize=data.clips)
    def kept(index: int) -> Decoded:
        generator = seeding.generator(training.seed, index, 1)
        clip = source(training.seed, index)
        return decode_clip(clip, decode, flownet, data.group, generator)

    def example(decoded: Decoded, generator: torch.Generator) -> dict[str, Tensor]:
        tensors = draw_example(decoded, data, previous, generator)
        return tensors if words is None else {**tensors, "words": words(decoded.clip.caption)}

    def batch(numbers: range) -> dict[str, Tensor]:
        return stack(
            example(
                kept(seeding.shuffled(training.seed, number, data.clips)),
                seeding.generator(training.seed, number),
            )
            for number in numbers
        )

    def loss(net: nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        assert isinstance(net, Upsampler)
        return upsampler_losses(net, examples, step / training.steps, previous)

    series = seeding.held_out_series(training.seed)
    clips = [
        decode_clip(validation(series, index), decode, flownet, data.group, None)
        for index in range(data.validation)
    ]
    flows = [true_flow(decoded.clip, flownet) for decoded in clips]
    held_out = stack(
        example(decoded, seeding.generator(series, index)) for index, decoded in enumerate(clips)
    )

    def draw(net: Upsampler, index: int, *, temporal: bool) -> Tensor:
        decoded, device = clips[index], net.head.weight.device
        flow, visible = resize_motion(decoded.flow, decoded.visible, decoded.size)
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            return upsample_clip(
                net,
                decoded.decode.to(device),
                decoded.size,
                flow.to(device),
                visible.to(device),
                seeding.generator(series, index, 1),
                words=None if words is None else words(decoded.clip.caption).to(device),
                temporal=temporal,
            ).cpu()

    def validate(net: nn.Module) -> dict[str, float]:
        assert isinstance(net, Upsampler)
        device = net.head.weight.device
        examples = {name: tensor.to(device) for name, tensor in held_out.items()}
        figures = {"loss": float(upsampler_losses(net, examples, 1.0, previous)["loss"].mean())}
        for index, decoded in enumerate(clips):
            videos = {
                "bicubic": decoded.bicubic,
                "single": draw(net, index, temporal=False),
                "temporal": draw(net, index, temporal=True),
                "original": decoded.original,
            }
            for way, video in videos.items():
                for name, value in measure(decoded, *flows[index], video).items():
                    key = f"{name}_{way}"
                    figures[key] = figures.get(key, 0.0) + value / len(clips)
        return figures

    def samples(net: nn.Module) -> Iterable[tuple[str, Tensor]]:
        assert isinstance(net, Upsampler)
        rows = []
        for index, decoded in enumerate(clips[:2]):
            rows += [decoded.bicubic, draw(net, index, temporal=True), decoded.original]
        yield "clips", video_sheet(rows, every=2)

    return loop.Task(
        name="upsampler",
        model=Upsampler(model),
        batch=batch,
        loss=loss,
        configs={"model": model, "data": data, "previous": previous},
        validate=validate,
        samples=samples,
        matrices=("down", "up", "shrink", "grow"),
        data=fingerprint_of(source),
    )


def stack(examples: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack examples, each a mapping of tensors, along a new first axis."""
    rows = list(examples)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
