"""Labels of clips: read off their data and off captions, which must agree."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from flowwarp.data.sprite_world.captions import draw_caption, prompt_for
from flowwarp.data.sprite_world.cast import draw_actor
from flowwarp.data.sprite_world.grounds import ground_names
from flowwarp.data.sprite_world.labels import (
    JUDGED,
    label_caption,
    label_clip,
    label_values,
    named,
    one_actor,
    phrases_of,
)
from flowwarp.data.sprite_world.layers import Layers, bundled_layers

ACTOR = {
    "action": "walk", "direction": "left", "hair": "long red hair", "hair_style": "long",
    "hair_color": "red", "torso_style": "dress", "torso_color": "blue", "legs_color": "",
    "weapon": "a spear",
}  # fmt: skip


@pytest.fixture(scope="module")
def layers():
    return bundled_layers()


def clip(**changes):
    return {"actors": [ACTOR | changes], "ground": "sand", "camera": "pan left"}


def test_labels_by_hand():
    assert label_clip(clip()) == {
        "action": "walk", "direction": "left", "hair_color": "red", "torso_style": "dress",
        "torso_color": "blue", "legs_color": "none", "weapon": "a spear", "ground": "sand",
        "camera": "pan left",
    }  # fmt: skip
    assert label_clip(clip(hair_style="bald", hair_color=""))["hair_color"] == "bald"
    assert label_clip(clip(hair_style="", hair_color=""))["hair_color"] == "none"
    still = clip(weapon="") | {"camera": "still"}
    assert not {"weapon", "camera", "legs_color"} & set(named(label_clip(still)))
    assert set(named(label_clip(clip()))) == set(JUDGED) - {"legs_color"}


def test_two_actors_have_no_labels():
    with pytest.raises(ValueError, match="one actor"):
        label_clip({"actors": [ACTOR, ACTOR], "ground": "sand", "camera": "still"})


THINGS = {
    "long red hair": {"hair_color": "red"},
    "a red dress": {"torso_style": "dress", "torso_color": "red"},
    "black pants": {"legs_color": "black"},
    "a bow": {"weapon": "a bow"},
    "a great bow": {"weapon": "a great bow"},
}


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("", {}),
        ("knurr \N{SNOWMAN} leftish walksy a bowl", {}),
        (
            "A woman with long red hair in a red dress walks left across a meadow",
            {"hair_color": "red", "torso_style": "dress", "torso_color": "red", "action": "walk",
             "direction": "left", "ground": "grass"},
        ),
        ("a man falls down on sand", {"action": "fall", "ground": "sand"}),
        (
            "while the camera moves left, a light-blonde-haired man in black pants shoots a great "
            "bow facing away on stone tiles",
            {"camera": "pan left", "hair_color": "light blonde", "legs_color": "black",
             "weapon": "a great bow", "action": "shoot", "direction": "up",
             "ground": "stone floor"},
        ),
        ("a bald man walks away from the camera over the water, the camera goes along",
         {"camera": "follow", "hair_color": "bald", "action": "walk", "direction": "up",
          "ground": "water"}),
        ("a man with a bow standing still facing the camera, the camera stands still",
         {"weapon": "a bow", "action": "stand", "direction": "down", "camera": "still"}),
    ],
)  # fmt: skip
def test_captions_by_hand(caption, wanted):
    assert label_caption(caption, THINGS) == wanted


def test_captions_say_what_is_there(layers):
    random = np.random.default_rng(3)
    phrases, values = phrases_of(layers), label_values(layers)
    counts, hardly = dict.fromkeys(JUDGED, 0), 0
    for number in range(400):
        actor = draw_actor(layers, random)
        attributes = {
            "actors": [actor.attributes],
            "ground": ground_names()[number % len(ground_names())],
            "camera": values["camera"][number % len(values["camera"])],
        }
        labels = label_clip(attributes)
        assert all(value in values[name] for name, value in labels.items())
        small = actor.attributes["unsure"].split()
        assert ("legs_color" in labels) == ("legs" not in small)
        hardly += "legs" in small
        prompt = prompt_for(attributes, random)
        assert label_caption(prompt, phrases) == named(labels), prompt
        caption = draw_caption(attributes, random)
        for name, value in label_caption(caption, phrases).items():
            counts[name] += 1
            assert value == labels[name], caption
    assert min(counts.values()) > 50  # nothing goes unread
    assert 5 < hardly < 100


def test_of_what_is_hardly_seen_there_is_no_label():
    certain = set(JUDGED) - {"torso_style", "torso_color", "weapon"}
    assert set(label_clip(clip(unsure="torso beard weapon"))) == certain


def test_a_layer_without_words_is_not_in_captions(layers):
    """Its phrase would be empty, and the search in a caption would find it again forever."""
    mute = [
        dataclasses.replace(layers.layers[0], category=category, name=f"mute {category}", words={})
        for category in ("torso", "weapon")
    ]
    more = Layers((*layers.layers, *mute))
    assert phrases_of(more) == phrases_of(layers)
    assert set(label_values(more)["torso_style"]) - set(label_values(layers)["torso_style"]) == {
        "mute torso"
    }
    assert label_values(more)["weapon"] == label_values(layers)["weapon"]


def test_only_clips_with_one_actor():
    def source(seed, index):
        """Show two actors where the number is even, in the first two series of numbers."""
        several = index % 2 == 0 and index < 2**41
        return SimpleNamespace(place=(seed, index), attributes={"actors": [ACTOR] * (1 + several)})

    draw = one_actor(source)
    assert draw(7, 3).place == (7, 3)
    assert draw(7, 4).place == (7, 4 + 2**41)  # after two of the same kind
