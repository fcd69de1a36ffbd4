"""Smoothness of flow: in space, of first and second order, edge-aware; and in time."""

from __future__ import annotations

import torch
from torch import Tensor

from flowwarp.losses.photometric import charbonnier, masked_charbonnier
from flowwarp.tensors import check_flow, check_image, check_same_grid


def smoothness_first(flow: Tensor, image: Tensor, edge_weight: float = 150.0) -> Tensor:
    """Penalise the first differences of flow where the image has no edge.

    ``exp(-edge_weight * mean_c |dI|^2) * |du|`` along x and y, averaged. UFlow's (Jonschkowski et
    al., ECCV 2020, equation 6) has no square: its weight ``exp(-edge_weight * mean_c |dI|)`` frees
    flow at any texture. Here an edge of 0.1 leaves a fifth of the weight, one of 0.2 almost none.

    Args:
        flow: (B, 2, H, W).
        image: (B, C, H, W) in [0, 1], at the same size.
        edge_weight: how fast an edge frees the flow.

    Returns:
        (B,); 0 for an image of one pixel.

    Raises:
        TypeError: flow or image is not floating-point.
        ValueError: shapes or devices do not fit.
    """
    return _directions(flow, image, edge_weight, order=1)


def smoothness_second(flow: Tensor, image: Tensor, edge_weight: float = 150.0) -> Tensor:
    """Like :func:`smoothness_first` for second differences, which leave slanted motion free."""
    return _directions(flow, image, edge_weight, order=2)


# The losses of a flow and its image, by the names of their weights.
SMOOTHNESS = {"smoothness": smoothness_first, "smoothness_second": smoothness_second}


def constant_velocity(flow_next: Tensor, flow_previous: Tensor, mask: Tensor) -> Tensor:
    """Penalise a change of velocity over three frames (Janai et al., ECCV 2018).

    For pixels that the next frame hides and the previous one shows: no other term constrains them.

    Args:
        flow_next: (B, 2, H, W) to the next frame.
        flow_previous: (B, 2, H, W) from the same frame to the previous one.
        mask: (B, 1, H, W) bool, where to compare.

    Returns:
        (B,), pixels; 0 for an empty mask.

    Raises:
        TypeError: a flow is not floating-point.
        ValueError: shapes or devices do not fit.
    """
    check_flow(flow_next, "flow_next")
    check_flow(flow_previous, "flow_previous", like=flow_next)
    return masked_charbonnier(flow_next + flow_previous, mask, 0.01)


def _directions(flow: Tensor, image: Tensor, edge_weight: float, order: int) -> Tensor:
    check_flow(flow)
    check_image(image)
    check_same_grid(image, "image", flow)
    total = flow.new_zeros(flow.shape[0])
    for dim in (-1, -2):
        if flow.shape[dim] <= order:
            continue
        change = torch.diff(flow, n=order, dim=dim)
        # For second differences, the edge is between the outer two of three pixels.
        last = image.shape[dim] - order
        edge = image.narrow(dim, order, last) - image.narrow(dim, 0, last)
        weight = torch.exp(-edge_weight * edge.square().mean(1, keepdim=True))
        total = total + (weight * charbonnier(change)).mean((1, 2, 3)) / 2
    return total
