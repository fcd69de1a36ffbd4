"""Captions that say something else: one whose phrase is another's, from between the same words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import final

import torch

_LONGEST = 3  # words of a phrase
_EDGE = ""  # before the first word, and after the last


@final
class Swaps:
    """Phrases of some captions, by the words around them.

    What stands between "in a" and "shirt" in one caption can stand there in another; most of the
    time it then says something else, and it always is what captions are like.

    Args:
        captions: of clips.

    >>> swaps = Swaps(["a man in a red shirt walks", "a man in a green shirt walks"])
    >>> swaps.others("a man in a red shirt walks", 1, torch.Generator())
    ['a man in a green shirt walks']
    """

    def __init__(self, captions: Iterable[str]) -> None:
        found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for caption in captions:
            words = _words(caption)
            for start, end in _phrases(words):
                found[words[start - 1], words[end]].add(" ".join(words[start:end]))
        self._found = {
            around: sorted(phrases) for around, phrases in found.items() if len(phrases) > 1
        }

    def others(self, caption: str, count: int, generator: torch.Generator) -> list[str]:
        """Return captions with one phrase swapped each; fewer than ``count`` if there are no more.

        Phrases that do not overlap are swapped first, so that they tell of different things.

        Args:
            caption: on one line; nothing is known of other captions than those learned from.
            count: how many.
            generator: decides which phrases, and for what.
        """
        words = _words(caption)
        places = [
            (start, end)
            for start, end in _phrases(words)
            if len(self._found.get((words[start - 1], words[end]), ())) > 1
        ]
        order = [places[int(index)] for index in torch.randperm(len(places), generator=generator)]
        taken: set[int] = set()
        apart: list[tuple[int, int]] = []
        rest: list[tuple[int, int]] = []
        for start, end in order:
            free = taken.isdisjoint(range(start, end))
            (apart if free else rest).append((start, end))
            taken.update(range(start, end) if free else ())
        made: dict[str, None] = {}

        def swap(start: int, end: int, phrase: str) -> None:
            if len(made) < count and phrase != " ".join(words[start:end]):
                made[" ".join([*words[1:start], phrase, *words[end:-1]])] = None

        order = [*apart, *rest]
        for start, end in order:
            known = self._found[words[start - 1], words[end]]
            swap(start, end, known[int(torch.randint(len(known), (), generator=generator))])
        for start, end in order:  # all there are, where so few were found
            for phrase in self._found[words[start - 1], words[end]]:
                swap(start, end, phrase)
        return list(made)


def _words(caption: str) -> list[str]:
    return [_EDGE, *caption.split(), _EDGE]


def _phrases(words: list[str]) -> Iterator[tuple[int, int]]:
    """Yield where phrases begin and end."""
    for count in range(1, _LONGEST + 1):
        for start in range(1, len(words) - count):
            yield start, start + count
