"""Clips of digits: flow, motion and captions are true."""

import re

import numpy as np

from flowwarp.data.digits import compose_digits
from sprite_clips import errors_and_shares


def test_flow_is_true_in_the_world_of_digits():
    measured = [both for index in range(30) for both in errors_and_shares(compose_digits(1, index))]
    errors, shares = zip(*measured, strict=True)
    assert max(errors) < 0.005
    assert min(shares) > 0.75


def test_digits_move_as_they_are_said_to():
    seen = set()
    for index in range(60):
        clip = compose_digits(5, index, 32, 3)
        if len(clip.attributes["actors"]) > 1:
            continue
        u, v = clip.flow_12.sum((0, 2, 3)).tolist()  # the ground rests
        ways = {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up", (0, 0): "none"}
        way = ways[int(np.sign(round(u))), int(np.sign(round(v)))]
        assert way == clip.attributes["actors"][0]["direction"]
        seen.add(way)
    assert len(seen) == 5


def test_captions_of_digits_are_true():
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for index in range(100):
        clip = compose_digits(9, index, 16, 2)
        for actor in clip.attributes["actors"]:
            digit, color = actor["digit"], actor["color"]
            (found,) = re.findall(
                rf"{color} (\w+) (\w+)(.*?)(?: and | while |, | on |$)", clip.caption
            )
            assert found[0] in (digit, names[int(digit)])
            ways = {way for way in ("left", "right", "up", "down") if way in found[2].split()}
            assert ways == {actor["direction"]} - {"none"}
        assert clip.attributes["ground"] in clip.caption
