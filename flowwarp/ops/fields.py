"""Flow fields as maps: the identity grid, composition, inversion, and change of resolution."""

from __future__ import annotations

import reprlib
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.ops.filters import resize
from flowwarp.ops.splatting import splat
from flowwarp.ops.warping import compute_dtype, warp
from flowwarp.tensors import check_flow, check_pixels, check_whole


def coordinate_grid(
    height: int,
    width: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the position of every pixel, (1, 2, H, W): channel 0 is x, channel 1 is y.

    ``coordinate_grid(...) + flow`` is where a flow field points.

    Args:
        height: H.
        width: W.
        device: of the result.
        dtype: of the result.

    Raises:
        ValueError: a side is not a whole number of at least 0.

    >>> coordinate_grid(2, 3)[0, 0]
    tensor([[0., 1., 2.],
            [0., 1., 2.]])
    """
    for name, side in (("height", height), ("width", width)):
        # torch.export traces with SymInt.
        if not isinstance(side, int | torch.SymInt) or side < 0:
            raise ValueError(f"{name} must be a whole number of at least 0, got {side!r}")
    x = torch.arange(width, device=device, dtype=dtype).expand(height, width)
    y = torch.arange(height, device=device, dtype=dtype)[:, None].expand(height, width)
    return torch.stack([x, y])[None]


def compose(flow_12: Tensor, flow_23: Tensor) -> Tensor:
    """Chain two flow fields: ``flow_13(x) = flow_12(x) + flow_23(x + flow_12(x))``.

    Args:
        flow_12: (B, 2, H, W) from frame 1 to frame 2.
        flow_23: (B, 2, H, W) from frame 2 to frame 3; continued at its border beyond the frame.

    Returns:
        (B, 2, H, W) from frame 1 to frame 3; warping by it equals warping by ``flow_23``, then by
        ``flow_12``, but for one interpolation less. Unknown (NaN or infinite) where ``flow_12`` is.

    Raises:
        ValueError: the shapes differ.

    >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 4)
    >>> compose(right, 2 * right)[0, :, 0, 0]
    tensor([3., 0.])
    """
    check_flow(flow_12, "flow_12")
    check_flow(flow_23, "flow_23", like=flow_12)
    return flow_12 + warp(flow_23, flow_12)


@overload
def invert(flow: Tensor, *, iterations: int = 8, mask: Literal[False] = False) -> Tensor: ...
@overload
def invert(flow: Tensor, *, iterations: int = 8, mask: Literal[True]) -> tuple[Tensor, Tensor]: ...
@overload
def invert(flow: Tensor, *, iterations: int = 8, mask: bool) -> Tensor | tuple[Tensor, Tensor]: ...
def invert(
    flow: Tensor, *, iterations: int = 8, mask: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Turn ``flow_12`` into ``flow_21``, such that going there and back ends where it began.

    A first estimate is splat along the flow and spread into holes; then the fixed point
    ``flow_21(x) = -flow_12(x + flow_21(x))`` (Chen et al., "A simple fixed-point approach to invert
    a deformation field", Medical Physics 2008) is iterated, which converges where the flow's
    gradient is below 1. Pixels that nothing moves to, the disoccluded ones, continue their
    surroundings.

    Args:
        flow: (B, 2, H, W).
            Pixels whose flow is unknown (NaN) send nothing and count as still.
        iterations: steps of the fixed point; 0 keeps the splat estimate.
        mask: also return where something lands.

    Returns:
        (B, 2, H, W); with ``mask=True`` a pair with ``visible`` (B, 1, H, W) bool, False in holes.

    Raises:
        ValueError: the shape is wrong, or ``iterations`` is not a whole number.

    >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    >>> left, visible = invert(right, mask=True)
    >>> left[0, 0], visible[0, 0]
    (tensor([[-1., -1., -1., -1.]]), tensor([[False,  True,  True,  True]]))
    """
    check_flow(flow)
    check_whole(iterations, "iterations", 0)
    ones = torch.ones_like(flow[:, :1])
    known, _ = split_known(flow)
    landed = splat(torch.cat([-known, ones], 1), flow, "sum")
    coverage = landed[:, 2:]
    inverse = fill_holes(landed[:, :2], coverage)
    for _ in range(iterations):
        inverse = -warp(known, inverse)
    return (inverse, coverage > 0) if mask else inverse


def split_known(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return flow with zero where it is unknown, and where it is known.

    It is unknown where either component is NaN or infinite.

    Args:
        flow: (B, 2, H, W).

    Returns:
        (B, 2, H, W), and (B, 1, H, W) bool.
    """
    known = flow.isfinite().all(1, keepdim=True)
    return torch.where(known, flow, 0), known


def fill_holes(values: Tensor, coverage: Tensor) -> Tensor:
    """Divide by coverage; where there is none, take the average around, as far as it needs.

    Pull-push (Gortler et al., "The Lumigraph", SIGGRAPH 1996): average down to a single pixel, then
    fill each level's holes from the coarser one.

    Args:
        values: (B, C, H, W), sums of what landed.
        coverage: (B, 1, H, W), at least 0; how much of it.

    Returns:
        (B, C, H, W); 0 where an example has no coverage anywhere.
    """
    known = coverage > 0
    mean = torch.where(known, values / torch.where(known, coverage, 1), 0)
    # Where no hole is left it goes on in vain: to ask would make the GPU wait, and torch.compile,
    # vmap and fake tensors fail.
    if min(mean.shape[-2:]) == 0 or max(mean.shape[-2:]) == 1:
        return mean
    weight = known.to(mean.dtype)
    size = ((mean.shape[-2] + 1) // 2, (mean.shape[-1] + 1) // 2)
    coarse = F.adaptive_avg_pool2d(mean * weight, size)
    coarse = fill_holes(coarse, F.adaptive_avg_pool2d(weight, size))
    finer = F.interpolate(coarse, mean.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(known, mean, finer)


def resize_flow(flow: Tensor, size: tuple[int, ...] | list[int]) -> Tensor:
    """Change the resolution of a flow field and scale its values with it.

    The geometry is that of image resizing (``cv2.resize``, ``interpolate`` with
    ``align_corners=False``): the outer edges of the outer pixels stay in place, so a pixel becomes
    ``width' / width`` pixels wide, and u grows by just that. Smaller sizes are averaged
    (antialiased), larger ones bilinear; in either case of those pixels whose flow is known.

    Args:
        flow: (B, 2, H, W) in pixels of its own size; NaN or infinite where it is unknown.
        size: the new (height, width).

    Returns:
        (B, 2, *size) in pixels of the new size; NaN where nothing is known of what it is made of.
        At the same size ``flow`` itself, as it is.

    Raises:
        ValueError: ``size`` is not two whole numbers of at least 1, or the flow has no pixels.

    >>> import torch
    >>> resize_flow(torch.ones(1, 2, 4, 4), (4, 8))[0, :, 0, 0]
    tensor([2., 1.])
    """
    check_flow(flow)
    if (
        not isinstance(size, tuple | list)
        or len(size) != 2
        # torch.export traces with SymInt, and check_whole's upper bound would be a guard there.
        or not all(isinstance(side, int | torch.SymInt) and side >= 1 for side in size)
    ):
        wanted = "(height, width), whole numbers of at least 1"
        raise ValueError(f"size must be {wanted}, got {reprlib.repr(size)}")
    height, width = size
    if tuple(flow.shape[-2:]) == (height, width):
        return flow
    check_pixels(flow, "flow")
    still, known = split_known(flow)
    wide = still.to(compute_dtype(flow))
    scale = wide.new_tensor([width / flow.shape[-1], height / flow.shape[-2]]).view(1, 2, 1, 1)
    resized, share = (resize(part, (height, width)) for part in (wide, known.to(wide.dtype)))
    # Flow that is known everywhere must not change by rounding, nor its gradient become 0 / 0.
    divisor = torch.where((share > 0) & (share < 1 - 1e-5), share, 1)
    return torch.where(share > 0, resized * scale / divisor, torch.nan).to(flow.dtype)
