"""Measure refinement: its presets from a start of DIS and by itself, beside OpenCV's DIS.

Usage: python tools/bench/refine.py [--threads 2] [--rounds 5] [--only NAME]

A 480 x 640 pair of a random picture and one warped from it; the error that *best* leaves is given
too. DIS's solver and the grey pictures it reads are made beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import _measure
import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.cli.eval_flow import from_rows, to_grey
from flowwarp.metrics.flow import epe
from flowwarp.ops.variational import relax, relax_reference, weighted_median
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow.matches import match_flow
from flowwarp.pipelines.flow.refine import refine

HEIGHT, WIDTH = 480, 640


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Return two pictures and the flow between them: smooth, up to about 12 px."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(1, 3, HEIGHT, WIDTH)
    for cell in (3, 8, 24):
        noise = torch.rand(1, 3, HEIGHT // cell, WIDTH // cell, generator=generator)
        picture += F.interpolate(noise, (HEIGHT, WIDTH), mode="bicubic") / 3
    coarse = 6 * torch.randn(1, 2, 4, 5, generator=generator)
    flow = F.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic", align_corners=True)
    return warp(picture, flow, mode="bicubic"), picture, flow


def dis(image1: Tensor, image2: Tensor) -> Callable[[], Tensor]:
    """Return a call that estimates flow; its solver is made before."""
    solver: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    greys = [to_grey(image) for image in (image1, image2)]
    return lambda: from_rows(solver.calc(*greys, None))


def whole() -> _measure.Case:
    def make() -> Mapping[str, _measure.Call]:
        image1, image2, _ = scene()
        cv2.setNumThreads(torch.get_num_threads())
        by_dis = dis(image1, image2)
        start = by_dis()
        return {
            "balanced": lambda: refine(image1, image2, quality="balanced"),
            "best": lambda: refine(image1, image2, quality="best"),
            "balanced, from DIS": lambda: refine(image1, image2, start, quality="balanced"),
            "matching alone": lambda: match_flow(image1, image2),
            "OpenCV DIS medium": by_dis,
        }

    def agree(results: Mapping[str, Any]) -> float:
        _, _, flow = scene()
        return float(epe(results["best"], flow))

    details = {"shape": [1, 3, HEIGHT, WIDTH], "dtype": "float32"}
    return _measure.Case("refine", make, details, agree, "the EPE of best is {:.3f} px")


def part(
    name: str, make: Callable[[], Mapping[str, _measure.Call]], **details: Any
) -> _measure.Case:
    return _measure.Case(name, make, {"shape": [1, 2, HEIGHT, WIDTH], **details})


def relaxation() -> Mapping[str, _measure.Call]:
    generator = torch.Generator().manual_seed(0)
    equations = torch.rand(1, 5, HEIGHT, WIDTH, generator=generator)
    equations[:, 1] *= 0.1
    weights, flow = (torch.rand(1, 2, HEIGHT, WIDTH, generator=generator) for _ in range(2))
    return {
        "flowwarp": lambda: relax(equations, weights, flow, sweeps=10),
        "plain torch": lambda: relax_reference(equations, weights, flow, sweeps=10),
    }


def median() -> Mapping[str, _measure.Call]:
    image, _, flow = scene()
    known = torch.ones(1, 1, HEIGHT, WIDTH)

    def call(radius: int) -> _measure.Call:
        return lambda: weighted_median(
            flow, image, known, radius=radius, sigma_space=7, sigma_colour=0.05
        )

    return {"15 x 15": call(7), "9 x 9": call(4), "5 x 5": call(2)}


CASES = [
    whole(),
    part("relaxation", relaxation, sweeps=10),
    part("weighted median", median),
]

if __name__ == "__main__":
    _measure.main(CASES, (__doc__ or "").splitlines()[0])
