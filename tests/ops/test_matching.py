"""PatchMatch: the kernel against its reference, and matches of a shifted picture."""

import pytest
import torch

from flowwarp.ops import matching
from flowwarp.ops.matching import describe, match_round, match_round_reference


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pair(height=40, width=52, shift=(7, -5)):
    texture = rand(1, 1, height + 40, width + 40)
    x, y = shift
    first = texture[..., 20 : 20 + height, 20 : 20 + width]
    second = texture[..., 20 - y : 20 - y + height, 20 - x : 20 - x + width]
    return describe(first), describe(second)


def rounds(step, count=4):
    features1, features2 = pair()
    matches, found = torch.zeros(40, 52, 2, dtype=torch.int32), []
    for k in range(count):
        matches, cost = step(features1, features2, matches, radius=20, round=k)
        found += [matches, cost]
    return found


def test_finds_a_shift():
    *_, matches, _cost = rounds(match_round, 8)
    inner = matches[12:-12, 14:-14]
    assert float((inner == torch.tensor([7, -5])).all(-1).float().mean()) > 0.99


def test_as_the_reference():
    for found, wanted in zip(rounds(match_round, 2), rounds(match_round_reference, 2), strict=True):
        assert torch.equal(found, wanted)


def test_same_bits_for_any_number_of_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = rounds(match_round)
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(one, rounds(match_round), strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (33, 18)])
def test_description_as_the_reference(size, monkeypatch):
    grey = rand(1, 1, *size)
    found = describe(grey)
    monkeypatch.setattr(matching.native, "library_for", lambda *_: None)
    assert found.shape == (*size, 128)
    assert (found.int() - describe(grey).int()).abs().max() <= 1


def test_description_ignores_brightness_and_contrast():
    grey = rand(1, 1, 30, 30)
    difference = describe(grey).int() - describe(0.5 * grey + 0.2).int()
    assert difference.abs().max() <= 4
    assert not describe(torch.full((1, 1, 9, 9), 0.5)).any()
