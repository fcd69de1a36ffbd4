"""Augmentation for training on unlabelled pairs: geometry shared by both frames, and appearance.

Everything is a function of its arguments and a ``torch.Generator`` on the CPU, drawn for each
example by itself, so that a run can be resumed exactly. The geometry of a crop is an object of its
own: flow that a teacher estimates in the whole frame can be transformed into the student's crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowwarp.data.sampling import inside, sample, transform
from flowwarp.ops.fields import coordinate_grid
from flowwarp.tensors import check_flow, check_image

# ------------------------------------------------------------------ geometry


@dataclass(frozen=True)
class Geometry:
    """Where a crop reads its pixels, for each example of a batch.

    Args:
        matrix: (B, 2, 3); pixel (x, y) of the crop is read at ``matrix @ (x, y, 1)``.
        size: (height, width) of the crop.
    """

    matrix: Tensor
    size: tuple[int, int]


def random_geometry(
    batch: int,
    source: tuple[int, int],
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    zoom: tuple[float, float] = (1.0, 1.0),
    rotate: float = 0.0,
    flip: Sequence[float] = (0.0, 0.0),
) -> Geometry:
    """Draw a crop for each example.

    Without zoom, rotation and flip, whole pixels are copied, up to rounding (about 1e-5). A crop
    lies inside the source where it fits; the corners of a rotated one may lie outside.

    Args:
        batch: how many.
        source: (height, width) of the images.
        size: (height, width) of the crops.
        generator: a CPU generator.
        zoom: enlargement, log-uniform between both. Well below 1 it would alias.
        rotate: largest angle either way, in degrees.
        flip: how probable it is to mirror left-right, and top-bottom.

    Raises:
        ValueError: a size below 1, or a zoom not above 0.
    """
    if min(*source, *size) < 1:
        raise ValueError(f"source and size must be at least (1, 1), got {source} and {size}")
    if not 0 < zoom[0] <= zoom[1]:
        raise ValueError(f"zoom must be two rising numbers above 0, got {zoom}")
    drawn = torch.rand(batch, 6, generator=generator, dtype=torch.float64)
    low, high = math.log(zoom[0]), math.log(zoom[1])
    pace = torch.exp(-(low + (high - low) * drawn[:, 0]))  # source pixels a crop pixel
    angle = math.radians(rotate) * (2 * drawn[:, 1] - 1)
    mirror = 1 - 2 * (drawn[:, 2:4] < drawn.new_tensor(flip)).double()

    cos, sin = pace * torch.cos(angle), pace * torch.sin(angle)
    linear = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    linear = linear * mirror[:, None]  # (B, 2, 2); mirrored first, then turned
    last = drawn.new_tensor([size[1] - 1, size[0] - 1])
    room = drawn.new_tensor([source[1] - 1, source[0] - 1]) - pace[:, None] * last  # to move in
    place = room * drawn[:, 4:]
    plain = torch.tensor(zoom == (1.0, 1.0))
    place = torch.where(plain, place.round(), place)
    middle = place + pace[:, None] * last / 2
    offset = middle - (linear @ (last / 2)[:, None])[..., 0]
    return Geometry(torch.cat([linear, offset[..., None]], 2).float(), size)


def crop_image(image: Tensor, geometry: Geometry) -> Tensor:
    """Cut crops from images (B, C, H, W); beyond the border the outer pixels are repeated."""
    check_image(image)
    return sample(image, _points(geometry, image).to(image.dtype))


def crop_flow(flow: Tensor, geometry: Geometry) -> Tensor:
    """Carry flow (B, 2, H, W) into crops that both frames share.

    A crop reads at ``p = A q + t``; a motion F in the image is ``inverse(A) F`` in the crop.
    With it, warping the crop of image 2 gives the crop of warped image 2.
    """
    check_flow(flow)
    linear = geometry.matrix[:, :, :2].to(flow.device, flow.dtype)
    inverse = torch.linalg.inv(linear)
    return torch.einsum("bij,bjhw->bihw", inverse, sample(flow, _points(geometry, flow)))


def crop_mask(mask: Tensor, geometry: Geometry) -> Tensor:
    """Cut crops from masks (B, 1, H, W); False beyond the border."""
    points = _points(geometry, mask)
    height, width = mask.shape[-2:]
    read = sample(mask.float(), points, mode="nearest") > 0.5
    return read & inside(points, height, width)


def _points(geometry: Geometry, like: Tensor) -> Tensor:
    grid = coordinate_grid(*geometry.size, device=like.device)
    matrix = geometry.matrix.to(like.device)
    return transform(matrix, grid.expand(len(matrix), -1, -1, -1))


# ------------------------------------------------------------------ appearance


@dataclass(frozen=True)
class Appearance:
    """Ranges of the changes: each number is the largest deviation from no change.

    ``blur_share`` is the probability of blur. ``between`` is the share of each range by which the
    frames of an example may differ: 0 changes all frames alike, 1 draws each one separately.
    """

    brightness: float = 0.1
    contrast: float = 0.3
    saturation: float = 0.4
    hue: float = 0.1  # turns; 0.5 is the opposite colour
    gamma: float = 0.3
    blur: float = 1.0  # px, largest standard deviation
    blur_share: float = 0.2  # of the examples: all frames of one, or none
    noise: float = 0.02  # largest standard deviation
    between: float = 0.1


def change_appearance(
    images: Sequence[Tensor],
    generator: torch.Generator,
    config: Appearance | None = None,
) -> tuple[Tensor, ...]:
    """Change colours, sharpness and noise of the frames of each example, not their geometry.

    Args:
        images: such as image 1 and image 2, (B, 3, H, W) each, in [0, 1].
        generator: a CPU generator.
        config: ranges of the changes.

    Returns:
        As many frames, in [0, 1].

    Raises:
        ValueError: not RGB, or of several shapes.
    """
    for image in images:
        check_image(image, "images")
        if image.shape != images[0].shape or image.shape[1] != 3:
            raise ValueError(
                "images must be (B, 3, H, W) alike, "
                f"got {tuple(images[0].shape)} and {tuple(image.shape)}"
            )
    from kornia import enhance  # 1 s

    config = config or Appearance()
    batch = len(images[0])
    frames = torch.cat(list(images))  # (N B, 3, H, W)

    def draw(reach: float) -> Tensor:
        """Draw a number for each frame within ``reach`` of 0: (N B,)."""
        drawn = 2 * torch.rand(1 + len(images), batch, generator=generator) - 1
        shared, own = (1 - config.between) * drawn[0], config.between * drawn[1:]
        return (reach * (shared + own).flatten()).to(frames.device, frames.dtype)

    if config.gamma:
        frames = enhance.adjust_gamma(frames.clamp(0, 1), torch.exp(draw(config.gamma)))
    matrix, offset = _color_matrix(
        draw(config.brightness),
        1 + draw(config.contrast),
        1 + draw(config.saturation),
        2 * math.pi * draw(config.hue),
    )
    frames = torch.baddbmm(offset, matrix, frames.flatten(2)).view_as(frames)
    chosen = torch.rand(batch, generator=generator) < config.blur_share
    frames = _blur(frames, chosen.repeat(len(images)).to(frames.device), draw(1.0), config.blur)
    if config.noise:
        noise = torch.randn(frames.shape, generator=generator).to(frames)
        frames.addcmul_(noise, draw(config.noise).abs().view(-1, 1, 1, 1))
    return frames.clamp_(0, 1).chunk(len(images))


def _color_matrix(
    brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> tuple[Tensor, Tensor]:
    """Return four changes of colour as one: matrices (B, 3, 3) and offsets (B, 3, 1).

    Hue turns about the grey axis, saturation moves from grey, contrast from 0.5. kornia does them
    one by one and the first two by way of HSV: 40 ms a pair of 320x384 on one core, this takes 2.
    """
    one = torch.eye(3, dtype=hue.dtype, device=hue.device)
    # Rodrigues' rotation about (1, 1, 1) / sqrt(3): the last term is its cross product.
    cross = one.roll(1, 0) - one.roll(-1, 0)
    cos, sin, saturation, contrast = (
        value.view(-1, 1, 1) for value in (torch.cos(hue), torch.sin(hue), saturation, contrast)
    )
    turn = cos * one + (1 - cos) / 3 + sin / math.sqrt(3) * cross
    luma = one.new_tensor([0.299, 0.587, 0.114]).expand(3, 3)
    matrix = contrast * (saturation * one + (1 - saturation) * luma) @ turn
    return matrix, (0.5 * (1 - contrast) + brightness.view(-1, 1, 1)).expand(-1, 3, 1)


def _blur(frames: Tensor, chosen: Tensor, strength: Tensor, reach: float) -> Tensor:
    from kornia.filters import gaussian_blur2d

    if reach <= 0 or not bool(chosen.any()):
        return frames
    sigma = (reach * (strength[chosen] + 1) / 2).clamp_min(0.05)
    taps = 2 * math.ceil(3 * reach) + 1
    blurred = gaussian_blur2d(frames[chosen], taps, sigma[:, None].expand(-1, 2), "replicate")
    return frames.index_put((chosen.nonzero()[:, 0],), blurred)
