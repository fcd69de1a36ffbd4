"""Antialiased polygons."""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

ENLARGED = 4  # masks are drawn so much larger, and averaged

Points: TypeAlias = NDArray[np.float64]  # (N, 2), x and y
Outline: TypeAlias = tuple[Points, ...]  # what lies within an odd number of them is filled
Mask: TypeAlias = NDArray[np.uint8]  # 0 or 255, ENLARGED times as large as the frame


def polygon(*corners: tuple[float, float]) -> Outline:
    """Return the outline of one polygon."""
    return (np.array(corners, np.float64),)


def arc(
    radius: float,
    begin: float = 0,
    end: float = 360,
    center: tuple[float, float] = (0, 0),
) -> Points:
    """Return points of a circle between two angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(begin, end, 48))
    return np.stack([np.cos(angle), np.sin(angle)], 1) * radius + center


# What an object without a shape looks like.
BLOBS = {"disc": (arc(1),), "square": polygon((-1, -1), (1, -1), (1, 1), (-1, 1))}


def draw_mask(outline: Outline, frame: tuple[int, int]) -> Mask:
    """Fill an outline, given in pixels of the enlarged mask, for a frame (height, width)."""
    mask = np.zeros((frame[0] * ENLARGED, frame[1] * ENLARGED), np.uint8)
    cv2.fillPoly(mask, [np.round(part * 16).astype(np.int32) for part in outline], 255, shift=4)
    return mask


def shrink_mask(mask: Mask, width: float) -> Mask:
    """Return a mask without a rim of a width in pixels of the frame."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    return np.where(depth > width * ENLARGED, 255, 0).astype(np.uint8)


def cover(mask: Mask) -> NDArray[np.float64]:
    """Return the share of each pixel that a mask covers, (H, W)."""
    height, width = mask.shape
    size = (width // ENLARGED, height // ENLARGED)
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.float64) / 255


def bounds(outline: Outline) -> tuple[Points, Points]:
    """Return the least and the greatest x and y of an outline."""
    points = np.concatenate(outline)
    return points.min(0), points.max(0)
