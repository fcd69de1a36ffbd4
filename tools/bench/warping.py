"""Measure ``warp`` against grid_sample, kornia's remap, OpenCV's remap, and a memory copy.

Usage: python tools/bench/warping.py [--threads 1] [--rounds 9] [--only NAME]

The flow is smooth as real flow is (a camera that moves, turns and zooms, with objects on top), and
in the cases named ``rough`` every pixel moves on its own. ``grid cached`` is grid_sample with its
grid made beforehand, which holds only while flow does not change; ``grid per call`` makes it from
flow each time, as a network has to. In half precision they warp in fp32 and round afterwards: torch
2.13's own half-precision backward crashes on the CPU at these sizes. ``copy`` moves the bytes that
a warp must move: it reads an image and a flow field and writes an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import _measure
import cv2
import torch
import torch.nn.functional as F
from kornia.geometry.transform import remap
from torch import Tensor

from flowwarp.ops.fields import coordinate_grid
from flowwarp.ops.warping import warp

SIZES = {"sintel": (436, 1024), "1080p": (1080, 1920)}


def smooth_flow(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x, y = (coordinate_grid(height, width) - torch.tensor([width, height]).view(1, 2, 1, 1) / 2)[0]
    camera = torch.stack([3.3 + 0.01 * x - 0.02 * y, -1.7 + 0.02 * x + 0.01 * y])[None]
    objects = torch.randn(batch, 2, 6, 10, generator=generator) * 6
    objects = F.interpolate(objects, (height, width), mode="bicubic", align_corners=False)
    return camera + objects


def rough_flow(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 2, height, width, generator=generator) * 4


def make_grid(flow: Tensor, positions: Tensor, scale: Tensor) -> Tensor:
    return ((positions + flow) * scale - 1).permute(0, 2, 3, 1)


def sample(image: Tensor, grid: Tensor) -> Tensor:
    out = F.grid_sample(image.float(), grid, "bilinear", "border", align_corners=True)
    return out.to(image.dtype)


def case(
    name: str,
    batch: int,
    channels: int,
    size: str,
    *,
    backward: bool,
    dtype: torch.dtype = torch.float32,
    rough: bool = False,
    channels_last: bool = False,
) -> _measure.Case:
    height, width = SIZES[size]

    def make() -> Mapping[str, _measure.Call]:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(batch, channels, height, width, generator=generator).to(dtype)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        flow = (rough_flow if rough else smooth_flow)(batch, height, width)
        positions = coordinate_grid(height, width)
        scale = torch.tensor([2 / (width - 1), 2 / (height - 1)]).view(1, 2, 1, 1)
        grid = make_grid(flow, positions, scale).contiguous()
        grad = torch.rand(image.shape, generator=generator).to(dtype)
        if channels_last:
            grad = grad.contiguous(memory_format=torch.channels_last)

        def ours(image: Tensor, flow: Tensor) -> Tensor:
            out: Tensor = warp(image, flow)
            return out

        def per_call(image: Tensor, flow: Tensor) -> Tensor:
            return sample(image, make_grid(flow, positions, scale))

        def with_kornia(image: Tensor, flow: Tensor) -> Tensor:
            x, y = (positions + flow).unbind(1)
            return remap(image.float(), x, y, "bilinear", "border", True, False).to(image.dtype)

        functions = {
            "flowwarp": (ours, flow),
            "grid_sample, grid cached": (sample, grid),
            "grid_sample, grid per call": (per_call, flow),
            "kornia remap": (with_kornia, flow),
        }

        def side(function: Any, where: Tensor) -> _measure.Call:
            def forward() -> Any:
                return function(image, where)

            def both() -> Any:
                leaves = image.detach().requires_grad_(), where.detach().requires_grad_()
                out = function(*leaves)
                return out.detach(), *torch.autograd.grad(out, leaves, grad)

            return both if backward else forward

        sides = {label: side(*pair) for label, pair in functions.items()}
        if not backward:
            sides.update(_forward_only(image, flow, positions))
        return sides

    def agree(results: Mapping[str, Any]) -> float:
        ours, theirs = (results[key] for key in ("flowwarp", "grid_sample, grid per call"))
        pairs = zip(ours, theirs, strict=True) if backward else [(ours, theirs)]
        return max(typical_difference(x, y) for x, y in pairs)

    details = {
        "shape": [batch, channels, height, width],
        "dtype": str(dtype).removeprefix("torch."),
        "flow": "rough" if rough else "smooth",
        "pass": "forward+backward" if backward else "forward",
    }
    return _measure.Case(name, make, details, agree, agreement(backward))


def typical_difference(a: Tensor, b: Tensor) -> float:
    """Return the 99.99 % quantile: next to whole pixels the two may read different neighbours."""
    difference = (a.float() - b.float()).abs().flatten()
    return float(difference.kthvalue(max(1, int(difference.numel() * 0.9999)))[0])


def agreement(backward: bool) -> str:
    """Describe :func:`typical_difference`."""
    rest = "; beside whole pixels, where the gradient jumps, more" if backward else ""
    return "99.99 % of values differ by {:.1e} at most" + rest


def _forward_only(image: Tensor, flow: Tensor, positions: Tensor) -> dict[str, _measure.Call]:
    """A copy of the bytes, ours into memory that exists as the copy's does, and OpenCV."""
    batch, channels, height, width = image.shape
    out = torch.empty_like(image)
    traffic = image.new_zeros(batch, channels + 1, height, width)  # flow's two planes are read only
    target = torch.empty_like(traffic)
    sides: dict[str, _measure.Call] = {
        "flowwarp, out=": lambda: warp(image, flow, out=out),
        "copy of the bytes": lambda: target.copy_(traffic),
    }
    if batch == 1 and channels == 3 and image.dtype == torch.float32:
        cv2.setNumThreads(torch.get_num_threads())
        pixels = image[0].permute(1, 2, 0).contiguous().numpy()
        maps = [plane.contiguous().numpy() for plane in (positions + flow)[0]]
        sides["OpenCV remap"] = lambda: cv2.remap(
            pixels, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return sides


CASES = [
    case(
        f"{size}-b{batch}-c{channels}-{direction}",
        batch,
        channels,
        size,
        backward=direction == "both",
    )
    for size, batch, channels in [
        ("sintel", 1, 3),
        ("sintel", 1, 32),
        ("sintel", 1, 96),
        ("sintel", 8, 3),
        ("sintel", 8, 32),
        ("1080p", 1, 3),
        ("1080p", 1, 32),
        ("1080p", 8, 3),
    ]
    for direction in ("forward", "both")
] + [
    case("sintel-b1-c3-rough-both", 1, 3, "sintel", backward=True, rough=True),
    case("sintel-b1-c32-rough-both", 1, 32, "sintel", backward=True, rough=True),
    case("sintel-b1-c32-last-both", 1, 32, "sintel", backward=True, channels_last=True),
    case("sintel-b1-c3-bf16-both", 1, 3, "sintel", backward=True, dtype=torch.bfloat16),
    case("sintel-b1-c32-bf16-both", 1, 32, "sintel", backward=True, dtype=torch.bfloat16),
]

if __name__ == "__main__":
    _measure.main(CASES, (__doc__ or "").splitlines()[0])
