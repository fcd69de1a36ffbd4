"""One vocabulary over all media, and the sequences that a transformer reads and writes.

A medium is a range of the vocabulary, two markers (where it begins, where it ends), and a function
that turns an item into codes. A sequence is any number of media in any order, each between its
markers: ``<text> a knight walks </text> <video> 1024 codes </video>`` is a prompt and its video,
the other way round it is a video and its description. So adding a medium takes one `Medium` and one
tokenizer: here :class:`BytePairs` for text and :func:`motion_codes` for motion; codes of video come
from a discrete VAE.

Tokens come in patches of eight, which a transformer reads as one: a marker and a token of text have
one each to themselves (a word must mean the same at any position), a grid is written in squares of
2 x 2 cells, and an incomplete patch is filled up with id 0. A code that is too large for a
vocabulary is written as several digits.

Each token has a place (line, t, y, x). Text counts along ``line``; the cells of a grid lie at the
centre of the region that they cover, in time and in the units of the video's own cells, so that
motion of a coarse grid is near the pixels that it moves.

A cell of a grid often equals a nearby earlier one: the same cell of the previous time step if
nothing moves, or a neighbour of that cell if something does. `Tokens.near` records which earlier
tokens these are.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.errors import InputError
from flowwarp.tensors import check_whole, check_wholes

AXES = 4  # of a place: line, t, y, x
PATCH = 8  # tokens; an incomplete one is filled up with NOTHING
NOTHING = 0
# Offsets (t, y, x) to the earlier cells that a cell often equals.
STEPS = ((-1, 0, 0), (-1, 0, -1), (-1, 0, 1), (-1, -1, 0), (-1, 1, 0), (0, 0, -1), (0, -1, 0))


# ------------------------------------------------------------------ text

BYTES = 256
_LONGEST = 64  # bytes of one token: merges of merges could otherwise grow without bound
MOST_MERGES = 2**15  # merges
# A word takes the space before it along, so that most texts need no token for spaces.
_WORDS = re.compile(r" ?[^\W\d_]+| ?\d| ?(?:[^\w\s]|_)+|\s+")


class BytePairs:
    """A tokenizer of text: bytes, and the pairs of tokens that are so common that they became one.

    Any Unicode text survives the round trip, as every byte is a token (Sennrich et al., "Neural
    Machine Translation of Rare Words with Subword Units", ACL 2016, on bytes). A lone surrogate,
    which no file can hold, becomes ``?``.

    Args:
        merges: pairs of earlier tokens; the first makes token 256, the next 257, ...

    Raises:
        ValueError: a pair of tokens that do not exist yet, or a token that grows too long.

    >>> pairs = train_pairs(["to be or not to be"], 4)
    >>> pairs.decode(pairs.encode("to bee"))
    'to bee'
    """

    def __init__(self, merges: Sequence[tuple[int, int]] = ()) -> None:
        if len(merges) > MOST_MERGES:
            raise ValueError(f"at most {MOST_MERGES} merges, got {len(merges)}")
        self.merges = tuple((left, right) for left, right in merges)
        self._bytes = [bytes([value]) for value in range(BYTES)]
        for left, right in self.merges:
            for token in (left, right):  # of those that exist already
                check_whole(token, "a token that is merged", 0, len(self._bytes) - 1)
            merged = self._bytes[left] + self._bytes[right]
            if len(merged) > _LONGEST:
                raise ValueError(f"token {len(self._bytes)} has more than {_LONGEST} bytes")
            self._bytes.append(merged)
        self._ranks = {pair: BYTES + rank for rank, pair in enumerate(self.merges)}
        if len(self._ranks) < len(self.merges):
            raise ValueError("a merge comes twice")
        self._known: dict[str, tuple[int, ...]] = {}

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return BYTES + len(self.merges)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(itertools.chain.from_iterable(map(self._word, _WORDS.findall(text))))

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; bytes that are no UTF-8 (a text cut off) become U+FFFD."""
        return b"".join(self._bytes[token] for token in tokens).decode("utf-8", "replace")

    def _word(self, word: str) -> tuple[int, ...]:
        if word not in self._known:
            tokens = tuple(word.encode("utf-8", "replace"))
            while len(tokens) > 1:
                # The merge that was learned first comes first.
                pair = min(itertools.pairwise(tokens), key=lambda p: self._ranks.get(p, math.inf))
                if pair not in self._ranks:
                    break
                tokens = _merge(tokens, pair, self._ranks[pair])
            if len(self._known) > MOST_MERGES or len(word) > _LONGEST:
                return tokens
            self._known[word] = tokens
        return self._known[word]


def train_pairs(texts: Iterable[str], merges: int) -> BytePairs:
    """Learn the commonest pairs of texts.

    The result depends on the texts alone, not on their order. Pairs across words are not merged.

    Args:
        texts: such as captions.
        merges: how many pairs at most; fewer where no pair comes twice.
    """
    counts = Counter(itertools.chain.from_iterable(map(_WORDS.findall, texts)))
    words = {tuple(word.encode("utf-8", "replace")): 0 for word in counts}
    for word, count in counts.items():
        words[tuple(word.encode("utf-8", "replace"))] += count
    lengths = [1] * BYTES
    learned: list[tuple[int, int]] = []
    pairs: Counter[tuple[int, int]] = Counter()
    where: defaultdict[tuple[int, int], set[tuple[int, ...]]] = defaultdict(set)

    def note(word: tuple[int, ...], count: int) -> None:
        for pair in itertools.pairwise(word):
            pairs[pair] += count
            where[pair].add(word)

    for word, count in words.items():
        note(word, count)
    while len(learned) < merges:
        allowed = (p for p in pairs if pairs[p] > 1 and lengths[p[0]] + lengths[p[1]] <= _LONGEST)
        best = max(allowed, key=lambda p: (pairs[p], -p[0], -p[1]), default=None)
        if best is None:
            break
        token = BYTES + len(learned)
        learned.append(best)
        lengths.append(lengths[best[0]] + lengths[best[1]])
        for word in where.pop(best):
            if word not in words:  # changed by an earlier merge
                continue
            count = words.pop(word)
            note(word, -count)
            merged = _merge(word, best, token)
            words[merged] = words.get(merged, 0) + count
            note(merged, count)
        pairs.pop(best, None)
    return BytePairs(learned)


def _merge(tokens: tuple[int, ...], pair: tuple[int, int], token: int) -> tuple[int, ...]:
    merged: list[int] = []
    index = 0
    while index < len(tokens):
        if tokens[index : index + 2] == pair:
            merged.append(token)
            index += 2
        else:
            merged.append(tokens[index])
            index += 1
    return tuple(merged)


# ------------------------------------------------------------------ motion

MOTION_GRID = (4, 4, 4)  # t, y, x
# Pixels a frame, of a frame 64 wide: slow motion matters most, so the levels double.
_SPEEDS = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
MOTION_CODES = len(_SPEEDS) ** 2 + 1  # the last: nothing is known
_UNIT = 64


def motion_codes(flow: Tensor, valid: Tensor) -> Tensor:
    """Turn the flow of a clip into codes: the mean of each cell, each component rounded.

    Args:
        flow: (T - 1, 2, H, W) from each frame to the next, in pixels.
        valid: (T - 1, 1, H, W), where it is known.

    Returns:
        (4, 4, 4) int64 in [0, MOTION_CODES): t, y, x.

    Raises:
        ValueError: a clip of one frame has no flow.
    """
    if not len(flow):
        raise ValueError("flow must be of a clip of at least 2 frames, got 1")
    known = valid.to(flow.dtype)
    both = torch.cat([torch.where(known > 0, flow, 0), known], 1)
    cells = F.adaptive_avg_pool3d(both.transpose(0, 1)[None], MOTION_GRID)[0]  # (3, 4, 4, 4)
    mean = cells[:2] / cells[2:].clamp_min(1e-6) * (_UNIT / flow.shape[-1])
    speeds = torch.tensor(_SPEEDS, dtype=flow.dtype)
    level = torch.bucketize(mean, (speeds[1:] + speeds[:-1]) / 2)
    return torch.where(cells[2] > 0, level[0] * len(_SPEEDS) + level[1], MOTION_CODES - 1)


# ------------------------------------------------------------------ the vocabulary

LONGEST_TEXT = 256  # tokens; to write one takes time by the cube of their number
_MOST_TOKENS = 2**15  # of a grid: every patch sees all before it
_MOST_CODES = 2**31  # of a medium, as a discrete VAE has
_MOST_DIGITS = 31  # of two values each, as many
_MOST_MEDIA = 64


@dataclass(frozen=True)
class Medium:
    """A range of the vocabulary, and how codes of it lie.

    Args:
        name: text, video, ...
        size: how many codes there are, or values of a digit.
        grid: cells in (t, y, x), written in that order, but by squares of 2 x 2 where rows and
            columns are even, at most 32,768 tokens; None for a line of any length.
        first: when the grid begins, in cells of the video, whose first begins at 1.
        shares: the medium whose codes these are too; a range of its own otherwise.
        digits: number of digits of a code, most significant first; each has ids of its own.

    Raises:
        ValueError: it is empty, too large, or a line whose codes are of several digits.
    """

    name: str
    size: int
    grid: tuple[int, int, int] | None = None
    first: int = 1
    shares: str | None = None
    digits: int = 1

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name and isinstance(self.shares, str | None)):
            raise ValueError("a medium must have a name, and share codes of a name or of none")
        check_whole(self.size, f"size of {self.name}", 1)
        check_whole(self.digits, f"digits of {self.name}", 1, _MOST_DIGITS)
        check_whole(self.first, f"first of {self.name}", 0, _MOST_TOKENS)
        if self.codes > _MOST_CODES:
            raise ValueError(f"{self.name} must have at most {_MOST_CODES} codes")
        if self.grid is None:
            if self.digits > 1:
                raise ValueError(f"{self.name} must have a grid, or codes of one digit")
            return
        check_wholes(self.grid, f"grid of {self.name}", 1, _MOST_TOKENS)
        if len(self.grid) != 3 or math.prod(self.grid) * self.digits > _MOST_TOKENS:
            raise ValueError(
                f"grid of {self.name} must be t, y, x of at most {_MOST_TOKENS} tokens, "
                f"got {self.grid}"
            )

    @property
    def codes(self) -> int:
        """How many codes there are."""
        return int(self.size**self.digits)


@dataclass(frozen=True)
class Tokens:
    """Tokens and their places.

    Args:
        ids: (L,) int64.
        places: (L, 4) float32: line, t, y, x.
        media: (L,) int64, the number of the medium that each belongs to.
        near: (L, 7) int64, which earlier tokens, counted from the first, are the same digit of the
            cells at ``STEPS``; -1 where there is none.
    """

    ids: Tensor
    places: Tensor
    media: Tensor
    near: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Vocabulary:
    """All media of a model, and the text tokenizer, which learned from its captions.

    Ids are: 0 for nothing, which fills up patches, then the two markers of each medium, then each
    medium's range.

    Args:
        media: in the order of their ranges.
        pairs: the tokenizer of the medium ``text``.
        text_limit: how many tokens of a text are used, up to 256.

    Raises:
        ValueError: two media of one name, one that shares codes of none, a text that is not the
            tokenizer's, or a video that begins at another time than 1.
    """

    media: tuple[Medium, ...]
    pairs: BytePairs = field(default_factory=BytePairs)
    text_limit: int = 64

    def __post_init__(self) -> None:
        if len(self.media) > _MOST_MEDIA:
            raise ValueError(f"media must be at most {_MOST_MEDIA}, got {len(self.media)}")
        names = [medium.name for medium in self.media]
        if len(set(names)) < len(names):
            raise ValueError(f"media must have different names, got {', '.join(names)}")
        own = {(m.name, m.size, m.digits) for m in self.media if m.shares is None}
        for medium in self.media:
            shared = medium.shares, medium.size, medium.digits
            if medium.shares is not None and shared not in own:
                raise ValueError(f"medium {medium.name} shares codes of no such medium")
        if "text" in names and self["text"].size != self.pairs.size:
            raise ValueError(f"text must have {self.pairs.size} codes, got {self['text'].size}")
        if "text" in names and (self["text"].grid or self["text"].shares):
            raise ValueError("text must be a line of codes of its own")
        if "video" in names and self["video"].first != 1:
            raise ValueError(f"video must begin at 1, got {self['video'].first}")
        check_whole(self.text_limit, "text_limit", 1, LONGEST_TEXT)

    def __getitem__(self, name: str) -> Medium:
        return self.media[self.number(name)]

    def knows(self, name: str) -> bool:
        """Whether there is such a medium."""
        return any(medium.name == name for medium in self.media)

    def number(self, name: str) -> int:
        """Return which medium has this name.

        Raises:
            ValueError: none.
        """
        for number, medium in enumerate(self.media):
            if medium.name == name:
                return number
        raise ValueError(f"no medium {name!r}; there are {', '.join(m.name for m in self.media)}")

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        starts, start = [], 1 + 2 * len(self.media)
        for medium in self.media:
            starts.append(start)
            start += 0 if medium.shares else medium.size * medium.digits
        return (*starts, start)

    @property
    def size(self) -> int:
        """How many ids there are."""
        return self._starts[-1]

    def begin(self, name: str) -> int:
        """Return the marker before a medium."""
        return 1 + 2 * self.number(name)

    def end(self, name: str) -> int:
        """Return the marker after a medium."""
        return 2 + 2 * self.number(name)

    def range(self, name: str) -> range:
        """Return the ids of a medium's codes."""
        medium = self[name]
        start = self._starts[self.number(medium.shares or name)]
        return range(start, start + medium.size * medium.digits)

    def choices(self, name: str) -> tuple[Tensor, ...]:
        """Return the ids that may come within a medium, in turn: (n,) int64 each.

        Of a grid, whose length is known, those of the first digit, the second …; of a text all, or
        the marker at its end, and then nothing that fills up the patch.
        """
        own = self.range(name)
        ids = torch.arange(own.start, own.stop)
        if self[name].grid is None:
            nothing = torch.tensor([NOTHING])
            return F.pad(ids, (0, 1), value=self.end(name)), *[nothing] * (PATCH - 1)
        return ids.view(-1, self[name].size).unbind()

    def all_choices(self) -> tuple[Tensor, ...]:
        """Return :meth:`choices` of media that have ids of their own, where there is a choice."""
        return tuple(ids for _, ids in self._choices)

    def later_digits(self) -> tuple[bool, ...]:
        """Return which of :meth:`all_choices` belong to a digit after a code's first."""
        return tuple(digit > 0 for digit, _ in self._choices)

    @cached_property
    def _choices(self) -> list[tuple[int, Tensor]]:
        """For each of :meth:`all_choices`: the digit that it belongs to, and its ids."""
        own = [self.choices(medium.name) for medium in self.media if medium.shares is None]
        digits = itertools.chain.from_iterable(map(enumerate, own))
        return [(digit, ids) for digit, ids in digits if NOTHING not in ids]

    def opening(self, name: str) -> Tokens:
        """Return the marker that a medium begins with, as a sequence of one patch."""
        return self._marker(name, self.begin(name))

    def _marker(self, name: str, marker: int) -> Tokens:
        ids = F.pad(torch.tensor([marker]), (0, PATCH - 1), value=NOTHING)
        return Tokens(
            ids,
            torch.zeros(PATCH, AXES, dtype=torch.float32),
            torch.full_like(ids, self.number(name)),
            torch.full((PATCH, len(STEPS)), -1),
        )

    def segment(self, name: str, codes: Tensor, start: int = 0) -> Tokens:
        """Return a medium between its markers, in whole patches.

        Args:
            name: of the medium.
            codes: (L,), or the medium's grid, or a part of it: (t, y, x).
            start: which t of the grid the part begins at.

        Raises:
            ValueError: codes out of range, or of another shape.
        """
        medium = self[name]
        if medium.grid is not None and (
            tuple(codes.shape[1:]) != medium.grid[1:]
            or not 1 <= len(codes) <= medium.grid[0] - start
        ):
            raise ValueError(f"{name} must be {medium.grid} codes, got {tuple(codes.shape)}")
        own = self.codes(name, codes, start)
        end = self._marker(name, self.end(name))
        if medium.grid is None:
            end.places[0, 0] = 1 + len(own) // PATCH
        missing = -len(own) % PATCH
        own = Tokens(
            F.pad(own.ids, (0, missing), value=NOTHING),
            F.pad(own.places, (0, 0, 0, missing)),
            F.pad(own.media, (0, missing), value=self.number(name)),
            F.pad(own.near, (0, 0, 0, missing), value=-1),
        )
        return join([self.opening(name), own, end])

    def codes(self, name: str, codes: Tensor, start: int = 0) -> Tokens:
        """Return codes as they are written, without markers.

        Args:
            name: of the medium.
            codes: (L,), or the first (t, y, x) of the medium's grid from ``start`` on.
            start: see :meth:`segment`.

        Raises:
            ValueError: codes out of range.
        """
        medium = self[name]
        flat = codes.to(torch.int64).flatten()
        if len(flat) and not (int(flat.min()) >= 0 and int(flat.max()) < medium.codes):
            raise ValueError(f"codes of {name} must be in [0, {medium.codes})")
        if medium.grid is not None:
            flat = flat[self._orders[name][: len(flat)]]
        ids = torch.stack(
            [
                flat // medium.size ** (medium.digits - 1 - place) % medium.size + own[0]
                for place, own in enumerate(self.choices(name)[: medium.digits])
            ],
            1,
        ).flatten()
        if medium.grid is None:  # each has a patch to itself
            ids = F.pad(ids[:, None], (0, PATCH - 1), value=NOTHING).flatten()
        before = 0 if medium.grid is None else start * math.prod(medium.grid[1:]) * medium.digits
        places = self.places(name, before + len(ids))[before:]
        near = (self.near(name, before + len(ids))[before:] - before).clamp_min(-1)
        return Tokens(ids, places, torch.full_like(ids, self.number(name)), near)

    def read_grid(self, name: str, ids: Tensor) -> Tensor:
        """Return the codes (B, t, y, x) of ids (B, t * y * x * digits) as they are written.

        t may be less than the grid has, if it is the first that are written.
        """
        medium = self[name]
        assert medium.grid is not None
        digits = ids.unflatten(1, (-1, medium.digits)).unbind(-1)  # type: ignore[no-untyped-call]
        written = torch.zeros_like(digits[0])
        for digit, own in zip(digits, self.choices(name), strict=True):
            written = written * medium.size + digit - own[0]
        codes = torch.empty_like(written)
        codes[:, self._orders[name][: written.shape[1]]] = written
        return codes.view(len(codes), -1, *medium.grid[1:])

    def places(self, name: str, length: int) -> Tensor:
        """Return the places of the first tokens of a medium as they are written, (length, 4)."""
        grid = self[name].grid
        if grid is None:
            places = torch.zeros(length, AXES, dtype=torch.float32)
            places[:, 0] = torch.arange(length) // PATCH + 1
            return places
        return self._grids[name][:length]

    def near(self, name: str, length: int) -> Tensor:
        """Return ``near`` of the first tokens of a medium as they are written, (length, 7)."""
        if self[name].grid is None:
            return torch.full((length, len(STEPS)), -1)
        return self._near[name][:length]

    @cached_property
    def _near(self) -> dict[str, Tensor]:
        return {
            m.name: _grid_near(m.grid, self._orders[m.name], m.digits)
            for m in self.media
            if m.grid is not None
        }

    @cached_property
    def _grids(self) -> dict[str, Tensor]:
        grids = {m.name: m.grid for m in self.media if m.grid is not None}
        full = grids.get("video", (1, 1, 1))
        return {
            name: _grid_places(grid, full, self[name].first)[self._orders[name]].repeat_interleave(
                self[name].digits, 0
            )
            for name, grid in grids.items()
        }

    @cached_property
    def _orders(self) -> dict[str, Tensor]:
        return {m.name: _written_order(m.grid) for m in self.media if m.grid is not None}

    def text(self, caption: str) -> Tokens:
        """Return a text between its markers, cut at ``text_limit`` tokens."""
        return self.segment("text", torch.tensor(self.encode(caption), dtype=torch.int64))

    def encode(self, caption: str) -> list[int]:
        """Return the tokens of a text, cut at ``text_limit``."""
        # No token is made of more than _LONGEST bytes, nor of fewer than one.
        return self.pairs.encode(caption[: self.text_limit * _LONGEST])[: self.text_limit]

    def read_text(self, ids: Iterable[int]) -> str:
        """Return the text of ids; markers and whatever is not text are passed over."""
        own = self.range("text")
        return self.pairs.decode(int(i) - own.start for i in ids if int(i) in own)

    def to_json(self) -> str:
        """Return it as text, for the card of the weights."""
        media = [asdict(medium) for medium in self.media]
        return json.dumps(
            {"media": media, "merges": self.pairs.merges, "text_limit": self.text_limit},
            separators=(",", ":"),
        )


def vocabulary_from_json(text: str, source: str | Path) -> Vocabulary:
    """Read what :meth:`Vocabulary.to_json` wrote.

    Raises:
        InputError: it is broken; ``source`` is named.
    """
    try:
        content: dict[str, Any] = json.loads(text)
        media = tuple(
            Medium(
                entry["name"],
                entry["size"],
                None if entry["grid"] is None else tuple(entry["grid"]),
                entry["first"],
                entry["shares"],
                entry["digits"],
            )
            for entry in content["media"]
        )
        return Vocabulary(media, BytePairs(content["merges"]), content["text_limit"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise InputError(source, f"its vocabulary is broken ({fault})") from fault


def join(parts: Iterable[Tokens]) -> Tokens:
    """Return sequences one after the other."""
    parts = list(parts)
    starts = itertools.accumulate((len(part) for part in parts), initial=0)
    return Tokens(
        torch.cat([part.ids for part in parts]),
        torch.cat([part.places for part in parts]),
        torch.cat([part.media for part in parts]),
        torch.cat(
            [
                torch.where(part.near < 0, -1, part.near + start)
                for part, start in zip(parts, starts, strict=False)
            ]
        ),
    )


def _written_order(grid: tuple[int, int, int]) -> Tensor:
    """Return which cell, counted row by row, is written first, second, … (t * y * x,)."""
    t, y, x = grid
    cells = torch.arange(t * y * x)
    if y % 2 or x % 2:
        return cells
    return cells.view(t, y // 2, 2, x // 2, 2).transpose(2, 3).flatten()


def _grid_near(grid: tuple[int, int, int], order: Tensor, digits: int) -> Tensor:
    """Return which earlier tokens are those of the cells at ``STEPS``, (t * y * x * digits, 7)."""
    written = torch.arange(len(order))
    when = torch.empty_like(order).index_copy_(0, order, written)
    whole = grid[1] * grid[2]
    cells = torch.stack([order // whole, order // grid[2] % grid[1], order % grid[2]], 1)
    found = []
    for step in STEPS:
        near = cells + torch.tensor(step)
        inside = ((near >= 0) & (near < torch.tensor(grid))).all(1)
        t, y, x = near.clamp_min(0).minimum(torch.tensor(grid) - 1).unbind(1)
        place = when[(t * grid[1] + y) * grid[2] + x]
        found.append(torch.where(inside & (place < written), place, -1))
    places = torch.stack(found, 1)[:, None]  # (cells, 1, 7)
    own = places * digits + torch.arange(digits)[:, None]
    return torch.where(places < 0, -1, own).flatten(0, 1)


def _grid_places(grid: tuple[int, int, int], full: tuple[int, int, int], first: int) -> Tensor:
    """Return the middles of a grid's cells in units of the full grid's, (t * y * x, 4)."""
    # A grid of fewer cells in space covers the same frame; one of another length in time covers
    # the same clip, but a single instant (a first frame) is as long as a cell.
    spans = (full[0] / grid[0] if grid[0] > 1 else 1.0, full[1] / grid[1], full[2] / grid[2])
    axes = [
        start + (torch.arange(cells, dtype=torch.float32) + 0.5) * span - 0.5
        for cells, span, start in zip(grid, spans, (first, 1, 1), strict=True)
    ]
    t, y, x = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
    return torch.stack([torch.zeros_like(t), t, y, x], 1)
