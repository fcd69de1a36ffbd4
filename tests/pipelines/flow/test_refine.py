"""Refinement of pairs with known motion and of degenerate ones, for any number of threads."""

import math
from dataclasses import replace

import pytest
import torch

from flowwarp.pipelines.flow import refine as refining
from flowwarp.pipelines.flow.matches import match_flow
from flowwarp.pipelines.flow.refine import (
    BALANCED,
    BEST,
    OCCLUDED_CONFIDENCE,
    RefineConfig,
    _edges,
    _features,
    _median_confidence,
    refine,
)
from known_motion import STILL, affine, error, moved, noise, texture

QUICK = RefineConfig(levels=2, warps=2)
ONCE = RefineConfig(match=False, levels=1, warps=1, inner=1)


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


def test_finds_a_large_motion_without_a_start():
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


def test_unknown_flow_counts_as_zero():
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


def test_backward_flow_marks_occluded_pixels():
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
    with_back = refine(*pair, target, config=QUICK, flow_21=back)
    without = refine(*pair, target, config=QUICK)
    assert error(with_back, target) < 0.8 * error(without, target)  # 0.16 and 0.23 px


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
            match_flow(flat, flat)
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
    shares: list[float] = []
    refine(*pair, torch.zeros(2, 2, 40, 48), config=QUICK, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[0] < 0.5 in shares
    assert shares[-1] == 1


def test_a_settled_level_stops_warping():
    target = affine(40, 48)
    start = torch.zeros_like(target)

    def warps(settled):
        shares: list[float] = []
        config = RefineConfig(levels=2, warps=20, settled=settled)
        found = refine(*moved(target), start, config=config, progress=shares.append)
        return found, len(shares) - 2  # one more at the end of each level

    (rough, few), (fine, some), (_, all_) = warps(1.0), warps(0.02), warps(-1.0)
    assert few == 2 < some < all_ == 40
    assert max(error(fine, target), error(rough, target)) < 0.05


@pytest.fixture
def spy(monkeypatch):
    """Return a function that records arguments of calls to a function of the module."""

    def note(name, pick):
        values, real = [], getattr(refining, name)

        def noting(*arguments, **options):
            values.append(pick(arguments, options))
            return real(*arguments, **options)

        monkeypatch.setattr(refining, name, noting)
        return values

    return note


def test_smoothness_makes_smooth():
    def roughness(smoothness):
        found = refine(*noise(0, 1), STILL, config=replace(ONCE, smoothness=smoothness))
        return float(found.diff(dim=-1).abs().mean())

    assert roughness(100.0) < 0.5 * roughness(0.1)


def test_the_median_has_the_configured_radius(spy):
    radii = spy("weighted_median", lambda arguments, options: options["radius"])
    refine(*noise(0, 1), STILL, config=replace(ONCE, median_radius=6))
    assert radii == [6]


def test_different_brightness_lowers_the_weight(spy):
    weights = spy("weighted_median", lambda arguments, options: arguments[2])
    refine(*noise(0, 0), STILL, config=ONCE)
    refine(*noise(0, 1), STILL, config=ONCE)
    assert weights[0].min() > 0.9
    assert weights[1].min() < 0.1


def test_targets_outside_have_no_data_term(spy):
    weights = spy("normal_equations", lambda arguments, options: arguments[4])
    start = STILL.clone()
    start[:, 0, :, 20:] = 50
    refine(*noise(0, 0), start, config=ONCE)
    assert (weights[0][..., :20] == 1).all()
    assert not weights[0][..., 20:].any()


def test_smoothness_yields_at_edges():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1  # from left to right it changes, downwards it does not
    right, below = _edges(image, 0.05)[0]
    assert right[:, 3].max() < 0.1
    assert (right[:, [0, 1, 5, 6]] > 0.9).all()
    assert below.min() == 1
    torch.testing.assert_close(_edges(image.mT, 0.05)[0], torch.stack([below.T, right.T]))


def test_converging_flow_has_a_low_weight():
    x = torch.arange(16.0).expand(1, 1, 16, 16)
    same = torch.zeros(1, 3, 16, 16)
    for flow in (torch.cat([x, 0 * x], 1), torch.cat([0 * x, x.mT], 1)):
        converging = _median_confidence(-0.5 * flow, same, same)[0, 0, 8, 8]
        diverging = _median_confidence(0.5 * flow, same, same)[0, 0, 8, 8]
        assert converging == pytest.approx(math.exp(-((0.5 / 0.3) ** 2) / 2), rel=1e-4)
        assert diverging == 1


def test_changed_brightness_has_a_low_weight():
    """By 20 of 255 steps in either direction; gradients do not count."""
    same, other = torch.zeros(2, 1, 3, 8, 8)
    other[:, 0, 0], other[:, 0, 1], other[:, 0, 2], other[:, 1:, 3] = 20 / 255, -20 / 255, 1, 1
    weight = _median_confidence(torch.zeros(1, 2, 8, 8), same, other)[0, 0, :, 0]
    expected = [math.exp(-0.5)] * 2 + [OCCLUDED_CONFIDENCE, 1, 1]
    assert weight[:5].tolist() == pytest.approx(expected, rel=1e-4)


def test_a_lighter_picture_has_nearly_the_same_features():
    (image,) = noise(0)
    change = (_features(0.5 * image + 0.2) - _features(0.5 * image)).abs().amax((0, 2, 3))
    assert change.tolist() == pytest.approx([0.02, 0, 0], abs=1e-5)
