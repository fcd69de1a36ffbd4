"""Reads a prompt in free English, and rewrites it in the words of captions.

Networks trained on the captions of the world of sprites know about 250 words, in the order in which
:mod:`~.captions` writes them. A user may write "ginger lass in a green frock, strolling off to the
right". A prompt is therefore read item by item with ``datasets/sprites/words.toml``, and rewritten
as a caption. Betker et al., "Improving Image Generation with Better Captions" (2023), use a large
language model for this; here tables suffice, and they show which words were not understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import final

from flowwarp.data.sprite_world.captions import plain_caption
from flowwarp.data.sprite_world.coloring import color_things, find_bearer, is_worn
from flowwarp.data.sprite_world.phrases import (
    SPECIES,
    Part,
    are_mirrored,
    other_pronouns,
    plain_words,
    read_parts,
    vocabulary,
)

_MAX_LENGTH = 2000  # characters; nothing after them is read
# Words that the captions of this world always have.
_ALWAYS = frozenset(
    ("walks", "stands", "slashes", "spell", "thrusts", "shoots", "falls", "facing", "camera", "on")
)
_FACING = frozenset(("facing", "faces", "faced", "face", "looks", "looking", "turned", "turns"))
_NEAR = 2  # phrases before an item that describe it
_SKINS = {"black": "dark-skinned", "white": "light-skinned", "brown": "dark-brown-skinned"}
# Colours that an item is not available in, and the nearest that it is.
_NEAREST = {
    "hair": {
        "gold": "blonde",
        "yellow": "blonde",
        "silver": "gray",
        "orange": "red",
        "maroon": "red",
        "light blue": "blue",
        "teal": "green",
        "magenta": "pink",
        "bronze": "brown",
    },
    "torso": {"magenta": "pink", "bronze": "brown"},
    "legs": {"light blue": "blue", "maroon": "red", "bronze": "brown"},
}
# Colours that name the same hair: "a brunette with brown hair" is no contradiction.
_SHADES = {"brunette": "brown", "light blonde": "blonde"}
# Captions call men's tops shirts, and women's by other names.
_WOMENS = {"a {} tunic", "a {} sleeveless shirt", "a {} pirate shirt"}
_SHIRT, _TUNIC, _PLATE, _MAIL = "a {} shirt", "a {} tunic", "{} plate armor", "{} chain mail"
# Clothes that have another name in labels than in captions.
_LABELS = {"shirt": "longsleeve shirt", "dress with a sash": "dress with sash"}
_METAL_LEGS = {"gold": "golden greaves", "silver": "metal pants"}
_OWN_COLORS = {
    "golden": "gold",
    "plate": "silver",
    "metal": "silver",
    "mail": "gray",
    "leather": "brown",
    "sash": "green",
}
_SINGLE = ("torso", "legs", "feet", "hat", "cape", "beard")  # at most one per actor
_ATTACKS = {
    "a spear": "thrust",
    "a dagger": "slash",
    "": "slash",
    "a wooden wand": "spellcast",
    "a steel wand": "spellcast",
}
_NOUN_OF_ACTION = {
    "shoot": "archer",
    "spellcast": "wizard",
    "slash": "warrior",
    "thrust": "warrior",
}


@dataclass(frozen=True)
class Reading:
    """The parts of a prompt that were understood.

    Args:
        caption: the prompt in the words of captions; empty if nothing was understood.
        left_out: phrases that were not understood, or cannot be shown.
        stated: attributes with their values as in labels, such as "legs color": "blue".
    """

    caption: str
    left_out: tuple[str, ...]
    stated: Mapping[str, str]


def is_understood(known: frozenset[str]) -> bool:
    """Return whether a set of words is that of captions of the world of sprites.

    It is if it has words for every action, and no word that is not understood here.

    Args:
        known: all words of some captions, in lower case.
    """
    return known >= _ALWAYS and {word for word in known if word.isalpha()} <= vocabulary()


def is_passed_over(word: str) -> bool:
    """Return whether a word of a caption has no meaning of its own, such as "in" and "with"."""
    return word in plain_words() or not word.isalpha()


def read_prompt(prompt: str, known: Set[str] | None = None) -> Reading:
    """Read a prompt about one or two actors of the world of sprites.

    >>> read_prompt("Ginger lass in a green frock, strolling off to the right").caption
    'a red-haired woman in a green dress walks right'
    >>> reading = read_prompt("Her skirt was navy. She smiled and fell over.")
    >>> reading.caption, reading.left_out, reading.stated
    ('a woman in blue pants falls', ('smiled',), {'legs color': 'blue', 'action': 'fall'})
    >>> read_prompt("a drow attacks an old goblin on the beach").caption
    'on the left a male dark elf slashes, on the right a male orc, on sand'

    Args:
        prompt: in English; only the first 2000 characters are read.
        known: words of the captions; hair, clothes and weapons with other words are left out.

    Returns:
        The reading. For two actors it states only ground and camera.
    """
    parts, camera, moves = read_parts(prompt[:_MAX_LENGTH])
    prompts = [_ActorPrompt(own, known) for own in parts]
    actors = [one.actor for one in prompts]
    # "a knight and an orc walk left": the verb after the second actor applies to both
    if not actors[0]["action"] and not actors[0]["direction"]:
        together = {key: actors[-1][key] for key in ("action", "direction")}
        actors[0] |= together
    if len(parts) == 2 and are_mirrored(*parts):
        actors.reverse()
    ground = next(filter(None, (one.ground for one in prompts)), "")
    left_out = [*(text for one in prompts for text in one.left_out(ground)), *moves]
    if len(prompt) > _MAX_LENGTH:
        left_out.append(f"all after {_MAX_LENGTH} characters")
    caption = ""
    if any((*(text for actor in actors for text in actor.values()), ground, camera)):
        named = [actor | {"body": actor["body"] or "person"} for actor in actors]
        caption = plain_caption({"actors": named, "ground": ground, "camera": camera})
    stated = {"ground": ground, "camera": camera}
    if len(actors) == 1:
        stated |= prompts[0].stated
    stated = {name: value for name, value in stated.items() if value}
    return Reading(caption, tuple(dict.fromkeys(left_out)), stated)


# ------------------------------------------------------------------ one actor


@final
class _ActorPrompt:
    """The attributes of one actor, read from its phrases.

    Args:
        parts: the phrases of the actor.
        known: words of the captions; None for all.
    """

    def __init__(self, parts: list[Part], known: Set[str] | None) -> None:
        self._parts, self._known = parts, known
        others = other_pronouns(parts)
        bodies = [part for part in parts if part.kind == "body" and part not in others]
        self._nouns = [part.value for part in bodies]
        self._sex = next((noun for noun in self._nouns if noun in ("woman", "man")), "")
        self._left_out = [part.text for part in parts if part.kind == "word"]
        self._colors_without_item = color_things(parts)
        self.ground = self._ground()
        self.actor, self.stated = self._actor()

    def left_out(self, ground: str) -> list[str]:
        """Return the phrases that were not understood, or contradict the attributes.

        Args:
            ground: the ground of the clip.
        """
        others = [part for part in self._all("ground") if part.value != ground]
        for kind in _SINGLE:
            main = self._main(kind)
            others += [part for part in self._all(kind) if main is not None and _differ(part, main)]
        weapons = self._all("weapon")  # a great bow, and the bow
        others += [p for p in weapons if p.value.split()[-1] != weapons[0].value.split()[-1]]
        hair = self._all("hair")
        cuts = [part for part in hair if part.value != "{} hair"]
        others += [part for part in cuts if part.value != cuts[0].value]
        others += [part for part in hair if self._is_bald or not self._is_shown(part.color)]
        others += [part for part in self._all("hair_color") if not self._is_shown(part.value)]
        species = [part for part in self._all("body") if part.value in SPECIES]
        others += [part for part in species if part.value != species[0].value]
        others += [p for p in self._all("direction") if p.value != self.actor["direction"]]
        others += [part for part in self._all("action") if not self._agrees(part.value)]
        others += [part for part in self._all("skin") if not self.actor["skin"]]
        return [*self._left_out, *(part.text for part in (*others, *self._colors_without_item))]

    def _actor(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the attributes of the actor, and its labels; "" where nothing is stated."""
        weapon = self._known_only(self._value("weapon"))
        action = self._action(weapon)
        direction = "" if action == "fall" else self._direction()
        skin = self._skin()  # before a colour is taken for that of clothes
        torso, style, torso_color = self._torso()
        legs, legs_color = self._garment("legs")
        hair, cut, hair_color = self._hair()
        attributes = {"body": self._known_only(self._body(torso, action)), "skin": skin}
        attributes |= {"hair": hair, "hair_style": cut, "hair_color": hair_color}
        attributes |= {"beard": self._beard(hair_color), "weapon": weapon}
        attributes |= {"torso": torso, "torso_style": style, "legs": legs}
        attributes |= {kind: self._garment(kind)[0] for kind in ("feet", "hat", "cape")}
        done = {"action": action, "direction": direction}
        stated = {
            "hair color": cut if cut == "bald" else hair_color,
            "weapon": weapon,
            "torso style": style,
            "torso color": torso_color,
            "legs color": legs_color,
        }
        return attributes | done, stated | done

    def _all(self, kind: str) -> list[Part]:
        return [part for part in self._parts if part.kind == kind]

    def _value(self, kind: str) -> str:
        return next((part.value for part in self._all(kind)), "")

    def _main(self, kind: str) -> Part | None:
        """Return the first phrase of a kind; one with a colour takes precedence."""
        found = self._all(kind)
        return next((part for part in found if part.color), found[0] if found else None)

    def _before(self, part: Part) -> list[str]:
        """Return the texts before a part, backwards."""
        return [other.text for other in self._parts[: self._parts.index(part)][::-1]]

    @property
    def _is_bald(self) -> bool:
        return self.actor["hair_style"] == "bald"

    def _is_shown(self, color: str) -> bool:
        """Return whether a colour of hair fits that of the actor; True if either is absent."""
        shown = self.stated["hair color"]
        same = {_SHADES.get(own, own) for own in (_NEAREST["hair"].get(color, color), shown)}
        return not color or not shown or len(same) == 1

    def _known_only(self, phrase: str) -> str:
        """Return a phrase if captions have its words, else "", and note that it is left out."""
        if self._is_known(phrase):
            return phrase
        self._left_out.append(phrase)
        return ""

    def _is_known(self, phrase: str) -> bool:
        words = re.findall(r"[^\W\d_]+", phrase)
        return self._known is None or self._known >= set(words)

    # -------------------------------------------------------------- items

    def _hair(self) -> tuple[str, str, str]:
        """Return the caption phrase, style and colour of hair; "" each where not stated."""
        parts, color = self._all("hair"), self._value("hair_color")
        if color == "bald":
            return "", "bald", ""
        color = next((part.color for part in parts if part.color), color)
        color = _NEAREST["hair"].get(color, color)
        cut = next(filter(None, map(self._cut, parts)), "")
        style = next((part.value for part in parts if part.value != "{} hair"), "")
        if style:
            phrase = _named(f"a {cut} {style[2:]}" if style.startswith("a ") else style, color)
        else:
            phrase = " ".join(filter(None, (cut, color, "hair"))) if color or cut else ""
        phrase = self._known_only(phrase)
        return (phrase, style or cut, color) if phrase else ("", "", "")

    def _cut(self, hair: Part) -> str:
        """Return the cut of hair that stands before it."""
        before = self._parts[: self._parts.index(hair)][-_NEAR - 1 :]
        return next((part.value for part in before if part.kind == "cut"), "")

    def _torso(self) -> tuple[str, str, str]:
        """Return the caption phrase, style and colour of the torso."""
        part, knightly = self._main("torso"), "knight" in self._nouns
        if part is not None:
            style, color = part.value, part.color
        else:  # a lady in red, or a knight whose noun is another
            clothes = self._main("clothes")
            color = (
                clothes.color if clothes is not None and clothes.color else self._take_worn_color()
            )
            other = (SPECIES | {"woman", "man"}) & set(self._nouns)
            if not color and not (knightly and other):
                return "", "", ""
            style = "a {} dress" if self._sex == "woman" else _SHIRT
            style = _PLATE if knightly else style
        color = _NEAREST["torso"].get(color, color)
        if self._sex == "woman" and style == _SHIRT:
            style = _TUNIC
        elif (self._sex == "man" or "skeleton" in self._nouns) and style in _WOMENS:
            style = _SHIRT
        if style in (_PLATE, _MAIL) and color in ("silver", "gray"):
            color = ""
        if style == _PLATE and color == "gold":
            style, color = "golden armor", ""
        return self._phrase_of(style, color)

    def _take_worn_color(self) -> str:
        """Take a colour without an item that is worn: the lady in red, a red knight."""
        for color in self._colors_without_item:
            bearer = find_bearer(self._parts, color)
            worn = not bearer & SPECIES if bearer else is_worn(self._parts, color)
            if worn:
                self._colors_without_item.remove(color)
                return color.value
        return ""

    def _garment(self, kind: str) -> tuple[str, str]:
        """Return the caption phrase and the colour of a garment."""
        part = self._main(kind)
        if part is None:
            return "", ""
        color = _NEAREST.get(kind, {}).get(part.color, part.color)
        style = part.value
        if kind == "legs" and color in _METAL_LEGS:
            style, color = _METAL_LEGS[color], ""
        phrase, _, color = self._phrase_of(style, color)
        return phrase, color

    def _phrase_of(self, style: str, color: str) -> tuple[str, str, str]:
        """Return the caption phrase, label and colour of a garment."""
        phrase = self._known_only(_named(style, color))
        if not phrase:
            return "", "", ""
        color = color or next((own for of, own in _OWN_COLORS.items() if of in style), "")
        kind = style.removeprefix("a ").replace("{} ", "")
        return phrase, _LABELS.get(kind, kind), color

    def _beard(self, hair_color: str) -> str:
        """Return the caption phrase of a beard, by default in the colour of the hair."""
        part = self._main("beard")
        return (
            "" if part is None else self._known_only(_named(part.value, part.color or hair_color))
        )

    # -------------------------------------------------------------- body and action

    def _action(self, weapon: str) -> str:
        """Return the action: of several the most specific."""
        done = [part.value for part in self._all("action")]
        specific = [action for action in done if action not in ("walk", "stand", "attack")]
        magic = "spellcast" in specific or "wand" in weapon
        if "shoot" in specific and magic and "bow" not in weapon:
            return "spellcast"
        if specific:
            return "fall" if "fall" in specific else specific[0]
        if "attack" in done:
            return _ATTACKS.get(weapon, "shoot")
        return "walk" if "walk" in done else "stand" if done else ""

    def _agrees(self, action: str) -> bool:
        """Return whether an action of the prompt is the one of the caption, or implied by it."""
        shown = self.actor["action"]
        same = action in (shown, "stand", "attack")
        return same or (action, shown) == ("shoot", "spellcast")  # fire, as wizards do

    def _direction(self) -> str:
        """Return the direction that is faced, if stated; else left and right before up and down."""
        ways = self._all("direction")
        for part in ways:
            if _FACING & set(self._before(part)[:_NEAR]):
                return part.value
        ways.sort(key=lambda part: part.text in ("up", "down", "away"))
        return ways[0].value if ways else ""

    def _ground(self) -> str:
        """Return the ground after "on" or the like, else the first one."""
        grounds = [part for part in self._all("ground") if self._is_known(part.value)]
        for part in grounds:
            before = (text for text in self._before(part) if text not in ("the", "a", "some"))
            if next(before, "") in ("on", "across", "over", "through"):
                return part.value
        return grounds[0].value if grounds else ""

    def _body(self, torso: str, action: str) -> str:
        """Return the noun of captions for the actor."""
        nouns = self._nouns
        worn = any(word in torso for word in ("dress", "robe", "tunic", "sleeveless", "pirate"))
        female = self._sex == "woman" or (not self._sex and worn)
        if species := [noun for noun in nouns if noun in SPECIES]:
            sex = "female " if female else "male "
            return species[0] if species[0] == "skeleton" else sex + species[0]
        if self._sex:
            return self._sex
        if "knight" in nouns and (not torso or "plate" in torso or "golden" in torso):
            return "knight"
        callings = [noun for noun in nouns if noun in _NOUN_OF_ACTION.values()]
        if callings and action in (
            "",
            *(act for act, by in _NOUN_OF_ACTION.items() if by in callings),
        ):
            return callings[0]
        return "person" if nouns else ""

    def _skin(self) -> str:
        """Return the skin; the colour of an actor, not of an item, may be that of its skin."""
        for color in self._colors_without_item:
            bearer = find_bearer(self._parts, color)
            green = "green" if color.value == "green" and "orc" in bearer else ""
            human = _SKINS.get(color.value, "") if bearer and bearer <= {"woman", "man"} else ""
            if skin := green or ("tanned" if human and color.text == "tan" else human):
                self._colors_without_item.remove(color)
                return self._known_only(skin)
        skin = self._value("skin")
        return "" if skin == "green" and "orc" not in self._nouns else self._known_only(skin)


def _differ(part: Part, main: Part) -> bool:
    """Return whether a phrase contradicts the main one of its kind."""
    return part.value != main.value or part.color not in ("", main.color)


def _named(style: str, color: str) -> str:
    """Return the phrase for an item of a style in a colour.

    >>> _named("a {} shirt", "orange")
    'an orange shirt'
    """
    return re.sub(r"^a (?=[aeiou])", "an ", " ".join(style.format(color).split()))
