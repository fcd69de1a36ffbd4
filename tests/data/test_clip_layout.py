"""The layout of training clips: aspect, size, length and step."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowwarp.data.clip_layout import (
    BASE_SIZES,
    VideoShape,
    choose_layout,
    cut_share,
    frames_left,
)


@pytest.mark.parametrize(
    ("height", "width", "base", "size"),
    [
        (96, 96, (64, 64), (96, 96)),
        (64, 64, (64, 64), (64, 64)),
        (32, 32, (64, 64), (64, 64)),  # enlarged
        (90, 90, (64, 64), (88, 88)),  # in multiples of 4
        (480, 640, (56, 72), (112, 144)),
        (640, 480, (72, 56), (144, 112)),
        (1080, 1920, (48, 80), (96, 160)),
        (1920, 1080, (80, 48), (160, 96)),
        (96, 128, (56, 72), (84, 108)),  # of this aspect in multiples of 4: next is twice the base
        (1, 10_000, (48, 80), (48, 80)),
    ],
)
def test_size(height, width, base, size):
    layout = choose_layout([VideoShape(height, width, 16, 8)])
    assert (layout.base, layout.size) == (base, size)


def test_the_aspect_that_cuts_least_of_all_videos():
    """Of two wide videos and a tall one the wide part is kept; the size is the median one."""
    videos = [VideoShape(*size, 16, 8) for size in [(60, 100), (90, 160), (160, 90)]]
    layout = choose_layout(videos)
    assert layout.base == (48, 80)
    assert layout.size == (60, 100)
    assert cut_share(videos[0], (48, 80)) == 0
    assert cut_share(videos[2], (48, 80)) == pytest.approx(1 - 54 / 160)


@pytest.mark.parametrize(
    ("fps", "step"), [(1, 1), (8, 1), (12, 1), (15, 2), (24, 2), (25, 3), (30, 3), (50, 5), (60, 6)]
)
def test_step_of_long_videos(fps, step):
    layout = choose_layout([VideoShape(64, 64, 1000, fps)] * 3)
    assert (layout.step, layout.frames, layout.fps) == (step, 16, fps / step)


@pytest.mark.parametrize(
    ("frames", "step"),
    [(16, 1), (30, 1), (31, 2), (45, 2), (46, 3), (300, 3)],  # 31 frames: 0, 2, ..., 30
)
def test_as_many_frames_as_are_left(frames, step):
    video = VideoShape(64, 64, frames, 30)
    layout = choose_layout([video])
    assert (layout.step, layout.frames) == (step, 16)
    assert frames_left(video, step) >= 16


@pytest.mark.parametrize(
    ("lengths", "frames"),
    [
        ([15], 12),
        ([4], 4),
        ([1], 4),
        ([16] * 9 + [8], 16),  # nine of ten have 16
        ([16] * 8 + [8] * 2, 8),
        ([16] * 17 + [11] * 3, 8),
    ],
)
def test_frames_that_nine_of_ten_videos_have(lengths, frames):
    layout = choose_layout([VideoShape(64, 64, length, 24) for length in lengths])
    assert (layout.frames, layout.step) == (frames, 1)


SHAPES = st.builds(
    VideoShape,
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 10**6),
    st.floats(1e-3, 1e6),
)


@given(st.lists(SHAPES, min_size=1, max_size=12))
def test_what_holds_of_every_layout(videos):
    layout = choose_layout(videos)
    assert layout.base in BASE_SIZES
    for side, base in zip(layout.size, layout.base, strict=True):
        assert side % 4 == 0
        assert base <= side <= 2 * base
    assert layout.size[0] * layout.base[1] == layout.size[1] * layout.base[0]
    assert layout.frames in (4, 8, 12, 16)
    assert layout.step >= 1
    long = sum(frames_left(video, layout.step) >= layout.frames for video in videos)
    assert layout.frames == 4 or long >= math.ceil(0.9 * len(videos))
    assert choose_layout(videos[::-1]) == layout
    if layout.step > 1:
        assert layout.frames == 16
        assert 16 / layout.fps <= 2.3  # at a step of 2 for 1.13 s at a step of 1


@given(SHAPES, st.sampled_from(BASE_SIZES))
def test_turned_videos_have_turned_layouts(video, size):
    turned = dataclasses.replace(video, height=video.width, width=video.height)
    assert cut_share(turned, size[::-1]) == cut_share(video, size)
    assert 0 <= cut_share(video, size) < 1
