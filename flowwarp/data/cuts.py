"""Detects cuts to another scene, and frames in which nothing moved."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_BLOCK = 8  # px; noise averages out over a block, the edge of a moving thing does not
_STEP = 2 / 255  # a block that differs by less may only have been compressed anew
_CUT_GRID = 32  # px of the longer side of the thumbnails that are searched for cuts
_CUT_REACH = 2  # px of a thumbnail, 6 % of the picture: how far things may move in a frame
# On 15 clips every third frame stays below 25 (a fade in), 99 % of pairs across clips exceed 36.
_CUT = 30 / 255


def is_cut(frame1: Tensor, frame2: Tensor, threshold: float = _CUT) -> bool:
    """Return whether a new scene begins with ``frame2``.

    Args:
        frame1: (3, H, W), uint8, or floating point in [0, 1].
        frame2: of the same shape and type.
        threshold: mean difference, in [0, 1], of a pixel of a thumbnail to the most similar one
            near the same place in the other; two frames of one scene stay below.

    Raises:
        ValueError: a wrong shape, or two sizes.
    """
    if frame1.shape != frame2.shape or frame1.ndim != 3 or frame1.shape[0] != 3:
        raise ValueError(
            f"frames must be (3, H, W) of one size, got {tuple(frame1.shape)} and "
            f"{tuple(frame2.shape)}"
        )
    return is_cut_of_blocks(average_blocks(frame1), average_blocks(frame2), threshold)


def average_blocks(frame: Tensor) -> Tensor:
    """Average a frame (3, H, W) over blocks of 8 x 8 pixels: (3, H // 8, W // 8) in [0, 1]."""
    height, width = (max(1, side // _BLOCK) for side in frame.shape[1:])
    scaled = frame.float() if frame.is_floating_point() else frame.float() / 255
    return F.adaptive_avg_pool2d(scaled, (height, width))


def changed_share(a: Tensor, b: Tensor) -> float:
    """Return the share of blocks (3, h, w) that differ visibly between two frames."""
    return ((a - b).abs().amax(0) > _STEP).float().mean().item()


def is_cut_of_blocks(a: Tensor, b: Tensor, threshold: float = _CUT) -> bool:
    """Return whether a new scene begins between two frames, given their blocks (3, h, w).

    ``threshold`` is that of :func:`is_cut`.

    Each pixel of a thumbnail is compared with the most similar one near the same place in the other
    thumbnail, so that fast motion is not taken for a cut.
    """
    thumbnails = []
    for blocks in (a, b):
        scale = min(1.0, _CUT_GRID / max(blocks.shape[1:]))
        height, width = (max(1, round(side * scale)) for side in blocks.shape[1:])
        thumbnails.append(F.adaptive_avg_pool2d(blocks, (height, width)))
    return max(_unmatched(*thumbnails), _unmatched(*reversed(thumbnails))) > threshold


def _unmatched(a: Tensor, b: Tensor) -> float:
    """Return the mean distance of each pixel of ``b`` (3, h, w) to the best match in ``a``."""
    reach = 2 * _CUT_REACH + 1
    around = F.pad(a[None], [_CUT_REACH] * 4, mode="replicate")
    # (3, 25, h, w): for each pixel the 5 x 5 pixels around it.
    candidates = F.unfold(around, reach).view(3, reach * reach, *a.shape[1:])
    return (candidates - b[:, None]).abs().amax(0).amin(0).mean().item()
