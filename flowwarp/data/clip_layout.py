"""Chooses the size, length and rate of training clips for a set of videos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from flowwarp.data.resizing import cut_size

# (height, width) that the DVAE and the transformer are trained on: about 64 x 64 pixels, in
# multiples of 8, as a patch is 2 x 2 codes of 4 x 4 pixels. Square, 4:3 and 16:9; the first of
# equally good ones is taken.
BASE_SIZES = ((64, 64), (56, 72), (72, 56), (48, 80), (80, 48))
MAX_SCALE = 2  # of the upsampler
MAX_FRAMES = 16
SECONDS = 1.6  # that a clip should last: a gesture, or two steps of a walk
COVERED = 0.9  # share of the videos that must be long enough
_CODE_FRAMES = 4  # a code is 4 frames
_MULTIPLE = 4  # of the output's sides, as a code is 4 x 4 pixels


@dataclass(frozen=True)
class VideoShape:
    """Size in pixels, number of frames, and frames a second of a video."""

    height: int
    width: int
    frames: int
    fps: float


@dataclass(frozen=True)
class ClipLayout:
    """Size, length and rate of training clips.

    Args:
        base: (height, width) for the DVAE and the transformer, in pixels.
        size: (height, width) of the upsampler's output, in pixels; ``base`` to twice that.
        frames: number of frames, a multiple of 4.
        step: every so many frames of a video one is used.
        fps: frames a second after that.
    """

    base: tuple[int, int]
    size: tuple[int, int]
    frames: int
    step: int
    fps: float


def choose_layout(videos: Sequence[VideoShape]) -> ClipLayout:
    """Choose the layout that loses the least of at least one video.

    * ``base`` is the one of ``BASE_SIZES`` for which the least area is cut from the videos.
    * ``size`` is that of the median video in the aspect of ``base``, but at least ``base``, to
      which small videos are enlarged, and at most twice that.
    * ``frames`` is 16 or, if fewer than nine of ten videos have as many, the largest multiple of 4
      that they have, at least 4.
    * ``step`` is the one whose clips last about 1.6 s, but so small that nine of ten videos have 16
      frames left.
    """
    base = min(BASE_SIZES, key=lambda size: math.fsum(cut_share(video, size) for video in videos))
    scale = median(cut_size(video.height, video.width, base)[0] / base[0] for video in videos)
    # Sizes of the aspect of `base` in multiples of 4 are `base` times n / parts.
    parts = math.gcd(*base) // _MULTIPLE
    n = min(max(parts, round(scale * parts)), MAX_SCALE * parts)
    height, width = (side * n // parts for side in base)

    longest_first = sorted((video.frames for video in videos), reverse=True)
    most = longest_first[math.ceil(COVERED * len(videos)) - 1]  # frames that nine of ten have
    frames = min(MAX_FRAMES, max(_CODE_FRAMES, most // _CODE_FRAMES * _CODE_FRAMES))
    fps = median(video.fps for video in videos)
    # At a step of s, n frames leave ceil(n / s); these are enough as long as (n - 1) // s >= 15.
    largest_step = max(1, (most - 1) // (MAX_FRAMES - 1))
    step = min(largest_step, _step_of_seconds(fps))
    return ClipLayout(base, (height, width), frames, step, fps / step)


def _step_of_seconds(fps: float) -> int:
    """Return the step at which ``MAX_FRAMES`` frames last ``SECONDS``, as nearly as can be."""
    below = max(1, math.floor(SECONDS * fps / MAX_FRAMES))
    lasts = [(step * MAX_FRAMES / fps, step) for step in (below, below + 1)]
    return min(lasts, key=lambda last: abs(math.log(last[0] / SECONDS)))[1]


def cut_share(video: VideoShape, size: tuple[int, int]) -> float:
    """Return the share of a frame's area that is cut off to get the aspect of ``size``."""
    height, width = cut_size(video.height, video.width, size)
    return 1 - height * width / (video.height * video.width)


def frames_left(video: VideoShape, step: int) -> int:
    """Return how many frames are used of a video."""
    return -(-video.frames // step)
