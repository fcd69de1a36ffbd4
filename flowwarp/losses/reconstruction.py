"""How far a reconstructed video is off: in colours, from pixel to pixel, and along the flow.

Every function takes the error, reconstruction less original, but for :func:`texture_loss`, which
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


def texture_loss(image: Tensor, original: Tensor, weight: Tensor, side: int) -> Tensor:
    """Return how far textures differ in strength, (B,), wherever their parts are within a square.

    Where several things are possible, every other loss is least for their mean, which is blurred:
    its edges are weaker than those of each. Here what counts of a square is the mean absolute
    response to each of eight masks (the texture energy of K. I. Laws, "Rapid Texture
    Identification", SPIE 1980). Differences of neighbours alone would be satisfied by a pattern of
    dots.

    Args:
        image: (B, T, C, H, W), H and W at least 3.
        original: likewise.
        weight: of the pixels, broadcastable to (B, T, C, H, W) but with H and W of its own.
        side: of the squares, pixels, cut to the image; they overlap by half. Of an edge whose place
            is not known a small square has most likely nothing: in wide ones it is less often lost.
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
    """Return what Laws' masks of 3 x 3 make of the inner pixels, but that which is a mean."""
    return [both for one in _masks(video, -1) for both in _masks(one, -2)][1:]


def _masks(video: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return level, edge and spot along an axis, each at most as strong as what it is of."""
    inner = video.shape[dim] - 2
    before, here, after = (video.narrow(dim, start, inner) for start in range(3))
    around = before + after
    return (2 * here + around) / 4, (after - before) / 2, (2 * here - around) / 4


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
