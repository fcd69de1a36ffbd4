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
    # Of a clip of one frame there is no motion, which has a shape all the same.
    flows = [[video.new_empty(0, 2, height, width, dtype=torch.float32)] for _ in range(2)]
    for frame1, frame2 in pairwise(pixels.to(place)):  # one by one: what it takes stays little
        for way, flow in zip(
            flows, estimate_both(net, frame1[None], frame2[None], "fast"), strict=True
        ):
            way.append(flow.to(video.device))
    there, back = map(torch.cat, flows)
    return there, back, visible_by_consistency(there, back), visible_by_consistency(back, there)
