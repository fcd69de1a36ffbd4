"""Visible masks on a scene whose occlusion is known: a square that moves over a still ground."""

import pytest
import torch

from flowwarp.ops.occlusion import range_map, visible_by_consistency, visible_by_range

SHIFT = 6


@pytest.fixture
def scene():
    """Forward and backward flow of a square moving right, and what is visible of frame 1."""
    flow_12, flow_21 = torch.zeros(1, 2, 30, 40), torch.zeros(1, 2, 30, 40)
    flow_12[0, 0, 10:20, 10:20] = SHIFT
    flow_21[0, 0, 10:20, 10 + SHIFT : 20 + SHIFT] = -SHIFT
    visible = torch.ones(1, 1, 30, 40, dtype=torch.bool)
    visible[0, 0, 10:20, 20 : 20 + SHIFT] = False  # ground that the square comes to cover
    return flow_12, flow_21, visible


def test_range_map_counts_arrivals(scene):
    _, flow_21, visible = scene
    arrivals = range_map(flow_21)
    assert arrivals.sum() == 30 * 40
    assert not arrivals[~visible].any()
    assert (arrivals[0, 0, 10:20, 10:16] == 2).all()  # the square, and ground it uncovers


def test_visible_by_range(scene):
    _, flow_21, visible = scene
    assert torch.equal(visible_by_range(flow_21), visible)


def test_half_of_a_pixel_must_be_left():
    flow_21 = torch.zeros(1, 2, 1, 4)
    for left, visible in ((0.7, True), (0.3, False)):
        flow_21[:, 0] = left - 1
        assert range_map(flow_21)[..., -1].item() == pytest.approx(left)
        assert visible_by_range(flow_21).flatten().tolist() == [True, True, True, visible]


def test_visible_by_consistency(scene):
    flow_12, flow_21, visible = scene
    assert torch.equal(visible_by_consistency(flow_12, flow_21), visible)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_far_motion_in_few_bits(dtype):
    there, back = torch.zeros(2, 1, 2, 2, 640, dtype=dtype).unbind()
    there[:, 0], back[:, 0] = 300, -100
    assert not visible_by_consistency(there, back).any()
    back[:, 0] = -300
    assert visible_by_consistency(there, back)[..., :339].all()


def test_what_leaves_the_frame_is_not_visible():
    flow = torch.zeros(1, 2, 5, 8)
    flow[0, 0] = 3.0
    visible = visible_by_consistency(flow, -flow)
    assert visible[0, 0, :, :5].all()
    assert not visible[0, 0, :, 5:].any()


def test_unknown_flow_is_not_visible():
    flow = torch.zeros(1, 2, 5, 8)
    broken = flow.clone()
    broken[0, 0, 2, 3] = torch.nan
    assert visible_by_consistency(broken, flow).sum() == 39
    assert range_map(broken).sum() == 39


def test_tolerance_grows_with_motion():
    flow_12 = torch.zeros(1, 2, 4, 40)
    flow_12[0, 0] = 10.0
    assert visible_by_consistency(flow_12, -flow_12 + 1.0)[0, 0, 0, 0]
    assert not visible_by_consistency(torch.zeros_like(flow_12), flow_12 * 0 + 1.0)[0, 0, 0, 0]


def test_arguments_are_named():
    with pytest.raises(ValueError, match="flow_21 must have batch"):
        visible_by_consistency(torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 4, 6))
