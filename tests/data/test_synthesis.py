"""Synthetic pairs: their flow is what moves the one image to the other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flowwarp.data import synthesis
from flowwarp.data.synthesis import FASTEST, _draw_motion, load_photos, synthesize_pair
from flowwarp.errors import InputError
from flowwarp.io.images import write_image
from flowwarp.ops.fields import coordinate_grid
from flowwarp.ops.warping import warp

SIZE = (96, 128)


@pytest.fixture(scope="module")
def photos():
    """Smooth patterns, so that interpolation costs little; uint8, float, small and large."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(150, 200), (60, 50), (120, 120)]
    coarse = [torch.rand(1, 3, h // 10, w // 10, generator=generator) for h, w in shapes]
    fine = [
        F.interpolate(c, size, mode="bicubic").clamp(0, 1)[0]
        for c, size in zip(coarse, shapes, strict=True)
    ]
    return [fine[0].mul(255).byte(), fine[1], fine[2].mul(255).byte()]


@pytest.mark.parametrize("index", range(12))
def test_warping_image_2_gives_image_1_where_visible(photos, index):
    pair = synthesize_pair(photos, 3, index, SIZE, effects=False)
    warped = warp(pair.image2[None], pair.flow_12[None])[0]
    error = (warped - pair.image1).abs().mean(0, keepdim=True)
    # Away from the rims of layers, where a pixel shows two of them.
    inner = F.avg_pool2d(pair.visible.float()[None], 5, 1, 2)[0] == 1
    assert error[inner].mean() < 0.01
    assert error[inner].quantile(0.98) < 0.05
    still = (pair.image2 - pair.image1).abs().mean(0, keepdim=True)
    assert error[inner].mean() < 0.25 * still[inner].mean()


def test_occluded_pixels_look_different(photos):
    errors = []
    for index in range(12):
        pair = synthesize_pair(photos, 4, index, SIZE, effects=False)
        warped, within = warp(pair.image2[None], pair.flow_12[None], mask=True)
        hidden = within[0] & ~pair.visible
        errors.append((warped[0] - pair.image1).abs().mean(0, keepdim=True)[hidden])
    assert torch.cat(errors).mean() > 0.08


def test_shapes_and_ranges(photos):
    for index in range(8):
        pair = synthesize_pair(photos, 0, index, SIZE)
        for image in (pair.image1, pair.image2):
            assert (image.shape, image.dtype) == ((3, *SIZE), torch.float32)
            assert image.min() >= 0
            assert image.max() <= 1
        assert (pair.flow_12.shape, pair.flow_12.dtype) == ((2, *SIZE), torch.float32)
        assert (pair.visible.shape, pair.visible.dtype) == ((1, *SIZE), torch.bool)
        assert pair.flow_12.square().sum(0).sqrt().max() <= 1.001 * FASTEST


def test_the_same_arguments_give_the_same_pair(photos):
    a, b = (synthesize_pair(photos, 1, 2, SIZE) for _ in range(2))
    assert torch.equal(a.image1, b.image1)
    assert torch.equal(a.image2, b.image2)
    assert torch.equal(a.flow_12, b.flow_12)
    assert torch.equal(a.visible, b.visible)
    for other in ((1, 3), (2, 2)):
        assert not torch.equal(a.flow_12, synthesize_pair(photos, *other, SIZE).flow_12)


def test_effects_leave_the_scene_as_it_is(photos):
    for index in range(4):
        plain, seen = (synthesize_pair(photos, 5, index, SIZE, effects=e) for e in (False, True))
        assert torch.equal(plain.flow_12, seen.flow_12)
        assert torch.equal(plain.visible, seen.visible)
        assert not torch.equal(plain.image1, seen.image1)


def test_some_layers_throw_a_shadow(monkeypatch):
    """A grey layer over a grey background is visible by its shadow alone."""
    monkeypatch.setattr(synthesis, "_expose", lambda frames, *_: frames)
    grey, shadows = [torch.full((3, 60, 80), 0.5)], 0
    for index in range(12):
        image = synthesize_pair(grey, 0, index, (48, 64)).image1
        assert image.max() < 0.501
        shadows += bool(image.min() < 0.45)
    assert 2 < shadows < 10


def test_motions_are_spread_evenly_over_magnitudes_and_do_not_fold():
    grid = coordinate_grid(64, 80)
    lengths = []
    for seed in range(250):
        flow = _draw_motion(np.random.default_rng(seed), grid)
        lengths.append(flow.square().sum(1).mean().sqrt())
        there = grid + flow
        right = there[..., :-1, 1:] - there[..., :-1, :-1]
        down = there[..., 1:, :-1] - there[..., :-1, :-1]
        area = right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]
        assert area.min() > 0.1
        assert flow.square().sum(1).max().sqrt() < 1.001 * FASTEST
    # Steep ones are cut in a picture this small, so that the upper end is thinner.
    shares = torch.histogram(torch.stack(lengths).log2(), torch.arange(-1.0, 6)).hist / 250
    assert (shares > 0.05).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 5)])
def test_any_size(photos, size):
    for index in range(3):
        assert synthesize_pair(photos, 0, index, size).image1.shape == (3, *size)


def test_wrong_arguments(photos):
    with pytest.raises(ValueError, match="photos must not be empty"):
        synthesize_pair([], 0, 0)
    with pytest.raises(ValueError, match="size must be at least"):
        synthesize_pair(photos, 0, 0, (0, 4))


def test_load_photos(tmp_path, photos, caplog):
    with pytest.raises(InputError, match="holds no picture"):
        load_photos(tmp_path)
    (tmp_path / "below").mkdir()
    write_image(tmp_path / "below/a.png", photos[1])
    (tmp_path / "b.png").write_bytes(b"nonsense")
    (loaded,) = load_photos(tmp_path, longest=30)
    assert (loaded.shape, loaded.dtype) == ((3, 30, 25), torch.uint8)
    assert "b.png" in caplog.text
    with pytest.raises(InputError):
        load_photos(tmp_path / "none")
