"""Variational refinement: flow fitted to one pair of images, coarse to fine.

The fit minimises an energy of the flow ``f = (u, v)``,

    E(f) = sum over pixels, features k:  c psi_d( n_k (I2_k(x + f) - I1_k(x))^2 )
         + sum over neighbours x, x':    w psi_s( |f(x) - f(x')|^2 ),    psi(s) = 2 sqrt(s + eps)

where ``c`` is the confidence of a pixel in [0, 1]: 1 where frame 2 shows it, OCCLUDED_CONFIDENCE
where it seems occluded, 0 where its target is outside the image.

The energy combines what earlier work found to matter:

* constancy of brightness and of its gradient (features k), robust penalties psi, and a linearised
  warp that is repeated (Brox et al., "High Accuracy Optical Flow Estimation Based on a Theory for
  Warping", ECCV 2004);
* normalisation ``n_k`` of each constraint by its gradient, so that the residual is a distance in
  pixels (Zimmer et al., "Optic Flow in Harmony", IJCV 2011);
* smoothness weights ``w`` that are low across image edges, and a median weighted by colour after
  every warp (Sun et al., "Secrets of Optical Flow Estimation and Their Principles", CVPR 2010).

psi is the Charbonnier penalty, a differentiable |r|. Each of its weights psi'(s) is held fixed
while a quadratic energy is lowered (iteratively reweighted least squares). That makes four nested
loops: levels of the pyramid, ``warps`` (linearisations), ``inner`` (reweightings), and ``sweeps``
(of the linear solver, in :mod:`flowwarp.ops.variational`).

Motion larger than such a scheme can follow comes from :mod:`flowwarp.pipelines.flow.matches`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowwarp.ops.fields import resize_flow, split_known
from flowwarp.ops.filters import forward_differences, gaussian_blur
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.ops.variational import (
    derivative,
    normal_equations,
    relax,
    smoothness_weights,
    weighted_median,
)
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow.matches import (
    ROUNDS,
    check_pair,
    fill_in,
    find_matches,
    fuse,
    pyramid_sizes,
    resize_to,
    to_grey,
)
from flowwarp.tensors import check_choice, check_flow

OCCLUDED_CONFIDENCE = 0.01  # c of a pixel that seems occluded: its neighbours decide
MIN_SIDE = 16  # px; no pyramid level is smaller, unless the image is
# Added to |grad I_k|^2 in n_k, in (grey value / px)^2: gradients below 0.001 count as noise.
ZETA = 1e-6
EPSILON = 0.001**2  # of psi_d, px^2; the value of Brox et al.
EPSILON_SMOOTH = 0.01**2  # of psi_s, px^2
# Standard deviations of the median's weights: distance in px (the value of Sun et al.), and
# difference in colour, of values in [0, 1].
MEDIAN_SIGMA_SPACE, MEDIAN_SIGMA_COLOUR = 7.0, 0.04
MOVING = 0.01  # px; a component of flow that changes by more has not settled


@dataclass(frozen=True)
class RefineConfig:
    """Parameters of :func:`refine`; grey values are in [0, 1], lengths in pixels of the level.

    Attributes:
        match: whether to match descriptors, too, and to use the better of match and start at each
            pixel.
        match_rounds: rounds of matching at full resolution; 0 to match at half of it.
        levels: number of pyramid levels, full size included.
        scale: size of a level relative to the next finer one.
        warps: linearisations at each level.
        inner: reweightings of the robust terms for each warp.
        sweeps: sweeps of the linear solver per reweighting.
        smoothness: weight of the smoothness term relative to the data term.
        edge: difference of neighbouring values at which the smoothness weight falls to 1 / e.
        median_radius: radius of the weighted median's square window.
        settled: a level stops warping when at most this share of the components of the flow has
            changed by more than 0.01 px.
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
_PRESETS = {"balanced": BALANCED, "best": BEST}

Progress = Callable[[float], None]  # called with the share of the work that is done, in [0, 1]


def part_of(progress: Progress | None, number: int, count: int) -> Progress:
    """Return the progress callback of part ``number`` of ``count`` parts of equal length."""
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
        flow: (B, 2, H, W), pixels; the start, such as a network's estimate; NaN and infinity count
            as 0. Default: from matched descriptors.
        quality: ``"balanced"``, or ``"best"``, which takes several times as long.
        config: explicit parameters instead of ``quality``.
        flow_21: (B, 2, H, W), pixels; backward flow if it is known. Pixels where forward and
            backward flow disagree are filled from their neighbours.
        progress: called after every warp with the share of the work that is done, up to 1.

    Returns:
        (B, 2, H, W) float32, pixels, from image 1 to image 2; without gradients. The same bits for
        any number of threads, and for each example in any batch.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes, devices or ``quality`` do not fit, or an image is in 0 … 255 or contains
            NaN.

    >>> import torch
    >>> image = torch.rand(1, 3, 32, 32)
    >>> bool(refine(image, image).abs().max() < 0.01)
    True
    """
    check_pair(image1, image2)
    check_choice(quality, "quality", tuple(_PRESETS))
    config = config or _PRESETS[quality]
    image1, image2 = image1.float(), image2.float()
    if flow is not None:
        check_flow(flow, like=image1)
        flow, _ = split_known(flow.float())
    if flow_21 is not None:
        check_flow(flow_21, "flow_21", like=image1)
        flow_21, _ = split_known(flow_21.float())
    fitted = [image1.new_empty((0, 2, *image1.shape[-2:]))]
    # One by one, since torch's convolutions round a batch differently from its examples.
    for k in range(len(image1)):
        image1_k, image2_k = image1[k : k + 1], image2[k : k + 1]
        flow_k, flow_21_k = (None if f is None else f[k : k + 1] for f in (flow, flow_21))
        progress_k = part_of(progress, k, len(image1))
        start = _choose_start(image1_k, image2_k, flow_k, config)
        fitted.append(_coarse_to_fine(image1_k, image2_k, start, flow_21_k, config, progress_k))
    return torch.cat(fitted)


def _choose_start(
    image1: Tensor, image2: Tensor, flow: Tensor | None, config: RefineConfig
) -> Tensor:
    """Return the start of the fit, (1, 2, H, W): ``flow``, matches, or at each pixel the better."""
    if flow is not None and not config.match:
        return flow
    matched = fill_in(image1, *find_matches(image1, image2, config.match_rounds))
    return matched if flow is None else fuse(image1, image2, [flow, matched])


def _coarse_to_fine(
    image1: Tensor,
    image2: Tensor,
    flow: Tensor,
    flow_21: Tensor | None,
    config: RefineConfig,
    progress: Progress,
) -> Tensor:
    """Fit each pyramid level, coarsest first, starting from the flow of the level before.

    The start, (1, 2, H, W), is resized to the coarsest level, where motion is short and the
    linearisation holds.
    """
    sizes = pyramid_sizes(image1, config.scale, MIN_SIDE, config.levels)
    # Time is proportional to the pixels of a level.
    total, done = sum(height * width for height, width in sizes), 0

    def report(share: float) -> None:
        progress((done + share * size[0] * size[1]) / total)

    for size in sizes:
        visible = None
        flow = resize_flow(flow, size)  # scales its values, too: pixels of this level
        if flow_21 is not None:
            visible = visible_by_consistency(flow, resize_flow(flow_21, size))
        image1_level, image2_level = resize_to(image1, size), resize_to(image2, size)
        flow = _fit_level(image1_level, image2_level, flow, visible, config, report)
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
    """Lower the energy at one level.

    Args:
        image1: (1, C, h, w), frame 1 at this level.
        image2: (1, C, h, w), frame 2.
        flow: (1, 2, h, w), the start, pixels of this level.
        visible: (1, 1, h, w) bool, whether frame 2 shows the pixel; None if unknown.
        config: the parameters.
        progress: called after every warp.

    Returns:
        (1, 2, h, w), pixels of this level.
    """
    features1, features2 = _features(image1), _features(image2)  # (1, 3, h, w)
    edges = config.smoothness * _edges(image1, config.edge)  # w, (1, 2, h, w)
    for number in range(config.warps):
        # Linearise at `start`: I2(x + f) = warped + gradient . (f - start). The warp is bicubic,
        # since the fit resolves hundredths of a pixel.
        start = flow
        warped, inside = warp(features2, start, mode="bicubic", mask=True)
        usable = inside if visible is None else inside & visible
        confidence = usable.float().clamp_min(OCCLUDED_CONFIDENCE)  # (1, 1, h, w)
        for _ in range(config.inner):
            # psi'_d and psi'_s at the present flow make the energy quadratic. Targets outside the
            # image have no data term (c = 0): only smoothness moves them.
            equations = normal_equations(
                features1, warped, start, flow, confidence * inside, zeta=ZETA, epsilon=EPSILON
            )
            weights = smoothness_weights(flow, edges, epsilon=EPSILON_SMOOTH)
            flow = relax(equations, weights, flow, sweeps=config.sweeps)
        # The median removes outliers and moves motion boundaries to image edges. It is what a
        # non-local smoothness term would do (Sun et al., section 5).
        confidence = confidence * _median_confidence(flow, features1, warped)
        flow = weighted_median(
            flow,
            image1,
            confidence,
            radius=config.median_radius,
            sigma_space=MEDIAN_SIGMA_SPACE,
            sigma_colour=MEDIAN_SIGMA_COLOUR,
        )
        progress((number + 1) / config.warps)
        # A count, not a mean: exact for any number of threads, and so is the decision to stop.
        moving = ((flow - start).abs() > MOVING).count_nonzero()
        if int(moving) <= config.settled * flow.numel():
            break
    progress(1.0)
    return flow


# ------------------------------------------------------------------ terms of the energy


def _features(image: Tensor) -> Tensor:
    """Return what is assumed constant along the motion, (B, 3, H, W): brightness and its gradient.

    90 % of the low-frequency brightness is subtracted, since illumination changes smoothly; 10 %
    stays, so that areas without texture keep a data term. The gradient does not depend on additive
    changes of light (Brox et al., equation 2).
    """
    grey = gaussian_blur(to_grey(image), 0.6)  # less noise, and derivatives of a smooth function
    gy = derivative(grey.transpose(-1, -2)).transpose(-1, -2)
    return torch.cat([grey - 0.9 * gaussian_blur(grey, 3), derivative(grey), gy], dim=1)


def _edges(image: Tensor, softness: float) -> Tensor:
    """Return the smoothness weights of each pixel with its neighbours, (B, 2, H, W).

    ``exp(-|I(x) - I(x')| / softness)``, channel 0 with the pixel on its right and 1 with the one
    below: motion boundaries mostly coincide with image edges. At least 0.05, so that no edge
    separates two pixels completely.
    """
    differences = forward_differences(gaussian_blur(image, 0.6))
    lengths = [d.square().sum(1, keepdim=True).sqrt() for d in differences]
    return (torch.cat(lengths, dim=1) / -softness).exp().clamp_min(0.05)


def _median_confidence(flow: Tensor, features1: Tensor, warped: Tensor) -> Tensor:
    """Return the weight of each pixel in the median, (B, 1, H, W): low where it seems occluded.

    Signs of occlusion are converging flow (negative divergence) and a difference in brightness,
    with standard deviations 0.3 and 20/255 (Sand and Teller, "Particle Video", IJCV 2008; Sun et
    al., 2010, equation 14).

    Args:
        flow: (B, 2, H, W), pixels.
        features1: (B, 3, H, W), see `_features`.
        warped: (B, 3, H, W), the features of frame 2 at the targets of ``flow``.
    """
    u, v = flow.chunk(2, dim=1)
    divergence = derivative(u) + derivative(v.transpose(-1, -2)).transpose(-1, -2)
    change = (warped - features1)[:, :1]
    exponent = (divergence.clamp_max(0) / 0.3).square() + (change * (255 / 20)).square()
    return (exponent / -2).exp().clamp_min(OCCLUDED_CONFIDENCE)
