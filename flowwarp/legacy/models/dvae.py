"""The discrete VAE: video to a small grid of integers, and back.

Frames are folded into channels step by step (space and time to depth), a latent of a few numbers
at each place is rounded to integers, and the way out unfolds them again. By default 16 frames of
64 x 64 become 4 x 16 x 16 codes, each two numbers out of 1,000.

*The way in* sees nothing but a code's own pixels, a block of 4 x 4 in four frames. So a thing has
the same codes wherever it stands. Of an encoder that looks around, what it writes of a figure
changes with the ground behind it: of the digits of cells that lie wholly within a figure, 9 of 100
stayed the same before another ground. To a transformer that is noise. (``config.correction``
looks at what becomes of a code, neighbours included, but moves only those whose colour is off.)

*The way out* looks around, and back. Frames come in groups of ``config.stride_time`` (4); group
``j`` of the output is made of the token frames up to ``j``: nothing looks ahead. So codes can be
decoded while later ones are still being sampled, and both directions stream. A clip of any length
is filled up to whole groups by repeating its last frame; one frame alone is thus a group of four
equal frames, and its codes stand for a still picture. What came before the first frame is taken to
be equal to it.

Convolutions are two-dimensional, over each frame; what joins frames, besides the folding, is that
a quarter of each block's channels come from the frame before (temporal shift, Lin et al., ICCV
2019), which costs nothing and needs one frame to be remembered.

Where a code of a place would need to be one of millions, it is several digits: numbers of a latent
in groups (product quantisation), or vectors that are added up; by default two of 1,000 each.

Quantisation is finite scalar (Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple",
ICLR 2024), by Gumbel-softmax (Jang et al., ICLR 2017, as in DALL-E, Ramesh et al., 2021), or by the
nearest of some vectors, then the nearest to what is left (:class:`Residual`). The steps out begin
as the copies to all neighbours of DC-AE (Chen et al., "Deep Compression Autoencoder", ICLR 2025).
Residual branches begin small, so that the untrained way in is near a linear one, whose latent
:func:`initialise_latent` takes from principal components.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.models._layers import GROUPS, convolution, group_norm
from flowwarp.tensors import check_choice, check_frames, check_number, check_whole, check_wholes

_MOST_CODES = 2**31
_MOST_PARTS = 31  # of a code, each of two values or more
BRANCH = 0.1  # scale at which residual branches begin
SHIFTED = 4  # one of so many channels comes from the frame before
_MOST_VECTORS = 4096  # in a book, as products of all pairs of two books are made
_MOST_BEAMS = 64  # with which each place takes sixteen times as long as with the usual four
_WRONG = 0.06  # error of a colour, in [-1, 1], from which a place is corrected: 8 steps of 256
_AT_ONCE = 8192  # points whose distances are compared
_SUMS_AT_ONCE = 2**21  # distances that are compared: few enough to stay in the processor's cache

Past = list[Tensor]  # for each block in order, the channels that its next frame takes over


@dataclass(frozen=True)
class DVAEConfig:
    """Layout and sizes of the network; of the way out one entry a stage, from pixels to codes.

    Args:
        strides: by how much each stage divides height and width.
        strides_time: by how much each stage divides the number of frames.
        widths: channels; each a multiple of the one before.
        encoder: residual blocks of the way in, which see one place alone; 0 with residual.
        decoder: residual blocks of the way out.
        quantiser: ``fsq``, ``gumbel`` or ``residual``.
        levels: into how many steps each number of a group of the latent is rounded (fsq).
        groups: of numbers (fsq), or books of vectors (residual); each counts as a digit of the
            code, the first one the most.
        entries: how many codes there are (gumbel), or vectors in a book (residual; up to 4096).
        beams: how many sums of vectors are followed from book to book, before the nearest is taken
            (residual); 1 takes the nearest vector of each book, and more than 64, or than entries,
            are refused.
        chroma: how much a difference of colour counts in what is near, against one of lightness
            (residual), from 0.001 to 100. Most of what differs in pictures is light and dark; what
            is told is colours.
        correction: how much of what is wrong with the colour of a place, once it is decoded, is
            added to what its code is chosen for anew (residual; from 0, not at all, to 2).
        norm: of the way out: ``group`` normalises over groups of channels of one frame; ``none``
            does not.
    """

    strides: tuple[int, ...] = (2, 2, 1)
    strides_time: tuple[int, ...] = (1, 2, 2)
    widths: tuple[int, ...] = (48, 96, 192)
    encoder: int = 3
    decoder: tuple[int, ...] = (1, 2, 2)
    quantiser: Literal["fsq", "gumbel", "residual"] = "fsq"
    levels: tuple[int, ...] = (8, 5, 5, 5)
    groups: int = 2
    entries: int = 1024
    beams: int = 1
    chroma: float = 1.0
    correction: float = 0.0
    norm: Literal["group", "none"] = "none"

    def __post_init__(self) -> None:
        check_wholes(self.widths, "widths", 1)
        stages = len(self.widths)
        for name in ("strides", "strides_time", "decoder"):
            check_wholes(getattr(self, name), name, 0 if name == "decoder" else 1)
            if len(getattr(self, name)) != stages:
                raise ValueError(f"{name} must have one entry for each of {stages} widths")
        if any(width % GROUPS for width in self.widths):
            raise ValueError(f"widths must be multiples of {GROUPS}")
        for stage in range(1, stages):
            parts = self.strides[stage] ** 2 * self.strides_time[stage]
            ratio, rest = divmod(self.widths[stage], self.widths[stage - 1])
            if rest or parts % ratio:
                raise ValueError(
                    f"widths[{stage}] must be widths[{stage - 1}] times a divisor of {parts}, "
                    "the number of pixels that the stage folds into one"
                )
        check_whole(self.encoder, "encoder", 0)
        check_choice(self.quantiser, "quantiser", ("fsq", "gumbel", "residual"))
        if self.encoder and self.quantiser == "residual":
            raise ValueError("encoder must be 0 with residual, whose vectors are of pixels")
        check_wholes(self.levels, "levels", 2)
        if len(self.levels) > _MOST_PARTS:
            raise ValueError(f"levels must be at most {_MOST_PARTS}, got {len(self.levels)}")
        check_whole(self.entries, "entries", 2)
        if self.quantiser == "residual" and self.entries > _MOST_VECTORS:
            raise ValueError(f"entries must be at most {_MOST_VECTORS} with residual")
        check_whole(self.beams, "beams", 1, _MOST_BEAMS)
        if self.beams > self.entries:
            raise ValueError(f"beams must be at most entries, got {self.beams}")
        check_number(self.chroma, "chroma", 1e-3, 100)
        check_number(self.correction, "correction", 0, 2)
        if self.correction and self.quantiser != "residual":
            raise ValueError("correction must be 0 but with residual, whose vectors are of pixels")
        check_choice(self.norm, "norm", ("group", "none"))
        check_whole(self.groups, "groups", 1, _MOST_PARTS)
        if self.codes > _MOST_CODES:
            raise ValueError(f"groups must have at most {_MOST_CODES} codes in all")

    @property
    def stride(self) -> int:
        """Height and width of the video over those of the codes."""
        return math.prod(self.strides)

    @property
    def stride_time(self) -> int:
        """Frames of a group: number of frames over that of token frames."""
        return math.prod(self.strides_time)

    @property
    def book(self) -> int:
        """How many values each digit of a code has."""
        return math.prod(self.levels) if self.quantiser == "fsq" else self.entries

    @property
    def dimensions(self) -> tuple[int, ...]:
        """How many values each number has that a digit is made of."""
        return self.levels if self.quantiser == "fsq" else (self.book,)

    @property
    def digits(self) -> int:
        """Of which a code is made."""
        return 1 if self.quantiser == "gumbel" else self.groups

    @property
    def codes(self) -> int:
        """How many different codes there are."""
        return int(self.book**self.digits)


BASE = DVAEConfig(
    encoder=0, quantiser="residual", entries=1000, beams=4, chroma=1.75, correction=0.5
)
SMALL = DVAEConfig(widths=(32, 64, 128), encoder=2, decoder=(1, 1, 2))
TINY = DVAEConfig(widths=(16, 32, 64), encoder=1, decoder=(1, 0, 1))


# ------------------------------------------------------------------ blocks

# Features of all frames of all examples are one batch of images, (B * T, C, H, W), the frames of
# an example in a row. They are kept channels-last, where folding moves whole pixels.


def fold(x: Tensor, stride: int, stride_time: int) -> Tensor:
    """Turn a block of pixels into channels: (N, C, H, W) to (N / st, st * s * s * C, H / s, W / s).

    The order of the channels is: frame, row and column within the block, channel.
    """
    _, channels, height, width = x.shape
    s, st, h, w = stride, stride_time, height // stride, width // stride
    x = x.permute(0, 2, 3, 1).reshape(-1, st, h, s, w, s, channels)
    x = x.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, h, w, st * s * s * channels)
    return x.permute(0, 3, 1, 2)


def unfold(x: Tensor, stride: int, stride_time: int) -> Tensor:
    """Undo :func:`fold`."""
    _, channels, h, w = x.shape
    s, st, channels = stride, stride_time, channels // (stride_time * stride**2)
    x = x.permute(0, 2, 3, 1).reshape(-1, h, w, st, s, s, channels)
    x = x.permute(0, 3, 1, 4, 2, 5, 6).reshape(-1, h * s, w * s, channels)
    return x.permute(0, 3, 1, 2)


def shift(x: Tensor, batch: int, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """Let the first quarter of the channels come from the frame before.

    Args:
        x: (B * T, C, H, W).
        batch: B.
        past: (B, C / 4, H, W), what the call before returned; None before the first frame, which
            then counts as its own past.

    Returns:
        The same with channels shifted, and what the call on the next frames needs.
    """
    moved = x.shape[1] // SHIFTED
    frames = _by_example(x, batch)
    own = frames[:, :, :moved]
    first = own[:, 0] if past is None else past
    before = torch.cat([first[:, None], own[:, :-1]], 1)
    return torch.cat([before.flatten(0, 1), x[:, moved:]], 1), own[:, -1]


def _by_example(x: Tensor, batch: int) -> Tensor:
    return x.reshape(batch, -1, *x.shape[1:])  # (B, T, ...)


class Block(nn.Module):
    """A residual block; its branch begins small, so that depth does not change the variance."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.norm = group_norm(width, norm)
        self.first = convolution(width, width, gain=math.sqrt(2))
        self.second = convolution(width, width, gain=math.sqrt(2) * BRANCH)

    def forward(self, x: Tensor, batch: int, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (B * T, C, H, W) and what the next frames need of these."""
        y, past = shift(F.silu(self.norm(x)), batch, past)
        return x + self.second(F.silu(self.first(y))), past


class Pointwise(nn.Module):
    """A residual block that sees one place alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(width, 2 * width, size=1, gain=math.sqrt(2))
        self.second = convolution(2 * width, width, size=1, gain=math.sqrt(2) * BRANCH)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W)."""
        added: Tensor = self.second(F.silu(self.first(x)))
        return x + added


class Up(nn.Module):
    """Mix channels, beginning with copies for all neighbours, then unfold.

    DC-AE adds these copies, which have no parameters, to a convolution. As both are linear here,
    they are where the convolution begins: the same function and gradient in one pass, not two.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, stride_time: int) -> None:
        super().__init__()
        self.strides = stride, stride_time
        parts = stride_time * stride**2
        self.mix = convolution(inputs, parts * outputs, size=1, gain=BRANCH)
        ratio = inputs // outputs
        copies = parts // ratio
        # Where channel c of neighbour (a, b) reads input channel (a, c).
        weight = self.mix.weight.detach().view(ratio, copies, outputs, ratio, outputs)
        weight.diagonal(0, 0, 3).diagonal(0, 1, 2).add_(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (st * N, outputs, s * H, s * W)."""
        return unfold(self.mix(x), *self.strides)


class Blocks(nn.ModuleList):
    """Some blocks in a row."""

    def __init__(self, count: int, width: int, norm: str) -> None:
        super().__init__(Block(width, norm) for _ in range(count))

    def forward(self, x: Tensor, batch: int, past: Iterator[Tensor | None], new: Past) -> Tensor:
        """Take each block's memory from ``past`` and append its next one to ``new``."""
        for block in self:
            x, memory = block(x, batch, next(past))
            new.append(memory)
        return x


def _memory(past: Past | None) -> Iterator[Tensor | None]:
    return itertools.repeat(None) if past is None else iter(past)


class Encoder(nn.Module):
    """From frames to features of each block of pixels, which begin as the pixels themselves."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.block = config.stride, config.stride_time
        self.width = 3 * config.stride**2 * config.stride_time
        self.layers = nn.Sequential(*(Pointwise(self.width) for _ in range(config.encoder)))

    def forward(self, video: Tensor) -> Tensor:
        """Return (B * t, width, h, w) of (B, T, 3, H, W) in [0, 1]."""
        features: Tensor = self.layers(fold(video.flatten(0, 1) * 2 - 1, *self.block))
        return features


class Decoder(nn.Module):
    """From features at the resolution of the codes to frames."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.patch = config.strides[0], config.strides_time[0]
        outputs = 3 * self.patch[0] ** 2 * self.patch[1]
        widths, strides = config.widths, zip(config.strides, config.strides_time, strict=True)
        steps = [
            Up(b, a, *stride)
            for (a, b), stride in zip(
                itertools.pairwise(widths), itertools.islice(strides, 1, None), strict=True
            )
        ]
        self.stages = nn.ModuleList(
            Blocks(count, width, config.norm)
            for count, width in zip(reversed(config.decoder), reversed(widths), strict=True)
        )
        self.steps = nn.ModuleList(reversed(steps))
        # What is added to vectors, which are pixels, begins small.
        gain = BRANCH if config.quantiser == "residual" else 1.0
        self.head = convolution(widths[0], outputs, gain=gain)

    def forward(self, x: Tensor, batch: int, past: Past | None) -> tuple[Tensor, Past]:
        """Return frames (B * T, 3, H, W), about [0, 1], of (B * t, width, h, w); the new past."""
        memory, new = _memory(past), Past()
        x = self.stages[0](x, batch, memory, new)
        for step, stage in zip(self.steps, self.stages[1:], strict=True):
            x = stage(step(x), batch, memory, new)
        return unfold(self.head(x), *self.patch).float() * 0.5 + 0.5, new


# ------------------------------------------------------------------ quantisers


class FSQ(nn.Module):
    """Rounds each number of the latent to one of a few levels; a code counts all combinations.

    A number ``x`` is bounded to ``tanh(0.8 x)``, which for the unit normal distribution that
    :meth:`penalty` asks for is about uniform, then (-1, 1) is cut into L equal parts and the middle
    of the part is taken: ``(2 i + 1) / L - 1`` for i = 0 … L - 1. (Mentzer et al. round so that
    the outer parts are half as wide, and shift where L is even; with equal parts all codes are
    used equally often, and even and odd L are alike.) The gradient passes as if nothing were
    rounded.
    """

    steepness = 0.8

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.inputs = self.outputs = len(levels)
        sizes = torch.tensor(levels)
        self.register_buffer("levels", sizes, persistent=False)
        # As digits of a number: the first one counts the most.
        weights = [math.prod(levels[place + 1 :]) for place in range(len(levels))]
        self.register_buffer("weights", torch.tensor(weights), persistent=False)
        self.levels: Tensor
        self.weights: Tensor

    def forward(self, latent: Tensor, mix: float) -> tuple[Tensor, Tensor]:
        """Return values in (-1, 1), rounded to the share ``mix``, and codes.

        Args:
            latent: (..., D) float32.
            mix: 0 for not rounded, 1 for rounded, between them the mean of both.
        """
        bounded = torch.tanh(self.steepness * latent)
        codes = self.codes(bounded.detach())
        return bounded + mix * (self.values(codes) - bounded).detach(), codes

    def codes(self, values: Tensor) -> Tensor:
        """Return the codes (...) int64 of values (..., D) in [-1, 1]."""
        places = torch.floor((values.float() + 1) * 0.5 * self.levels).long()
        return (places.clamp_min(0).minimum(self.levels - 1) * self.weights).sum(-1)

    def digits(self, codes: Tensor) -> Tensor:
        """Return which level each number has, (..., D) int64, of codes (...)."""
        return codes[..., None] // self.weights % self.levels

    def values(self, codes: Tensor) -> Tensor:
        """Return the values (..., D) float32 of codes (...)."""
        return (2 * self.digits(codes) + 1).float() / self.levels - 1

    def penalty(self, latent: Tensor) -> Tensor:
        """Return how far each number's mean and spread over an example are from 0 and 1, (B,).

        Without it the spread grows or shrinks until few levels are in use.
        """
        flat = latent.flatten(1, -2)  # (B, positions, D)
        mean = flat.mean(1)
        spread = (flat.var(1, correction=0) + 1e-6).sqrt()
        return (mean.square() + (spread - 1).square()).mean(1)


class Gumbel(nn.Module):
    """Chooses one of several vectors by softmax with Gumbel noise.

    Training samples a soft choice, whose temperature falls from 1 to 1/16 with ``mix`` (DALL-E);
    otherwise the most likely vector is taken.
    """

    coldest = 1 / 16

    def __init__(self, entries: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = entries, outputs
        self.book = nn.Parameter(torch.randn(entries, outputs) / math.sqrt(outputs))

    def forward(
        self, latent: Tensor, mix: float, seeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return vectors (B, ..., D) and codes (B, ...) of logits (B, ..., entries).

        Seeds (B,) int64 are of each example's noise; without, it is torch's global generator's.
        """
        codes = latent.detach().argmax(-1)
        if not self.training:
            return self.values(codes), codes
        temperature = self.coldest**mix
        choice = ((latent + _gumbel_noise(latent, seeds)) / temperature).softmax(-1)
        return choice @ self.book, codes

    def values(self, codes: Tensor) -> Tensor:
        """Return the vectors (..., D) of codes (...)."""
        return F.embedding(codes, self.book)

    def penalty(self, latent: Tensor) -> Tensor:
        """Return the divergence from choosing all codes equally often, in nats, (B,)."""
        logarithms = latent.log_softmax(-1)
        divergence = (logarithms.exp() * logarithms).sum(-1) + math.log(self.inputs)
        return divergence.flatten(1).mean(1)


def _gumbel_noise(like: Tensor, seeds: Tensor | None) -> Tensor:
    """Return noise of a shape (B, ...), of each example what its seed says, alone."""
    if seeds is None:
        return -torch.empty_like(like).exponential_().log()
    drawn = [
        like.new_empty(like.shape[1:], device="cpu").exponential_(
            generator=torch.Generator().manual_seed(seed)
        )
        for seed in seeds.tolist()
    ]
    return -torch.stack(drawn).log().to(like.device)


class Residual(nn.Module):
    """Takes the nearest vector of a book, then of the next book the nearest to what is left.

    The code has one digit for each book, and stands for the sum (Gray, "Vector Quantization", IEEE
    ASSP Magazine 1984; Zeghidour et al., "SoundStream", 2021). Vectors are blocks of pixels, found
    by k-means before training (:func:`legacy.train.dvae.fit_codebooks`) and fixed from then on:
    what learns is the way out. A few blocks are most of what there is in drawn pictures, and codes
    that may lie anywhere fit them better than the points of a grid.

    The nearest vector of the first book need not lead to the nearest sum, so several are followed
    (beam search; "M-search" in Barnes, Rizvi and Nasrabadi, "Advances in Residual Vector
    Quantization", IEEE Transactions on Image Processing 1996).
    """

    def __init__(
        self, entries: int, books: int, width: int, beams: int = 1, chroma: float = 1.0
    ) -> None:
        super().__init__()
        self.inputs = self.outputs = width
        self.beams, self.chroma = beams, chroma
        self.register_buffer("books", torch.zeros(books, entries, width))  # until they are found
        self.books: Tensor

    def forward(self, latent: Tensor, mix: float) -> tuple[Tensor, Tensor]:
        """Return sums of vectors, mixed with what they stand for as by `FSQ`, and codes."""
        codes = self.codes(latent.detach())
        return latent + mix * (self.values(codes) - latent).detach(), codes

    def codes(self, latent: Tensor) -> Tensor:
        """Return the codes (...) int64 of (..., D)."""
        points = weigh_colors(latent.float().flatten(0, -2), self.chroma)
        books = weigh_colors(self.books.float(), self.chroma)
        # What vectors of a book have in common with those of each book before it.
        common = [[before @ book.T for before in books[:place]] for place, book in enumerate(books)]
        parts = torch.split(points, max(1, _SUMS_AT_ONCE // (self.beams * books.shape[1])))
        found = [self._search(part, books, common) for part in parts]
        return torch.cat(found).view(latent.shape[:-1])

    def _search(self, points: Tensor, books: Tensor, common: list[list[Tensor]]) -> Tensor:
        """Return the codes (N,) of points (N, D): of sums of vectors, one of each of the books.

        With a sum s of vectors a, half the squared distance of s + b to a point x is that of s,
        and |b|² / 2 - x b + Σ a b, whose products are of points or of books, once for all sums.
        """
        entries = books.shape[1]
        far = points.new_zeros(len(points), 1)  # each sum that is followed, less half of |x|²
        digits: list[Tensor] = []  # of these sums, (N, sums) for each book
        for place, book in enumerate(books):
            sums = far[..., None] + _nearness(points, book)[:, None]  # (N, sums, entries)
            for chosen, products in zip(digits, common[place], strict=True):
                sums += F.embedding(chosen, products)
            most = min(self.beams, sums[0].numel()) if place + 1 < len(books) else 1
            far, best = sums.flatten(1).topk(most, largest=False)
            before, digit = best // entries, best % entries
            digits = [*(chosen.take_along_dim(before, 1) for chosen in digits), digit]
        code = torch.zeros_like(digits[0])
        for digit in digits:
            code = code * entries + digit
        return code[:, 0]

    def values(self, codes: Tensor) -> Tensor:
        """Return the sums of vectors (..., D) float32 of codes (...)."""
        books = self.books.float()
        places = [len(books[0]) ** power for power in reversed(range(len(books)))]
        digits = [codes // place % len(books[0]) for place in places]
        total = F.embedding(digits[0], books[0])
        for digit, book in zip(digits[1:], books[1:], strict=True):
            total = total + F.embedding(digit, book)
        return total

    def penalty(self, latent: Tensor) -> Tensor:
        """Return nothing to be had, (B,): the latent is not learned."""
        return latent.new_zeros(len(latent))


def weigh_colors(pixels: Tensor, chroma: float) -> Tensor:
    """Return pixels (..., 3 P) whose differences from gray are so many times as large."""
    if chroma == 1:
        return pixels
    colors = pixels.reshape(*pixels.shape[:-1], -1, 3)
    gray = colors.mean(-1, keepdim=True)
    return torch.lerp(gray, colors, chroma).flatten(-2)


def nearest(points: Tensor, vectors: Tensor) -> Tensor:
    """Return which of some vectors (E, D) is nearest to each of (N, D), (N,) int64."""
    # In parts, so that distances of a large picture do not fill the memory.
    parts = torch.split(points, _AT_ONCE)
    return torch.cat([_nearness(part, vectors).argmin(1) for part in parts])


def _nearness(points: Tensor, vectors: Tensor) -> Tensor:
    """Return half of the squared distances of (N, D) to (E, D), less half of the points' squares.

    What is left out, of (N, E), is the same for all vectors.
    """
    return torch.addmm(vectors.square().sum(1) / 2, points, vectors.T, alpha=-1)


# ------------------------------------------------------------------ the network


@dataclass(frozen=True)
class Reconstruction:
    """What the network makes of a video.

    Args:
        video: (B, T, 3, H, W) float32, about [0, 1] but not clamped.
        latent: (B, t, h, w, D) float32, before it is rounded.
        codes: (B, t, h, w) int64.
    """

    video: Tensor
    latent: Tensor
    codes: Tensor


class DVAE(nn.Module):
    """Video of any length to codes and back.

    >>> net = DVAE(TINY).eval()
    >>> codes = net.encode(torch.rand(1, 10, 3, 32, 48))
    >>> codes.shape
    torch.Size([1, 3, 8, 12])
    >>> net.decode(codes).shape
    torch.Size([1, 12, 3, 32, 48])
    """

    def __init__(self, config: DVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DVAEConfig()
        width = config.widths[-1]
        self.encoder = Encoder(config)
        self.quantiser: FSQ | Gumbel | Residual
        self.to_latent: nn.Module
        if config.quantiser == "residual":
            self.quantiser = Residual(
                config.entries, config.groups, self.encoder.width, config.beams, config.chroma
            )
            self.to_latent = nn.Identity()
        else:
            self.quantiser = (
                FSQ(config.levels * config.groups)
                if config.quantiser == "fsq"
                else Gumbel(config.entries, width)
            )
            self.to_latent = convolution(self.encoder.width, self.quantiser.inputs, size=1)
        self.from_latent = convolution(self.quantiser.outputs, width, size=1)
        self.decoder = Decoder(config)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, video: Tensor, mix: float = 1.0, seeds: Tensor | None = None
    ) -> Reconstruction:
        """Encode, round and decode.

        Args:
            video: (B, T, 3, H, W) in [0, 1]; T a multiple of ``config.stride_time``.
            mix: how much of the rounding happens, in [0, 1].
            seeds: (B,) int64, of each example's Gumbel noise in training, so that it does not hang
                on what else is in the batch; without, it is torch's global generator's.

        Raises:
            TypeError: the video is not floating-point.
            ValueError: its shape does not fit the strides.
        """
        check_frames(video, self.config.stride)
        if video.shape[1] % self.config.stride_time:
            raise ValueError(
                f"video must have a multiple of {self.config.stride_time} frames, "
                f"got {video.shape[1]}"
            )
        batch = len(video)
        latent = self._to_latent(video)
        with _fp32(video):
            if isinstance(self.quantiser, Gumbel):
                values, codes = self.quantiser(latent, mix, seeds)
            else:
                values, codes = self.quantiser(latent, mix)
        decoded, _ = self._from_values(values, None)
        return Reconstruction(_by_example(decoded, batch), latent, codes)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Return the codes of a video.

        Args:
            video: (B, T, 3, H, W) in [0, 1], T from 1. The last group of frames is filled up by
                repeating the last one.

        Returns:
            (B, ceil(T / stride_time), H / stride, W / stride) int64 in [0, ``config.codes``).

        Raises:
            TypeError: the video is not floating-point.
            ValueError: its shape does not fit the strides.
        """
        check_frames(video, self.config.stride)
        missing = -video.shape[1] % self.config.stride_time
        if missing:
            video = torch.cat([video, video[:, -1:].expand(-1, missing, -1, -1, -1)], 1)
        latent = self._to_latent(video)
        codes = self._choose(latent)
        return self._correct(codes, latent) if self.config.correction else codes

    @torch.no_grad()
    def decode(self, codes: Tensor, frames: int | None = None) -> Tensor:
        """Return the video that codes stand for.

        Args:
            codes: (B, t, h, w) integers in [0, ``config.codes``).
            frames: how many to keep, where the last group was filled up (1 for a still picture).

        Returns:
            (B, t * stride_time, 3, h * stride, w * stride) float32 in [0, 1], or ``frames``.

        Raises:
            ValueError: a wrong shape, a code that does not exist, or ``frames`` is no whole number
                from 1.
        """
        if frames is not None:
            check_whole(frames, "frames", 1)
        if codes.ndim != 4 or not codes.numel():
            raise ValueError(f"codes must be (B, t, h, w), got shape {tuple(codes.shape)}")
        parts = (codes[:, place : place + 1] for place in range(codes.shape[1]))
        return torch.cat(list(self.decode_stream(parts)), 1)[:, :frames]

    @torch.no_grad()
    def decode_stream(self, codes: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode token frames as they come; the memory needed does not grow with their number.

        Args:
            codes: each (B, 1, h, w).

        Yields:
            (B, stride_time, 3, H, W) in [0, 1] for each, bit for bit what :meth:`decode` returns.

        Raises:
            ValueError: a wrong shape, or a code that does not exist.
        """
        past: Past | None = None
        for part in codes:
            if part.ndim != 4 or part.shape[1] != 1:
                raise ValueError(f"codes must be (B, 1, h, w) each, got shape {tuple(part.shape)}")
            if part.is_floating_point() or part.amin() < 0 or part.amax() >= self.config.codes:
                raise ValueError(f"codes must be integers from 0 to {self.config.codes - 1}")
            group, past = self._from_values(self.quantiser.values(part.long()), past)
            yield _by_example(group, len(part)).clamp(0, 1)

    def coding(self) -> tuple[nn.Module, ...]:
        """Return the parts that decide what codes mean."""
        books = (self.quantiser,) if isinstance(self.quantiser, Residual) else ()
        return self.encoder, self.to_latent, *books

    def _choose(self, latent: Tensor) -> Tensor:
        with _fp32(latent):
            codes: Tensor = self.quantiser(latent, 1.0)[1]
        return codes

    def _correct(self, codes: Tensor, latent: Tensor) -> Tensor:
        """Return codes (B, t, h, w) of which fewer are decoded in another colour.

        Vectors are means, so paler than most that they stand for, and the way out mixes what is
        next to each other. So what the colour of a place lacks once it is decoded is added to what
        its code is chosen for (analysis by synthesis, as codecs of speech do: Schroeder and Atal,
        "Code-Excited Linear Prediction", ICASSP 1985). A place that is nearly right keeps its code:
        of grass, the code nearest to it is the one that occurs most often.

        Args:
            codes: (B, t, h, w), nearest to the latent.
            latent: (B, t, h, w, D), pixels in [-1, 1].
        """
        decoded = self.decode(codes).flatten(0, 1) * 2 - 1
        made = fold(decoded, self.config.stride, self.config.stride_time).permute(0, 2, 3, 1)
        error = (latent - made.reshape(latent.shape)).view(*latent.shape[:-1], -1, 3)
        color = error.mean(-2, keepdim=True)  # (B, t, h, w, 1, 3)
        wrong = color.abs().amax((-2, -1)) > _WRONG
        wanted = latent + (self.config.correction * color).expand_as(error).flatten(-2)
        corrected = wanted[wrong]
        return codes.masked_scatter(wrong, self._choose(corrected)) if len(corrected) else codes

    def _to_latent(self, video: Tensor) -> Tensor:
        latent = self.to_latent(self.encoder(video)).float().permute(0, 2, 3, 1)
        return _by_example(latent, len(video))

    def _from_values(self, values: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        places = values.flatten(0, 1).permute(0, 3, 1, 2)
        frames, new = self.decoder(self.from_latent(places), len(values), past)
        if isinstance(self.quantiser, Residual):  # the sum of vectors is a picture already
            frames = frames + unfold(places, self.config.stride, self.config.stride_time) * 0.5
        return frames, new


def _fp32(like: Tensor) -> torch.autocast:
    """Keep autocast from rounding what is about to be rounded on purpose."""
    return torch.autocast(like.device.type, enabled=False)


@torch.no_grad()
def initialise_latent(net: DVAE, video: Tensor) -> None:
    """Let the latent begin as the principal components of the features of some clips.

    Each number of the latent gets mean 0 and variance 1 over these clips, the strongest component
    the first place (and so the most levels). Deterministic; does nothing to a network without
    finite scalar quantisation.

    Args:
        net: an untrained network.
        video: (B, T, 3, H, W) in [0, 1], T a multiple of the group's length.
    """
    if not isinstance(net.quantiser, FSQ):
        return
    flat = net.encoder(video).permute(0, 2, 3, 1).flatten(0, 2).double()  # (positions, C)
    mean = flat.mean(0)
    flat = flat - mean
    variances, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))  # ascending
    count = net.quantiser.inputs
    chosen = vectors.flip(1)[:, :count].T  # (D, C)
    # Either sign is an eigenvector; which one comes must not hang on the library.
    largest = chosen.gather(1, chosen.abs().argmax(1, keepdim=True))
    chosen = chosen * largest.sign()
    spread = variances.flip(0)[:count].clamp_min(1e-8).sqrt()
    matrix = chosen / spread[:, None]
    assert isinstance(net.to_latent, nn.Conv2d)
    assert net.to_latent.bias is not None
    net.to_latent.weight.copy_(matrix[..., None, None])
    net.to_latent.bias.copy_(-(matrix @ mean))
