"""Clips of a world: each is a function of the seed, its number, and whether it is held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from worlds.grounds import paint
from worlds.polygons import ENLARGED, cover, draw_mask, shrink_mask
from worlds.scene import Path, Pixels, Scene, World

_T = TypeVar("_T")


def make_clip(
    world: World, seed: int, index: int, *, held_out: bool = False
) -> tuple[Pixels, str, Scene]:
    """Return the frames (T, H, W, 3), the caption and the scene of a clip."""
    rng = np.random.default_rng([seed, index, int(held_out)])
    scene = random_scene(world, rng, held_out=held_out)
    path = world.draw_path(scene.motion, world.sizes[scene.size], world.frame, rng)
    ground = world.grounds[scene.ground]
    begin = (int(rng.integers(ground.period[0])), int(rng.integers(ground.period[1])))
    frames = draw(world, scene, path, paint(ground, world.frame, begin))
    return frames, write_caption(world, scene, rng), scene


def random_scene(world: World, rng: np.random.Generator, *, held_out: bool) -> Scene:
    """Draw a scene whose shape and colour are held out, or are not."""
    names = (world.outlines, world.colors, world.motions, world.sizes, world.grounds)
    while True:
        scene = Scene(*(_choose(list(each), rng) for each in names))
        if ((scene.shape, scene.color) in world.held_out) == held_out:
            return scene


def write_caption(world: World, scene: Scene, rng: np.random.Generator) -> str:
    """Return one of the captions of a scene."""
    words = {}
    for attribute in ("shape", "color", "size", "motion", "ground"):
        name = getattr(scene, attribute)
        words[attribute] = _choose(world.words.get(name, (name,)), rng)
    chance = rng.random()
    return next(text for text, most in world.captions if chance < most).format(**words)


def _choose(values: Sequence[_T], rng: np.random.Generator) -> _T:
    return values[int(rng.integers(len(values)))]


def draw(world: World, scene: Scene, path: Path, ground: NDArray[np.float64]) -> Pixels:
    """Draw a scene, antialiased.

    Args:
        world: of the scene.
        scene: what is drawn.
        path: (T, 3), x and y in pixels and the factor of the radius.
        ground: (H, W, 3), behind the object.

    Returns:
        (T, H, W, 3).
    """
    look, color = world.look, world.colors[scene.color]
    other = look.other or color
    outer, inner = (color, other) if look.colored_rim else (other, color)
    frames = []
    for x, y, factor in path:
        radius = world.sizes[scene.size] * factor
        parts = world.outlines[scene.shape]
        places = [(part * radius + (x, y) + 0.5) * ENLARGED - 0.5 for part in parts]
        mask = draw_mask(tuple(places), world.frame)
        frame = _blend(ground, outer, cover(mask))
        if look.rim:
            frame = _blend(frame, inner, cover(shrink_mask(mask, look.rim * radius)))
        frames.append(np.round(frame).astype(np.uint8))
    return np.stack(frames)


def _blend(
    below: NDArray[np.float64], color: tuple[int, int, int], alpha: NDArray[np.float64]
) -> NDArray[np.float64]:
    return alpha[..., None] * color + (1 - alpha[..., None]) * below
