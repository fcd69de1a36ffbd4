"""Measure sum-splatting against what one writes with scatter_add in plain torch.

Usage: python tools/bench/splatting.py [--threads 1] [--rounds 9] [--only NAME]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import _measure
import torch
from torch import Tensor
from warping import SIZES, agreement, rough_flow, smooth_flow, typical_difference

from flowwarp.ops.splatting import splat


def scatter_add(image: Tensor, flow: Tensor) -> Tensor:
    """Four scatter_add of planes, one for each neighbour of the target."""
    batch, channels, height, width = image.shape
    x = torch.arange(width, dtype=flow.dtype) + flow[:, 0]
    y = torch.arange(height, dtype=flow.dtype)[:, None] + flow[:, 1]
    x0, y0 = x.floor(), y.floor()
    out = image.new_zeros(batch, channels, height * width)
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = x0 + dx, y0 + dy
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            weight = torch.where(inside, weight, 0)[:, None]
            index = torch.where(inside, row * width + column, 0).long().flatten(1)[:, None]
            out = out.scatter_add(2, index.expand(-1, channels, -1), (image * weight).flatten(2))
    return out.view_as(image)


def case(name: str, channels: int, *, backward: bool, rough: bool = False) -> _measure.Case:
    height, width = SIZES["sintel"]

    def make() -> Mapping[str, _measure.Call]:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, channels, height, width, generator=generator)
        flow = (rough_flow if rough else smooth_flow)(1, height, width)
        grad = torch.rand(image.shape, generator=generator)

        def side(function: Any) -> _measure.Call:
            def both() -> Any:
                leaves = image.detach().requires_grad_(), flow.detach().requires_grad_()
                out = function(*leaves)
                return out.detach(), *torch.autograd.grad(out, leaves, grad)

            return both if backward else lambda: function(image, flow)

        return {"flowwarp": side(splat), "scatter_add": side(scatter_add)}

    def agree(results: Mapping[str, Any]) -> float:
        ours, theirs = results["flowwarp"], results["scatter_add"]
        pairs = zip(ours, theirs, strict=True) if backward else [(ours, theirs)]
        return max(typical_difference(x, y) for x, y in pairs)

    details = {
        "shape": [1, channels, height, width],
        "flow": "rough" if rough else "smooth",
        "pass": "forward+backward" if backward else "forward",
    }
    return _measure.Case(name, make, details, agree, agreement(backward))


CASES = [
    case("c3-forward", 3, backward=False),
    case("c3-both", 3, backward=True),
    case("c32-forward", 32, backward=False),
    case("c32-both", 32, backward=True),
    case("c3-rough-both", 3, backward=True, rough=True),
]

if __name__ == "__main__":
    _measure.main(CASES, (__doc__ or "").splitlines()[0])
