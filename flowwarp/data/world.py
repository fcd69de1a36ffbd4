"""A world with known motion: captioned clips of sprite characters, made as fast as they are read.

A clip is a pure function of (seed, index): who is seen, what they wear and do, where, and how the
camera moves. Flow between its frames is known exactly, since everything in it is moved by a formula
(:mod:`flowwarp.data._stage`). Only where a character changes its pose there is no flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.data._stage import STAGE, Figure, Shadow, Track, film
from flowwarp.data.captions import draw_caption
from flowwarp.data.cast import ACTIONS, Actor, Attributes, choose, draw_actor, is_held_out
from flowwarp.data.grounds import (
    HORIZON,
    PHOTO,
    Crop,
    crop_photo,
    ground_names,
    is_backdrop,
    paint_ground,
)
from flowwarp.data.sprites import ANIMATIONS, Layers, dress

_TWO = 0.15  # of the clips show two actors
_FEET, _MIDDLE = 62, 32  # px of a cell: where the feet are, and the body's axis
_HEIGHT = 48  # px of a cell, from head to feet
_TRIES = 2000  # to find a combination that is held out; one in ten is
_TURNS_OF_CAMERA = ("left", "right", "up", "down")  # the first two before a backdrop
_TURNS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "": (0, 0)}


@dataclass(frozen=True)
class Clip:
    """A captioned clip with known flow.

    Args:
        video: (T, 3, S, S) uint8.
        flow_12: (T-1, 2, S, S) float32, from each frame to the next: ``warp(frame[t+1],
            flow_12[t])`` looks like ``frame[t]``.
        flow_21: likewise, from each frame back to the one before.
        valid_12: (T-1, 1, S, S) bool, True where ``flow_12`` is exact. It is not on rims, where two
            things share a pixel, under a shadow that moves, and where an actor changes its pose:
            there flow tells how the actor as a whole moves.
        valid_21: likewise, of ``flow_21``.
        visible_12: (T-1, 1, S, S) bool, True where the next frame shows what is there: it is
            neither hidden nor out of view.
        visible_21: likewise, in the frame before.
        caption: what is seen, in English.
        attributes: what is seen, as data; see :mod:`flowwarp.data.cast`.
    """

    video: Tensor
    flow_12: Tensor
    flow_21: Tensor
    valid_12: Tensor
    valid_21: Tensor
    visible_12: Tensor
    visible_21: Tensor
    caption: str
    attributes: Attributes


def compose_clip(
    layers: Layers,
    seed: int,
    index: int,
    size: int = STAGE,
    frames: int = 16,
    *,
    photos: Sequence[Tensor] = (),
    photo_share: float = 0.2,
    held_out: bool | None = False,
) -> Clip:
    """Make a clip; the same arguments give the same clip.

    Args:
        layers: what :func:`flowwarp.data.sprites.load_layers` returns.
        seed: which series of clips.
        index: which clip of the series.
        size: of the frames: 128, or 64, 32, 16 for the same clip averaged down.
        frames: how many, 16 as a rule: a walk's cycle, or a whole blow.
        photos: (3, H, W) uint8 each; some clips are shown before a part of one.
        photo_share: how many.
        held_out: False for training: no combination that :func:`is_held_out` names; True for only
            such; None for both.

    Raises:
        ValueError: a size or length that is not possible, or nothing is held out.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    random = np.random.default_rng([seed, index])
    for _ in range(_TRIES):
        photo = len(photos) > 0 and random.random() < photo_share
        ground = PHOTO if photo else choose(random, ground_names())
        actors = _draw_actors(layers, random, ground)
        attributes: Attributes = {
            "actors": [actor.attributes for actor in actors],
            "ground": ground,
            "camera": _draw_camera(random, actors, ground),
        }
        if held_out is None or is_held_out(attributes) == held_out:
            break
    else:
        raise ValueError("layers hold no combination that is held out; load more of them")
    caption = draw_caption(attributes, random)
    scene = _direct(random, actors, attributes["camera"], ground, frames)
    top, left, height, width = scene.crop
    if photo:
        canvas = crop_photo(choose(random, photos), random, height, width)
    else:
        canvas = paint_ground(ground, random, Crop(top, left, height, width))
    figures = [
        Figure(
            dress(actor.worn, ACTIONS[about["action"]][1], about["direction"]),
            shown,
            track,
            _SHADOW,
        )
        for actor, about, shown, track in zip(
            actors, attributes["actors"], scene.shown, scene.tracks, strict=True
        )
    ]
    order = np.argsort([track.y[0] + _FEET * track.scale[0] for track in scene.tracks])
    take = film(canvas, scene.camera, [figures[k] for k in order], size)
    return Clip(**vars(take), caption=caption, attributes=attributes)


_SHADOW = Shadow(_MIDDLE, _FEET - 1.5, width=15, height=4.5, strength=0.4)


# ------------------------------------------------------------------ who and how


def _draw_actors(layers: Layers, random: np.random.Generator, ground: str) -> list[Actor]:
    count = 2 if random.random() < _TWO else 1
    return [draw_actor(layers, random) for _ in range(count)]


def _draw_camera(random: np.random.Generator, actors: Sequence[Actor], ground: str) -> str:
    """Draw a move that leaves no doubt who moves: it follows one who walks, or stays."""
    ways = {
        actor.attributes["direction"] if actor.attributes["action"] == "walk" else ""
        for actor in actors
    }
    level = is_backdrop(ground)
    chance = random.random()
    if ways == {""}:
        if chance < 0.35:
            return f"pan {choose(random, _TURNS_OF_CAMERA[: 2 if level else 4])}"
    elif len(ways) == 1 and chance < 0.35 and not (level and ways & {"up", "down"}):
        return "follow"
    return choose(random, ("zoom in", "zoom out")) if chance > 0.8 else "still"


# ------------------------------------------------------------------ where everything is, and when


@dataclass(frozen=True)
class _Scene:
    """Tracks of all that is seen, and the part of the ground (top, left, height, width) needed."""

    camera: Track
    tracks: Sequence[Track]
    shown: Sequence[NDArray[np.int64]]
    crop: tuple[int, int, int, int]


def _direct(
    random: np.random.Generator, actors: Sequence[Actor], camera: str, ground: str, frames: int
) -> _Scene:
    """Place the actors, let them act, and move the camera.

    A point of the world is a pixel of the stage as long as the camera neither moves nor zooms.
    """
    time = np.arange(frames, dtype=np.float64)
    length = max(frames - 1, 1)
    several = len(actors) > 1
    zoom = np.ones(frames)
    if camera.startswith("zoom"):
        zoom = np.exp(np.log(random.uniform(1.16, 1.26)) * time / length)
        zoom = zoom if camera == "zoom in" else zoom[::-1]
    steepest = 2.1 / zoom.max()
    scale = random.uniform(1.4, min(1.7 if several else 2.05, steepest))
    climbs = any(
        a.attributes["action"] == "walk" and a.attributes["direction"] in ("up", "down")
        for a in actors
    )
    if climbs or camera in ("pan up", "pan down"):
        scale = min(scale, 1.75)
    high = _HEIGHT * scale * zoom.max()
    feet = random.uniform(min(high + 10, 118), 121)

    pace = random.uniform(1.9, 3.2)  # px a frame, across
    furthest = 20 if several else 54
    rise = np.clip(STAGE - high - 8, 6, 30)
    places: list[NDArray[np.float64]] = []
    steps: list[NDArray[np.float64]] = []
    sides = random.uniform(24, 31) * np.array([-1, 1]) if several else np.array([0.0])
    for actor, side in zip(actors, sides, strict=True):
        about = actor.attributes
        turn = _TURNS[about["direction"] if about["action"] == "walk" else ""]
        speed = np.array([turn[0] * pace, turn[1] * 0.6 * pace])
        if camera != "follow":
            speed[0] = np.clip(speed[0], -furthest / length, furthest / length)
            speed[1] = np.clip(speed[1], -rise / length, rise / length)
        y = feet + random.uniform(-4, 4) * several
        middle = np.array([STAGE / 2 + side + random.uniform(-5, 5), y])
        start = middle - speed * length / 2
        if camera != "follow":  # one who walks up or down keeps head and feet in view
            start[1] = np.clip(start[1] - 0.0, high + 6, 124)
            if speed[1] < 0:
                start[1] = max(start[1], min(124, high + 6 - speed[1] * length))
            if speed[1] > 0:
                start[1] = min(start[1], max(high + 6, 124 - speed[1] * length))
        else:
            start[:] = middle
        places.append(start)
        steps.append(speed)
    drift = np.zeros((frames, 2))
    if camera == "follow":
        drift = time[:, None] * steps[0]
    elif camera.startswith("pan"):
        x, y = _TURNS[camera.removeprefix("pan ")]
        reach = 18 if y else 20 if several else 44
        amount = min(random.uniform(1.3, 2.8) * (0.5 if y else 1) * length, reach)
        drift = (time / length - 0.5)[:, None] * amount * np.array([x, y])

    focus = np.array([places[0][0], places[0][1] - 0.5 * _HEIGHT * scale])
    if several:
        focus[0] = STAGE / 2
    offset = (1 - zoom)[:, None] * focus - zoom[:, None] * drift  # screen = zoom * world + offset

    low = np.floor((-offset / zoom[:, None]).min(0)).astype(int) - 1
    far = np.ceil(((STAGE - offset) / zoom[:, None]).max(0)).astype(int) + 2
    lens = Track(zoom, *(offset + zoom[:, None] * low).T)
    tracks, shown = [], []
    for actor, start, speed in zip(actors, places, steps, strict=True):
        corner = start + time[:, None] * speed - scale * np.array([_MIDDLE, _FEET])
        tracks.append(Track(scale * zoom, *(zoom[:, None] * corner + offset).T))
        shown.append(_act(random, actor.attributes["action"], frames))
    left, top = (int(random.integers(1 << 16)) for _ in range(2))
    if is_backdrop(ground):
        horizon = min(place[1] for place in places) - random.uniform(10, 24)
        top = HORIZON - round(horizon) + int(low[1])
    return _Scene(lens, tracks, shown, (top, left, int(far[1] - low[1]), int(far[0] - low[0])))


def _act(random: np.random.Generator, action: str, frames: int) -> NDArray[np.int64]:
    """Return which cell of the animation each frame shows."""
    time = np.arange(frames)
    cells = ANIMATIONS[ACTIONS[action][1]][1]
    if action == "stand":
        return np.zeros(frames, np.int64)
    if action == "walk":  # cell 0 is standing; two frames a cell, so that a cycle takes 16
        return 1 + (time + int(random.integers(16))) // 2 % (cells - 1)
    hold = max(1, min(2, frames // cells))
    start = int(random.integers(max(frames - hold * cells, 0) + 1))
    return np.clip((time - start) // hold, 0, cells - 1)
