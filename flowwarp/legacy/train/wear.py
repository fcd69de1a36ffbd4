"""Clips as a codec might leave them: for networks that shall read what others decode as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.train.settings import check_least, check_shares

_GRAINS = (1, 2, 4)  # sides of the squares that noise is made of


@dataclass(frozen=True)
class WearConfig:
    """How much examples are worn.

    Args:
        share: of examples that are worn at all.
        blur: largest share of a frame that is replaced by its average over 2 x 2 pixels.
        smear: largest share that is replaced by the mean with the frames before and after.
        noise: largest deviation of noise.
        tint: largest change of a colour channel's strength.
    """

    share: float = 0.7
    blur: float = 1.0
    smear: float = 0.3
    noise: float = 0.04
    tint: float = 0.03

    def __post_init__(self) -> None:
        check_shares(self, "share", "blur", "smear")
        check_least(self, 0, "noise", "tint")


def wear(video: Tensor, config: WearConfig, generator: torch.Generator) -> Tensor:
    """Return a clip as a codec might leave it, or as it is.

    Args:
        video: (T, 3, S, S) in [0, 1].
        config: by how much.
        generator: decides.
    """

    def up_to(most: float) -> float:
        return most * float(torch.rand((), generator=generator))

    if up_to(1.0) >= config.share:
        return video
    frames, _, height, width = video.shape
    coarse = F.interpolate(
        F.avg_pool2d(video, 2), (height, width), mode="bilinear", align_corners=False
    )
    video = torch.lerp(video, coarse, up_to(config.blur))
    around = torch.cat([video[:1], video, video[-1:]])
    video = torch.lerp(video, (around[:-2] + around[1:-1] + around[2:]) / 3, up_to(config.smear))
    # Coarse noise lasts some frames, as the errors of a code do.
    grain = _GRAINS[int(torch.randint(len(_GRAINS), (), generator=generator))]
    shape = (-(-frames // grain), 3, -(-height // grain), -(-width // grain))
    noise = up_to(config.noise) * torch.randn(shape, generator=generator)
    noise = F.interpolate(noise, scale_factor=grain, mode="nearest")[..., :height, :width]
    video = video + noise.repeat_interleave(grain, 0)[:frames]
    tint = 1 + config.tint * (2 * torch.rand(3, 1, 1, generator=generator) - 1)
    return (video * tint).clamp(0, 1)
