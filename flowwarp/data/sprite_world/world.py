"""Composes captioned clips of sprite characters with exact flow, fast enough to train on them.

A clip is a pure function of (seed, index), which determine actors, outfits, actions, background and
camera motion. Flow is exact because everything in a clip moves by a formula
(:mod:`flowwarp.data.stage`); only where a character changes its pose there is no valid flow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.data.choices import choose
from flowwarp.data.clip import Attributes, Clip
from flowwarp.data.sprite_world.captions import draw_caption, reword
from flowwarp.data.sprite_world.cast import (
    ACTIONS,
    Actor,
    draw_actor,
    is_held_out,
)
from flowwarp.data.sprite_world.grounds import (
    HORIZON,
    PHOTO,
    Crop,
    crop_photo,
    ground_names,
    is_backdrop,
    paint_ground,
)
from flowwarp.data.sprite_world.labels import label_clip
from flowwarp.data.sprite_world.layers import ANIMATIONS, Layer, Layers, paint_outfit
from flowwarp.data.stage import STAGE, Figure, Shadow, Track, check_take, film
from flowwarp.errors import InputError

_TWO = 0.15  # of the clips show two actors
_PHOTO_SHARE = 0.2  # of the clips have a photo as background, if there are photos
_FEET, _MIDDLE = 62, 32  # px of a cell: row of the feet, column of the body's axis
_HEIGHT = 48  # px of a cell: from head to feet
# Pixels of the stage per pixel of a cell, for one actor and for two. Pixel art is placed at whole
# pixels and moves by whole pixels: in between, interpolation would blur it.
_SCALE, _TWO_SCALE = 2.0, 1.5
_STEP = 2  # px of the stage per frame: still whole pixels in frames of half its size
_GRID = 8  # px of the stage: start positions are multiples of it, as on the tiles of a game
_ZOOM = 1.25
_PROBES = 2000  # draws that decide whether layers have held-out combinations; one in ten is
_TRIES = 20_000  # draws of one clip, for layers with few combinations of the wanted kind
_PANS = ("left", "right", "up", "down")  # an upright background allows the first two
_TURNS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "": (0, 0)}


def compose_clip(
    layers: Layers,
    seed: int,
    index: int,
    size: int = STAGE,
    frames: int = 16,
    *,
    photos: Sequence[Tensor] = (),
    held_out: bool | None = False,
    rewordings: int = 0,
) -> Clip:
    """Compose a clip; the same arguments give the same clip.

    Args:
        layers: from :func:`flowwarp.data.sprite_world.layers.load_layers`.
        seed: of the series of clips.
        index: of the clip in the series.
        size: height and width: 128, or 64, 32, 16, 8 for the same clip averaged down.
        frames: number of frames; 16 show a full walk cycle or a full blow.
        photos: (3, H, W) uint8 each; a fifth of the clips have a part of one as background.
        held_out: False for training: no combination for which :func:`is_held_out` is True; True
            for only such combinations; None for both.
        rewordings: number of further captions.

    Raises:
        ValueError: the size or length is not possible, or the layers have no such combination.
    """
    setting = set_up(layers, seed, index, size, frames, photos, held_out)
    take = film(setting.canvas, setting.scene.camera, setting.figures(), size)
    attributes, random = setting.attributes, setting.random
    return Clip(
        **vars(take),
        caption=setting.caption,
        attributes=attributes,
        # Drawn last, so that nothing else depends on their number.
        rewordings=reword(attributes, random, rewordings),
        labels=label_clip(attributes) if len(setting.actors) == 1 else {},
    )


@dataclass(frozen=True)
class Setting:
    """All random decisions of a clip, made before its frames are drawn."""

    actors: Sequence[Actor]
    attributes: Attributes
    caption: str
    scene: Scene
    canvas: Tensor
    random: np.random.Generator

    def figures(self) -> list[Figure]:
        """Return the actors as figures in order of painting, those behind first."""
        order = np.argsort([t.y[0] + _FEET * t.scale[0] for t in self.scene.tracks])
        return [self.figure(number, self.actors[number].outfit) for number in order]

    def figure(self, number: int, outfit: Sequence[Layer]) -> Figure:
        """Return an actor as a figure, in its own outfit or another."""
        about, scene = self.actors[number].attributes, self.scene
        pictures = paint_outfit(outfit, ACTIONS[about["action"]][1], about["direction"])
        return Figure(pictures, scene.shown[number], scene.tracks[number], _SHADOW)


def set_up(
    layers: Layers,
    seed: int,
    index: int,
    size: int,
    frames: int,
    photos: Sequence[Tensor],
    held_out: bool | None,
) -> Setting:
    """Draw all random decisions of a clip; arguments as in :func:`compose_clip`."""
    check_take(size, frames)
    random = np.random.default_rng([seed, index])
    for _ in range(_TRIES):
        actors, attributes = _cast(layers, random, _PHOTO_SHARE if len(photos) else None)
        if held_out is None or is_held_out(attributes) == held_out:
            break
    else:
        wanted = "held out" if held_out else "not held out"
        raise ValueError(f"layers hold no combination that is {wanted}; load more of them")
    ground = attributes["ground"]
    caption = draw_caption(attributes, random)
    scene = _direct(random, actors, attributes["camera"], ground, frames)
    if ground == PHOTO:
        canvas = crop_photo(choose(random, photos), random, scene.crop.height, scene.crop.width)
    else:
        canvas = paint_ground(ground, random, scene.crop)
    return Setting(actors, attributes, caption, scene, canvas, random)


_SHADOW = Shadow(_MIDDLE, _FEET - 1.5, width=15, height=4.5, strength=0.4)


def holds_held_out(layers: Layers, *, photos: bool = False) -> bool:
    """Return whether clips of some layers can show a held-out combination.

    A few layers have few combinations, possibly none that is held out; 2000 draws decide.

    Args:
        layers: from :func:`flowwarp.data.sprite_world.layers.load_layers`.
        photos: whether there are photos as backgrounds.
    """
    random = np.random.default_rng(0)
    share = 0.5 if photos else None
    return any(is_held_out(_cast(layers, random, share)[1]) for _ in range(_PROBES))


def check_held_out(
    layers: Layers,
    source: str | Path | None,
    remedy: str = "add some more of them",
    *,
    photos: bool = False,
) -> None:
    """Refuse layers without any held-out combination.

    Args:
        layers: from :func:`flowwarp.data.sprite_world.layers.load_layers`.
        source: folder of the layers; None for those in the package.
        remedy: advice in the error.
        photos: whether there are photos as backgrounds.

    Raises:
        InputError: the layers have none.
    """
    if not holds_held_out(layers, photos=photos):
        raise InputError(source or "layers", "hold no combination that is held out", remedy)


# ------------------------------------------------------------------ actors and camera


def _cast(
    layers: Layers, random: np.random.Generator, photo_share: float | None
) -> tuple[list[Actor], Attributes]:
    """Draw actors and the attributes of a clip; ``photo_share`` is None if there are no photos."""
    photo = photo_share is not None and random.random() < photo_share
    ground = PHOTO if photo else choose(random, ground_names())
    actors = [draw_actor(layers, random) for _ in range(1 + (random.random() < _TWO))]
    attributes: Attributes = {
        "actors": [actor.attributes for actor in actors],
        "ground": ground,
        "camera": _draw_camera(random, actors, ground),
    }
    return actors, attributes


def _draw_camera(random: np.random.Generator, actors: Sequence[Actor], ground: str) -> str:
    """Draw a camera motion under which it stays clear which of camera and actor moves.

    The camera follows a walking actor, pans over one that stays in place, zooms, or is still.
    """
    ways = {_way(actor) for actor in actors}  # "" for an actor that stays in place
    level, climbs = is_backdrop(ground), bool(ways & {"up", "down"})
    chance = random.random()
    if ways == {""} and chance < 0.35:
        return f"pan {choose(random, _PANS[: 2 if level else 4])}"
    if len(ways) == 1 and ways != {""} and chance < 0.35 and not (level and climbs):
        return "follow"
    if chance > 0.9 and not climbs:  # one that walks up or down would leave the frame
        return choose(random, ("zoom in", "zoom out"))
    return "still"


def _way(actor: Actor) -> str:
    """Return the direction in which an actor walks; empty if it stays in place."""
    about = actor.attributes
    return about["direction"] if about["action"] == "walk" else ""


# ------------------------------------------------------------------ positions over time


@dataclass(frozen=True)
class Scene:
    """Tracks of camera and actors, the cell of each actor per frame, and the crop of the ground.

    ``shown`` has (T,) int64 for each actor: the cell of its animation in each frame.
    """

    camera: Track
    tracks: Sequence[Track]
    shown: Sequence[NDArray[np.int64]]
    crop: Crop


def _direct(
    random: np.random.Generator, actors: Sequence[Actor], camera: str, ground: str, frames: int
) -> Scene:
    """Place the actors, choose the cells of their animations, and move the camera.

    World coordinates are pixels of the stage as long as the camera neither moves nor zooms.
    """
    time = np.arange(frames, dtype=np.float64)
    length = max(frames - 1, 1)
    several = len(actors) > 1
    zoom = np.ones(frames)
    scale = _TWO_SCALE if several else _SCALE
    if camera.startswith("zoom"):
        zoom = np.exp(math.log(_ZOOM) * time / length)
        zoom = zoom if camera == "zoom in" else zoom[::-1]
        scale = scale if several else scale / _ZOOM
    paths = _draw_paths(random, actors, camera, scale, zoom.max(), length)

    drift = np.zeros((frames, 2))
    if camera == "follow":
        drift = time[:, None] * paths[0][1]
    elif camera.startswith("pan"):
        x, y = _TURNS[camera.removeprefix("pan ")]
        wanted, reach = (_STEP / 2, 18) if y else (_STEP / 2, 20) if several else (_STEP, 44)
        way = _pace(wanted, reach, length) * np.array([x, y])
        drift = time[:, None] * way - _on_grid(way * length / 2)
    start = paths[0][0]
    focus = np.array([STAGE / 2 if several else start[0], start[1] - 0.5 * _HEIGHT * scale])
    offset = (1 - zoom)[:, None] * focus - zoom[:, None] * drift  # screen = zoom * world + offset

    tracks, shown = [], []
    for actor, (start, speed) in zip(actors, paths, strict=True):
        corner = start + time[:, None] * speed - scale * np.array([_MIDDLE, _FEET])
        tracks.append(Track(scale * zoom, *(zoom[:, None] * corner + offset).T))
        shown.append(_act(actor.attributes["action"], frames))
    # Bounds of the visible world in whole tiles, so that the ground is aligned with them as well.
    low = _GRID * np.floor(((-offset / zoom[:, None]).min(0) - 1) / _GRID).astype(int)
    high = _GRID * np.ceil((((STAGE - offset) / zoom[:, None]).max(0) + 2) / _GRID).astype(int)
    left, top = (_GRID * int(random.integers(1 << 13)) for _ in range(2))
    if is_backdrop(ground):
        horizon = min(start[1] for start, _ in paths) - random.uniform(10, 24)
        top = HORIZON - _GRID * round(horizon / _GRID) + int(low[1])
    crop = Crop(top, left, int(high[1] - low[1]), int(high[0] - low[0]))
    return Scene(Track(zoom, *(offset + zoom[:, None] * low).T), tracks, shown, crop)


def _draw_paths(
    random: np.random.Generator,
    actors: Sequence[Actor],
    camera: str,
    scale: float,
    zoom: float,
    length: int,
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return for each actor the first position of its feet, (2,), and its px per frame, (2,).

    Args:
        random: the generator.
        actors: from left to right.
        camera: motion of the camera.
        scale: of the actors.
        zoom: largest zoom of the camera.
        length: number of steps from the first frame to the last.
    """
    several = len(actors) > 1
    height = _HEIGHT * scale * zoom
    feet = random.uniform(min(height + 10, 118), 121)
    # Actors neither leave the frame nor meet, unless the camera follows them.
    across, down = (20 if several else 54), np.clip(STAGE - height - 8, 6, 30)
    sides = random.uniform(24, 31) * np.array([-1, 1]) if several else np.zeros(1)
    paths = []
    for actor, side in zip(actors, sides, strict=True):
        way = np.array(_TURNS[_way(actor)])
        speed = way * (_STEP, _STEP / 2)
        start = np.array([STAGE / 2 + side, feet + 4 * several * random.uniform(-1, 1)])
        start[0] += random.uniform(-5, 5)
        if camera != "follow":
            speed = way * (_pace(_STEP, across, length), _pace(_STEP / 2, down, length))
            start -= speed * length / 2
            lowest, highest = height + 6 - speed[1] * length * (speed[1] < 0), 124.0
            highest -= speed[1] * length * (speed[1] > 0)
            start[1] = np.clip(start[1], min(lowest, highest), highest)
        corner = scale * np.array([_MIDDLE, _FEET])
        paths.append((_on_grid(start - corner) + corner, speed))
    return paths


def _on_grid(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest place on the grid."""
    return _GRID * np.round(place / _GRID)


def _pace(wanted: float, reach: float, length: int) -> float:
    """Return the px per step: at most ``wanted``, within ``reach`` in all; whole if 1 or more."""
    most = reach / length
    return min(wanted, math.floor(most) if most >= 1 else most)


def _act(action: str, frames: int) -> NDArray[np.int64]:
    """Return the cell of the animation in each frame, (T,) int64; the action begins at once."""
    time = np.arange(frames)
    cells = ANIMATIONS[ACTIONS[action][1]][1]
    if action == "stand":
        return np.zeros(frames, np.int64)
    if action == "walk":  # cell 0 stands; two frames per cell, so that a cycle of 8 takes 16
        return 1 + time // 2 % (cells - 1)
    hold = max(1, min(2, frames // cells))
    return np.minimum(time // hold, cells - 1)
