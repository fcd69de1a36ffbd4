"""Phrases of captions: words, pairs of neighbours, and pairs with one word between.

A bag of them tells nearly all that a caption tells (as in fastText; Joulin et al., "Bag of Tricks
for Efficient Text Classification", EACL 2017), and what each tells can be learned by itself. A word
here is a token of a :class:`flowwarp.data.tokens.BytePairs`, which common words are one of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import final

import torch
from torch import Tensor

from flowwarp.data.tokens import BytePairs

# The word before the last but one, that before the last, and the last; 0 is any word.
Phrase = tuple[int, int, int]


def phrases_of(words: Sequence[int]) -> list[Phrase]:
    """Return the phrases of some tokens, each once.

    >>> phrases_of([7, 8, 9])
    [(0, 0, 8), (0, 8, 9), (8, 0, 10), (0, 0, 9), (0, 9, 10), (0, 0, 10)]
    """
    own = [word + 1 for word in words]
    found: dict[Phrase, None] = {}
    for place, word in enumerate(own):
        found[0, 0, word] = None
        if place + 1 < len(own):
            found[0, word, own[place + 1]] = None
        if place + 2 < len(own):
            found[word, 0, own[place + 2]] = None
    return list(found)


@final
class Phrasebook:
    """The phrases that are known.

    Args:
        names: (R, 3) integers, a :data:`Phrase` each.
        pairs: the tokenizer that their words are of.
        limit: tokens of a caption that are read.
    """

    def __init__(self, names: Tensor, pairs: BytePairs, limit: int) -> None:
        self.names, self.pairs, self.limit = names, pairs, limit
        self._numbers = {(a, b, c): number for number, (a, b, c) in enumerate(names.tolist())}

    def __len__(self) -> int:
        return len(self.names)

    def find(self, caption: str) -> list[int]:
        """Return the numbers of a caption's phrases, as far as they are known."""
        return self.number(self.pairs.encode(caption)[: self.limit])

    def number(self, words: Sequence[int]) -> list[int]:
        """Return the numbers of the phrases of some tokens, as far as they are known."""
        numbers = map(self._numbers.get, phrases_of(words))
        return [number for number in numbers if number is not None]

    def bag(self, numbers: Sequence[int], longest: int) -> Tensor:
        """Return numbers, (longest,) int32, filled up with how many phrases there are."""
        bag = torch.full((longest,), len(self), dtype=torch.int32)
        kept = numbers[:longest]
        bag[: len(kept)] = torch.tensor(kept, dtype=torch.int32)
        return bag

    def bags(self, captions: Sequence[str], longest: int) -> Tensor:
        """Return the :meth:`bag` of what :meth:`find` finds in each, (n, longest)."""
        return torch.stack([self.bag(self.find(caption), longest) for caption in captions])


def learn_phrases(captions: Iterable[str], pairs: BytePairs, limit: int, most: int) -> Phrasebook:
    """Return the commonest phrases of captions, at most so many, each of two captions at least."""
    counts: Counter[Phrase] = Counter()
    for caption in captions:
        counts.update(phrases_of(pairs.encode(caption)[:limit]))
    ranked = sorted(counts, key=lambda phrase: (-counts[phrase], phrase))
    common = [phrase for phrase in ranked[:most] if counts[phrase] > 1]
    return Phrasebook(torch.tensor(common, dtype=torch.int32).reshape(-1, 3), pairs, limit)
