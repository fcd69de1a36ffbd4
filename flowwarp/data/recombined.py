"""Captions with another word in the place of one, without any knowledge of what the words mean."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

from flowwarp.data.tokens import split_words

_TRIES = 50  # for each new caption
_Place = tuple[int, int, str]  # number of words before, -1 or 1 for left or right, neighbour there


class Replacements:
    """The words that may stand in the place of another, by the captions that there are.

    A word may be replaced by one that other captions have at the same place: as many words stand
    before it, and the same word right before or right behind it. So "a red ball rolls" and "a blue
    cube jumps" give "a blue ball rolls" (both colours follow "a") and "a red ball jumps" (both
    verbs stand last), yet no "a red cube rolls". Whether a new caption makes sense is not known.

    Args:
        captions: the words of each.
    """

    def __init__(self, captions: Iterable[Sequence[str]]) -> None:
        self._found: defaultdict[_Place, dict[str, None]] = defaultdict(dict)
        for words in captions:
            for index, word in enumerate(words):
                for place in _places(words, index):
                    self._found[place][word] = None

    def of(self, words: Sequence[str], index: int) -> list[str]:
        """Return the other words that may stand in the place of a word of a caption."""
        found = {word: None for place in _places(words, index) for word in self._found[place]}
        return [word for word in found if word != words[index]]


def recombine(captions: Iterable[str], count: int, seed: int = 0) -> list[str]:
    """Return captions with one word replaced, none of which is a caption itself.

    Args:
        captions: some captions; see :class:`Replacements` for what they allow.
        count: how many new ones at most.
        seed: other numbers choose others.

    Returns:
        Words joined by spaces; fewer than ``count`` if few are found.
    """
    known = list(dict.fromkeys(tuple(split_words(caption)) for caption in captions))
    replacements = Replacements(known)
    draw = random.Random(seed)  # noqa: S311 - nothing secret
    taken = set(known)
    new: list[str] = []
    for _ in range(_TRIES * count if any(known) else 0):
        words = draw.choice(known)
        if not words or len(new) == count:
            continue
        index = draw.randrange(len(words))
        others = replacements.of(words, index)
        if not others:
            continue
        changed = (*words[:index], draw.choice(others), *words[index + 1 :])
        if changed not in taken:
            taken.add(changed)
            new.append(" ".join(changed))
    return new


def _places(words: Sequence[str], index: int) -> tuple[_Place, _Place]:
    """Return the places that a word has by its neighbours; "" is beyond the ends."""
    left = words[index - 1] if index else ""
    right = words[index + 1] if index + 1 < len(words) else ""
    return (index, -1, left), (index, 1, right)
