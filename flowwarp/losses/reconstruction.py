"""Errors of a reconstructed video: in colours, in gradients, in textures, and along the flow.

Every function takes the error, reconstruction minus original, except :func:`texture_loss`, which
takes both. It returns one number per example, (B,). For two images see
:mod:`flowwarp.losses.photometric`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flowwarp.losses.photometric import masked_mean
from flowwarp.ops.warping import warp


def l1_loss(error: Tensor) -> Tensor:
    """Return the mean absolute error of each example, (B,), of (B, T, C, H, W)."""
    return error.abs().mean((1, 2, 3, 4))


def rmse_loss(error: Tensor) -> Tensor:
    """Return the root of the mean squared error of each example, (B,), of (B, T, C, H, W)."""
    # The gradient of a square root at 0 is infinite; clamped, it is 0.
    return error.square().mean((1, 2, 3, 4)).clamp_min(1e-12).sqrt()


def gradient_error(error: Tensor) -> Tensor:
    """Return the mean absolute change of an error along x and y, (B,), of (B, T, C, H, W)."""
    total = error.new_zeros(len(error))
    for dim in (-1, -2):
        if error.shape[dim] > 1:
            total = total + error.diff(dim=dim).abs().mean((1, 2, 3, 4)) / 2
    return total


def coarse_error(error: Tensor, side: int) -> Tensor:
    """Return the mean absolute error of the mean colours of squares, (B,).

    Args:
        error: (B, T, C, H, W); errors that cancel within a square do not count.
        side: side of the squares in pixels, at most H and W. Incomplete squares at the right and
            bottom do not count.
    """
    return F.avg_pool2d(error.flatten(1, 2), side).abs().mean((1, 2, 3))


def texture_loss(image: Tensor, original: Tensor, weight: Tensor, side: int) -> Tensor:
    """Return the difference in strength of textures, (B,), wherever they are within a square.

    Where several results are plausible, every other loss is least for their mean, which is blurred:
    its edges are weaker than those of each. This loss compares, for each square, the mean absolute
    response to eight masks (texture energy; K. I. Laws, "Rapid Texture Identification", SPIE 1980).
    Differences of neighbours alone would be satisfied by a pattern of dots.

    Args:
        image: (B, T, C, H, W), H and W at least 3.
        original: (B, T, C, H, W).
        weight: weight of the pixels, broadcastable to (B, T, C, H, W), with the full H and W.
        side: side of the squares in pixels, at most that of the image; they overlap by half. A
            small square often misses an edge of uncertain position; a large one rarely does.
    """
    inner = weight[..., 1:-1, 1:-1]
    square = [min(side, length) for length in inner.shape[-2:]]
    total = image.new_zeros(len(image))
    for response, wanted in zip(_responses(image), _responses(original), strict=True):
        stronger = inner * (response.abs() - wanted.abs())
        found = F.avg_pool2d(stronger.flatten(1, 2), square, max(1, side // 2))
        total = total + found.abs().mean((1, 2, 3)) / 8
    return total


def _responses(video: Tensor) -> list[Tensor]:
    """Return the responses of inner pixels to Laws' 3 x 3 masks, except the one that averages."""
    return [both for one in _masks(video, -1) for both in _masks(one, -2)][1:]


def _masks(video: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return Laws' level, edge and spot along an axis, none larger than the largest input."""
    inner = video.shape[dim] - 2
    before, here, after = (video.narrow(dim, start, inner) for start in range(3))
    around = before + after
    return (2 * here + around) / 4, (after - before) / 2, (2 * here - around) / 4


def warp_loss(error: Tensor, flow: Tensor, known: Tensor) -> Tensor:
    """Return how much the error changes along the flow, (B,).

    Frame t + 1 of the reconstruction, warped back, should differ from its frame t as the originals
    do. Warping is linear in the image, so that this is the error of t + 1, warped, minus that of t.

    Args:
        error: (B, T, C, H, W), reconstruction minus original.
        flow: (B, T - 1, 2, H, W) from each frame to the next, pixels.
        known: (B, T - 1, 1, H, W) bool, where to compare.

    Returns:
        The mean absolute difference over known pixels; 0 if there are none.
    """
    batch, pairs = flow.shape[:2]
    if not pairs:
        return error.new_zeros(batch)
    warped, inside = warp(error[:, 1:].flatten(0, 1), flow.flatten(0, 1), mask=True)
    change = (warped - error[:, :-1].flatten(0, 1)).abs().mean(1, keepdim=True)
    mask = known.flatten(0, 1) & inside
    # All pairs of an example as one tall image: (B, 1, pairs * H, W).
    shape = batch, 1, -1, flow.shape[-1]
    return masked_mean(change.reshape(shape), mask.reshape(shape))
