"""Plain shapes on plain grounds: 5 shapes, 8 colours, 7 motions, 2 sizes, 5 grounds."""

from __future__ import annotations

import numpy as np

from worlds.grounds import Ground
from worlds.paths import REACH
from worlds.polygons import Outline, polygon
from worlds.scene import FRAMES, Path, World

MOTIONS = {
    "left": ("moves left", "slides to the left", "drifts left"),
    "right": ("moves right", "slides to the right", "drifts right"),
    "up": ("moves up", "rises", "floats up"),
    "down": ("moves down", "falls", "sinks down"),
    "still": ("stays still", "rests", "does not move"),
    "bounces": ("bounces", "bounces up and down", "jumps"),
    "circles": ("circles", "moves in a circle", "goes around"),
}
GROUNDS = {
    "black": Ground((15, 15, 15)),
    "white": Ground((240, 240, 240)),
    "gray": Ground((125, 125, 125)),
    "brown": Ground((110, 75, 45)),
    "navy": Ground((25, 30, 85)),
}


def _circle() -> Outline:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return (0.95 * np.stack([np.cos(angle), np.sin(angle)], 1),)


def _star() -> Outline:
    angle = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.2, 0.5)
    return (np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1),)


def _cross(arm: float, end: float) -> Outline:
    corners = [(-arm, -end), (arm, -end), (arm, -arm), (end, -arm)]
    corners += [(end, arm), (arm, arm), (arm, end), (-arm, end)]
    return polygon(*corners, (-arm, arm), (-end, arm), (-end, -arm), (-arm, -arm))


def draw_path(motion: str, radius: float, frame: tuple[int, int], rng: np.random.Generator) -> Path:
    """Return the centre of the shape in each frame, and 1."""
    margin = REACH * radius
    low, high = margin + 1, frame[1] - margin - 2
    time = np.linspace(0, 1, FRAMES)
    span = rng.uniform(26, min(44, high - low - 2))
    x, y = (np.full(FRAMES, value) for value in rng.uniform(low, high, 2))
    if motion in ("left", "right", "up", "down"):
        way = rng.uniform(low, high - span) + span * time
        way = way[::-1] if motion in ("left", "up") else way
        x, y = (way, y) if motion in ("left", "right") else (x, way)
    elif motion == "bounces":
        height = min(span, 30)
        y = rng.uniform(low + height, high) - height * np.abs(np.sin(2 * np.pi * time))
    elif motion == "circles":
        reach = min(rng.uniform(9, 12), (high - low) / 2 - 1)
        angle = 2 * np.pi * time + rng.uniform(0, 2 * np.pi)
        middle = rng.uniform(low + reach, high - reach, 2)
        x, y = middle[0] + reach * np.cos(angle), middle[1] + reach * np.sin(angle)
    return np.stack([x, y, np.ones(FRAMES)], 1)


def read_motion(track: Path) -> str:
    """Return the motion of a track of x, y and radius; "" for a way to and fro along x."""
    centers = track[~np.isnan(track[:, 0]), :2]
    extent, net = np.ptp(centers, 0), centers[-1] - centers[0]
    if extent.max() < 5:
        return "still"
    if extent.min() > 0.5 * extent.max() and np.abs(net).max() < 0.6 * extent.max():
        return "circles"
    axis = int(extent[1] >= extent[0])
    if abs(net[axis]) > 0.7 * extent[axis]:
        return (("left", "right"), ("up", "down"))[axis][int(net[axis] > 0)]
    return "bounces" if axis else ""


WORLD = World(
    frame=(96, 96),
    outlines={
        "circle": _circle(),
        "square": polygon((-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)),
        "triangle": polygon((0, -1.05), (1.05, 0.8), (-1.05, 0.8)),
        "star": _star(),
        "cross": _cross(0.36, 1.05),
    },
    colors={
        "red": (220, 40, 40),
        "green": (40, 170, 60),
        "blue": (50, 90, 230),
        "yellow": (245, 220, 50),
        "orange": (245, 140, 30),
        "purple": (140, 60, 190),
        "pink": (250, 140, 190),
        "cyan": (60, 215, 225),
    },
    motions=tuple(MOTIONS),
    sizes={"small": 11.0, "large": 19.0},
    grounds=GROUNDS,
    words={
        "small": ("small", "little"),
        "large": ("large", "big"),
        **MOTIONS,
        **{name: (f"{name} background", f"{name} ground") for name in GROUNDS},
    },
    captions=(
        ("on a {ground} a {size} {color} {shape} {motion}", 0.3),
        ("a {size} {color} {shape} {motion} on a {ground}", 1.0),
    ),
    draw_path=draw_path,
    read_motion=read_motion,
    decoys={},  # circle and square are shapes
)
