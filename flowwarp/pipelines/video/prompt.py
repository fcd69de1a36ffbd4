"""A prompt, parsed once: which of its words the model knows."""

from __future__ import annotations

from dataclasses import dataclass

from flowwarp.data.tokens import Words, split_words
from flowwarp.errors import InputError

_SHOWN = 60  # known words that an error lists
_LONGEST = 200  # characters of a prompt that it quotes


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Args:
        text: as it was given.
        unknown: words that no training caption has; they are left out.
    """

    text: str
    unknown: tuple[str, ...]


def parse_prompt(text: str, words: Words) -> Prompt:
    """Find the words of a prompt that a model knows.

    Raises:
        InputError: it knows none of them.
    """
    unknown = words.unknown(text)
    if set(split_words(text)) <= set(unknown):
        known = ", ".join(words.words[:_SHOWN]) + (", …" if len(words.words) > _SHOWN else "")
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
        raise InputError("PROMPT", f"none of the words of {shown!r} is known", f"known: {known}")
    return Prompt(text, tuple(unknown))
