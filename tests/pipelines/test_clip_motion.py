"""The motion of a clip as the world tells it, by a flow network."""

import torch

from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.pipelines.clip_motion import estimate_motion
from flowwarp.pipelines.flow_estimation import estimate_both


def test_flow_of_each_pair_both_ways():
    torch.manual_seed(0)
    net = FlowNet(TINY).eval()
    video = torch.randint(256, (3, 3, 32, 32)).byte()
    flow_12, flow_21, visible_12, visible_21 = estimate_motion(net, video)
    assert flow_12.shape == flow_21.shape == (2, 2, 32, 32)
    assert visible_12.shape == visible_21.shape == (2, 1, 32, 32)
    assert visible_12.dtype == torch.bool
    frames = video.float() / 255
    there, back = estimate_both(net, frames[1:2], frames[2:3], "fast")
    assert torch.equal(flow_12[1:], there)
    assert torch.equal(flow_21[1:], back)


def test_a_still_picture_has_no_motion():
    net = FlowNet(TINY).eval()
    assert [len(part) for part in estimate_motion(net, torch.zeros(1, 3, 32, 32))] == [0] * 4
