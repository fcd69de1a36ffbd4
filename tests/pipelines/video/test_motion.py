"""Flow between decoded frames: motion by hand, errors of a decode, and doubt."""

import pytest
import torch
import torch.nn.functional as F

from flowwarp.pipelines.flow.estimate import load_flownet
from flowwarp.pipelines.video.motion import clip_flow, resize_motion


@pytest.fixture(scope="module")
def net():
    return load_flownet("small")


def texture(height, width, seed=0):
    noise = torch.rand(1, 3, height + 4, width + 4, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 5, 1)


def moving(frames, step, size=(48, 64)):
    """Return a texture that moves by whole pixels (x, y) from frame to frame."""
    picture = texture(2 * size[0], 2 * size[1])[0]
    return torch.stack(
        [
            picture.roll((t * step[1], t * step[0]), (1, 2))[:, : size[0], : size[1]]
            for t in range(frames)
        ]
    )


@pytest.mark.parametrize("frames", [2, 3, 5, 9])
def test_steady_motion_has_its_flow_at_any_length(net, frames):
    flow, visible = clip_flow(net, moving(frames, (1, -1)), 4)
    assert flow.shape == (frames - 1, 2, 48, 64)
    assert visible.shape == (frames - 1, 1, 48, 64)
    centre = flow[..., 12:-12, 12:-12]
    assert float((centre - torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)).abs().mean()) < 0.25
    assert float(visible[..., 12:-12, 12:-12].float().mean()) > 0.9


def test_a_group_that_stands_still_and_leaps_moves_steadily(net):
    """What the frames of a code show moves too late; the flow follows the clip."""
    steady = moving(16, (1, 0))
    late = steady[[t - t % 4 for t in range(16)]]
    flow, _ = clip_flow(net, late, 4)
    assert float((flow[3:-3, 0, 12:-12, 16:-16] + 1).abs().mean()) < 0.3


def test_where_in_doubt_nothing_is_visible(net):
    """Of two unrelated pictures nothing is the same, whatever the flow."""
    video = torch.cat([texture(48, 64, seed) for seed in range(2)])
    video = (4 * (video - 0.5) + 0.5).clamp(0, 1)
    _, visible = clip_flow(net, video, 4)
    assert float(visible.float().mean()) < 0.2


def test_a_clip_of_one_frame_has_no_motion(net):
    flow, visible = clip_flow(net, moving(1, (0, 0)), 4)
    assert flow.shape == (0, 2, 48, 64)
    assert visible.shape == (0, 1, 48, 64)
    assert visible.dtype == torch.bool


def test_resized_motion_is_in_pixels_of_the_new_size():
    flow = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    visible = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    visible[..., :2] = True
    large, seen = resize_motion(flow, visible, (8, 6))
    torch.testing.assert_close(large, torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 8, 6))
    assert seen[0, 0, 0].tolist() == [True] * 3 + [False] * 3


def test_group_is_checked(net):
    with pytest.raises(ValueError, match="group"):
        clip_flow(net, moving(3, (1, 0)), 0)
