"""Draws the actors of a clip: body, outfit, action; and decides which combinations are held out.

Attributes are plain data. Those of a clip are ``{"actors": [...], "ground": ..., "camera": ...}``,
where the ground is the background; those of an actor are strings, empty where absent::

    body     "woman"         skin       "light-skinned"
    hair     "long red hair" hair_style "long"    hair_color  "red"
    torso    "a blue dress"  torso_style "dress"  torso_color "blue"
    legs     ""              legs_style  ""       legs_color  ""
    feet, hat, beard, cape, weapon: as captions call them; action, direction: as listed below

    unsure   "legs weapon": attributes with too few visible pixels for a reliable label

Only visible layers have attributes: no beard from behind, no hair under a helmet, no trousers under
a long coat.
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
from flowwarp.data.sprite_world.layers import DIRECTIONS, DYES, Layer, Layers, visible_areas

# Probability of each action, and the animation that shows it.
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
# Parts of an outfit that can be exchanged, and the categories of layers that each consists of.
PARTS = {
    "hair": ("hair",),
    "torso": ("over", "torso", "shoulders", "hands", "belt"),
    "legs": ("legs",),
    "weapon": ("weapon", "ammo", "quiver"),
}
_UNARMED = 0.5  # share of actors without a weapon after their weapon was exchanged
_FULL_LENGTH = ("dress", "dress with sash", "robe")  # they cover the legs
# Layers of the category "over", and the torso, shoulders, legs and feet of the same suit.
_ARMOR = {
    "plate armor": ("chain mail", "plate arms", "metal pants", "metal boots"),
    "golden armor": ("chain mail", "golden arms", "golden greaves", "golden boots"),
    "leather armor": ("", "leather shoulders", "", ""),
    "tabard": ("chain mail", "", "", ""),
}
_OUTFIT_ATTRIBUTES = (
    *("hair", "hair_style", "hair_color", "torso", "torso_style", "torso_color"),
    *("legs", "legs_style", "legs_color", "feet", "hat", "beard", "cape", "weapon"),
)
_SKINS = {"red_orc": "olive"}  # named after its red eyes
_OPEN_HATS = ("tiara", "bandana")  # they leave hair visible
# Mean visible pixels of a layer in a cell of 64 x 64: with 20 (0.5 %) or more it has an attribute,
# with 5 to 20 it is "unsure", below 5 it counts as absent.
_MIN_NAMED_AREA = 20
_MIN_VISIBLE_AREA = 5
_HELD_OUT = 10  # one combination in ten


@dataclass(frozen=True)
class Actor:
    """A character: the layers of its outfit, body first, and its attributes."""

    outfit: tuple[Layer, ...]
    attributes: dict[str, str]


def is_held_out(attributes: Attributes) -> bool:
    """Return whether a clip shows a combination of attributes that is reserved for tests.

    The answer follows from a hash of hair colour, torso and ground of each actor. It is therefore
    the same on every machine and for every set of layers. One combination in ten is held out; every
    single value also occurs in training.

    Args:
        attributes: of a clip.
    """
    keys = ("hair_color", "torso_style", "torso_color")
    return any(
        _is_held_out_combination(*(actor[key] for key in keys), attributes["ground"])
        for actor in attributes["actors"]
    )


def _is_held_out_combination(*values: str) -> bool:
    digest = hashlib.blake2b("|".join(values).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _HELD_OUT == 0


def draw_actor(layers: Layers, random: np.random.Generator) -> Actor:
    """Draw a character, its outfit and its action.

    Args:
        layers: the available layers.
        random: the generator.
    """
    action = choose_weighted(random, {name: share for name, (share, _) in ACTIONS.items()})
    direction = "" if action == "fall" else choose(random, DIRECTIONS)
    body = choose(random, [layer for layer in layers.layers if layer.category == "body"])
    outfit, is_bald = _draw_outfit(layers, body, action, direction, random)
    attributes = {
        "body": body.words.get("noun") or body.name,
        "skin": _SKINS.get(body.name, body.words.get("adjective", "")),
        **outfit.attributes(),
        "action": action,
        "direction": direction,
    }
    if is_bald:
        attributes["hair_style"] = "bald"
    return Actor(tuple(outfit.layers), attributes)


def exchange_parts(
    layers: Layers, actor: Actor, parts: Sequence[str], random: np.random.Generator
) -> tuple[Layer, ...]:
    """Return the outfit of an actor with some parts exchanged for others.

    Body, action and direction remain, so that the actor moves as before. Hair keeps its style and
    gets another colour. Half of the exchanged weapons are removed: to draw a missing weapon is
    harder than to change a colour, so a network needs more such examples.

    Args:
        layers: the available layers.
        actor: whose outfit is changed.
        parts: keys of ``PARTS``, possibly none; a part without alternatives remains.
        random: the generator.
    """
    body, outfit = actor.outfit[0], list(actor.outfit)
    action, direction = (actor.attributes[key] for key in ("action", "direction"))
    drawn, _ = _draw_outfit(layers, body, action, direction, random)
    for part in parts:
        if part == "hair":
            outfit = [_dye_hair(layers, body, layer, random) for layer in outfit]
            continue
        outfit = [layer for layer in outfit if layer.category not in PARTS[part]]
        if part != "weapon" or random.random() >= _UNARMED:
            outfit += [layer for layer in drawn.layers if layer.category in PARTS[part]]
    return tuple(outfit)


def _dye_hair(layers: Layers, body: Layer, hair: Layer, random: np.random.Generator) -> Layer:
    """Return hair of the same style in another colour; other layers unchanged."""
    if hair.category != "hair":
        return hair
    others = [
        layer
        for layer in layers.of("hair", body.gender)
        if layer.name == hair.name and layer.color != hair.color
    ]
    return choose(random, others) if others else hair


def _draw_outfit(
    layers: Layers, body: Layer, action: str, direction: str, random: np.random.Generator
) -> tuple[_Outfit, bool]:
    """Draw an outfit; return it, and whether the actor is visibly bald."""
    outfit = _Outfit(layers, body, ACTIONS[action][1], direction or "down", random)
    is_bald = _cover_head(outfit)
    _clothe(outfit)
    if cape := outfit.add("cape", share=0.1, key="cape"):
        outfit.add("cape_behind", color=cape.color)
    _arm(outfit, action)
    return outfit, is_bald


@final
class _Outfit:
    """The layers of an actor, added one by one, and the attributes that name them.

    Args:
        layers: the available layers.
        body: the layer that the others must fit.
        animation: in which they must be visible.
        direction: likewise.
        random: the generator.
    """

    def __init__(
        self,
        layers: Layers,
        body: Layer,
        animation: str,
        direction: str,
        random: np.random.Generator,
    ) -> None:
        self.body, self.direction, self.random = body, direction, random
        self.layers = [body]
        self._available, self._animation = layers, animation
        self._named: dict[str, Layer] = {}  # by attribute

    def add(
        self,
        category: str,
        *names: str,
        color: str = "",
        share: float = 1.0,
        avoid: Sequence[str] = (),
        key: str = "",
    ) -> Layer | None:
        """Add a random layer of a category, if there is one that the animation shows.

        Args:
            category: of the layer.
            names: names that are allowed; by default all are.
            color: the colour that is allowed; by default all but those of dyed suits are.
            share: probability that a layer is added.
            avoid: names that are not allowed.
            key: the attribute that names the layer; empty if none does.

        Returns:
            The layer, or None.
        """
        if share < 1 and self.random.random() >= share:
            return None
        fitting = [
            layer
            for layer in self._available.of(category, self.body.gender)
            if (not names or layer.name in names)
            and layer.name not in avoid
            and (layer.color == color if color else not layer.dyed)
            and layer.shows(self._animation, self.direction)
        ]
        if not fitting:
            return None
        # Draw the name, then the colour. Weights are the root of the number of colours: weighted by
        # the number itself, an item in twelve colours would displace all others; with equal weights
        # each of its colours would be too rare to be learned.
        colors = Counter(layer.name for layer in fitting)
        name = choose_weighted(
            self.random, {name: math.sqrt(colors[name]) for name in sorted(colors)}
        )
        layer = choose(self.random, [layer for layer in fitting if layer.name == name])
        self.layers.append(layer)
        if key:
            self._named[key] = layer
        return layer

    def attributes(self) -> dict[str, str]:
        """Return the attributes of the outfit; those of covered layers are empty."""
        found, unsure = dict.fromkeys(_OUTFIT_ATTRIBUTES, ""), []
        areas = visible_areas(self.layers, self._animation, self.direction)
        for key, layer in self._named.items():
            if areas[layer.id] >= _MIN_NAMED_AREA:
                found[key] = layer.phrase
                if f"{key}_style" in found:
                    found[f"{key}_style"], found[f"{key}_color"] = layer.name, layer.color
            elif areas[layer.id] >= _MIN_VISIBLE_AREA:
                unsure.append(key)
        return {**found, "unsure": " ".join(unsure)}


def _cover_head(outfit: _Outfit) -> bool:
    """Add eyes, hat, hair and beard; return whether the actor is visibly bald."""
    noun, is_bald = outfit.body.words.get("noun", ""), False
    is_skeleton = noun == "skeleton"
    if not is_skeleton:
        outfit.add("eyes")
    hat = outfit.add("head", share=0.14, key="hat")
    if (hat is None or hat.name in _OPEN_HATS) and not is_skeleton:
        hair = outfit.add("hair", share=0.96, key="hair")
        is_bald = hair is None and hat is None and outfit.direction != "up"
        if "orc" not in noun:
            outfit.add("facial", color=hair.color if hair else "", share=0.2, key="beard")
    return is_bald


def _clothe(outfit: _Outfit) -> None:
    """Add torso, legs and feet, with armor over them or without."""
    dye = choose(outfit.random, tuple(DYES))
    over = outfit.add("over", "plate armor", color=dye, share=0.1, key="torso")
    over = over or outfit.add("over", *_ARMOR, share=0.22, key="torso")
    under, arms, greaves, boots = _ARMOR[over.name] if over else ("", "", "", "")
    key = "" if over else "torso"
    torso = outfit.add("torso", under, key=key) if under else None
    torso = torso or outfit.add("torso", avoid=_FULL_LENGTH if over else (), key=key)
    if torso is None or torso.name not in _FULL_LENGTH:
        suit = None
        if over and greaves:
            suit = outfit.add("legs", greaves, color=over.color, share=0.6, key="legs")
        if suit is None:
            outfit.add("legs", key="legs")
    if not (boots and outfit.add("feet", boots, share=0.7, key="feet")):
        outfit.add("feet", share=0.95, key="feet")
    if over and arms:
        outfit.add("shoulders", arms, color=over.color, share=0.6)
    if not over:
        outfit.add("belt", share=0.1)
        outfit.add("hands", share=0.08)


def _arm(outfit: _Outfit, action: str) -> None:
    """Add a weapon, with arrows and a quiver for a bow."""
    if outfit.random.random() < _ARMED.get(action, 0):
        weapon = outfit.add("weapon", *_WEAPONS[action], key="weapon")
        if weapon and action == "shoot":
            outfit.add("ammo")
            outfit.add("quiver", share=0.4)
