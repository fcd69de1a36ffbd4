"""Matching of descriptors, and the choice between flows."""

import pytest
import torch

from flowwarp.pipelines.flow import matches
from flowwarp.pipelines.flow.matches import fill_in, find_matches, fuse, match_flow
from known_motion import STILL, affine, error, moved, noise


def test_flow_in_both_directions():
    target = affine(64, 80)
    image1, image2 = moved(target)
    flow_12, flow_21 = match_flow(image1, image2)
    assert error(flow_12, target, 16) < 1
    assert error(flow_21, -target, 16) < 1


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_at_full_resolution(monkeypatch, rounds):
    sides, real = [], matches.match_round

    def noting(features1, *arguments, **options):
        sides.append(len(features1))
        return real(features1, *arguments, **options)

    monkeypatch.setattr(matches, "match_round", noting)
    find_matches(*noise(0, 1, side=64), rounds)
    assert sides.count(64) == 2 * rounds  # in both directions
    sides.clear()
    found = find_matches(*noise(0, 1, side=64), 0)
    assert found[0].shape == (1, 2, 32, 32)
    assert max(sides) == 32


def test_a_target_outside_costs_as_much_as_a_poor_match():
    """Even where the repeated border looks like the right match."""
    (image,) = noise(0)
    image[..., 24:] = image[..., 23:24]
    outside = torch.full((1, 2, 32, 32), 40.0)
    assert not fuse(image, image, [outside, STILL])[..., 26:].any()
    (other,) = noise(1)
    poor = STILL + 1  # costs 0.5 on average, so that each wins somewhere
    chosen = fuse(image, other, [outside, poor])[..., :20]
    assert 0.05 < (chosen[:, 0] == 1).float().mean() < 0.95


def test_inconsistent_matches_are_filled_in():
    """The block has a colour of its own, so that the median has no other source."""
    image, flow = torch.zeros(1, 1, 32, 32), STILL.clone()
    image[..., 12:16, 12:16], flow[:, 0, 12:16, 12:16] = 1, 3
    assert not fill_in(image, flow, STILL).any()
    back = STILL.clone()
    back[:, 0, 12:16, 15:19] = -2  # returns to the pixel beside the start
    assert torch.equal(fill_in(image, flow, back), flow)


def test_a_tiny_known_share_is_spread():
    known = torch.zeros(1, 1, 8, 1)
    known[..., 5, 0] = 2**-21  # one match among millions of pixels
    assert torch.equal(matches._spread(3 * known, known), torch.full_like(known, 3))
