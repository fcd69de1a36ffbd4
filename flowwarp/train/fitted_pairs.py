"""Pairs of frames with fitted flow, which teach a network large motion from its first step.

The gradient of a photometric loss reaches a pixel or so, and learning motion of tens of pixels from
it takes days. A fit without a network (matched descriptors, then a variational fit,
``pipelines/flow/refine.py``) finds such motion in a third of a second, and needs no labels either.
Where its two directions agree, the network learns this flow beside the photometric loss (proxy
ground truth: Zhu et al., "Guided Optical Flow Learning", CVPR 2017 workshops).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.data.frame_store import store_folder
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.pipelines.flow.matches import match_flow
from flowwarp.pipelines.flow.refine import RefineConfig, refine
from flowwarp.train.arrays import Kind, fill_arrays

FIT = RefineConfig(match=False, levels=3, warps=2, inner=1, median_radius=5)
_VERSION = 2  # part of the cache's key; raise it when the fit changes

DrawPair = Callable[[int], tuple[Tensor, Tensor]]  # from a number to frames, (1, 3, H, W) each


@final
class FittedPairs:
    """Pairs of frames and the flow fitted to them, memory-mapped.

    ``fitted[i]`` is (frames, flows): uint8 (2, 3, H, W), and float32 (2, 2, H / 2, W / 2), forward
    and backward in pixels of that half size, NaN where the directions do not agree.

    Args:
        folder: made by :func:`fit_pairs`.
    """

    def __init__(self, folder: Path) -> None:
        self._frames = np.load(folder / "frames.npy", mmap_mode="r")
        self._flows = np.load(folder / "flows.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        frames, flows = np.array(self._frames[index]), np.array(self._flows[index])
        return torch.from_numpy(frames), torch.from_numpy(flows).float()


def fit_pairs(
    draw: DrawPair,
    key: str,
    count: int,
    size: tuple[int, int],
    *,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FittedPairs:
    """Fit flow to pairs; a second call with the same key returns at once, a stopped one resumes.

    Args:
        draw: a pure function from the number of a pair to its frames.
        key: identifies everything that ``draw`` depends on.
        count: number of pairs.
        size: (height, width) of the frames, both even.
        cache: folder of the cache. Default: as for footage.
        progress: called with (pairs done, pairs in all); first with 0, before any space is
            allocated.

    Raises:
        OutputError: the cache cannot be written.
        Locked: another process fits these pairs.
    """
    digest = hashlib.sha256(repr((_VERSION, key, count, size)).encode()).hexdigest()[:20]
    folder = store_folder(cache) / f"fitted-{digest}"

    def make(number: int) -> dict[str, NDArray[Any]]:
        image1, image2 = draw(number)
        return {
            "frames": torch.cat([image1, image2]).mul(255).round_().byte().numpy(),
            "flows": fit(image1, image2).half().numpy(),
        }

    problem = "another process fits these pairs"
    fill_arrays(folder, _rows(size), count, make, problem=problem, progress=progress)
    return FittedPairs(folder)


def disk_space(count: int, size: tuple[int, int]) -> int:
    """Return how many bytes the pairs of :func:`fit_pairs` take."""
    return count * sum(math.prod(shape) * kind(0).nbytes for shape, kind in _rows(size).values())


def _rows(size: tuple[int, int]) -> dict[str, Kind]:
    height, width = size
    return {
        "frames": ((2, 3, height, width), np.uint8),
        "flows": ((2, 2, height // 2, width // 2), np.float16),
    }


@torch.no_grad()
def fit(image1: Tensor, image2: Tensor) -> Tensor:
    """Fit flow of a pair at half its size, in both directions.

    Args:
        image1: (1, 3, H, W) in [0, 1], both sides even.
        image2: likewise.

    Returns:
        (2, 2, H / 2, W / 2), forward and backward, in pixels of that size; NaN where the two do
        not agree.
    """
    image1, image2 = F.avg_pool2d(image1, 2), F.avg_pool2d(image2, 2)
    there, back = match_flow(image1, image2)
    there = refine(image1, image2, there, config=FIT)
    back = refine(image2, image1, back, config=FIT)
    agreed = torch.cat([visible_by_consistency(there, back), visible_by_consistency(back, there)])
    return torch.where(agreed, torch.cat([there, back]), torch.nan)
