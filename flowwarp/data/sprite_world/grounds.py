"""Backgrounds (grounds): floors, walls and skies, painted procedurally, and crops of photos.

Each ground has 16 variants, painted once per process; a clip shows a random part of one, possibly
mirrored, with random brightness and tint. Floors tile in both directions. Upright backgrounds
(walls and skies) tile sideways and stand on a strip of floor for the actors' feet.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.ops.filters import resize

SIDE = 256  # px, of a variant
VARIANTS = 16
HORIZON = 160  # px: row of an upright background where its floor begins
PHOTO = "photo"

Picture = NDArray[np.floating[Any]]  # (SIDE, SIDE, 3); also colours and noise


@dataclass(frozen=True)
class Crop:
    """A part of a ground in pixels; a floor has no limits.

    Args:
        top: first row; of an upright background from 0 to ``SIDE - height``.
        left: first column.
        height: number of rows.
        width: number of columns.
    """

    top: int
    left: int
    height: int
    width: int


def ground_names() -> tuple[str, ...]:
    """Return the names of the painted grounds."""
    return tuple(_PAINTERS)


def is_backdrop(ground: str) -> bool:
    """Return whether a ground is a wall or sky behind the actors, not a floor below them."""
    return ground in ("brick wall", "night sky")


def paint_ground(ground: str, random: np.random.Generator, crop: Crop) -> Tensor:
    """Paint a part of a ground.

    Args:
        ground: one of :func:`ground_names`.
        random: draws variant, mirroring and light.
        crop: the part.

    Returns:
        (3, crop.height, crop.width) float32 in [0, 1].
    """
    variant = _variant(ground, int(random.integers(VARIANTS)))
    rows = np.arange(crop.top, crop.top + crop.height)
    rows = rows.clip(0, SIDE - 1) if is_backdrop(ground) else rows % SIDE
    columns = np.arange(crop.left, crop.left + crop.width) % SIDE
    if random.random() < 0.5:
        columns = columns[::-1]
    part = variant[:, rows][:, :, columns]
    gain = (random.uniform(0.88, 1.1) + random.uniform(-0.03, 0.03, 3)) / 255
    scale = torch.from_numpy(gain.astype(np.float32)).view(3, 1, 1)
    return torch.from_numpy(part).float().mul_(scale).clamp_(0, 1)


def crop_photo(photo: Tensor, random: np.random.Generator, height: int, width: int) -> Tensor:
    """Return a random part of a photo, resized.

    Args:
        photo: (3, H, W) uint8, or float32 in [0, 1].
        random: draws the part, from half to all of the largest that fits, and mirroring.
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        (3, height, width) float32 in [0, 1].
    """
    fits = min(photo.shape[1] / height, photo.shape[2] / width) * random.uniform(0.5, 1)
    high, wide = max(1, int(fits * height)), max(1, int(fits * width))
    top = int(random.integers(photo.shape[1] - high + 1))
    left = int(random.integers(photo.shape[2] - wide + 1))
    part = photo[:, top : top + high, left : left + wide]
    part = part if part.is_floating_point() else part.float() / 255
    if random.random() < 0.5:
        part = part.flip(2)
    return resize(part[None], (height, width))[0].clamp_(0, 1)


@functools.cache
def _variant(ground: str, number: int) -> NDArray[np.uint8]:
    """Paint one variant: (3, SIDE, SIDE) uint8."""
    random = np.random.default_rng([sum(ground.encode()), number])
    picture = _PAINTERS[ground](random)
    # A [1, 2, 1] / 4 filter: detail as fine as a pixel would flicker under subpixel camera motion.
    for axis in (0, 1):
        before, after = np.roll(picture, 1, axis), np.roll(picture, -1, axis)
        picture = 0.5 * picture + 0.25 * (before + after)
    planes = np.clip(picture, 0, 1).transpose(2, 0, 1) * 255
    return np.ascontiguousarray(planes.round().astype(np.uint8))


# ------------------------------------------------------------------ brushes


def _rgb(*color: int) -> Picture:
    return np.array(color, np.float32) / 255


def _noise(random: np.random.Generator, across: float, down: float | None = None) -> Picture:
    """Return periodic Gaussian noise (SIDE, SIDE) with mean 0 and standard deviation 1.

    White noise is low-passed in the frequency domain. ``across`` and ``down`` are the widths of the
    blobs in pixels.
    """
    waves = np.fft.fftfreq(SIDE)
    down = across if down is None else down
    low_pass = np.exp(-2 * np.pi**2 * 0.16 * ((down * waves[:, None]) ** 2 + (across * waves) ** 2))
    low_pass[0, 0] = 0
    noise = np.fft.ifft2(np.fft.fft2(random.standard_normal((SIDE, SIDE))) * low_pass).real
    return np.asarray(noise / noise.std(), np.float32)


def _mix(low: Picture, high: Picture, share: Picture) -> Picture:
    """Blend two colours (3,) or pictures (SIDE, SIDE, 3) by a share (SIDE, SIDE) in [0, 1]."""
    return np.asarray(low + (high - low) * np.clip(share, 0, 1)[..., None], np.float32)


def _dab(picture: Picture, x: float, y: float, radius: tuple[float, float], color: Picture) -> None:
    """Paint an ellipse with a soft rim onto a picture, in place; it wraps around the borders."""
    wide, high = radius
    columns = np.arange(int(x - wide - 1), int(x + wide + 3))
    rows = np.arange(int(y - high - 1), int(y + high + 3))
    distance = np.hypot((columns - x) / wide, (rows[:, None] - y) / high)
    share = np.clip((1 - distance) * min(radius) + 0.5, 0, 1)[..., None]
    where = np.ix_(rows % SIDE, columns % SIDE)
    picture[where] += (color - picture[where]) * share


def _scatter(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    return random.uniform(0, SIDE, (count, 2))


# ------------------------------------------------------------------ floors


def _paint_grass(random: np.random.Generator) -> Picture:
    base = _rgb(74, 142, 52) * random.uniform(0.9, 1.12)
    shade = 0.5 + 0.22 * _noise(random, 50) + 0.12 * _noise(random, 12)
    picture = _mix(base * 0.82, base * 1.14, shade)
    # Tufts of blades: short strokes that lean to a side, dark at the foot and light at the tip.
    for x, y in _scatter(random, 700):
        tone = base * random.uniform(0.62, 1.45) + _rgb(14, 8, 0) * random.random()
        for lean in random.uniform(-2.2, 2.2, 3):
            for step in range(5):
                light = tone * (0.8 + 0.09 * step)
                _dab(picture, x + lean * step / 4, y - 1.3 * step, (0.7, 0.9), light)
    colors = (_rgb(250, 240, 120), _rgb(255, 255, 255), _rgb(235, 90, 110), _rgb(190, 140, 240))
    flowers = colors[int(random.integers(len(colors)))]
    for x, y in _scatter(random, int(random.integers(0, 26))):
        for across, down in ((-1.6, 0), (1.6, 0), (0, -1.6), (0, 1.6)):
            _dab(picture, x + across, y + down, (1.3, 1.3), flowers)
        _dab(picture, x, y, (0.9, 0.9), _rgb(245, 190, 40))
    return picture


def _paint_sand(random: np.random.Generator) -> Picture:
    base = _rgb(222, 190, 130) * random.uniform(0.94, 1.06)
    rows = np.arange(SIDE, dtype=np.float32)[:, None]
    waves = int(random.integers(14, 22))
    bend = 1.5 * _noise(random, 60, 40) + 0.5 * _noise(random, 20)
    ripple = np.sin(2 * np.pi * rows * waves / SIDE + 1.4 * bend)
    fade = np.clip(0.6 + 0.4 * _noise(random, 70), 0, 1)
    shade = 0.5 + 0.3 * fade * ripple + 0.05 * _noise(random, 60) + 0.1 * _noise(random, 1.5)
    picture = _mix(base * 0.84, np.minimum(base * 1.1, 1), shade)
    for x, y in _scatter(random, int(random.integers(4, 22))):  # pebbles and shells
        size = random.uniform(1.2, 2.8)
        _dab(picture, x + 0.8, y + 1, (1.3 * size, size), base * 0.7)
        color = (_rgb(150, 130, 110), _rgb(245, 235, 220))[int(random.integers(2))]
        _dab(picture, x, y, (1.2 * size, 0.8 * size), color)
    return picture


def _paint_snow(random: np.random.Generator) -> Picture:
    drifts = _noise(random, 90, 46) + 0.35 * _noise(random, 28, 16)
    slope = drifts - np.roll(drifts, 3, 0)
    slope = slope / slope.std()
    picture = _mix(_rgb(196, 212, 236), _rgb(252, 253, 255), 0.62 + 0.3 * slope)
    picture = _mix(picture, _rgb(255, 255, 255), 0.04 * _noise(random, 1.5) + 0.05)
    for x, y in _scatter(random, int(random.integers(0, 7))):  # stones that look out of it
        size = random.uniform(2.5, 5)
        _dab(picture, x + 1, y + 1.5, (1.6 * size, size), _rgb(176, 194, 224))
        _dab(picture, x, y, (1.3 * size, 0.9 * size), _rgb(140, 146, 160))
        _dab(picture, x - 0.4, y - 0.45 * size, (1.2 * size, 0.6 * size), _rgb(252, 253, 255))
    for x, y in _scatter(random, 60):
        _dab(picture, x, y, (0.8, 0.8), _rgb(176, 200, 240))
    return picture


def _paint_stone(random: np.random.Generator) -> Picture:
    """Paint slabs in rows, each row shifted, each slab with a lit and a dark edge."""
    base = _rgb(146, 146, 150) * random.uniform(0.85, 1.1) + _rgb(8, 4, 0) * random.normal()
    grain = 0.5 + 0.1 * _noise(random, 2) + 0.1 * _noise(random, 14)
    picture = _mix(base * 0.8, base * 1.2, grain)
    high = (32, 43, 26)[int(random.integers(3))]
    count = SIDE // high
    edges = np.linspace(0, SIDE, count + 1).round().astype(int)
    for top, bottom in itertools.pairwise(edges):
        slabs = int(random.integers(5, 8))
        cuts = np.linspace(0, SIDE, slabs + 1) + random.uniform(0, SIDE)
        cuts[1:-1] += random.uniform(-7, 7, slabs - 1)
        for left, right in itertools.pairwise(cuts.round().astype(int)):
            columns = np.arange(left, right) % SIDE
            slab = picture[top:bottom, columns] * random.uniform(0.8, 1.15)
            slab[1:3] *= 1.14
            slab[:, 1:3] *= 1.1
            slab[-3:] *= 0.82
            slab[:, -3:] *= 0.86
            slab[-1:] = slab[:, -1:] = base * 0.38
            slab[:1] = slab[:, :1] = base * 0.45
            picture[top:bottom, columns] = slab
    return picture


def _paint_water(random: np.random.Generator) -> Picture:
    deep = _rgb(24, 88, 158) * random.uniform(0.9, 1.12)
    swell = 0.5 + 0.25 * _noise(random, 90, 40)
    picture = _mix(deep * 0.86, deep * 1.18 + _rgb(0, 14, 10), swell)
    # Light gathers in thin lines where noise crosses zero, as on the floor of a pool.
    for wide, high, thin, strength in ((44, 20, 0.13, 0.75), (26, 12, 0.1, 0.4)):
        ridge = np.exp(-((_noise(random, wide, high) / thin) ** 2))
        picture = _mix(picture, _rgb(150, 214, 244), strength * ridge)
    glints = np.clip(_noise(random, 12, 3) - 2.1, 0, 1)
    return _mix(picture, _rgb(240, 252, 255), 1.6 * glints)


def _paint_planks(random: np.random.Generator) -> Picture:
    base = _rgb(158, 106, 58) * random.uniform(0.8, 1.15)
    picture = np.empty((SIDE, SIDE, 3), np.float32)
    count = (8, 10, 12)[int(random.integers(3))]
    edges = np.linspace(0, SIDE, count + 1).round().astype(int)
    rows = np.arange(SIDE, dtype=np.float32)[:, None]
    for top, bottom in itertools.pairwise(edges):
        bend = 2.5 * _noise(random, 70, 14)
        lines = np.sin((rows - top) * random.uniform(0.8, 1.3) + bend + random.uniform(0, 6))
        shade = 0.5 + 0.2 * lines + 0.12 * _noise(random, 40, 1.5)
        tone = base * random.uniform(0.84, 1.14)
        plank = _mix(tone * 0.76, tone * 1.2, shade)[top:bottom]
        plank[1:3] *= 1.12
        plank[-3:-1] *= 0.86
        plank[-1:] = base * 0.32
        plank[:1] = base * 0.5
        joint = int(random.integers(SIDE))
        plank[:, [joint % SIDE, (joint + 1) % SIDE]] = base * 0.32
        picture[top:bottom] = plank
        for across in (-5, 6):  # nails
            for down in (0.28, 0.72):
                _dab(picture, joint + across, top + down * (bottom - top), (1.1, 1.1), base * 0.3)
    return picture if random.random() < 0.6 else np.ascontiguousarray(picture.transpose(1, 0, 2))


# ------------------------------------------------------------------ upright backgrounds


def _paint_bricks(random: np.random.Generator) -> Picture:
    tints = (_rgb(166, 74, 54), _rgb(178, 92, 62), _rgb(148, 62, 56))
    base = tints[int(random.integers(3))] * random.uniform(0.9, 1.1)
    mortar = _rgb(198, 188, 174) * random.uniform(0.75, 1)
    grain = 0.5 + 0.16 * _noise(random, 2) + 0.1 * _noise(random, 30)
    picture = _mix(base * 0.8, base * 1.2, grain)
    high, wide = (10, 32) if random.random() < 0.5 else (13, SIDE / 6)
    for course in range(SIDE // high + 1):
        top = HORIZON - high * (course + 1)
        if top <= -high:
            break
        inside = slice(max(top, 0), top + high)
        for brick in range(round(SIDE / wide)):
            left = (brick + 0.5 * (course % 2)) * wide
            columns = np.arange(round(left), round(left + wide)) % SIDE
            part = picture[inside, columns] * random.uniform(0.78, 1.2)
            part[-3:-2] *= 0.8
            part[:, -3:-2] *= 0.85
            part[:1] *= 1.12
            part[-2:] = part[:, -2:] = mortar * (1 + 0.04 * random.normal())
            picture[inside, columns] = part
    _lay_floor(picture, random, _rgb(120, 116, 112) * random.uniform(0.75, 1.1))
    return picture


def _paint_night(random: np.random.Generator) -> Picture:
    rows = (np.arange(SIDE, dtype=np.float32) / HORIZON)[:, None] * np.ones((1, SIDE), np.float32)
    top = _rgb(8, 10, 36) * random.uniform(0.8, 1.3)
    low = (_rgb(40, 48, 110), _rgb(60, 44, 104), _rgb(26, 62, 108))[int(random.integers(3))]
    picture = _mix(top, low, rows**1.6)
    haze = np.clip(_noise(random, 90, 30), 0, 3) * 0.06
    picture = _mix(picture, _rgb(130, 120, 190), haze)
    for x, y in _scatter(random, 240):
        if y < HORIZON - 4:
            light = random.uniform(0.35, 1)
            size = 0.7 + 1.1 * random.random() ** 4
            _dab(picture, x, y, (size, size), light * _rgb(255, 250, 225))
    x, y, size = random.uniform(0, SIDE), random.uniform(82, 104), random.uniform(8, 12)
    full = random.random() < 0.4
    sky = picture[int(y), int(x)].copy()
    _dab(picture, x, y, (size, size), _rgb(250, 244, 210))
    bite = _rgb(226, 218, 186) if full else sky
    place, radius = (0.3, 0.25) if full else (0.5, 0.85)
    _dab(picture, x + place * size, y - 0.2 * size, (radius * size, radius * size), bite)
    floor = (_rgb(30, 42, 36), _rgb(36, 36, 50), _rgb(44, 38, 34))[int(random.integers(3))]
    _lay_floor(picture, random, floor * random.uniform(0.9, 1.4))
    return picture


def _lay_floor(picture: Picture, random: np.random.Generator, color: Picture) -> None:
    """Paint the floor below an upright background, in place."""
    shade = 0.5 + 0.16 * _noise(random, 30, 8) + 0.12 * _noise(random, 3, 2)
    picture[HORIZON:] = _mix(color * 0.84, color * 1.16, shade)[HORIZON:]
    picture[HORIZON : HORIZON + 2] *= 0.6


_PAINTERS: dict[str, Callable[[np.random.Generator], Picture]] = {
    "grass": _paint_grass,
    "sand": _paint_sand,
    "snow": _paint_snow,
    "stone floor": _paint_stone,
    "water": _paint_water,
    "wood planks": _paint_planks,
    "brick wall": _paint_bricks,
    "night sky": _paint_night,
}
