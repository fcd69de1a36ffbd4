"""The motion of a clip whose flow nobody knows, by the flow network."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from flowwarp.models.flownet import FlowNet
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.pipelines.flow_estimation import estimate_both


def estimate_motion(net: FlowNet, video: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return flow between the frames of a clip both ways, and what is visible.

    Args:
        net: from :func:`flowwarp.pipelines.flow_estimation.load_flownet`.
        video: (T, 3, H, W), uint8 or in [0, 1].

    Returns:
        ``flow_12`` and ``flow_21``, (T - 1, 2, H, W) in pixels, ``visible_12`` and ``visible_21``,
        (T - 1, 1, H, W) bool, where both agree; on the video's device.
    """
    pixels = video.float() / 255 if video.dtype == torch.uint8 else video
    place = next(net.parameters()).device
    height, width = pixels.shape[-2:]
    there, back = [video.new_empty(0, 2, height, width, dtype=torch.float32)] * 2
    for frame1, frame2 in pairwise(pixels.to(place)):  # one by one: memory stays flat
        flow_12, flow_21 = estimate_both(net, frame1[None], frame2[None], "fast")
        there = torch.cat([there, flow_12.to(there.device)])
        back = torch.cat([back, flow_21.to(back.device)])
    return there, back, visible_by_consistency(there, back), visible_by_consistency(back, there)
