"""Clips of moving digits, drawn procedurally: a tiny world for tests and first experiments."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from flowwarp.data.choices import choose
from flowwarp.data.clip import Attributes, Clip, Source, WorldFiles
from flowwarp.data.stage import STAGE, Figure, Track, check_take, film

_CELL = 48  # px of the picture of a digit
_MARGIN = 6  # px around the digit, for thick and slanted strokes
_TWO = 0.5  # share of clips with two digits
COLORS = {
    "red": (230, 40, 40),
    "green": (40, 190, 60),
    "blue": (60, 100, 245),
    "yellow": (250, 220, 40),
    "orange": (250, 140, 30),
    "purple": (160, 70, 220),
    "pink": (250, 130, 190),
    "cyan": (60, 220, 230),
}
GROUNDS = {"black": (0, 0, 0), "white": (255, 255, 255), "gray": (128, 128, 128)}
MOTIONS = {
    "right": (1, 0),
    "left": (-1, 0),
    "down": (0, 1),
    "up": (0, -1),
    "none": (0, 0),
}
_VERBS = {
    True: (("moves", "moving"), ("glides", "gliding"), ("slides", "sliding")),
    False: (("stands still", "standing still"), ("rests", "resting"), ("stays", "staying")),
}
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Line = Sequence[tuple[float, float]]


def _arc(x: float, y: float, wide: float, high: float, begin: float, end: float) -> Line:
    """Return points (x, y) on an arc of an ellipse; angles in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(begin, end, 24))
    return list(
        zip((x + wide * np.cos(angles)).tolist(), (y + high * np.sin(angles)).tolist(), strict=True)
    )


# Strokes in a box of 1 x 1, y down.
_STROKES: tuple[tuple[Line, ...], ...] = (
    (_arc(0.5, 0.5, 0.34, 0.5, 0, 360),),
    ([(0.28, 0.2), (0.54, 0), (0.54, 1)],),
    ([*_arc(0.5, 0.28, 0.34, 0.28, 180, 390), (0.14, 1), (0.86, 1)],),
    (_arc(0.48, 0.26, 0.32, 0.26, 200, 450), _arc(0.48, 0.74, 0.36, 0.26, 270, 520)),
    ([(0.66, 1), (0.66, 0), (0.1, 0.68), (0.9, 0.68)],),
    ([(0.82, 0), (0.24, 0), (0.2, 0.46), *_arc(0.48, 0.68, 0.36, 0.32, 230, 510)],),
    (_arc(0.5, 0.68, 0.34, 0.32, 0, 360), _arc(0.9, 0.68, 0.74, 0.68, 180, 262)),
    ([(0.12, 0), (0.88, 0), (0.4, 1)],),
    (_arc(0.5, 0.25, 0.3, 0.25, 0, 360), _arc(0.5, 0.75, 0.36, 0.25, 0, 360)),
    (_arc(0.5, 0.32, 0.34, 0.32, 0, 360), _arc(0.1, 0.32, 0.74, 0.68, 0, 82)),
)


def open_digits(
    size: int, frames: int, *, world_files: WorldFiles, held_out: bool | None, rewordings: int
) -> Source:
    """Open the world of digits, which needs no files and holds nothing out.

    Arguments as in :func:`flowwarp.data.sources.open_source`.
    """
    del world_files, held_out
    return Source(partial(compose_digits, size=size, frames=frames, rewordings=rewordings))


def compose_digits(
    seed: int, index: int, size: int = 64, frames: int = 16, rewordings: int = 0
) -> Clip:
    """Compose a clip of one or two digits that move in a straight line.

    The same arguments give the same clip.

    Args:
        seed: of the series of clips.
        index: of the clip in the series.
        size: height and width of the frames: 128, 64, 32, 16 or 8.
        frames: number of frames.
        rewordings: number of further captions.

    Returns:
        The clip. Its attributes are ``{"actors": [{"digit", "color", "direction"}, ...], "ground":
        ..., "camera": "still"}``; the direction of a digit at rest is "none".

    Raises:
        ValueError: the size or length is not possible.
    """
    check_take(size, frames)
    random = np.random.default_rng([seed, index, 10])
    colors = random.permutation(list(COLORS)).tolist()
    count = 2 if random.random() < _TWO else 1
    actors = [
        {
            "digit": str(random.integers(10)),
            "color": colors[number],
            "direction": choose(random, tuple(MOTIONS)),
        }
        for number in range(count)
    ]
    attributes: Attributes = {
        "actors": actors,
        "ground": choose(random, tuple(GROUNDS)),
        "camera": "still",
    }
    caption = _describe(attributes, random)
    figures = [
        _draw_digit(random, actor, frames, STAGE * (2 * number + 1) / (2 * count))
        for number, actor in enumerate(actors)
    ]
    still = np.zeros(frames)
    canvas = torch.tensor(GROUNDS[attributes["ground"]]).float().div(255).view(3, 1, 1)
    take = film(canvas, Track(still + 1, still, still), figures, size)
    return Clip(
        **vars(take),
        caption=caption,
        attributes=attributes,
        rewordings=tuple(_describe(attributes, random) for _ in range(rewordings)),
        labels={**actors[0], "ground": attributes["ground"]} if count == 1 else {},
    )


def _draw_digit(
    random: np.random.Generator, actor: dict[str, str], frames: int, middle: float
) -> Figure:
    style = int(random.integers(4)), int(random.integers(3))
    alpha = _glyph(int(actor["digit"]), *style)
    color = np.array(COLORS[actor["color"]]) / 255
    picture = np.concatenate([alpha[..., None] * color, alpha[..., None]], 2)
    scale = random.uniform(1.05, 1.4)
    time = np.arange(frames) - (frames - 1) / 2
    reach = random.uniform(18, 36) / max(frames - 1, 1)  # px per frame
    turn = np.array(MOTIONS[actor["direction"]])
    centre = np.array([middle, STAGE / 2]) + random.uniform(-10, 10, 2) * [0.4, 1]
    path = centre + time[:, None] * turn * min(reach, 3.0) - scale * _CELL / 2
    track = Track(np.full(frames, scale), path[:, 0], path[:, 1])
    shown = np.zeros(frames, np.int64)
    return Figure(picture[None].astype(np.float32), shown, track)


@functools.cache
def _glyph(digit: int, thickness: int, slant: int) -> NDArray[np.float64]:
    """Draw the alpha of a digit, (48, 48) in [0, 1], from the distances of pixels to strokes."""
    y, x = np.mgrid[:_CELL, :_CELL] + 0.5
    side = _CELL - 2 * _MARGIN
    lean = (-0.18, 0.0, 0.18)[slant]
    nearest = np.full((_CELL, _CELL), np.inf)
    for line in _STROKES[digit]:
        points = np.array(line)
        points[:, 0] = 0.5 + 0.75 * (points[:, 0] - 0.5) - lean * (points[:, 1] - 0.5)
        points = _MARGIN + side * points
        for (ax, ay), (bx, by) in itertools.pairwise(points):
            length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-9)
            along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1)
            nearest = np.minimum(
                nearest, np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay))
            )
    return np.clip((2.1, 2.8, 3.5, 4.2)[thickness] + 0.5 - nearest, 0, 1)


def _describe(attributes: Attributes, random: np.random.Generator) -> str:
    finite = random.random() < 0.7
    parts = []
    for actor in attributes["actors"]:
        moves = actor["direction"] != "none"
        verb = choose(random, _VERBS[moves])[0 if finite else 1]
        name = actor["digit"] if random.random() < 0.7 else _NAMES[int(actor["digit"])]
        article = "an" if actor["color"] == "orange" else "a"
        way = choose(random, ("", "to the ")) if actor["direction"] in ("left", "right") else ""
        does = f"{verb} {way}{actor['direction']}" if moves else verb
        parts.append(f"{article} {actor['color']} {name} {does}")
    text = choose(random, (" and ", " while ", ", ") if finite else (" and ", ", ")).join(
        parts if random.random() < 0.5 else parts[::-1]
    )
    place = f"on {choose(random, ('', 'a '))}{attributes['ground']}"
    if place.startswith("on a "):
        place += " background"
    return f"{place}, {text}" if random.random() < 0.2 else f"{text} {place}"
