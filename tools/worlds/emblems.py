"""Emblems before patterns of two colours: 6 shapes, 8 colours, 7 motions, 2 sizes, 5 grounds.

They move along diagonals and in zigzags, grow and shrink.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from worlds.grounds import Ground, checks, dots, gradient, stripes
from worlds.paths import TIME, match_path, mirrored, place_path, unit_path
from worlds.polygons import Outline, arc, polygon
from worlds.scene import World

CHARCOAL, SLATE, OLIVE, MAROON = (38, 38, 44), (92, 102, 118), (98, 98, 48), (92, 26, 36)


def _heart() -> Outline:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)
    return (np.stack([x, y - 2], 1) / 15,)


def _crescent() -> Outline:
    outer, inner = arc(1, 50, 310), arc(0.8, 287, 73, center=(0.41, 0))
    return (np.concatenate([outer, inner]) + np.array([0.2, 0]),)


PATHS = {
    "northeast": (unit_path(TIME, -TIME),),
    "northwest": (unit_path(-TIME, -TIME),),
    "southeast": (unit_path(TIME, TIME),),
    "southwest": (unit_path(-TIME, TIME),),
    "zigzags": mirrored(unit_path(TIME, 0.3 * np.arcsin(np.sin(4 * np.pi * TIME)))),
    "grows": (unit_path(swell=2 * TIME - 1),),
    "shrinks": (unit_path(swell=1 - 2 * TIME),),
}

WORLD = World(
    frame=(96, 96),
    outlines={
        "ring": (arc(1.0), arc(0.52)),
        "heart": _heart(),
        "arrow": polygon(
            (0, -1.1),
            (1.05, -0.2),
            (0.45, -0.2),
            (0.45, 1),
            (-0.45, 1),
            (-0.45, -0.2),
            (-1.05, -0.2),
        ),
        "crescent": _crescent(),
        "diamond": polygon((0, -1.15), (0.95, 0), (0, 1.15), (-0.95, 0)),
        "chevron": polygon((-1, -0.85), (0, -0.1), (1, -0.85), (1, 0.05), (0, 0.9), (-1, 0.05)),
    },
    colors={
        "crimson": (205, 20, 60),
        "lime": (150, 235, 40),
        "teal": (0, 165, 150),
        "gold": (235, 185, 30),
        "violet": (140, 80, 240),
        "magenta": (235, 50, 200),
        "ivory": (250, 245, 220),
        "azure": (60, 165, 250),
    },
    motions=tuple(PATHS),
    sizes={"compact": 13.0, "huge": 22.0},
    grounds={
        "striped": Ground(CHARCOAL, SLATE, stripes(8, 0), (1, 16)),
        "checked": Ground(CHARCOAL, SLATE, checks(12), (24, 24)),
        "barred": Ground(OLIVE, CHARCOAL, stripes(0, 8), (16, 1)),
        "dotted": Ground(MAROON, SLATE, dots(20, 4.5), (20, 20)),
        "fading": Ground(MAROON, CHARCOAL, gradient(down=95)),
    },
    words={
        "ring": ("ring", "hoop"),
        "arrow": ("arrow", "pointer"),
        "crescent": ("crescent", "moon"),
        "diamond": ("diamond", "rhombus"),
        "compact": ("compact", "modest"),
        "huge": ("huge", "giant"),
        "northeast": ("glides up and to the right", "climbs northeast"),
        "northwest": ("glides up and to the left", "climbs northwest"),
        "southeast": ("glides down and to the right", "descends southeast"),
        "southwest": ("glides down and to the left", "descends southwest"),
        "zigzags": ("zigzags", "weaves from side to side", "travels in a zigzag"),
        "grows": ("grows", "swells", "gets bigger"),
        "shrinks": ("shrinks", "dwindles", "gets smaller"),
        "striped": ("charcoal and slate stripes", "stripes of charcoal and slate"),
        "checked": ("charcoal and slate checks", "a checkerboard of charcoal and slate"),
        "barred": ("olive and charcoal bars", "bars of olive and charcoal"),
        "dotted": ("slate dots on maroon", "maroon with slate dots"),
        "fading": ("maroon that fades to charcoal", "a fade from maroon to charcoal"),
    },
    captions=(
        ("{size} {shape} in {color} {motion}, behind it {ground}", 0.4),
        ("one {color} {shape}, {size}, {motion} over {ground}", 0.8),
        ("before {ground} one {size} {color} {shape} {motion}", 1.0),
    ),
    draw_path=partial(place_path, PATHS),
    read_motion=partial(match_path, PATHS),
)
