"""Upsampling of decoded video, frame by frame, each conditioned on the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from flowwarp.models.upsampler import Upsampler, enlarge, sample
from flowwarp.ops.noise import carry_noise, dither, mix_noise
from flowwarp.ops.warping import warp
from flowwarp.precision import fast_autocast
from flowwarp.tensors import check_image

REFRESH = 0.3  # amplitude of fresh noise in carried noise: a tenth of it is new in each frame

# A decoded frame (B, 3, h, w); the flow (B, 2, H, W) from it to the frame before, in pixels of the
# output, and `visible` (B, 1, H, W); None where there is no frame before.
Frame = tuple[Tensor, Tensor | None, Tensor | None]


@torch.no_grad()
def upsample_frames(
    net: Upsampler,
    frames: Iterable[Frame],
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    steps: int = 4,
    words: Tensor | None = None,
) -> Iterator[Tensor]:
    """Upsample video as it comes; the memory needed does not grow with its length.

    Args:
        net: the network.
        frames: see :data:`Frame`.
        size: (H, W) of the output.
        generator: of the noise, on the CPU.
        steps: as for :func:`flowwarp.models.upsampler.sample`.
        words: (B, W) int64, as for :class:`Upsampler`.

    Yields:
        (B, 3, H, W) float32 in [0, 1].

    Raises:
        ValueError: shapes do not fit.
    """
    noise: Tensor | None = None
    output: Tensor | None = None
    for number, (decode, flow, visible) in enumerate(frames):
        check_image(decode, "decode")
        enlarged = enlarge(decode, size)
        fresh = _noise_like(enlarged, generator)
        previous = seen = None
        if flow is None or noise is None or output is None:
            noise = fresh
        else:
            other = _noise_like(enlarged, generator)
            noise = next_noise(noise, flow, visible, fresh, other, number)
            previous, seen = warp_previous(output, flow, visible)
        with fast_autocast(enlarged.device):
            output = sample(net, noise, enlarged, previous, seen, words, steps=steps)
        yield output


def upsample_clip(
    net: Upsampler,
    decode: Tensor,
    size: tuple[int, int],
    motion: tuple[Tensor, Tensor] | None,
    generator: torch.Generator,
    *,
    steps: int = 4,
    words: Tensor | None = None,
) -> Tensor:
    """Upsample a clip; see :func:`upsample_frames`.

    Args:
        net: the network.
        decode: (T, 3, h, w) in [0, 1].
        size: (H, W) of the output.
        motion: the flow (T - 1, 2, H, W) from each frame but the first to the one before, in
            pixels of the output, and ``visible`` (T - 1, 1, H, W), where that one shows the same;
            see :func:`flowwarp.pipelines.video.motion.resize_motion`. None draws each frame by
            itself.
        generator: of the noise, on the CPU.
        steps: as for :func:`flowwarp.models.upsampler.sample`.
        words: (W,) int64, of the caption.

    Returns:
        (T, 3, H, W) float32 in [0, 1].

    Raises:
        ValueError: there is no frame, or shapes do not fit.
    """
    check_image(decode, "decode")
    if not len(decode):
        raise ValueError("decode must have at least 1 frame, got 0")
    flows: list[Tensor | None] = [None] * len(decode)
    masks = list(flows)
    if motion is not None:
        for name, tensor in zip(("flow", "visible"), motion, strict=True):
            if len(tensor) != len(decode) - 1:
                raise ValueError(f"{name} must have {len(decode) - 1} frames, got {len(tensor)}")
        flows[1:], masks[1:] = (torch.split(part, 1) for part in motion)
    frames = zip(torch.split(decode, 1), flows, masks, strict=True)
    batch = None if words is None else words[None]
    return torch.cat(list(upsample_frames(net, frames, size, generator, steps=steps, words=batch)))


def warp_previous(previous: Tensor, flow: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    """Warp the frame before to this one.

    Args:
        previous: (B, 3, H, W) in [0, 1].
        flow: (B, 2, H, W), from this frame to that.
        visible: (B, 1, H, W) bool, where that shows the same; None: everywhere.

    Returns:
        The warped frame, and ``visible`` where flow is finite and leads inside the frame.
    """
    # Bilinear reading blurs a little; done for each frame, nothing sharp would be left.
    warped, inside = warp(previous, flow, mode="bicubic", mask=True)
    return warped, inside if visible is None else inside & visible.bool()


def next_noise(
    noise: Tensor,
    flow: Tensor,
    visible: Tensor | None,
    fresh: Tensor,
    other: Tensor,
    number: int,
) -> Tensor:
    """Carry the noise of the frame before to frame ``number``, and mix a little fresh noise in.

    Args:
        noise: (B, 3, H, W), of the frame before.
        flow: (B, 2, H, W), from this frame to that.
        visible: (B, 1, H, W) bool; None: everywhere.
        fresh: like ``noise``, for pixels that were not visible.
        other: like ``noise``, to mix in.
        number: of the frame in its clip, from 0.
    """
    carried = carry_noise(noise, flow, fresh, visible=visible, dither=dither(number))
    return mix_noise(carried, other, REFRESH)


def _noise_like(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return unit Gaussian noise of an image's shape; drawn on the CPU, alike for any device."""
    return torch.randn(image.shape, generator=generator, dtype=torch.float32).to(image.device)
