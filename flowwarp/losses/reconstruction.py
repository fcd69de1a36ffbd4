"""How far a reconstructed video is off: in colours, from pixel to pixel, and along the flow.

Every function takes the error, reconstruction less original, but for :func:`detail_loss`, which
needs both; and returns one number for each example, (B,). ``gradient_loss`` is that of
:mod:`flowwarp.losses.photometric`, of two images.
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
    # No error at all has no direction, and shall have gradient zero.
    return error.square().mean((1, 2, 3, 4)).clamp_min(1e-12).sqrt()


def gradient_error(error: Tensor) -> Tensor:
    """Return the mean absolute change of an error along x and y, (B,), of (B, T, C, H, W)."""
    total = error.new_zeros(len(error))
    for dim in (-1, -2):
        if error.shape[dim] > 1:
            total = total + error.diff(dim=dim).abs().mean((1, 2, 3, 4)) / 2
    return total


def coarse_error(error: Tensor, side: int) -> Tensor:
    """Return the mean absolute error of mean colours, (B,), of (B, T, C, H, W).

    Args:
        error: reconstruction less original; errors that cancel within a square are none.
        side: of the squares, pixels, at most H and W; what is left over at the right and at the
            bottom does not count.
    """
    return F.avg_pool2d(error.flatten(1, 2), side).abs().mean((1, 2, 3))


def detail_loss(image: Tensor, original: Tensor, weight: Tensor, side: int) -> Tensor:
    """Return how far the strength of edges is off, (B,), wherever they are within a square.

    What of several things there is to be and cannot be known is by every other loss best answered
    by their mean, which is blurred: it has weaker edges than each of them.

    Args:
        image: (B, T, C, H, W).
        original: likewise.
        weight: of the pixels, broadcastable to (B, T, C, H, W) but with H and W of its own.
        side: of the squares, pixels, cut to the image; they overlap by half. Of an edge whose place
            is not known a small square has most likely nothing: in wide ones it is less often lost.
    """
    total = image.new_zeros(len(image))
    for dim in (-1, -2):
        stronger = image.diff(dim=dim).abs() - original.diff(dim=dim).abs()
        weighed = stronger * weight.narrow(dim, 0, stronger.shape[dim])
        square = [min(side, length) for length in weighed.shape[-2:]]
        found = F.avg_pool2d(weighed.flatten(1, 2), square, max(1, side // 2))
        total = total + found.abs().mean((1, 2, 3)) / 2
    return total


def warp_loss(error: Tensor, flow: Tensor, known: Tensor) -> Tensor:
    """Return how much the error changes along the flow, (B,).

    Frame t + 1 of the reconstruction, warped back, shall differ from its frame t as the originals
    do. Warping is linear in the image, so that this is the error of t + 1, warped, less that of t.

    Args:
        error: (B, T, C, H, W), reconstruction less original.
        flow: (B, T - 1, 2, H, W) from each frame to the next, pixels.
        known: (B, T - 1, 1, H, W) bool, where to compare.

    Returns:
        The mean absolute difference over known pixels; 0 where there is none.
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
