"""What a prompt in anyone's own words asks for, and the same in the words of captions.

Networks that learned from the captions of the sprites' world know some 250 words, in the orders
that :mod:`~.captions` writes. People say "ginger lass in a green frock, strolling off
to the right". So a prompt is read thing by thing, with ``datasets/sprites/words.toml``, and what
was understood is written anew, as a caption would say it. Betker et al., "Improving Image
Generation with Better Captions" (2023), have a large language model write prompts anew; this world
is small enough to be read by tables, and what is not understood can be told.
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

_LONGEST = 2000  # characters; nothing after them is read
# What every network knows that has learned the captions of this world.
_ALWAYS = frozenset(
    ("walks", "stands", "slashes", "spell", "thrusts", "shoots", "falls", "facing", "camera", "on")
)
_FACING = frozenset(("facing", "faces", "faced", "face", "looks", "looking", "turned", "turns"))
_NEAR = 2  # phrases before a thing that tell of it
_SKINS = {"black": "dark-skinned", "white": "light-skinned", "brown": "dark-brown-skinned"}
# Colours that things of a kind do not come in, and the nearest that they do.
_NEAREST = {
    "hair": {
        **{"gold": "blonde", "yellow": "blonde", "silver": "gray", "orange": "red"},
        **{"maroon": "red", "light blue": "blue", "teal": "green", "magenta": "pink"},
        "bronze": "brown",
    },
    "torso": {"magenta": "pink", "bronze": "brown"},
    "legs": {"light blue": "blue", "maroon": "red", "bronze": "brown"},
}
# What people call the same: the brunette with brown hair.
_SHADES = {"brunette": "brown", "light blonde": "blonde"}
# What men wear is called shirts, and what women wear is not.
_WOMENS = {"a {} tunic", "a {} sleeveless shirt", "a {} pirate shirt"}
_SHIRT, _TUNIC, _PLATE, _MAIL = "a {} shirt", "a {} tunic", "{} plate armor", "{} chain mail"
# Kinds of clothes that captions call otherwise than labels.
_LABELS = {"shirt": "longsleeve shirt", "dress with a sash": "dress with sash"}
_GREAVES = {"gold": "golden greaves", "silver": "metal pants"}
_OWN_COLORS = {
    **{"golden": "gold", "plate": "silver", "metal": "silver", "mail": "gray", "leather": "brown"},
    "sash": "green",
}
_SINGLE = ("torso", "legs", "feet", "hat", "cape", "beard")  # of which an actor has one
_ATTACKS = {
    **{"a spear": "thrust", "a dagger": "slash", "": "slash"},
    **{"a wooden wand": "spellcast", "a steel wand": "spellcast"},
}
_CALLED_BY = {"shoot": "archer", "spellcast": "wizard", "slash": "warrior", "thrust": "warrior"}


@dataclass(frozen=True)
class Reading:
    """What has been understood of a prompt.

    Args:
        caption: the same in the words of captions; empty if nothing was understood.
        left_out: what was not, or cannot be shown.
        stated: what it says of which thing, such as "legs color": "blue", as labels have it.
    """

    caption: str
    left_out: tuple[str, ...]
    stated: Mapping[str, str]


def is_understood(known: frozenset[str]) -> bool:
    """Return whether captions of so many words are those of the sprites' world.

    They are if they have words for all that is done in it, and none that is not understood here.

    Args:
        known: all words of some captions, in small letters.
    """
    return known >= _ALWAYS and {word for word in known if word.isalpha()} <= vocabulary()


def is_passed_over(word: str) -> bool:
    """Return whether a word of a caption says nothing of its own, such as "in" and "with"."""
    return word in plain_words() or not word.isalpha()


def read_prompt(prompt: str, known: Set[str] | None = None) -> Reading:
    """Read what a prompt says of one or two actors of the sprites' world, in any words.

    >>> read_prompt("Ginger lass in a green frock, strolling off to the right").caption
    'a red-haired woman in a green dress walks right'
    >>> reading = read_prompt("Her skirt was navy. She smiled and fell over.")
    >>> reading.caption, reading.left_out, reading.stated
    ('a woman in blue pants falls', ('smiled',), {'legs color': 'blue', 'action': 'fall'})
    >>> read_prompt("a drow attacks an old goblin on the beach").caption
    'on the left a male dark elf slashes, on the right a male orc, on sand'

    Args:
        prompt: in English; of a long one, the beginning is read.
        known: words that captions have; hair, clothes and weapons without are left out.

    Returns:
        What is understood. Of two actors only what is around them is stated.
    """
    parts, camera, moves = read_parts(prompt[:_LONGEST])
    wishes = [_Wish(own, known) for own in parts]
    actors = [wish.actor for wish in wishes]
    if not actors[0]["action"] and not actors[0]["direction"]:  # a knight and an orc walk left
        together = {key: actors[-1][key] for key in ("action", "direction")}
        actors[0] |= together
    if len(parts) == 2 and are_mirrored(*parts):
        actors.reverse()
    ground = next(filter(None, (wish.ground for wish in wishes)), "")
    left_out = [*(said for wish in wishes for said in wish.left_out(ground)), *moves]
    if len(prompt) > _LONGEST:
        left_out.append(f"all after {_LONGEST} characters")
    caption = ""
    if any((*(said for actor in actors for said in actor.values()), ground, camera)):
        named = [actor | {"body": actor["body"] or "person"} for actor in actors]
        caption = plain_caption({"actors": named, "ground": ground, "camera": camera})
    stated = {"ground": ground, "camera": camera}
    if len(actors) == 1:
        stated |= wishes[0].stated
    said = {thing: value for thing, value in stated.items() if value}
    return Reading(caption, tuple(dict.fromkeys(left_out)), said)


# ------------------------------------------------------------------ what they ask for


@final
class _Wish:
    """What a prompt asks for of one actor, thing by thing.

    Args:
        parts: of the prompt.
        known: words that captions have; None for all.
    """

    def __init__(self, parts: list[Part], known: Set[str] | None) -> None:
        self._parts, self._known = parts, known
        others = other_pronouns(parts)
        bodies = [part for part in parts if part.kind == "body" and part not in others]
        self._nouns = [part.value for part in bodies]
        self._sex = next((noun for noun in self._nouns if noun in ("woman", "man")), "")
        self._left_out = [part.said for part in parts if part.kind == "word"]
        self._loose = color_things(parts)
        self.ground = self._ground()
        self.actor, self.stated = self._actor()

    def left_out(self, ground: str) -> list[str]:
        """Return what was not understood, and what has no place beside what was taken.

        Args:
            ground: that was taken.
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
        others += [part for part in self._all("action") if not self._is_done(part.value)]
        others += [part for part in self._all("skin") if not self.actor["skin"]]
        return [*self._left_out, *(part.said for part in (*others, *self._loose))]

    def _actor(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the attributes that are asked for, and what that says of things; "" for others."""
        weapon = self._known_only(self._value("weapon"))
        action = self._action(weapon)
        direction = "" if action == "fall" else self._direction()
        skin = self._skin()  # before a colour is taken for that of clothes
        torso, style, torso_color = self._torso()
        legs, legs_color = self._worn("legs")
        hair, cut, hair_color = self._hair()
        seen = {"body": self._known_only(self._body(torso, action)), "skin": skin}
        seen |= {"hair": hair, "hair_style": cut, "hair_color": hair_color}
        seen |= {"beard": self._beard(hair_color), "weapon": weapon}
        seen |= {"torso": torso, "torso_style": style, "legs": legs}
        seen |= {kind: self._worn(kind)[0] for kind in ("feet", "hat", "cape")}
        done = {"action": action, "direction": direction}
        stated = {
            **{"hair color": cut if cut == "bald" else hair_color, "weapon": weapon},
            **{"torso style": style, "torso color": torso_color, "legs color": legs_color},
        }
        return seen | done, stated | done

    def _all(self, kind: str) -> list[Part]:
        return [part for part in self._parts if part.kind == kind]

    def _value(self, kind: str) -> str:
        return next((part.value for part in self._all(kind)), "")

    def _main(self, kind: str) -> Part | None:
        """Return the first thing of a kind; one whose colour is told before others."""
        found = self._all(kind)
        return next((part for part in found if part.color), found[0] if found else None)

    def _before(self, part: Part) -> list[str]:
        """Return what is said before a part, backwards."""
        return [other.said for other in self._parts[: self._parts.index(part)][::-1]]

    @property
    def _is_bald(self) -> bool:
        return self.actor["hair_style"] == "bald"

    def _is_shown(self, color: str) -> bool:
        """Return whether hair is shown in a colour, if any is said and any is shown."""
        shown = self.stated["hair color"]
        same = {_SHADES.get(own, own) for own in (_NEAREST["hair"].get(color, color), shown)}
        return not color or not shown or len(same) == 1

    def _known_only(self, phrase: str) -> str:
        """Return a phrase if captions have its words; else note that it is left out."""
        if self._is_known(phrase):
            return phrase
        self._left_out.append(phrase)
        return ""

    def _is_known(self, phrase: str) -> bool:
        words = re.findall(r"[^\W\d_]+", phrase)
        return self._known is None or self._known >= set(words)

    # -------------------------------------------------------------- things

    def _hair(self) -> tuple[str, str, str]:
        """Return what hair is called, how it is cut, and its colour; "" each if nothing is said."""
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
        """Return how hair is cut, by what stands before it."""
        before = self._parts[: self._parts.index(hair)][-_NEAR - 1 :]
        return next((part.value for part in before if part.kind == "cut"), "")

    def _torso(self) -> tuple[str, str, str]:
        """Return what captions call what such people wear above, its kind, and its colour."""
        part, knightly = self._main("torso"), "knight" in self._nouns
        if part is not None:
            style, color = part.value, part.color
        else:  # a lady in red, or somebody whom captions do not call a knight
            clothes = self._main("clothes")
            color = clothes.color if clothes is not None and clothes.color else self._take_loose()
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
        return self._called(style, color)

    def _take_loose(self) -> str:
        """Return a colour of nothing that is named, but worn: the lady in red, a red knight."""
        for color in self._loose:
            bearer = find_bearer(self._parts, color)
            if not bearer & SPECIES if bearer else is_worn(self._parts, color):
                self._loose.remove(color)
                return color.value
        return ""

    def _worn(self, kind: str) -> tuple[str, str]:
        """Return what something that is worn is called, and its colour."""
        part = self._main(kind)
        if part is None:
            return "", ""
        color = _NEAREST.get(kind, {}).get(part.color, part.color)
        style = part.value
        if kind == "legs" and color in _GREAVES:
            style, color = _GREAVES[color], ""
        phrase, _, color = self._called(style, color)
        return phrase, color

    def _called(self, style: str, color: str) -> tuple[str, str, str]:
        """Return what captions call clothes, of what kind they are, and of what colour."""
        phrase = self._known_only(_named(style, color))
        if not phrase:
            return "", "", ""
        color = color or next((own for of, own in _OWN_COLORS.items() if of in style), "")
        kind = style.removeprefix("a ").replace("{} ", "")
        return phrase, _LABELS.get(kind, kind), color

    def _beard(self, hair_color: str) -> str:
        """Return what a beard is called; where nothing else is said, it is as the hair is."""
        part = self._main("beard")
        return (
            "" if part is None else self._known_only(_named(part.value, part.color or hair_color))
        )

    # -------------------------------------------------------------- who, and what they do

    def _action(self, weapon: str) -> str:
        """Return what is done: of several things the one that says most."""
        done = [part.value for part in self._all("action")]
        told = [action for action in done if action not in ("walk", "stand", "attack")]
        magic = "spellcast" in told or "wand" in weapon
        if "shoot" in told and magic and "bow" not in weapon:
            return "spellcast"
        if told:
            return "fall" if "fall" in told else told[0]
        if "attack" in done:
            return _ATTACKS.get(weapon, "shoot")
        return "walk" if "walk" in done else "stand" if done else ""

    def _is_done(self, action: str) -> bool:
        """Return whether what somebody is to do is what is shown of it."""
        shown = self.actor["action"]
        same = action in (shown, "stand", "attack")
        return same or (action, shown) == ("shoot", "spellcast")  # fire, as wizards do

    def _direction(self) -> str:
        """Return where to: what is faced, if that is said; left and right before up and down."""
        ways = self._all("direction")
        for part in ways:
            if _FACING & set(self._before(part)[:_NEAR]):
                return part.value
        ways.sort(key=lambda part: part.said in ("up", "down", "away"))
        return ways[0].value if ways else ""

    def _ground(self) -> str:
        """Return what is stood on, if that is said, else whatever there is."""
        grounds = [part for part in self._all("ground") if self._is_known(part.value)]
        for part in grounds:
            before = (said for said in self._before(part) if said not in ("the", "a", "some"))
            if next(before, "") in ("on", "across", "over", "through"):
                return part.value
        return grounds[0].value if grounds else ""

    def _body(self, torso: str, action: str) -> str:
        """Return the noun for who is there."""
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
        callings = [noun for noun in nouns if noun in _CALLED_BY.values()]
        if callings and action in ("", *(act for act, by in _CALLED_BY.items() if by in callings)):
            return callings[0]
        return "person" if nouns else ""

    def _skin(self) -> str:
        """Return what skin is called; a colour of somebody, not of something, may be that of it."""
        for color in self._loose:
            bearer = find_bearer(self._parts, color)
            green = "green" if color.value == "green" and "orc" in bearer else ""
            human = _SKINS.get(color.value, "") if bearer and bearer <= {"woman", "man"} else ""
            if skin := green or ("tanned" if human and color.said == "tan" else human):
                self._loose.remove(color)
                return self._known_only(skin)
        skin = self._value("skin")
        return "" if skin == "green" and "orc" not in self._nouns else self._known_only(skin)


def _differ(part: Part, main: Part) -> bool:
    """Return whether something is not what was taken, said again."""
    return part.value != main.value or part.color not in ("", main.color)


def _named(style: str, color: str) -> str:
    """Return what something is called, of a style and in a colour.

    >>> _named("a {} shirt", "orange")
    'an orange shirt'
    """
    return re.sub(r"^a (?=[aeiou])", "an ", " ".join(style.format(color).split()))
