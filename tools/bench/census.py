"""Measure the census distance against what one writes in plain torch.

Usage: python tools/bench/census.py [--threads 1] [--rounds 9] [--only NAME]

Sizes are a 436 x 1024 frame and training crops. The others: as in ARFlow's ternary loss, two
transforms by a convolution with one-hot kernels, 49 channels each, then the distance over them; and
our reference, which sums over shifted slices. The convolution keeps a full-size border by zero
padding; the comparison of results, relative to the largest value, leaves the border out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import _measure
import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.ops.census import GREY_WEIGHTS, census_distance, census_distance_reference

AGREEMENT = "results differ by {:.1e} of the largest value at most, borders left out"


def one_hot_convolution(image1: Tensor, image2: Tensor, radius: int) -> Tensor:
    side = 2 * radius + 1
    kernels = torch.eye(side**2).view(side**2, 1, side, side).to(image1.dtype)
    weights = torch.tensor(GREY_WEIGHTS, dtype=image1.dtype).view(1, 3, 1, 1)

    def transform(image: Tensor) -> Tensor:
        grey = 255 * (weights * image).sum(1, keepdim=True)
        difference = F.conv2d(grey, kernels, padding=radius) - grey
        return difference / torch.sqrt(0.81 + difference**2)

    square = (transform(image1) - transform(image2)) ** 2
    return (square / (0.1 + square)).sum(1, keepdim=True) / (side**2 - 1)


def case(name: str, shape: tuple[int, ...], backward: bool) -> _measure.Case:
    radius = 3

    def make() -> Mapping[str, _measure.Call]:
        generator = torch.Generator().manual_seed(0)
        image1 = torch.rand(shape, generator=generator)
        image2 = image1 + 0.02 * torch.randn(shape, generator=generator)
        grad = torch.rand((shape[0], 1, *shape[2:]), generator=generator)

        def side(distance: Callable[[Tensor, Tensor, int], Tensor]) -> _measure.Call:
            def forward() -> Any:
                return distance(image1, image2, radius)

            def both() -> Any:
                pair = image1.requires_grad_(), image2.requires_grad_()
                return torch.autograd.grad(distance(*pair, radius), pair, grad)

            return both if backward else forward

        return {
            "flowwarp": side(census_distance),
            "one-hot convolution": side(one_hot_convolution),
            "shifted slices": side(census_distance_reference),
        }

    def agree(results: Mapping[str, Any]) -> float:
        ours, theirs = (results[key] for key in ("flowwarp", "one-hot convolution"))
        inner = slice(2 * radius, -2 * radius)
        pairs = zip(ours, theirs, strict=True) if backward else [(ours, theirs)]
        errors = ((x - y)[..., inner, inner].abs().max() / y.abs().max() for x, y in pairs)
        return max(float(error) for error in errors)

    details = {
        "shape": list(shape),
        "radius": radius,
        "dtype": "float32",
        "pass": "forward+backward" if backward else "forward",
    }
    return _measure.Case(name, make, details, agree, AGREEMENT)


CASES = [
    case("crop", (1, 3, 128, 256), backward=False),
    case("crop-backward", (1, 3, 128, 256), backward=True),
    case("frame", (1, 3, 436, 1024), backward=False),
    case("frame-backward", (1, 3, 436, 1024), backward=True),
    case("batch-backward", (8, 3, 128, 256), backward=True),
]

if __name__ == "__main__":
    _measure.main(CASES, (__doc__ or "").splitlines()[0])
