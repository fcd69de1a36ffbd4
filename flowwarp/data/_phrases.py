"""Prompts cut into phrases, each of a kind: a colour, a garment, what is done, where."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from flowwarp._bundled import bundled
from flowwarp.data._camera import forms, take_camera

DYED = ("hair", "torso", "legs", "feet", "cape", "beard", "hat", "clothes")  # what has a colour
ADJECTIVES = frozenset(
    ("old", "young", "little", "small", "big", "large", "tall", "brave", "lone", "dressed", "clad")
)

_SPELLINGS = (("our", "or"), ("grey", "gray"), ("moust", "must"))  # British and American
_SHORTEST, _LONGEST = 5, 20  # letters of a word whose spelling may be mended
_PRONOUNS = frozenset(
    ("she", "her", "hers", "herself", "he", "his", "him", "himself", "it", "its", "they", "their")
)
_ARTICLES = frozenset(("a", "an", "another", "the"))
_JOINING = frozenset(("and", "beside", "while"))  # two actors
_LIKENING = frozenset(("is", "was", "like", "as", "of", "s"))  # the same one again
_DENYING = frozenset(
    ("no", "not", "never", "without", "neither", "nor", "minus", "instead", "stops", "stopped")
)
_FOR_ALL_THAT = frozenset(("but", "and", "just", "only", "merely"))  # not only, not just
_DENIED_WITHIN = 5  # parts after a word that denies
_MATERIALS = frozenset(
    ("wooden", "wood", "timber", "stone", "brick", "ice", "winter", "sea", "street")
)


@dataclass(eq=False)
class Part:
    """A phrase of a prompt.

    Args:
        kind: a table of ``datasets/sprites/words.toml``; "word" for what nobody knows, "plain" for
            what joins others, and "stop" for a comma or the end of a sentence.
        value: what it means, or the word.
        said: the phrase itself.
        color: what is said of it.
    """

    kind: str
    value: str
    said: str
    color: str = ""

    @property
    def is_noun(self) -> bool:
        """Whether somebody is named by it, not only spoken of."""
        return self.kind == "body" and self.said not in _PRONOUNS


def read_parts(prompt: str) -> tuple[list[list[Part]], str]:
    """Cut a prompt into phrases.

    Returns:
        Of one actor, or of each of two from left to right, the phrases of what is there and not
        denied; and what the camera does, as :func:`flowwarp.data._camera.take_camera` says it.
    """
    text, camera = take_camera(_normal(prompt))
    parts = list(_split([*map(_mended, text.split())]))
    _settle(parts)
    _deny(parts)
    return _part_actors(parts), camera


# ------------------------------------------------------------------ words


def _normal(prompt: str) -> str:
    """Return a prompt in small letters, spelled as captions are, its only signs , and /."""
    text = re.sub(r"[\u2018\u2019`]", "'", prompt.lower())
    text = re.sub(r"\bw/o\b", "without", text).replace("w/", "with ").replace("&", " and ")
    auxiliaries = "do|does|did|is|are|was|were|has|had|ca|wo|could|would|should"
    text = re.sub(rf"\b({auxiliaries})n'?t\b", r"\1 not", text).replace("'", " ")
    text = re.sub(r"[.;!?()\n\"/\u201c\u201d]", " / ", text)  # a colon says what something is
    text = text.replace(":", " is ").replace(",", " , ").replace("+", " and ")
    words = re.sub(r"[^\w\s,/]|_", " ", text).split()
    return " ".join(map(_spelled, words))


def _spelled(word: str) -> str:
    """Return a British word in American if that makes it known."""
    if word not in vocabulary():
        for british, american in _SPELLINGS:
            if (other := word.replace(british, american)) in vocabulary():
                return other
    return word


def _mended(word: str) -> str:
    """Return a word with one slip of the pen mended if that makes it understood.

    Two letters exchanged, a vowel missing, or a letter once instead of twice or twice instead of
    once: other slips make words that mean something else, swinging of singing.
    """
    if word in vocabulary() or not _SHORTEST <= len(word) <= _LONGEST or not word.isalpha():
        return word
    halves = [(word[:n], word[n:]) for n in range(1, len(word) + 1)]
    slips = {a + b[1] + b[0] + b[2:] for a, b in halves if len(b) > 1}
    slips |= {a + letter + b for a, b in halves for letter in f"aeiou{a[-1]}"}
    slips |= {a + b[1:] for a, b in halves if b.startswith(a[-1])}
    meant = [other for other in slips if other in _phrases() and len(other) >= _SHORTEST]
    return meant[0] if len(meant) == 1 else word


@cache
def tables() -> dict[str, Any]:
    """Return the words of prompts: tables of what they mean, and those that are passed over."""
    with (bundled("datasets") / "sprites" / "words.toml").open("rb") as file:
        return tomllib.load(file)


@cache
def vocabulary() -> frozenset[str]:
    """Return all words that are understood or passed over."""
    return frozenset(word for phrase in _phrases() for word in phrase.split()) | _plain()


@cache
def _plain() -> frozenset[str]:
    return frozenset(tables()["plain"].split())


@cache
def _phrases() -> dict[str, tuple[str, str]]:
    """Return all phrases that are understood, and of what kind each is and what it means."""
    found = dict.fromkeys(_listed(tables()["not_meant"]), ("plain", ""))
    for kind, table in tables().items():
        if not isinstance(table, dict):
            continue
        for value, phrases in table.items():
            for phrase in _listed(phrases):
                for form in forms(phrase) if kind == "action" else (phrase,):
                    found.setdefault(form, (kind, value))
    return found


def _listed(phrases: str) -> list[str]:
    return [" ".join(phrase.split()) for phrase in phrases.split(",")]


@cache
def _longest_phrase() -> int:
    return max(phrase.count(" ") + 1 for phrase in _phrases())


# ------------------------------------------------------------------ phrases


def _split(words: Sequence[str]) -> Iterator[Part]:
    """Cut a prompt into phrases, the longest that are understood from its beginning on."""
    start = 0
    while start < len(words):
        for count in range(_longest_phrase(), 0, -1):
            said = " ".join(words[start : start + count])
            if said in _phrases():
                kind, value = _phrases()[said]
                if said == "princess" and "hair" in words[start + 2 : start + 4]:
                    kind, value = "cut", said  # a way to wear it
                break
        else:
            kind = "plain" if said in _plain() or said.isdigit() else "word"
            kind, value = "stop" if said in (",", "/") else kind, said
        yield Part(kind, value, said)
        start += count


def _settle(parts: Sequence[Part]) -> None:
    """Decide by its neighbours what a phrase of several meanings is."""
    for likening, article, noun in zip(parts, parts[1:], parts[2:], strict=False):
        if likening.said == "like" and article.said in _ARTICLES and noun.is_noun:
            noun.kind = "plain"  # walks like a soldier
    for part, following in itertools.pairwise(parts):
        if part.said == "pale" and following.kind == "color":
            part.kind = "plain"
        elif part.said == "olive" and following.kind in DYED:
            part.kind, part.value = "color", "green"
        elif part.said in _MATERIALS and following.kind in ("word", "weapon", "hat", *DYED):
            part.kind = "plain"
        elif part.kind == "action" and following.said == "by" and part.said.endswith(("d", "t")):
            part.kind = "word"  # shot by an arrow
        elif part.kind == "body" and (following.kind == "hat" or following.said == "hat"):
            part.kind = "plain"  # a wizard hat


def _deny(parts: Sequence[Part]) -> None:
    """Turn what is denied into words that nobody knows: no beard."""
    for number, part in enumerate(parts):
        if part.said not in _DENYING:
            continue
        for other in parts[number + 1 : number + 1 + _DENIED_WITHIN]:
            if other.kind in ("stop", "word") or other.said in _FOR_ALL_THAT:
                break
            if other.kind == "color":
                other.kind = "plain"
            elif other.kind != "plain":
                other.kind, other.said = "word", f"no {other.said}"
                break


# ------------------------------------------------------------------ who else is there


def _part_actors(parts: list[Part]) -> list[list[Part]]:
    """Return the phrases of each actor: of those of a prompt, or of two that it names."""
    said = [part.said for part in parts]
    if "on the left" in said and "on the right" in said:
        left, right = said.index("on the left"), said.index("on the right")
        start = max(left, right)
        both = [parts[:start], parts[start:]]
        if all(any(part.kind == "body" for part in own) for own in both):
            return both if left < right else both[::-1]
    second = _find_second(parts)
    return [parts] if second is None else [parts[:second], parts[second:]]


def _find_second(parts: Sequence[Part]) -> int | None:
    """Return where a second actor's phrases begin, if there is one."""
    bodies = [n for n, part in enumerate(parts) if part.kind == "body" and part.said != "they"]
    for noun in bodies[1:]:
        first, start = bodies[0], noun
        if not parts[noun].is_noun or (parts[noun + 1 :] and parts[noun + 1].said == "s"):
            continue  # a warrior's
        while start > 0 and _is_adjective(parts[start - 1]):
            start -= 1
        article = parts[start - 1].said if start > 0 else ""
        start -= article in _ARTICLES
        before = [part for part in parts[first + 1 : start] if part.kind != "stop"]
        joined = bool(before) and before[-1].said in _JOINING
        if joined and article in _ARTICLES - {"the"}:
            return start  # a knight in red and an orc
        if parts[first].value == parts[noun].value:
            continue  # the knight again
        if joined and all(map(_is_adjective, before[:-1])):
            return start  # knight and orc
        clause = list(
            itertools.takewhile(lambda part: part.kind != "stop", parts[first:start][::-1])
        )
        acts = any(part.kind in ("action", "word") for part in clause)
        if acts and article in _ARTICLES and before[-1].said not in _LIKENING:
            return start  # a knight fights an orc
    return None


def _is_adjective(part: Part) -> bool:
    return part.said in ADJECTIVES or part.kind in ("color", "hair_color", "cut", "skin")
