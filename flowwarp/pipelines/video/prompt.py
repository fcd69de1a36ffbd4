"""A prompt, parsed once: which of its words the model knows."""

from __future__ import annotations

from collections.abc import Collection
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
        not_learned: words that captions have, and that make no difference to what is shown.
    """

    text: str
    unknown: tuple[str, ...] = ()
    not_learned: tuple[str, ...] = ()


def parse_prompt(text: str, words: Words, not_learned: Collection[str] = ()) -> Prompt:
    """Find the words of a prompt that a model knows.

    Args:
        text: the prompt.
        words: of the training captions.
        not_learned: those of them that the model has not learned.

    Raises:
        InputError: it knows none of them.
    """
    unknown, given = words.unknown(text), split_words(text)
    if set(given) <= set(unknown):
        known = ", ".join(words.words[:_SHOWN]) + (", …" if len(words.words) > _SHOWN else "")
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
        raise InputError("PROMPT", f"none of the words of {shown!r} is known", f"known: {known}")
    missed = dict.fromkeys(word for word in given if word in not_learned)
    return Prompt(text, tuple(unknown), tuple(missed))
