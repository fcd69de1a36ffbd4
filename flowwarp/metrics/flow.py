"""Metrics of optical flow against ground truth: EPE, Fl-all and angular error.

Every metric is a mean over the valid pixels of each example, (B,), so that an average over a data
set does not depend on the batch size. Without a valid pixel it is NaN, not 0. An estimate that is
NaN or infinite in a valid pixel makes EPE and AAE NaN or infinite, and is an outlier for Fl-all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowwarp.tensors import check_flow, check_mask


def endpoint_error(flow: Tensor, target: Tensor) -> Tensor:
    """Return the endpoint error of each pixel, the Euclidean distance between two flow vectors.

    Args:
        flow: (B, 2, H, W), pixels; the estimate.
        target: (B, 2, H, W), pixels; the ground truth.

    Returns:
        (B, 1, H, W), pixels, float32 or float64 as the more precise of the two.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: the shapes differ or are not (B, 2, H, W).

    >>> endpoint_error(torch.zeros(1, 2, 1, 1), torch.tensor([3.0, 4.0]).view(1, 2, 1, 1))
    tensor([[[[5.]]]])
    """
    flow, target = _checked(flow, target)
    return _length(flow - target)


def epe(flow: Tensor, target: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Return the mean endpoint error of each example in pixels.

    Args:
        flow: (B, 2, H, W), pixels; the estimate.
        target: (B, 2, H, W), pixels; the ground truth.
        valid: (B, 1, H, W), True where the ground truth exists. Default: everywhere.

    Returns:
        (B,), NaN where no pixel is valid.

    Raises:
        TypeError: a flow is not a floating-point tensor.
        ValueError: shapes or devices do not fit.

    >>> epe(torch.zeros(1, 2, 1, 1), torch.tensor([3.0, 4.0]).view(1, 2, 1, 1))
    tensor([5.])
    """
    flow, target = _checked(flow, target, valid)
    return _mean(_length(flow - target), valid)


def fl_all(flow: Tensor, target: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Return the percentage of outliers of each example, as KITTI 2015 counts them.

    A pixel is an outlier if its endpoint error is more than 3 px **and** more than 5 % of the
    length of the true vector (Menze and Geiger, CVPR 2015).

    Args:
        flow: (B, 2, H, W), pixels; the estimate.
        target: (B, 2, H, W), pixels; the ground truth.
        valid: (B, 1, H, W), True where the ground truth exists. Default: everywhere.

    Returns:
        (B,), percent, NaN where no pixel is valid.

    Raises:
        TypeError: a flow is not a floating-point tensor.
        ValueError: shapes or devices do not fit.

    >>> target = torch.tensor([[10.0, 100.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    >>> fl_all(target + torch.tensor([4.0, 0.0]).view(1, 2, 1, 1), target)  # 40 % off, and 4 %
    tensor([50.])
    """
    flow, target = _checked(flow, target, valid)
    error = _length(flow - target)
    # The negation makes NaN an outlier: every comparison with it is False.
    inlier = (error <= 3) | (error <= 0.05 * _length(target))
    return _mean(100 * (~inlier).to(error.dtype), valid)


def angular_error(flow: Tensor, target: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Return the mean angular error (AAE) of each example in degrees.

    It is the angle between (u, v, 1) and (u*, v*, 1) of Barron et al., "Performance of Optical
    Flow Techniques", IJCV 1994; the 1 keeps short vectors from counting as much as long ones.

    Args:
        flow: (B, 2, H, W), pixels; the estimate.
        target: (B, 2, H, W), pixels; the ground truth.
        valid: (B, 1, H, W), True where the ground truth exists. Default: everywhere.

    Returns:
        (B,), degrees, NaN where no pixel is valid.

    Raises:
        TypeError: a flow is not a floating-point tensor.
        ValueError: shapes or devices do not fit.

    >>> angular_error(torch.zeros(1, 2, 1, 1), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))
    tensor([45.])
    """
    flow, target = _checked(flow, target, valid)
    (u, v), (u_true, v_true) = flow.unbind(1), target.unbind(1)
    # tan = |a × b| / (a · b), a = (u, v, 1), b = (u*, v*, 1). An arc cosine in float32 would round
    # 0.02° to 0, as the cosine is close to 1.
    cross = torch.stack((v - v_true, u_true - u, u * v_true - v * u_true), 1)
    dot = (flow * target).sum(1, keepdim=True) + 1
    angle = torch.rad2deg(torch.atan2(_length(cross), dot))
    # An infinite vector has no angle; atan2(inf, inf) would give 45°.
    return _mean(torch.where(dot.isfinite(), angle, torch.nan), valid)


def _checked(flow: Tensor, target: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Check the arguments; return both flows in at least float32, with 0 where they are not valid.

    Multiplying an error by the mask instead would turn NaN outside it into a NaN gradient.
    """
    check_flow(flow)
    check_flow(target, "target", like=flow)
    dtype = torch.promote_types(torch.promote_types(flow.dtype, target.dtype), torch.float32)
    flow, target = flow.to(dtype), target.to(dtype)
    if valid is None:
        return flow, target
    check_mask(valid, "valid", flow)
    mask = valid.bool()  # (B, 1, H, W)
    return torch.where(mask, flow, 0), torch.where(mask, target, 0)


def _length(vector: Tensor) -> Tensor:
    """Return the Euclidean norm over channels, (B, C, H, W) to (B, 1, H, W)."""
    length: Tensor = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
    return length


def _mean(error: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of (B, 1, H, W) over valid pixels, (B,); the error must be 0 elsewhere."""
    if valid is None:
        return error.mean(dim=(1, 2, 3))
    return error.sum(dim=(1, 2, 3)) / valid.bool().sum(dim=(1, 2, 3))
