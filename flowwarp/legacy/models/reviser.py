"""The reviser: what was decoded, made to show what it was to show.

A transformer that writes codes one after the other cannot take any of them back, and a thing of few
pixels, such as trousers below a coat, has often got another colour before anything could tell. This
network looks at what came out, is told what is to be seen, and changes what is not so: an editor
that follows instructions, as in "InstructPix2Pix" (Brooks et al., CVPR 2023), but in one step, as
it learns from clips of which it is known how they look in other clothes.

It is a U-Net (Ronneberger et al., MICCAI 2015) over groups of frames, those that share codes. What
is told scales and shifts the features of each block (FiLM; Perez et al., AAAI 2018). A part of them
is that of the group before (Lin et al., "TSM", ICCV 2019), so that what is revised stays as it is,
and none is of groups to come, so that a video can be revised while it is decoded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.legacy.models.dvae import BRANCH, Past, fold, shift, unfold
from flowwarp.models._attributes import Attributes, attributes_from_card, check_attributes
from flowwarp.models._layers import GROUPS, convolution, group_norm
from flowwarp.tensors import check_choice, check_frames, check_whole, check_wholes

FOLD = 2  # side of the square of pixels that is folded into channels
_MOST_FRAMES, _MOST_LEVELS = 64, 8


@dataclass(frozen=True)
class ReviserConfig:
    """What can be told, and sizes of the network.

    Args:
        attributes: the name of each, and its values.
        frames: of a group.
        widths: channels of each level, which has half the height and width of the one before.
        blocks: residual blocks of each level, on the way down and on the way up.
        embedding: numbers that what is told becomes.
        norm: ``group`` normalises over groups of channels of a group of frames; ``none`` does not.
    """

    attributes: Attributes
    frames: int = 4
    widths: tuple[int, ...] = (48, 96, 144)
    blocks: tuple[int, ...] = (1, 2, 2)
    embedding: int = 96
    norm: Literal["group", "none"] = "group"

    def __post_init__(self) -> None:
        check_attributes(self.attributes)
        check_wholes(self.widths, "widths", GROUPS)
        if len(self.widths) > _MOST_LEVELS or any(w % GROUPS for w in self.widths):
            raise ValueError(f"widths must be up to {_MOST_LEVELS} multiples of {GROUPS}")
        check_wholes(self.blocks, "blocks", 0)
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"blocks must have one entry for each of {len(self.widths)} widths")
        check_whole(self.frames, "frames", 1, _MOST_FRAMES)
        check_whole(self.embedding, "embedding", 1, 2**16)
        check_choice(self.norm, "norm", ("group", "none"))

    @property
    def stride(self) -> int:
        """What height and width must be multiples of."""
        return int(FOLD * 2 ** (len(self.widths) - 1))


class Block(nn.Module):
    """A residual block that is told something; its branch begins small."""

    def __init__(self, width: int, config: ReviserConfig) -> None:
        super().__init__()
        self.norm = group_norm(width, config.norm)
        self.told = nn.Linear(config.embedding, 2 * width)
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)
        self.first = convolution(width, width, gain=math.sqrt(2))
        self.second = convolution(width, width, gain=math.sqrt(2) * BRANCH)

    def forward(
        self, x: Tensor, told: Tensor, batch: int, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return (B * n, C, H, W), and what the next groups need of these."""
        scale, offset = self.told(told)[:, :, None, None].chunk(2, 1)
        y, past = shift(F.silu(self.norm(x) * (1 + scale) + offset), batch, past)
        return x + self.second(F.silu(self.first(y))), past


class Blocks(nn.ModuleList):
    """Some blocks in a row."""

    def __init__(self, count: int, width: int, config: ReviserConfig) -> None:
        super().__init__(Block(width, config) for _ in range(count))

    def forward(
        self, x: Tensor, told: Tensor, batch: int, past: Iterator[Tensor | None], new: Past
    ) -> Tensor:
        """Take each block's memory from ``past`` and append its next one to ``new``."""
        for block in self:
            x, memory = block(x, told, batch, next(past))
            new.append(memory)
        return x


class Reviser(nn.Module):
    """Revises videos whose frames come in groups.

    Raises:
        ValueError: there is no attribute that it could be told.

    >>> net = Reviser(ReviserConfig((("hair", ("red", "blue")),), widths=(8, 16), blocks=(1, 1)))
    >>> net(torch.rand(1, 8, 3, 16, 16), net.tell([{"hair": "blue"}])).shape
    torch.Size([1, 8, 3, 16, 16])
    """

    def __init__(self, config: ReviserConfig) -> None:
        super().__init__()
        if not config.attributes:
            raise ValueError("attributes must be one or more")
        self.config = config
        numbers = config.embedding
        # The first row of each is for what is left open.
        self.tables = nn.ModuleList(
            nn.Embedding(1 + len(values), numbers) for _, values in config.attributes
        )
        self.join = nn.Sequential(
            nn.Linear(numbers, numbers), nn.SiLU(), nn.Linear(numbers, numbers), nn.SiLU()
        )
        pixels = 3 * config.frames * FOLD**2
        widths = config.widths
        self.stem = convolution(pixels, widths[0])
        sizes = list(zip(config.blocks, widths, strict=True))
        self.down = nn.ModuleList(Blocks(count, width, config) for count, width in sizes)
        self.shrink = nn.ModuleList(
            convolution(4 * fine, coarse, size=1) for fine, coarse in itertools.pairwise(widths)
        )
        self.grow = nn.ModuleList(
            convolution(coarse, 4 * fine, size=1) for fine, coarse in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(Blocks(count, width, config) for count, width in sizes[:-1])
        self.last = group_norm(widths[0], config.norm)
        self.head = convolution(widths[0], pixels)
        nn.init.zeros_(self.head.weight)  # at first it changes nothing
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def tell(self, told: Iterable[dict[str, str]]) -> Tensor:
        """Return what videos are to show, as the network is told it: (B, attributes) int64.

        Args:
            told: the values of some attributes of each; others, and values that the network does
                not know, are left open.
        """
        rows = [
            [
                1 + values.index(one[name]) if one.get(name) in values else 0
                for name, values in self.config.attributes
            ]
            for one in told
        ]
        return torch.tensor(rows, dtype=torch.int64, device=self.head.weight.device)

    def forward(self, video: Tensor, told: Tensor) -> Tensor:
        """Return videos as they are told to be, about [0, 1] but not clamped.

        Args:
            video: (B, T, 3, H, W) in [0, 1], T a multiple of ``config.frames``, H and W of
                ``config.stride``.
            told: (B, attributes) int64, from :meth:`tell`.

        Raises:
            TypeError: the video is not floating-point.
            ValueError: a shape does not fit.
        """
        check_frames(video, self.config.stride)
        if video.shape[1] % self.config.frames:
            raise ValueError(
                f"video must have a multiple of {self.config.frames} frames, got {video.shape[1]}"
            )
        if told.shape != (len(video), len(self.tables)):
            wanted = len(video), len(self.tables)
            raise ValueError(f"told must be {wanted}, got shape {tuple(told.shape)}")
        return self._revise(video, self._join(told), None)[0]

    @torch.no_grad()
    def revise(self, groups: Iterable[Tensor], told: Tensor) -> Iterator[Tensor]:
        """Revise groups of frames as they come; memory does not grow with their number.

        Args:
            groups: each (B, ``config.frames``, 3, H, W) in [0, 1].
            told: see :meth:`forward`.

        Yields:
            Each revised, in [0, 1].
        """
        joined, past = self._join(told), None
        for group in groups:
            revised, past = self._revise(group, joined, past)
            yield revised.clamp(0, 1)

    def _join(self, told: Tensor) -> Tensor:
        found = [table(one) for table, one in zip(self.tables, told.unbind(1), strict=True)]
        joined: Tensor = self.join(torch.stack(found).sum(0))
        return joined

    def _revise(self, video: Tensor, told: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        batch, frames = len(video), self.config.frames
        memory = itertools.repeat(None) if past is None else iter(past)
        new: Past = []
        x = fold(video.flatten(0, 1) * 2 - 1, FOLD, frames)
        told = told.repeat_interleave(len(x) // batch, 0)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for level, shrink in zip(self.down, self.shrink, strict=False):
            x = level(x, told, batch, memory, new)
            skips.append(x)
            x = shrink(fold(x, 2, 1))
        x = self.down[-1](x, told, batch, memory, new)
        for level, grow, skip in zip(
            reversed(self.up), reversed(self.grow), reversed(skips), strict=True
        ):
            x = (unfold(grow(x), 2, 1) + skip) * math.sqrt(0.5)
            x = level(x, told, batch, memory, new)
        change = unfold(self.head(F.silu(self.last(x))), FOLD, frames).float()
        return video + 0.5 * change.view(video.shape), new  # pixels come in as [-1, 1]


def deepened(net: Reviser, config: ReviserConfig) -> Reviser:
    """Return a network of more blocks that does what another does, until it learns more.

    The new blocks come last of their level, and add nothing at first (after "Net2Net"; Chen et al.,
    ICLR 2016). They are the same ones each time.

    Args:
        net: the other.
        config: its own but for ``blocks``.

    Raises:
        ValueError: more than ``blocks`` differs, or a level has fewer.
    """
    before = net.config
    fewer = any(new < old for new, old in zip(config.blocks, before.blocks, strict=False))
    if fewer or replace(config, blocks=before.blocks) != before:
        raise ValueError("only blocks can differ, and no level can have fewer")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        deep = Reviser(config)
    learned, fresh = net.state_dict(), deep.state_dict()
    for name in fresh.keys() - learned.keys():
        if ".second." in name:
            nn.init.zeros_(fresh[name])
    deep.load_state_dict({**fresh, **learned})
    return deep


def reviser_from_card(settings: Mapping[str, Any]) -> Reviser:
    """Make a reviser by the configuration that a card of weights has."""
    attributes = attributes_from_card(settings.get("attributes", ()))
    return Reviser(ReviserConfig(**{**settings, "attributes": attributes}))
