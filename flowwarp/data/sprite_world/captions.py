"""Captions: the attributes of a clip in English, in varied wordings, and read back."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from flowwarp.data.choices import choose
from flowwarp.data.clip import Attributes

Way = TypeVar("Way")

# Probability that a caption names each attribute that is present. "calling": that it names an actor
# by its action, as "archer"; "haired": that it writes "red-haired"; "still": that it mentions a
# still camera.
_SHARES = {
    "skin": 0.4,
    "hair": 0.7,
    "hat": 0.8,
    "beard": 0.7,
    "torso": 0.85,
    "legs": 0.6,
    "feet": 0.15,
    "cape": 0.8,
    "weapon": 0.8,
    "action": 0.97,
    "direction": 0.93,
    "ground": 0.9,
    "camera": 0.75,
    "calling": 0.3,
    "haired": 0.25,
    "still": 0.06,
}
_EVERYTHING = dict.fromkeys(_SHARES, 1.0) | {
    "feet": 0.0,
    "calling": 0.0,
    "haired": 0.0,
    "still": 0.0,
}

# (finite form, participle); {} is the weapon.
_VERBS = {
    "walk": (("walks", "walking"), ("strides", "striding"), ("strolls", "strolling")),
    "stand": (("stands", "standing"), ("stands still", "standing still"), ("waits", "waiting")),
    "slash": (("slashes", "slashing"), ("strikes a blow", "striking a blow")),
    "spellcast": (
        ("casts a spell", "casting a spell"),
        ("conjures", "conjuring"),
        ("works magic", "working magic"),
    ),
    "thrust": (("thrusts", "thrusting"), ("stabs", "stabbing"), ("lunges", "lunging")),
    "shoot": (("shoots", "shooting"), ("shoots an arrow", "shooting an arrow")),
    "fall": (("falls", "falling"), ("collapses", "collapsing"), ("falls down", "falling down")),
}
_ARMED_VERBS = {
    "slash": (("slashes with {}", "slashing with {}"), ("swings {}", "swinging {}")),
    "thrust": (
        ("thrusts {}", "thrusting {}"),
        ("stabs with {}", "stabbing with {}"),
        ("lunges with {}", "lunging with {}"),
    ),
    "shoot": (("shoots with {}", "shooting with {}"), ("shoots {}", "shooting {}")),
}
_WAYS = {  # of a walking actor
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "up": ("away", "away from the camera", "up"),
    "down": ("towards the camera", "towards us", "down"),
}
_VIEWS = {  # of any other actor
    "left": ("facing left", "looking to the left", "turned left"),
    "right": ("facing right", "looking to the right", "turned right"),
    "up": ("facing away", "seen from behind", "turned away"),
    "down": ("facing the camera", "facing us", "seen from the front"),
}
_GROUNDS = {
    "grass": ("on grass", "on a meadow", "on green grass"),
    "sand": ("on sand", "on a sandy beach", "on desert sand"),
    "snow": ("on snow", "in the snow", "on a snowy field"),
    "stone floor": ("on a stone floor", "on stone slabs", "on stone tiles"),
    "water": ("on water", "on blue water", "on the water"),
    "wood planks": ("on wood planks", "on a wooden floor", "on wooden boards"),
    "brick wall": ("in front of a brick wall", "before a brick wall", "by a brick wall"),
    "night sky": ("under a night sky", "under the stars", "at night under a starry sky"),
    "photo": ("in front of a photo", "before a photo", "in front of a photograph"),
}
_CAMERAS = {
    "pan left": ("the camera pans left", "the camera moves left"),
    "pan right": ("the camera pans right", "the camera moves right"),
    "pan up": ("the camera pans up", "the camera moves up"),
    "pan down": ("the camera pans down", "the camera moves down"),
    "zoom in": ("the camera zooms in", "the camera comes closer"),
    "zoom out": ("the camera zooms out", "the camera draws back"),
    "follow": ("the camera follows", "the camera goes along"),
}
CAMERAS = tuple(_CAMERAS)  # moves; without one the camera is "still"
_BODIES = {
    "woman": ("woman", "woman", "lady", "girl"),
    "man": ("man", "man", "fellow", "guy"),
}
_KNIGHTLY = ("plate armor", "golden armor")
_CALLINGS = {  # nouns for an actor by its action
    "shoot": ("archer",),
    "slash": ("warrior", "fighter"),
    "thrust": ("warrior", "fighter"),
    "spellcast": ("wizard", "mage"),
}
_SYNONYMS = {"plate armor": "armor", "pants": "trousers"}  # other words for the same thing


def prompt_for(attributes: Attributes, random: np.random.Generator) -> str:
    """Write a caption that names every present attribute but feet.

    For each actor these are body, skin, hair, hat, beard, torso and legs, cape, weapon, action and
    direction, with the colours of hair and clothes; then the ground, and the motion of the camera.

    Args:
        attributes: of a clip.
        random: draws the wording.
    """
    return _write(attributes, _Varied(random), _EVERYTHING)


def plain_caption(attributes: Attributes) -> str:
    """Write a caption that names every present attribute, always in the same wording.

    Args:
        attributes: of a clip; empty ones are absent. If no hair has a style, its colour stands
            before the noun: "a red-haired woman".
    """
    haired = all(not actor["hair_style"] for actor in attributes["actors"])
    shares = dict.fromkeys(_SHARES, 1.0) | {"calling": 0.0, "haired": float(haired)}
    return _write(attributes, _Plain(), shares)


def draw_caption(attributes: Attributes, random: np.random.Generator) -> str:
    """Write a caption that may leave out any attribute but the body.

    Args:
        attributes: of a clip.
        random: draws the attributes to name, and the wording.
    """
    return _write(attributes, _Varied(random), _SHARES)


def reword(attributes: Attributes, random: np.random.Generator, count: int) -> tuple[str, ...]:
    """Write ``count`` captions of one clip; the first, third, ... name every attribute."""
    writers = (prompt_for, draw_caption)
    return tuple(writers[number % 2](attributes, random) for number in range(count))


def american(word: str, known: Collection[str]) -> str:
    """Return the American spelling of a word, as captions use it, if only that one is known.

    >>> american("armour", {"armor"}), american("our", {"or"})
    ('armor', 'or')
    """
    if word not in known:
        for one, other in _SPELLINGS:
            if (spelled := word.replace(one, other)) in known:
                return spelled
    return word


_SPELLINGS = (("our", "or"), ("grey", "gray"), ("moust", "must"), ("blond", "blonde"))


def mirror_words(text: str) -> str:
    """Exchange left and right in a text, leftwards and rightwards included."""
    return re.sub(r"\b(left|right)(?=\b|wards)", lambda found: _MIRRORED[found[1]], text)


_MIRRORED = {"left": "right", "right": "left"}


def read_caption(caption: str, things: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the attributes that a caption of one actor names: the inverse of :func:`draw_caption`.

    Args:
        caption: in any words; unknown words are ignored.
        things: phrases for hair, clothes and weapons, and the attributes that each implies.

    Returns:
        Action, direction, ground, camera and colour of hair, as far as they are named, and the
        attributes of all ``things`` that occur.
    """
    text = caption.lower()
    found: dict[str, str] = {}

    def take(phrases: Iterable[str]) -> str | None:
        """Cut the longest phrase that occurs out of the text, so that it is not matched again."""
        nonlocal text
        for phrase in sorted(phrases, key=len, reverse=True):
            shorter, count = re.subn(rf"(?<!\w){re.escape(phrase)}(?!\w)", "/", text, count=1)
            if count:
                text = shorter
                return phrase
        return None

    def note(key: str, phrases: Mapping[str, str]) -> None:
        if (phrase := take(phrases)) is not None:
            found[key] = phrases[phrase]

    # Order matters: "left" in "the camera moves left" must be cut out before directions are read.
    note("camera", {phrase: key for key, forms in _CAMERAS.items() for phrase in forms} | _STILL)
    synonyms = {_synonym(thing): attributes for thing, attributes in things.items()}
    things = synonyms | dict(things)
    while (thing := take(things)) is not None:
        found |= things[thing]
    if (hair := re.search(r"([\w-]+)-haired", text)) is not None:
        found["hair_color"] = hair[1].replace("-", " ")
    note("hair_color", {"bald": "bald"})
    note("ground", _PLACES)
    note("action", _ACTIONS)
    directions = {
        phrase: key for table in (_WAYS, _VIEWS) for key in table for phrase in table[key]
    }
    note("direction", directions)
    return found


_STILL = {"the camera stands still": "still"}
_PLACES = {
    place.replace("on ", preposition, 1) if place.startswith("on ") else place: ground
    for ground, places in _GROUNDS.items()
    for place in places
    for preposition in ("on ", "across ", "over ")
}
_ACTIONS = {  # without weapons, which are cut out before
    form.replace("{}", "").strip(): action
    for table in (_VERBS, _ARMED_VERBS)
    for action, verbs in table.items()
    for verb in verbs
    for form in verb
}


class _Wording(Protocol):
    """Chooses the attributes that a caption names, and their wording."""

    def happens(self, share: float, *, plainly: bool = False) -> bool:
        """Return True with probability ``share``; without randomness, ``plainly`` decides."""

    def choose(self, ways: Sequence[Way]) -> Way:
        """Return one of several wordings; the first is the plainest."""


@dataclass(frozen=True)
class _Varied:
    """Draws among all wordings."""

    random: np.random.Generator

    def happens(self, share: float, *, plainly: bool = False) -> bool:
        return self.random.random() < share

    def choose(self, ways: Sequence[Way]) -> Way:
        return choose(self.random, ways)


class _Plain:
    """Always takes the first wording."""

    def happens(self, share: float, *, plainly: bool = False) -> bool:
        return plainly or share == 1

    def choose(self, ways: Sequence[Way]) -> Way:
        return ways[0]


def _write(attributes: Attributes, wording: _Wording, shares: Mapping[str, float]) -> str:
    def named(key: str) -> bool:
        return wording.happens(shares[key])

    actors, ground = attributes["actors"], attributes["ground"]
    place = wording.choose(_GROUNDS[ground]) if ground and named("ground") else ""
    crossed = place
    if place.startswith("on ") and all(actor["action"] == "walk" for actor in actors):
        crossed = place.replace("on ", wording.choose(("on ", "across ", "over ")), 1)
    camera = attributes["camera"]
    moves = wording.choose(_CAMERAS[camera]) if camera in _CAMERAS and named("camera") else ""

    finite = wording.happens(0.7, plainly=True)
    described = [_describe(actor, wording, shares, finite) for actor in actors]
    parts, act = [text for text, _ in described], all(acts for _, acts in described)
    if act:  # "across" needs a verb of motion: not "facing left across sand"
        place = crossed
    if len(parts) == 1:
        text = parts[0]
    elif wording.happens(0.5, plainly=True):
        text = f"on the left {parts[0]}, on the right {parts[1]}"
    else:
        order = parts if wording.happens(0.5) else parts[::-1]
        both = (" while " if act else " and ") if finite else " beside "
        text = wording.choose((" and ", ", and ", both)).join(order)
    if place:
        comma = "," if len(parts) > 1 else ""
        text = f"{place}, {text}" if wording.happens(0.25) else f"{text}{comma} {place}"
    if moves:
        before = wording.happens(0.2)
        link = wording.choose(("while ", "as "))
        text = (
            f"{link}{moves}, {text}" if before else f"{text}, {wording.choose(('', link))}{moves}"
        )
    elif camera == "still" and _happens("still", wording, shares):
        text = f"{text}, the camera stands still"
    return text


def _describe(
    actor: Mapping[str, str], wording: _Wording, shares: Mapping[str, float], finite: bool
) -> tuple[str, bool]:
    """Write the phrase for an actor; return also whether it has a verb."""

    def named(key: str) -> bool:
        return bool(actor[key]) and wording.happens(shares[key])

    noun = wording.choose(_BODIES.get(actor["body"], (actor["body"],)))
    if actor["body"] in _BODIES and _happens("calling", wording, shares):
        knightly = actor["torso_style"] in _KNIGHTLY
        noun = wording.choose(("knight",) * knightly or _CALLINGS.get(actor["action"], ("person",)))
    adjectives = [actor["skin"]] if named("skin") else []
    if actor["hair_style"] == "bald" and wording.happens(shares["hair"]):
        adjectives.append("bald")

    has = []
    if named("hair"):
        if _happens("haired", wording, shares):
            adjectives.append(f"{actor['hair_color'].replace(' ', '-')}-haired")
        else:
            has.append(actor["hair"])
    has += [actor[key] for key in ("beard", "hat", "cape") if named(key)]
    wears = [_maybe_synonym(actor[key], wording) for key in ("torso", "legs", "feet") if named(key)]
    verb, way, carries = _act(actor, wording, shares, finite)
    if carries:
        has.append(carries)

    who = _with_article(" ".join([*adjectives, noun]))
    clothes = f"{wording.choose(('in', 'in', 'wearing', 'dressed in'))} {_list(wears)}"
    phrases = [f"with {_list(has)}"] * bool(has) + [clothes] * bool(wears)
    if wording.happens(0.5):
        phrases.reverse()
    return " ".join([who, *phrases, *filter(None, (verb, way))]), bool(verb)


def _happens(key: str, wording: _Wording, shares: Mapping[str, float]) -> bool:
    """Like ``happens``, but draws nothing where the share is 0, as in complete captions."""
    return shares[key] > 0 and wording.happens(shares[key])


def _maybe_synonym(thing: str, wording: _Wording) -> str:
    return wording.choose((thing, _synonym(thing)))


def _synonym(thing: str) -> str:
    """Return a thing by its other name, if it has one."""
    for word, other in _SYNONYMS.items():
        thing = thing.replace(word, other)
    return thing


def _act(
    actor: Mapping[str, str], wording: _Wording, shares: Mapping[str, float], finite: bool
) -> tuple[str, str, str]:
    """Return the phrases for action and direction, and the weapon unless the verb names it."""
    action, direction = actor["action"], actor["direction"]
    weapon = actor["weapon"] if wording.happens(shares["weapon"]) else ""
    verb = way = ""
    acts = bool(action) and wording.happens(shares["action"])
    if acts:
        verbs = _VERBS[action]
        if weapon and action in _ARMED_VERBS:
            verbs = _ARMED_VERBS[action]
        verb = wording.choose(verbs)[0 if finite else 1].format(weapon)
    if direction and wording.happens(shares["direction"]):
        walks = action == "walk" and acts
        way = wording.choose((_WAYS if walks else _VIEWS)[direction])
    return verb, way, "" if acts and action in _ARMED_VERBS else weapon


def _list(things: list[str]) -> str:
    return " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)


def _with_article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
