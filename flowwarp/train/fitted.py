"""Pairs with flow fitted to them once, which shows a network large motion from its first step on.

A photometric loss only tells a network in which direction to move by a pixel or so; learning motion
of tens of pixels from it takes days. A fit without any network (matched descriptors, then a
variational fit, :mod:`flowwarp.pipelines.refine`) finds such motion in a third of a second, without
labels too. Where its two directions agree, it teaches the network beside the photometric loss: the
proxy ground truth of Zhu et al., "Guided Optical Flow Learning", CVPR 2017 workshops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp._bundled import cache_folder
from flowwarp.errors import OutputError
from flowwarp.io._files import lock, reason
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.pipelines.refine import RefineConfig, estimate, refine
from flowwarp.train.arrays import open_array
from flowwarp.train.processes import launched

FIT = RefineConfig(match=False, levels=3, warps=2, inner=1, median_radius=5)
_VERSION = 1  # of the cache; part of its key
_CHUNK = 16  # pairs that are marked as done together

Draw = Callable[[int], tuple[Tensor, Tensor]]  # number to frames, (1, 3, H, W) each


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
    draw: Draw,
    key: str,
    count: int,
    size: tuple[int, int],
    *,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FittedPairs:
    """Fit flow to pairs; a second call with the same key is free, and a stopped one goes on.

    Args:
        draw: a pure function from the number of a pair to its frames.
        key: names all that ``draw`` depends on.
        count: how many.
        size: (height, width) of the frames, both even.
        cache: where to keep them. Default: as for footage.
        progress: called with (pairs done, pairs in all).

    Raises:
        OutputError: the cache cannot be written.
        Locked: another process is at it.
    """
    root = Path(cache) if cache is not None else cache_folder()
    if root is None:
        raise OutputError("cache", "there is no folder for it", "set FLOWWARP_CACHE_DIR")
    digest = hashlib.sha256(repr((_VERSION, key, count, size)).encode()).hexdigest()[:20]
    folder = root / f"fitted-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One of those that train together fits them, the others find them fitted.
        problem = "another process fits these pairs"
        with lock(folder, problem, "wait for it", wait=launched() > 1):
            _fill(folder, draw, count, size, progress)
    except OutputError:
        raise
    except OSError as fault:
        raise OutputError(folder, reason(fault)) from fault
    return FittedPairs(folder)


def _fill(
    folder: Path,
    draw: Draw,
    count: int,
    size: tuple[int, int],
    progress: Callable[[int, int], None] | None,
) -> None:
    height, width = size
    frames = open_array(folder / "frames.npy", (count, 2, 3, height, width), np.uint8)
    flows = open_array(folder / "flows.npy", (count, 2, 2, height // 2, width // 2), np.float16)
    done = open_array(folder / "done.npy", (count,), np.uint8)

    def fill(number: int) -> None:
        image1, image2 = draw(number)
        frames[number] = torch.cat([image1, image2]).mul(255).round_().byte().numpy()
        flows[number] = fit(image1, image2).half().numpy()

    waiting = [number for number in range(count) if not done[number]]
    # Pairs side by side: two fits on one thread each are faster than one on two.
    workers = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for start in range(0, len(waiting), _CHUNK):
            chunk = waiting[start : start + _CHUNK]
            list(pool.map(fill, chunk))
            frames.flush()  # what is marked as done is on the disk
            flows.flush()
            done[chunk] = 1
            if progress:
                progress(count - len(waiting) + start + len(chunk), count)
    done.flush()


@torch.no_grad()
def fit(image1: Tensor, image2: Tensor) -> Tensor:
    """Fit flow of a pair at half its size, both ways.

    Args:
        image1: (1, 3, H, W) in [0, 1], both sides even.
        image2: likewise.

    Returns:
        (2, 2, H / 2, W / 2) in pixels of that size; NaN where the two do not agree.
    """
    image1, image2 = F.avg_pool2d(image1, 2), F.avg_pool2d(image2, 2)
    there, back = estimate(image1, image2)
    there = refine(image1, image2, there, config=FIT)
    back = refine(image2, image1, back, config=FIT)
    agreed = torch.cat([visible_by_consistency(there, back), visible_by_consistency(back, there)])
    return torch.where(agreed, torch.cat([there, back]), torch.nan)
