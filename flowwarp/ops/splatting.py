"""Forward warping: add each pixel of an image where its flow points.

Splatting is the adjoint of bilinear warping with zeros outside, so it has no kernel of its own:
its forward is the image gradient of ``warp``, and its backward is ``warp`` and ``warp``'s flow
gradient (``cuda/warping.h``).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from flowwarp.ops._dispatch import needs_reference
from flowwarp.ops.warping import compute_dtype, warp_image_gradient
from flowwarp.tensors import check_choice, check_flow, check_image, check_same_grid

SplatMode = Literal["sum", "average", "linear", "softmax"]
MODES = ("sum", "average", "linear", "softmax")


def splat(
    image: Tensor, flow: Tensor, mode: SplatMode = "sum", weight: Tensor | None = None
) -> Tensor:
    """Warp an image forward by a flow field: pixel (x, y) is added around (x + u, y + v).

    Each pixel is shared among the four around its target by bilinear weights b; what falls outside
    the image is lost. With ``flow_12``, ``splat(image1, flow_12, "average")`` looks like image 2
    where image 1 shows it; a sum is too bright where pixels meet. Differentiable twice in all
    arguments. The modes follow Niklaus and Liu,
    "Softmax Splatting for Video Frame Interpolation" (CVPR 2020), equations 3 to 9:

    * ``"sum"``: the sum of b * image;
    * ``"average"``: divided by the sum of b, so that pixels that meet share the place;
    * ``"linear"``: weighted by ``weight``, the sum of b * weight * image / the sum of b * weight;
    * ``"softmax"``: ``"linear"`` with exp(``weight``): the larger wins, whatever is added to all.

    Args:
        image: (B, C, H, W), fp64, fp32, fp16 or bf16.
        flow: (B, 2, H, W) in pixels, x then y.
        mode: how pixels that meet are combined.
        weight: (B, 1, H, W), the importance of each pixel: for ``"linear"`` at least 0, for
            ``"softmax"`` any; pixels 87 below the largest of their example (of those whose flow
            is finite) vanish in fp32, -inf counts for nothing, and NaN or inf makes NaN of where
            the pixel lands. Only for these two modes.

    Returns:
        (B, C, H, W) like ``image``; 0 where nothing lands. Pixels whose flow is NaN or infinite
        land nowhere.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: a shape, device or mode does not fit, or ``weight`` is missing or not wanted.

    >>> import torch
    >>> image = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> flow = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    >>> splat(image, flow)
    tensor([[[[0., 1., 2.]]]])
    """
    check_image(image)
    check_flow(flow, like=image)
    check_choice(mode, "mode", MODES)
    flow = flow.to(compute_dtype(image))
    if mode == "sum" and weight is None:
        return _splat_sum(image, flow)
    share = _share(image, flow, mode, weight)  # (B, 1, H, W)
    # Sums are fp32: a half-precision sum of weights would round twice.
    together = torch.cat([image.to(share.dtype) * share, share], 1)
    total = _splat_sum(together, flow)
    values, shares = total[:, :-1], total[:, -1:]
    covered = shares != 0
    return torch.where(covered, values / torch.where(covered, shares, 1), 0).to(image.dtype)


def splat_reference(image: Tensor, flow: Tensor) -> Tensor:
    """Sum-splat in plain torch: :func:`splat` with ``mode="sum"``, by ``index_add``.

    Args:
        image: (B, C, H, W).
        flow: (B, 2, H, W), fp32 or fp64.
    """
    batch, channels, height, width = image.shape
    finite = torch.isfinite(flow).all(1)  # (B, H, W)
    u, v = torch.where(finite[:, None], flow, 0).clamp(-(2.0**30), 2.0**30).unbind(1)
    x0 = torch.arange(width, device=flow.device) + u.floor().long()
    y0 = torch.arange(height, device=flow.device)[:, None] + v.floor().long()
    right, low = u - u.floor(), v - v.floor()
    example = torch.arange(batch, device=flow.device)[:, None, None]
    pixels = image.to(flow.dtype).movedim(1, -1)  # (B, H, W, C)
    total = pixels.new_zeros(batch * height * width, channels)
    for dy, weight_y in ((0, 1 - low), (1, low)):
        for dx, weight_x in ((0, 1 - right), (1, right)):
            x, y = x0 + dx, y0 + dy
            lands = finite & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            target = torch.where(lands, (example * height + y) * width + x, 0)
            weight = torch.where(lands, weight_y * weight_x, 0)
            weight = weight[..., None]
            # 0 * inf is NaN: a pixel that lands elsewhere must not count here.
            value = torch.where((weight == 0) & ~pixels.isfinite(), 0, pixels) * weight
            total = total.index_add(0, target.flatten(), value.flatten(0, 2))
    return total.view(batch, height, width, channels).movedim(-1, 1).to(image.dtype)


def _splat_sum(image: Tensor, flow: Tensor) -> Tensor:
    if needs_reference(image, flow):
        return splat_reference(image, flow)
    result: Tensor = warp_image_gradient(image, flow, "bilinear", "zeros")
    return result


def _share(image: Tensor, flow: Tensor, mode: str, weight: Tensor | None) -> Tensor:
    """Return the weight of each pixel, (B, 1, H, W), in the dtype of the sums."""
    if mode in ("sum", "average"):
        if weight is not None:
            raise ValueError(f"weight is for the modes linear and softmax, not {mode}")
        return image.new_ones((image.shape[0], 1, *image.shape[2:]), dtype=compute_dtype(image))
    if weight is None:
        raise ValueError(f"weight is needed for mode {mode}")
    check_image(weight, "weight")
    check_same_grid(weight, "weight", image, 1)
    weight = weight.to(compute_dtype(image))
    if mode == "linear" or not weight.numel():
        return weight
    # A pixel that lands nowhere must not set the maximum below. Masked before exp, whose derivative
    # would be inf.
    weight = weight.masked_fill(~flow.isfinite().all(1, keepdim=True), -math.inf)
    # Subtract the maximum of each example: exp cannot overflow, and the quotients stay the same.
    least = torch.finfo(weight.dtype).min
    largest = weight.detach().nan_to_num(least, least, least).amax((1, 2, 3), keepdim=True)
    return torch.exp(weight - largest)
