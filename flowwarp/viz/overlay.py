"""Flow as arrows, flow error as colour, and pictures put together to be compared by eye."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowwarp.tensors import check_flow, check_image, check_same_grid
from flowwarp.viz._text import HEIGHT, text_mask
from flowwarp.viz.colors import known_flow, robust_maximum

_AT_ONCE = 2**19  # pixels asked for their distance to a line: some 60 MB

# KITTI 2015's error colours, RdYlBu of Brewer's ColorBrewer: each is used up to the bound beside
# it, in thresholds. Blue is within the threshold, red beyond.
_ERROR_COLORS = (
    (1 / 16, (49, 54, 149)),
    (1 / 8, (69, 117, 180)),
    (1 / 4, (116, 173, 209)),
    (1 / 2, (171, 217, 233)),
    (1, (224, 243, 248)),
    (2, (254, 224, 144)),
    (4, (253, 174, 97)),
    (8, (244, 109, 67)),
    (16, (215, 48, 39)),
    (float("inf"), (165, 0, 38)),
)


def arrows(
    flow: Tensor,
    image: Tensor | None = None,
    *,
    valid: Tensor | None = None,
    step: int = 24,
    scale: float | None = None,
    width: float = 1.5,
    color: tuple[float, float, float] = (1.0, 0.9, 0.0),
) -> Tensor:
    """Draw an arrow from every ``step``-th pixel to where the flow takes it.

    Lines are anti-aliased and have a dark rim, so that they show on any picture. A pixel that is
    unknown or moves by less than half a pixel of drawing gets no arrow.

    Args:
        flow: (B, 2, H, W), pixels.
        image: (B, 1, H, W) or (B, 3, H, W) in [0, 1] to draw on. Default: white.
        valid: (B, 1, H, W), True where the flow is known.
        step: distance of the arrows in pixels.
        scale: length of an arrow per pixel of flow; 1 is the true motion. Default: each example's
            ``robust_maximum`` is drawn ``step`` pixels long.
        width: thickness of the lines in pixels.
        color: RGB in [0, 1].

    Returns:
        (B, 3, H, W) float32 RGB in [0, 1]. Not differentiable.

    Raises:
        TypeError: ``flow`` or ``image`` is not a floating-point tensor.
        ValueError: a shape does not fit, or ``step``, ``scale`` or ``width`` is not positive.
    """
    for name, value in (("step", step), ("scale", scale), ("width", width)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    flow, _ = known_flow(flow, valid)
    batch, _, height, columns = flow.shape
    if image is None:
        picture = torch.ones(batch, 3, height, columns, device=flow.device)
    else:
        check_image(image)
        check_same_grid(image, "image", flow)
        if image.shape[1] not in (1, 3):
            raise ValueError(f"image must have 1 or 3 channels, got {image.shape[1]}")
        picture = image.detach().float().expand(-1, 3, -1, -1).clone()

    ink = torch.tensor(color, device=flow.device).view(3, 1, 1)
    stretch = step / robust_maximum(flow) if scale is None else [scale] * batch
    for index in range(batch):
        lines = _arrow_lines(flow[index] * stretch[index], step)
        reach = width / 2 + 1.5  # half the line, a rim of a pixel, half a pixel of softness
        distance = _distance(lines, reach, height, columns)
        rim = (reach - distance).clamp(0, 1)
        line = (reach - 1 - distance).clamp(0, 1)
        picture[index] = torch.lerp(picture[index] * (1 - rim), ink.expand_as(picture[0]), line)
    return picture


def error_map(flow: Tensor, target: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Colour the error of a flow field as the KITTI 2015 benchmark does.

    The error is counted in thresholds: the endpoint error over 3 px or over 5 % of the true
    length, whichever is less. Blue is good, red is an outlier (the pixels of Fl-all), and each
    colour stands for twice the error of the one before, from 1/16 to 16 thresholds.

    Args:
        flow: (B, 2, H, W), pixels; the estimate. Where it is not finite, the error is the worst.
        target: (B, 2, H, W), pixels; the ground truth.
        valid: (B, 1, H, W), True where the ground truth exists; the rest is black.

    Returns:
        (B, 3, H, W) float32 RGB in [0, 1]. Not differentiable.

    Raises:
        TypeError: a flow is not a floating-point tensor.
        ValueError: shapes or devices do not fit.
    """
    check_flow(flow)
    check_flow(target, "target", like=flow)
    target, known = known_flow(target, valid)
    error = torch.linalg.vector_norm(flow.detach().float() - target, dim=1)  # (B, H, W)
    length = torch.linalg.vector_norm(target, dim=1)
    thresholds = error / (0.05 * length).clamp(min=3)
    bounds = torch.tensor([bound for bound, _ in _ERROR_COLORS], device=flow.device)
    colors = torch.tensor([color for _, color in _ERROR_COLORS], device=flow.device) / 255
    index = torch.bucketize(thresholds.nan_to_num(nan=float("inf")), bounds)
    return colors[index].permute(0, 3, 1, 2) * known


def error_legend() -> Tensor:
    """Draw the colours of ``error_map``, each with the endpoint error in pixels it begins at.

    The numbers hold where 3 px is the threshold, which is for flow of up to 60 px.

    Returns:
        (3, 120, 80) float32 RGB in [0, 1], on white.
    """
    row, swatch = 12, 24  # pixels
    picture = torch.ones(3, row * len(_ERROR_COLORS), 80)
    begin = 0.0
    for index, (bound, color) in enumerate(_ERROR_COLORS):
        top = row * index
        picture[:, top : top + row, :swatch] = torch.tensor(color).view(3, 1, 1) / 255
        ink = text_mask(f"{begin:.2g} px")
        picture[:, top + 2 : top + 2 + HEIGHT, swatch + 4 :][..., : ink.shape[1]] = 1 - ink
        begin = 3 * bound
    return picture


def side_by_side(images: Sequence[Tensor], *, gap: int = 4) -> Tensor:
    """Put pictures in a row, left to right, on white.

    Args:
        images: each (B, C, H, W) with the same B and C in [0, 1]; lower ones stand at the top.
        gap: white pixels between two of them.

    Returns:
        (B, C, H, W) with the height of the highest.

    Raises:
        TypeError: one is not a floating-point tensor.
        ValueError: none is given, or they differ in batch size or channels.
    """
    if not images:
        raise ValueError("images must hold at least one image")
    for index, image in enumerate(images):
        check_image(image, f"images[{index}]")
        if image.shape[:2] != images[0].shape[:2]:
            wanted, got = tuple(images[0].shape[:2]), tuple(image.shape[:2])
            raise ValueError(f"images[{index}] must have batch and channels {wanted}, got {got}")
    height = max(image.shape[2] for image in images)
    last = len(images) - 1
    padded = [
        torch.nn.functional.pad(
            image, (0, gap if index < last else 0, 0, height - image.shape[2]), value=1.0
        )
        for index, image in enumerate(images)
    ]
    return torch.cat(padded, dim=3)


def flicker(image1: Tensor, image2: Tensor) -> Tensor:
    """Make a video that goes back and forth between two images; the eye sees what differs.

    With ``flicker(image1, warp(image2, flow_12))`` the picture stands still where the flow is
    right.

    Args:
        image1: (B, C, H, W).
        image2: the same shape.

    Returns:
        (B, 2, C, H, W).

    Raises:
        TypeError: one is not a floating-point tensor.
        ValueError: the shapes differ.
    """
    check_image(image1, "image1")
    check_image(image2, "image2")
    check_same_grid(image2, "image2", image1)
    if image1.shape[1] != image2.shape[1]:
        raise ValueError(f"image2 must have {image1.shape[1]} channels, got {image2.shape[1]}")
    return torch.stack((image1, image2), dim=1)


def _arrow_lines(motion: Tensor, step: int) -> Tensor:
    """Return the lines of all arrows, (N, 2, 2): start and end, each x, y."""
    height, width = motion.shape[1:]
    x = torch.arange(min(step, width) // 2, width, step, device=motion.device)
    y = torch.arange(min(step, height) // 2, height, step, device=motion.device)
    y, x = torch.meshgrid(y, x, indexing="ij")
    arrow = motion[:, y, x].flatten(1).T  # (N, 2)
    length = torch.hypot(arrow[:, 0], arrow[:, 1])
    drawn = length >= 0.5  # unknown flow is 0
    start = torch.stack((x, y), -1).flatten(0, 1)[drawn].float()
    # Further than this is outside the picture in any case, and would only cost time.
    length = length[drawn, None]
    arrow = arrow[drawn] * (length.clamp(max=height + width) / length)
    tip = start + arrow
    back = arrow * (-0.35)
    side = 0.5 * torch.stack((-back[:, 1], back[:, 0]), 1)
    ends = torch.cat((start, tip + back + side, tip + back - side))
    return torch.stack((ends, tip.repeat(3, 1)), 1)


def _distance(lines: Tensor, reach: float, height: int, width: int) -> Tensor:
    """Return each pixel's distance to the nearest of (N, 2, 2) lines, (H, W); ``reach`` at most.

    Every line is walked in steps of a pixel, and the pixels around each stop are asked for their
    distance to the line: work in proportion to the ink, not to the picture times the lines.
    """
    radius = int(reach + 0.5)
    offset = torch.arange(-radius, radius + 1, device=lines.device)
    around = torch.cartesian_prod(offset, offset)  # (K, 2)
    nearby = torch.full((height * width,), reach, device=lines.device)
    start, along = lines[:, 0], lines[:, 1] - lines[:, 0]
    squared = (along**2).sum(1)
    steps = squared.sqrt().ceil().long()
    enter, leave = _crossing(start, along, radius + 1, height, width)
    seen = (enter <= leave).nonzero()[:, 0]
    begin = (enter[seen] * steps[seen]).floor().long()
    counts = (leave[seen] * steps[seen]).ceil().long() - begin + 1

    # All lines at once would take gigabytes where they are long.
    group = counts.cumsum(0) * len(around) // _AT_ONCE
    sizes = torch.unique_consecutive(group, return_counts=True)[1].tolist()
    chunks = (torch.split(each, sizes) for each in (seen, begin, counts))
    for some, first, count in zip(*chunks, strict=True):
        line = some.repeat_interleave(count)  # (M,)
        before = (first - count.cumsum(0) + count).repeat_interleave(count)
        number = torch.arange(len(line), device=lines.device) + before
        part = number / steps[line].clamp(min=1)
        stop = (start[line] + part[:, None] * along[line]).round()
        pixel = stop[:, None] + around  # (M, K, 2)
        origin, way = start[line, None], along[line, None]
        shadow = ((pixel - origin) * way).sum(-1) / squared[line, None].clamp(min=1e-12)
        nearest = origin + shadow.clamp(0, 1)[..., None] * way
        distance = torch.linalg.vector_norm(pixel - nearest, dim=-1)
        x, y = pixel.long().unbind(-1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        nearby.scatter_reduce_(0, (y * width + x)[inside], distance[inside], "amin")
    return nearby.view(height, width)


def _crossing(
    start: Tensor, along: Tensor, margin: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Return where lines enter and leave the picture and a margin, (N,), as parts of their length.

    A line that misses it enters after it leaves.
    """
    size = torch.tensor([width, height], device=start.device)
    slope = torch.where(along == 0, 1e-30, along)  # a line along an axis never leaves by a side
    bounds = torch.stack([-margin - start, size + margin - start]) / slope  # (2, N, 2)
    return bounds.amin(0).amax(1).clamp(min=0), bounds.amax(0).amin(1).clamp(max=1)
