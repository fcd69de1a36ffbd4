"""Clips with their lossy decodes: upsample them, and measure what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowwarp.data.clip import Clip
from flowwarp.metrics.temporal import fine_ratio, warping_error
from flowwarp.metrics.video import psnr
from flowwarp.models.flownet import FlowNet
from flowwarp.models.upsampler import Upsampler, enlarge
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.pipelines.flow.estimate import estimate_both
from flowwarp.pipelines.video.motion import clip_flow, resize_motion
from flowwarp.pipelines.video.upsample import upsample_clip

# From a clip to its lossy decode (T, 3, h, w) in [0, 1]. It may corrupt codes at random if it is
# given a generator.
Decode = Callable[[Clip, torch.Generator | None], Tensor]
Words = Callable[[str], Tensor]  # from a caption to (W,) int64


@dataclass(frozen=True)
class Decoded:
    """A clip and what is known of its decode: flow to the frame before, at the decode's size."""

    clip: Clip
    decode: Tensor  # (T, 3, h, w) in [0, 1]
    flow: Tensor  # (T - 1, 2, h, w)
    visible: Tensor  # (T - 1, 1, h, w) bool
    words: Tensor | None = None  # (W,) int64, of the caption

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
    clip: Clip,
    decode: Decode,
    flownet: FlowNet,
    group: int,
    words: Words | None = None,
    generator: torch.Generator | None = None,
) -> Decoded:
    """Return a clip with its decode and the flow that is estimated in it."""
    decoded = decode(clip, generator).float().clamp(0, 1)
    flow, visible = clip_flow(flownet, decoded, group)
    return Decoded(clip, decoded, flow, visible, words and words(clip.caption))


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


def upsample_decoded(
    net: Upsampler, decoded: Decoded, generator: torch.Generator, *, temporal: bool
) -> Tensor:
    """Return what the network makes of a decode, (T, 3, H, W) in [0, 1] on the CPU."""
    device = net.head.weight.device
    flow, visible = resize_motion(decoded.flow, decoded.visible, decoded.size)
    return upsample_clip(
        net,
        decoded.decode.to(device),
        decoded.size,
        (flow.to(device), visible.to(device)) if temporal else None,
        generator,
        words=None if decoded.words is None else decoded.words.to(device),
    ).cpu()


def compare(
    net: Upsampler, clips: Iterable[Decoded], flownet: FlowNet, seed: int
) -> dict[str, float]:
    """Return the mean figures of :func:`measure` over clips: ``psnr_temporal`` and so on.

    Args:
        net: the network.
        clips: what to upsample: ``temporal``, each frame by itself (``single``), and to compare
            with, the ``bicubic`` decode and the ``original``.
        flownet: estimates flow in originals where it is not known.
        seed: of the noise.
    """
    rows = []
    for index, decoded in enumerate(clips):
        flow, visible = true_flow(decoded.clip, flownet)
        videos = {}
        for way in ("single", "temporal"):
            generator = torch.Generator().manual_seed(seed + index)
            videos[way] = upsample_decoded(net, decoded, generator, temporal=way == "temporal")
        videos |= {"bicubic": decoded.bicubic, "original": decoded.original}
        rows.append(
            {
                f"{name}_{way}": value
                for way, video in videos.items()
                for name, value in measure(decoded, flow, visible, video).items()
            }
        )
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
