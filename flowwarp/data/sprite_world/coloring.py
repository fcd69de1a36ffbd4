"""Which colour of a prompt is said of which thing: a red dress, her hair is red, all in red."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from flowwarp.data.sprite_world.phrases import DYED, Part, is_adjective

_COPULAS = frozenset(
    ("is", "was", "are", "were", "be", "being", "s", "turns", "made", "color", "that", "which")
)
# Between what there is and its colour, besides; and before a colour.
_LINKS = _COPULAS | frozenset(("dyed", "colored", "of", "should", "and", "out", "as", "both"))
_STRESSES = frozenset(("bright", "dark", "deep", "light", "pale", "so", "very", "all"))
_DIVIDING = frozenset(
    ("and", "with", "in", "on", "wearing", "wears", "who", "whose", "her", "his", "under", "behind")
)
_WEARING = frozenset(("in", "wearing", "wears", "wear", "clad", "dressed"))
_WITHIN = frozenset(("and", "a"))  # between a colour and its bearer
_BETWEEN = 2  # phrases at most between a colour and what it is said of
_SO_IS = {("so", verb) for verb in ("is", "are", "was", "were", "s")}
_SO_IS_WITHIN = 4  # phrases within which "and so is the hair" is said


def color_things(parts: Sequence[Part]) -> list[Part]:
    """Say each colour of the thing that it belongs to.

    Args:
        parts: of a prompt; the ``color`` of some of them is set.

    Returns:
        Colours of nothing that comes in colours.
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
        said = [other.said for other in parts[max(0, number - _SO_IS_WITHIN) : number]]
        if part.kind in DYED and not part.color and _SO_IS & set(itertools.pairwise(said)):
            part.color = before
        before = part.color or before
    return loose


def _find_thing(before: Sequence[Part], after: Sequence[Part]) -> Part | None:
    """Return what a colour is said of.

    Args:
        before: what comes before it, backwards.
        after: what comes after it.
    """
    ahead = _find_ahead(after)
    links = list(itertools.takewhile(_links, before))
    behind = next(iter(before[len(links) :]), None)
    if behind is not None and _is_dyed(behind) and any(part.said in _COPULAS for part in links):
        named = behind.kind != "clothes" or ahead is None  # the outfit is a red dress
        if named and not behind.color:
            return behind
    if ahead is not None:
        return ahead
    if after and after[0].kind == "word":
        return None  # blue eyes
    skipped = bool(before) and (before[0].kind == "stop" or before[0].said in ("in", "as"))
    nearest = before[skipped : skipped + 1]  # a dress in red; chain mail, silver
    return nearest[0] if nearest and _is_dyed(nearest[0]) else None


def _find_ahead(after: Sequence[Part]) -> Part | None:
    """Return the thing that a colour stands before, if nothing divides them."""
    for part in after[: _BETWEEN + 1]:
        if _is_dyed(part):
            return part
        if part.kind not in ("plain", "word", "cut", "hat") or part.said in _DIVIDING:
            break
    return None


def _is_dyed(part: Part) -> bool:
    """Return whether a thing comes in colours, of which captions tell."""
    return part.kind in DYED and "{}" in part.value


def _links(part: Part) -> bool:
    return part.kind == "cut" or part.said in _LINKS | _STRESSES | {"a"}


def find_bearer(parts: Sequence[Part], color: Part) -> set[str]:
    """Return who is of a colour: the female orc of "a green bald female orc"."""
    found: set[str] = set()
    for part in parts[parts.index(color) + 1 :]:
        if part.kind == "body":
            found.add(part.value)
        elif found or not (is_adjective(part) or part.said in _WITHIN):
            break
    return found


def is_worn(parts: Sequence[Part], color: Part) -> bool:
    """Return whether somebody wears a colour, of whatever thing: in red, dressed all in red."""
    number = parts.index(color)
    before = (part.said for part in parts[:number][::-1] if part.said not in _STRESSES)
    following = parts[number + 1] if number + 1 < len(parts) else Part("stop", "", "")
    acts = following.kind == "word" and following.said.endswith("ing")  # a woman in red dancing
    if following.said in ("dressed", "clad"):
        return True
    return next(before, "") in _WEARING and (
        acts or following.kind not in ("word", "weapon", "ground", "hat")
    )
