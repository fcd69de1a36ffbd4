"""The transformer: a causal model of sequences of integers, whatever medium they stand for.

Each block adds attention over all tokens so far and a gated feed-forward layer (SwiGLU; Shazeer,
"GLU Variants Improve Transformer", 2020) to a stream. With ``norm = "rms"`` what is read from the
stream is brought to unit root mean square first (RMS norm; Zhang and Sennrich, NeurIPS 2019),
without a learned scale: the matrix that follows can have it. No example sees another.

*Patches.* The blocks do not see single tokens but patches of eight, such as the codes of a square
of video, which say much the same. What comes out of them foretells the next patch, and a few
feed-forward layers write its tokens one after the other, each told of those before it in the patch
(as in the RQ-Transformer, Lee et al., CVPR 2022, and MegaByte, Yu et al., NeurIPS 2023). So nothing
is taken to be independent of anything, while most of the network runs once for eight tokens.

*Places.* A patch's place (line, t, y, x), that of its first token, turns its queries and keys
(rotary embedding; Su et al., "RoFormer", 2021), a quarter of each head by each axis. Attention then
sees how far apart two patches are in the text, in time and in space, which is what text and video
have in common wherever they stand in a sequence; and a grid's neighbours are as near across rows
and frames as within them. The cosines and sines of a place are also told to its patch, through one
matrix: what words say of a video hangs on where in it a patch is. No place has to be seen often.

*Words.* What the words so far say is added to every patch from there on (:class:`Summary`), besides
what attention finds in them. Of the thousands of nats of a video its caption changes about ten, so
attention hardly learns where to look for them; a sum over a table has nothing to look for. Words
are patches with a place along ``line``.

*Sketches.* What a place shall look like, one of some hundred kinds, may be told to the patch before
it (``kinds``), where the blocks begin and once more behind them. What is added at the beginning
only drowns: there the stream has a fraction of the size that it has later.

*Copies.* Where nothing moves, a code is that of the time before; where something does, that of a
neighbour then. For each of seven earlier tokens that may be the same (``near``) the network writes
one number, which is added to the logit of what that token was, as a pointer that needs not be
learned (See et al., "Get To The Point", ACL 2017).

*At initialisation* each matrix keeps variance, and those that write to the stream are smaller by
twice the root of the depth: all branches together add half the variance that the stream came with,
however many they are. So it also trains with ``norm = "none"``, and better, though the variance of
a gated layer then grows with the square of that of its input. Logits begin at 0.

Several heads of queries share a head of keys and values (Ainslie et al., "GQA", EMNLP 2023). On a
CPU, generation takes as long as it takes to read the weights and the cache once a token: with a
quarter of the cache, it takes half the time.

:class:`Decoder` is the same network for generation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowwarp.defaults import DETAIL, GUIDANCE, PLAUSIBLE, TEMPERATURE, TOP_P
from flowwarp.ops.drawing import draw_tokens
from flowwarp.tensors import check_choice, check_whole

AXES = 4  # of a place: line, t, y, x
NEAR = 7  # earlier tokens that may be the same
PATCH = 8  # tokens that the blocks see as one
# Axes are short: 16 cells, 64 words. Wavelengths run from 6 to some hundred of them.
LONGEST = 100.0
# Of hashes: large odd numbers.
_PAIR, _APART, _MIX = 7919, 15485863, 2654435761
# Rows that tell of kinds are so much smaller than what is told, so that steps of the size that
# suits other weights change them soon.
SOON = 8.0
# Of silu(a) * b, for independent unit normal a and b.
GATED_VARIANCE = 0.3557
_SHORT = 384  # patches of a sequence whose scores may be kept


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the network.

    Args:
        vocabulary: how many ids there are.
        embedded: numbers that stand for a token where it is read.
        phrases: rows of the table of words and pairs of words, see :class:`Summary`.
        width: of the stream; a multiple of ``heads``.
        depth: blocks.
        heads: of queries; each has ``width / heads`` numbers, a multiple of 8.
        kv_heads: of keys and values, a divisor of ``heads``.
        hidden: width of the feed-forward layers.
        inner_width: of the stream within a patch.
        inner_depth: feed-forward layers within a patch.
        inner_hidden: their width.
        kinds: of places in a sketch; 0 for a network that is told of none.
        norm: ``rms``, or ``none`` to read the stream as it is.
    """

    vocabulary: int = 3072
    embedded: int = 96
    phrases: int = 16384  # of captions with 4,000 usual words and pairs; 4096 rows mixed them up
    width: int = 320
    depth: int = 6
    heads: int = 5  # wide ones: training takes as long as there are scores between tokens
    kv_heads: int = 1
    hidden: int = 640
    inner_width: int = 256
    inner_depth: int = 1
    inner_hidden: int = 768
    kinds: int = 0
    norm: Literal["rms", "none"] = "none"

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name != "norm":
                least = 0 if item.name == "kinds" else 1
                check_whole(getattr(self, item.name), item.name, least)
        check_choice(self.norm, "norm", ("rms", "none"))
        if self.width % (2 * AXES * self.heads):
            raise ValueError(
                f"width must be a multiple of {2 * AXES} times heads ({self.heads}), "
                f"got {self.width}"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


SMALL = GPTConfig(width=256, depth=4, heads=4, hidden=512, inner_hidden=512)
TINY = GPTConfig(
    embedded=32,
    phrases=512,
    width=64,
    depth=3,
    heads=4,
    hidden=128,
    inner_width=64,
    inner_hidden=128,
)


# ------------------------------------------------------------------ blocks


def unit(x: Tensor, norm: str) -> Tensor:
    """Bring the last axis to unit root mean square, or leave it if ``norm`` is none."""
    return x if norm == "none" else _Unit.apply(x)  # type: ignore[no-untyped-call]


class _Unit(torch.autograd.Function):
    """RMS norm with its gradient in closed form: a third of the passes over memory of torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scale = math.sqrt(x.shape[-1]) / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        result: Tensor = x * scale
        ctx.save_for_backward(result, scale)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        result, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, result)[..., None] / -result.shape[-1]
        return torch.addcmul(gradient, result, along).mul_(scale)


def rotation(places: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """Return what :func:`turn` needs to turn queries and keys by their places.

    Args:
        places: (B, L, 4).
        head: width of a head.

    Returns:
        Cosines and signed sines, (B, 1, L, head) each.
    """
    each = head // (2 * AXES)
    steps = torch.arange(each, dtype=torch.float32, device=places.device)
    rates = LONGEST ** -(steps / each)
    angles = (places[..., None] * rates).flatten(-2)[:, None]  # (B, 1, L, head / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


def waves(cos: Tensor, sin: Tensor) -> Tensor:
    """Return each cosine and sine of :func:`rotation` once, (B, L, head)."""
    half = cos.shape[-1] // 2
    return torch.cat([cos[:, 0, :, :half], sin[:, 0, :, half:]], -1)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + head / 2]) of the last axis by its angle."""
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def _linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs))
    return layer


class FeedForward(nn.Module):
    """A gated layer, added to the stream."""

    def __init__(self, width: int, hidden: int, branch: float, norm: str) -> None:
        super().__init__()
        self.norm = norm
        self.up = _linear(width, 2 * hidden)
        self.down = _linear(hidden, width, branch / math.sqrt(GATED_VARIANCE))

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream after this layer, (..., width)."""
        gate, value = self.up(unit(x, self.norm)).chunk(2, -1)
        fed: Tensor = self.down(F.silu(gate) * value)
        return x + fed


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return what each query finds among the values up to its own place.

    Torch's attention for CPUs is slow on its way back. Where a gradient is wanted, in bf16 and of
    few enough places, plain products are faster, their scores kept: a step of training takes a
    tenth less time. They are not in fp32, nor for longer sequences.

    Args:
        q: (B, heads, L, head).
        k: (B, heads of keys, L, head), each for several heads of queries.
        v: likewise.

    Returns:
        (B, heads, L, head).
    """
    rows, heads, length, each = q.shape
    group = heads // k.shape[1]
    short = q.device.type == "cpu" and q.dtype == torch.bfloat16 and length <= _SHORT
    if not (short and q.requires_grad):
        k, v = (part.repeat_interleave(group, 1) for part in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    later = q.new_full((length, length), -torch.inf).triu(1).repeat(group, 1)
    together = q.reshape(-1, group * length, each)  # all queries of a head of keys
    with torch.autocast("cpu", enabled=False):  # it would have the softmax in fp32: twice as long
        scores = torch.baddbmm(later, together, k.flatten(0, 1).mT, alpha=1 / math.sqrt(each))
        found = torch.bmm(scores.softmax(-1), v.flatten(0, 1))
    return found.view(rows, heads, length, each)


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to the stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        branch = 0.5 / math.sqrt(config.depth)
        self.qkv = _linear(config.width, (config.heads + 2 * config.kv_heads) * config.head)
        self.out = _linear(config.width, config.width, branch)
        self.feed = FeedForward(config.width, config.hidden, branch, config.norm)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the stream after this block, (B, L, width)."""
        norm, heads, shared = self.config.norm, self.config.heads, self.config.kv_heads
        qkv = self.qkv(unit(x, norm)).unflatten(-1, (heads + 2 * shared, -1)).transpose(1, 2)
        qk = turn(qkv[:, : heads + shared], cos.to(qkv), sin.to(qkv))
        q, k, v = qk[:, :heads], qk[:, heads:], qkv[:, heads + shared :]  # (B, heads, L, head)
        seen = attend(q, k, v)
        result: Tensor = self.feed(x + self.out(seen.transpose(1, 2).flatten(2)))
        return result


class Summary(nn.Module):
    """What the words so far say: a sum over words and pairs of words.

    Each word, each pair of neighbours and each pair with one word between has a row of a table, by
    a hash, as in fastText (Joulin et al., "Bag of Tricks for Efficient Text Classification", EACL
    2017). A row is learned from a few captions with its words, where a matrix that reads any three
    words must be learned for all of them at once: a hundred times as many.
    """

    def __init__(self, rows: int, embedded: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, embedded)
        # Rows are small, so that steps of the size that suits the other weights change them soon.
        nn.init.normal_(self.table.weight, std=0.1)
        self.tell = nn.Linear(embedded, width, bias=False)
        nn.init.zeros_(self.tell.weight)

    def forward(self, ids: Tensor, words: Tensor) -> Tensor:
        """Return what to tell each patch.

        Args:
            ids: (B, P) int64, the first token of each patch.
            words: (B, P) bool, which of them are words.

        Returns:
            (B, P, width).
        """
        near = F.pad(ids * words, (2, 0))
        told: Tensor = self.tell(read_words(near, self.table.weight, words).cumsum(1))
        return told


def read_words(near: Tensor, table: Tensor, words: Tensor) -> Tensor:
    """Return what each of (B, 2 + P) ids says with the two before it: (B, P, embedded).

    Args:
        near: ids, 0 for what is no word.
        table: of :class:`Summary`.
        words: (B, P) bool; the others say nothing.
    """
    far, last, own = near[:, :-2], near[:, 1:-1], near[:, 2:]
    keys = torch.stack([own, own + _PAIR * last, own + _APART * far], -1) * _MIX
    # Of a product modulo a power of two the upper bits are mixed best.
    rows = (keys % 2**32) * len(table) // 2**32
    return F.embedding(rows, table).sum(2) * words[..., None]


# ------------------------------------------------------------------ the network


class GPT(nn.Module):
    """Logits of each token of a sequence, given all those before it.

    >>> net = GPT(TINY)
    >>> net(torch.zeros(1, 16, dtype=torch.int64), torch.zeros(1, 16, 4)).shape
    torch.Size([1, 8, 3072])
    """

    def __init__(self, config: GPTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GPTConfig()
        self.embedding = nn.Embedding(config.vocabulary, config.embedded)  # of unit variance
        # Both have half of the variance; of cosines and sines it is a half already.
        self.join = _linear(PATCH * config.embedded, config.width, math.sqrt(0.5))
        self.place = _linear(config.head, config.width)
        self.summary = Summary(config.phrases, config.embedded, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.ahead = None
        if config.kinds:  # the last row is for nothing told
            self.ahead = nn.Embedding(config.kinds + 1, config.width + config.inner_width)
            nn.init.normal_(self.ahead.weight, std=0.3 / SOON)
        # Within a patch; both sources have half of the variance.
        inner, half = config.inner_width, math.sqrt(0.5)
        self.foretold = _linear(config.width, inner, half)
        self.earlier = _linear((PATCH - 1) * config.embedded, inner, half)
        self.slot = nn.Parameter(torch.zeros(PATCH, inner))  # which token of the patch it is
        branch = 0.5 / math.sqrt(config.inner_depth)
        self.inner = nn.ModuleList(
            FeedForward(inner, config.inner_hidden, branch, config.norm)
            for _ in range(config.inner_depth)
        )
        self.head = nn.Linear(inner, config.vocabulary, bias=False)
        self.same = nn.Linear(inner, NEAR, bias=False)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.same.weight)

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        """Return logits of all tokens but the first patch, which is given: (B, L - 8, vocabulary).

        Nothing is copied. See :meth:`features`.
        """
        logits: Tensor = self.head(self.features(ids, places))
        return logits

    def features(
        self,
        ids: Tensor,
        places: Tensor,
        hidden: Tensor | None = None,
        ahead: Tensor | None = None,
    ) -> Tensor:
        """Return what the logits are made of, (B, L - 8, inner_width).

        Args:
            ids: (B, L) int64, L a multiple of 8; what fills up a shorter sequence comes last.
            places: (B, L, 4) float32: line, t, y, x of each.
            hidden: (B, L / 8) bool, patches whose tokens no token of a later patch sees.
            ahead: (B, L / 8) int64, the kind of the place of the patch after each, ``kinds`` where
                nothing is told of it; nothing of any by default.

        Raises:
            ValueError: the shapes do not fit each other, or a network that is told of no kinds is
                told some.
        """
        foretold, patches = self._foretell(ids, places, hidden, ahead)
        return self._write(foretold, patches).flatten(1, 2)

    def _foretell(
        self, ids: Tensor, places: Tensor, hidden: Tensor | None, ahead: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return what is known of each patch but the first before it, and their tokens.

        Returns:
            (B, P - 1, inner_width), and (B, P - 1, 8, embedded).
        """
        if ids.ndim != 2 or tuple(places.shape) != (*ids.shape, AXES):
            raise ValueError(
                f"places must be {(*ids.shape, AXES)} for ids {tuple(ids.shape)}, "
                f"got {tuple(places.shape)}"
            )
        if ids.shape[1] % PATCH:
            raise ValueError(f"ids must be whole patches of {PATCH}, got {ids.shape[1]}")
        patches = self.embedding(ids).unflatten(1, (-1, PATCH))  # (B, P, 8, embedded)
        seen = patches
        if hidden is not None:  # what is left is its place, and what the words say
            seen = patches.masked_fill(hidden[..., None, None], 0.0)
        cos, sin = rotation(places[:, ::PATCH], self.config.head)
        x = self.join(seen.flatten(2)) + self.place(waves(cos, sin))
        x = x + self.summary(ids[:, ::PATCH], places[:, ::PATCH, 0] > 0)
        early, late = self._told(ids[:, ::PATCH], ahead)
        x = x + early
        for block in self.blocks:
            x = block(x, cos, sin)
        foretold = self.foretold(unit(x[:, :-1], self.config.norm)) + late[:, :-1]
        return foretold, patches[:, 1:]

    def _told(self, like: Tensor, ahead: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what kinds ahead of patches (B, P) add before the blocks, and behind them."""
        config = self.config
        if self.ahead is None:
            if ahead is not None:
                raise ValueError("ahead must be None: this network is told of no kinds of places")
            nothing = self.head.weight.new_zeros(1, like.shape[1], 1)
            return nothing, nothing
        rows = torch.full_like(like, config.kinds) if ahead is None else ahead
        early, late = (SOON * self.ahead(rows)).split([config.width, config.inner_width], -1)
        return early, late

    def _write(self, foretold: Tensor, patches: Tensor) -> Tensor:
        """Return what the logits of each token of patches are made of, (..., 8, inner_width)."""
        # What each token is told of those before it in its patch, by how far they are apart: one
        # product with a matrix of blocks, zero where a token is not before the other.
        apart = self.earlier.weight.chunk(PATCH - 1, 1)
        nothing = torch.zeros_like(apart[0])
        rows = [
            torch.cat([*reversed(apart[:slot]), *[nothing] * (PATCH - slot)], 1)
            for slot in range(PATCH)
        ]
        earlier = F.linear(patches.flatten(-2), torch.cat(rows))  # (..., 8 * inner_width)
        x = (
            foretold[..., None, :]
            + earlier.view(*patches.shape[:-1], self.config.inner_width)
            + self.slot
        )
        for layer in self.inner:
            x = layer(x)
        return unit(x, self.config.norm)

    def nats(
        self,
        ids: Tensor,
        places: Tensor,
        choices: Sequence[Tensor],
        hidden: Tensor | None = None,
        ahead: Tensor | None = None,
        near: Tensor | None = None,
        asked: Tensor | None = None,
        read: Tensor | None = None,
    ) -> Tensor:
        """Return minus the log-likelihood of each token after the first patch.

        What kind of token comes next is known, so it is chosen among its kind: of the ids of a
        vocabulary most need not be looked at. Nor need patches that are not asked for: what is done
        token by token, two thirds of the work, is saved.

        Args:
            ids: see :meth:`features`.
            places: likewise.
            choices: (n,) int64 each: the ids of each kind; no id is of two.
            hidden: see :meth:`features`; nor is anything copied from them, in themselves neither.
            ahead: likewise.
            near: (B, L, 7) int64, earlier tokens of the sequence that each may be the same as, -1
                for none; without it nothing is copied.
            asked: (B, L / 8 - 1) bool, of which patches after the first; by default of all.
            read: (B, L) int64, what is read of the patches before each instead of ``ids``, such as
                :meth:`redraw` returns.

        Returns:
            (B, L - 8) float32, in nats; 0 for tokens of no kind and of what is not asked for.
        """
        foretold, patches = self._foretell(ids if read is None else read, places, hidden, ahead)
        if read is not None:  # within a patch what is really there is told
            patches = self.embedding(ids[:, PATCH:]).unflatten(1, (-1, PATCH))
        every = ids.shape[1] // PATCH - 1  # of an example
        flat = torch.arange(len(ids) * every, device=ids.device)
        if asked is not None:
            flat = asked.flatten().nonzero()[:, 0]
        features = self._write(foretold.flatten(0, 1)[flat], patches.flatten(0, 1)[flat])
        features = features.flatten(0, 1)  # (8 n, inner_width)
        targets = ids[:, PATCH:].reshape(-1, PATCH)[flat].flatten()
        found = pointed = None
        if near is not None:
            found = _look_up(ids, near[:, PATCH:], hidden)
            if read is not None:
                patch = torch.arange(PATCH, ids.shape[1], device=ids.device) // PATCH
                inside = near[:, PATCH:] // PATCH == patch[:, None]
                found = torch.where(inside, found, _look_up(read, near[:, PATCH:], hidden))
            found = found.reshape(-1, PATCH, NEAR)[flat].flatten(0, 1)  # (8 n, 7)
            pointed = self.same(features).float()
        nats = torch.zeros(len(targets), dtype=torch.float32, device=ids.device)
        for own in choices:
            index = _index(own, self.config.vocabulary)
            chosen = index[targets]
            rows = (chosen >= 0).nonzero()[:, 0]
            logits = F.linear(features[rows], self.head.weight[own]).float()
            if found is not None and pointed is not None:
                logits = _point(logits, pointed[rows], index[found[rows]])
            nats = nats.index_copy(0, rows, F.cross_entropy(logits, chosen[rows], reduction="none"))
        whole = nats.new_zeros(len(ids) * every, PATCH)
        return whole.index_copy(0, flat, nats.view(-1, PATCH)).view(len(ids), -1)

    @torch.no_grad()
    def redraw(
        self,
        ids: Tensor,
        places: Tensor,
        choices: Sequence[Tensor],
        later: Sequence[bool],
        redrawn: Tensor,
        draws: Tensor,
        sampling: Sampling,
        ahead: Tensor | None = None,
        near: Tensor | None = None,
    ) -> Tensor:
        """Return sequences some of whose patches are as the network would write them there.

        Each is drawn after what really comes before it, so all are drawn side by side. To learn
        what comes after such patches is to learn not to be led astray by one's own errors
        (scheduled sampling; Bengio et al., NeurIPS 2015; for transformers Mihaylova and Martins,
        ACL 2019 Student Research Workshop).

        Args:
            ids: see :meth:`features`.
            places: likewise.
            choices: see :meth:`nats`.
            later: which of them are of later digits of a code, whose temperature is ``detail``.
            redrawn: (B, L / 8) bool, which patches; the first never is.
            draws: (B, L) in [0, 1), one number for each token; see :func:`choose`.
            sampling: how to draw; no guidance.
            ahead: see :meth:`features`.
            near: see :meth:`nats`.

        Returns:
            (B, L) int64.
        """
        foretold, _ = self._foretell(ids, places, None, ahead)
        flat = redrawn[:, 1:].flatten().nonzero()[:, 0]
        foretold = foretold.flatten(0, 1)[flat]
        patches = ids[:, PATCH:].reshape(-1, PATCH)
        drawn, chances = patches[flat], draws[:, PATCH:].reshape(-1, PATCH)[flat]
        found = None
        if near is not None:
            found = _look_up(ids, near[:, PATCH:], None).reshape(-1, PATCH, NEAR)[flat]
            nearby = near[:, PATCH:].reshape(-1, PATCH, NEAR)[flat]
            number = 1 + flat % (ids.shape[1] // PATCH - 1)  # of the patch
            own = nearby // PATCH == number[:, None, None]  # what is just being drawn
        ways = [sampling.of_details() if detail else sampling for detail in later]
        indices = [_index(among, self.config.vocabulary) for among in choices]
        for slot in range(PATCH):
            features = self._write(foretold, self.embedding(drawn))[:, slot]
            if found is not None:
                copied = drawn.gather(1, nearby[:, slot] % PATCH)
                found[:, slot] = torch.where(own[:, slot], copied, found[:, slot])
            for among, index, how in zip(choices, indices, ways, strict=True):
                rows = (index[drawn[:, slot]] >= 0).nonzero()[:, 0]
                logits = F.linear(features[rows], self.head.weight[among]).float()
                if found is not None:
                    pointed = self.same(features[rows]).float()
                    logits = _point(logits, pointed, index[found[rows, slot]])
                if len(rows):
                    drawn[rows, slot] = among[choose(logits, chances[rows, slot], how)]
        patches = patches.index_copy(0, flat, drawn)
        return torch.cat([ids[:, :PATCH], patches.view(len(ids), -1)], 1)


def _index(choices: Tensor, vocabulary: int) -> Tensor:
    """Return which of some choices each id is, -1 for none of them; the id -1 is none, too."""
    index = choices.new_full((vocabulary + 1,), -1)  # what -1 reads is the last
    index[choices] = torch.arange(len(choices), device=choices.device)
    return index


def _point(logits: Tensor, pointed: Tensor, places: Tensor) -> Tensor:
    """Return logits (n, V) with what points at some of them, (n, 7), added.

    Args:
        logits: of the ids to choose from.
        pointed: what to add.
        places: (n, 7) int64, at which of the logits; -1 for none of them.
    """
    return logits.scatter_add(1, places.clamp_min(0), pointed * (places >= 0))


def _look_up(ids: Tensor, near: Tensor, hidden: Tensor | None) -> Tensor:
    """Return the ids (B, L) at ``near`` (B, l, 7), -1 for none and for those of hidden patches."""
    flat = near.flatten(1)
    places = flat.clamp_min(0)
    there = flat >= 0
    if hidden is not None:
        there = there & ~hidden.gather(1, places // PATCH)
    return torch.where(there, ids.gather(1, places), -1).view(near.shape)


# ------------------------------------------------------------------ generation

Product = Callable[[Tensor], Tensor]
# Of some patches: cosines and sines of their turns (B, 1, n, head), which are words, (B, n), what
# their places and the kinds ahead add to the stream, (B, n, width), and what the latter add to what
# comes out of it, (B, n, inner_width or 1).
Where = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _product(weight: Tensor, rows: int) -> Product:
    """Return the product with a matrix (outputs, inputs), laid out for so many rows."""
    kept = weight.dtype if weight.device.type == "cpu" else None
    if kept == torch.bfloat16 and _can_pack():
        # Plain bf16 matrices are put into this order at each product, which takes as long as it.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    if kept == torch.float16:
        packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None)
        multiply = torch.ops.quantized.linear_dynamic_fp16.default
        return lambda x: multiply(x, packed)
    return lambda x: F.linear(x, weight)


def _can_pack() -> bool:
    """Say whether this torch has what its compiler uses for matrices that stay, and the CPU too."""
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    mkldnn = torch.ops.mkldnn
    return all(hasattr(mkldnn, name) for name in names) and mkldnn._is_mkldnn_bf16_supported()


@final
class Decoder:
    """The network for generation: it reads some patches, then one at a time, and keeps them.

    The same sums as `GPT`, with the keys and values of earlier patches kept, matrices stored the
    way they are read, and the stream kept in fp32 for whatever ``dtype``.

    Args:
        net: the network, on the CPU or a GPU.
        rows: sequences side by side, at most; the weights are read once for all.
        length: how many patches a sequence can have in all.
        dtype: of matrices and cache. bfloat16 takes less time where the processor has it. float16
            on a CPU is how matrices are kept, and all else is float32.
    """

    def __init__(
        self, net: GPT, rows: int, length: int, dtype: torch.dtype = torch.float32
    ) -> None:
        config = net.config
        self.config, self.rows, self.length = config, rows, length
        alone = dtype == torch.float16 and net.head.weight.device.type == "cpu"
        self.dtype = torch.float32 if alone else dtype
        # Here the stream is brought to unit length, and the rest of the norm is in the matrices.
        wide, narrow = (
            width**0.5 if config.norm == "rms" else 1.0
            for width in (config.width, config.inner_width)
        )

        def product(layer: nn.Linear, gain: float = 1.0) -> Product:
            return _product((layer.weight.detach() * gain).to(dtype), rows)

        self.embedding = net.embedding.weight.detach().to(self.dtype)
        self.join = product(net.join)
        self.place = net.place.weight.detach()
        self.ahead = net._told
        self.table, self.tell = net.summary.table.weight.detach(), net.summary.tell.weight.detach()
        self.blocks = [
            (
                product(block.qkv, wide),
                product(block.out),
                product(block.feed.up, wide),
                product(block.feed.down),
            )
            for block in net.blocks
            if isinstance(block, Block)
        ]
        self.foretold = product(net.foretold, wide)
        # What each token of the vocabulary adds to those one, two, … after it.
        apart = net.earlier.weight.detach().chunk(PATCH - 1, 1)
        self.earlier = [net.embedding.weight.detach() @ weight.T for weight in apart]
        self.slot = net.slot.detach()
        self.inner = [
            (product(layer.up, narrow), product(layer.down))
            for layer in net.inner
            if isinstance(layer, FeedForward)
        ]
        self.head = (net.head.weight.detach() * narrow).to(dtype)
        self.same = (net.same.weight.detach() * narrow).to(dtype)
        # (block and whether keys or values, rows, heads, length, head)
        shape = (2 * config.depth, rows, config.kv_heads, length, config.head)
        self.cache = torch.zeros(shape, dtype=self.dtype, device=self.embedding.device)
        self.mask: Tensor | None = None
        self._forget(rows)

    def _forget(self, rows: int) -> None:
        """Begin so many rows, with nothing read."""
        device, width = self.embedding.device, self.config.width
        self.used = 0
        said = (rows, 1, self.config.embedded)
        self.said = torch.zeros(said, dtype=torch.float32, device=device)  # by the words so far
        told = (rows, 1, width)
        self.told = torch.zeros(told, dtype=torch.float32, device=device)  # what they say
        self.before = torch.zeros(rows, 2, dtype=torch.int64, device=device)  # the last two

    def begin(
        self, ids: Sequence[Tensor], places: Sequence[Tensor], ahead: Tensor | None = None
    ) -> Tensor:
        """Read the beginning of each row, all afresh. There may be fewer; see :meth:`keep`.

        Args:
            ids: for each row (L,), L of its own, a multiple of 8.
            places: for each row (L, 4).
            ahead: (rows, n), the kinds of the places after the last n patches of each row; see
                :meth:`GPT.features`. Nothing is told of those before.

        Returns:
            (rows, inner_width), what :meth:`logits` needs to know of all that was read.

        Raises:
            ValueError: too many rows, or none, or one that is empty, no whole patches, or too long.
        """
        longest = max(map(len, ids), default=0)
        if not 1 <= len(ids) <= self.rows or len(places) != len(ids) or not all(map(len, ids)):
            raise ValueError(f"ids and places must be 1 … {self.rows} sequences, none empty")
        if any(len(row) % PATCH for row in ids):
            raise ValueError(f"a beginning must be whole patches of {PATCH} tokens")
        if longest > PATCH * self.length:
            raise ValueError(f"a beginning has {longest // PATCH} patches, more than {self.length}")
        # Shorter ones are filled up in front, so that all go on at the same column.
        missing = [longest - len(row) for row in ids]
        filled = torch.stack([F.pad(row, (n, 0)) for row, n in zip(ids, missing, strict=True)])
        where = torch.stack(
            [F.pad(row, (0, 0, n, 0)) for row, n in zip(places, missing, strict=True)]
        )
        self._forget(len(ids))
        self.mask = None
        if any(missing):
            columns = torch.arange(self.length, device=filled.device)
            hidden = columns < torch.tensor(missing, device=filled.device)[:, None] // PATCH
            mask = torch.zeros(hidden.shape, dtype=self.dtype, device=filled.device)
            self.mask = mask.masked_fill_(hidden, -torch.inf)[:, None, None]  # (rows, 1, 1, length)
        kinds = None
        if ahead is not None:
            kinds = torch.full_like(filled[:, ::PATCH], self.config.kinds)
            kinds[:, -ahead.shape[1] :] = ahead
        return self.read(filled, self.where(where, kinds))

    def read(self, ids: Tensor, where: Where) -> Tensor:
        """Read more patches of each row.

        Args:
            ids: (rows, 8 n).
            where: :meth:`where` they are, places (rows or 1, 8 n, 4).

        Returns:
            (rows, inner_width), what :meth:`logits` needs to know of all that was read.
        """
        config = self.config
        rows, count = len(ids), ids.shape[1] // PATCH
        start, end = self.used, self.used + count
        if end > self.length:
            raise ValueError(f"{end} patches are more than the length {self.length}")
        mask = self._mask(count, end)
        cos, sin, words, placed, late = where
        heads, both, each = config.heads, config.heads + config.kv_heads, config.head
        shape = (rows, count, both + config.kv_heads, each)
        # The queries that share a head of keys are further queries of one attention: its keys are
        # read once for all of them.
        grouped = (rows, config.kv_heads, heads // config.kv_heads * count, each)
        cache = self.cache[:, :rows]
        places, seen = cache.narrow(3, start, count).unbind(), cache.narrow(3, 0, end).unbind()
        patches = F.embedding(ids, self.embedding).view(rows * count, PATCH * config.embedded)
        x = self.join(patches).float()
        stream = x.view(rows, count, -1).add_(placed)
        stream.add_(self._listen(ids[:, ::PATCH], words))
        for index, (qkv, out, up, down) in enumerate(self.blocks):
            parts = qkv(self._read(x)).view(shape).transpose(1, 2)
            qk = parts[:, :both]
            qk = (qk * cos).addcmul_(qk.roll(each // 2, -1), sin)  # as `turn` does
            places[2 * index].copy_(qk[:, heads:])
            places[2 * index + 1].copy_(parts[:, both:])
            found = F.scaled_dot_product_attention(
                qk[:, :heads].reshape(grouped), seen[2 * index], seen[2 * index + 1], mask
            )
            if count > 1:
                found = found.view(rows, heads, count, each).transpose(1, 2)
            x.add_(out(found.reshape(rows * count, config.width)))
            self._feed(x, up, down)
        self.used = end
        return self.foretold(self._read(x.view(rows, count, -1)[:, -1])).float() + late[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Go on from some rows, (n,) int64, one of them several times: ``self.rows`` at most."""
        known = self.cache[..., : self.used, :]
        known[:, : len(rows)] = known[:, rows]
        self.said, self.told, self.before = self.said[rows], self.told[rows], self.before[rows]
        if self.mask is not None:
            self.mask = self.mask[rows]

    def where(self, places: Tensor, ahead: Tensor | None = None) -> Where:
        """Return what :meth:`read` needs to know of patches.

        Args:
            places: (B, 8 n, 4).
            ahead: (rows, n), see :meth:`GPT.features`.
        """
        first = places[:, ::PATCH]
        cos, sin = rotation(first, self.config.head)
        early, late = (told.detach() for told in self.ahead(first[..., 0].long(), ahead))
        placed = F.linear(waves(cos, sin), self.place) + early
        return cos.to(self.dtype), sin.to(self.dtype), first[..., 0] > 0, placed, late

    def _listen(self, ids: Tensor, words: Tensor) -> Tensor:
        """Return what the words so far say to each patch, as `Summary` does: (rows, n or 1, width).

        Of patches that are no words, as of all of a video, nothing needs to be read.
        """
        if not bool(words.any()):
            self.before = F.pad(self.before, (0, ids.shape[1]))[:, -2:]
            return self.told
        near = torch.cat([self.before, ids * words], 1)
        self.before = near[:, -2:]
        said = self.said + read_words(near, self.table, words.expand(ids.shape)).cumsum(1)
        told = F.linear(said, self.tell)
        self.said, self.told = said[:, -1:], told[:, -1:]
        return told

    def _feed(self, x: Tensor, up: Product, down: Product) -> None:
        """Add what a gated layer makes of the stream."""
        gate, value = up(self._read(x)).chunk(2, -1)
        x.add_(down(F.silu(gate).mul_(value)))

    def _read(self, x: Tensor) -> Tensor:
        """Read from the stream."""
        if self.config.norm == "rms":
            x = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x.to(self.dtype)

    def head_of(self, ids: Tensor) -> Product:
        """Return the last product: to logits of some ids, (n,) int64, and the seven of ``same``."""
        return _product(torch.cat([self.head[ids], self.same]), self.rows)

    def logits(self, foretold: Tensor, before: Sequence[Tensor], head: Product) -> Tensor:
        """Return logits of the next token.

        Args:
            foretold: (rows, inner_width), from :meth:`begin` or :meth:`read`.
            before: tokens of the patch that are known already, (rows,) each; up to seven.
            head: of :meth:`head_of`: the n ids to choose from.

        Returns:
            (rows, n + 7) float32.
        """
        x = foretold + self.slot[len(before)]
        for ids, table in zip(reversed(before), self.earlier, strict=False):
            x.add_(F.embedding(ids, table))
        for up, down in self.inner:
            self._feed(x, up, down)
        return head(self._read(x)).float()

    def _mask(self, count: int, end: int) -> Tensor | None:
        """Return what to add to attention, for grouped queries; None for nothing."""
        own = None if self.mask is None else self.mask[..., :end]
        if count == 1:
            return own
        device = self.embedding.device
        column = torch.arange(end, device=device)
        itself = torch.arange(end - count, end, device=device)[:, None]
        mask = torch.zeros(1, 1, count, end, dtype=self.dtype, device=device)
        mask = mask.masked_fill_(column > itself, -torch.inf)
        if own is not None:
            # What fills up a row sees itself: a softmax over nothing would be no number.
            mask = (mask + own).masked_fill_(column == itself, 0)
        return mask.repeat(1, 1, self.config.heads // self.config.kv_heads, 1)


MOST = 1e4  # of what scales logits, so that they stay finite
_COLDEST = 1e-4  # below, only the likeliest is drawn


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: only so many of the likeliest are drawn from; 0 for all.
        top_p: only the likeliest that have this probability together, and one at least (Holtzman
            et al., "The Curious Case of Neural Text Degeneration", ICLR 2020).
        guidance: how far to go from the logits without the prompt to those with it, and beyond (Ho
            and Salimans, "Classifier-Free Diffusion Guidance", 2022); 1 for just the prompt.
        detail: what ``temperature`` is multiplied by for the digits of a code after its first. They
            are the least sure, and matter the least: where they are drawn at random they are noise.
        plausible: how likely a token must be by the prompt alone, as a share of the likeliest one's
            probability, or it is never drawn (the constraint of Li et al., "Contrastive Decoding",
            ACL 2023); 0 for no bound, and of no use where ``guidance`` is 1. What is rare may be
            rarer yet without the prompt, so that guidance would stress what nobody would write.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    detail: float = 1.0
    plausible: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "guidance", "detail"):
            value = getattr(self, name)
            if not 0 <= value <= MOST:
                raise ValueError(f"{name} must be in [0, {MOST:g}], got {value}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.plausible <= 1:
            raise ValueError(f"plausible must be in [0, 1], got {self.plausible}")

    def of_details(self) -> Sampling:
        """Return how the digits of a code after its first are drawn."""
        return replace(self, temperature=min(self.temperature * self.detail, MOST))


SAMPLING = Sampling(  # of videos
    TEMPERATURE, top_p=TOP_P, guidance=GUIDANCE, detail=DETAIL, plausible=PLAUSIBLE
)


def guide(told: Tensor, plain: Tensor, sampling: Sampling) -> Tensor:
    """Return logits that stress a prompt.

    Args:
        told: (B, V), logits with it.
        plain: (B, V), without.
        sampling: guidance, and plausible.

    Returns:
        (B, V); -inf where a token is not plausible.
    """
    logits = plain + sampling.guidance * (told - plain)
    if not sampling.plausible:
        return logits
    least = told.amax(-1, keepdim=True) + math.log(sampling.plausible)
    return logits.masked_fill(told < least, -math.inf)


def choose(logits: Tensor, draws: Tensor, sampling: Sampling) -> Tensor:
    """Draw a token of each row.

    Args:
        logits: (B, V).
        draws: (B,) uniform in [0, 1): which of the probability is hit, the likeliest first.
        sampling: temperature, top_k and top_p.

    Returns:
        (B,) int64 in [0, V).
    """
    if sampling.temperature < _COLDEST:
        return logits.argmax(-1)
    return draw_tokens(
        logits,
        draws,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )


@dataclass(frozen=True)
class Resampling:
    """Which rows are given up for others while they are written.

    Args:
        every: tokens, whole patches, after which it is decided; not after the last.
        choose: takes the tokens so far, (B, n), and returns which rows go on, (B,) int64: one that
            is better than others comes several times. Each goes on by the draws of its new place.
    """

    every: int
    choose: Callable[[Tensor], Tensor]


@final
class _Pointer:
    """What was written so far, to be copied: see :func:`sample`."""

    def __init__(
        self, net: GPT, choices: Sequence[Tensor], near: Tensor, begun: Tensor | None, batch: int
    ) -> None:
        self.begun = 0 if begun is None else begun.shape[1]
        # The last column is what a place of -1 reads: no id.
        self.known = near.new_full((batch, self.begun + len(near) + 1), -1)
        self.near = near.where(near >= 0, self.known.shape[1] - 1)
        if begun is not None:
            self.known[:, : self.begun] = begun
        self.indices = [_index(ids, net.config.vocabulary) for ids in choices]

    def point(self, logits: Tensor, pointed: Tensor, turn: int, step: int) -> Tensor:
        """Return logits with what points at them added; rows are those written, once or twice."""
        places = self.indices[turn].take(self.known.index_select(1, self.near[step]))  # (B, 7)
        return _point(logits, pointed, torch.cat([places] * (len(logits) // len(places))))

    def add(self, ids: Tensor, step: int) -> None:
        """Take note of a token of each row."""
        self.known[:, self.begun + step] = ids

    def keep(self, rows: Tensor) -> None:
        """Go on from some rows."""
        self.known = self.known[rows]


def _begin(decoder: Decoder, rows: Sequence[tuple[Tensor, Tensor]], ahead: Tensor | None) -> Tensor:
    """Have the beginnings of rows read; one that several rows share, as the same object, once."""
    alone = ahead is not None  # what rows are told of their last patches differs
    distinct = list(rows) if alone else list({id(row): row for row in rows}.values())
    foretold = decoder.begin([ids for ids, _ in distinct], [where for _, where in distinct], ahead)
    if len(distinct) == len(rows):
        return foretold
    numbers = {id(row): number for number, row in enumerate(distinct)}
    shared = torch.tensor([numbers[id(row)] for row in rows], device=foretold.device)
    decoder.keep(shared)
    return foretold[shared]


@torch.inference_mode()
def sample(
    net: GPT,
    prompts: Sequence[tuple[Tensor, Tensor]],
    places: Tensor,
    choices: Sequence[Tensor],
    draws: Tensor,
    sampling: Sampling,
    *,
    without: Sequence[tuple[Tensor, Tensor]] = (),
    kinds: Tensor | None = None,
    near: Tensor | None = None,
    begun: Tensor | None = None,
    stop: int | None = None,
    resampling: Resampling | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Continue sequences; a row depends on its prompt and its draws alone, if none is given up.

    But for rounding: shorter prompts are filled up to the longest, and sums of other lengths round
    differently.

    Args:
        net: the network.
        prompts: ids (L,) and places (L, 4) of each row, L of its own.
        places: (N, 4), of the tokens to come, the first of which begins a patch.
        choices: (V,) int64 each: the ids that may come first, second … and then from the beginning.
        draws: (B, N) in [0, 1), one number for each token; see :func:`choose`.
        sampling: how to draw.
        without: what is left of each prompt without what guidance shall stress.
        kinds: (B, (n + N) / 8), of the places of the patches ``begun`` and to come, as
            :meth:`GPT.features` is told them; guidance stresses them too.
        near: (N, 7), which tokens of those ``begun`` and to come each may be the same as, -1 for
            none; see :meth:`GPT.nats`.
        begun: (B, n) int64, the tokens at the end of the prompts from which ``near`` counts.
        stop: an id that ends its row.
        resampling: which rows are given up for others meanwhile; not with ``kinds`` or ``stop``.
        dtype: of the network's matrices.
        progress: called with (tokens done, tokens in all).

    Returns:
        (B, N) int64 ids; -1 after the end of a row.

    Raises:
        ValueError: guidance without ``without``, numbers of rows that differ, or ``resampling``
            where it must not be.
    """
    batch, count = len(prompts), len(places)
    guided = sampling.guidance != 1
    if tuple(draws.shape) != (batch, count):
        raise ValueError(f"draws must be {(batch, count)}, got {tuple(draws.shape)}")
    if guided and len(without) != batch:
        raise ValueError(f"guidance needs {batch} prompts without, got {len(without)}")
    if resampling is not None and (kinds is not None or stop is not None):
        raise ValueError("rows with kinds or a stop must not be resampled")
    rows = [*prompts, *without] if guided else [*prompts]
    longest = max(len(ids) for ids, _ in rows)
    decoder = Decoder(net, len(rows), -(-(longest + count) // PATCH), dtype)
    heads = [decoder.head_of(ids) for ids in choices]
    pointer = None if near is None else _Pointer(net, choices, near, begun, batch)
    first = ahead = None
    if kinds is not None:  # told to the patch before each, so of the last one's nothing follows
        kinds = F.pad(kinds, (0, 1, 0, len(rows) - batch), value=net.config.kinds)
        opened = kinds.shape[1] - count // PATCH
        first, ahead = kinds[:, :opened], kinds[:, opened:]
    cos, sin, *others = decoder.where(places[None], ahead)
    split = torch.split
    wheres = list(
        zip(
            split(cos, 1, 2), split(sin, 1, 2), *(split(part, 1, 1) for part in others), strict=True
        )
    )
    detailed = sampling.of_details()
    written = torch.full((batch, count), -1, dtype=torch.int64, device=draws.device)
    over = torch.zeros(batch, dtype=torch.bool, device=draws.device)
    foretold = _begin(decoder, rows, first)
    patch: list[Tensor] = []
    for step in range(count):
        turn = step % len(choices)
        ids = choices[turn].expand(batch) if len(choices[turn]) == 1 else None
        if ids is None:
            both = decoder.logits(foretold, patch, heads[turn])
            logits, pointed = both[:, :-NEAR], both[:, -NEAR:]
            if pointer is not None:
                logits = pointer.point(logits, pointed, turn, step)
            if guided:
                logits = guide(logits[:batch], logits[batch:], sampling)
            own = detailed if turn else sampling
            ids = choices[turn][choose(logits, draws[:, step], own)]
        written[:, step] = ids if stop is None else ids.masked_fill(over, -1)
        if pointer is not None:
            pointer.add(ids, step)
        if stop is not None:
            over |= ids == stop
            if bool(over.all()):
                break
        if progress is not None:
            progress(step + 1, count)
        patch.append(torch.cat([ids] * (len(rows) // batch)))
        if len(patch) == PATCH and step + 1 < count:
            if resampling is not None and (step + 1) % resampling.every == 0:
                kept = resampling.choose(written[:, : step + 1])
                written = written[kept]
                if pointer is not None:
                    pointer.keep(kept)
                going = torch.cat([kept, kept + batch]) if guided else kept
                decoder.keep(going)
                patch = [tokens[going] for tokens in patch]
            foretold = decoder.read(torch.stack(patch, 1), wheres[step // PATCH])
            patch = []
    return written
