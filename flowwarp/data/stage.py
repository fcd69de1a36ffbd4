"""Flat figures that move over a backdrop: draws the frames, and computes their exact flow.

Each figure, and the camera, moves by a scale and a shift per frame, so flow is a formula. The stage
is drawn at 128 px; smaller frames are averages of blocks of its pixels.

A pixel on a rim shows two things that may move apart. It has no single flow and is not ``valid``.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.ops.warping import warp
from flowwarp.tensors import check_whole

STAGE = 128  # px
_SIZES = (STAGE, 64, 32, 16, 8)  # px, of frames
_PURE = 0.9  # share of a pixel that one thing must cover for its flow to be valid there
_LIGHT = 0.02  # change of a shadow up to which flow remains valid
_SOFT = 1.5  # px of the stage over which a figure's texels are averaged: 1 shows their corners


@dataclass(frozen=True)
class Track:
    """Position in each frame: point p of a picture is drawn at ``scale * p + (x, y)``.

    Points are measured from the upper left corner of the picture, not from its first pixel centre.

    Args:
        scale: (T,).
        x: (T,), in pixels of the stage.
        y: (T,), in pixels of the stage.
    """

    scale: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Shadow:
    """A soft dark spot that moves with a figure; all but ``strength`` in pixels of its picture."""

    x: float
    y: float
    width: float
    height: float
    strength: float


@dataclass(frozen=True)
class Figure:
    """A figure in front of the backdrop.

    Args:
        pictures: (N, h, w, 4) RGBA in [0, 1], premultiplied by alpha.
        shown: (T,), index of the picture in each frame.
        track: its position in each frame.
        shadow: cast on everything that is painted before it.
    """

    pictures: NDArray[np.float32]
    shown: NDArray[np.int64]
    track: Track
    shadow: Shadow | None = None


@dataclass(frozen=True)
class Take:
    """Frames and their flow; for the fields see :class:`flowwarp.data.clip.Clip`."""

    video: Tensor
    flow_12: Tensor
    flow_21: Tensor
    valid_12: Tensor
    valid_21: Tensor
    visible_12: Tensor
    visible_21: Tensor


def check_take(size: int, frames: int) -> None:
    """Check the size and number of frames.

    Raises:
        ValueError: ``size`` is not 128, 64, 32, 16 or 8, or ``frames`` is not a whole number of at
            least 1.
    """
    if not isinstance(size, int) or size not in _SIZES:
        raise ValueError(f"size must be 128, 64, 32, 16 or 8, got {reprlib.repr(size)}")
    check_whole(frames, "frames", 1)


def film(canvas: Tensor, camera: Track, figures: Sequence[Figure], size: int) -> Take:
    """Draw all frames, and compute the flow between them; arguments as in :func:`draw`."""
    video, cover = draw(canvas, camera, figures, size)
    tracks = [camera, *(figure.track for figure in figures)]
    return _measure(video, cover, tracks, [figure.shown for figure in figures])


def draw(
    canvas: Tensor, camera: Track, figures: Sequence[Figure], size: int
) -> tuple[Tensor, Tensor]:
    """Draw all frames.

    Args:
        canvas: (3, H, W) float32 in [0, 1], the backdrop; its outer pixels repeat beyond it. It is
            sampled without antialiasing, so the camera should not shrink it.
        camera: position of the canvas in each frame.
        figures: in order of painting.
        size: height and width of the frames; see :func:`check_take`.

    Returns:
        The frames (T, 3, S, S) uint8; and (T, K + 1, S, S) float32: the share of each pixel that
        each of K figures covers, then the strength of the shadow on it.
    """
    frames, count = len(camera.scale), len(figures)
    # Channels: RGB, the share of each figure (the backdrop has the rest), the shadow.
    scene = torch.zeros(frames, 3 + count + 1, STAGE, STAGE)
    video, shares, shade = scene[:, :3], scene[:, 3:-1], scene[:, -1:]
    _draw_backdrop(canvas, camera, video)
    for number, figure in enumerate(figures):
        if figure.shadow:
            _cast(figure.shadow, figure.track, video, shade)
        _paint(figure, video, shares, number)
    scene = _shrink(scene, STAGE // size)
    return scene[:, :3].mul(255).round_().clamp_(0, 255).byte(), scene[:, 3:]


def _shrink(scene: Tensor, step: int) -> Tensor:
    """Average blocks of ``step`` pixels; by halves, as ``avg_pool2d`` takes five times as long."""
    while step > 1:
        rows = scene[:, :, ::2] + scene[:, :, 1::2]
        scene = (rows[..., ::2] + rows[..., 1::2]).mul_(0.25)
        step //= 2
    return scene


# ------------------------------------------------------------------ drawing


def _draw_backdrop(canvas: Tensor, camera: Track, video: Tensor) -> None:
    """Sample the canvas bilinearly, rows first, then columns, into ``video`` (T, 3, S, S)."""
    frames = len(camera.scale)
    still = all(np.ptp(part) == 0 for part in (camera.scale, camera.x, camera.y))
    centres = np.arange(STAGE) + 0.5
    for frame in range(1 if still else frames):
        scale = camera.scale[frame]
        part = canvas
        for axis, shift in ((1, camera.y[frame]), (2, camera.x[frame])):
            place = (centres - shift) / scale - 0.5
            part = _read_between(part, axis, place, moved_only=scale == 1)
        video[frame] = part
    if still:
        video[1:] = video[0]


def _read_between(part: Tensor, axis: int, place: NDArray[np.float64], moved_only: bool) -> Tensor:
    last = part.shape[axis] - 1
    whole = np.floor(place)
    rest = place - whole
    first = int(whole[0])
    if moved_only and first >= 0 and first + STAGE <= last:  # no gathering, one weight for all
        near = part.narrow(axis, first, STAGE)
        return near if rest[0] == 0 else near.lerp(part.narrow(axis, first + 1, STAGE), rest[0])
    index = torch.from_numpy(whole.astype(np.int64))
    near = part.index_select(axis, index.clamp(0, last))
    far = part.index_select(axis, (index + 1).clamp(0, last))
    weight = torch.from_numpy(rest.astype(np.float32))
    return near.lerp_(far, weight[:, None] if axis == 1 else weight)


def _cast(shadow: Shadow, track: Track, video: Tensor, shade: Tensor) -> None:
    """Darken ``video`` by a separable Gaussian, and add it to ``shade`` (T, 1, S, S)."""
    centres = np.arange(STAGE) + 0.5
    x = (centres - track.x[:, None]) / track.scale[:, None] - shadow.x  # (T, S)
    y = (centres - track.y[:, None]) / track.scale[:, None] - shadow.y
    across = torch.from_numpy(np.exp(-((x / shadow.width) ** 2)).astype(np.float32))
    down = torch.from_numpy(np.exp(-((y / shadow.height) ** 2)).astype(np.float32))
    dark = shadow.strength * down[:, None, :, None] * across[:, None, None, :]
    top, bottom = _span(down.amax(0) > 0.01)
    dark = dark[:, :, top:bottom]
    video[:, :, top:bottom] *= 1 - dark
    shade[:, :, top:bottom] += dark


def _span(mask: Tensor) -> tuple[int, int]:
    """Return the first index where a mask (N,) is True, and the last index + 1."""
    found = mask.nonzero()
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)


def _paint(figure: Figure, video: Tensor, shares: Tensor, number: int) -> None:
    pictures, track = figure.pictures, figure.track
    painted = np.any(pictures[np.unique(figure.shown), ..., 3] > 0, axis=0)
    rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
    if not len(rows):
        return
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    first_y, down = _averages(track.scale, track.y, top, bottom)  # (T, h, rows)
    first_x, across = _averages(track.scale, track.x, left, right)
    part = torch.from_numpy(pictures[:, top:bottom, left:right])[torch.from_numpy(figure.shown)]
    frames, high, wide = len(part), down.shape[1], across.shape[1]
    patch = torch.bmm(down, part.flatten(2)).view(frames, high, right - left, 4)
    patch = torch.einsum("thxc,twx->tchw", patch, across)
    for frame in range(frames):
        y, x = first_y[frame], first_x[frame]
        rows_, columns_ = slice(max(y, 0), max(y + high, 0)), slice(max(x, 0), max(x + wide, 0))
        cut = patch[frame, :, max(-y, 0) : max(STAGE - y, 0), max(-x, 0) : max(STAGE - x, 0)]
        rest = 1 - cut[3]
        video[frame, :, rows_, columns_].mul_(rest).add_(cut[:3])
        shares[frame, :number, rows_, columns_].mul_(rest)
        shares[frame, number, rows_, columns_] = cut[3]


def _averages(
    scale: NDArray[np.float64], shift: NDArray[np.float64], low: int, high: int
) -> tuple[list[int], Tensor]:
    """Return the weight of each texel from ``low`` to ``high`` in each pixel of the stage.

    A pixel is the mean over a box ``_SOFT`` pixels wide, computed exactly at any scale.

    Returns:
        The first pixel in each frame, and weights (T, pixels, texels).
    """
    starts = np.floor(scale * low + shift - 1).astype(np.int64)
    length = int(np.ceil(scale.max() * (high - low))) + 4
    centres = starts[:, None] + np.arange(length) + 0.5
    place = (centres - shift[:, None]) / scale[:, None]  # (T, pixels), in texels
    reach = (0.5 * _SOFT / scale)[:, None, None]
    texels = np.arange(low, high)
    ends = np.minimum(place[..., None] + reach, texels + 1)
    begins = np.maximum(place[..., None] - reach, texels)
    weights = np.maximum(ends - begins, 0) / (2 * reach)
    return starts.tolist(), torch.from_numpy(weights.astype(np.float32))


# ------------------------------------------------------------------ flow


def _measure(
    video: Tensor, cover: Tensor, tracks: Sequence[Track], shown: Sequence[NDArray[np.int64]]
) -> Take:
    """Compute the flow of all pixels, and where it is valid and visible.

    Args:
        video: (T, 3, S, S) uint8.
        cover: (T, K + 1, S, S), the share of each figure, then the shadow.
        tracks: of the camera, then of the figures.
        shown: (T,) for each figure, index of its picture in each frame.
    """
    size = video.shape[-1]
    changed = [torch.from_numpy(pictures[1:] != pictures[:-1]) for pictures in shown]
    # A figure at rest relative to the backdrop has no rim against it: both sides have one flow.
    apart = [
        change | torch.from_numpy(~_moves_with(track, tracks[0]))
        for change, track in zip(changed, tracks[1:], strict=True)
    ]
    box = _find_box(cover, tracks[0], size)
    ways = []
    for way, here, there in ((1, cover[:-1], cover[1:]), (-1, cover[1:], cover[:-1])):
        flows = [_flow(track, size, way) for track in tracks]
        ways.append(_measure_way(flows, here, there, changed, apart, box))
    (flow_12, valid_12, visible_12), (flow_21, valid_21, visible_21) = ways
    return Take(video, flow_12, flow_21, valid_12, valid_21, visible_12, visible_21)


def _find_box(cover: Tensor, camera: Track, size: int) -> tuple[slice, slice]:
    """Return the rows and columns that contain all figures and shadows in all frames."""
    covered = cover.amax(0).amax(0) > 0  # over both at once takes several times as long
    if not bool(covered.any()):
        return slice(0), slice(0)
    spans = []
    for axis in (1, 0):
        low, high = _span(covered.any(axis))
        # _flow returns (u, v). Backdrop beside the box may move into it: widen it by the flow.
        ways = [_flow(camera, size, way)[axis].abs() for way in (1, -1)]
        margin = 2 + int(max(way.max() if way.numel() else 0 for way in ways))
        spans.append(slice(max(low - margin, 0), min(high + margin, size)))
    return spans[0], spans[1]


def _flow(track: Track, size: int, way: int) -> tuple[Tensor, Tensor]:
    """Return u (T-1, S) along x and v (T-1, S) along y, to the next frame or to the one before."""
    step = STAGE / size
    centres = (np.arange(size) + 0.5) * step
    here, there = (slice(None, -1), slice(1, None))[::way]
    ratio = (track.scale[there] / track.scale[here])[:, None]
    parts = []
    for shift in (track.x, track.y):
        moved = ratio * (centres - shift[here][:, None]) + shift[there][:, None]
        parts.append(torch.from_numpy(((moved - centres) / step).astype(np.float32)))
    return parts[0], parts[1]


def _moves_with(track: Track, other: Track) -> NDArray[np.bool_]:
    """Return (T-1,): between which frames two tracks have the same flow."""
    a, b = (part.scale[1:] / part.scale[:-1] for part in (track, other))
    same = np.abs(a - b) < 1e-9
    for one, two in ((track.x, other.x), (track.y, other.y)):
        same &= np.abs((one[1:] - a * one[:-1]) - (two[1:] - b * two[:-1])) < 1e-6
    return same


def _measure_way(
    flows: Sequence[tuple[Tensor, Tensor]],
    here: Tensor,
    there: Tensor,
    changed: Sequence[Tensor],
    apart: Sequence[Tensor],
    box: tuple[slice, slice],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return flow (T-1, 2, S, S), valid and visible (T-1, 1, S, S) from ``here`` to ``there``."""
    count, _, size, _ = here.shape
    rows, columns = box
    u, v = flows[0]
    whole_flow = torch.empty(count, 2, size, size)
    whole_flow[:, 0], whole_flow[:, 1] = u[:, None, :], v[:, :, None]
    whole_visible = _inside(v)[:, None, :, None] & _inside(u)[:, None, None, :]
    whole_valid = torch.ones_like(whole_visible)
    here, there = here[:, :, rows, columns], there[:, :, rows, columns]
    if 0 in here.shape:
        return whole_flow, whole_valid, whole_visible

    # Each pixel belongs to the figure with the largest share, or to the backdrop.
    keep = [part.float().view(-1, 1, 1) for part in apart]
    best, shares = _split(here, keep)
    owners = []
    for share in shares:
        mine = share > best
        best = torch.where(mine, share, best)
        owners.append(mine)
    flow, inside = whole_flow[:, :, rows, columns], whole_visible[:, 0, rows, columns]
    sound = torch.ones_like(inside)
    for number, mine in enumerate(owners):
        u, v = flows[number + 1]
        enters = _inside(v)[:, rows, None] & _inside(u)[:, None, columns]
        flow[:, 0] = torch.where(mine, u[:, None, columns], flow[:, 0])
        flow[:, 1] = torch.where(mine, v[:, rows, None], flow[:, 1])
        inside[:] = torch.where(mine, enters, inside)
        sound = sound & ~(mine & changed[number].view(-1, 1, 1))

    moved = warp(there, flow.contiguous())
    arrived, targets = _split(moved, keep)
    for mine, target in zip(owners, targets, strict=True):
        arrived = torch.where(mine, target, arrived)
    inside &= arrived > 0.5
    # The target may be partly occluded; then its pixel is mixed, too.
    sound &= (best >= _PURE) & ((arrived >= _PURE) | ~inside)
    sound &= (moved[:, -1] - here[:, -1]).abs() <= _LIGHT
    whole_valid[:, 0, rows, columns] = sound
    return whole_flow, whole_valid, whole_visible


def _split(cover: Tensor, keep: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the share of the backdrop and of each figure in each pixel.

    ``keep`` is 0 for a figure that moves as the backdrop does: its share counts as backdrop.
    """
    shares = [cover[:, number] * factor for number, factor in enumerate(keep)]
    return 1 - functools.reduce(torch.add, shares), shares


def _inside(displacement: Tensor) -> Tensor:
    """Return (T-1, S) bool: which displacements along an axis stay in the frame."""
    last = displacement.shape[1] - 1
    place = torch.arange(last + 1) + displacement
    return (place >= -1e-3) & (place <= last + 1e-3)
