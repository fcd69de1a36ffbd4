"""The judge: what a short clip shows, one choice for each of some attributes.

It is there to measure what others draw, so it is trained on originals alone and shares no weights
with anything. It looks at pairs of frames some way apart, which tell pose, colours and motion alike
(neighbours hardly differ), and what it thinks of all such pairs is averaged. So a clip may have any
length, and training can do with a pair of each.

Where things are tells an action, a heading and a camera; what a thing is, as of a small weapon, is
the same wherever it is. So some of what is seen is joined place by place, and the rest is pooled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.models._attributes import Attributes, check_attributes
from flowwarp.models._seeing import (
    PAIR_CHANNELS,
    STRIDE,
    THIN,
    check_pairs,
    check_sizes,
    looking,
    pair_frames,
    pool,
)


@dataclass(frozen=True)
class ClassifierConfig:
    """What is to be told, and sizes of the network.

    Args:
        attributes: the name of each, and its values.
        size: height and width of frames, a multiple of 8 up to 512.
        apart: how many frames lie from one of a pair to the other, up to 64.
        widths: channels at a quarter and an eighth of the resolution.
        blocks: residual blocks there.
        norm: ``group`` normalises over groups of channels of one frame; ``none`` does not.
    """

    attributes: Attributes
    size: int = 64
    apart: int = 4
    widths: tuple[int, int] = (64, 128)
    blocks: tuple[int, int] = (2, 1)
    norm: Literal["group", "none"] = "group"

    def __post_init__(self) -> None:
        check_attributes(self.attributes)
        if not self.attributes or any(len(values) < 2 for _, values in self.attributes):
            raise ValueError("attributes must have two values each, and one or more")
        check_pairs(self.size, self.apart)
        check_sizes(self.widths, self.blocks, self.norm)


class Classifier(nn.Module):
    """Scores of the values of each attribute.

    >>> net = Classifier(ClassifierConfig((("action", ("walk", "stand")),), size=16))
    >>> net(torch.rand(1, 5, 3, 16, 16))["action"].shape
    torch.Size([1, 2])
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        coarse = config.widths[1]
        cells = (config.size // STRIDE) ** 2
        outputs = THIN + coarse  # joined place by place, and pooled
        self.see = looking(PAIR_CHANNELS, config.widths, config.blocks, config.norm, outputs)
        self.join = nn.Linear(THIN * cells + 2 * coarse, coarse)
        self.heads = nn.ModuleList(nn.Linear(coarse, len(v)) for _, v in config.attributes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        """Return the logits of each attribute, (B, number of its values) float32.

        Args:
            video: (B, T, 3, S, S) in [0, 1], T more than ``apart``, S as ``config`` has it.

        Raises:
            TypeError: the video is not floating-point.
            ValueError: it has another shape.
        """
        seen = F.silu(self.see(pair_frames(video, self.config.size, self.config.apart)))
        placed, pooled = seen[:, :THIN].flatten(1), seen[:, THIN:].flatten(2)
        thought = F.silu(self.join(torch.cat([placed, pool(pooled)], 1)))
        return {
            name: head(thought).float().unflatten(0, (len(video), -1)).mean(1)
            for (name, _), head in zip(self.config.attributes, self.heads, strict=True)
        }
