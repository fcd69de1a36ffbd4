"""Gaussian noise that moves with the picture and stays white.

A diffusion model that starts each frame from new noise invents new detail for each frame; from the
same noise, detail sticks to the screen. Noise that is carried along the flow moves with what it is
drawn on, but must not be interpolated: a mean of neighbours has less variance and is correlated.
Chang et al. ("How I Warped Your Noise", ICLR 2024) integrate over the warped pixel; Burgert et al.
("Go-with-the-Flow", CVPR 2025) do it on the grid, by splitting where the picture expands and adding
up where it contracts. Here is such a discrete scheme, for backward flow:

* each pixel reads the source pixel that its flow points to. Of d pixels that read the same source,
  each gets an independent unit Gaussian, drawn such that their sum is sqrt(d) times the source;
* a source that nobody reads, since the picture contracts, is added to the pixel it moves to, and
  the sum of k is divided by sqrt(k);
* a pixel that nothing leads to (disoccluded, from outside) gets fresh noise.

No source is used twice, so for any flow that does not depend on the noise the result is exactly
unit Gaussian and white: as a linear map of noise and fresh noise it has orthonormal rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowwarp.ops.splatting import splat
from flowwarp.tensors import check_flow, check_image, check_mask, check_same_grid

_GOLDEN = (math.sqrt(5) - 1) / 2


def carry_noise(
    noise: Tensor,
    flow: Tensor,
    fresh: Tensor,
    *,
    visible: Tensor | None = None,
    dither: float = 0.5,
) -> Tensor:
    """Carry white noise along a flow field, exactly white again.

    Positions are whole pixels: ``floor(x + flow + dither)``. A dither that differs from frame to
    frame (:func:`dither`) makes noise follow slow motion on average, where rounding would leave it
    behind. A motion by whole pixels carries noise bit for bit.

    Args:
        noise: (B, C, H, W), white and of unit variance; the noise of the previous frame.
        flow: (B, 2, H, W) in pixels, from this frame to the previous one.
        fresh: like ``noise``, its dtype included, and independent of it.
        visible: (B, 1, H, W) bool, which pixels of this frame the previous one shows; others, and
            those whose flow is not finite or leads outside, get fresh noise.
        dither: in [0, 1), the same for all pixels; 0.5 rounds to the nearest.

    Returns:
        (B, C, H, W), noise for this frame. One example depends on nothing of another.

    Raises:
        TypeError: an argument is not a tensor, or not floating point where it must be.
        ValueError: shapes, dtypes or devices do not fit.
    """
    check_image(noise, "noise")
    check_image(fresh, "fresh")
    check_flow(flow, like=noise)
    check_same_grid(fresh, "fresh", noise)
    if fresh.shape != noise.shape or fresh.dtype != noise.dtype:
        raise ValueError(
            f"fresh must be {tuple(noise.shape)} {noise.dtype} as noise is, "
            f"got {tuple(fresh.shape)} {fresh.dtype}"
        )
    batch, channels, height, width = noise.shape
    size = height * width
    moves = torch.isfinite(flow).all(1, keepdim=True)
    if visible is not None:
        check_mask(visible, "visible", noise)
        moves = moves & visible.bool()
    source, inside = _target(flow, moves, dither)  # (B, H * W), of each pixel
    reads = moves.flatten(1) & inside
    old, new = noise.flatten(2), fresh.flatten(2)  # (B, C, H * W)

    # Split: z - mean(z) + n / sqrt(d) are d independent unit Gaussians whose sum is sqrt(d) n.
    # Pixels that read nothing are counted in a place of their own, after the last.
    place = torch.where(reads, source, size)
    spread = place[:, None].expand(-1, channels, -1)
    readers = torch.zeros(batch, size + 1, dtype=old.dtype, device=old.device)
    readers.scatter_add_(1, place, torch.ones_like(place, dtype=old.dtype))
    total = torch.zeros(batch, channels, size + 1, dtype=old.dtype, device=old.device)
    total.scatter_add_(2, spread, new)
    share = readers.gather(1, place)[:, None]  # (B, 1, H * W)
    source_noise = old.gather(2, spread.clamp_max(size - 1))
    split = source_noise / share.sqrt() + torch.where(
        share > 1, new - total.gather(2, spread) / share, 0
    )
    carried = torch.where(reads[:, None], split, new)

    # Add up: sources without a reader go where their surroundings moved.
    forward, covered = _forward(flow, moves)
    target, inside = _target(forward, covered, 0.5)
    joins = covered.flatten(1) & inside & (readers[:, :size] == 0)
    joins &= reads.gather(1, torch.where(inside, target, 0))
    place = torch.where(joins, target, size)
    joined = torch.zeros_like(total)
    joined.scatter_add_(2, place[:, None].expand(-1, channels, -1), old)
    count = torch.ones_like(readers)
    count.scatter_add_(1, place, torch.ones_like(place, dtype=old.dtype))
    carried = (carried + joined[..., :size]) / count[:, None, :size].sqrt()
    return carried.view_as(noise)


def dither(number: int) -> float:
    """Return the dither of a frame: 1/2 plus multiples of the golden ratio, in [0, 1).

    Such points fill the interval as evenly as any sequence does, so that noise carried through
    dozens of frames of a steady motion is half a pixel from its place on average, 1.8 px at most.

    Args:
        number: of the frame, from 0.
    """
    return math.modf(0.5 + number * _GOLDEN)[0]


def mix_noise(noise: Tensor, fresh: Tensor, share: float) -> Tensor:
    """Mix noise with independent fresh noise so that the variance stays 1.

    Carried noise alone keeps every invention for as long as its pixel is seen; a little fresh noise
    lets detail change slowly (the degradation of Go-with-the-Flow, section 3.4).

    Args:
        noise: any shape, unit variance.
        fresh: the same shape, independent.
        share: of the fresh noise, as an amplitude in [0, 1]: 0 returns ``noise``, 1 ``fresh``.

    Raises:
        ValueError: ``share`` is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
    if share == 0:
        return noise
    return math.sqrt(1 - share**2) * noise + share * fresh


def _target(flow: Tensor, known: Tensor, dither: float) -> tuple[Tensor, Tensor]:
    """Return the index of the pixel each flow vector points to, (B, H * W), and if it is one."""
    height, width = flow.shape[-2:]
    # Beyond a frame's size it is outside anyway, and integers do not overflow.
    limit = float(2 * max(height, width))
    flow = torch.where(known, flow, 0).clamp(-limit, limit)
    x = torch.arange(width, device=flow.device) + (flow[:, 0] + dither).floor().long()
    y = torch.arange(height, device=flow.device)[:, None] + (flow[:, 1] + dither).floor().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = torch.where(inside, y * width + x, 0)
    return index.flatten(1), inside.flatten(1)


def _forward(flow: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Return roughly where pixels of the previous frame go, and where that is known."""
    ones = moves.to(flow.dtype)
    landed = splat(torch.cat([torch.where(moves, -flow, 0), ones], 1), flow, "sum")
    covered = landed[:, 2:] > 0
    return torch.where(covered, landed[:, :2] / torch.where(covered, landed[:, 2:], 1), 0), covered
