"""Assigns the colours of a prompt to its items: a red dress, her hair is red, all in red."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from flowwarp.data.sprite_world.phrases import DYED, Part, is_adjective

_COPULAS = frozenset(
    ("is", "was", "are", "were", "be", "being", "s", "turns", "made", "color", "that", "which")
)
# Further words between an item and its colour; words before a colour.
_LINKS = _COPULAS | frozenset(("dyed", "colored", "of", "should", "and", "out", "as", "both"))
_STRESSES = frozenset(("bright", "dark", "deep", "light", "pale", "so", "very", "all"))
_DIVIDING = frozenset(
    ("and", "with", "in", "on", "wearing", "wears", "who", "whose", "her", "his", "under", "behind")
)
_WEARING = frozenset(("in", "wearing", "wears", "wear", "clad", "dressed"))
_WITHIN = frozenset(("and", "a"))  # between a colour and the actor that has it
_MAX_BETWEEN = 2  # phrases between a colour and its item
_SO_IS = {("so", verb) for verb in ("is", "are", "was", "were", "s")}
_SO_IS_REACH = 4  # phrases within which "and so is" precedes "the hair"


def color_things(parts: Sequence[Part]) -> list[Part]:
    """Set the colour of each item, in place.

    Args:
        parts: of a prompt; the ``color`` of some of them is set.

    Returns:
        The colours that belong to no item.
    """
    loose = []
    for number, part in enumerate(parts):
        following = parts[number + 1].kind if number + 1 < len(parts) else ""
        if part.kind == "hair_color" and following == "beard":
            part.kind = "color"  # of a beard only
        if part.kind == "color":
            thing = _find_thing(parts[:number][::-1], parts[number + 1 :])
            if thing is None or thing.color:
                loose.append(part)
            else:
                thing.color = part.value
    before = ""  # as in "the armor is black and so is the hair"
    for number, part in enumerate(parts):
        text = [other.text for other in parts[max(0, number - _SO_IS_REACH) : number]]
        if part.kind in DYED and not part.color and _SO_IS & set(itertools.pairwise(text)):
            part.color = before
        before = part.color or before
    return loose


def _find_thing(before: Sequence[Part], after: Sequence[Part]) -> Part | None:
    """Return the item that a colour belongs to.

    Args:
        before: the phrases before it, backwards.
        after: the phrases after it.
    """
    ahead = _find_ahead(after)
    links = list(itertools.takewhile(_links, before))
    behind = next(iter(before[len(links) :]), None)
    if behind is not None and _is_dyed(behind) and any(part.text in _COPULAS for part in links):
        named = behind.kind != "clothes" or ahead is None  # the outfit is a red dress
        if named and not behind.color:
            return behind
    if ahead is not None:
        return ahead
    if after and after[0].kind == "word":
        return None  # blue eyes
    skipped = bool(before) and (before[0].kind == "stop" or before[0].text in ("in", "as"))
    nearest = before[skipped : skipped + 1]  # a dress in red; chain mail, silver
    return nearest[0] if nearest and _is_dyed(nearest[0]) else None


def _find_ahead(after: Sequence[Part]) -> Part | None:
    """Return the item that follows a colour, if no dividing word stands between."""
    for part in after[: _MAX_BETWEEN + 1]:
        if _is_dyed(part):
            return part
        if part.kind not in ("plain", "word", "cut", "hat") or part.text in _DIVIDING:
            break
    return None


def _is_dyed(part: Part) -> bool:
    """Return whether captions name the colour of an item."""
    return part.kind in DYED and "{}" in part.value


def _links(part: Part) -> bool:
    return part.kind == "cut" or part.text in _LINKS | _STRESSES | {"a"}


def find_bearer(parts: Sequence[Part], color: Part) -> set[str]:
    """Return the nouns of the actor that has a colour: orc in "a green bald female orc"."""
    found: set[str] = set()
    for part in parts[parts.index(color) + 1 :]:
        if part.kind == "body":
            found.add(part.value)
        elif found or not (is_adjective(part) or part.text in _WITHIN):
            break
    return found


def is_worn(parts: Sequence[Part], color: Part) -> bool:
    """Return whether an actor wears a colour without a named item: "dressed all in red"."""
    number = parts.index(color)
    before = (part.text for part in parts[:number][::-1] if part.text not in _STRESSES)
    following = parts[number + 1] if number + 1 < len(parts) else Part("stop", "", "")
    acts = following.kind == "word" and following.text.endswith("ing")  # a woman in red dancing
    if following.text in ("dressed", "clad"):
        return True
    return next(before, "") in _WEARING and (
        acts or following.kind not in ("word", "weapon", "ground", "hat")
    )
