"""What of a prompt a transformer is told, and what of it tells nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from flowwarp.data.sprite_world.captions import american
from flowwarp.data.sprite_world.prompts import Reading, is_passed_over, is_understood, read_prompt
from flowwarp.legacy.pipelines.sequences import WORD, MediaGPT, words_of

_SIGN = re.compile(r"[^\w\s]|_")


@dataclass(frozen=True)
class Heard:
    """What a transformer is told of a prompt.

    Args:
        text: the prompt as captions are written; empty if nothing of it can be read.
        read: as much of that as the transformer reads: its beginning, if it is too long.
        reworded: whether it says what is asked for in words that the prompt has not.
        left_out: what of the prompt is not told, as no caption has it or it has no place there.
        unknown: words that are told, and that the transformer has hardly learned.
        stated: what is said of which thing, such as "legs color": "blue"; None where captions are
            of a world that nobody reads.
    """

    text: str
    read: str
    reworded: bool
    left_out: tuple[str, ...]
    unknown: tuple[str, ...]
    stated: Mapping[str, str] | None


def hear(gpt: MediaGPT, prompt: str) -> Heard:
    """Return what a transformer is told of a prompt.

    One that learned the captions of the sprites' world is told in their words what the prompt asks
    for, whatever its own are (:func:`read_prompt`). For others it is put on
    one line, in small letters if captions have no capitals, without the signs that captions do not
    have, and a British spelling is made American where captions know that only. Words that no
    caption has are left out, if others are there: they tell nothing, and for those who choose they
    weigh more than all that do.

    Older weights do not say which words they know. Of those it is guessed: what has been read
    several times has become one token, so what has none will hardly be known.

    Args:
        gpt: the transformer.
        prompt: in any words.
    """
    known, pairs = gpt.known, gpt.vocabulary.pairs
    if known is None:
        line = " ".join(prompt.split())
        read = _beginning(gpt, line)
        ids = {word: (pairs.encode(word), pairs.encode(f" {word}")) for word in words_of(read)}
        unknown = [word for word, ways in ids.items() if min(map(len, ways)) > 1]
        return Heard(line, read, False, (), tuple(unknown), None)
    spelled = _spell(prompt, known)
    if (reading := _read(known, prompt)) is not None:
        text = reading.caption
        new = set(words_of(text)).difference(words_of(spelled))
        reworded = not all(map(is_passed_over, new))
        return Heard(text, _beginning(gpt, text), reworded, reading.left_out, (), reading.stated)
    unknown = [word for word in words_of(spelled) if word not in known]
    text = " ".join(WORD.sub(lambda word: word[0] if word[0] in known else " ", spelled).split())
    if any(map(str.isalpha, text)):
        return Heard(text, _beginning(gpt, text), False, tuple(unknown), (), None)
    return Heard(spelled, _beginning(gpt, spelled), False, (), tuple(unknown), None)


@lru_cache  # each prompt is heard several times: to warn, to make its video, to choose among some
def _read(known: frozenset[str], prompt: str) -> Reading | None:
    """Return what is understood of a prompt, if captions are of the sprites' world."""
    reading = read_prompt(prompt, known) if is_understood(known) else None
    return reading if reading is not None and reading.caption else None


def _spell(prompt: str, known: Collection[str]) -> str:
    """Return a prompt as captions are spelled, with all of its words."""
    line = " ".join(prompt.split())
    if all(word == word.lower() for word in known):
        line = line.lower()
    line = _SIGN.sub(lambda sign: sign[0] if sign[0] in known else " ", line)
    return WORD.sub(lambda word: american(word[0], known), " ".join(line.split()))


def _beginning(gpt: MediaGPT, text: str) -> str:
    words = gpt.vocabulary
    return words.read_text(words.text(text).ids.tolist())
