"""Who is on the stage, in which clothes, and what they do; and which of it training never sees.

Attributes are plain data. Those of a clip are ``{"actors": [...], "ground": ..., "camera": ...}``;
those of an actor are texts, empty where there is nothing to say::

    body     "woman"         skin       "light-skinned"
    hair     "long red hair" hair_style "long"    hair_color  "red"
    torso    "a blue dress"  torso_style "dress"  torso_color "blue"
    legs     ""              legs_style  ""       legs_color  ""
    feet, hat, beard, cape, weapon: as they are called; action, direction: as listed below

    unsure   "legs weapon": of which so little is seen that nobody could say whether they are there

Only what can be seen is named: no beard from behind, no hair under a helmet, no trousers under a
long coat.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from flowwarp.data.choices import choose, choose_weighted
from flowwarp.data.clip import Attributes
from flowwarp.data.sprite_world.layers import DIRECTIONS, DYES, Layer, Layers, seen_areas

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
# What can be exchanged of an actor, as captions tell of it, and the categories of layers it is of.
PARTS = {
    "hair": ("hair",),
    "torso": ("over", "torso", "shoulders", "hands", "belt"),
    "legs": ("legs",),
    "weapon": ("weapon", "ammo", "quiver"),
}
_UNARMED = 0.5  # of those whose weapon is exchanged
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
_HIDDEN = 5  # nor by less that there is anything
_HELD_OUT = 10  # one combination in so many


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
    looks = ("hair_color", "torso_style", "torso_color")
    return any(
        _is_aside(*(actor[key] for key in looks), attributes["ground"])
        for actor in attributes["actors"]
    )


def _is_aside(*values: str) -> bool:
    digest = hashlib.blake2b("|".join(values).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _HELD_OUT == 0


def draw_actor(layers: Layers, random: np.random.Generator) -> Actor:
    """Draw a character and what it does.

    Args:
        layers: what there is to wear.
        random: is drawn from.
    """
    action = choose_weighted(random, {name: share for name, (share, _) in ACTIONS.items()})
    direction = "" if action == "fall" else choose(random, DIRECTIONS)
    body = choose(random, [layer for layer in layers.layers if layer.category == "body"])
    outfit, is_bald = _dress_up(layers, body, action, direction, random)
    about = {
        "body": body.words.get("noun") or body.name,
        "skin": _SKINS.get(body.name, body.words.get("adjective", "")),
        **outfit.seen(),
        "action": action,
        "direction": direction,
    }
    if is_bald:
        about["hair_style"] = "bald"
    return Actor(tuple(outfit.worn), about)


def exchange(
    layers: Layers, actor: Actor, parts: Sequence[str], random: np.random.Generator
) -> tuple[Layer, ...]:
    """Return what an actor would wear if some of it were other than it is.

    Body, action and direction stay, so that the actor moves as before; hair is cut as before, and
    of another colour. Instead of a weapon there is none every second time: what is missing is
    harder to draw than what has another colour is to dye.

    Args:
        layers: what there is to wear.
        actor: who.
        parts: keys of ``PARTS``: what shall be other, as far as there is any; it may be nothing.
        random: is drawn from.
    """
    body, worn = actor.worn[0], list(actor.worn)
    action, direction = (actor.attributes[key] for key in ("action", "direction"))
    drawn, _ = _dress_up(layers, body, action, direction, random)
    for part in parts:
        if part == "hair":
            worn = [_dye_hair(layers, body, layer, random) for layer in worn]
            continue
        worn = [layer for layer in worn if layer.category not in PARTS[part]]
        if part != "weapon" or random.random() >= _UNARMED:
            worn += [layer for layer in drawn.worn if layer.category in PARTS[part]]
    return tuple(worn)


def _dye_hair(layers: Layers, body: Layer, worn: Layer, random: np.random.Generator) -> Layer:
    if worn.category != "hair":
        return worn
    others = [
        layer
        for layer in layers.of("hair", body.gender)
        if layer.name == worn.name and layer.color != worn.color
    ]
    return choose(random, others) if others else worn


def _dress_up(
    layers: Layers, body: Layer, action: str, direction: str, random: np.random.Generator
) -> tuple[_Outfit, bool]:
    """Draw what somebody wears; return it, and whether one sees that there is no hair."""
    outfit = _Outfit(layers, body, ACTIONS[action][1], direction or "down", random)
    is_bald = _cover_head(outfit)
    _clothe(outfit)
    if cape := outfit.wear("cape", share=0.1, key="cape"):
        outfit.wear("cape_behind", color=cape.color)
    _arm(outfit, action)
    return outfit, is_bald


@final
class _Outfit:
    """What an actor wears, piece by piece, and which of it is spoken of.

    Args:
        layers: what there is.
        body: who wears it.
        animation: that shows it.
        looks: where to.
        random: is drawn from.
    """

    def __init__(
        self,
        layers: Layers,
        body: Layer,
        animation: str,
        looks: str,
        random: np.random.Generator,
    ) -> None:
        self.body, self.looks, self.random = body, looks, random
        self.worn = [body]
        self._layers, self._animation = layers, animation
        self._spoken_of: dict[str, Layer] = {}

    def wear(
        self,
        category: str,
        *names: str,
        color: str = "",
        share: float = 1.0,
        avoid: Sequence[str] = (),
        key: str = "",
    ) -> Layer | None:
        """Put on something of a category, if there is any that the animation shows.

        Args:
            category: of layers.
            names: of those that will do; by default all will.
            color: of those that will do; without one, none is dyed.
            share: how often it is put on.
            avoid: names of those that will not do.
            key: the attribute that it is spoken of as, if it is.
        """
        if share < 1 and self.random.random() >= share:
            return None
        fitting = [
            layer
            for layer in self._layers.of(category, self.body.gender)
            if (not names or layer.name in names)
            and layer.name not in avoid
            and (layer.color == color if color else not layer.dyed)
            and layer.shows(self._animation, self.looks)
        ]
        if not fitting:
            return None
        # First what, then in which colour: by number, one thing in twelve colours would be all one
        # sees; if all things were alike, each of its colours would be too rare to be learned.
        colors = Counter(layer.name for layer in fitting)
        name = choose_weighted(
            self.random, {name: math.sqrt(colors[name]) for name in sorted(colors)}
        )
        layer = choose(self.random, [layer for layer in fitting if layer.name == name])
        self.worn.append(layer)
        if key:
            self._spoken_of[key] = layer
        return layer

    def seen(self) -> dict[str, str]:
        """Return the attributes of what is spoken of; what others cover is not."""
        found, unsure = dict.fromkeys(_NAMED, ""), []
        areas = seen_areas(self.worn, self._animation, self.looks)
        for key, layer in self._spoken_of.items():
            if areas[layer.id] >= _SEEN:
                found[key] = layer.phrase
                if f"{key}_style" in found:
                    found[f"{key}_style"], found[f"{key}_color"] = layer.name, layer.color
            elif areas[layer.id] >= _HIDDEN:
                unsure.append(key)
        return {**found, "unsure": " ".join(unsure)}


def _cover_head(outfit: _Outfit) -> bool:
    """Put on eyes, hat, hair and beard; return whether one sees that there is no hair."""
    noun, is_bald = outfit.body.words.get("noun", ""), False
    bones = noun == "skeleton"
    if not bones:
        outfit.wear("eyes")
    hat = outfit.wear("head", share=0.14, key="hat")
    if (hat is None or hat.name in _OPEN_HATS) and not bones:
        hair = outfit.wear("hair", share=0.96, key="hair")
        is_bald = hair is None and hat is None and outfit.looks != "up"
        if "orc" not in noun:
            outfit.wear("facial", color=hair.color if hair else "", share=0.2, key="beard")
    return is_bald


def _clothe(outfit: _Outfit) -> None:
    """Put on what is worn above, below and on feet."""
    dye = choose(outfit.random, tuple(DYES))
    over = outfit.wear("over", "plate armor", color=dye, share=0.1, key="torso")
    over = over or outfit.wear("over", *_ARMOR, share=0.22, key="torso")
    under, arms, greaves, boots = _ARMOR[over.name] if over else ("", "", "", "")
    key = "" if over else "torso"
    torso = outfit.wear("torso", under, key=key) if under else None
    torso = torso or outfit.wear("torso", avoid=_WHOLE if over else (), key=key)
    if torso is None or torso.name not in _WHOLE:
        suit = None
        if over and greaves:
            suit = outfit.wear("legs", greaves, color=over.color, share=0.6, key="legs")
        if suit is None:
            outfit.wear("legs", key="legs")
    if not (boots and outfit.wear("feet", boots, share=0.7, key="feet")):
        outfit.wear("feet", share=0.95, key="feet")
    if over and arms:
        outfit.wear("shoulders", arms, color=over.color, share=0.6)
    if not over:
        outfit.wear("belt", share=0.1)
        outfit.wear("hands", share=0.08)


def _arm(outfit: _Outfit, action: str) -> None:
    """Put on a weapon, and what goes with it."""
    if outfit.random.random() < _ARMED.get(action, 0):
        weapon = outfit.wear("weapon", *_WEAPONS[action], key="weapon")
        if weapon and action == "shoot":
            outfit.wear("ammo")
            outfit.wear("quiver", share=0.4)
