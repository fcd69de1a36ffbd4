"""Crops of clips at the size that networks train on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 1 / 16  # share of each side that a crop of one scale leaves out
SCALES = (0.85, 1.0)  # least and greatest share of each side that a random crop keeps
_TRIES = 4


def random_crop(video: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Cut a clip at a random place, of a random share of its sides, and resize it.

    Few hundred clips show each thing at few places and in few sizes, and shifted by a pixel its
    codes are others. All frames are cut alike.

    Args:
        video: (T, 3, H, W) uint8.
        size: (height, width) of the result.
        generator: of random numbers.

    Returns:
        (T, 3, height, width) float32 in [0, 1].
    """
    y, x, scale = torch.rand(3, generator=generator).tolist()
    return _crop(video, size, y, x, SCALES[0] + (SCALES[1] - SCALES[0]) * scale)


def detail_crop(
    video: Tensor, size: tuple[int, int], crop: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Cut a part of a clip where there is something to see, more often than not.

    Most of a clip may be still, plain background, of which little is to be learned. Of ``_TRIES``
    random places the one is taken whose pixels differ most from their neighbours; in one of
    ``_TRIES`` examples the first place, whatever it shows.

    Args:
        video: (T, 3, H, W) uint8.
        size: (height, width) that :func:`random_crop` would resize the clip to.
        crop: (height, width) of the result, at that scale.
        generator: of random numbers.

    Returns:
        (T, 3, crop height, crop width) float32 in [0, 1].
    """
    whole = (int(video.shape[-2]), int(video.shape[-1]))
    rows, columns = (
        min(side, max(1, round(part / scaled * (1 - MARGIN) * side)))
        for side, scaled, part in zip(whole, size, crop, strict=True)
    )
    places = torch.rand(_TRIES, 2, generator=generator)
    places = (places * (torch.tensor(whole) - torch.tensor([rows, columns]) + 1)).long()
    parts = [video[..., y : y + rows, x : x + columns] for y, x in places.tolist()]
    any_place = float(torch.rand((), generator=generator)) < 1 / _TRIES
    best = parts[0] if any_place else max(parts, key=_detail)
    return resize_video(best.float() / 255, crop)


def _detail(video: Tensor) -> float:
    """Return how much pixels differ from their neighbours, in the first frame and the last."""
    ends = video[:: max(1, len(video) - 1)].float()
    return float(ends.diff(dim=-1).abs().mean() + ends.diff(dim=-2).abs().mean())


def middle_crop(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut the middle, without ``MARGIN``; shapes are those of :func:`random_crop`."""
    return _crop(video, size, 0.5, 0.5, 1 - MARGIN)


def crop_window(
    height: int, width: int, y: float, x: float, share: float = 1 - MARGIN
) -> tuple[slice, slice]:
    """Return the rows and columns of a crop.

    Args:
        height: of the frames.
        width: of the frames.
        y: relative place in [0, 1]; 0 is the top.
        x: relative place in [0, 1]; 0 is the left.
        share: of each side that is kept, in (0, 1].
    """
    rows, columns = (max(1, round(side * share)) for side in (height, width))
    top, left = round((height - rows) * y), round((width - columns) * x)
    return slice(top, top + rows), slice(left, left + columns)


def resize_video(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize video (T, 3, H, W) in [0, 1] to (T, 3, height, width), antialiased."""
    if video.shape[-2:] == size:
        return video
    resized = F.interpolate(video, size, mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp(0, 1)


def _crop(video: Tensor, size: tuple[int, int], y: float, x: float, share: float) -> Tensor:
    rows, columns = crop_window(video.shape[-2], video.shape[-1], y, x, share)
    return resize_video(video[..., rows, columns].float() / 255, size)
