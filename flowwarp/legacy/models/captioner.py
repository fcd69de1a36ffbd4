"""The captioner: what a clip shows, in words, one after the other.

It looks at pairs of frames some way apart, as the judge does; a recurrent network (GRU; Cho et al.,
EMNLP 2014) reads the words so far, and what comes next is told from both, as in "Show and Tell"
(Vinyals et al., CVPR 2015). Each word of each caption says what is to be seen there, so it learns
from far fewer clips than a network that learns which caption is a clip's (Tschannen et al., "Image
Captioners Are Scalable Vision Learners Too", NeurIPS 2023).

What the pairs of a clip think of the next word is averaged, so a clip may have any length.

Asked for one thing that a caption said long before, a recurrent network hardly learns to remember
all of it. So it may look back at what it has read (attention; Bahdanau et al., ICLR 2015).

What is seen of each place can be sorted into kinds: a vector quantiser, whose vectors are found by
k-means. The kinds of a pair's places are a *sketch*, what a caption can be told from and little
else, a hundredth of what a codec keeps. So a sketch is easily made from a caption, and says whether
it fits one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from flowwarp.tensors import check_whole

END = 0  # the id that ends a caption, and stands before its first word
MOST_KINDS = 4096


@dataclass(frozen=True)
class CaptionerConfig:
    """Sizes of the network.

    Args:
        vocabulary: how many ids there are, that of the end included.
        size: height and width of frames, a multiple of 8 up to 512.
        apart: how many frames lie from one of a pair to the other, up to 64.
        numbers: that are seen of a place.
        pooled: features besides, of which only the largest and the mean of all places are known: a
            small thing is the same wherever it is. None in a sketch, so 0 where there are kinds.
        kinds: into which places are sorted; 0 for none, and all that is seen is told from.
        widths: channels at a quarter and an eighth of the resolution.
        blocks: residual blocks there.
        embedded: numbers that stand for a word.
        hidden: of the recurrent network.
        joined: numbers that words are told from.
        recalled: numbers by which what was read is found again; 0 to remember it all.
        norm: ``group`` normalises over groups of channels of one frame; ``none`` does not.
    """

    vocabulary: int
    size: int = 64
    apart: int = 4
    numbers: int = THIN
    pooled: int = 0
    kinds: int = 0
    widths: tuple[int, int] = (64, 128)
    blocks: tuple[int, int] = (2, 1)
    embedded: int = 96
    hidden: int = 192
    joined: int = 256
    recalled: int = 0
    norm: Literal["group", "none"] = "none"

    def __post_init__(self) -> None:
        for name in ("vocabulary", "numbers", "embedded", "hidden", "joined"):
            check_whole(getattr(self, name), name, 1)
        check_whole(self.kinds, "kinds", 0, MOST_KINDS)
        check_whole(self.pooled, "pooled", 0)
        check_whole(self.recalled, "recalled", 0)
        if self.pooled and self.kinds:
            raise ValueError(f"pooled must be 0 where there are kinds, got {self.pooled}")
        check_pairs(self.size, self.apart)
        check_sizes(self.widths, self.blocks, self.norm)


class Captioner(nn.Module):
    """Logits of each word of a caption, given a clip and the words before it.

    >>> net = Captioner(CaptionerConfig(9, size=16))
    >>> net(torch.rand(2, 5, 3, 16, 16), torch.zeros(2, 7, dtype=torch.int64)).shape
    torch.Size([2, 7, 9])
    """

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        coarse, joined = config.widths[1], config.joined
        numbers = config.numbers
        outputs = numbers + config.pooled
        self.see = looking(PAIR_CHANNELS, config.widths, config.blocks, config.norm, outputs)
        # Whose rows are the kinds: anything at first, then found, not learned by gradients.
        self.register_buffer("book", torch.randn(config.kinds, numbers))
        self.book: Tensor
        self.unknown = nn.Parameter(torch.zeros(min(config.kinds, 1), numbers))  # of any kind yet
        self.think = nn.Linear(numbers * self.side**2 + 2 * config.pooled, coarse)
        self.show = nn.Linear(coarse, joined, bias=False)
        self.embedding = nn.Embedding(config.vocabulary, config.embedded)
        self.read = nn.GRU(config.embedded, config.hidden, batch_first=True)
        self.tell = nn.Linear(config.hidden, joined)
        if config.recalled:
            self.query = nn.Linear(config.hidden, config.recalled, bias=False)
            self.key = nn.Linear(config.hidden, config.recalled, bias=False)
            self.recall = nn.Linear(config.hidden, joined, bias=False)
            for layer in (self.query, self.key):
                nn.init.normal_(layer.weight, std=1 / math.sqrt(config.hidden))
            nn.init.zeros_(self.recall.weight)
        self.head = nn.Linear(joined, config.vocabulary)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, video: Tensor, ids: Tensor, blind: Tensor | None = None) -> Tensor:
        """Return the logits of the id after each of some, (B, L, vocabulary) float32.

        Args:
            video: see :meth:`look`.
            ids: (B, L) int64, ``END`` first.
            blind: (B,) bool, whose captions are written without a look.

        Raises:
            TypeError: the video is not floating-point.
            ValueError: it has another shape than the network is for.
        """
        return self.say(self.look(video), ids, blind)

    @property
    def side(self) -> int:
        """How many places of a sketch lie side by side."""
        return self.config.size // STRIDE

    def places(self, video: Tensor) -> Tensor:
        """Return what is seen of places, (B, pairs of frames, places, numbers) float32.

        Args:
            video: (B, T, 3, S, S) in [0, 1], T more than ``apart``, S as ``config`` has it.

        Raises:
            TypeError: the video is not floating-point.
            ValueError: it has another shape.
        """
        return self.features(video)[0]

    def features(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`places` does, and what is pooled, (B, pairs, 2 pooled) float32."""
        seen = self.see(pair_frames(video, self.config.size, self.config.apart))
        seen = F.silu(seen.float()).flatten(2)  # (B pairs, numbers and pooled, places)
        seen = seen.view(len(video), -1, *seen.shape[1:])
        placed, rest = seen[:, :, : self.config.numbers], seen[:, :, self.config.numbers :]
        return placed.mT, pool(rest)

    def sketch(self, video: Tensor) -> Tensor:
        """Return the sketch of clips, (B, pairs, side, side) int64; see :meth:`places`."""
        return self.sort(self.places(video))

    def sort(self, places: Tensor) -> Tensor:
        """Return the kind of each place of :meth:`places`, (B, pairs, side, side) int64.

        Raises:
            ValueError: the network has no kinds.
        """
        if not self.config.kinds:
            raise ValueError("this network has no kinds")
        with torch.autocast(places.device.type, enabled=False):  # bfloat16 confuses neighbours
            book = self.book.float()
            nearest = (places @ (2 * book.T) - book.square().sum(1)).argmax(-1)
        return nearest.view(*nearest.shape[:2], self.side, self.side)

    def look(self, video: Tensor) -> Tensor:
        """Return what is seen in clips, (B, pairs, joined); 0 is nothing. See :meth:`places`."""
        places, pooled = self.features(video)
        return self.understand(places, pooled)

    def look_at_sketch(self, codes: Tensor) -> Tensor:
        """Return what is seen in a sketch (B, pairs, side, side), as :meth:`look` does.

        It may be only begun: ``config.kinds`` stands for what is not known yet.
        """
        return self.understand(torch.cat([self.book, self.unknown])[codes.flatten(2)])

    def understand(self, places: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Return what :meth:`look` does, of what :meth:`places` has seen, and of what is pooled."""
        joined = places.flatten(2)
        if pooled is not None:
            joined = torch.cat([joined, pooled], 2)
        shown: Tensor = self.show(F.silu(self.think(joined)))
        return shown

    def say(self, seen: Tensor, ids: Tensor, blind: Tensor | None = None) -> Tensor:
        """Return what :meth:`forward` does, of what :meth:`look` has seen."""
        if blind is not None:
            seen = seen.masked_fill(blind[:, None, None], 0.0)
        read, _ = self.read(self.embedding(ids))
        told = self.tell(read)
        if self.config.recalled:
            told = told + self.recall(self._look_back(read))
        told = told[:, None] + seen[:, :, None]  # (B, pairs, L, joined)
        # The mean over pairs of what a linear layer says is what it says of their mean.
        logits: Tensor = self.head(F.silu(told).float().mean(1)).float()
        return logits

    def _look_back(self, read: Tensor) -> Tensor:
        """Return what each place finds again of (B, L, hidden), up to its own."""
        query, key = self.query(read), self.key(read)
        values = read.to(query)
        found = F.scaled_dot_product_attention(
            query[:, None], key[:, None], values[:, None], is_causal=True
        )
        return found[:, 0]
