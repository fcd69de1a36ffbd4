"""Which pixels of frame 1 are visible in frame 2: by a range map or by forward-backward checks."""

from __future__ import annotations

import torch
from torch import Tensor

from flowwarp.ops.splatting import splat
from flowwarp.ops.warping import compute_dtype, warp
from flowwarp.tensors import check_flow


def range_map(flow_21: Tensor) -> Tensor:
    """Count, for each pixel of frame 1, how much of frame 2 comes from it.

    Every pixel of frame 2 is sent along ``flow_21`` and shared bilinearly (Wang et al.,
    "Occlusion Aware Unsupervised Learning of Optical Flow", CVPR 2018, equation 1).

    Args:
        flow_21: (B, 2, H, W), backward flow.

    Returns:
        (B, 1, H, W), at least 0; about 1 where one pixel maps to one, 0 where a pixel of frame 1 is
        hidden in frame 2.

    >>> left = torch.tensor([-1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    >>> range_map(left)  # what was at the right has left the frame
    tensor([[[[1., 1., 1., 0.]]]])
    """
    check_flow(flow_21, "flow_21")
    return splat(torch.ones_like(flow_21[:, :1]), flow_21, "sum")


def visible_by_range(flow_21: Tensor, threshold: float = 0.5) -> Tensor:
    """Mark the pixels of frame 1 that frame 2 still shows, from the backward flow alone.

    Args:
        flow_21: (B, 2, H, W), backward flow.
        threshold: how much of a pixel must be left, in [0, 1].

    Returns:
        ``visible`` (B, 1, H, W) bool.

    >>> left = torch.tensor([-1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    >>> visible_by_range(left)
    tensor([[[[ True,  True,  True, False]]]])
    """
    return range_map(flow_21) > threshold


def visible_by_consistency(
    flow_12: Tensor, flow_21: Tensor, alpha: float = 0.01, beta: float = 0.5
) -> Tensor:
    """Mark the pixels of frame 1 from which flow forward and back returns to where it began.

    A pixel is visible where ``|f12 + f21(x + f12)|^2 < alpha (|f12|^2 + |f21(x + f12)|^2) + beta``
    (Sundaram et al., ECCV 2010, equation 5; Meister et al., "UnFlow", AAAI 2018, equation 1) and
    its target lies inside the frame.

    Args:
        flow_12: (B, 2, H, W), forward flow.
        flow_21: (B, 2, H, W), backward flow.
        alpha: tolerated squared error in proportion to the squared motion.
        beta: tolerated squared error in any case, in pixels squared.

    Returns:
        ``visible`` (B, 1, H, W) bool; False where flow is NaN or infinite.

    Raises:
        ValueError: the shapes differ.

    >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    >>> visible_by_consistency(right, -right)
    tensor([[[[ True,  True,  True, False]]]])
    """
    check_flow(flow_12, "flow_12")
    check_flow(flow_21, "flow_21", like=flow_12)
    # Of fp16, the squares of 256 pixels are infinite.
    flow_12, flow_21 = (flow.to(compute_dtype(flow)) for flow in (flow_12, flow_21))
    there, inside = warp(flow_21, flow_12, mask=True)
    error = (flow_12 + there).square().sum(1, keepdim=True)
    motion = flow_12.square().sum(1, keepdim=True) + there.square().sum(1, keepdim=True)
    return inside & (error < alpha * motion + beta)
