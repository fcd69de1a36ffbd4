"""A causal transformer over media: words, pictures and videos, in any order.

A sequence is a list of *segments*, each one medium of an example as a row of *patches*. A patch of
text is a word. A patch of video is a square of 2 x 2 codes of the discrete VAE, and each code has a
few *digits* (the levels of finite scalar quantisation). The blocks see one vector per patch. A
small head then writes the digits of the next patch one after the other, each given those before it
(as in the RQ-Transformer, Lee et al., CVPR 2022), so the large part of the network runs once for
all digits of a patch.

Three additions let a small network learn from a few hundred clips:

- *Rotary embeddings* (Su et al., "RoFormer", 2021) along t, y and x: attention depends on how far
  apart two patches are, so a shape learned at one place is known at all places.
- *Neighbours*: the input of each place includes the patch above it and the patch that stood there
  one time step earlier, which attention would need long to find.
- *Pooled words*: the mean of the words is added at every place behind them. Attention finds single
  words, but learns late where to look.

:mod:`flowwarp.models.sampling` draws from the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.tensors import check_whole, check_wholes

Segment = tuple[str, Tensor]  # name of a medium, and its patches: digits (B, n, digits) of int64


@dataclass(frozen=True)
class MediumConfig:
    """What the patches of a medium look like.

    Args:
        name: of the medium.
        grid: (t, y, x), number of patches along each axis; (n, 1, 1) for text of n words.
        digits: number of values of each digit of a patch.
    """

    name: str
    grid: tuple[int, int, int]
    digits: tuple[int, ...]

    def __post_init__(self) -> None:
        check_wholes(self.grid, "grid", 1)
        if len(self.grid) != 3:
            raise ValueError(f"grid must be (t, y, x), got {self.grid}")
        check_wholes(self.digits, "digits", 2)

    @property
    def patches(self) -> int:
        """Number of patches of a complete segment."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the network.

    Args:
        width: channels of the residual stream, a multiple of ``2 * heads``.
        depth: number of blocks.
        heads: number of attention heads.
        digit_width: channels of the head that writes the digits of a patch.
    """

    width: int = 256
    depth: int = 6
    heads: int = 4
    digit_width: int = 128

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "digit_width"):
            check_whole(getattr(self, name), name, 1)
        if self.width % (2 * self.heads):
            raise ValueError(f"width ({self.width}) must be a multiple of 2 * heads ({self.heads})")


# ------------------------------------------------------------------ positions


def rotary_angles(grid: tuple[int, int, int], head: int) -> Tensor:
    """Return the angles that queries and keys are rotated by, (patches, head / 2).

    A third of the pairs of each head rotates with t, y and x each, at wavelengths from 6 to 400
    patches.
    """
    pairs = head // 2
    axes = torch.meshgrid(*(torch.arange(size).float() for size in grid), indexing="ij")
    shares = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    angles = [
        axis.reshape(-1, 1) * 64.0 ** -(torch.arange(share) / max(1, share))
        for axis, share in zip(axes, shares, strict=True)
    ]
    return torch.cat(angles, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate each pair (i, i + head / 2) of x, (B, heads, n, head), by its angle, (n, head / 2)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


# ------------------------------------------------------------------ blocks


class RMSNorm(nn.Module):
    """x / rms(x) over the last axis, without a learned scale: the matrix behind it has one."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., C) for (..., C)."""
        return F.rms_norm(x, x.shape[-1:])


class Attention(nn.Module):
    """Causal self-attention with normalised queries and keys."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        # A branch begins at 0, so that the stream keeps its scale at any depth (Fixup, Zhang et
        # al., ICLR 2019).
        nn.init.zeros_(self.out.weight)
        self.norm = RMSNorm()

    def project(self, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, (B, heads, n, head) each, of x (B, n, width)."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return rotate(self.norm(q), angles), rotate(self.norm(k), angles), v

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """Return (B, n, width) for x (B, n, width) and angles (n, head / 2)."""
        y = F.scaled_dot_product_attention(*self.project(x, angles), is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two matrices with GELU between them; its output begins at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width) for (..., width)."""
        return self.down(F.gelu(self.up(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm = RMSNorm()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config.width)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """Return (B, n, width) for x (B, n, width) and angles (n, head / 2)."""
        x = x + self.attention(self.norm(x), angles)
        return x + self.feed_forward(self.norm(x))  # type: ignore[no-any-return]


# ------------------------------------------------------------------ media


class PatchEmbedding(nn.Module):
    """From the patches of a medium to the inputs of the blocks that predict them."""

    first: Tensor

    def __init__(self, medium: MediumConfig, width: int) -> None:
        super().__init__()
        self.register_buffer("first", first_rows(medium.digits), persistent=False)
        rows = sum(medium.digits)
        self.patch = nn.EmbeddingBag(rows, width, mode="sum")
        # How many places back in the sequence the neighbours above and one time step earlier are.
        _, height, columns = medium.grid
        back = {columns, height * columns}
        self.back = sorted(places for places in back if 1 < places < medium.patches)
        self.neighbours = nn.ModuleList(nn.EmbeddingBag(rows, width, mode="sum") for _ in self.back)
        self.start = nn.Parameter(torch.empty(width))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.02)

    def embed(self, digits: Tensor) -> Tensor:
        """Return the vectors of patches, (B, n, width), of digits (B, n, digits)."""
        return self._sum(self.patch, digits)

    def forward(self, digits: Tensor) -> Tensor:
        """Return the input of each place, (B, n, width): all but its own patch may be in it.

        It is the sum of the vectors of the patch before, the patch above and the patch that stood
        there one time step earlier.
        """
        count = digits.shape[1]
        x = torch.cat([self.start.expand(len(digits), 1, -1), self.embed(digits[:, :-1])], 1)
        for back, table in zip(self.back, self.neighbours, strict=True):
            if count > back:
                x = x + F.pad(self._sum(table, digits[:, :-back]), (0, 0, back, 0))
        return x

    def at(self, digits: Tensor, index: int) -> Tensor:
        """Return the input of one place, (B, 1, width); only patches before it are read."""
        if index == 0:
            return self.start.expand(len(digits), 1, -1)
        x = self.embed(digits[:, index - 1 : index])
        for back, table in zip(self.back, self.neighbours, strict=True):
            if index >= back:
                x = x + self._sum(table, digits[:, index - back : index - back + 1])
        return x

    def _sum(self, table: nn.Module, digits: Tensor) -> Tensor:
        rows: Tensor = table((digits + self.first).flatten(0, 1))
        return rows.view(*digits.shape[:2], rows.shape[-1])


class DigitHead(nn.Module):
    """Predicts the digits of a patch one after the other, from the output of the blocks."""

    first: Tensor

    def __init__(self, medium: MediumConfig, width: int, digit_width: int) -> None:
        super().__init__()
        self.register_buffer("first", first_rows(medium.digits), persistent=False)
        self.enter = nn.Linear(width, digit_width, bias=False)
        self.digit = nn.Embedding(sum(medium.digits), digit_width)
        self.slot = nn.Parameter(torch.empty(len(medium.digits), digit_width))
        self.norm = RMSNorm()
        self.mix = FeedForward(digit_width)
        self.out = nn.ModuleList(nn.Linear(digit_width, size) for size in medium.digits)
        nn.init.normal_(self.digit.weight, std=0.02)
        nn.init.normal_(self.slot, std=0.02)
        for layer in self.out:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def predict(self, state: Tensor, slot: int) -> Tensor:
        """Return the logits of one digit, (..., its values), float32.

        Args:
            state: (..., digit_width), the sum of ``enter(x)`` and of ``written`` of all digits
                before.
            slot: which digit of the patch.
        """
        z = state + self.slot[slot]
        z = z + self.mix(self.norm(z))
        logits: Tensor = self.out[slot](self.norm(z))
        return logits.float()

    def written(self, digit: Tensor, slot: int) -> Tensor:
        """Return what a digit adds to the state, (..., digit_width), for digit (...) of int64."""
        return self.digit(digit + self.first[slot])  # type: ignore[no-any-return]

    def logits(self, x: Tensor, digits: Tensor) -> list[Tensor]:
        """Return the logits of each digit given all before it, (B, n, its values) each.

        Args:
            x: (B, n, width), output of the blocks at each place.
            digits: (B, n, digits), the patches at these places.
        """
        state, logits = self.enter(x), []
        for slot, digit in enumerate(digits.unbind(2)):
            logits.append(self.predict(state, slot))
            state = state + self.written(digit, slot)
        return logits

    def forward(self, x: Tensor, digits: Tensor) -> Tensor:
        """Return -log p of each digit given all before it, (B, n, digits), in nats."""
        losses = [
            F.cross_entropy(logits.flatten(0, 1), digit.flatten(), reduction="none")
            for logits, digit in zip(self.logits(x, digits), digits.unbind(2), strict=True)
        ]
        return torch.stack(losses, -1).view(digits.shape)


def first_rows(digits: Sequence[int]) -> Tensor:
    """Return the row of value 0 of each digit, in a table of the values of all digits."""
    return torch.tensor([0, *digits[:-1]]).cumsum(0)


# ------------------------------------------------------------------ network


class GPT(nn.Module):
    """The transformer.

    Args:
        config: its sizes.
        media: what sequences are made of. The first is text: a patch has one digit, the number of
            a word, and 0 is padding.

    >>> text = MediumConfig("text", (3, 1, 1), (9,))
    >>> video = MediumConfig("video", (2, 2, 2), (4, 4))
    >>> net = GPT(GPTConfig(width=16, depth=1, heads=2), (text, video))
    >>> words, patches = torch.tensor([[[5], [7], [0]]]), torch.zeros(1, 8, 2, dtype=torch.int64)
    >>> [tuple(nats.shape) for nats in net([("text", words), ("video", patches)])]
    [(1, 3, 1), (1, 8, 2)]
    """

    def __init__(self, config: GPTConfig, media: Sequence[MediumConfig]) -> None:
        super().__init__()
        self.config, self.media = config, tuple(media)
        self.embeddings = nn.ModuleDict(
            {medium.name: PatchEmbedding(medium, config.width) for medium in media}
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm()
        self.heads = nn.ModuleDict(
            {m.name: DigitHead(m, config.width, config.digit_width) for m in media}
        )
        self.pool = nn.Linear(config.width, config.width, bias=False)
        for medium in media:
            angles = rotary_angles(medium.grid, config.width // config.heads)
            if medium.name == self.text:  # words stand along t, before the first frame
                longer = rotary_angles((medium.patches + 1, 1, 1), config.width // config.heads)
                angles = longer[:-1] - longer[-1]
            self.register_buffer(f"angles_{medium.name}", angles, persistent=False)

    @property
    def text(self) -> str:
        """Name of the medium that is text."""
        return self.media[0].name

    def medium(self, name: str) -> MediumConfig:
        """Return the medium of a name.

        Raises:
            ValueError: there is none.
        """
        for medium in self.media:
            if medium.name == name:
                return medium
        names = ", ".join(medium.name for medium in self.media)
        raise ValueError(f"no medium {name!r}; this network has {names}")

    def angles(self, name: str) -> Tensor:
        """Return the rotary angles of a medium's places, (patches, head / 2)."""
        return self.get_buffer(f"angles_{name}")

    def pooled_words(self, words: Tensor) -> Tensor:
        """Return the mean of the words that are not padding, (B, 1, width), of words (B, n, 1)."""
        known = (words > 0).float()
        embedding = self.embeddings[self.text]
        assert isinstance(embedding, PatchEmbedding)
        mean = (embedding.embed(words) * known).sum(1) / known.sum(1).clamp_min(1)
        return self.pool(mean)[:, None]  # type: ignore[no-any-return]

    def outputs(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Return the output of the blocks at the places of each segment, (B, n, width)."""
        inputs: list[Tensor] = []
        words = last = None  # (B, 1, width) each: pooled words, and the patch before a segment
        for name, digits in segments:
            embedding = self.embeddings[name]
            assert isinstance(embedding, PatchEmbedding)
            x = embedding(digits)
            if last is not None:
                x = torch.cat([x[:, :1] + last, x[:, 1:]], 1)
            inputs.append(x if words is None else x + words)
            last = embedding.embed(digits[:, -1:])
            if name == self.text:
                words = self.pooled_words(digits)
        angles = torch.cat([self.angles(name)[: d.shape[1]] for name, d in segments])
        x = torch.cat(inputs, 1)  # (B, all patches, width)
        for block in self.blocks:
            x = block(x, angles)
        return list(self.norm(x).split([digits.shape[1] for _, digits in segments], 1))

    def forward(
        self, segments: Sequence[Segment], inputs: Sequence[Segment] | None = None
    ) -> list[Tensor]:
        """Return -log p of every digit of each segment, given what is before it in the sequence.

        Args:
            segments: in their order; a segment may end early.
            inputs: what the blocks see instead of the segments, of the same shapes: in training,
                some patches are replaced. A digit is always given the true ones of its own patch.

        Returns:
            For each segment (B, n, digits), in nats.
        """
        outputs = self.outputs(segments if inputs is None else inputs)
        return [
            self.heads[name](output, digits)
            for output, (name, digits) in zip(outputs, segments, strict=True)
        ]
