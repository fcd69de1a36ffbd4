"""A generated world of moving shapes, to measure ``train-video`` on: clips, and a grader of pixels.

    python tools/shapes_world.py make clips/ --count 400 --seed 1
    flowwarp train-video clips/ --hours 1 --run runs/shapes
    python tools/shapes_world.py grade runs/shapes --prompts 60

Five shapes, eight colours, seven motions, two sizes, five grounds; 16 frames of 96 x 96. Two
colours of each shape are never shown together with it: prompts of these are the unseen
combinations. The grader compares outlines with templates, and reads all originals right.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from flowwarp.io.video_writer import write_video
from flowwarp.pipelines.video.generate import Request, decode, generate, write_codes
from flowwarp.pipelines.video.load import load_video_model

SIDE, FRAMES, FPS = 96, 16, 12
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 90, 230),
    "yellow": (245, 220, 50),
    "orange": (245, 140, 30),
    "purple": (140, 60, 190),
    "pink": (250, 140, 190),
    "cyan": (60, 215, 225),
}
GROUNDS = {
    "black": (15, 15, 15),
    "white": (240, 240, 240),
    "gray": (125, 125, 125),
    "brown": (110, 75, 45),
    "navy": (25, 30, 85),
}
SIZES = {"small": 11.0, "large": 19.0}  # radius in pixels
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
MOTIONS = {
    "left": ("moves left", "slides to the left", "drifts left"),
    "right": ("moves right", "slides to the right", "drifts right"),
    "up": ("moves up", "rises", "floats up"),
    "down": ("moves down", "falls", "sinks down"),
    "still": ("stays still", "rests", "does not move"),
    "bounces": ("bounces", "bounces up and down", "jumps"),
    "circles": ("circles", "moves in a circle", "goes around"),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
HELD_OUT = {
    (shape, list(COLORS)[(3 * i + 5 * k) % 8]) for i, shape in enumerate(SHAPES) for k in range(2)
}

Pixels = NDArray[np.uint8]
_TEMPLATE = 32  # side of the templates, pixels
_ALIKE = 0.72  # least overlap of a shape with its template
_ENLARGED = 4  # shapes are drawn so much larger, and averaged


@dataclass(frozen=True)
class Scene:
    """What a clip shows, by the names above; empty for what a grader cannot tell."""

    shape: str
    color: str
    motion: str
    size: str
    ground: str


# ------------------------------------------------------------------ clips


def random_scene(rng: np.random.Generator, *, held_out: bool) -> Scene:
    """Draw a scene whose shape and colour are held out, or are not."""
    while True:
        names = [list(each) for each in (SHAPES, COLORS, MOTIONS, SIZES, GROUNDS)]
        scene = Scene(*(str(rng.choice(values)) for values in names))
        if ((scene.shape, scene.color) in HELD_OUT) == held_out:
            return scene


def make_clip(seed: int, index: int, *, held_out: bool = False) -> tuple[Pixels, str, Scene]:
    """Return the frames (T, S, S, 3), the caption and the scene of a clip."""
    rng = np.random.default_rng([seed, index, int(held_out)])
    scene = random_scene(rng, held_out=held_out)
    frames = draw(scene, draw_path(scene, rng))
    return frames, write_caption(scene, rng), scene


def write_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return one of the captions of a scene."""
    size = rng.choice(SIZE_WORDS[scene.size])
    verb = rng.choice(MOTIONS[scene.motion])
    ground = f"{scene.ground} {rng.choice(['background', 'ground'])}"
    if rng.random() < 0.3:
        return f"on a {ground} a {size} {scene.color} {scene.shape} {verb}"
    return f"a {size} {scene.color} {scene.shape} {verb} on a {ground}"


def draw_path(scene: Scene, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the centre of the shape in each frame, (T, 2) as x and y."""
    radius = 1.2 * SIZES[scene.size]
    low, high = radius + 1, SIDE - radius - 2
    time = np.linspace(0, 1, FRAMES)
    span = rng.uniform(26, min(44, high - low - 2))
    x, y = (np.full(FRAMES, value) for value in rng.uniform(low, high, 2))
    if scene.motion in ("left", "right", "up", "down"):
        way = rng.uniform(low, high - span) + span * time
        way = way[::-1] if scene.motion in ("left", "up") else way
        x, y = (way, y) if scene.motion in ("left", "right") else (x, way)
    elif scene.motion == "bounces":
        height = min(span, 30)
        y = rng.uniform(low + height, high) - height * np.abs(np.sin(2 * np.pi * time))
    elif scene.motion == "circles":
        reach = min(rng.uniform(9, 12), (high - low) / 2 - 1)
        angle = 2 * np.pi * time + rng.uniform(0, 2 * np.pi)
        middle = rng.uniform(low + reach, high - reach, 2)
        x, y = middle[0] + reach * np.cos(angle), middle[1] + reach * np.sin(angle)
    return np.stack([x, y], 1)


def draw(scene: Scene, path: NDArray[np.float64]) -> Pixels:
    """Draw a scene, antialiased: (T, S, S, 3)."""
    frames = []
    for center in path:
        points = outline(scene.shape) * SIZES[scene.size] + center + 0.5
        alpha = _fill(points * _ENLARGED - 0.5, SIDE)[..., None]
        frame = alpha * COLORS[scene.color] + (1 - alpha) * GROUNDS[scene.ground]
        frames.append(np.round(frame).astype(np.uint8))
    return np.stack(frames)


def outline(shape: str) -> NDArray[np.float64]:
    """Return the corners of a shape of radius 1 around 0, (N, 2) as x and y."""
    if shape == "circle":
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        return 0.95 * np.stack([np.cos(angle), np.sin(angle)], 1)
    if shape == "star":
        angle = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.2, 0.5)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    if shape == "square":
        return np.array([[-0.84, -0.84], [0.84, -0.84], [0.84, 0.84], [-0.84, 0.84]])
    if shape == "triangle":
        return np.array([[0, -1.05], [1.05, 0.8], [-1.05, 0.8]])
    arm, end = 0.36, 1.05
    corner = [(-arm, -end), (arm, -end), (arm, -arm), (end, -arm)]
    points = [*corner]
    points += [(end, arm), (arm, arm), (arm, end), (-arm, end)]
    points += [(-arm, arm), (-end, arm), (-end, -arm), (-arm, -arm)]
    return np.array(points)


def _fill(points: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return the share of each pixel within a polygon, (side, side), of enlarged corners."""
    mask = np.zeros((side * _ENLARGED, side * _ENLARGED), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, shift=4)
    share = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(share, np.float64) / 255


# ------------------------------------------------------------------ grading


@cache
def templates() -> dict[str, NDArray[np.float64]]:
    """Return the filled outline of each shape in its bounding box, (_TEMPLATE, _TEMPLATE)."""
    made = {}
    for shape in SHAPES:
        points = outline(shape)
        low, high = points.min(0), points.max(0)
        scaled = (points - low) / (high - low) * (_TEMPLATE * _ENLARGED - 1)
        made[shape] = _fill(scaled, _TEMPLATE)
    return made


def grade(video: Pixels) -> Scene:
    """Return what the pixels of a video (T, S, S, 3) of any side show."""
    frames = video.astype(np.float32)
    scale = video.shape[1] / SIDE
    edges = (frames[:, :3], frames[:, -3:], frames[:, :, :3], frames[:, :, -3:])
    border = np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), 0)
    ground = _nearest(border, GROUNDS)
    parts, colors = [], []
    for frame in frames:
        part = _largest_part(np.abs(frame - border).sum(-1), 30 * scale**2)
        if part is not None:
            parts.append(part)
            colors.append(np.median(frame[_inner(part[0])], 0))
    if len(parts) < 0.7 * len(frames):
        return Scene("", "", "", "", ground)
    color = _nearest(np.median(colors, 0), COLORS)
    full = np.abs(np.array(COLORS[color]) - border).sum()
    shape = _vote([_shape(difference / full) for _, difference, _ in parts], len(frames))
    centers = np.array([center for _, _, center in parts]) / scale
    area = np.median([mask.sum() for mask, _, _ in parts]) / scale**2
    unit = templates()[shape].mean() * np.ptp(outline(shape), 0).prod() if shape else 2.4
    size = "large" if np.sqrt(area / unit) > sum(SIZES.values()) / 2 else "small"
    return Scene(shape, color, _motion(centers), size, ground)


def _largest_part(
    difference: NDArray[np.float32], least: float
) -> tuple[NDArray[np.bool_], NDArray[np.float32], tuple[float, float]] | None:
    """Return the mask of what differs most from the ground, its box of differences, its centre."""
    count, labels, stats, centers = cv2.connectedComponentsWithStats(
        (difference > 75).astype(np.uint8)
    )
    if count < 2:
        return None
    number = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, width, height, area = stats[number]
    if area < least:
        return None
    mask = labels == number
    box = (difference * mask)[y : y + height, x : x + width]
    return mask, box, (float(centers[number][0]), float(centers[number][1]))


def _inner(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask without its rim, where colours are mixed, if anything is left."""
    eroded = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return eroded if eroded.any() else mask


def _shape(box: NDArray[np.float64]) -> str:
    """Return the shape that fills its bounding box as the template does; empty if none does."""
    if min(box.shape) / max(box.shape) < 0.6:
        return ""
    how = cv2.INTER_AREA if box.shape[1] > _TEMPLATE else cv2.INTER_LINEAR
    alpha = cv2.resize(np.clip(box, 0, 1), (_TEMPLATE, _TEMPLATE), interpolation=how)
    overlap = {
        shape: np.minimum(alpha, template).sum() / np.maximum(alpha, template).sum()
        for shape, template in templates().items()
    }
    best = max(overlap, key=lambda shape: float(overlap[shape]))
    return best if overlap[best] > _ALIKE else ""


def _vote(shapes: Sequence[str], frames: int) -> str:
    """Return the shape of at least half of the frames."""
    counts = {shape: shapes.count(shape) for shape in SHAPES}
    best = max(counts, key=lambda shape: counts[shape])
    return best if counts[best] >= frames / 2 else ""


def _motion(centers: NDArray[np.float64]) -> str:
    extent, net = np.ptp(centers, 0), centers[-1] - centers[0]
    if extent.max() < 5:
        return "still"
    if extent.min() > 0.5 * extent.max() and np.abs(net).max() < 0.6 * extent.max():
        return "circles"
    axis = int(extent[1] >= extent[0])
    if abs(net[axis]) > 0.7 * extent[axis]:
        return (("left", "right"), ("up", "down"))[axis][int(net[axis] > 0)]
    return "bounces" if axis else ""


def _nearest(color: NDArray[Any], colors: Mapping[str, tuple[int, int, int]]) -> str:
    return min(colors, key=lambda name: float(np.abs(color - colors[name]).sum()))


def score(videos: Sequence[Pixels], scenes: Sequence[Scene]) -> dict[str, float]:
    """Return the shares of attributes that are right, their mean, and shape with colour jointly."""
    graded = [grade(video) for video in videos]
    pairs = list(zip(graded, scenes, strict=True))
    names = [field.name for field in fields(Scene)]
    shares = {
        name: float(np.mean([getattr(a, name) == getattr(b, name) for a, b in pairs]))
        for name in names
    }
    joint = [(a.shape, a.color) == (b.shape, b.color) for a, b in pairs]
    return shares | {
        "mean": float(np.mean([shares[name] for name in names])),
        "shape and color": float(np.mean(joint)),
    }


# ------------------------------------------------------------------ commands


def make(folder: Path, count: int, seed: int) -> None:
    """Write clips as MP4, each with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        frames, caption, _ = make_clip(seed, index)
        video = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        write_video(folder / f"{index:05d}.mp4", list(video), FPS)
        (folder / f"{index:05d}.txt").write_text(f"{caption}\n", "utf-8")


def grade_model(path: Path, prompts: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the scores of a model's videos, decoded and at their full size."""
    model = load_video_model(path)
    result = {}
    for name, held_out in (("seen", False), ("unseen", True)):
        clips = [make_clip(seed, index, held_out=held_out) for index in range(prompts)]
        scenes = [scene for _, _, scene in clips]
        decoded, full = [], []
        for index, (_, caption, _) in enumerate(clips):
            generator = torch.Generator().manual_seed(index)
            codes = next(write_codes(model, Request(caption), generator))
            decoded.append(_to_pixels(decode(model, codes, caption)))
            full.append(_to_pixels(generate(model, Request(caption), index)))
        result[f"{name}, decoded"] = score(decoded, scenes)
        result[name] = score(full, scenes)
    return result


def _to_pixels(video: torch.Tensor) -> Pixels:
    pixels: Pixels = (video.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return pixels


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write clips with captions")
    making.add_argument("folder", type=Path)
    making.add_argument("--count", type=int, default=400)
    making.add_argument("--seed", type=int, default=1)
    grading = commands.add_parser("grade", help="grade what a model makes of prompts")
    grading.add_argument("model", type=Path)
    grading.add_argument("--prompts", type=int, default=60)
    grading.add_argument("--seed", type=int, default=9)
    given = parser.parse_args()
    if given.command == "make":
        make(given.folder, given.count, given.seed)
        return
    for name, shares in grade_model(given.model, given.prompts, given.seed).items():
        print(name, json.dumps({key: round(100 * value) for key, value in shares.items()}))


if __name__ == "__main__":
    main()
