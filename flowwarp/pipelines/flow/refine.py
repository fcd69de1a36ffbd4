"""Flow fitted to one pair of images: variational, coarse to fine, from a start given or matched.

The energy joins what earlier work found to matter: brightness and gradient constancy with robust
penalties and a linearised warp (Brox et al., "High Accuracy Optical Flow Estimation Based on a
Theory for Warping", ECCV 2004), each constraint divided by its gradient (Zimmer et al., "Optic Flow
in Harmony", IJCV 2011), smoothness that yields at image edges, and a median weighted by colour
after every warp (Sun et al., "Secrets of Optical Flow Estimation and Their Principles", CVPR 2010).
Motion larger than such a scheme can follow comes from matched descriptors (Brox and Malik, "Large
Displacement Optical Flow", PAMI 2011), which compete with the given start pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.ops.census import GREY_WEIGHTS, census_distance
from flowwarp.ops.fields import resize_flow, split_known
from flowwarp.ops.filters import box_blur, forward_differences, gaussian_blur, resize
from flowwarp.ops.matching import describe, match_round
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.ops.variational import (
    derivative,
    normal_equations,
    relax,
    smoothness_weights,
    weighted_median,
)
from flowwarp.ops.warping import warp
from flowwarp.tensors import check_choice, check_flow, check_pixels, check_range

HIDDEN = 0.01  # confidence of a pixel that seems hidden in frame 2: its neighbours decide
SMALLEST = 16  # pixels; no level of the pyramid is smaller, unless the image is
ROUNDS = 4  # of the search for matches at a level
MATCH_SMALLEST = 24  # pixels; as wide as a descriptor and a half
ZETA = 1e-6  # squared gradient: a thousandth of the range is taken for noise
EPSILON = 0.001**2  # pixels squared, Brox et al.'s
EPSILON_SMOOTH = 0.01**2


@dataclass(frozen=True)
class RefineConfig:
    """How :func:`refine` works; grey values are in [0, 1], lengths in pixels of the level.

    Attributes:
        match: whether matched descriptors compete with the start.
        match_rounds: of their search at full resolution; 0 to match at half of it.
        levels: of the image pyramid, the full size included.
        scale: of one level to the next finer one.
        warps: linearisations at each level.
        inner: reweightings of the robust terms for each warp.
        sweeps: of the relaxation for each reweighting.
        smoothness: weight of the smoothness against the data.
        edge: difference of neighbours in grey value that lowers their smoothness by e.
        median_radius: of the weighted median's window.
        settled: share of the flow's numbers, two a pixel; when no more than these change by over a
            hundredth of a pixel, a level warps no more.
    """

    match: bool = True
    match_rounds: int = ROUNDS
    levels: int = 5
    scale: float = 0.6
    warps: int = 3
    inner: int = 2
    sweeps: int = 10
    smoothness: float = 2.0
    edge: float = 0.05
    median_radius: int = 4
    settled: float = 0.02

    def __post_init__(self) -> None:
        for name in ("levels", "warps", "inner", "sweeps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.match_rounds < 0:
            raise ValueError(f"match_rounds must not be negative, got {self.match_rounds}")
        if not 0 < self.scale < 1:
            raise ValueError(f"scale must be in (0, 1), got {self.scale}")
        if not 0 <= self.median_radius <= 15:
            raise ValueError(f"median_radius must be 0 to 15, got {self.median_radius}")


BALANCED = RefineConfig(match_rounds=2, levels=3, warps=2, inner=1, median_radius=5)
BEST = RefineConfig(levels=3, warps=8, median_radius=7)
QUALITIES = {"balanced": BALANCED, "best": BEST}

Progress = Callable[[float], None]  # is told which share is done, up to 1


def part(progress: Progress | None, number: int, count: int) -> Progress:
    """Return what to tell of the progress of one part, of several that take as long each."""
    return lambda share: progress((number + share) / count) if progress is not None else None


@torch.no_grad()
def refine(
    image1: Tensor,
    image2: Tensor,
    flow: Tensor | None = None,
    *,
    quality: str = "balanced",
    config: RefineConfig | None = None,
    flow_21: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Fit flow to a pair of images.

    Args:
        image1: (B, C, H, W) in [0, 1], C = 1 or 3 (RGB).
        image2: the other image, of the same shape and device.
        flow: (B, 2, H, W), pixels; where to start, such as a network's estimate; where it is NaN
            or infinite it is taken as 0. Default: from matches of :func:`estimate`.
        quality: ``"balanced"``, or ``"best"``, which takes several times as long.
        config: explicit parameters instead of ``quality``.
        flow_21: (B, 2, H, W), pixels; backward flow if known. Pixels from which forward and
            backward do not meet are filled from their neighbours.
        progress: is called after every warp with the share that is done, up to 1.

    Returns:
        (B, 2, H, W) float32, pixels, from image 1 to image 2; without gradients. The same bits for
        any number of threads, and for each example whatever its batch.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes, devices or ``quality`` do not fit, or images are in 0 … 255 or hold NaN.

    >>> import torch
    >>> image = torch.rand(1, 3, 32, 32)
    >>> bool(refine(image, image).abs().max() < 0.01)
    True
    """
    _check_pair(image1, image2)
    check_choice(quality, "quality", tuple(QUALITIES))
    config = config or QUALITIES[quality]
    image1, image2 = image1.float(), image2.float()
    if flow is not None:
        check_flow(flow, like=image1)
        flow, _ = split_known(flow.float())
    if flow_21 is not None:
        check_flow(flow_21, "flow_21", like=image1)
        flow_21, _ = split_known(flow_21.float())
    fitted = [image1.new_empty((0, 2, *image1.shape[-2:]))]
    # One by one: torch's convolutions round a whole batch differently than its examples.
    for k in range(len(image1)):
        start, back = (None if f is None else f[k : k + 1] for f in (flow, flow_21))
        tell = part(progress, k, len(image1))
        fitted.append(_refine(image1[k : k + 1], image2[k : k + 1], start, back, config, tell))
    return torch.cat(fitted)


def _refine(
    image1: Tensor,
    image2: Tensor,
    flow: Tensor | None,
    flow_21: Tensor | None,
    config: RefineConfig,
    progress: Progress,
) -> Tensor:
    starts = [] if flow is None else [flow]
    if flow is None or config.match:
        starts.append(_complete(image1, *_matches(image1, image2, config.match_rounds)))
    start = starts[0] if len(starts) == 1 else fuse(image1, image2, starts)
    return _coarse_to_fine(image1, image2, start, flow_21, config, progress)


# ------------------------------------------------------------------ the variational part


def _coarse_to_fine(
    image1: Tensor,
    image2: Tensor,
    flow: Tensor,
    flow_21: Tensor | None,
    config: RefineConfig,
    progress: Progress,
) -> Tensor:
    sizes = _sizes(image1, config.scale, SMALLEST, config.levels)
    whole, done = sum(height * width for height, width in sizes), 0

    def tell(share: float) -> None:
        progress((done + share * size[0] * size[1]) / whole)

    for size in sizes:
        visible = None
        flow = resize_flow(flow, size)
        if flow_21 is not None:
            visible = visible_by_consistency(flow, resize_flow(flow_21, size))
        flow = _fit_level(_resize(image1, size), _resize(image2, size), flow, visible, config, tell)
        done += size[0] * size[1]
    return flow


def _fit_level(
    image1: Tensor,
    image2: Tensor,
    flow: Tensor,
    visible: Tensor | None,
    config: RefineConfig,
    progress: Progress,
) -> Tensor:
    features1, features2 = _features(image1), _features(image2)
    edges = config.smoothness * _edges(image1, config.edge)
    for number in range(config.warps):
        start = flow
        warped, inside = warp(features2, start, mode="bicubic", mask=True)
        known = inside if visible is None else inside & visible
        confidence = known.float().clamp_min(HIDDEN)
        for _ in range(config.inner):
            equations = normal_equations(
                features1, warped, start, flow, confidence * inside, zeta=ZETA, epsilon=EPSILON
            )
            weights = smoothness_weights(flow, edges, epsilon=EPSILON_SMOOTH)
            flow = relax(equations, weights, flow, sweeps=config.sweeps)
        confidence = confidence * _trust(flow, features1, warped)
        flow = weighted_median(
            flow,
            image1,
            confidence,
            radius=config.median_radius,
            sigma_space=7,
            sigma_colour=0.04,
        )
        progress((number + 1) / config.warps)
        moving = ((flow - start).abs() > 0.01).count_nonzero()  # exact, unlike a mean
        if int(moving) <= config.settled * flow.numel():
            break
    progress(1.0)
    return flow


def _features(image: Tensor) -> Tensor:
    """Return what should not change from frame to frame: local brightness and both gradients."""
    grey = gaussian_blur(_grey(image), 0.6)
    gy = derivative(grey.transpose(-1, -2)).transpose(-1, -2)
    # Without the slow part of brightness, which light changes; some of it, for flat areas.
    return torch.cat([grey - 0.9 * gaussian_blur(grey, 3), derivative(grey), gy], dim=1)


def _edges(image: Tensor, softness: float) -> Tensor:
    """Return how alike each pixel is to the one on its right and the one below, (B, 2, H, W)."""
    differences = forward_differences(gaussian_blur(image, 0.6))
    lengths = [d.square().sum(1, keepdim=True).sqrt() for d in differences]
    return (torch.cat(lengths, dim=1) / -softness).exp().clamp_min(0.05)


def _trust(flow: Tensor, features1: Tensor, warped: Tensor) -> Tensor:
    """Return a pixel's weight in the median: little where flow converges or brightness differs.

    Both are signs of occlusion (Sand and Teller, "Particle Video", IJCV 2008; Sun et al., 2010,
    equation 14, whose widths these are).
    """
    u, v = flow.chunk(2, dim=1)
    shrink = derivative(u) + derivative(v.transpose(-1, -2)).transpose(-1, -2)
    change = (warped - features1)[:, :1]
    exponent = (shrink.clamp_max(0) / 0.3).square() + (change * (255 / 20)).square()
    return (exponent / -2).exp().clamp_min(HIDDEN)


def _grey(image: Tensor) -> Tensor:
    if image.shape[1] == 1:
        return image
    weights = torch.tensor(GREY_WEIGHTS, device=image.device).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True)


def _sizes(image: Tensor, scale: float, smallest: int, most: int) -> list[tuple[int, int]]:
    """Return the sizes of a pyramid, coarsest first; its last is the image's."""
    height, width = image.shape[-2:]
    sizes = [(height, width)]
    while len(sizes) < most:
        factor = scale ** len(sizes)
        size = (round(height * factor), round(width * factor))
        if min(size) < smallest:
            break
        sizes.append(size)
    return sizes[::-1]


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    return resize(image, size)


# ------------------------------------------------------------------ large motion


@torch.no_grad()
def estimate(image1: Tensor, image2: Tensor, *, full: bool = True) -> tuple[Tensor, Tensor]:
    """Match descriptors both ways and fill in what does not match: flow to a pixel or so.

    From coarse to fine by :mod:`flowwarp.ops.matching`; matches hold where there and back agree
    within a pixel; the others take the weighted median of those around.

    Args:
        image1: (B, C, H, W) in [0, 1], C = 1 or 3 (RGB).
        image2: the other image, of the same shape and device.
        full: whether to match at full resolution; else at half of it, in a quarter of the time.

    Returns:
        ``flow_12`` and ``flow_21``, (B, 2, H, W) float32, pixels.

    Raises:
        TypeError: an image is not a floating-point tensor.
        ValueError: shapes or devices do not fit, or an image is in 0 … 255 or holds NaN.
    """
    _check_pair(image1, image2)
    image1, image2 = image1.float(), image2.float()
    empty = image1.new_empty((0, 2, *image1.shape[-2:]))
    pairs = [(empty, empty)]
    for k in range(len(image1)):
        one, two = image1[k : k + 1], image2[k : k + 1]
        there, back = _matches(one, two, ROUNDS if full else 0)
        pairs.append((_complete(one, there, back), _complete(two, back, there)))
    flow_12, flow_21 = zip(*pairs, strict=True)
    return torch.cat(flow_12), torch.cat(flow_21)


def fuse(image1: Tensor, image2: Tensor, flows: list[Tensor]) -> Tensor:
    """Choose at each pixel the flow that explains its surroundings best, then clean the seams.

    The cost is the census distance to the warped image 2, averaged over 7 x 7 pixels; a target
    outside the image costs 0.5, as much as a poor match.

    Args:
        image1: (B, C, H, W) in [0, 1], C = 1 or 3.
        image2: the other image.
        flows: one or more (B, 2, H, W), pixels; the first wins where costs are equal.

    Returns:
        (B, 2, H, W), pixels.
    """
    best, least = flows[0], None
    for flow in flows:
        warped, inside = warp(image2, flow, mask=True)
        cost = torch.where(inside, census_distance(image1, warped), 0.5)
        cost = box_blur(cost, 3)
        if least is None:
            least = cost
        best = torch.where(cost < least, flow, best)
        least = torch.minimum(cost, least)
    everywhere = torch.ones_like(best[:, :1])
    return weighted_median(best, image1, everywhere, radius=3, sigma_space=7, sigma_colour=0.06)


def _matches(image1: Tensor, image2: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Match one pair of (1, C, H, W) both ways, in whole pixels of the finest level.

    The finest is at full resolution with so many rounds of search, at half of it with none.
    """
    sizes = _sizes(image1, 0.5, MATCH_SMALLEST, 10)
    if not rounds:
        sizes, rounds = sizes[:-1] or sizes, ROUNDS
    one, two = ([describe(_resize(_grey(i), s)) for s in sizes] for i in (image1, image2))
    return _search(one, two, rounds), _search(two, one, rounds)


def _search(features1: list[Tensor], features2: list[Tensor], last: int) -> Tensor:
    """Match from the coarsest level, where all of the image is searched, to the finest.

    The last level has so many rounds, if it is not the only one; before that there are as many as
    it takes.
    """
    height, width, _ = features1[0].shape
    matches = torch.zeros(height, width, 2, dtype=torch.int32, device=features1[0].device)
    radius, rounds = max(height, width) // 2, 8
    for level1, level2 in zip(features1, features2, strict=True):
        if level1.shape[:2] != matches.shape[:2]:
            matches = _double(matches, level1.shape[0], level1.shape[1])
            radius, rounds = 16, last if level1 is features1[-1] else ROUNDS
        for k in range(rounds):
            matches, _ = match_round(level1, level2, matches, radius=radius, round=k)
    return matches.permute(2, 0, 1)[None].float()


def _double(matches: Tensor, height: int, width: int) -> Tensor:
    """Bring matches to a level twice as large, with targets inside it."""
    y, x = (torch.arange(n, device=matches.device) for n in (height, width))
    parents = matches[y * matches.shape[0] // height][:, x * matches.shape[1] // width]
    u = (x + 2 * parents[..., 0]).clamp(0, width - 1) - x
    v = (y[:, None] + 2 * parents[..., 1]).clamp(0, height - 1) - y[:, None]
    return torch.stack([u, v], dim=-1).int()


def _complete(image: Tensor, flow: Tensor, back: Tensor) -> Tensor:
    """Keep the matches that agree both ways, fill in the others, and bring them to full size."""
    there, inside = warp(back, flow, mode="nearest", mask=True)
    known = (inside & ((flow + there).abs().amax(1, keepdim=True) <= 1)).float()
    filled = weighted_median(
        _spread(flow * known, known),
        _resize(image, (flow.shape[-2], flow.shape[-1])),
        known + 1e-6,
        radius=7,
        sigma_space=7,
        sigma_colour=0.06,
    )
    return resize_flow(filled, (image.shape[-2], image.shape[-1]))


def _spread(total: Tensor, known: Tensor) -> Tensor:
    """Divide where something is known; elsewhere take the mean of a coarser level, and so on up."""
    mean = total / torch.where(known > 0, known, 1)
    if max(mean.shape[-2:]) == 1 or bool((known > 0).all()):
        return mean
    size = ((mean.shape[-2] + 1) // 2, (mean.shape[-1] + 1) // 2)
    coarse = _spread(F.adaptive_avg_pool2d(total, size), F.adaptive_avg_pool2d(known, size))
    finer = F.interpolate(coarse, mean.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, mean, finer)


def _check_pair(image1: Tensor, image2: Tensor) -> None:
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
