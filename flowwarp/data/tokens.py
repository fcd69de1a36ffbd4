"""Tokens of the transformer: the words of captions, and patches of a video's codes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import final

from torch import Tensor

MOST_WORDS = 48  # of a caption that is read; longer ones are cut
PATCH = 2  # codes along each side of a patch
_WORD = re.compile(r"[^\W\d_]+|\d")


@final
class Words:
    """The words of captions and their numbers; 0 is padding, and ends a text.

    Args:
        words: in the order of their numbers, from 1.
        length: number of words that a text is cut or padded to.
    """

    def __init__(self, words: Iterable[str], length: int) -> None:
        self.words, self.length = tuple(words), length
        self._numbers = {word: number for number, word in enumerate(self.words, 1)}

    @classmethod
    def of_captions(cls, captions: Iterable[str]) -> Words:
        """Return all words of captions, and room for the longest of them and an end."""
        texts = [split_words(caption) for caption in captions]
        longest = max(map(len, texts), default=0)
        return cls(sorted({word for text in texts for word in text}), min(MOST_WORDS, longest + 1))

    def __len__(self) -> int:
        """Return how many numbers there are, 0 included."""
        return len(self.words) + 1

    def encode(self, text: str) -> list[int]:
        """Return ``length`` numbers: known words, cut or padded with 0; others are left out."""
        known = [self._numbers[word] for word in split_words(text) if word in self._numbers]
        return (known + [0] * self.length)[: self.length]

    def decode(self, numbers: Sequence[int]) -> str:
        """Return the words up to the first 0, joined by spaces."""
        end = numbers.index(0) if 0 in numbers else len(numbers)
        return " ".join(self.words[number - 1] for number in numbers[:end])

    def unknown(self, text: str) -> list[str]:
        """Return the words of a text that no caption has, each once, in the order of the text."""
        return list(dict.fromkeys(word for word in split_words(text) if word not in self._numbers))


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case; each digit is a word.

    Letters with accents are composed (NFC): files and keyboards write them in either way.

    >>> split_words("A dog, 12 cats")
    ['a', 'dog', '1', '2', 'cats']
    """
    return _WORD.findall(unicodedata.normalize("NFC", text.lower()))


def to_patches(codes: Tensor) -> Tensor:
    """Join squares of ``PATCH`` x ``PATCH`` codes, row by row and one time step after the other.

    Args:
        codes: (B, t, h, w, digits), h and w multiples of ``PATCH``.

    Returns:
        (B, t * h / PATCH * w / PATCH, digits * PATCH^2).
    """
    batch, t, h, w, digits = codes.shape
    x = codes.reshape(batch, t, h // PATCH, PATCH, w // PATCH, PATCH, digits)
    x = x.permute(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(batch, t * (h // PATCH) * (w // PATCH), PATCH * PATCH * digits)


def from_patches(patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Undo :func:`to_patches`.

    Args:
        patches: (B, n, digits * PATCH^2), n = t * y * x.
        grid: (t, y, x), number of patches along each axis.

    Returns:
        Codes (B, t, y * PATCH, x * PATCH, digits).
    """
    t, y, x = grid
    codes = patches.reshape(len(patches), t, y, x, PATCH, PATCH, -1).permute(0, 1, 2, 4, 3, 5, 6)
    return codes.reshape(len(patches), t, y * PATCH, x * PATCH, -1)
