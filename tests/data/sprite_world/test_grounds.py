"""Grounds: shapes, range, tiling, and crops of photos."""

import numpy as np
import pytest
import torch

from flowwarp.data.sprite_world.grounds import (
    SIDE,
    Crop,
    _variant,
    crop_photo,
    ground_names,
    is_backdrop,
    paint_ground,
)

pytestmark = pytest.mark.usefixtures("few_grounds")


@pytest.mark.parametrize("ground", ground_names())
def test_crop_has_its_size_and_range(ground):
    part = paint_ground(ground, np.random.default_rng(0), Crop(40, 300, 20, 33))
    assert part.shape == (3, 20, 33)
    assert part.dtype == torch.float32
    assert 0 <= part.min() < part.max() <= 1


@pytest.mark.parametrize("ground", ground_names())
def test_grounds_tile(ground):
    """One period further a floor looks the same in both directions, a wall or sky sideways."""
    crops = [Crop(8, 8, 16, 16), Crop(8, 8 + SIDE, 16, 16)]
    if not is_backdrop(ground):
        crops.append(Crop(8 + SIDE, 8, 16, 16))
    parts = [paint_ground(ground, np.random.default_rng(1), crop) for crop in crops]
    assert all(torch.equal(part, parts[0]) for part in parts)


@pytest.mark.parametrize("ground", ground_names())
def test_borders_of_a_variant_do_not_show(ground):
    """The step from the last column to the first is no larger than those elsewhere."""
    picture = _variant(ground, 0).astype(np.float32)
    steps = np.abs(picture - np.roll(picture, 1, 2)).mean((0, 1))
    assert steps[0] <= steps.max()
    assert steps[0] < 4 * np.median(steps) + 8


def test_crop_of_a_photo():
    photo = torch.rand(3, 50, 80)
    part = crop_photo(photo, np.random.default_rng(0), 16, 24)
    assert part.shape == (3, 16, 24)
    as_bytes = photo.mul(255).round().byte()
    same = crop_photo(as_bytes, np.random.default_rng(0), 16, 24)
    torch.testing.assert_close(part, same, atol=1 / 255, rtol=0)
