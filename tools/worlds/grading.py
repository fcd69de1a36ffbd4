"""Reads from pixels what a clip of a world shows: outlines are compared with templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import product
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from worlds.grounds import Color, Ground, weights
from worlds.polygons import ENLARGED, bounds, cover, draw_mask
from worlds.scene import FRAMES, Pixels, Scene, World

Values: TypeAlias = NDArray[np.floating]

_TEMPLATE = 32  # side of the templates, pixels
_ALIKE = 0.72  # least overlap of a shape with its template
_SLIM = 0.6  # least ratio of the sides of a shape and of its template
_DIFFERENT = 75  # sum of the differences of colours, from which on a pixel is no ground
_LEAST = 30  # pixels of an object
_SHOWN = 0.7  # least share of frames with an object
_UNEXPLAINED = 0.8  # greatest share of a ground's variation that is not of its texture
_BORDER = 3  # pixels at the frame's border that show the ground
_MIXES = 5  # mixtures of two colours of a ground that are compared
_PHASE = 2  # pixels between the beginnings of textures that are compared


@dataclass(frozen=True)
class _Part:
    """The object in a frame.

    Args:
        mask: (H, W).
        box: differences from the ground within its bounding box.
        center: x and y.
    """

    mask: NDArray[np.bool_]
    box: Values
    center: tuple[float, float]


def grade(world: World, video: Pixels) -> Scene:
    """Return what the pixels of a video (T, H, W, 3) of any length and size show."""
    frames = _fit(world, video)
    ground, mixes = _read_ground(world, frames)
    parts = [_largest_part(difference) for difference in _difference(frames, mixes)]
    seen = [(frame, part) for frame, part in zip(frames, parts, strict=True) if part]
    if len(seen) < _SHOWN * FRAMES:
        return Scene("", "", "", "", ground)
    colors = [_color(world, frame[_inner(part.mask)]) for frame, part in seen]
    color = _nearest(np.median(colors, 0), world.colors)
    painted = [each for each in (world.colors[color], world.look.other) if each is not None]
    full = float(_difference(np.array(painted, np.float32), mixes).min())
    shape = _vote(_shape(world, part.box / full) for _, part in seen)
    track = np.full((FRAMES, 3), np.nan)
    for row, part in zip(track, parts, strict=True):
        if part is not None:
            row[:] = *part.center, np.sqrt(part.mask.sum() / _unit_area(world, shape))
    size = _nearest_size(world, float(np.nanmedian(track[:, 2])))
    return Scene(shape, color, world.read_motion(track), size, ground)


def score(world: World, videos: Sequence[Pixels], scenes: Sequence[Scene]) -> dict[str, float]:
    """Return the shares of attributes that are right, their mean, and shape with colour jointly."""
    pairs = [(grade(world, video), scene) for video, scene in zip(videos, scenes, strict=True)]
    names = [field.name for field in fields(Scene)]
    shares = {
        name: float(np.mean([getattr(a, name) == getattr(b, name) for a, b in pairs]))
        for name in names
    }
    joint = [(a.shape, a.color) == (b.shape, b.color) for a, b in pairs]
    return shares | {
        "mean": float(np.mean([shares[name] for name in names])),
        "shape and color": float(np.mean(joint)),
    }


def _fit(world: World, video: Pixels) -> Values:
    """Return as many frames as clips have, of their size."""
    height, width = world.frame
    chosen = video[np.linspace(0, len(video) - 1, FRAMES).round().astype(int)]
    how = cv2.INTER_AREA if video.shape[1] > height else cv2.INTER_LINEAR
    return np.stack(
        [cv2.resize(frame, (width, height), interpolation=how) for frame in chosen]
    ).astype(np.float32)


# ------------------------------------------------------------------ ground


def _read_ground(world: World, frames: Values) -> tuple[str, Values]:
    """Return the name of the ground, "" if its texture is not seen, and its colours, (N, 3).

    Of a ground of two colours, mixtures are among the colours.
    """
    edges = _edges(frames)  # (T, n, 3)
    usual = np.median(edges, 0)
    errors = {}
    for name, ground in world.grounds.items():
        ends = (ground.first, ground.second or ground.first)
        first, second = (np.array(color, np.float32) for color in ends)
        texture = _textures(ground, world.frame)[..., None] * (second - first) + first
        error = np.abs(texture - usual).sum(-1).mean(-1)  # (phases,)
        errors[name] = (float(error.min()), int(error.argmin()))
    name = min(errors, key=lambda name: errors[name])
    ground = world.grounds[name]
    if ground.second is None:
        return name, np.median(edges.reshape(-1, 3), 0)[None]
    weight = _textures(ground, world.frame)[errors[name][1]]
    first, second = (
        np.median(edges[:, part].reshape(-1, 3), 0) for part in (weight < 0.25, weight > 0.75)
    )
    error = np.abs(usual - weight[:, None] * (second - first) - first).sum()
    variation = np.abs(usual - np.median(usual, 0)).sum()
    mixes = np.linspace(first, second, _MIXES).astype(np.float32)
    return name if error < _UNEXPLAINED * variation else "", mixes


@cache
def _textures(ground: Ground, frame: tuple[int, int]) -> Values:
    """Return the weights at the border for each beginning of a ground, (phases, n)."""
    down, across = (range(0, period, _PHASE) for period in ground.period)
    pictures = [weights(ground, frame, begin) for begin in product(down, across)]
    return _edges(np.stack(pictures)[..., None])[..., 0].astype(np.float32)


def _edges(frames: Values) -> Values:
    """Return the pixels at the border of frames (T, H, W, C), (T, n, C)."""
    n = _BORDER
    sides = (frames[:, :n], frames[:, -n:], frames[:, :, :n], frames[:, :, -n:])
    return np.concatenate([side.reshape(len(frames), -1, frames.shape[-1]) for side in sides], 1)


def _difference(pixels: Values, mixes: Values) -> Values:
    """Return how far pixels (..., 3) are from the nearest mixture of the ground's colours."""
    # Planes, as numpy sums three neighbours slowly.
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    nearest = np.full(pixels.shape[:-1], np.inf, np.float32)
    for mix in mixes:
        far = sum(np.abs(plane - value) for plane, value in zip(planes, mix, strict=True))
        np.minimum(nearest, far, out=nearest)
    return nearest


# ------------------------------------------------------------------ object


def _largest_part(difference: Values) -> _Part | None:
    """Return the largest part of a frame that is no ground."""
    count, labels, stats, centers = cv2.connectedComponentsWithStats(
        (difference > _DIFFERENT).astype(np.uint8)
    )
    if count < 2:
        return None
    number = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, width, height, area = stats[number]
    if area < _LEAST:
        return None
    mask = labels == number
    box = (difference * mask)[y : y + height, x : x + width]
    return _Part(mask, box, (float(centers[number][0]), float(centers[number][1])))


def _inner(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask without its rim, where colours are mixed, if anything is left."""
    eroded = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return eroded if eroded.any() else mask


def _color(world: World, pixels: Values) -> Values:
    """Return the colour of an object's pixels (n, 3) that have the scene's colour."""
    if world.look.other is not None:
        far = np.abs(pixels - world.look.other).sum(-1) > _DIFFERENT
        pixels = pixels[far] if far.any() else pixels
    return np.median(pixels, 0)


def _nearest(color: Values, colors: Mapping[str, Color]) -> str:
    return min(colors, key=lambda name: float(np.abs(color - colors[name]).sum()))


def _nearest_size(world: World, radius: float) -> str:
    return min(world.sizes, key=lambda name: abs(world.sizes[name] - radius))


def _shape(world: World, box: Values) -> str:
    """Return the shape that fills its bounding box as the template does; empty if none does."""
    how = cv2.INTER_AREA if box.shape[1] > _TEMPLATE else cv2.INTER_LINEAR
    alpha = cv2.resize(np.clip(box, 0, 1), (_TEMPLATE, _TEMPLATE), interpolation=how)
    overlap = {
        shape: float(np.minimum(alpha, template).sum() / np.maximum(alpha, template).sum())
        for shape, template in _templates(world).items()
    }
    best = max(overlap, key=lambda shape: overlap[shape])
    if overlap[best] <= _ALIKE or best not in world.outlines:
        return ""
    low, high = bounds(world.outlines[best])
    ratio = box.shape[1] / box.shape[0] / ((high - low)[0] / (high - low)[1])
    return best if _SLIM < ratio < 1 / _SLIM else ""


@cache
def _templates(world: World) -> dict[str, NDArray[np.float64]]:
    """Return the filled outline of each shape in its bounding box, (_TEMPLATE, _TEMPLATE)."""
    made = {}
    for shape, outline in {**world.outlines, **world.decoys}.items():
        low, high = bounds(outline)
        scale = (_TEMPLATE * ENLARGED - 1) / (high - low)
        parts = tuple((part - low) * scale for part in outline)
        made[shape] = cover(draw_mask(parts, (_TEMPLATE, _TEMPLATE)))
    return made


@cache
def _unit_area(world: World, shape: str) -> float:
    """Return the area of a shape of radius 1; the mean of all shapes if it is not known."""
    if not shape:
        return float(np.mean([_unit_area(world, each) for each in world.outlines]))
    low, high = bounds(world.outlines[shape])
    return float(_templates(world)[shape].mean() * np.prod(high - low))


def _vote(shapes: Iterable[str]) -> str:
    """Return the shape of at least half of the frames."""
    listed = list(shapes)
    best = max(listed, key=listed.count)
    return best if listed.count(best) >= FRAMES / 2 else ""
