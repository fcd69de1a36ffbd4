"""How well a warped frame matches the other: Charbonnier, census, SSIM, gradient constancy.

Every loss returns one number per example, (B,), so that every example counts equally, whatever the
batch size or accumulation. A mask (B, 1, H, W) selects the pixels that count; if it is empty, the
loss is 0. Census, SSIM and gradients also read the neighbours of these pixels, masked or not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.ops.census import census_distance
from flowwarp.ops.filters import forward_differences
from flowwarp.ops.warping import compute_dtype, warp
from flowwarp.tensors import check_image, check_mask, check_same_grid


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average over the masked pixels of each example.

    Args:
        values: (B, C, H, W).
        mask: (B, 1, H, W), bool or weights; None for all pixels.

    Returns:
        (B,); 0 for an example whose mask is empty.

    Raises:
        ValueError: the mask does not fit.

    >>> values = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])
    >>> masked_mean(values, torch.tensor([[[[True, False]]], [[[False, False]]]]))
    tensor([1., 0.])
    """
    if mask is None:
        return values.mean((1, 2, 3))
    check_mask(mask, "mask", values)
    weight = mask.to(values.dtype)
    # Not values * weight alone: 0 * inf is NaN, and masked values may be infinite.
    weighted = torch.where(weight > 0, values * weight, 0)
    # The largest fp16 is 65,504: sums need a wider type.
    wide = compute_dtype(values)
    total, count = weighted.mean(1).sum((1, 2), dtype=wide), weight.sum((1, 2, 3), dtype=wide)
    return (total / torch.where(count != 0, count, 1)).to(values.dtype)


def charbonnier(difference: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Return ``(x^2 + epsilon^2)^0.5``, a smooth absolute value (Bruhn et al., IJCV 2005)."""
    return (difference.square() + epsilon**2).pow(0.5)


def masked_charbonnier(
    difference: Tensor, mask: Tensor | None = None, epsilon: float = 1e-3
) -> Tensor:
    """Return the mean of :func:`charbonnier` over channels and masked pixels, (B,).

    Args:
        difference: (B, C, H, W); outside of the mask it may be infinite or NaN.
        mask: (B, 1, H, W), bool or weights; None for all pixels.
        epsilon: as for :func:`charbonnier`.
    """
    if mask is not None:  # before squaring: the gradient of inf would be NaN, even times 0
        check_mask(mask, "mask", difference)
        difference = torch.where(mask > 0, difference, 0)
    return masked_mean(charbonnier(difference, epsilon), mask)


def charbonnier_loss(image1: Tensor, warped2: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compare colours: the mean of :func:`charbonnier` over channels and masked pixels, (B,)."""
    _check_pair(image1, warped2)
    return masked_charbonnier(image1 - warped2, mask)


def census_loss(
    image1: Tensor, warped2: Tensor, mask: Tensor | None = None, radius: int = 3
) -> Tensor:
    """Compare neighbourhoods: Charbonnier of the soft census distance (UnFlow; UFlow), (B,).

    Adding light changes nothing, and multiplying hardly anything. A pixel nearer to the border than
    ``radius`` does not count, since a part of its neighbourhood is outside the frame.
    """
    _check_pair(image1, warped2)
    distance = census_distance(image1, warped2, radius)
    inner = torch.zeros_like(distance, dtype=torch.bool)
    inner[..., radius : -radius or None, radius : -radius or None] = True
    if mask is not None:
        check_mask(mask, "mask", distance)
    weight = inner if mask is None else inner * mask
    return masked_charbonnier(distance, weight)


def ssim_distance(image1: Tensor, image2: Tensor) -> Tensor:
    """Return ``(1 - SSIM) / 2`` over windows of 3 x 3 pixels (Wang et al., 2004), in [0, 1].

    Args:
        image1: (B, C, H, W) in [0, 1].
        image2: (B, C, H, W) in [0, 1].

    Returns:
        (B, C, H, W); windows continue over the edge by reflection.
    """
    _check_pair(image1, image2, "image2")
    c1, c2 = 0.01**2, 0.03**2  # the paper's constants for a range of 1
    # A variance is a small difference of large squares: half precision would leave rounding only.
    dtype = torch.promote_types(image1.dtype, image2.dtype)
    padded1, padded2 = (_reflect(image.to(compute_dtype(image)), 1) for image in (image1, image2))
    mean1, mean2 = F.avg_pool2d(padded1, 3, 1), F.avg_pool2d(padded2, 3, 1)
    variance1 = F.avg_pool2d(padded1.square(), 3, 1) - mean1.square()
    variance2 = F.avg_pool2d(padded2.square(), 3, 1) - mean2.square()
    covariance = F.avg_pool2d(padded1 * padded2, 3, 1) - mean1 * mean2
    similarity = (2 * mean1 * mean2 + c1) * (2 * covariance + c2)
    similarity = similarity / (
        (mean1.square() + mean2.square() + c1) * (variance1 + variance2 + c2)
    )
    return ((1 - similarity) / 2).clamp(0, 1).to(dtype)


def ssim_loss(image1: Tensor, warped2: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compare local structure: the mean :func:`ssim_distance` of masked pixels, (B,)."""
    _check_pair(image1, warped2)
    return masked_mean(ssim_distance(image1, warped2), mask)


def gradient_loss(image1: Tensor, warped2: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compare derivatives (Brox et al., ECCV 2004, equation 2): blind to added light, (B,)."""
    _check_pair(image1, warped2)
    difference = image1 - warped2
    dx, dy = forward_differences(difference)
    return masked_charbonnier(dx, mask) + masked_charbonnier(dy, mask)


# The losses that compare frame 1 with frame 2 warped onto it, by the names of their weights.
PHOTOMETRIC = {
    "census": census_loss,
    "charbonnier": charbonnier_loss,
    "ssim": ssim_loss,
    "gradient": gradient_loss,
}


def warp_crop(image2: Tensor, flow: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """Warp a whole frame onto a crop, so that motion out of the crop still finds its pixels.

    This is full-image warping (SMURF, Stone et al., CVPR 2021).

    Args:
        image2: (B, C, H + 2 * margin, W + 2 * margin), the frame around the crop.
        flow: (B, 2, H, W), the crop's.
        margin: pixels of the frame around the crop on each side.

    Returns:
        (B, C, H, W), and ``valid`` (B, 1, H, W): where the frame has the pixel.
    """
    if margin == 0:
        return warp(image2, flow, mask=True)
    inner = slice(margin, -margin)
    # Positions are those of the frame, so the flow is padded; results in the margin are cut off.
    warped, valid = warp(image2, F.pad(flow, (margin,) * 4), mask=True)
    return warped[..., inner, inner], valid[..., inner, inner]


def _check_pair(image1: Tensor, second: Tensor, name: str = "warped2") -> None:
    """Refuse images of different shapes: one would be broadcast to the other."""
    check_image(image1, "image1")
    check_image(second, name)
    check_same_grid(second, name, image1, image1.shape[1])


def _reflect(image: Tensor, width: int) -> Tensor:
    # Reflection needs more pixels than the padding; for one pixel, replication is the same.
    kind = "reflect" if min(image.shape[-2:]) > width else "replicate"
    return F.pad(image, (width,) * 4, mode=kind)
