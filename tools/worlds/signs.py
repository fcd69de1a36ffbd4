"""White signs with a coloured edge: 6 shapes, 8 colours, 7 motions, 2 sizes, 5 grounds.

Frames are higher than wide. This world is held back: it measures what was chosen by the others,
once, so do not choose anything by it.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from worlds.grounds import Ground, bricks, gradient, lines, stripes, waves
from worlds.paths import TIME, match_path, mirrored, place_path, unit_path
from worlds.polygons import Outline, arc, polygon
from worlds.scene import Look, World

ASPHALT, PEBBLE, DENIM, UMBER, PINE = (
    (68, 70, 76),
    (122, 120, 116),
    (80, 90, 116),
    (80, 58, 44),
    (38, 66, 50),
)


def _mushroom() -> Outline:
    foot = [(0.42, 0), (0.42, 1), (-0.42, 1), (-0.42, 0)]
    return (np.concatenate([arc(1.1, 180, 360), foot]),)


def _fish() -> Outline:
    upper = arc(1, 205, 335, center=(-0.25, 0.42)) * (0.95, 1)
    lower = upper[::-1] * (1, -1)
    tail = [(1.1, 0.75), (0.95, 0), (1.1, -0.75)]
    return (np.concatenate([upper, tail[::-1], lower]),)


THIRDS = np.floor(3 * TIME)
WITHIN = 3 * TIME - THIRDS  # from 0 to 1 in each third
PATHS = {
    "loops": mirrored(unit_path(0.5 * np.sin(2 * np.pi * TIME), 0.35 * np.sin(4 * np.pi * TIME))),
    "corners": mirrored(unit_path(np.clip(2 * TIME, 0, 1), np.clip(2 * TIME - 1, 0, 1))),
    "dashes": mirrored(unit_path(np.clip(3 * TIME, 0, 1))),
    "stairs": mirrored(
        unit_path(
            (THIRDS + np.clip(2 * WITHIN, 0, 1)) / 3, (THIRDS + np.clip(2 * WITHIN - 1, 0, 1)) / 3
        )
    ),
    "nods": (unit_path(y=0.3 * np.sin(4 * np.pi * TIME)),),
    "looms": (unit_path(swell=1 - 2 * np.abs(2 * TIME - 1)),),
    "rests": (unit_path(),),
}

WORLD = World(
    frame=(112, 96),
    outlines={
        "crown": polygon(
            (-1.05, -0.9),
            (-0.5, -0.15),
            (0, -1),
            (0.5, -0.15),
            (1.05, -0.9),
            (0.9, 0.9),
            (-0.9, 0.9),
        ),
        "mushroom": _mushroom(),
        "bolt": polygon(
            (0.55, -1.15), (-0.9, 0.3), (-0.1, 0.3), (-0.55, 1.15), (0.9, -0.35), (0.2, -0.35)
        ),
        "fish": _fish(),
        "fir": polygon(
            (0, -1.15),
            (0.7, -0.2),
            (0.4, -0.2),
            (1.0, 0.8),
            (-1.0, 0.8),
            (-0.4, -0.2),
            (-0.7, -0.2),
        ),
        "elbow": polygon(
            (-0.95, -1), (-0.15, -1), (-0.15, 0.2), (0.95, 0.2), (0.95, 1), (-0.95, 1)
        ),
    },
    colors={
        "ruby": (185, 10, 55),
        "jade": (0, 150, 105),
        "sapphire": (20, 80, 205),
        "amber": (250, 175, 0),
        "lemon": (240, 240, 70),
        "coral": (255, 110, 80),
        "orchid": (205, 95, 220),
        "aqua": (70, 225, 225),
    },
    motions=tuple(PATHS),
    sizes={"petite": 16.0, "grand": 25.0},
    grounds={
        "waved": Ground(DENIM, PINE, waves(32, 9), (18, 32)),
        "gridded": Ground(UMBER, PEBBLE, lines(18, 4), (18, 18)),
        "bricked": Ground(UMBER, PEBBLE, bricks(24, 12, 4), (24, 24)),
        "slanted": Ground(ASPHALT, PEBBLE, stripes(14, -14), (1, 28)),
        "fading": Ground(PEBBLE, PINE, gradient(across=95)),
    },
    words={
        "mushroom": ("mushroom", "toadstool"),
        "bolt": ("bolt", "lightning"),
        "fir": ("fir", "pine tree"),
        "elbow": ("elbow", "letter l"),
        "petite": ("petite", "minor"),
        "grand": ("grand", "major"),
        "loops": ("loops", "flies a figure eight"),
        "corners": ("turns a corner", "moves sideways and then down"),
        "dashes": ("dashes aside and halts", "darts sideways, then stops"),
        "stairs": ("walks down stairs", "descends step by step"),
        "nods": ("nods", "bobs twice"),
        "looms": ("comes nearer and recedes", "looms and withdraws"),
        "rests": ("hangs motionless", "keeps its place"),
        "waved": ("denim and pine waves", "waves in denim and pine"),
        "gridded": ("an umber board with a pebble grid", "a pebble grid upon umber"),
        "bricked": ("umber bricks with pebble joints", "brickwork of umber and pebble"),
        "slanted": ("asphalt and pebble hatching", "hatching of asphalt and pebble"),
        "fading": ("pebble shaded to pine", "a shade from pebble to pine"),
    },
    captions=(
        ("sign: {size} {shape} edged in {color}, {motion}, against {ground}", 0.5),
        ("against {ground}, a sign edged in {color}: a {size} {shape} which {motion}", 1.0),
    ),
    draw_path=partial(place_path, PATHS),
    read_motion=partial(match_path, PATHS),
    look=Look(rim=0.24, other=(246, 246, 240), colored_rim=True),
)
