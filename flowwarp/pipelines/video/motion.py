"""Flow between the frames of a decoded clip, whose frames share codes.

A discrete VAE decodes several frames from one code, and each of them has errors of its own: edges
jump where a group of frames ends, by more than they move. Frames one group apart have like errors.
So flow is estimated over a whole group, and its share carried to the frame in the middle.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.models.flownet import FlowNet
from flowwarp.ops.fields import resize_flow
from flowwarp.ops.filters import box_blur
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.ops.splatting import splat
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow.estimate import estimate_both
from flowwarp.tensors import check_pixels, check_whole

# Difference of colours, a mean over 3 x 3 pixels, up to which a pixel passes for the same in two
# frames. The errors of a decode of 28 dB are half of that, those of a wrong flow several times.
SAME = 0.08
SHARPNESS = 25.0  # of the weights by which pixels compete that are carried to the same place
INCONSISTENT = 0.1  # weight of pixels from which flow there and back does not return
COVERED = 0.1  # the least weight of flow that leads to a pixel; less is a hole
AT_ONCE = 16  # pairs of frames that the flow network takes side by side


@torch.no_grad()
def clip_flow(net: FlowNet, video: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Estimate the flow from each frame of a decoded clip to the one before it.

    Args:
        net: from :func:`flowwarp.pipelines.flow.estimate.load_flownet`.
        video: (T, 3, H, W) in [0, 1], on the network's device.
        group: frames that share codes, at least 1. A clip that has no more counts as one group.

    Returns:
        ``flow_21`` (T - 1, 2, H, W) in pixels, and ``visible_21`` (T - 1, 1, H, W) bool, where the
        frame before shows the same: False where in doubt.

    Raises:
        ValueError: shapes do not fit.
    """
    check_pixels(video, "video")
    check_whole(group, "group", 1)
    reach = min(group, len(video) - 1)
    if not reach:
        return video.new_empty(0, 2, *video.shape[2:]), video[:0, :1] > 0
    pairs = [
        estimate_both(net, first, last, "fast")
        for first, last in zip(
            torch.split(video[:-reach], AT_ONCE), torch.split(video[reach:], AT_ONCE), strict=True
        )
    ]
    there, back = (torch.cat(flows) for flows in zip(*pairs, strict=True))
    # Frame t is in the middle of frames start[t] and start[t] + reach, except at a clip's ends.
    number = torch.arange(1, len(video), device=video.device)
    start = (number - reach // 2).clamp(0, len(video) - 1 - reach)
    flow, weight = _carry(
        video[number],
        (video[start], video[start + reach]),
        (there[start], back[start]),
        ((number - start) / reach).view(-1, 1, 1, 1),
    )
    flow = flow / reach
    warped, inside = warp(video[:-1], flow, mask=True)
    return flow, inside & (_difference(warped, video[1:]) < SAME) & (weight > COVERED)


def _carry(
    frame: Tensor, ends: tuple[Tensor, Tensor], flows: tuple[Tensor, Tensor], time: Tensor
) -> tuple[Tensor, Tensor]:
    """Carry the flow between two frames to one between them, whose motion is steady.

    Args:
        frame: (N, 3, H, W), the frame between.
        ends: (N, 3, H, W) each, the first and the last.
        flows: (N, 2, H, W) each, from the first to the last and back.
        time: (N, 1, 1, 1), of ``frame``: 0 at the first, 1 at the last.

    Returns:
        The flow back from the last to the first as it passes each pixel, (N, 2, H, W), and its
        weight, (N, 1, H, W).
    """
    total = torch.zeros_like(frame)  # weighted flow (N, 2, H, W) and weight (N, 1, H, W)
    there, back = flows
    for end, flow, other, share in ((0, there, back, time), (1, back, there, 1 - time)):
        # Softmax splatting (Niklaus and Liu, CVPR 2020): of pixels carried to the same place, the
        # one counts whose colour the frame between shows there.
        change = _difference(warp(frame, share * flow), ends[end])
        consistent = visible_by_consistency(flow, other)
        weight = (-SHARPNESS * change).exp() * torch.where(consistent, 1.0, INCONSISTENT)
        backward = flow if end else -flow
        total = total + splat(torch.cat([weight * backward, weight], 1), share * flow)
    weight = total[:, 2:]
    return total[:, :2] / weight.clamp_min(1e-6), weight


def _difference(image: Tensor, other: Tensor) -> Tensor:
    """Return the mean absolute difference of the 3 x 3 pixels around each, (N, 1, H, W)."""
    return box_blur((image - other).abs().mean(1, keepdim=True), 1)


def resize_motion(flow: Tensor, visible: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return flow (N, 2, h, w) and ``visible`` (N, 1, h, w) bool at another size."""
    return resize_flow(flow, size), F.interpolate(visible.float(), size, mode="nearest") > 0
