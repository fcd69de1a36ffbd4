"""Measure the cost volume against what one writes in plain torch.

Usage: python tools/bench/correlation.py [--threads 1] [--rounds 9] [--only NAME]

Sizes are 1/8 and 1/4 of a 436 x 1024 frame, and 1/8 with more channels and in half precision. The
others, on the same tensors: an unfolded image and an einsum (short, and slow); views of the padded
image, multiplied and averaged, which has no copy of the image but one of all products; a loop over
shifted slices that stacks its planes (PWC-Net's usual port, and our reference).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import _measure
import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.ops.correlation import correlation, correlation_reference


def unfold_einsum(a: Tensor, b: Tensor, radius: int) -> Tensor:
    batch, channels, height, width = a.shape
    side = 2 * radius + 1
    patches = F.unfold(b, side, padding=radius).view(batch, channels, side**2, height, width)
    return torch.einsum("bchw,bckhw->bkhw", a, patches) / channels


def views(a: Tensor, b: Tensor, radius: int) -> Tensor:
    height, width = a.shape[-2:]
    shifted = F.pad(b, [radius] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return (a[:, :, None, None] * shifted).mean(1).flatten(1, 2)  # shifted: (B, C, k, k, H, W)


def case(
    name: str, shape: tuple[int, ...], backward: bool, dtype: torch.dtype = torch.float32
) -> _measure.Case:
    radius = 4

    def make() -> Mapping[str, _measure.Call]:
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        planes = (shape[0], (2 * radius + 1) ** 2, *shape[2:])
        grad = torch.randn(planes, generator=generator).to(dtype)

        def side(volume: Callable[[Tensor, Tensor, int], Tensor]) -> _measure.Call:
            def forward() -> Any:
                return volume(a, b, radius)

            def both() -> Any:
                left, right = a.requires_grad_(), b.requires_grad_()
                return torch.autograd.grad(volume(left, right, radius), (left, right), grad)

            return both if backward else forward

        return {
            "flowwarp": side(correlation),
            "unfold + einsum": side(unfold_einsum),
            "views, product, mean": side(views),
            "shifted slices": side(correlation_reference),
        }

    def agree(results: Mapping[str, Any]) -> float:
        ours, theirs = (results[key] for key in ("flowwarp", "unfold + einsum"))
        pairs = zip(ours, theirs, strict=True) if backward else [(ours, theirs)]
        return max(float((x.double() - y.double()).abs().max()) for x, y in pairs)

    details = {
        "shape": list(shape),
        "radius": radius,
        "dtype": str(dtype).removeprefix("torch."),
        "pass": "forward+backward" if backward else "forward",
    }
    return _measure.Case(name, make, details, agree)


CASES = [
    case("eighth", (1, 32, 54, 128), backward=False),
    case("eighth-backward", (1, 32, 54, 128), backward=True),
    case("eighth-wide", (1, 128, 54, 128), backward=False),
    case("eighth-bf16", (1, 32, 54, 128), backward=False, dtype=torch.bfloat16),
    case("quarter", (1, 32, 109, 256), backward=False),
    case("quarter-backward", (1, 32, 109, 256), backward=True),
]

if __name__ == "__main__":
    _measure.main(CASES, (__doc__ or "").splitlines()[0])
