"""Colours of a prompt: to which item each belongs."""

import pytest

from flowwarp.data.sprite_world.coloring import color_things, find_bearer, is_worn
from flowwarp.data.sprite_world.phrases import read_parts


def colors(prompt):
    """Return {kind: color} of the items of a prompt, and the colours without an item."""
    (parts,), _, _ = read_parts(prompt)
    loose = color_things(parts)
    return {part.kind: part.color for part in parts if part.color}, [part.value for part in loose]


@pytest.mark.parametrize(
    ("prompt", "items", "loose"),
    [
        ("a woman in a red dress", {"torso": "red"}, []),
        ("her trousers are blue", {"legs": "blue"}, []),
        ("blue pants and a green shirt", {"legs": "blue", "torso": "green"}, []),
        ("her hair is red and so is her dress", {"hair": "red", "torso": "red"}, []),
        ("the lady in red", {}, ["red"]),
        ("blue eyes", {}, ["blue"]),
    ],
)
def test_each_colour_goes_to_its_item(prompt, items, loose):
    assert colors(prompt) == (items, loose)


def test_colours_without_an_item():
    (parts,), _, _ = read_parts("a green bald female orc")
    green = next(part for part in parts if part.kind == "color")
    assert "orc" in find_bearer(parts, green)
    assert not is_worn(parts, green)
    (parts,), _, _ = read_parts("the lady in red")
    red = next(part for part in parts if part.kind == "color")
    assert find_bearer(parts, red) == set()
    assert is_worn(parts, red)
