"""Tone curves: how the colours of one frame become those of another, and their smoothing in time.

A tone curve is a monotone function of each channel, tabulated at LEVELS values from 0 to 1. It
expresses a change of exposure, gamma, contrast, black level and white balance alike. The curve from
one frame to the next matches the quantiles of the pixels that both frames show, found by optical
flow: unlike a regression of one frame's values on the other's, that is symmetric and not biased
towards less contrast by noise, and unlike matching whole histograms, it is not misled by what
enters or leaves the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEVELS = 64  # values at which a curve is tabulated
QUANTILES = 48  # each is a mean over as many pixels: single outliers hardly count
MIN_SAMPLES = 4 * QUANTILES  # fewer pixels in common say too little about a curve


def identity_curve(channels: int, device: torch.device | None = None) -> Tensor:
    """Return the curve that changes nothing, (C, LEVELS)."""
    return torch.linspace(0, 1, LEVELS, device=device).expand(channels, LEVELS)


def match_tone(one: Tensor, other: Tensor) -> Tensor:
    """Return the curve that gives the values of one frame the distribution of another's.

    Beyond the darkest and the brightest quantile, values are shifted as that quantile is.

    Args:
        one: (C, N), values of N pixels in [0, 1].
        other: (C, N), values of the same points in another frame.

    Returns:
        (C, LEVELS) in [0, 1], not decreasing; the identity if there are too few pixels.
    """
    if one.shape[1] < MIN_SAMPLES:
        return identity_curve(one.shape[0], one.device)
    size = one.shape[1] // QUANTILES * QUANTILES
    # The surplus pixels are left out evenly, not at one end.
    kept = torch.linspace(0, one.shape[1] - 1, size, device=one.device).round().long()
    ends = [  # (C, QUANTILES)
        values.sort(1).values[:, kept].view(len(values), QUANTILES, -1).mean(2)
        for values in (one, other)
    ]
    levels = identity_curve(one.shape[0], one.device).contiguous()
    return _interpolate(levels, *ends)


def _interpolate(values: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read at ``values`` (C, N) the piecewise linear function through points x, y (C, K)."""
    right = torch.searchsorted(x, values).clamp(1, x.shape[1] - 1)
    x0, x1, y0, y1 = (end.gather(1, right - k) for end in (x, y) for k in (1, 0))
    share = ((values - x0) / (x1 - x0).clamp_min(1e-6)).clamp(0, 1)
    beyond = values - values.clamp(x[:, :1], x[:, -1:])
    return (torch.lerp(y0, y1, share) + beyond).clamp(0, 1)


def apply_tone(image: Tensor, curve: Tensor) -> Tensor:
    """Map the values of an image by a curve.

    Args:
        image: (1, C, H, W) in [0, 1].
        curve: (C, LEVELS).

    Returns:
        (1, C, H, W).
    """
    place = image[0].clamp(0, 1) * (LEVELS - 1)  # (C, H, W)
    left = place.floor().clamp_max(LEVELS - 2)
    index = left.long().flatten(1)
    low, high = curve.gather(1, index), curve.gather(1, index + 1)
    return torch.lerp(low, high, (place - left).flatten(1)).view_as(image)


def chain_tone(first: Tensor, second: Tensor) -> Tensor:
    """Return the curve of two curves (C, LEVELS) one after the other."""
    return apply_tone(first[None, :, None], second)[0, :, 0]


def mean_tone(curves: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean of curves (C, LEVELS)."""
    total = sum(weights)
    pairs = zip(curves, weights, strict=True)
    return sum((weight / total * curve for curve, weight in pairs), torch.zeros_like(curves[0]))
