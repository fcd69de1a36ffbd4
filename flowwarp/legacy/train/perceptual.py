"""A loss by what captioners see.

What is told of a clip may be few pixels large, so that a difference of colours hardly counts it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowwarp.legacy.models.captioner import Captioner


def seen_loss(made: Tensor, original: Tensor, eyes: Sequence[Captioner]) -> Tensor:
    """Return how differently captioners see videos, (B,): 0 for the same.

    The root mean square difference of what they see of places over that of the original's, which is
    about 1 for any other video, and as much again of what they pool, if they do; the mean over
    captioners. (A perceptual loss: Johnson et al., ECCV 2016.)

    Args:
        made: (B, T, 3, S, S), of the captioners' size and long enough for their pairs.
        original: likewise.
        eyes: captioners; what they see has a gradient, they have none.
    """
    total = original.new_zeros(len(original))
    for eye in eyes:
        with torch.no_grad():
            wanted = eye.features(original)
        for found, target in zip(eye.features(made), wanted, strict=True):
            if target.numel():  # a network that pools nothing has none of these
                error = (found - target).square().flatten(1).mean(1)
                scale = target.square().flatten(1).mean(1)
                total = total + (error / scale.clamp_min(1e-12)).clamp_min(1e-12).sqrt()
    return total / max(len(eyes), 1)


def check_eyes(eyes: Sequence[Captioner], size: int, frames: int) -> None:
    """Raise ValueError unless captioners can look at so many frames of a size."""
    for eye in eyes:
        apart = eye.config.apart
        if eye.config.size != size or frames <= apart:
            raise ValueError(
                f"a captioner looks at more than {apart} frames of {eye.config.size} px, "
                f"got {frames} of {size}"
            )
