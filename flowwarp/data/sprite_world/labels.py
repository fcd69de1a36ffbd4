"""What a clip shows, as one word for each attribute: read off its data, or off a caption.

Only clips with a single actor have labels. An attribute that is absent has the value ``NONE``, so
that a judge who only sees pixels has a class for it too; of what is hardly seen there is no label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from flowwarp.data.clip import Attributes, Clip, Draw
from flowwarp.data.sprite_world.captions import CAMERAS, mirror_words, read_caption
from flowwarp.data.sprite_world.cast import ACTIONS
from flowwarp.data.sprite_world.grounds import ground_names
from flowwarp.data.sprite_world.layers import DIRECTIONS, Layers

NONE, BALD, STILL = "none", "bald", "still"
JUDGED = (
    *("action", "direction", "hair_color", "torso_style", "torso_color"),
    *("legs_color", "weapon", "ground", "camera"),
)
OF_ACTOR = tuple(name for name in JUDGED if name not in ("ground", "camera"))

# The categories of layers that each attribute is named by, and which attributes they tell.
_TOLD = {
    "hair": {"hair_color": "color"},
    "torso": {"torso_style": "name", "torso_color": "color"},
    "over": {"torso_style": "name", "torso_color": "color"},
    "legs": {"legs_color": "color"},
    "weapon": {},  # as a caption calls it
}
_APART = 2**40  # between the clips of a series that are tried in turn

Phrases = Mapping[str, Mapping[str, str]]


def label_clip(attributes: Attributes) -> dict[str, str]:
    """Return the value of each attribute of ``JUDGED`` that can be told, of a clip with one actor.

    Raises:
        ValueError: the clip has another number of actors.
    """
    if len(attributes["actors"]) != 1:
        raise ValueError(f"a clip must have one actor, got {len(attributes['actors'])}")
    actor = dict(attributes["actors"][0])
    if actor["hair_style"] == BALD:
        actor["hair_color"] = BALD
    seen = {**actor, "ground": attributes["ground"], "camera": attributes["camera"]}
    unsure = actor.get("unsure", "").split()  # of what: "legs", not "legs_color"
    return {n: seen[n] or NONE for n in JUDGED if n.partition("_")[0] not in unsure}


def named(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that a complete prompt says: nobody says what is not there."""
    return {name: value for name, value in labels.items() if value not in (NONE, STILL)}


def mirror(video: Tensor, labels: Mapping[str, str]) -> tuple[Tensor, dict[str, str]]:
    """Return a clip (T, 3, S, S) and its labels with left and right exchanged."""
    return video.flip(-1), {name: _MIRRORED.get(value, value) for name, value in labels.items()}


_MIRRORED = {way: mirror_words(way) for way in (*DIRECTIONS, *CAMERAS)}


def label_values(layers: Layers) -> dict[str, tuple[str, ...]]:
    """Return all values that each attribute of ``JUDGED`` can have in the world of some layers."""
    found: dict[str, set[str]] = {name: {NONE} for name in JUDGED}
    found["action"], found["direction"] = set(ACTIONS), {NONE, *DIRECTIONS}
    found["ground"], found["camera"] = set(ground_names()), {STILL, *CAMERAS}
    found["hair_color"].add(BALD)
    for _, told in _told_by(layers):
        for name, value in told.items():
            found[name].add(value or NONE)
    return {name: tuple(sorted(values)) for name, values in found.items()}


def actor_values(layers: Layers) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return each attribute of ``OF_ACTOR``, and its values of :func:`label_values`."""
    values = label_values(layers)
    return tuple((name, values[name]) for name in OF_ACTOR)


def phrases_of(layers: Layers) -> dict[str, dict[str, str]]:
    """Return how captions call hair, clothes and weapons, and what of ``JUDGED`` each tells."""
    # A layer may have no words; no caption speaks of it, and "" would be found in each of them.
    return {phrase: told for phrase, told in _told_by(layers) if phrase}


def _told_by(layers: Layers) -> Iterator[tuple[str, dict[str, str]]]:
    for layer in layers.layers:
        if layer.category in _TOLD:
            told = {name: getattr(layer, key) for name, key in _TOLD[layer.category].items()}
            weapon = {"weapon": layer.phrase}
            yield layer.phrase, weapon if layer.category == "weapon" else told


def label_caption(caption: str, phrases: Phrases) -> dict[str, str]:
    """Return the attributes of ``JUDGED`` that a caption of one actor names, and their values.

    Args:
        caption: in words like those of :mod:`flowwarp.data.sprite_world.captions`.
        phrases: from :func:`phrases_of`.
    """
    return {name: value for name, value in read_caption(caption, phrases).items() if name in JUDGED}


def one_actor(source: Draw) -> Draw:
    """Return a source of only those clips of the sprites' world that show one actor."""

    def draw(seed: int, index: int) -> Clip:
        while True:
            clip = source(seed, index)
            if len(clip.attributes["actors"]) == 1:
                return clip
            index += _APART

    return draw
