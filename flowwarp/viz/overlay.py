"""Flow as arrows, flow error as colour, and images side by side for comparison."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowwarp.tensors import check_flow, check_image, check_same_grid
from flowwarp.viz.colors import robust_maximum, split_known
from flowwarp.viz.text import HEIGHT, text_mask

_CHUNK = 2**19  # pixels whose distance to a line is computed at once: about 60 MB

# KITTI 2015's error colours, RdYlBu of ColorBrewer, each with its upper bound as a multiple of the
# outlier threshold: blue up to 1, red beyond.
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
    """Draw an arrow from every ``step``-th pixel along its flow.

    Lines are anti-aliased and have a black outline, which is visible on any image. A pixel gets no
    arrow if its flow is unknown or its arrow would be shorter than half a pixel.

    Args:
        flow: (B, 2, H, W), pixels.
        image: (B, 1, H, W) or (B, 3, H, W) in [0, 1] to draw on. Default: white.
        valid: (B, 1, H, W), True where the flow is known.
        step: distance between arrows in pixels.
        scale: pixels of arrow per pixel of flow; at 1 an arrow ends where the pixel moves to.
            Default: flow of each example's ``robust_maximum`` gets an arrow of ``step`` pixels.
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
    flow, _ = split_known(flow, valid)
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
        lines = _arrow_lines(flow[index] * stretch[index], step)  # (N, 2, 2)
        reach = width / 2 + 1.5  # half the line, an outline of 1 px, half a pixel of anti-aliasing
        distance = _distance(lines, reach, height, columns)  # (H, W)
        outline = (reach - distance).clamp(0, 1)  # coverage of each pixel, outline included
        line = (reach - 1 - distance).clamp(0, 1)
        outlined = picture[index] * (1 - outline)
        picture[index] = torch.lerp(outlined, ink.expand_as(outlined), line)
    return picture


def error_map(flow: Tensor, target: Tensor, *, valid: Tensor | None = None) -> Tensor:
    """Colour the endpoint error of a flow field as the KITTI 2015 benchmark does.

    The error is divided by the outlier threshold of Fl-all: 3 px or 5 % of the true length,
    whichever is more. Blue pixels are below it, red ones are outliers. From each colour to the next
    the error doubles, from 1/16 to 16 thresholds.

    Args:
        flow: (B, 2, H, W), pixels; the estimate. Where it is not finite, it gets the last colour.
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
    target, known = split_known(target, valid)
    error = torch.linalg.vector_norm(flow.detach().float() - target, dim=1)  # (B, H, W)
    length = torch.linalg.vector_norm(target, dim=1)
    ratio = error / (0.05 * length).clamp(min=3)
    bounds = torch.tensor([bound for bound, _ in _ERROR_COLORS], device=flow.device)
    colors = torch.tensor([color for _, color in _ERROR_COLORS], device=flow.device) / 255
    index = torch.bucketize(ratio.nan_to_num(nan=float("inf")), bounds)  # (B, H, W)
    return colors[index].permute(0, 3, 1, 2) * known


def error_legend() -> Tensor:
    """Draw the colours of ``error_map``, each with its lowest endpoint error in pixels.

    The numbers are right where the threshold is 3 px, which is so for flow of up to 60 px.

    Returns:
        (3, 120, 80) float32 RGB in [0, 1], on white.
    """
    row, swatch = 12, 24  # height of a row and width of its colour, in pixels
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
    """Put images in a row, left to right and aligned at the top, on white.

    Args:
        images: each (B, C, H, W) in [0, 1], with the same B and C.
        gap: white pixels between two images.

    Returns:
        (B, C, H, W) with the height of the tallest.

    Raises:
        TypeError: one is not a floating-point tensor.
        ValueError: none is given, or they differ in batch size or channels.
    """
    if not images:
        raise ValueError("images must hold at least one image")
    for index, image in enumerate(images):
        check_image(image, f"images[{index}]")
        if image.shape[:2] != images[0].shape[:2]:
            expected, got = tuple(images[0].shape[:2]), tuple(image.shape[:2])
            raise ValueError(f"images[{index}] must have batch and channels {expected}, got {got}")
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
    """Make a video of two images; played in a loop, it shows where they differ.

    With ``flicker(image1, warp(image2, flow_12))`` pixels stand still where the flow is right.

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
    """Return the lines of all arrows, (N, 2, 2): start and end, each (x, y).

    Args:
        motion: (2, H, W), the arrows of all pixels.
        step: distance between arrows in pixels.
    """
    height, width = motion.shape[1:]
    x = torch.arange(min(step, width) // 2, width, step, device=motion.device)
    y = torch.arange(min(step, height) // 2, height, step, device=motion.device)
    y, x = torch.meshgrid(y, x, indexing="ij")
    arrow = motion[:, y, x].flatten(1).T  # (A, 2)
    length = torch.hypot(arrow[:, 0], arrow[:, 1])
    drawn = length >= 0.5  # unknown flow is 0
    start = torch.stack((x, y), -1).flatten(0, 1)[drawn].float()
    # An arrow of height + width ends outside the image in any direction; more only costs time.
    length = length[drawn, None]
    arrow = arrow[drawn] * (length.clamp(max=height + width) / length)
    tip = start + arrow
    back = arrow * (-0.35)  # the head takes 35 % of the length
    side = 0.5 * torch.stack((-back[:, 1], back[:, 0]), 1)  # perpendicular
    ends = torch.cat((start, tip + back + side, tip + back - side))  # shaft and two barbs
    return torch.stack((ends, tip.repeat(3, 1)), 1)


def _distance(lines: Tensor, reach: float, height: int, width: int) -> Tensor:
    """Return the distance of each pixel to the nearest line, at most ``reach``.

    Each line is sampled every pixel, and the distance is computed for the pixels around each sample
    only: the cost grows with the length of the lines, not with lines times pixels.

    Args:
        lines: (N, 2, 2), start and end, each (x, y).
        reach: largest distance of interest, in pixels.
        height: of the result.
        width: of the result.

    Returns:
        (H, W).
    """
    radius = int(reach + 0.5)  # half a pixel more, as samples are rounded
    offset = torch.arange(-radius, radius + 1, device=lines.device)
    around = torch.cartesian_prod(offset, offset)  # (K, 2)
    result = torch.full((height * width,), reach, device=lines.device)
    start, along = lines[:, 0], lines[:, 1] - lines[:, 0]  # (N, 2) each
    squared = (along**2).sum(1)  # (N,) squared lengths
    steps = squared.sqrt().ceil().long()  # (N,) samples per line
    enter, leave = _crossing(start, along, radius + 1, height, width)
    inside = (enter <= leave).nonzero()[:, 0]  # indices of lines that cross the image
    first = (enter[inside] * steps[inside]).floor().long()
    counts = (leave[inside] * steps[inside]).ceil().long() - first + 1

    # In chunks: all samples of long lines at once take gigabytes.
    group = counts.cumsum(0) * len(around) // _CHUNK
    sizes = torch.unique_consecutive(group, return_counts=True)[1].tolist()
    chunks = (torch.split(each, sizes) for each in (inside, first, counts))
    for indices, begin, count in zip(*chunks, strict=True):
        line = indices.repeat_interleave(count)  # (M,) the line of each sample
        shift = (begin - count.cumsum(0) + count).repeat_interleave(count)
        number = torch.arange(len(line), device=lines.device) + shift  # of a sample on its line
        position = number / steps[line].clamp(min=1)  # from 0 at the start to 1 at the end
        sample = (start[line] + position[:, None] * along[line]).round()
        pixel = sample[:, None] + around  # (M, K, 2)
        # The nearest point of a line is the projection of the pixel, clamped to both ends.
        origin, direction = start[line, None], along[line, None]  # (M, 1, 2) each
        projection = ((pixel - origin) * direction).sum(-1)  # (M, K)
        projection = projection / squared[line, None].clamp(min=1e-12)
        nearest = origin + projection.clamp(0, 1)[..., None] * direction
        distance = torch.linalg.vector_norm(pixel - nearest, dim=-1)  # (M, K)
        x, y = pixel.long().unbind(-1)
        visible = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        result.scatter_reduce_(0, (y * width + x)[visible], distance[visible], "amin")
    return result.view(height, width)


def _crossing(
    start: Tensor, along: Tensor, margin: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Return where lines enter and leave the image and a margin around it, by the slab method.

    Args:
        start: (N, 2).
        along: (N, 2), end minus start.
        margin: in pixels.
        height: of the image.
        width: of the image.

    Returns:
        Two positions (N,) in [0, 1] on each line. A line that misses the image has enter > leave.
    """
    size = torch.tensor([width, height], device=start.device)
    slope = torch.where(along == 0, 1e-30, along)  # parallel to an axis: crosses at infinity
    bounds = torch.stack([-margin - start, size + margin - start]) / slope  # (2, N, 2)
    return bounds.amin(0).amax(1).clamp(min=0), bounds.amax(0).amin(1).clamp(max=1)
