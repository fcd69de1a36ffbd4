"""Captions are true, and complete where they should be."""

import re

import numpy as np

from flowwarp.data.sprite_world import captions
from flowwarp.data.sprite_world.captions import draw_caption, prompt_for
from sprite_clips import ACTIONS, WALKS, check_truth, draw_many


def test_captions_are_true(layers):
    captions = []
    for number, attributes in enumerate(draw_many(layers, 400)):
        random = np.random.default_rng(number)
        captions.append(draw_caption(attributes, random))
        check_truth(attributes, captions[-1], layers)
    assert len(set(captions)) > 390
    assert min(map(len, captions)) < 45
    assert max(map(len, captions)) > 120
    assert not [caption for caption in captions if "  " in caption or " ," in caption]
    assert not [c for c in captions if re.search(r"\ba [aeiou]|\ban [^aeiou]", c)]


def test_words_that_need_a_verb_have_one(layers, monkeypatch):
    """Nobody looks to the left across a floor, nor does anybody "while" another acts."""
    monkeypatch.setitem(captions._SHARES, "action", 0.6)
    verbs = {verb for forms in ACTIONS.values() for verb in forms.split()} - {"archer"}
    joined = crossed = 0
    for number, attributes in enumerate(draw_many(layers, 150)):
        random = np.random.default_rng(number)
        for caption in (draw_caption(attributes, random) for _ in range(20)):
            parts = re.split(r" while (?!the camera)", caption)
            if len(parts) > 1:
                joined += 1
                assert all(verbs & set(re.findall(r"\w+", part)) for part in parts), caption
            if re.search(r"\b(across|over) ", caption):
                crossed += 1
                walks = [word for word in re.findall(r"\w+", caption) if word in WALKS]
                assert len(walks) == len(attributes["actors"]), caption
    assert joined > 10
    assert crossed > 100


def test_a_prompt_names_everything(layers):
    for number, attributes in enumerate(draw_many(layers, 200, seed=1)):
        prompt = prompt_for(attributes, np.random.default_rng(number))
        said = check_truth(attributes, prompt, layers)
        actors = attributes["actors"]
        assert said["ground"] == {attributes["ground"]}
        if attributes["camera"] != "still":
            assert said["camera"] == {attributes["camera"]}
        for key in ("action", "direction"):
            assert said[key] == {actor[key] for actor in actors if actor[key]}, prompt
        for actor in actors:
            for key in ("skin", "hair", "hat", "beard", "torso", "legs", "cape", "weapon"):
                also = actor[key].replace("plate armor", "armor").replace("pants", "trousers")
                assert actor[key] in prompt or also in prompt
