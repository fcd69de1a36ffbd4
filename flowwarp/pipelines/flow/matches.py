"""Large motion: flow from matched descriptors, and the choice between several flows.

A variational fit can follow motion of a few pixels at each pyramid level. Larger motion comes from
matched descriptors, which compete with other flows at each pixel (Brox and Malik, "Large
Displacement Optical Flow", PAMI 2011). PatchMatch finds the matches, coarse to fine
(:mod:`flowwarp.ops.matching`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.ops.census import GREY_WEIGHTS, census_distance
from flowwarp.ops.fields import resize_flow
from flowwarp.ops.filters import box_blur, resize
from flowwarp.ops.matching import describe, match_round
from flowwarp.ops.variational import weighted_median
from flowwarp.ops.warping import warp
from flowwarp.tensors import check_pixels, check_range

ROUNDS = 4  # of PatchMatch at each level
MATCH_MIN_SIDE = 24  # px; smallest side of a level: one and a half times the width of a descriptor
_MAX_LEVELS = 10
_COARSEST_ROUNDS = 8  # more than at finer levels, since the search begins with zero motion
_RADIUS = 16  # px of random search around the match of the next coarser level
# Standard deviations of the median's weights: distance in px, and difference in colour, of values
# in [0, 1].
_SIGMA_SPACE, _SIGMA_COLOUR = 7.0, 0.06
_OUTSIDE_COST = 0.5  # census distance of a target outside the image, as much as a poor match


@torch.no_grad()
def match_flow(image1: Tensor, image2: Tensor, *, full: bool = True) -> tuple[Tensor, Tensor]:
    """Estimate flow in both directions by matching descriptors, to about a pixel.

    Matches are kept where the forward and the backward match agree within a pixel. The other pixels
    get a median of the matches around, weighted by distance and colour.

    Args:
        image1: (B, C, H, W) in [0, 1], C = 1 or 3 (RGB).
        image2: the other image, of the same shape and device.
        full: whether to match at full resolution; else at half of it, in a quarter of the time.

    Returns:
        ``flow_12`` and ``flow_21``, (B, 2, H, W) float32, pixels.

    Raises:
        TypeError: an image is not a floating-point tensor.
        ValueError: shapes or devices do not fit, or an image is in 0 … 255 or contains NaN.
    """
    check_pair(image1, image2)
    image1, image2 = image1.float(), image2.float()
    empty = image1.new_empty((0, 2, *image1.shape[-2:]))
    pairs = [(empty, empty)]
    for k in range(len(image1)):
        image1_k, image2_k = image1[k : k + 1], image2[k : k + 1]
        forward, backward = find_matches(image1_k, image2_k, ROUNDS if full else 0)
        flow_12 = fill_in(image1_k, forward, backward)
        flow_21 = fill_in(image2_k, backward, forward)
        pairs.append((flow_12, flow_21))
    flow_12, flow_21 = (torch.cat(flows) for flows in zip(*pairs, strict=True))
    return flow_12, flow_21


def fuse(image1: Tensor, image2: Tensor, flows: list[Tensor]) -> Tensor:
    """Choose at each pixel the flow of least matching cost, then smooth the seams.

    The cost is the census distance to the warped image 2, averaged over 7 x 7 pixels. A target
    outside the image costs 0.5, as much as a poor match.

    Args:
        image1: (B, C, H, W) in [0, 1], C = 1 or 3.
        image2: the other image, of the same shape.
        flows: one or more (B, 2, H, W), pixels; the first wins where costs are equal.

    Returns:
        (B, 2, H, W), pixels.
    """
    best, least = flows[0], None
    for flow in flows:
        warped, inside = warp(image2, flow, mask=True)
        cost = torch.where(inside, census_distance(image1, warped), _OUTSIDE_COST)  # (B, 1, H, W)
        # A single pixel decides by chance; its surroundings move with it, except at edges.
        cost = box_blur(cost, 3)
        if least is None:
            least = cost
        best = torch.where(cost < least, flow, best)
        least = torch.minimum(cost, least)
    everywhere = torch.ones_like(best[:, :1])
    return weighted_median(
        best,
        image1,
        everywhere,
        radius=3,
        sigma_space=_SIGMA_SPACE,
        sigma_colour=_SIGMA_COLOUR,
    )


# ------------------------------------------------------------------ matching


def find_matches(image1: Tensor, image2: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Match one pair in both directions.

    Args:
        image1: (1, C, H, W) in [0, 1].
        image2: the other image.
        rounds: number of PatchMatch rounds at full resolution; 0 to end at half of it.

    Returns:
        Forward and backward matches, (1, 2, h, w) in whole pixels of the finest level, h = H or
        about H / 2.
    """
    sizes = pyramid_sizes(image1, 0.5, MATCH_MIN_SIDE, _MAX_LEVELS)
    if not rounds:
        sizes, rounds = sizes[:-1] or sizes, ROUNDS
    features1, features2 = (
        [describe(resize_to(to_grey(image), size)) for size in sizes] for image in (image1, image2)
    )
    return _search(features1, features2, rounds), _search(features2, features1, rounds)


def _search(features1: list[Tensor], features2: list[Tensor], last: int) -> Tensor:
    """Match descriptors from the coarsest level to the finest.

    Args:
        features1: descriptors of frame 1, (h, w, 128) uint8 for each level, coarsest first.
        features2: descriptors of frame 2.
        last: rounds at the finest level, unless it is the only one.

    Returns:
        (1, 2, H, W), whole pixels, of the finest level.
    """
    height, width, _ = features1[0].shape
    matches = torch.zeros(height, width, 2, dtype=torch.int32, device=features1[0].device)
    # The coarsest level is searched across the whole image.
    radius, rounds = max(height, width) // 2, _COARSEST_ROUNDS
    for level1, level2 in zip(features1, features2, strict=True):
        if level1.shape[:2] != matches.shape[:2]:
            matches = _double(matches, level1.shape[0], level1.shape[1])
            radius, rounds = _RADIUS, last if level1 is features1[-1] else ROUNDS
        for k in range(rounds):
            matches, _ = match_round(level1, level2, matches, radius=radius, round=k)
    return matches.permute(2, 0, 1)[None].float()  # (H, W, 2) -> (1, 2, H, W)


def _double(matches: Tensor, height: int, width: int) -> Tensor:
    """Bring matches (h, w, 2) to a level twice as large; targets are clamped to its inside."""
    y, x = (torch.arange(n, device=matches.device) for n in (height, width))
    parents = matches[y * matches.shape[0] // height][:, x * matches.shape[1] // width]
    u = (x + 2 * parents[..., 0]).clamp(0, width - 1) - x
    v = (y[:, None] + 2 * parents[..., 1]).clamp(0, height - 1) - y[:, None]
    return torch.stack([u, v], dim=-1).int()


# ------------------------------------------------------------------ from matches to flow


def fill_in(image: Tensor, flow: Tensor, back: Tensor) -> Tensor:
    """Keep the matches that agree in both directions, fill in the others, bring to full size.

    Args:
        image: (1, C, H, W), the image that ``flow`` starts from.
        flow: (1, 2, h, w), matches from it to the other image, in pixels of their own resolution.
        back: (1, 2, h, w), matches from the other image to it.

    Returns:
        (1, 2, H, W), pixels.
    """
    returned, inside = warp(back, flow, mode="nearest", mask=True)
    # flow(x) + back(x + flow(x)) = 0 where both matches connect the same two points.
    agrees = (flow + returned).abs().amax(1, keepdim=True) <= 1
    known = (inside & agrees).float()  # (1, 1, h, w)
    filled = weighted_median(
        _spread(flow * known, known),
        resize_to(image, (flow.shape[-2], flow.shape[-1])),
        known + 1e-6,  # where nothing is known around, the spread values decide
        radius=7,
        sigma_space=_SIGMA_SPACE,
        sigma_colour=_SIGMA_COLOUR,
    )
    return resize_flow(filled, (image.shape[-2], image.shape[-1]))


def _spread(total: Tensor, known: Tensor) -> Tensor:
    """Fill in unknown pixels with the mean of known ones around, by a pyramid.

    Args:
        total: (1, 2, h, w), values times ``known``.
        known: (1, 1, h, w), the share of the pixel that is known, in [0, 1].

    Returns:
        (1, 2, h, w): ``total / known`` where anything is known, else the value of the next coarser
        level at that place, and so on up to a single pixel.
    """
    mean = total / torch.where(known > 0, known, 1)
    if max(mean.shape[-2:]) == 1 or bool((known > 0).all()):
        return mean
    size = ((mean.shape[-2] + 1) // 2, (mean.shape[-1] + 1) // 2)
    coarse = _spread(F.adaptive_avg_pool2d(total, size), F.adaptive_avg_pool2d(known, size))
    finer = F.interpolate(coarse, mean.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, mean, finer)


# ------------------------------------------------------------------ shared with the fit


def check_pair(image1: Tensor, image2: Tensor) -> None:
    """Check two images of one shape, (B, C, H, W) in [0, 1] with C = 1 or 3, on one device.

    Raises:
        TypeError: an image is not a floating-point tensor.
        ValueError: shapes or devices do not fit, or an image is in 0 … 255 or contains NaN.
    """
    check_pixels(image1, "image1")
    check_pixels(image2, "image2")
    if image1.shape[1] not in (1, 3):
        raise ValueError(f"image1 must have 1 or 3 channels, got shape {tuple(image1.shape)}")
    if image2.shape != image1.shape or image2.device != image1.device:
        raise ValueError(
            f"image2 must be {tuple(image1.shape)} on {image1.device} as image1 is, "
            f"got {tuple(image2.shape)} on {image2.device}"
        )
    check_range(image1, "image1")
    check_range(image2, "image2")


def to_grey(image: Tensor) -> Tensor:
    """Return (B, C, H, W) with C = 1 or 3 as (B, 1, H, W)."""
    if image.shape[1] == 1:
        return image
    weights = torch.tensor(GREY_WEIGHTS, device=image.device).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def pyramid_sizes(
    image: Tensor, scale: float, min_side: int, max_levels: int
) -> list[tuple[int, int]]:
    """Return the (height, width) of each level of an image pyramid, coarsest first.

    Args:
        image: (B, C, H, W); its size is the last.
        scale: size of a level relative to the next finer one.
        min_side: least side of a level, in pixels; the image itself may be smaller.
        max_levels: largest number of levels.
    """
    height, width = image.shape[-2:]
    sizes = [(height, width)]
    while len(sizes) < max_levels:
        factor = scale ** len(sizes)
        size = (round(height * factor), round(width * factor))
        if min(size) < min_side:
            break
        sizes.append(size)
    return sizes[::-1]


def resize_to(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) to (height, width); an image of that size is returned as it is."""
    if tuple(image.shape[-2:]) == size:
        return image
    return resize(image, size)
