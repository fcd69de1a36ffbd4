"""What is learned from, and what it is judged by."""

import torch

from flowwarp.cli._splits import keep_splits
from flowwarp.data.sprite_world.cast import is_held_out


def test_what_judges_is_no_part_of_what_is_learned_from():
    def keep(draw, named, count):
        return named, [draw(number).video for number in range(count)]

    options = {"layers": None, "photos": None}
    (named, learned), checks = keep_splits("digits", 64, 4, 3, (4, 3), keep, **options)
    assert list(checks) == ["val"]
    other, judged = checks["val"]
    assert (len(learned), len(judged)) == (4, 3)
    assert named != other
    for video in judged:
        assert not any(torch.equal(video, own) for own in learned)


def test_sprites_are_judged_by_what_is_held_out_too():
    def keep(draw, named, count):
        return [is_held_out(draw(number).attributes) for number in range(count)]

    options = {"layers": None, "photos": None}
    learned, checks = keep_splits("sprites", 16, 1, 3, (2, 3), keep, **options)
    assert not any(learned + checks["val"])
    assert all(checks["held_out"])
