"""Who is on the stage, in which clothes, and what they do; and which of it training never sees.

Attributes are plain data. Those of a clip are ``{"actors": [...], "ground": ..., "camera": ...}``;
those of an actor are texts, empty where there is nothing to say::

    body     "woman"         skin       "light-skinned"
    hair     "long red hair" hair_style "long"    hair_color  "red"
    torso    "a blue dress"  torso_style "dress"  torso_color "blue"
    legs     ""              legs_style  ""       legs_color  ""
    feet, hat, beard, cape, weapon: as they are called; action, direction: as listed below

Only what can be seen is named: no beard from behind, no hair under a helmet, no trousers under a
long coat.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from flowwarp.data.sprites import DIRECTIONS, DYES, Layer, Layers, seen_areas

Attributes = dict[str, Any]

# How often each is drawn, and the animation that shows it.
ACTIONS = {
    "walk": (0.34, "walk"),
    "stand": (0.11, "walk"),
    "slash": (0.12, "slash"),
    "spellcast": (0.12, "spellcast"),
    "thrust": (0.11, "thrust"),
    "shoot": (0.11, "shoot"),
    "fall": (0.09, "hurt"),
}
_WEAPONS = {
    "walk": ("dagger", "spear"),
    "stand": ("dagger", "spear"),
    "slash": ("dagger", "wooden wand", "steel wand"),
    "thrust": ("spear",),
    "shoot": ("bow", "great bow", "recurve bow"),
}
_ARMED = {"walk": 0.3, "stand": 0.35, "slash": 0.85, "thrust": 0.85, "shoot": 1.0}
_WHOLE = ("dress", "dress with sash", "robe")  # reaches to the feet: legs are not seen
_ARMOR = {  # of the category over, and what is worn with it, in its colour, where there is any
    "plate armor": ("chain mail", "plate arms", "metal pants", "metal boots"),
    "golden armor": ("chain mail", "golden arms", "golden greaves", "golden boots"),
    "leather armor": ("", "leather shoulders", "", ""),
    "tabard": ("chain mail", "", "", ""),
}
_NAMED = (
    *("hair", "hair_style", "hair_color", "torso", "torso_style", "torso_color"),
    *("legs", "legs_style", "legs_color", "feet", "hat", "beard", "cape", "weapon"),
)
_SKINS = {"red_orc": "olive"}  # it has red eyes; nobody would call its skin red
_OPEN_HATS = ("tiara", "bandana")  # hair is seen below them
_SEEN = 20  # pixels of a cell, 0.5 %; by less nobody could tell what it is
_HELD_OUT = 10  # one combination in so many

T = TypeVar("T")


@dataclass(frozen=True)
class Actor:
    """A character: the layers to paint, and the words for it."""

    worn: tuple[Layer, ...]
    attributes: dict[str, str]


def is_held_out(attributes: Attributes) -> bool:
    """Return whether a clip shows a combination that training never sees.

    It goes by a hash of hair colour, clothes and ground of each actor, so that the answer is the
    same on every machine and for every set of layers. One combination in ten is held out; every
    single value also occurs in training.

    Args:
        attributes: of a clip.
    """
    return any(
        _hash(actor["hair_color"], actor["torso_style"], actor["torso_color"], attributes["ground"])
        for actor in attributes["actors"]
    )


def _hash(*values: str) -> bool:
    digest = hashlib.blake2b("|".join(values).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _HELD_OUT == 0


def draw_actor(layers: Layers, random: np.random.Generator) -> Actor:
    """Draw a character and what it does.

    Args:
        layers: what there is to wear.
        random: is drawn from.
    """
    action = _weighted(random, {name: share for name, (share, _) in ACTIONS.items()})
    animation = ACTIONS[action][1]
    direction = "" if action == "fall" else choose(random, DIRECTIONS)
    bodies = [layer for layer in layers.layers if layer.category == "body"]
    body = choose(random, bodies)
    worn = [body]
    found = dict.fromkeys(_NAMED, "")
    noted: dict[str, Layer] = {}
    looks = direction or "down"

    def wear(
        category: str,
        *names: str,
        color: str = "",
        share: float = 1.0,
        avoid: Sequence[str] = (),
    ) -> Layer | None:
        """Put on something of a category, if there is any that this animation shows."""
        if share < 1 and random.random() >= share:
            return None
        fitting = [
            layer
            for layer in layers.of(category, body.gender)
            if (not names or layer.name in names)
            and layer.name not in avoid
            and (layer.color == color if color else not layer.dyed)
            and layer.shows(animation, looks)
        ]
        if not fitting:
            return None
        # First what, then in which colour: by number, one thing in twelve colours would be all one
        # sees; if all things were alike, each of its colours would be too rare to be learned.
        colors = Counter(layer.name for layer in fitting)
        name = _weighted(random, {name: math.sqrt(colors[name]) for name in sorted(colors)})
        layer = choose(random, [layer for layer in fitting if layer.name == name])
        worn.append(layer)
        return layer

    def note(key: str, layer: Layer | None) -> None:
        if layer:
            noted[key] = layer
            found[key] = layer.phrase
            if f"{key}_style" in found:
                found[f"{key}_style"], found[f"{key}_color"] = layer.name, layer.color

    def forget(key: str) -> None:
        found.update({name: "" for name in (key, f"{key}_style", f"{key}_color") if name in found})

    bones = body.words.get("noun") == "skeleton"
    if not bones:
        wear("eyes")
    hat = wear("head", share=0.14)
    note("hat", hat)
    if (hat is None or hat.name in _OPEN_HATS) and not bones:
        hair = wear("hair", share=0.96)
        note("hair", hair)
        if hair is None and hat is None and looks != "up":
            found["hair_style"] = "bald"
        if "orc" not in body.words.get("noun", ""):
            note("beard", wear("facial", color=hair.color if hair else "", share=0.2))
    _clothe(wear, note, found, random)
    cape = wear("cape", share=0.1)
    if cape:
        wear("cape_behind", color=cape.color)
        note("cape", cape)
    if random.random() < _ARMED.get(action, 0):
        note("weapon", wear("weapon", *_WEAPONS[action]))
        if found["weapon"] and action == "shoot":
            wear("ammo")
            wear("quiver", share=0.4)
    areas = seen_areas(worn, animation, looks)
    for key, layer in noted.items():
        if areas[layer.id] < _SEEN:
            forget(key)
    about = {
        "body": body.words.get("noun") or body.name,
        "skin": _SKINS.get(body.name, body.words.get("adjective", "")),
        **found,
        "action": action,
        "direction": direction,
    }
    return Actor(tuple(worn), about)


def _clothe(wear: Any, note: Any, found: dict[str, str], random: np.random.Generator) -> None:
    dyed = wear("over", "plate armor", color=choose(random, tuple(DYES)), share=0.1)
    over = dyed or wear("over", *_ARMOR, share=0.22)
    under, arms, greaves, boots = _ARMOR[over.name] if over else ("", "", "", "")
    torso = wear("torso", under) if under else None
    torso = torso or wear("torso", avoid=_WHOLE if over else ())
    note("torso", over or torso)
    if torso is None or torso.name not in _WHOLE:
        suit = wear("legs", greaves, color=over.color, share=0.6) if over and greaves else None
        note("legs", suit or wear("legs"))
    note("feet", (wear("feet", boots, share=0.7) if boots else None) or wear("feet", share=0.95))
    if over and arms:
        wear("shoulders", arms, color=over.color, share=0.6)
    if not over:
        wear("belt", share=0.1)
        wear("hands", share=0.08)


def choose(random: np.random.Generator, among: Sequence[T]) -> T:
    """Draw one, all alike."""
    return among[int(random.integers(len(among)))]


def _weighted(random: np.random.Generator, shares: dict[str, float]) -> str:
    left = random.random() * sum(shares.values())
    for name, share in shares.items():
        left -= share
        if left < 0:
            return name
    return name
