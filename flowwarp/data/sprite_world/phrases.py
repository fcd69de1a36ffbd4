"""Splits a prompt into phrases of a kind each: colour, garment, action, ground, ..."""

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

DYED = ("hair", "torso", "legs", "feet", "cape", "beard", "hat", "clothes")  # items with a colour
SPECIES = frozenset(("dark elf", "orc", "skeleton"))
_THINGS = frozenset((*DYED, "weapon"))
ADJECTIVES = frozenset(
    ("old", "young", "little", "small", "big", "large", "tall", "brave", "lone", "haired")
)

_CORRECTED_LENGTHS = range(5, 21)  # letters of words whose typos are corrected
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
_EQUATING = frozenset(  # a noun after them is the same actor again
    ("is", "was", "be", "being", "like", "as", "of", "s", "into", "in", "not", "or", "became")
)
# A pronoun after them is another actor.
_AIMED = frozenset(("against", "and", "at", "on", "or", "to", "toward", "towards"))
_LINKING = frozenset(  # they begin a new phrase
    ("and", "as", "at", "by", "from", "in", "near", "on", "over", "then", "while", "with")
)
_MAX_UNKNOWN_ADJECTIVES = 3  # before a noun
_NEGATIONS = frozenset(
    ("no", "not", "never", "without", "neither", "nor", "minus", "instead", "stops", "stopped")
)
_NO_NEGATION = frozenset(("but", "and", "just", "only", "merely"))  # not only; not walking but
_NEGATION_REACH = 8  # phrases after a negation
_MATERIALS = frozenset(
    ("wooden", "wood", "timber", "stone", "brick", "ice", "winter", "sea", "street")
)


@dataclass(eq=False)
class Part:
    """A phrase of a prompt.

    Args:
        kind: a table of ``datasets/sprites/words.toml``, with "action" for its verbs; "word" for an
            unknown word, "plain" for one without meaning of its own, and "stop" for a comma or the
            end of a sentence.
        value: the key in that table, or the word.
        text: the phrase itself.
        color: of the item, where the prompt gives one.
    """

    kind: str
    value: str
    text: str
    color: str = ""

    @property
    def is_noun(self) -> bool:
        """Whether it names an actor by a noun, not a pronoun."""
        return self.kind == "body" and self.text not in _PRONOUNS


def read_parts(prompt: str) -> tuple[list[list[Part]], str, tuple[str, ...]]:
    """Split a prompt into phrases.

    Returns:
        The phrases of one actor, or of each of two in the order of the prompt, where negated items
        have the kind "word"; the motion of the camera, as in :func:`take_camera`; and texts about
        other motions.
    """
    text, camera, moves = take_camera(_normal(prompt))
    parts = list(_split([*map(_correct_typo, text.split())]))
    _resolve(parts)
    _mark_negated(parts)
    return _part_actors(parts), camera, moves


# ------------------------------------------------------------------ words


def _normal(prompt: str) -> str:
    """Return a prompt in lower case and American spelling, with no signs but , and /."""
    text = re.sub(r"[\u2018\u2019`]", "'", prompt.lower())
    text = re.sub(r"\bw/o\b", "without", text).replace("w/", "with ").replace("&", " and ")
    auxiliaries = "do|does|did|is|are|was|were|has|had|ca|wo|could|would|should"
    text = re.sub(rf"\b({auxiliaries})n'?t\b", r"\1 not", text).replace("'", " ")
    text = re.sub(r"\b(\d)(?=(?:girl|boy|woman|man)s?\b)", r"\1 ", text)
    text = re.sub(r"[.;!?()\n\"/\u201c\u201d]", " / ", text)  # a colon means "is"
    text = text.replace(":", " is ").replace(",", " , ").replace("+", " and ")
    words = re.sub(r"[^\w\s,/]|_", " ", text).split()
    return " ".join(american(word, vocabulary()) for word in words)


def _correct_typo(word: str) -> str:
    """Return a word with one typo corrected, if the result is a known phrase and the only one.

    Typos are two letters swapped, a missing vowel, a doubled letter written once, or a letter
    doubled. Others would produce different words, as swinging from singing.
    """
    if word in vocabulary() or len(word) not in _CORRECTED_LENGTHS or not word.isalpha():
        return word
    halves = [(word[:n], word[n:]) for n in range(1, len(word) + 1)]
    slips = {a + b[1] + b[0] + b[2:] for a, b in halves if len(b) > 1}
    slips |= {a + letter + b for a, b in halves for letter in f"aeiou{a[-1]}" if b}
    slips |= {a + b[1:] for a, b in halves if b.startswith(a[-1])}
    meant = [other for other in slips if other in _phrases() and len(other) in _CORRECTED_LENGTHS]
    return meant[0] if len(meant) == 1 else word


@cache
def tables() -> dict[str, Any]:
    """Return ``words.toml``: tables of phrases by meaning, and words to ignore."""
    with (bundled("datasets") / "sprites" / "words.toml").open("rb") as file:
        return tomllib.load(file)


@cache
def vocabulary() -> frozenset[str]:
    """Return all words that are understood or ignored."""
    return frozenset(word for phrase in _phrases() for word in phrase.split()) | plain_words()


@cache
def plain_words() -> frozenset[str]:
    """Return the words to ignore."""
    return frozenset(tables()["plain"].split())


@cache
def _phrases() -> dict[str, tuple[str, str]]:
    """Return (kind, value) of each phrase that is understood."""
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
    """Split a prompt greedily: from the left, the longest phrase that is understood."""
    start = 0
    while start < len(words):
        for count in range(_longest_phrase(), 0, -1):
            text = " ".join(words[start : start + count])
            if text in _phrases():
                kind, value = _phrases()[text]
                break
        else:
            kind = "plain" if text in plain_words() or text.isdigit() else "word"
            kind, value = "stop" if text in (",", "/") else kind, text
        yield Part(kind, value, text)
        start += count


def _resolve(parts: Sequence[Part]) -> None:
    """Resolve ambiguous phrases by their neighbours, in place."""
    nothing = Part("stop", "", "")
    befores, afters = [nothing, *parts], [*parts[1:], nothing]
    for earlier, before, part, after in zip(
        [nothing, *befores], befores, parts, afters, strict=False
    ):
        if part.text == "olive" and after.kind in DYED:
            part.kind, part.value = "color", "green"
        elif part.text == "princess" and after.kind in ("color", "hair_color", "hair"):
            part.kind, part.value = "cut", part.text  # a way to wear it
        elif part.kind == "action" and after.text == "by" and part.text.endswith(("d", "t")):
            part.kind = "word"  # shot by an arrow
        elif _means_nothing(earlier, before, part, after):
            part.kind = "plain"


def _means_nothing(earlier: Part, before: Part, part: Part, after: Part) -> bool:
    """Return whether a known phrase has no meaning of its own between its neighbours."""
    article = before.text in _ARTICLES
    return any(
        (
            part.text == "pale" and after.kind == "color",
            part.text in _MATERIALS and after.kind in ("word", "weapon", "hat", *DYED),  # wood door
            part.text in _TITLES and after.kind in ("body", "action"),  # a snow queen, ice magic
            part.kind == "body" and "hat" in (after.kind, after.text),  # a wizard hat
            part.is_noun and article and earlier.text == "like",  # walks like a soldier
            part.is_noun and article and earlier.text == "with" and after.kind == "word",  # tattoo
            part.text in ("up", "down") and after.text in _DETERMINERS,  # down the street
            part.text in ("up", "down") and before.kind in _RAISED,  # picks up, hood up
        )
    )


def _mark_negated(parts: Sequence[Part]) -> None:
    """Turn negated phrases into unknown words, in place: "no beard"."""
    negated: Part | None = None
    for number, part in enumerate(parts):
        either = part.text == "or" and parts[number - 1] is negated  # no hat or beard
        if part.text in _NEGATIONS or either:
            negated = _find_negated(parts[number + 1 : number + 1 + _NEGATION_REACH])
            if negated is not None and negated.kind != "word":
                negated.kind, negated.text = "word", f"no {negated.text}"


def _find_negated(parts: Sequence[Part]) -> Part | None:
    """Return the negated phrase among those that follow; its colour becomes plain."""
    looks: list[Part] = []
    for part, after in itertools.pairwise([*parts, Part("stop", "", "")]):
        if part.kind == "stop" or part.text in _NO_NEGATION:
            break
        if part.kind in ("color", "cut"):
            part.kind = "plain"
            looks.append(part)
        elif part.kind != "plain" and not (part.kind == "word" and after.kind in _THINGS):
            return part  # not of "no shiny helmet" the first word
    for look in looks:  # not in red
        look.kind, look.text = "word", f"no {look.text}"
    return None


# ------------------------------------------------------------------ two actors


def _part_actors(parts: list[Part]) -> list[list[Part]]:
    """Return the phrases of each actor: one or two."""
    text = [part.text for part in parts]
    if _LEFT in text and _RIGHT in text:
        start = max(text.index(_LEFT), text.index(_RIGHT))
        both = [parts[:start], parts[start:]]
        if all(any(part.kind == "body" for part in own) for own in both):
            return both
    second = _find_other(parts)
    if second is None:
        return [parts]
    first, rest = _share_out(parts[:second], parts[second:])
    third = _find_other(rest)
    if third is not None:  # a third actor is ignored, but not the ground
        others = [part for part in rest[third:] if part.is_noun or part.kind == "ground"]
        for part in others:
            part.kind = "word" if part.is_noun else part.kind
        rest = [*rest[:third], *others]
    return [first, rest]


def are_mirrored(one: Sequence[Part], other: Sequence[Part]) -> bool:
    """Return whether the first of two actors stands on the right."""
    first, second = ({part.text for part in parts} for parts in (one, other))
    return not first.isdisjoint({_RIGHT, *_RIGHT_OF}) or _LEFT in second


def _share_out(first: list[Part], rest: list[Part]) -> tuple[list[Part], list[Part]]:
    """Give the first of two actors the phrases after its noun recurs: "the knight is in red"."""
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
    """Return the index where the phrases of a second actor begin, None if there is none."""
    bodies = [n for n, part in enumerate(parts) if part.kind == "body" and part.text != "they"]
    placed = {_LEFT, _RIGHT} <= {part.text for part in parts}
    for noun in bodies[1:]:
        first = parts[bodies[0]]
        if not parts[noun].is_noun or (parts[noun + 1 :] and parts[noun + 1].text == "s"):
            continue  # a warrior's
        start = _begin_noun(parts, noun)
        article = parts[start].text if parts[start].text in _ARTICLES else ""
        between = parts[bodies[0] + 1 : start]
        before = next((part.text for part in between[::-1] if part.kind != "stop"), "")
        if not between or before in _EQUATING:
            continue  # an orc mage, an orc who is a mage
        stopped = between[-1].text if between[-1].kind == "stop" else ""
        joined = before in _JOINING
        if joined and article in _ARTICLES - {"the"}:
            return start  # a knight in red and an orc
        if parts[noun].value in (first.value, "person") or first.value == "person":
            continue  # the knight again
        if joined or placed or (article and stopped != ",") or _are_apart(first, parts[noun]):
            return start  # knight and orc; a knight fights an orc; man in black, woman in white
    return None


def _begin_noun(parts: Sequence[Part], noun: int) -> int:
    """Return the index where a noun phrase begins: its article, or its first adjective."""
    start = noun
    while start > 0 and is_adjective(parts[start - 1]):
        start -= 1
    for number in range(start, max(0, start - _MAX_UNKNOWN_ADJECTIVES - 1), -1):
        before = parts[number - 1]
        if before.text in _ARTICLES:
            return number - 1  # a wounded soldier
        if before.kind != "word" and not before.text.endswith("ing"):
            break
    return start


def _are_apart(one: Part, other: Part) -> bool:
    """Return whether two nouns cannot mean the same actor."""
    sexes = {one.value, other.value} == {"woman", "man"}
    return one.is_noun and (sexes or {one.value, other.value} <= SPECIES)


def other_pronouns(parts: Sequence[Part]) -> list[Part]:
    """Return the pronouns among an actor's phrases that mean another actor: "attacks her"."""
    padded = [Part("stop", "", ""), *parts, Part("stop", "", "")]
    named, others = False, []
    for before, part, after in zip(padded, padded[1:], padded[2:], strict=False):
        named = named or part.is_noun
        ends = after.kind == "stop" or after.text in _LINKING
        meant = before.kind == "action" or before.text in _AIMED
        if named and part.text in ("her", "him") and meant and ends:
            others.append(part)
    return others


def is_adjective(part: Part) -> bool:
    """Return whether a phrase may stand between an article and its noun."""
    return part.text in ADJECTIVES or part.kind in ("color", "hair_color", "cut", "skin")
