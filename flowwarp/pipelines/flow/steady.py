"""Temporal consistency: takes the flicker out of a video that was processed frame by frame.

1. **Motion.** Flow between each two consecutive frames, in both directions and at a reduced size,
   from the guide (the video before processing) or else from the frames themselves, after the
   colours of one have been matched to the other's.
2. **Tone.** A curve per channel leads from each frame to the next (:mod:`.tone`). Chained, they
   lead from a frame to those around it; their mean, weighted by a Gaussian in time, is applied to
   the frame. A random change from frame to frame averages out; a fade, linear in time, stays.
3. **Local differences.** The frames around, read along the flow, are averaged with the frame in
   two bands: low frequencies where the flow is consistent; detail where, beyond that, they differ
   by no more than the flicker of the clip does. All frames read are frames of step 2, each
   interpolated once, so that nothing drifts and blur does not add up.

Bonneel et al. ("Blind Video Temporal Consistency", ACM TOG 2015) and Lai et al. ("Learning Blind
Video Temporal Consistency", ECCV 2018) define the task; there, the output before a frame is the
reference, here a window of frames on both sides.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.data.cuts import is_cut
from flowwarp.ops.filters import box_blur, resize
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow.tone import (
    apply_tone,
    chain_tone,
    identity_curve,
    match_tone,
    mean_tone,
)
from flowwarp.tensors import check_float, check_number

Thing = TypeVar("Thing")
Estimate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # images to flow_12 and flow_21

FLOW_SIDE = 320  # px of the longer side of the frames that flow is estimated from
TONE_REACH, TONE_SIGMA = 6, 3.0  # frames on each side; standard deviation of their weights
TONE_BLOCK = 4  # px of the reduced frames; the mean over a block has little noise
MIN_VISIBLE = 0.05  # share of the blocks; with fewer, the flow is wrong, and all blocks are used
# At a cut, flow there and back does not agree, and the pictures differ even when their colours are
# matched. On 14 clips the first is above 0.8 from frame to frame, and below 0.17 between two clips;
# the second below 5 / 255 and above 8 / 255.
CUT_VISIBLE, CUT = 0.3, 8 / 255
LOCAL_REACH = 3  # frames on each side
BAND = 8  # px; the low frequencies are those of blocks of this size


@dataclass(frozen=True)
class _Link:
    """What connects a frame to the one before it in its shot.

    Args:
        forth: (1, 3, h, w) from the frame before to this one: flow in px of the reduced size, and
            visibility.
        back: the same from this frame to the one before.
        rise: tone curve (C, LEVELS) from the frame before to this one.
        fall: from this frame to the one before.
    """

    forth: Tensor
    back: Tensor
    rise: Tensor
    fall: Tensor


@dataclass(frozen=True)
class _Item:
    frame: Tensor  # (1, C, H, W)
    link: _Link | None  # None at the first frame of a shot
    shot: int


@torch.no_grad()
def steady(
    frames: Iterable[Tensor],
    guide: Iterable[Tensor] | None = None,
    strength: float = 1.0,
    *,
    estimate: Estimate | None = None,
    report: Callable[[int], None] | None = None,
) -> Iterator[Tensor]:
    """Take the flicker out of a video that was processed frame by frame; yields as it goes.

    The memory does not depend on the length of the video: it holds TONE_REACH + 2 * LOCAL_REACH + 2
    frames. A frame comes out when TONE_REACH + LOCAL_REACH more have gone in, or the shot ends.

    Args:
        frames: (C, H, W) in [0, 1] with C = 1 or 3, all of one size; on one device.
        guide: the video before processing, of the same number of frames: (1 or 3, H', W') in
            [0, 1]. It gives the motion, never colours. Default: ``frames``.
        strength: in [0, 10], factor of the differences that count as flicker; 0 returns the frames
            unchanged.
        estimate: returns the flow between two (1, 3, h, w) in both directions. Default:
            :func:`flowwarp.pipelines.flow.estimate.estimate_both` of quality ``"fast"``.
        report: called with the number of each frame, counted from 0, that begins a new shot.

    Yields:
        (C, H, W) like ``frames``, in [0, 1]; as many as there are frames.

    Raises:
        TypeError: a frame is not a floating-point tensor.
        ValueError: a shape or ``strength`` does not fit, or the guide has fewer frames, or more.

    >>> flickering = [torch.full((3, 32, 48), 0.5 + 0.1 * (-1) ** k) for k in range(12)]
    >>> [round(float(frame.mean()), 2) for frame in steady(flickering)][5:7]
    [0.5, 0.5]
    """
    check_number(strength, "strength", 0, 10)
    items = _connect(_pair(frames, guide), guide is None, estimate or _default_estimate(), report)
    for _, shot in groupby(items, key=lambda item: item.shot):
        for frame in _smooth_local(_smooth_tone(shot, strength), strength):
            yield frame[0]


def _default_estimate() -> Estimate:
    from flowwarp.pipelines.flow.estimate import estimate_both, load_flownet

    load = cache(lambda device: load_flownet(device=device))
    return lambda one, two: estimate_both(load(one.device), one, two, "fast")


def _pair(
    frames: Iterable[Tensor], guide: Iterable[Tensor] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each frame with its picture of the guide, (1, C, H, W) each."""
    pictures = None if guide is None else iter(guide)
    count, shapes = 0, None
    for count, frame in enumerate(frames, 1):
        picture = frame if pictures is None else next(pictures, None)
        if picture is None:
            raise ValueError(f"guide must have as many frames as frames, got only {count - 1}")
        for image, name in ((frame, "frames"), (picture, "guide")):
            check_float(image, name)
            if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
                raise ValueError(f"{name} must be (1 or 3, H, W), got {tuple(image.shape)}")
        shapes = shapes or (frame.shape, picture.shape)
        if shapes != (frame.shape, picture.shape):
            raise ValueError(f"frame {count} must be of the size of the first, {tuple(shapes[0])}")
        yield frame[None], picture[None]
    if pictures is not None and next(pictures, None) is not None:
        raise ValueError(f"guide must have as many frames as frames, {count}, got more")


# ------------------------------------------------------------------ motion


def _connect(
    pairs: Iterable[tuple[Tensor, Tensor]],
    alone: bool,
    estimate: Estimate,
    report: Callable[[int], None] | None,
) -> Iterator[_Item]:
    """Link each frame (1, C, H, W) to the one before; ``alone``: it is its own guide."""
    before: tuple[Tensor, Tensor] | None = None  # reduced frame, reduced picture of the guide
    shot = 0
    for number, (frame, picture) in enumerate(pairs):
        size = _reduced(frame.shape[-2:])
        small = resize(frame, size)
        moving = (small if alone else resize(picture, size)).expand(1, 3, *size)
        link = None
        if before is not None:
            link = _link(*before, small, moving, estimate)
            if link is None:
                shot += 1
                if report is not None:
                    report(number)
        yield _Item(frame, link, shot)
        before = (small, moving)


def _reduced(size: tuple[int, ...]) -> tuple[int, int]:
    scale = min(1.0, FLOW_SIDE / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def _link(
    small1: Tensor, moving1: Tensor, small2: Tensor, moving2: Tensor, estimate: Estimate
) -> _Link | None:
    alike = apply_tone(moving1, match_tone(moving1[0].flatten(1), moving2[0].flatten(1)))
    flow_12, flow_21 = estimate(alike, moving2)
    forth, back = (
        torch.cat([flow, visible_by_consistency(flow, opposite).float()], 1)
        for flow, opposite in ((flow_12, flow_21), (flow_21, flow_12))
    )
    visible = forth[:, 2:]
    if visible.mean() < CUT_VISIBLE and is_cut(alike[0], moving2[0], CUT):
        return None
    one, two = _blocks(small1, warp(small2, flow_12), visible)
    return _Link(forth, back, match_tone(one, two), match_tone(two, one))


def _blocks(image1: Tensor, image2: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Return means over blocks of two aligned frames (1, C, h, w), (C, N) each, where visible."""
    area = image1.shape[-2] * image1.shape[-1]
    side = max(1, min(TONE_BLOCK, math.isqrt(area // 1000), *image1.shape[-2:]))
    parts = [F.avg_pool2d(part, side)[0].flatten(1) for part in (image1, image2, visible)]
    kept = parts[2][0] > 0.99
    if kept.float().mean() < MIN_VISIBLE:
        kept = torch.ones_like(kept)
    return parts[0][:, kept], parts[1][:, kept]


# ------------------------------------------------------------------ tone


def _smooth_tone(shot: Iterator[_Item], strength: float) -> Iterator[_Item]:
    """Bring each frame of a shot to the mean tone of the frames around it."""
    frames: deque[Tensor] = deque()  # those without a result
    links: list[_Link | None] = []  # link of the frame, of those before and after it
    for links, centre in _windows(_split(shot, frames), TONE_REACH):
        image = frames.popleft()
        if strength and len(links) > 1:
            image = apply_tone(image, _mean_curve(links, centre, image))
        yield _Item(image, links[centre], 0)


def _split(shot: Iterator[_Item], frames: deque[Tensor]) -> Iterator[_Link | None]:
    for item in shot:
        frames.append(item.frame)
        yield item.link


def _windows(items: Iterable[Thing], reach: int) -> Iterator[tuple[list[Thing], int]]:
    """Yield for each item those at most ``reach`` before and after it, and its place in them."""
    window: deque[Thing] = deque()
    centre = 0  # of the item that comes next
    for item in items:
        window.append(item)
        if len(window) > centre + reach:
            yield list(window), centre
            centre += 1
        if centre > reach:
            window.popleft()
            centre -= 1
    while centre < len(window):
        yield list(window), centre
        centre += 1
        if centre > reach:
            window.popleft()
            centre -= 1


def _mean_curve(links: list[_Link | None], centre: int, image: Tensor) -> Tensor:
    start = identity_curve(image.shape[1], image.device)
    curves, weights = [start], [1.0]
    for direction in (1, -1):
        curve, place = start, centre
        for distance in range(1, TONE_REACH + 1):
            link = _between(links, place, direction)
            if link is None:
                break
            curve = chain_tone(curve, link.rise if direction > 0 else link.fall)
            place += direction
            curves.append(curve)
            weights.append(math.exp(-0.5 * (distance / TONE_SIGMA) ** 2))
    return mean_tone(curves, weights)


def _between(links: list[_Link | None], place: int, direction: int) -> _Link | None:
    later = place + (direction > 0)
    return links[later] if 0 < later < len(links) else None


# ------------------------------------------------------------------ local differences


def _smooth_local(shot: Iterator[_Item], strength: float) -> Iterator[Tensor]:
    for items, centre in _windows(shot, LOCAL_REACH):
        if strength == 0 or len(items) == 1:
            yield items[centre].frame
        else:
            yield _average(items, centre, strength).clamp(0, 1)


LOW_TOLERANCE = 0.1
DETAIL_TOLERANCE = 0.02


def _average(items: list[_Item], centre: int, strength: float) -> Tensor:
    image = items[centre].frame
    links = [item.link for item in items]
    size = image.shape[-2:]
    low_sum = detail_sum = torch.zeros(())
    low_total = detail_total = torch.ones(())
    candidates = []
    for direction in (1, -1):
        for distance, path in enumerate(_paths(links, centre, direction), 1):
            other = items[centre + direction * distance].frame
            candidates.append(_compare(image, other, path))
    noise = min(_noise(c[2]) for c in candidates)
    for low, detail, energy, visible, low_visible in candidates:
        weight = low_visible * torch.exp(
            -(low.square().mean(1, keepdim=True) / (strength * LOW_TOLERANCE) ** 2)
        )
        low_sum = low_sum + weight * low
        low_total = low_total + weight
        tolerance = 2 * noise + (strength * DETAIL_TOLERANCE) ** 2
        share = visible * (2 - energy / tolerance).clamp(0, 1)
        share = F.interpolate(share, size, mode="bilinear")
        detail_sum = torch.addcmul(detail_sum, share, detail)
        detail_total = detail_total + share
    lows = F.interpolate(low_sum / low_total, size, mode="bilinear")
    return image + lows + detail_sum / detail_total


def _paths(links: list[_Link | None], centre: int, direction: int) -> Iterator[Tensor]:
    """Yield flow and visibility (1, 3, h, w) to the frames after the centre, or before it."""
    path, place = None, centre
    while (link := _between(links, place, direction)) is not None:
        step = link.forth if direction > 0 else link.back
        if path is None:
            path = step
        else:
            step = warp(step, path[:, :2])
            path = torch.cat([path[:, :2] + step[:, :2], path[:, 2:] * step[:, 2:]], 1)
        yield path
        place += direction


def _compare(image: Tensor, other: Tensor, path: Tensor) -> tuple[Tensor, ...]:
    size = image.shape[-2:]
    scale = path.new_tensor([s / t for s, t in zip(size[::-1], path.shape[:1:-1], strict=True)])
    full = F.interpolate(path, size, mode="bilinear")
    flow = full[:, :2] * scale[:, None, None]
    warped, inside = warp(other, flow, mode="bicubic", mask=True)
    difference = warped - image
    low = F.avg_pool2d(difference, BAND, ceil_mode=True)
    detail = difference - F.interpolate(low, size, mode="bilinear")
    visible = F.avg_pool2d((full[:, 2:] * inside).floor(), 2, ceil_mode=True)
    energy = box_blur(F.avg_pool2d(detail.square().mean(1, keepdim=True), 2, ceil_mode=True), 1)
    low_visible = F.interpolate(visible, low.shape[-2:], mode="area")
    return low, detail, energy, visible, low_visible


def _noise(energy: Tensor) -> Tensor:
    return energy.flatten()[::7].quantile(0.25)
