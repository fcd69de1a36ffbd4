"""Plates with a dark rim before pale patterns: 6 shapes, 8 colours, 7 motions, 3 sizes, 6 grounds.

Frames are wider than high. Plates swing, shuttle, hop, shake, pulse, dive and wait.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from worlds.grounds import Ground, checks, dots, gradient, lines, stripes
from worlds.paths import TIME, match_path, mirrored, place_path, unit_path
from worlds.polygons import Outline, arc, polygon
from worlds.scene import Look, World

CREAM, SAND, MINT, SKY, LILAC = (
    (248, 240, 222),
    (214, 190, 140),
    (150, 215, 180),
    (150, 195, 240),
    (190, 160, 220),
)


def _shield() -> Outline:
    left = arc(1.8, 180, 120, center=(0.9, -0.35))
    return (np.concatenate([[(-0.9, -1.05)], left, left[::-1] * (-1, 1), [(0.9, -1.05)]]),)


def _drop() -> Outline:
    return (np.concatenate([[(0, -1.2)], arc(0.78, -25, 205, center=(0, 0.4))]),)


def _clover() -> Outline:
    leaves = ((180, 1, -1), (270, 1, 1), (0, -1, 1), (90, -1, -1))
    reach = 0.54
    return (
        np.concatenate(
            [arc(0.5, begin, begin + 270, (reach * x, reach * y)) for begin, x, y in leaves]
        ),
    )


ANGLE = np.sin(2 * np.pi * TIME)  # of a pendulum, radians
PATHS = {
    "swings": mirrored(unit_path(0.6 * np.sin(ANGLE), 0.6 * np.cos(ANGLE))),
    "shuttles": mirrored(unit_path(1 - np.abs(2 * TIME - 1))),
    "hops": mirrored(unit_path(TIME, -0.5 * np.abs(np.sin(3 * np.pi * TIME)))),
    "shakes": mirrored(unit_path(0.16 * np.sign(np.sin(8 * np.pi * (TIME + 0.01))))),
    "pulses": (unit_path(swell=0.8 * np.sin(4 * np.pi * TIME)),),
    "dives": (unit_path(y=TIME**2),),
    "waits": (unit_path(),),
}

WORLD = World(
    frame=(96, 128),
    outlines={
        "shield": _shield(),
        "drop": _drop(),
        "pennant": polygon((-0.9, -1.05), (1.15, 0), (-0.9, 1.05)),
        "clover": _clover(),
        "hourglass": polygon(
            (-0.85, -1.1), (0.85, -1.1), (0.3, 0), (0.85, 1.1), (-0.85, 1.1), (-0.3, 0)
        ),
        "dome": (arc(1.15, 180, 360, center=(0, 0.55)),),
    },
    colors={
        "scarlet": (225, 45, 35),
        "emerald": (20, 150, 90),
        "cobalt": (40, 70, 190),
        "mustard": (215, 170, 20),
        "chestnut": (135, 80, 35),
        "plum": (125, 40, 125),
        "fuchsia": (240, 70, 160),
        "turquoise": (30, 185, 200),
    },
    motions=tuple(PATHS),
    sizes={"slight": 14.0, "medium": 20.0, "broad": 27.0},
    grounds={
        "checked": Ground(CREAM, SAND, checks(10), (20, 20)),
        "slanted": Ground(CREAM, SAND, stripes(12, 12), (1, 24)),
        "banded": Ground(CREAM, SKY, stripes(0, 9), (18, 1)),
        "dotted": Ground(CREAM, LILAC, dots(20, 4.5), (20, 20)),
        "netted": Ground(CREAM, MINT, lines(16, 4), (16, 16)),
        "fading": Ground(SKY, LILAC, gradient(across=127)),
    },
    words={
        "shield": ("shield", "crest"),
        "drop": ("drop", "teardrop"),
        "pennant": ("pennant", "flag"),
        "clover": ("clover", "shamrock"),
        "hourglass": ("hourglass", "spindle"),
        "slight": ("slight", "minute"),
        "medium": ("medium", "mid-sized"),
        "broad": ("broad", "hefty"),
        "swings": ("swings to and fro", "sways like a pendulum"),
        "shuttles": ("goes out and comes back", "shuttles along a line"),
        "hops": ("hops along", "advances by hops", "skips onward"),
        "shakes": ("shakes", "trembles", "shivers"),
        "pulses": ("pulses", "throbs", "breathes"),
        "dives": ("dives", "plunges", "drops faster and faster"),
        "waits": ("waits", "remains in place", "stands"),
        "checked": ("cream and sand tiles", "tiling of cream and sand"),
        "slanted": ("slanted lines of cream and sand", "cream and sand in slanted lines"),
        "banded": ("sky and cream bands", "bands of sky on cream"),
        "dotted": ("lilac spots on cream", "cream paper with lilac spots"),
        "netted": ("a mint net on cream", "cream paper with a mint net"),
        "fading": ("a blend of sky into lilac", "sky that turns into lilac"),
    },
    captions=(
        ("this {size} plate, a {color} {shape}, {motion}; the wall is {ground}", 0.35),
        ("{color} {shape} plate of {size} size {motion} before a wall of {ground}", 0.7),
        ("with {ground} for a wall, the {size} {color} {shape} {motion}", 1.0),
    ),
    draw_path=partial(place_path, PATHS),
    read_motion=partial(match_path, PATHS),
    look=Look(rim=0.17, other=(28, 24, 34)),
)
