"""The critic: how well words fit what is there of a video's codes so far.

A convolutional network looks at the values of the codes, with those that are not written yet left
out, and gives each phrase a score; a caption's is the sum over its phrases, less what captions have
on average (InfoNCE; van den Oord et al., "Representation Learning with Contrastive Predictive
Coding", 2018). At the optimum this is how much likelier the codes make the caption, in nats, and so
how much likelier the caption makes the codes: what a search among half-written videos needs to know
(as in Yang and Klein, "FUDGE", NAACL 2021).

To tell captions apart is learned from far fewer clips than to write what they say, where each of a
thousand codes is a surprise of its own, and nearly none has to do with the words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.models._seeing import THIN, check_sizes, looking


@dataclass(frozen=True)
class CriticConfig:
    """Sizes of the network.

    Args:
        phrases: how many it knows.
        references: captions that others are compared with.
        longest: phrases of a reference.
        grid: times, rows and columns of a video's codes; rows and columns are even.
        channels: numbers that a code stands for.
        widths: channels at the codes' resolution and at half of it.
        blocks: residual blocks there.
        norm: ``group`` normalises over groups of channels of one example; ``none`` does not.
    """

    phrases: int
    references: int = 256
    longest: int = 96
    grid: tuple[int, int, int] = (4, 16, 16)
    channels: int = 8
    widths: tuple[int, int] = (80, 128)
    blocks: tuple[int, int] = (2, 1)
    norm: Literal["group", "none"] = "group"

    def __post_init__(self) -> None:
        for name in ("phrases", "references", "longest", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(self.grid) != 3 or min(self.grid) < 1 or self.grid[1] % 2 or self.grid[2] % 2:
            raise ValueError(f"grid must be times and even rows and columns, got {self.grid}")
        check_sizes(self.widths, self.blocks, self.norm)


class Critic(nn.Module):
    """Scores of phrases.

    >>> net = Critic(CriticConfig(phrases=5, grid=(1, 4, 4), channels=2, widths=(8, 8)))
    >>> net(torch.zeros(3, 1, 4, 4, 2), torch.ones(3, 1, 4, 4, dtype=torch.bool)).shape
    torch.Size([3, 5])
    """

    names: Tensor
    references: Tensor

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        self.config = config
        coarse = config.widths[1]
        times, rows, columns = config.grid
        self.see = looking(times * (config.channels + 1), config.widths, config.blocks, config.norm)
        self.join = nn.Linear(THIN * rows * columns // 4, coarse)
        self.head = nn.Linear(coarse, config.phrases)
        # A caption has some fifty phrases: small scores, that captions are about alike at first.
        nn.init.normal_(self.head.weight, std=0.1 / math.sqrt(coarse))
        nn.init.zeros_(self.head.bias)
        # What each phrase is, as text tokens: the one before the last, the last but one, and it.
        self.register_buffer("names", torch.zeros(config.phrases, 3, dtype=torch.int32))
        # Numbers of phrases; ``phrases`` is none.
        shape = (config.references, config.longest)
        self.register_buffer("references", torch.full(shape, config.phrases, dtype=torch.int32))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, values: Tensor, known: Tensor) -> Tensor:
        """Return the score of each phrase, (B, phrases) float32.

        Args:
            values: (B, t, h, w, channels), what the codes stand for, in about [-1, 1].
            known: (B, t, h, w) bool, which of them are there; the others are not looked at.

        Raises:
            ValueError: the shapes do not fit the network.
        """
        shape = (*self.config.grid, self.config.channels)
        if tuple(values.shape[1:]) != shape or known.shape != values.shape[:-1]:
            raise ValueError(f"values must be (B, {shape}) and known alike, got {values.shape}")
        seen = torch.cat([values, torch.ones_like(values[..., :1])], -1)
        seen = seen.masked_fill(~known[..., None], 0.0)
        planes = seen.permute(0, 1, 4, 2, 3).flatten(1, 2)
        x = self.see(planes.contiguous(memory_format=torch.channels_last))
        scores: Tensor = self.head(F.silu(self.join(F.silu(x).flatten(1))))
        return scores.float()


def add_up(scores: Tensor, bags: Tensor) -> Tensor:
    """Return the sum over some of the scores.

    Args:
        scores: (B, phrases).
        bags: (B, n, L) integers, numbers of phrases; ``phrases`` is none.

    Returns:
        (B, n).
    """
    padded = F.pad(scores, (0, 1))
    return padded.gather(1, bags.flatten(1).long()).view(bags.shape).sum(2)


def fit(net: Critic, scores: Tensor, bags: Tensor) -> Tensor:
    """Return how much better captions fit than others do on average, in nats.

    Args:
        net: has the others.
        scores: (B, phrases), what it said.
        bags: (B, L), one caption for each, as for :func:`add_up`.

    Returns:
        (B,): the log of how much likelier each caption is with this video than without.
    """
    others = net.references.expand(len(scores), -1, -1)
    usual = add_up(scores, others).logsumexp(1) - math.log(others.shape[1])
    return add_up(scores, bags[:, None])[:, 0] - usual
