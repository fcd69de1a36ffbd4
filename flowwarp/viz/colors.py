"""Flow as colour: the hue is the direction, the saturation is the magnitude.

The colour wheel is that of Baker et al., "A Database and Evaluation Methodology for Optical Flow",
IJCV 2011, which most papers use: right is red, down yellow, left cyan, up violet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowwarp.tensors import check_flow, check_mask
from flowwarp.viz.text import ADVANCE, HEIGHT, text_mask

UNKNOWN = 1e9  # in Middlebury's .flo files larger values mark unknown pixels

# Arcs of the wheel: the first colour of each, and the number of colours up to the next arc. The eye
# distinguishes oranges better than greens, so the arcs have different lengths.
_ARCS = (
    ((1, 0, 0), 15),  # red to yellow
    ((1, 1, 0), 6),  # yellow to green
    ((0, 1, 0), 4),  # green to cyan
    ((0, 1, 1), 11),  # cyan to blue
    ((0, 0, 1), 13),  # blue to magenta
    ((1, 0, 1), 6),  # magenta to red
)


def flow_to_image(
    flow: Tensor, *, max_flow: float | Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """Colour a flow field by the Middlebury wheel.

    No motion is white; the hue is the direction, and the colour is fully saturated at ``max_flow``.
    Faster pixels keep their hue and are darkened to 75 %, as in the Middlebury code.

    Args:
        flow: (B, 2, H, W) or (2, H, W), pixels.
        max_flow: the magnitude in pixels at full saturation; one number, or (B,). Default:
            ``robust_maximum`` of each example, on which a few outliers have no influence. With one
            number for all, images are comparable.
        valid: (B, 1, H, W) or (1, H, W), True where the flow is known. Pixels that are unknown, not
            finite or beyond 1e9 px are black.

    Returns:
        (B, 3, H, W) or (3, H, W), float32 RGB in [0, 1]. Not differentiable.

    Raises:
        TypeError: ``flow`` is not a floating-point tensor.
        ValueError: a shape does not fit, or ``max_flow`` is not positive and finite.

    >>> right = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    >>> flow_to_image(right, max_flow=1).flatten()
    tensor([1., 0., 0.])
    """
    if isinstance(flow, Tensor) and flow.ndim == 3:
        batched = None if valid is None else valid[None]
        return flow_to_image(flow[None], max_flow=max_flow, valid=batched)[0]
    flow, known = split_known(flow, valid)
    if max_flow is None:
        scale = _robust_maximum(flow, known)
    else:
        scale = torch.as_tensor(max_flow, dtype=torch.float32, device=flow.device)
        if not bool(((scale > 0) & scale.isfinite()).all()):
            raise ValueError(f"max_flow must be positive and finite, got {max_flow}")
        if scale.ndim > 1 or (scale.ndim == 1 and len(scale) != len(flow)):
            raise ValueError(
                f"max_flow must be one number or ({len(flow)},), got {tuple(scale.shape)}"
            )

    u, v = flow.unbind(1)  # (B, H, W)
    radius = torch.hypot(u, v) / scale.view(-1, 1, 1)
    wheel = color_wheel().to(flow.device)  # (55, 3)
    # Angles from -pi to pi become positions 0 to 54. They do not wrap from the last colour to the
    # first: the original has the same seam.
    position = (torch.atan2(-v, -u) / math.pi + 1) / 2 * (len(wheel) - 1)  # (B, H, W)
    below = position.long().clamp(0, len(wheel) - 2)
    hue = torch.lerp(wheel[below], wheel[below + 1], (position - below)[..., None])  # (B, H, W, 3)

    color = 1 - radius.clamp(max=1)[..., None] * (1 - hue)
    # A maximum measured on the same flow may be smaller by a rounding, which is not "faster".
    color = torch.where(radius[..., None] > 1 + 1e-6, 0.75 * hue, color)
    return (color.clamp(0, 1) * known.squeeze(1)[..., None]).permute(0, 3, 1, 2).contiguous()


def robust_maximum(flow: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Return the 99th percentile of the magnitudes of each example.

    Pixels without motion do not count, so that a small object in front of a static background sets
    the scale.

    Args:
        flow: (B, 2, H, W), pixels.
        valid: (B, 1, H, W), True where the flow is known.

    Returns:
        (B,) float32, pixels; 1 where nothing moves, so that it can be a divisor.

    Raises:
        TypeError: ``flow`` is not a floating-point tensor.
        ValueError: a shape does not fit.

    >>> robust_maximum(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1))
    tensor([5.])
    """
    return _robust_maximum(*split_known(flow, valid))


def color_wheel() -> Tensor:
    """Return the 55 colours of the wheel, (55, 3) float32 RGB in [0, 1], from red to yellow and on.

    >>> color_wheel()[[0, 15, 21, 25, 36, 49]].int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]]
    """
    arcs = []
    for index, (first, count) in enumerate(_ARCS):
        start = torch.tensor(first)
        change = torch.tensor(_ARCS[(index + 1) % len(_ARCS)][0]) - start
        level = 255 * torch.arange(count) // count  # integers, as in the original
        arcs.append(start * 255 + change * level[:, None])
    return torch.cat(arcs).float() / 255


def legend(max_flow: float, size: int = 96) -> Tensor:
    """Draw the colour wheel, and below it the magnitude at its rim.

    Args:
        max_flow: the magnitude in pixels at the rim.
        size: width of the image in pixels, at least 80 so that every number fits.

    Returns:
        (3, size + 16, size) float32 RGB in [0, 1], on white.

    Raises:
        ValueError: ``size`` is too small, or ``max_flow`` is not in (0, 1e9].
    """
    if size < 80:
        raise ValueError(f"size must be at least 80, got {size}")
    if not 0 < max_flow <= UNKNOWN:
        raise ValueError(f"max_flow must be positive and at most 1e9, got {max_flow}")
    radius = (size - 1) / 2  # of the disc, in pixels
    axis = (torch.arange(size) - radius) / radius  # unlike linspace, exactly 0 in the middle
    disc = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))  # (2, size, size): x, y
    colors = flow_to_image(disc, max_flow=1)
    # Distance to the rim in pixels: the disc fades to white over the last one.
    coverage = ((1 - torch.hypot(disc[0], disc[1])) * radius).clamp(0, 1)

    picture = torch.ones(3, size + 16, size)
    picture[:, :size] = 1 - coverage * (1 - colors)
    text = f"{max_flow:.3g} px" if max_flow < 1000 else f"{max_flow:.0f} px"
    zoom = 2 if 2 * ADVANCE * len(text) <= size else 1
    ink = text_mask(text).repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    left = (size - ink.shape[1]) // 2
    picture[:, size + 1 : size + 1 + zoom * HEIGHT, left : left + ink.shape[1]] = 1 - ink
    return picture


def split_known(flow: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Split flow into known vectors and the mask of where they are.

    Args:
        flow: (B, 2, H, W), pixels.
        valid: (B, 1, H, W), True where the flow is known, or None.

    Returns:
        The flow in float32, 0 where it is unknown, not finite or beyond 1e9 px; and the mask, (B,
        1, H, W) bool, False there.
    """
    check_flow(flow)
    # Adding 0 turns -0.0 into 0.0: atan2 maps the two to opposite ends of the wheel.
    flow = flow.detach().float() + 0.0
    known = (flow.abs() <= UNKNOWN).all(1, keepdim=True)  # (B, 1, H, W), False for NaN
    if valid is not None:
        check_mask(valid, "valid", flow)
        known &= valid.bool()
    return torch.where(known, flow, 0.0), known


def _robust_maximum(flow: Tensor, known: Tensor) -> Tensor:
    """Return (B,) of flow (B, 2, H, W) and the mask of what is known, (B, 1, H, W)."""
    scale = flow.new_ones(len(flow))
    for index, magnitude in enumerate(torch.hypot(flow[:, 0], flow[:, 1])):
        moving = magnitude[known[index, 0] & (magnitude > 0)]
        if moving.numel():  # by nearest rank; torch.quantile takes 16 million values at most
            scale[index] = moving.kthvalue(math.ceil(0.99 * moving.numel())).values
    return scale
