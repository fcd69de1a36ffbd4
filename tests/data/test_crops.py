"""Crops: windows by hand, range, and what they depend on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowwarp.data.crops import (
    SCALES,
    crop_window,
    detail_crop,
    middle_crop,
    random_crop,
    resize_video,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def clip(frames=3, height=32, width=48):
    shape = (frames, 3, height, width)
    return torch.randint(256, shape, generator=seeded(), dtype=torch.uint8)


def test_windows_by_hand():
    """Of 32 rows 30 stay, of 48 columns 45."""
    assert crop_window(32, 48, 0, 0) == (slice(0, 30), slice(0, 45))
    assert crop_window(32, 48, 1, 1) == (slice(2, 32), slice(3, 48))
    assert crop_window(32, 48, 0.5, 0.4) == (slice(1, 31), slice(1, 46))


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_windows_are_within_the_picture(height, width, y, x):
    for window, side in zip(crop_window(height, width, y, x), (height, width), strict=True):
        assert 0 <= window.start < window.stop <= side
        assert window.stop - window.start >= 0.9 * side - 1


@pytest.mark.parametrize("size", [(32, 48), (16, 24), (8, 20), (64, 64)])
def test_shape_and_range(size):
    for made in (random_crop(clip(), size, seeded()), middle_crop(clip(), size)):
        assert made.shape == (3, 3, *size)
        assert made.dtype == torch.float32
        assert made.min() >= 0
        assert made.max() <= 1


def test_a_window_of_the_right_size_is_not_resized():
    video = clip()
    expected = video[..., 1:31, 2:47].float() / 255
    torch.testing.assert_close(middle_crop(video, (30, 45)), expected)


def test_a_crop_depends_on_the_generator_alone():
    video = clip()
    one, two = (random_crop(video, (16, 24), seeded(3)) for _ in range(2))
    assert torch.equal(one, two)


def test_random_crops_differ_in_place_and_scale():
    """Of pixels that hold their own coordinates, the first and the last show what was cut."""
    rows, columns = torch.meshgrid(torch.arange(60), torch.arange(80), indexing="ij")
    video = torch.stack([rows, columns, rows]).to(torch.uint8).expand(2, -1, -1, -1)
    shares, places = [], []
    for seed in range(60):
        crop = random_crop(video, (60, 80), seeded(seed)) * 255
        assert torch.equal(crop[0], crop[1])  # all frames are cut alike
        top, left = float(crop[0, 0, 0, 0]), float(crop[0, 1, 0, 0])
        height = float(crop[0, 0, -1, 0]) - top + 1
        width = float(crop[0, 1, 0, -1]) - left + 1
        assert height / 60 == pytest.approx(width / 80, abs=0.03)  # the same scale both ways
        shares.append(height / 60)
        places.append((top / max(1, 60 - height), left / max(1, 80 - width)))
    assert min(shares) == pytest.approx(SCALES[0], abs=0.03)
    assert max(shares) == pytest.approx(SCALES[1], abs=0.03)
    for axis in range(2):
        assert min(place[axis] for place in places) < 0.1
        assert max(place[axis] for place in places) > 0.8


def test_resizing():
    video = torch.rand(2, 3, 16, 16, generator=seeded())
    assert resize_video(video, (16, 16)) is video
    means = video.view(2, 3, 8, 2, 8, 2).mean((3, 5))
    halved = resize_video(video, (8, 8))
    assert halved.shape == (2, 3, 8, 8)
    assert (halved - means).abs().mean() < 0.1  # antialiased: neighbours count a little
    assert (halved - means).abs().mean() < (video[..., ::2, ::2] - means).abs().mean() / 2
    constant = torch.full((1, 3, 9, 7), 0.3)
    torch.testing.assert_close(resize_video(constant, (5, 12)), torch.full((1, 3, 5, 12), 0.3))


def test_crops_of_detail_are_cut_at_the_scale_of_whole_crops():
    video = clip(3, 32, 48)
    made = detail_crop(video, (15, 45), (8, 12), seeded())
    assert made.shape == (3, 3, 8, 12)
    # At the size that a whole crop has anyway, pixels are copied: 30 of 32 rows, 45 of 48 columns.
    made = detail_crop(video, (30, 45), (8, 12), seeded())
    places = [
        (y, x)
        for y in range(25)
        for x in range(37)
        if torch.equal(made, video[..., y : y + 8, x : x + 12].float() / 255)
    ]
    assert len(places) == 1


def test_crops_of_detail_show_what_there_is_to_see():
    """A checkered square in a corner of plain frames is in a crop more often than by chance."""
    video = torch.full((2, 3, 64, 64), 90, dtype=torch.uint8)
    video[..., :16, :16] = 255 * (torch.arange(16) % 2)
    crops = [detail_crop(video, (60, 60), (16, 16), seeded(seed)) for seed in range(200)]
    share = sum(bool(crop.std() > 0) for crop in crops) / 200
    by_chance = (16 / 49) ** 2
    several = 1 - (1 - by_chance) ** 4
    assert abs(share - (0.75 * several + 0.25 * by_chance)) < 0.1


def test_a_crop_is_no_larger_than_its_clip():
    video = clip(2, 8, 8)
    assert detail_crop(video, (8, 8), (32, 32), seeded()).shape == (2, 3, 32, 32)
