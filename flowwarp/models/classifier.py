"""The judge: what a short clip shows, one choice for each of some attributes.

It is there to measure what others draw, so it is trained on originals alone and shares no weights
with anything. Frames are folded and mixed as in the discrete VAE's encoder (convolutions over each
frame, a part of the channels from the frame before, norms over groups of channels of one frame);
then each attribute has a query of its own, which looks over all places and times of the clip
(attention pooling, Lee et al., "Set Transformer", ICML 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.models.dvae import DVAEConfig, Encoder
from flowwarp.tensors import check_video


@dataclass(frozen=True)
class ClassifierConfig:
    """What is to be told, from how large a clip, and sizes of the network.

    Args:
        attributes: the name of each, and its values.
        frames: of a clip.
        size: height and width of its frames.
        strides: by how much each stage divides height and width.
        strides_time: by how much each stage divides the number of frames.
        widths: channels of each stage.
        blocks: residual blocks of each stage.
        heads: of the attention; each looks at a part of the last stage's channels.
        norm: ``group`` normalises over groups of channels of one frame; ``none`` does not.
    """

    attributes: tuple[tuple[str, tuple[str, ...]], ...]
    frames: int = 16
    size: int = 64
    strides: tuple[int, ...] = (4, 2)
    strides_time: tuple[int, ...] = (4, 1)
    widths: tuple[int, ...] = (64, 128)
    blocks: tuple[int, ...] = (2, 1)
    heads: int = 8
    norm: str = "group"

    def __post_init__(self) -> None:
        if not self.attributes or any(len(values) < 2 for _, values in self.attributes):
            raise ValueError("attributes must have two values each, and one or more")
        if len({name for name, _ in self.attributes}) < len(self.attributes):
            raise ValueError("attributes must have different names")
        if self.size % math.prod(self.strides) or self.frames % math.prod(self.strides_time):
            raise ValueError(
                f"size {self.size} and frames {self.frames} must be multiples of the strides"
            )
        if self.widths[-1] % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide the last width {self.widths[-1]}")
        if self.norm not in ("group", "none"):
            raise ValueError(f"norm must be group or none, got {self.norm!r}")

    @property
    def encoder(self) -> DVAEConfig:
        """The layout of the first part, in the words of the discrete VAE."""
        none = (0,) * len(self.blocks)
        return DVAEConfig(
            strides=self.strides,
            strides_time=self.strides_time,
            widths=self.widths,
            encoder=self.blocks,
            decoder=none,
            norm="group" if self.norm == "group" else "none",
        )

    @property
    def places(self) -> int:
        """How many features there are of a clip: times, rows and columns together."""
        side = self.size // math.prod(self.strides)
        return self.frames // math.prod(self.strides_time) * side * side


class Look(nn.Module):
    """Each query looks over all features, then thinks about what it saw."""

    def __init__(self, queries: int, places: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.places = nn.Parameter(0.1 * torch.randn(places, width))
        self.pairs = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, queries, width) of features (B, places, width)."""
        known = F.layer_norm(features, features.shape[-1:]) + self.places
        k, v = (self._by_head(part) for part in self.pairs(known).chunk(2, -1))
        q = self._by_head(self.queries[None].to(k.dtype)).expand(len(k), -1, -1, -1)
        seen = F.scaled_dot_product_attention(q, k, v)
        x = self.out(seen.transpose(1, 2).flatten(2))
        thought = self.down(F.silu(self.up(F.layer_norm(x, x.shape[-1:]))))
        both: Tensor = x + thought
        return both

    def _by_head(self, x: Tensor) -> Tensor:
        """Turn (B, L, width) into (B, heads, L, width / heads)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Classifier(nn.Module):
    """Scores of the values of each attribute.

    >>> net = Classifier(ClassifierConfig((("action", ("walk", "stand")),), frames=4, size=16))
    >>> net(torch.rand(1, 4, 3, 16, 16))["action"].shape
    torch.Size([1, 2])
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        width = config.widths[-1]
        self.encoder = Encoder(config.encoder)
        self.look = Look(len(config.attributes), config.places, width, config.heads)
        self.heads = nn.ModuleList(nn.Linear(width, len(v)) for _, v in config.attributes)
        for head in self.heads:
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        """Return the logits of each attribute, (B, number of its values) float32.

        Args:
            video: (B, T, 3, S, S) in [0, 1], T and S as ``config`` has them.

        Raises:
            TypeError: the video is not floating-point.
            ValueError: it has another shape.
        """
        check_video(video)
        config = self.config
        wanted = (config.frames, 3, config.size, config.size)
        if tuple(video.shape[1:]) != wanted:
            raise ValueError(f"video must be (B, *{wanted}), got {tuple(video.shape)}")
        features, _ = self.encoder(video.flatten(0, 1), len(video), None)
        features = features.unflatten(0, (len(video), -1)).permute(0, 1, 3, 4, 2)
        looks = self.look(features.reshape(len(video), config.places, -1))
        return {
            name: head(looks[:, number]).float()
            for number, ((name, _), head) in enumerate(
                zip(config.attributes, self.heads, strict=True)
            )
        }
