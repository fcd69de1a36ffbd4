"""Prompts cut into phrases, each of a kind: a colour, a garment, what is done, where."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from flowwarp.bundled import bundled
from flowwarp.data.sprite_world.camera import forms, take_camera
from flowwarp.data.sprite_world.captions import american

DYED = ("hair", "torso", "legs", "feet", "cape", "beard", "hat", "clothes")  # what has a colour
SPECIES = frozenset(("dark elf", "orc", "skeleton"))
_THINGS = frozenset((*DYED, "weapon"))
ADJECTIVES = frozenset(
    ("old", "young", "little", "small", "big", "large", "tall", "brave", "lone", "haired")
)

_MENDABLE = range(5, 21)  # letters
_PRONOUNS = frozenset(
    ("she", "her", "hers", "herself", "he", "his", "him", "himself", "it", "its", "they", "their")
)
_TITLES = frozenset(("snow", "sand", "ice", "sea", "water", "wood", "stone", "night", "desert"))
_ARTICLES = frozenset(("a", "an", "another", "the"))
_DETERMINERS = _ARTICLES | {"her", "his", "its"}
_RAISED = frozenset(("word", "body", "weapon", "hat", "ground", *DYED))
_LEFT, _RIGHT = "on the left", "on the right"
_LEFT_OF = frozenset(("to the left of", "on the left of"))
_RIGHT_OF = frozenset(("to the right of", "on the right of"))
_JOINING = _LEFT_OF | _RIGHT_OF | {"and", "beside", "while", "near", "vs", "versus", "against"}
_LIKENING = frozenset(  # the same one again
    ("is", "was", "be", "being", "like", "as", "of", "s", "into", "in", "not", "or", "became")
)
_AIMED = frozenset(("against", "and", "at", "on", "or", "to", "toward", "towards"))  # somebody
_LINKING = frozenset(  # after them begins something else
    ("and", "as", "at", "by", "from", "in", "near", "on", "over", "then", "while", "with")
)
_ADJECTIVES_AT_MOST = 3  # before a noun that are not understood
_DENYING = frozenset(
    ("no", "not", "never", "without", "neither", "nor", "minus", "instead", "stops", "stopped")
)
_AFTER_ALL = frozenset(("but", "and", "just", "only", "merely"))  # not only; not walking but
_DENIED_WITHIN = 8  # parts after a word that denies
_MATERIALS = frozenset(
    ("wooden", "wood", "timber", "stone", "brick", "ice", "winter", "sea", "street")
)


@dataclass(eq=False)
class Part:
    """A phrase of a prompt.

    Args:
        kind: a table of ``datasets/sprites/words.toml``, "action" for its verbs; "word" for what
            nobody knows, "plain" for what joins others, and "stop" for a comma or the end of a
            sentence.
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


def read_parts(prompt: str) -> tuple[list[list[Part]], str, tuple[str, ...]]:
    """Cut a prompt into phrases.

    Returns:
        Of one actor, or of each of two as they are named, the phrases of what is there and not
        denied; what the camera does, as :func:`take_camera` says it; and
        what else is said of that.
    """
    text, camera, moves = take_camera(_normal(prompt))
    parts = list(_split([*map(_mended, text.split())]))
    _settle(parts)
    _deny(parts)
    return _part_actors(parts), camera, moves


# ------------------------------------------------------------------ words


def _normal(prompt: str) -> str:
    """Return a prompt in small letters, spelled as captions are, its only signs , and /."""
    text = re.sub(r"[\u2018\u2019`]", "'", prompt.lower())
    text = re.sub(r"\bw/o\b", "without", text).replace("w/", "with ").replace("&", " and ")
    auxiliaries = "do|does|did|is|are|was|were|has|had|ca|wo|could|would|should"
    text = re.sub(rf"\b({auxiliaries})n'?t\b", r"\1 not", text).replace("'", " ")
    text = re.sub(r"\b(\d)(?=(?:girl|boy|woman|man)s?\b)", r"\1 ", text)
    text = re.sub(r"[.;!?()\n\"/\u201c\u201d]", " / ", text)  # a colon says what something is
    text = text.replace(":", " is ").replace(",", " , ").replace("+", " and ")
    words = re.sub(r"[^\w\s,/]|_", " ", text).split()
    return " ".join(american(word, vocabulary()) for word in words)


def _mended(word: str) -> str:
    """Return a word with one slip of the pen mended if that makes it understood.

    Two letters exchanged, a vowel missing within, or a letter once instead of twice or twice
    instead of once: other slips make words that mean something else, swinging of singing.
    """
    if word in vocabulary() or len(word) not in _MENDABLE or not word.isalpha():
        return word
    halves = [(word[:n], word[n:]) for n in range(1, len(word) + 1)]
    slips = {a + b[1] + b[0] + b[2:] for a, b in halves if len(b) > 1}
    slips |= {a + letter + b for a, b in halves for letter in f"aeiou{a[-1]}" if b}
    slips |= {a + b[1:] for a, b in halves if b.startswith(a[-1])}
    meant = [other for other in slips if other in _phrases() and len(other) in _MENDABLE]
    return meant[0] if len(meant) == 1 else word


@cache
def tables() -> dict[str, Any]:
    """Return the words of prompts: tables of what they mean, and those that are passed over."""
    with (bundled("datasets") / "sprites" / "words.toml").open("rb") as file:
        return tomllib.load(file)


@cache
def vocabulary() -> frozenset[str]:
    """Return all words that are understood or passed over."""
    return frozenset(word for phrase in _phrases() for word in phrase.split()) | plain_words()


@cache
def plain_words() -> frozenset[str]:
    """Return the words that are passed over."""
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
                for form in forms(phrase) if kind == "verbs" else (phrase,):
                    found.setdefault(form, ("action" if kind == "verbs" else kind, value))
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
                break
        else:
            kind = "plain" if said in plain_words() or said.isdigit() else "word"
            kind, value = "stop" if said in (",", "/") else kind, said
        yield Part(kind, value, said)
        start += count


def _settle(parts: Sequence[Part]) -> None:
    """Decide by its neighbours what a phrase of several meanings is."""
    nothing = Part("stop", "", "")
    befores, afters = [nothing, *parts], [*parts[1:], nothing]
    for earlier, before, part, after in zip(
        [nothing, *befores], befores, parts, afters, strict=False
    ):
        if part.said == "olive" and after.kind in DYED:
            part.kind, part.value = "color", "green"
        elif part.said == "princess" and after.kind in ("color", "hair_color", "hair"):
            part.kind, part.value = "cut", part.said  # a way to wear it
        elif part.kind == "action" and after.said == "by" and part.said.endswith(("d", "t")):
            part.kind = "word"  # shot by an arrow
        elif _means_nothing(earlier, before, part, after):
            part.kind = "plain"


def _means_nothing(earlier: Part, before: Part, part: Part, after: Part) -> bool:
    """Return whether a phrase of this world is none between its neighbours."""
    article = before.said in _ARTICLES
    return any(
        (
            part.said == "pale" and after.kind == "color",
            part.said in _MATERIALS and after.kind in ("word", "weapon", "hat", *DYED),  # wood door
            part.said in _TITLES and after.kind in ("body", "action"),  # a snow queen, ice magic
            part.kind == "body" and "hat" in (after.kind, after.said),  # a wizard hat
            part.is_noun and article and earlier.said == "like",  # walks like a soldier
            part.is_noun and article and earlier.said == "with" and after.kind == "word",  # tattoo
            part.said in ("up", "down") and after.said in _DETERMINERS,  # down the street
            part.said in ("up", "down") and before.kind in _RAISED,  # picks up, hood up
        )
    )


def _deny(parts: Sequence[Part]) -> None:
    """Turn what is denied into words that nobody knows: no beard."""
    denied: Part | None = None
    for number, part in enumerate(parts):
        either = part.said == "or" and parts[number - 1] is denied  # no hat or beard
        if part.said in _DENYING or either:
            denied = _find_denied(parts[number + 1 : number + 1 + _DENIED_WITHIN])
            if denied is not None and denied.kind != "word":
                denied.kind, denied.said = "word", f"no {denied.said}"


def _find_denied(parts: Sequence[Part]) -> Part | None:
    """Return what is denied among what follows, and make nothing of how it looks."""
    looks: list[Part] = []
    for part, after in itertools.pairwise([*parts, Part("stop", "", "")]):
        if part.kind == "stop" or part.said in _AFTER_ALL:
            break
        if part.kind in ("color", "cut"):
            part.kind = "plain"
            looks.append(part)
        elif part.kind != "plain" and not (part.kind == "word" and after.kind in _THINGS):
            return part  # not of "no shiny helmet" the first word
    for look in looks:  # not in red
        look.kind, look.said = "word", f"no {look.said}"
    return None


# ------------------------------------------------------------------ who else is there


def _part_actors(parts: list[Part]) -> list[list[Part]]:
    """Return the phrases of each actor: of those of a prompt, or of two that it names."""
    said = [part.said for part in parts]
    if _LEFT in said and _RIGHT in said:
        start = max(said.index(_LEFT), said.index(_RIGHT))
        both = [parts[:start], parts[start:]]
        if all(any(part.kind == "body" for part in own) for own in both):
            return both
    second = _find_other(parts)
    if second is None:
        return [parts]
    first, rest = _share_out(parts[:second], parts[second:])
    third = _find_other(rest)
    if third is not None:  # is passed over, but for where all are
        others = [part for part in rest[third:] if part.is_noun or part.kind == "ground"]
        for part in others:
            part.kind = "word" if part.is_noun else part.kind
        rest = [*rest[:third], *others]
    return [first, rest]


def are_mirrored(one: Sequence[Part], other: Sequence[Part]) -> bool:
    """Return whether of two actors the one that is named first stands on the right."""
    first, second = ({part.said for part in parts} for parts in (one, other))
    return not first.isdisjoint({_RIGHT, *_RIGHT_OF}) or _LEFT in second


def _share_out(first: list[Part], rest: list[Part]) -> tuple[list[Part], list[Part]]:
    """Give the first of two actors what is said after it is named again: the knight is in red."""
    one = next((part.value for part in first if part.is_noun), "")
    other = next(part.value for part in rest if part.is_noun)
    again: list[Part] = []
    own: list[Part] = []
    spoken_of = own
    for part in rest:
        if part.kind == "body" and part.value in (one, other):  # he, too, of a man and a woman
            spoken_of = own if part.value == other else again
        spoken_of.append(part)
    return [*first, *again], own


def _find_other(parts: Sequence[Part]) -> int | None:
    """Return where another actor's phrases begin, if there is one besides the first."""
    bodies = [n for n, part in enumerate(parts) if part.kind == "body" and part.said != "they"]
    placed = {_LEFT, _RIGHT} <= {part.said for part in parts}
    for noun in bodies[1:]:
        first = parts[bodies[0]]
        if not parts[noun].is_noun or (parts[noun + 1 :] and parts[noun + 1].said == "s"):
            continue  # a warrior's
        start = _begin_noun(parts, noun)
        article = parts[start].said if parts[start].said in _ARTICLES else ""
        between = parts[bodies[0] + 1 : start]
        before = next((part.said for part in between[::-1] if part.kind != "stop"), "")
        if not between or before in _LIKENING:
            continue  # an orc mage, an orc who is a mage
        stopped = between[-1].said if between[-1].kind == "stop" else ""
        joined = before in _JOINING
        if joined and article in _ARTICLES - {"the"}:
            return start  # a knight in red and an orc
        if parts[noun].value in (first.value, "person") or first.value == "person":
            continue  # the knight again
        if joined or placed or (article and stopped != ",") or _are_apart(first, parts[noun]):
            return start  # knight and orc; a knight fights an orc; man in black, woman in white
    return None


def _begin_noun(parts: Sequence[Part], noun: int) -> int:
    """Return where a noun's phrase begins: at its article, or its first adjective."""
    start = noun
    while start > 0 and is_adjective(parts[start - 1]):
        start -= 1
    for number in range(start, max(0, start - _ADJECTIVES_AT_MOST - 1), -1):
        before = parts[number - 1]
        if before.said in _ARTICLES:
            return number - 1  # a wounded soldier
        if before.kind != "word" and not before.said.endswith("ing"):
            break
    return start


def _are_apart(one: Part, other: Part) -> bool:
    """Return whether nobody is both."""
    sexes = {one.value, other.value} == {"woman", "man"}
    return one.is_noun and (sexes or {one.value, other.value} <= SPECIES)


def other_pronouns(parts: Sequence[Part]) -> list[Part]:
    """Return the pronouns among an actor's phrases that are of somebody else: attacks her."""
    padded = [Part("stop", "", ""), *parts, Part("stop", "", "")]
    named, others = False, []
    for before, part, after in zip(padded, padded[1:], padded[2:], strict=False):
        named = named or part.is_noun
        ends = after.kind == "stop" or after.said in _LINKING
        meant = before.kind == "action" or before.said in _AIMED
        if named and part.said in ("her", "him") and meant and ends:
            others.append(part)
    return others


def is_adjective(part: Part) -> bool:
    """Return whether a phrase may stand between an article and its noun."""
    return part.said in ADJECTIVES or part.kind in ("color", "hair_color", "cut", "skin")
