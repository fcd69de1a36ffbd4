"""Pairs of clips that differ in the outfit alone."""

from collections import Counter

import numpy as np
import pytest
import torch

from flowwarp.data.sprite_world.cast import PARTS, draw_actor, exchange_parts, is_held_out
from flowwarp.data.sprite_world.counterparts import compose_counterparts
from flowwarp.data.sprite_world.layers import bundled_layers
from flowwarp.data.sprite_world.world import compose_clip, set_up

pytestmark = pytest.mark.usefixtures("few_grounds")


@pytest.fixture(scope="module")
def pairs():
    return [compose_counterparts(bundled_layers(), 3, index, 32, 8) for index in range(40)]


def test_the_same_numbers_give_the_same(pairs):
    again = compose_counterparts(bundled_layers(), 3, 7, 32, 8)
    assert torch.equal(again.video, pairs[7].video)
    assert torch.equal(again.other, pairs[7].other)
    assert (again.labels, again.exchanged) == (pairs[7].labels, pairs[7].exchanged)


def test_the_clip_is_that_of_the_world(pairs):
    """Therefore its labels fit the caption."""
    found = 0
    for index, pair in enumerate(pairs):
        clip = compose_clip(bundled_layers(), 3, index, 32, 8)
        if len(clip.attributes["actors"]) == 1:
            assert torch.equal(clip.video, pair.video)
            assert clip.labels == pair.labels
            found += 1
    assert found > 20


def test_nothing_differs_but_the_actor(pairs):
    for pair in pairs:
        differs = (pair.video != pair.other).any(1, keepdim=True)
        assert not (differs & ~pair.actor).any()
        assert pair.actor.any()


def test_what_differs_is_told(pairs):
    """Three quarters differ at most: of some the part that was drawn is not there."""
    counts = Counter()
    for pair in pairs:
        assert pair.exchanged <= pair.labels.keys()
        if not pair.exchanged:
            assert torch.equal(pair.video, pair.other)
        counts[bool(pair.exchanged)] += 1
        counts.update(pair.exchanged)
    assert counts[True] >= 15
    assert counts[False] >= 5
    assert counts["legs_color"] >= 5
    assert counts["action"] == counts["ground"] == 0


def test_held_out_combinations_are_left_to_tests():
    layers = bundled_layers()
    for index in range(6):
        for held_out in (False, True):
            setting = set_up(layers, 3, index, 32, 8, (), held_out)
            assert is_held_out(setting.attributes) == held_out


@pytest.mark.parametrize("part", PARTS)
def test_only_the_part_is_exchanged(part):
    layers, random, changed = bundled_layers(), np.random.default_rng(5), 0
    for _ in range(60):
        actor = draw_actor(layers, random)
        outfit = exchange_parts(layers, actor, [part], random)
        assert outfit[0] is actor.outfit[0]
        lost = {layer.id for layer in actor.outfit} - {layer.id for layer in outfit}
        new = {layer.id for layer in outfit} - {layer.id for layer in actor.outfit}
        categories = {layer.category for layer in layers.layers if layer.id in lost | new}
        assert categories <= set(PARTS[part])
        changed += bool(lost | new)
        if part == "hair":  # cut as before
            names = [
                [one.name for one in w if one.category == "hair"] for w in (outfit, actor.outfit)
            ]
            assert names[0] == names[1]
    assert changed > 5


def test_half_of_the_exchanged_weapons_are_missing():
    """15 % of slashing actors have no weapon before the exchange."""
    layers, random, missing = bundled_layers(), np.random.default_rng(0), []
    while len(missing) < 60:
        actor = draw_actor(layers, random)
        if actor.attributes["action"] == "slash" and actor.attributes["weapon"]:
            outfit = exchange_parts(layers, actor, ["weapon"], random)
            missing.append(all(layer.category != "weapon" for layer in outfit))
    assert 24 <= sum(missing) <= 42
