"""Motions as unit paths: placed in a frame to draw them, and compared with a track to read it.

A unit path is (FRAMES, 3): x, y, and how much the object swells, from -1 to 1. A motion has one or
more, and any of them is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from worlds.scene import FRAMES, Path

TIME = np.linspace(0, 1, FRAMES)
STILL = 0 * TIME
REACH = 1.2  # greatest distance of a corner from the centre, in radii

Paths: TypeAlias = Mapping[str, tuple[Path, ...]]

_SPANS = (26, 44)  # pixels that stand for 1
_SWELL = 0.3  # logarithm of the radius that stands for 1
_SWELL_SPAN = 40.0  # pixels as which a logarithm of 1 counts when paths are compared
_STILL = 5.0  # pixels within which an object stays that does not move
_ALIKE = 0.85  # least cosine of a track and the path that it shows


def unit_path(
    x: NDArray[np.float64] = STILL,
    y: NDArray[np.float64] = STILL,
    swell: NDArray[np.float64] = STILL,
) -> Path:
    """Return a unit path."""
    return np.stack([x, y, swell], 1)


def mirrored(path: Path) -> tuple[Path, Path]:
    """Return a path, and the same with left and right exchanged."""
    return path, path * (-1, 1, 1)


def place_path(
    paths: Paths, motion: str, radius: float, frame: tuple[int, int], rng: np.random.Generator
) -> Path:
    """Return x, y and the factor of the radius in each frame, where the object is all visible."""
    unit = paths[motion][rng.integers(len(paths[motion]))]
    factor = np.exp(_SWELL * unit[:, 2])
    margin = REACH * radius * factor.max()
    low, high = margin + 1, np.array(frame[::-1]) - margin - 2
    least, most = unit[:, :2].min(0), unit[:, :2].max(0)
    span = min(rng.uniform(*_SPANS), *((high - low) / np.maximum(most - least, 1e-6)))
    start = rng.uniform(low - span * least, high - span * most)
    return np.column_stack([start + span * unit[:, :2], factor])


def match_path(paths: Paths, track: Path) -> str:
    """Return the motion whose path is most like a track of x, y and radius; "" if none is."""
    seen = ~np.isnan(track[:, 0])
    shown = np.column_stack([track[seen, :2], _SWELL_SPAN * np.log(track[seen, 2])])
    if np.ptp(shown, 0).max() < _STILL:
        return next((motion for motion, units in paths.items() if not units[0].any()), "")
    alike = {
        motion: max(_cosine(shown, unit[seen]) for unit in units) for motion, units in paths.items()
    }
    best = max(alike, key=lambda motion: alike[motion])
    return best if alike[best] > _ALIKE else ""


def _cosine(track: Path, unit: Path) -> float:
    """Return how alike two paths are wherever they begin and however far they go."""
    a, b = track - track.mean(0), unit - unit.mean(0)
    return float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))
