"""Refinement of pictures whose flow is known, of degenerate ones, and for any number of threads."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from flowwarp.ops.fields import coordinate_grid
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow import refine as refining
from flowwarp.pipelines.flow.refine import (
    BALANCED,
    BEST,
    HIDDEN,
    RefineConfig,
    _complete,
    _edges,
    _features,
    _spread,
    _trust,
    estimate,
    fuse,
    refine,
)

QUICK = RefineConfig(levels=2, warps=2)
ONCE = RefineConfig(match=False, levels=1, warps=1, inner=1)
STILL = torch.zeros(1, 2, 32, 32)


def texture(height, width, channels=3, seed=0):
    """A smooth random picture with detail at several scales."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, channels, height, width)
    for cell in (4, 8, 16):
        size = (height // cell + 4, width // cell + 4)
        noise = torch.rand(1, channels, *size, generator=generator)
        image += F.interpolate(noise, (height, width), mode="bicubic", align_corners=False) / 3
    return image.clamp(0, 1)


def noise(*seeds, side=32):
    """Return pictures that have nothing in common."""
    return [
        torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]


def affine(height, width):
    """Flow that turns, grows and shifts, about 3 px at the border."""
    grid = coordinate_grid(height, width)
    x, y = grid[:, :1] - width / 2, grid[:, 1:] - height / 2
    return torch.cat([0.02 * x - 0.01 * y + 0.7, 0.01 * x + 0.015 * y - 0.4], dim=1)


def moved(flow, channels=3):
    """A pair related by ``flow``: frame 1 is frame 2, warped by it."""
    image2 = texture(*flow.shape[-2:], channels)
    return warp(image2, flow, mode="bicubic"), image2


def error(flow, target, margin=8):
    inner = (..., slice(margin, -margin), slice(margin, -margin))
    return float((flow - target)[inner].norm(dim=1).mean())


@pytest.mark.parametrize("quality", ["balanced", "best"])
@pytest.mark.parametrize("channels", [1, 3])
def test_recovers_a_shift_from_zero(quality, channels):
    target = torch.tensor([2.3, -1.6]).view(1, 2, 1, 1).expand(1, 2, 72, 96).contiguous()
    found = refine(*moved(target, channels), torch.zeros_like(target), quality=quality)
    assert error(found, target) < 0.05


@pytest.mark.parametrize("quality", ["balanced", "best"])
def test_recovers_affine_motion(quality):
    target = affine(72, 96)
    found = refine(*moved(target), torch.zeros_like(target), quality=quality)
    assert error(found, target) < 0.05


def test_finds_a_large_motion_by_itself():
    image = texture(140, 180)
    shift = 32  # a third of what both frames show
    pair = image[..., : 180 - shift], image[..., shift:]
    found = refine(*pair, quality="balanced")
    assert error(found[..., shift + 4 :], torch.tensor([-float(shift), 0.0]).view(1, 2, 1, 1)) < 0.1


def test_a_good_start_stays():
    target = affine(64, 80)
    found = refine(*moved(target), target, quality="balanced")
    assert error(found, target) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 8), (3, 40)])
@pytest.mark.parametrize("quality", ["balanced", "best"])
def test_tiny_pictures(size, quality):
    image1, image2 = texture(*size), texture(*size, seed=1)
    for flow in (None, torch.zeros(1, 2, *size)):
        found = refine(image1, image2, flow, quality=quality)
        assert found.shape == (1, 2, *size)
        assert found.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_pictures_do_not_move(value):
    image = torch.full((1, 3, 24, 32), value)
    assert refine(image, image, quality="balanced").abs().max() < 1e-3
    assert refine(image, image, torch.zeros(1, 2, 24, 32), quality="best").abs().max() < 1e-3


def test_unknown_flow_counts_as_none():
    image = texture(24, 32)
    flow = torch.zeros(1, 2, 24, 32)
    flow[..., 3:9, 4:8] = float("nan")
    found = refine(image, image, flow, quality="balanced")
    assert found.abs().max() < 0.05


def test_an_example_does_not_depend_on_its_batch():
    first, second = moved(affine(40, 48)), moved(-affine(40, 48))
    pair = [torch.cat(images) for images in zip(first, second, strict=True)]
    together = refine(*pair, torch.zeros(2, 2, 40, 48), config=QUICK)
    alone = [refine(*images, torch.zeros(1, 2, 40, 48), config=QUICK) for images in (first, second)]
    assert torch.equal(together, torch.cat(alone))


def test_same_bits_for_any_number_of_threads():
    pair, before, found = moved(affine(50, 66)), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(refine(*pair, config=QUICK))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_backward_flow_marks_what_is_hidden():
    background, square = texture(64, 96), texture(64, 96, seed=7)

    def frame(left):
        image = background.clone()
        image[..., 16:48, left : left + 30] = square[..., 16:48, :30]
        return image

    pair, target, back = (
        (frame(40), frame(48)),
        torch.zeros(1, 2, 64, 96),
        torch.zeros(1, 2, 64, 96),
    )
    target[:, 0, 16:48, 40:70], back[:, 0, 16:48, 48:78] = 8, -8
    told = refine(*pair, target, config=QUICK, flow_21=back)
    untold = refine(*pair, target, config=QUICK)
    assert error(told, target) < 0.8 * error(untold, target)  # 0.16 and 0.23 px


def test_estimate_gives_both_directions():
    target = affine(64, 80)
    image1, image2 = moved(target)
    flow_12, flow_21 = estimate(image1, image2)
    assert error(flow_12, target, 16) < 1
    assert error(flow_21, -target, 16) < 1


def test_presets():
    assert BALANCED != BEST
    with pytest.raises(ValueError, match="levels must be"):
        RefineConfig(levels=0)
    with pytest.raises(ValueError, match="match_rounds must"):
        RefineConfig(match_rounds=-1)


def test_wrong_arguments():
    image = texture(8, 8)
    with pytest.raises(ValueError, match="quality must be one of"):
        refine(image, image, quality="great")
    for flat in (image[:, :, :0], image[..., :0]):
        with pytest.raises(ValueError, match="image1 must have pixels"):
            refine(flat, flat)
        with pytest.raises(ValueError, match="image1 must have pixels"):
            estimate(flat, flat)
    with pytest.raises(ValueError, match="image2 must"):
        refine(image, image[..., 1:])
    with pytest.raises(ValueError, match="channels"):
        refine(image[:, :2], image[:, :2])
    with pytest.raises(ValueError, match="flow must have"):
        refine(image, image, torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="flow_21 must have"):
        refine(image, image, flow_21=torch.zeros(1, 2, 4, 4))


def test_progress_grows_to_one():
    target = affine(40, 48)
    pair = [image.expand(2, -1, -1, -1) for image in moved(target)]
    told: list[float] = []
    refine(*pair, torch.zeros(2, 2, 40, 48), config=QUICK, progress=told.append)
    assert told == sorted(told)
    assert told[0] < 0.5 in told
    assert told[-1] == 1


def test_a_level_that_has_settled_warps_no_more():
    target = affine(40, 48)
    start = torch.zeros_like(target)

    def warps(settled):
        told: list[float] = []
        config = RefineConfig(levels=2, warps=20, settled=settled)
        found = refine(*moved(target), start, config=config, progress=told.append)
        return found, len(told) - 2  # one more at the end of each level

    (rough, few), (fine, some), (_, all_) = warps(1.0), warps(0.02), warps(-1.0)
    assert few == 2 < some < all_ == 40
    assert max(error(fine, target), error(rough, target)) < 0.05


# ------------------------------------------------------------------ what a level is told


@pytest.fixture
def spy(monkeypatch):
    """Return what notes a part of what one of the module's functions is called with."""

    def note(name, pick):
        seen, real = [], getattr(refining, name)

        def noting(*arguments, **options):
            seen.append(pick(arguments, options))
            return real(*arguments, **options)

        monkeypatch.setattr(refining, name, noting)
        return seen

    return note


def test_smoothness_makes_smooth():
    def roughness(smoothness):
        found = refine(*noise(0, 1), STILL, config=replace(ONCE, smoothness=smoothness))
        return float(found.diff(dim=-1).abs().mean())

    assert roughness(100.0) < 0.5 * roughness(0.1)


def test_the_median_has_the_radius_that_is_asked_for(spy):
    seen = spy("weighted_median", lambda arguments, options: options["radius"])
    refine(*noise(0, 1), STILL, config=replace(ONCE, median_radius=6))
    assert seen == [6]


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_finest_level_is_matched_in_as_many_rounds_as_are_asked_for(spy, rounds):
    sides = spy("match_round", lambda arguments, options: len(arguments[0]))
    config = replace(ONCE, match=True, match_rounds=rounds, sweeps=1)
    refine(*noise(0, 1, side=64), config=config)
    assert sides.count(64) == 2 * rounds  # there and back


def test_what_differs_is_little_trusted(spy):
    seen = spy("weighted_median", lambda arguments, options: arguments[2])
    refine(*noise(0, 0), STILL, config=ONCE)
    refine(*noise(0, 1), STILL, config=ONCE)
    assert seen[0].min() > 0.9
    assert seen[1].min() < 0.1


def test_what_leads_outside_is_not_fitted(spy):
    seen = spy("normal_equations", lambda arguments, options: arguments[4])
    start = STILL.clone()
    start[:, 0, :, 20:] = 50
    refine(*noise(0, 0), start, config=ONCE)
    assert (seen[0][..., :20] == 1).all()
    assert not seen[0][..., 20:].any()


# ------------------------------------------------------------------ by hand


def test_smoothness_yields_at_edges():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1  # from left to right it changes, downwards it does not
    right, below = _edges(image, 0.05)[0]
    assert right[:, 3].max() < 0.1
    assert (right[:, [0, 1, 5, 6]] > 0.9).all()
    assert below.min() == 1
    torch.testing.assert_close(_edges(image.mT, 0.05)[0], torch.stack([below.T, right.T]))


def test_where_flow_converges_it_is_little_trusted():
    x = torch.arange(16.0).expand(1, 1, 16, 16)
    same = torch.zeros(1, 3, 16, 16)
    for flow in (torch.cat([x, 0 * x], 1), torch.cat([0 * x, x.mT], 1)):
        meets, parts = (_trust(slope * flow, same, same)[0, 0, 8, 8] for slope in (-0.5, 0.5))
        assert meets == pytest.approx(math.exp(-((0.5 / 0.3) ** 2) / 2), rel=1e-4)
        assert parts == 1


def test_where_brightness_changes_flow_is_little_trusted():
    """By 20 of 255 steps either way; a gradient alone tells nothing."""
    same, other = torch.zeros(2, 1, 3, 8, 8)
    other[:, 0, 0], other[:, 0, 1], other[:, 0, 2], other[:, 1:, 3] = 20 / 255, -20 / 255, 1, 1
    trust = _trust(torch.zeros(1, 2, 8, 8), same, other)[0, 0, :, 0]
    assert trust[:5].tolist() == pytest.approx([math.exp(-0.5)] * 2 + [HIDDEN, 1, 1], rel=1e-4)


def test_a_lighter_picture_has_nearly_the_same_features():
    (image,) = noise(0)
    change = (_features(0.5 * image + 0.2) - _features(0.5 * image)).abs().amax((0, 2, 3))
    assert change.tolist() == pytest.approx([0.02, 0, 0], abs=1e-5)


def test_a_target_outside_costs_as_much_as_a_poor_match():
    """Even if the border, repeated, looks like what is sought."""
    (image,) = noise(0)
    image[..., 24:] = image[..., 23:24]
    outside = torch.full((1, 2, 32, 32), 40.0)
    assert not fuse(image, image, [outside, STILL])[..., 26:].any()
    (other,) = noise(1)
    poor = STILL + 1  # costs 0.5 on average, so that each wins somewhere
    chosen = fuse(image, other, [outside, poor])[..., :20]
    assert 0.05 < (chosen[:, 0] == 1).float().mean() < 0.95


def test_matches_that_do_not_return_are_filled_in():
    """Of a block of another colour, so that nothing around it is like it."""
    image, flow = torch.zeros(1, 1, 32, 32), STILL.clone()
    image[..., 12:16, 12:16], flow[:, 0, 12:16, 12:16] = 1, 3
    assert not _complete(image, flow, STILL).any()
    back = STILL.clone()
    back[:, 0, 12:16, 15:19] = -2  # a pixel beside where it began
    assert torch.equal(_complete(image, flow, back), flow)


def test_what_is_known_is_spread_however_little_it_is():
    known = torch.zeros(1, 1, 8, 1)
    known[..., 5, 0] = 2**-21  # of a single match among millions of pixels
    assert torch.equal(_spread(3 * known, known), torch.full_like(known, 3))
