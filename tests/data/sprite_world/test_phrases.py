"""Phrases of prompts: kinds, negation, and two actors."""

import pytest

from flowwarp.data.sprite_world.phrases import are_mirrored, read_parts


def kinds(prompt):
    """Return (kind, value) of the phrases of a prompt with one actor that carry a meaning."""
    (parts,), _, _ = read_parts(prompt)
    return [(part.kind, part.value) for part in parts if part.kind not in ("plain", "stop")]


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a woman walks left", [("body", "woman"), ("action", "walk"), ("direction", "left")]),
        ("An ORC, falling!", [("body", "orc"), ("action", "fall")]),
        ("a womna", [("body", "woman")]),  # one slip of the pen
        ("a woman with a zebra", [("body", "woman"), ("word", "zebra")]),
        ("a woman without a beard", [("body", "woman"), ("word", "a {} beard")]),
    ],
)
def test_kinds_and_values(prompt, wanted):
    assert kinds(prompt) == wanted


@pytest.mark.parametrize(
    ("prompt", "mirrored"),
    [
        ("a knight on the left and an orc on the right", False),
        ("a knight on the right and an orc on the left", True),
        ("a knight stands to the right of an orc", True),
    ],
)
def test_two_actors_and_their_sides(prompt, mirrored):
    first, second = read_parts(prompt)[0]
    assert any(part.value == "knight" for part in first)
    assert any(part.value == "orc" for part in second)
    assert are_mirrored(first, second) == mirrored
