"""Labels: one word for each attribute of a clip, from its attributes or from a caption.

Only clips with a single actor have labels. An absent attribute has the value ``NONE``, so that the
judge, which sees pixels alone, has a class for it. Hardly visible attributes have no label.
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

# For each category of layers: the attributes that a layer determines, and the field of `Layer` with
# the value.
_LAYER_ATTRIBUTES = {
    "hair": {"hair_color": "color"},
    "torso": {"torso_style": "name", "torso_color": "color"},
    "over": {"torso_style": "name", "torso_color": "color"},
    "legs": {"legs_color": "color"},
    "weapon": {"weapon": "phrase"},
}
_NEXT_TRY = 2**40  # added to the index of a clip with two actors, to try another one

Phrases = Mapping[str, Mapping[str, str]]


def label_clip(attributes: Attributes) -> dict[str, str]:
    """Return the value of each attribute of ``JUDGED`` that is certain, of a clip with one actor.

    Raises:
        ValueError: the clip has another number of actors.
    """
    if len(attributes["actors"]) != 1:
        raise ValueError(f"a clip must have one actor, got {len(attributes['actors'])}")
    actor = dict(attributes["actors"][0])
    if actor["hair_style"] == BALD:
        actor["hair_color"] = BALD
    values = {**actor, "ground": attributes["ground"], "camera": attributes["camera"]}
    unsure = actor.get("unsure", "").split()  # parts, such as "legs" for "legs_color"
    return {n: values[n] or NONE for n in JUDGED if n.partition("_")[0] not in unsure}


def named(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that a complete prompt names, which are those of present attributes."""
    return {name: value for name, value in labels.items() if value not in (NONE, STILL)}


def mirror(video: Tensor, labels: Mapping[str, str]) -> tuple[Tensor, dict[str, str]]:
    """Return a clip (T, 3, S, S) and its labels with left and right exchanged."""
    return video.flip(-1), {name: _MIRRORED.get(value, value) for name, value in labels.items()}


_MIRRORED = {way: mirror_words(way) for way in (*DIRECTIONS, *CAMERAS)}


def label_values(layers: Layers) -> dict[str, tuple[str, ...]]:
    """Return all possible values of each attribute of ``JUDGED``, given the layers."""
    found: dict[str, set[str]] = {name: {NONE} for name in JUDGED}
    found["action"], found["direction"] = set(ACTIONS), {NONE, *DIRECTIONS}
    found["ground"], found["camera"] = set(ground_names()), {STILL, *CAMERAS}
    found["hair_color"].add(BALD)
    for _, attributes in _layer_attributes(layers):
        for name, value in attributes.items():
            found[name].add(value or NONE)
    return {name: tuple(sorted(values)) for name, values in found.items()}


def actor_values(layers: Layers) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return (name, possible values) of each attribute of ``OF_ACTOR``."""
    values = label_values(layers)
    return tuple((name, values[name]) for name in OF_ACTOR)


def phrases_of(layers: Layers) -> dict[str, dict[str, str]]:
    """Return caption phrases for hair, clothes and weapons, with the attributes they imply."""
    # The phrase of a layer that captions do not mention is "", which every caption contains.
    return {phrase: attributes for phrase, attributes in _layer_attributes(layers) if phrase}


def _layer_attributes(layers: Layers) -> Iterator[tuple[str, dict[str, str]]]:
    for layer in layers.layers:
        if layer.category in _LAYER_ATTRIBUTES:
            fields = _LAYER_ATTRIBUTES[layer.category]
            yield layer.phrase, {name: getattr(layer, field) for name, field in fields.items()}


def label_caption(caption: str, phrases: Phrases) -> dict[str, str]:
    """Return the attributes of ``JUDGED`` that a caption of one actor names, with their values.

    Args:
        caption: in words like those of :mod:`flowwarp.data.sprite_world.captions`.
        phrases: from :func:`phrases_of`.
    """
    return {name: value for name, value in read_caption(caption, phrases).items() if name in JUDGED}


def one_actor(source: Draw) -> Draw:
    """Return a source of those sprite clips that show a single actor."""

    def draw(seed: int, index: int) -> Clip:
        while True:
            clip = source(seed, index)
            if len(clip.attributes["actors"]) == 1:
                return clip
            index += _NEXT_TRY

    return draw
