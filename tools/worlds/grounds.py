"""Grounds of one colour or of two: textures, which begin anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Color: TypeAlias = tuple[int, int, int]
Weights: TypeAlias = NDArray[np.float64]
# Of the x and y of each pixel from where the texture begins, gives the second colour's weight.
Texture: TypeAlias = Callable[[Weights, Weights], Weights]


@dataclass(frozen=True)
class Ground:
    """A ground of two colours.

    Args:
        first: colour.
        second: colour; None if there is but one.
        texture: weight of the second colour, of the x and y of pixels, both (H, W).
        period: pixels after which the texture repeats, (along y, along x); it begins at any of
            them. 1 if it always begins at the frame's corner.
    """

    first: Color
    second: Color | None = None
    texture: Texture | None = None
    period: tuple[int, int] = (1, 1)


def weights(ground: Ground, frame: tuple[int, int], begin: tuple[int, int]) -> Weights:
    """Return the weight of the second colour, (H, W), of a texture moved by (y, x) pixels."""
    if ground.texture is None:
        return np.zeros(frame)
    y, x = np.mgrid[: frame[0], : frame[1]].astype(np.float64)
    return ground.texture(x + begin[1], y + begin[0])


def paint(ground: Ground, frame: tuple[int, int], begin: tuple[int, int]) -> Weights:
    """Return the picture of a ground, (H, W, 3)."""
    first = np.array(ground.first, np.float64)
    second = np.array(ground.second or ground.first)
    return first + weights(ground, frame, begin)[..., None] * (second - first)


# ------------------------------------------------------------------ textures


def stripes(across: float, down: float) -> Texture:
    """Return stripes, as many pixels wide as given along x and y; 0 if they do not change."""

    def texture(x: Weights, y: Weights) -> Weights:
        turns = (x / across if across else 0) + (y / down if down else 0)
        return _soft(np.sin(np.pi * turns), max(across, down))

    return texture


def checks(side: float) -> Texture:
    """Return squares of a side in pixels."""
    return lambda x, y: _soft(np.sin(np.pi * x / side) * np.sin(np.pi * y / side), side)


def dots(distance: float, radius: float) -> Texture:
    """Return dots of a radius, in rows of a distance, with as many rows between; in pixels."""

    def row(x: Weights, y: Weights) -> Weights:
        dx, dy = (np.mod(part, distance) - distance / 2 for part in (x, y))
        return np.clip(radius - np.hypot(dx, dy) + 0.5, 0, 1)

    half = distance / 2
    return lambda x, y: np.maximum(row(x, y), row(x + half, y + half))


def lines(distance: float, width: float) -> Texture:
    """Return a grid of lines, at a distance from each other; both in pixels."""

    def texture(x: Weights, y: Weights) -> Weights:
        dx, dy = (np.abs(np.mod(part, distance) - distance / 2) for part in (x, y))
        return np.clip(width / 2 - np.minimum(dx, dy) + 0.5, 0, 1)

    return texture


def bricks(width: float, height: float, joint: float) -> Texture:
    """Return the joints between bricks of a size, of which each row is moved by half a brick."""

    def texture(x: Weights, y: Weights) -> Weights:
        x = x + width / 2 * np.mod(np.floor(y / height), 2)
        dx, dy = (np.abs(np.mod(a, b) - b / 2) - b / 2 for a, b in ((x, width), (y, height)))
        return np.clip(joint / 2 + np.maximum(dx, dy) + 0.5, 0, 1)

    return texture


def waves(period: float, width: float) -> Texture:
    """Return wavy stripes of a width, which swing with a period along x; both in pixels."""

    def texture(x: Weights, y: Weights) -> Weights:
        swing = 0.3 * width * np.sin(2 * np.pi * x / period)
        return _soft(np.sin(np.pi * (y + swing) / width), width)

    return texture


def gradient(*, across: float = 0, down: float = 0) -> Texture:
    """Return a gradient over so many pixels to the right, or down."""
    return lambda x, y: np.clip(x / across if across else y / down, 0, 1)


def _soft(wave: Weights, width: float) -> Weights:
    """Return 0 and 1 where a sine is negative and positive, with edges of about a pixel."""
    return np.clip(0.5 + wave * width / np.pi, 0, 1)
