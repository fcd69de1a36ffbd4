"""The nearest training clip."""

import pytest
import torch

from flowwarp.data.clip import clip_without_flow
from flowwarp.pipelines.video.nearest import find_nearest


def clip(value, caption):
    return clip_without_flow(torch.full((4, 3, 32, 48), value, dtype=torch.uint8), caption)


def test_the_distance_is_the_root_mean_square_of_colours():
    videos = [torch.full((4, 3, 64, 96), value / 255) for value in (90.0, 161.0)]
    found = find_nearest(videos, iter([clip(0, "black"), clip(100, "dark"), clip(200, "light")]))
    assert [nearest.clip.caption for nearest in found] == ["dark", "light"]
    assert [nearest.distance for nearest in found] == pytest.approx([10, 39], abs=1e-3)


def test_sharpness_does_not_count_but_time_does():
    fine = torch.zeros(4, 3, 32, 48)
    fine[..., ::2, :] = 1.0  # averaged to grey
    (found,) = find_nearest([fine], [clip(128, "grey"), clip(0, "black")])
    assert found.clip.caption == "grey"
    assert found.distance < 1
    late = torch.zeros(4, 3, 32, 48)
    late[2:] = 1.0
    (found,) = find_nearest([late], [clip(0, "black")])
    assert found.distance == pytest.approx(255 / 2**0.5)


def test_there_must_be_a_clip():
    with pytest.raises(ValueError, match="at least one"):
        find_nearest([torch.zeros(4, 3, 8, 8)], [])
