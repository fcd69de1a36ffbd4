"""Pairs of images made from still photos, with the flow between them known exactly.

A scene is a background and some layers in front of it, each a shape cut from a photo and moved by
a smooth motion of its own. The idea is that of FlyingChairs (Dosovitskiy et al., ICCV 2015) and of
AutoFlow's layers (Sun et al., CVPR 2021).

``place`` maps a position in frame 2 to one in the layer's photo. Pixel y of frame 2 shows the photo
at ``place(y)``, pixel x of frame 1 at ``place(x + flow(x))``. Both frames are thus interpolated
once, from the same photo, and the flow is exact whatever the motion, since nothing has to be
inverted.

The flow is meant for evaluation. Training here needs none.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.data.choices import choose
from flowwarp.data.resizing import shrink
from flowwarp.data.sampling import sample
from flowwarp.errors import InputError
from flowwarp.io.images import list_frames, read_image
from flowwarp.ops.fields import coordinate_grid
from flowwarp.ops.warping import warp

_LOG = logging.getLogger(__name__)

SLOWEST, FASTEST = 0.5, 100.0  # px
# Largest change of flow from pixel to pixel; from 1 the picture can fold.
STEEPEST = 0.3
LAYERS = 4  # in front of the background, at most
_SHADOW_SCALE = 4  # shadows are soft: they are drawn at a quarter of the size
_BLUR_TAPS = 7
_COARSE = 8  # px; enough to measure a smooth field


@dataclass(frozen=True)
class SyntheticPair:
    """Two frames with their flow and visibility; no batch dimension.

    Args:
        image1: (3, H, W) float32 in [0, 1].
        image2: (3, H, W) float32 in [0, 1].
        flow_12: (2, H, W) in pixels, exact.
        visible: (1, H, W) bool, True where a pixel of frame 1 is visible in frame 2.
    """

    image1: Tensor
    image2: Tensor
    flow_12: Tensor
    visible: Tensor


def load_photos(folder: str | Path, longest: int = 1024) -> list[Tensor]:
    """Read the pictures of a folder, and of those below, for :func:`synthesize_pair`.

    They are kept in memory as bytes: 2 MB each at the default size.

    Args:
        folder: a folder of pictures; unreadable ones are skipped, with a warning logged.
        longest: larger ones are made smaller until no side is longer.

    Returns:
        Photos (3, H, W), uint8; at least one.

    Raises:
        InputError: no such folder, or no picture in it that can be read.
    """
    photos = []
    for path in find_photos(Path(folder)):
        try:
            photos.append(shrink(read_image(path), longest))
        except InputError as fault:
            _LOG.warning("skipped %s", fault)
    if not photos:
        raise InputError(folder, "holds no picture that can be read")
    return photos


def find_photos(folder: Path) -> Iterator[Path]:
    """Yield the paths of the pictures that :func:`load_photos` would read.

    Raises:
        InputError: no such folder.
    """
    yield from list_frames(folder)
    below = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    for path in below:
        if path.is_dir() and not path.is_symlink():
            yield from find_photos(path)


def synthesize_pair(
    photos: Sequence[Tensor],
    seed: int,
    index: int,
    size: tuple[int, int] = (256, 320),
    *,
    effects: bool = True,
) -> SyntheticPair:
    """Make a pair; the same arguments give the same pair.

    Args:
        photos: (3, H, W) each, uint8 or float32 in [0, 1]; any sizes.
        seed: which series of pairs.
        index: which pair of the series.
        size: (height, width) of the frames.
        effects: add what a camera adds: shadows, motion blur, defocus, light that changes, noise.
            Without, ``warp(image2, flow_12)`` is ``image1`` where ``visible``, up to the
            interpolation of the images.

    Raises:
        ValueError: no photos, or a size below 1.
    """
    if not photos:
        raise ValueError("photos must not be empty")
    if min(size) < 1:
        raise ValueError(f"size must be at least (1, 1), got {tuple(size)}")
    random = np.random.default_rng([seed, index])
    # Effects draw from a stream of their own: the scene is the same with and without them.
    (camera,) = random.spawn(1)
    scene = _draw_layers(photos, random, size, camera if effects else None)
    frames, flow, flow_2 = scene.frames, scene.flows[:1], scene.flows[1:]

    # A pixel is hidden by a layer above its own. If its target shows a layer below, that is only
    # rounding: the target lies between pixels, and the nearest one is beside the layer's rim.
    there, within = warp(scene.top[1:], flow, mode="nearest", mask=True)
    visible = within & (there <= scene.top[:1])
    if effects:
        frames = _expose(frames, torch.cat([flow, flow_2]), camera)
    return SyntheticPair(frames[0], frames[1], flow[0], visible[0])


# ------------------------------------------------------------------ the scene


@dataclass(frozen=True)
class _Scene:
    """Both frames of a scene along the batch: (2, C, H, W)."""

    frames: Tensor
    flows: Tensor  # flow of the top layer; in frame 2 that of the same layer at the same place
    top: Tensor  # number of the layer on top


def _draw_layers(
    photos: Sequence[Tensor],
    random: np.random.Generator,
    size: tuple[int, int],
    camera: np.random.Generator | None,
) -> _Scene:
    grid = coordinate_grid(*size)
    motion = _draw_motion(random, grid)
    points = torch.cat([grid + motion, grid])  # where each frame reads the layer, as in frame 2
    frames = _read_photo(choose(random, photos), points, random)
    flows, top = motion.repeat(2, 1, 1, 1), torch.zeros(2, 1, *size)
    for layer in range(1, 1 + int(random.integers(1, LAYERS + 1))):
        motion = _draw_motion(random, grid)
        points = torch.cat([grid + motion, grid])
        shape = _draw_shape(random, size)
        photo = choose(random, photos)
        box = _find_box((points - shape.centre).abs() <= shape.reach + 1)
        texture = _read_photo(photo, points[box], random)
        alpha = shape.distance(points[box] - shape.centre).add_(0.5).clamp_(0, 1)
        if camera is not None and camera.random() < 0.3:
            whole = torch.zeros_like(top)
            whole[box] = alpha
            frames *= _draw_shadow(whole, camera)
        frames[box] = torch.lerp(frames[box], texture, alpha)
        on_top = alpha > 0.5
        flows[box] = torch.where(on_top, motion[box], flows[box])
        top[box] = torch.where(on_top, float(layer), top[box])
    return _Scene(frames, flows, top)


def _find_box(inside: Tensor) -> tuple[slice | EllipsisType, ...]:
    """Return the rows and columns outside which both frames' (2, 2, H, W) are never inside."""
    anywhere = inside.all(1).any(0)
    spans = []
    for axis in (1, 0):
        found = anywhere.any(axis).nonzero()
        spans.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0))
    return (..., *spans)


def _draw_motion(random: np.random.Generator, grid: Tensor) -> Tensor:
    """Draw a smooth flow field (1, 2, H, W): a shift, turned, sheared, tilted and bent.

    Its length, as root mean square, is log-uniform from SLOWEST to FASTEST, limited so that no
    pixel moves further than FASTEST and nothing folds.
    """
    height, width = grid.shape[-2:]
    angle = random.uniform(0, 2 * math.pi)
    share = 1 if random.random() < 0.75 else random.uniform(0, 0.3)  # else the terms below dominate
    shift = [share * math.cos(angle), share * math.sin(angle)]
    flow = grid.new_tensor(shift).view(1, 2, 1, 1).expand_as(grid)
    centre = [random.uniform(0, width), random.uniform(0, height)]
    arm = (grid - grid.new_tensor(centre).view(1, 2, 1, 1)) / (0.5 * max(height, width))
    if random.random() < 0.7:
        turn, grow, shear, stretch = random.normal(size=4) * _log_uniform(random, 0.05, 1)
        linear = grid.new_tensor([[grow + stretch, shear - turn], [shear + turn, grow - stretch]])
        flow = flow + (linear @ arm.flatten(2)).view_as(grid)
    if random.random() < 0.3:  # a slanted plane: its far parts move less
        tilt = grid.new_tensor(random.normal(size=2) * 0.3).view(1, 2, 1, 1)
        flow = flow + arm * (arm * tilt).sum(1, keepdim=True)
    if random.random() < 0.5:
        waves = _draw_waves(random, (2, height, width)).to(grid)
        flow = flow + waves * _log_uniform(random, 0.03, 0.6)

    coarse = flow[..., ::_COARSE, ::_COARSE]
    square = flow.square().sum(1)
    slopes = [coarse.diff(dim=axis).abs().amax() for axis in (2, 3) if coarse.shape[axis] > 1]
    steepest = max(slopes).item() / _COARSE if slopes else 0.0
    length = _log_uniform(random, SLOWEST, FASTEST)
    scale = min(
        length / max(square.mean().sqrt().item(), 1e-6),
        FASTEST / max(square.max().sqrt().item(), 1e-6),
        STEEPEST / max(steepest, 1e-6),
    )
    return flow * scale


def _draw_waves(random: np.random.Generator, shape: tuple[int, int, int]) -> Tensor:
    """Draw (C, H, W) smooth functions of about unit size: a few cosine waves along both axes."""
    channels, height, width = shape
    waves = np.arange(4)
    weights = random.normal(size=(channels, 4, 4)) / (1 + waves[:, None] + waves)
    down, across = (
        np.cos(np.outer((np.arange(side) + 0.5) / side, np.pi * waves)) for side in (height, width)
    )
    return torch.from_numpy((down @ weights @ across.T).astype(np.float32))


def _read_photo(photo: Tensor, points: Tensor, random: np.random.Generator) -> Tensor:
    """Place a photo at random (turned, scaled, mirrored) and sample it.

    Args:
        photo: (3, h, w), uint8 or floating point in [0, 1].
        points: positions in frame 2, (2, 2, H, W), for both frames.
        random: generator of the placement.

    Returns:
        (2, 3, H, W).
    """
    if points.numel() == 0:
        return points.new_zeros(2, 3, *points.shape[-2:])
    angle = random.normal() * 0.3
    scale = _log_uniform(random, 0.6, 1.2)  # photo pixels a frame pixel; more would alias
    mirror = 1 if random.random() < 0.5 else -1
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    linear = points.new_tensor([[mirror * cos, -sin], [mirror * sin, cos]])
    middle = points.mean((0, 2, 3)).view(2, 1)
    sides = points.new_tensor([photo.shape[-1], photo.shape[-2]])
    target = sides * torch.from_numpy(random.uniform(0.25, 0.75, 2)).to(points.dtype)
    offset = target.view(2, 1) - linear @ middle
    there = (linear @ points.flatten(2) + offset).view_as(points)
    # Only the part that is read is turned into floats.
    low = there.amin((0, 2, 3)).floor().clamp_min(0).minimum(sides - 1)
    high = there.amax((0, 2, 3)).ceil().clamp_min(0).minimum(sides - 1)
    (left, top), (right, bottom) = low.int().tolist(), high.int().tolist()
    texture = photo[:, top : bottom + 1, left : right + 1]
    if not texture.is_floating_point():
        texture = texture.float().mul_(1 / 255)
    there -= low.view(2, 1, 1)
    return sample(texture.expand(2, -1, -1, -1), there, padding="reflection")


@dataclass(frozen=True)
class _Shape:
    """A blob or polygon as a formula, so that it is sharp wherever frame 1 reads it.

    Args:
        centre: (1, 2, 1, 1).
        reach: (1, 2, 1, 1), an upper bound of its extent from the centre along each axis.
        distance: of points (B, 2, h, w) relative to the centre to the rim, in about pixels,
            (B, 1, h, w); positive inside.
    """

    centre: Tensor
    reach: Tensor
    distance: Callable[[Tensor], Tensor]


def _draw_shape(random: np.random.Generator, size: tuple[int, int]) -> _Shape:
    height, width = size
    centre = torch.tensor([random.uniform(0, width), random.uniform(0, height)]).view(1, 2, 1, 1)
    radius = _log_uniform(random, 0.08, 0.35) * min(size)
    stretch = math.sqrt(_log_uniform(random, 0.5, 2))
    axes = torch.tensor([stretch, 1 / stretch]).view(1, 2, 1, 1)
    if random.random() < 0.6:
        waves = random.normal(size=(4, 2)) * [[0.2], [0.15], [0.1], [0.06]]
        reach = radius * (1 + np.hypot(*waves.T).sum()) / axes
        return _Shape(centre, reach, lambda arm: _blob(arm * axes, radius, waves.tolist()))
    corners = int(random.integers(3, 8))
    angles = (np.arange(corners) + random.uniform(-0.3, 0.3, corners)) * 2 * math.pi / corners
    angles = angles + random.uniform(0, 2 * math.pi)
    # Normals are up to 1.6 × 360° / corners apart: 192° for a triangle, which may then be
    # unbounded. `_polygon` cuts it off at twice the radius.
    reach = 2 * radius / axes
    return _Shape(centre, reach, lambda arm: _polygon(arm * axes, radius, angles.tolist()))


def _blob(arm: Tensor, radius: float, waves: Sequence[Sequence[float]]) -> Tensor:
    """Distance to ``r(angle) = radius (1 + sum_k a_k cos(k angle) + b_k sin(k angle))``."""
    length = arm.square().sum(1, keepdim=True).sqrt_().clamp_min_(1e-6)
    cos_1, sin_1 = (arm / length).chunk(2, 1)
    cos, sin = cos_1, sin_1
    rim = torch.ones_like(length)
    for k, (a, b) in enumerate(waves):
        if k:  # cos and sin of the next multiple by the angle addition formulas
            cos, sin = cos * cos_1 - sin * sin_1, sin * cos_1 + cos * sin_1
        rim.add_(cos, alpha=a).add_(sin, alpha=b)
    return rim.clamp_min_(0.2).mul_(radius).sub_(length)


def _polygon(arm: Tensor, radius: float, angles: Sequence[float]) -> Tensor:
    """Distance to a convex polygon whose sides face ``angles``; corners are cut at twice radius."""
    x, y = arm.chunk(2, 1)
    distance = 2 * radius - torch.maximum(x.abs(), y.abs())
    for angle in angles:
        side = (x * -math.cos(angle)).sub_(y, alpha=math.sin(angle)).add_(radius)
        distance = torch.minimum(distance, side)
    return distance


# ------------------------------------------------------------------ the camera


def _draw_shadow(alpha: Tensor, camera: np.random.Generator) -> Tensor:
    """Return the share of light, (2, 1, H, W), that remains beside a layer that casts a shadow."""
    height, width = alpha.shape[-2:]
    size = (-(-height // _SHADOW_SCALE), -(-width // _SHADOW_SCALE))
    coarse = F.adaptive_avg_pool2d(alpha, size)
    reach = camera.normal(size=2) * 0.03 * max(size)
    shift = coarse.new_tensor(reach.tolist()).view(1, 2, 1, 1).expand(2, -1, *size)
    coarse = F.avg_pool2d(warp(coarse, shift), 3, 1, 1, count_include_pad=False)
    soft = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return 1 - camera.uniform(0.15, 0.6) * soft


def _expose(frames: Tensor, flows: Tensor, camera: np.random.Generator) -> Tensor:
    """Photograph a scene: motion blur, defocus, light, noise."""
    if camera.random() < 0.25:
        frames = _blur_motion(frames, flows, camera.uniform(0.1, 0.5))
    if camera.random() < 0.25:
        frames = _defocus(frames, camera.uniform(0.4, 1.2))
    if camera.random() < 0.7:
        frames = frames * _draw_light(frames, camera)
    if camera.random() < 0.3:  # one tone curve for both frames, as of a film or an encoder
        frames = frames.clamp(1e-6, 1).pow(_log_uniform(camera, 0.7, 1.4))
    if camera.random() < 0.6:
        noise = camera.standard_normal(frames.shape, np.float32)
        frames = frames + torch.from_numpy(noise) * _log_uniform(camera, 0.002, 0.03)
    return frames.clamp(0, 1)


def _blur_motion(frames: Tensor, flows: Tensor, shutter: float) -> Tensor:
    """Average along the motion; the shutter is open for ``shutter`` of a frame's time."""
    total = torch.zeros_like(frames)
    for time in np.linspace(-shutter / 2, shutter / 2, _BLUR_TAPS).tolist():
        total += warp(frames, flows * time)
    return total / _BLUR_TAPS


def _defocus(frames: Tensor, sigma: float) -> Tensor:
    # The taps of a Gaussian, one shift of the picture each; a convolution takes twice as long.
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-3, 4)]
    for axis in (2, 3):
        length = frames.shape[axis]
        padded = F.pad(frames, [0, 0, 3, 3] if axis == 2 else [3, 3, 0, 0], mode="replicate")
        frames = torch.zeros_like(frames)
        for shift, weight in enumerate(weights):
            frames.add_(padded.narrow(axis, shift, length), alpha=weight / sum(weights))
    return frames


def _draw_light(frames: Tensor, camera: np.random.Generator) -> Tensor:
    """Return a gain for each pixel: one per frame and colour, and a smooth change across."""
    gain = np.exp(camera.normal(size=(2, 1, 1, 1)) * 0.06 + camera.normal(size=(2, 3, 1, 1)) * 0.02)
    waves = _draw_waves(camera, (2, *frames.shape[-2:]))[:, None]
    return torch.from_numpy(gain).float() * (1 + waves * _log_uniform(camera, 0.005, 0.05))


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return math.exp(random.uniform(math.log(low), math.log(high)))
