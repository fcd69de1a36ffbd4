"""The training clip that is most like a video: is it remembered rather than made?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.data.clip import Clip

_SIDE = 16  # px that frames are averaged down to, so that noise and sharpness do not count


@dataclass(frozen=True)
class Nearest:
    """A clip and its distance from a video.

    Args:
        clip: the clip.
        distance: the root mean square of the differences of colours, in [0, 255], over frames of
            16 x 16 pixels. A copy that is shifted is far away.
    """

    clip: Clip
    distance: float


def find_nearest(videos: Sequence[Tensor], clips: Iterable[Clip]) -> list[Nearest]:
    """Return the nearest of some clips for each video.

    Args:
        videos: (T, 3, H, W) in [0, 1] each.
        clips: at least one, of T frames each; they are read once, one at a time.

    Raises:
        ValueError: there is no clip.
    """
    thumbnails = torch.stack([_thumbnail(video) for video in videos])
    best: list[Nearest | None] = [None] * len(videos)
    for clip in clips:
        difference = thumbnails - _thumbnail(clip.video.float() / 255)
        for number, distance in enumerate(difference.square().flatten(1).mean(1).sqrt().tolist()):
            so_far = best[number]
            if so_far is None or 255 * distance < so_far.distance:
                best[number] = Nearest(clip, 255 * distance)
    found = [nearest for nearest in best if nearest is not None]
    if len(found) < len(videos):
        raise ValueError("clips must hold at least one clip")
    return found


def _thumbnail(video: Tensor) -> Tensor:
    """Return frames averaged down, (T, 3, 16, 16)."""
    return F.adaptive_avg_pool2d(video.float().cpu(), _SIDE)
