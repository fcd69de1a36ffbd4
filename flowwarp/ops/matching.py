"""Dense matches of descriptors between two frames, by PatchMatch.

Barnes et al., "PatchMatch: A Randomized Correspondence Algorithm", SIGGRAPH 2009; coarse to fine as
in Hu et al., "Efficient Coarse-to-Fine PatchMatch for Large Displacement Optical Flow", CVPR 2016.
Those scan the image row by row, so that a good match spreads within one pass. Here each round
updates all pixels from the matches of the last round, of the neighbours at 1 and at 5 pixels. So
the result is the same bits for any number of threads.
"""

from __future__ import annotations

import ctypes
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.ops import native
from flowwarp.ops.filters import box_blur

_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-5, 0), (5, 0), (0, -5), (0, 5))  # (dx, dy)
_CELLS = (-4, -1, 1, 4)  # offsets of the descriptor's cells, in px along x and y
_CLIP = 102  # largest value of a descriptor: a fifth of its length of 512, as in SIFT
_NOISE = 0.005  # contrast below which the direction of a gradient is noise


def describe(grey: Tensor) -> Tensor:
    """Return a SIFT-like descriptor of each pixel: directions of the gradients around it.

    Gradients are projected on eight directions, blurred, and read in 4 x 4 cells within 12 pixels
    (Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", IJCV 2004; dense as in Liu
    et al., "SIFT Flow", 2011).

    Args:
        grey: (1, 1, H, W) float32 in [0, 1].

    Returns:
        (H, W, 128) uint8; all descriptors have about the same length where there is contrast.
    """
    library = native.library_for(grey)
    if library is None:
        return describe_reference(grey)
    pixels = _directions(grey.float()).permute(1, 2, 0).contiguous()
    height, width, _ = pixels.shape
    out = torch.empty(height, width, 128, dtype=torch.uint8)
    library.fw_describe(
        height,
        width,
        native.pointer(pixels),
        (ctypes.c_int * 4)(*_CELLS),
        ctypes.c_float(_NOISE),
        ctypes.c_float(_CLIP),
        native.pointer(out),
    )
    return out


def describe_reference(grey: Tensor) -> Tensor:
    """The same in plain torch; argument and result as in :func:`describe`."""
    parts = _directions(grey)  # (8, H, W)
    _, height, width = parts.shape
    y, x = (torch.arange(n, device=parts.device) for n in (height, width))
    cells = [
        parts[:, (y + dy).clamp(0, height - 1)][..., (x + dx).clamp(0, width - 1)]
        for dy in _CELLS
        for dx in _CELLS
    ]
    vector = torch.cat(cells)  # (128, H, W)
    length = (vector.square().sum(0) + 16 * _NOISE**2).sqrt()  # (H, W)
    return (vector * (512 / length)).clamp_max(_CLIP).byte().permute(1, 2, 0).contiguous()


def _directions(grey: Tensor) -> Tensor:
    """Project the gradients of (1, 1, H, W) on eight directions, blurred: (8, H, W)."""
    p = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    gx, gy = p[..., 1:-1, 2:] - p[..., 1:-1, :-2], p[..., 2:, 1:-1] - p[..., :-2, 1:-1]
    angles = torch.arange(8, device=grey.device) * (math.pi / 4)
    x, y = angles.cos().view(1, 8, 1, 1), angles.sin().view(1, 8, 1, 1)
    parts = (gx * x).addcmul_(gy, y).relu_()
    # Two boxes make a triangle of 9 px, wide enough to overlap the next cell.
    return box_blur(box_blur(parts, 2), 2)[0]


def match_round(
    features1: Tensor, features2: Tensor, matches: Tensor, *, radius: int, round: int
) -> tuple[Tensor, Tensor]:
    """Improve matches once: propagation from neighbours, then random search around the best.

    A candidate replaces the match of a pixel where its descriptor distance is less.

    Args:
        features1: (H, W, D) uint8, descriptors of frame 1.
        features2: (H, W, D) uint8, of frame 2.
        matches: (H, W, 2) int32, whole pixels (x, y) from frame 1 to frame 2, inside the frame.
        radius: of the random search in px, which is halved down to 1; 0 for no search.
        round: seed of the search.

    Returns:
        The new matches, (H, W, 2) int32, and their distances, (H, W) int32: sums of absolute
        differences of the descriptors.
    """
    height, width, length = features1.shape
    library = native.library_for(features1, features2, matches)
    if library is None:
        return match_round_reference(features1, features2, matches, radius=radius, round=round)
    features1, features2, matches = (t.contiguous() for t in (features1, features2, matches))
    out, cost = torch.empty_like(matches), matches.new_empty((height, width))
    library.fw_match_round(
        height,
        width,
        length,
        *map(native.pointer, (features1, features2, matches)),
        radius,
        round,
        native.pointer(out),
        native.pointer(cost),
    )
    return out, cost


def match_round_reference(
    features1: Tensor, features2: Tensor, matches: Tensor, *, radius: int, round: int
) -> tuple[Tensor, Tensor]:
    """The same in plain torch; arguments and result as in :func:`match_round`."""
    height, width, _ = features1.shape
    y, x = torch.meshgrid(
        *(torch.arange(n, device=matches.device) for n in (height, width)), indexing="ij"
    )
    wide = features1.short()  # uint8 cannot hold differences

    def distance(candidate: Tensor) -> Tensor:
        tx, ty = x + candidate[..., 0], y + candidate[..., 1]
        inside = (tx >= 0) & (tx < width) & (ty >= 0) & (ty < height)
        there = features2[ty.clamp(0, height - 1), tx.clamp(0, width - 1)].short()
        cost = (wide - there).abs().sum(-1, dtype=torch.int32)
        return torch.where(inside, cost, torch.iinfo(torch.int32).max)

    best, cost = matches, distance(matches)

    def attempt(candidate: Tensor, inside: Tensor) -> None:
        nonlocal best, cost
        better = distance(candidate)
        nearer = inside & (better < cost)
        best = torch.where(nearer[..., None], candidate, best)
        cost = torch.where(nearer, better, cost)

    for dx, dy in _NEIGHBOURS:  # propagation
        nx, ny = x + dx, y + dy
        inside = (nx >= 0) & (nx < width) & (ny >= 0) & (ny < height)
        attempt(matches[ny.clamp(0, height - 1), nx.clamp(0, width - 1)], inside)
    bits = _scramble(y * width + x + 0x9E3779B9 * round)
    while radius > 0:  # random search; two halves of a 32-bit hash give the steps along x and y
        bits = _scramble(bits + radius)
        step = [((half & 0xFFFF) * (2 * radius + 1) >> 16) - radius for half in (bits, bits >> 16)]
        attempt(best + torch.stack(step, dim=-1).int(), torch.ones_like(cost, dtype=torch.bool))
        radius //= 2
    return best, cost


def _scramble(value: Tensor) -> Tensor:
    """Hash 32 bits, stored in int64, by the finaliser of MurmurHash3."""
    value = value & 0xFFFFFFFF
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return value ^ (value >> 16)
