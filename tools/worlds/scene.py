"""What a generated world is: the data of its scenes, and the words for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from worlds.grounds import Color, Ground
from worlds.polygons import BLOBS, Outline

FRAMES, FPS = 16, 12

Pixels: TypeAlias = NDArray[np.uint8]
Path: TypeAlias = NDArray[np.float64]  # (FRAMES, 3): x and y in pixels, and the radius or a factor
DrawPath: TypeAlias = Callable[[str, float, tuple[int, int], np.random.Generator], Path]
ReadMotion: TypeAlias = Callable[[Path], str]


@dataclass(frozen=True)
class Scene:
    """What a clip shows, by names of its world; empty for what a grader cannot tell."""

    shape: str
    color: str
    motion: str
    size: str
    ground: str


@dataclass(frozen=True)
class Look:
    """How objects are painted.

    Args:
        rim: width of the rim, as a share of the radius; 0 for none.
        other: colour of what has not the scene's colour; the same in all scenes.
        colored_rim: the rim has the scene's colour, not the inside.
    """

    rim: float = 0.0
    other: Color | None = None
    colored_rim: bool = False


@dataclass(frozen=True, eq=False)
class World:
    """A generated world. The keys of its mappings are the names that scenes have.

    Args:
        frame: (height, width) in pixels.
        outlines: of shapes of radius 1 around 0.
        colors: RGB.
        motions: names.
        sizes: radius in pixels.
        grounds: behind the object.
        words: wordings of names; a name that is missing is its own word.
        captions: templates, each with the chance of it or of one before it; the last has 1.
        draw_path: of (motion, radius, frame, generator), gives the centre of the object and the
            factor of its radius in each frame.
        read_motion: of the centre and the radius in each frame, NaN where there is no object,
            gives the motion, or "".
        look: how objects are painted.
        decoys: outlines that are told from shapes; they read as "".
    """

    frame: tuple[int, int]
    outlines: Mapping[str, Outline]
    colors: Mapping[str, Color]
    motions: Sequence[str]
    sizes: Mapping[str, float]
    grounds: Mapping[str, Ground]
    words: Mapping[str, Sequence[str]]
    captions: Sequence[tuple[str, float]]
    draw_path: DrawPath
    read_motion: ReadMotion
    look: Look = Look()
    decoys: Mapping[str, Outline] = field(default_factory=lambda: BLOBS)

    @property
    def held_out(self) -> set[tuple[str, str]]:
        """The shapes and colours that training clips never show together, two for each shape."""
        colors = list(self.colors)
        return {
            (shape, colors[(3 * number + 5 * k) % len(colors)])
            for number, shape in enumerate(self.outlines)
            for k in range(2)
        }
