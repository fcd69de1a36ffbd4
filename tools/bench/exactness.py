"""How exact is a warp? This package beside ``grid_sample`` and ``cv2.remap``, against float64.

python tools/bench/exactness.py

The last line is JSON: the largest absolute error of each on images in [0, 1].
"""

from __future__ import annotations

import json

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp import coordinate_grid, warp

SHAPE = (1, 3, 64, 2048)
CASES = {
    "zero flow, fp32": (torch.float32, 0.0),
    "flow of ±8 px, fp32": (torch.float32, 8.0),
    "flow of ±8 px, fp16": (torch.float16, 8.0),
    "flow of ±8 px, bf16": (torch.bfloat16, 8.0),
}


def main() -> None:
    torch.manual_seed(0)
    image, direction = torch.rand(SHAPE), 2 * torch.rand(1, 2, *SHAPE[2:]) - 1
    errors: dict[str, dict[str, float]] = {}
    for case, (dtype, reach) in CASES.items():
        given, flow = image.to(dtype), reach * direction
        exact = warp(given.double(), flow.double())
        results = {"flowwarp": warp(given, flow), "grid_sample": by_grid_sample(given, flow)}
        if dtype == torch.float32:
            results["cv2.remap"] = by_remap(given, flow)
        errors[case] = {
            name: (result.double() - exact).abs().max().item() for name, result in results.items()
        }
        print(case, *(f"{name} {error:.1e}" for name, error in errors[case].items()), sep="  ")
    unknown = torch.full((1, 2, *SHAPE[2:]), float("nan"))
    for name, warped in (("flowwarp", warp), ("grid_sample", by_grid_sample)):
        print(f"NaN flow  {name} gives {warped(image, unknown)[0, 0, 9, 9]:.3f}")
    print(json.dumps({"torch": torch.__version__, "opencv": cv2.__version__, "errors": errors}))


def by_grid_sample(image: Tensor, flow: Tensor) -> Tensor:
    """Warp as is usual with torch: positions from -1 to 1, in the image's own dtype."""
    height, width = image.shape[-2:]
    position = coordinate_grid(height, width) + flow
    grid = position / torch.tensor([width - 1, height - 1]).view(1, 2, 1, 1) * 2 - 1
    grid = grid.permute(0, 2, 3, 1).to(image.dtype)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=True)


def by_remap(image: Tensor, flow: Tensor) -> Tensor:
    x, y = (coordinate_grid(*image.shape[-2:]) + flow)[0].numpy()
    pixels = image[0].permute(1, 2, 0).contiguous().numpy()
    result = cv2.remap(pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(result).permute(2, 0, 1)[None]


if __name__ == "__main__":
    main()
