"""The unsupervised loss of a flow network: a weighted sum of terms, one number per example.

The scheme is UFlow's (Jonschkowski et al., "What Matters in Unsupervised Optical Flow", ECCV 2020)
with SMURF's full-image warping (Stone et al., CVPR 2021). `flow_losses` is the sum. Which weights
and masks hold at which time of a training is decided by the trainer (:mod:`flowwarp.train.flow`).

A new term of one image and its warped partner goes into ``PHOTOMETRIC`` (photometric.py), a new
regulariser of the flow into ``SMOOTHNESS`` (smoothness.py). This file combines the terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.losses.photometric import (
    PHOTOMETRIC,
    census_loss,
    masked_charbonnier,
    warp_crop,
)
from flowwarp.losses.smoothness import SMOOTHNESS, constant_velocity
from flowwarp.ops.fields import split_known
from flowwarp.ops.occlusion import visible_by_consistency, visible_by_range
from flowwarp.ops.warping import warp

# How to find pixels that the other frame hides. none: not at all. range: no flow from the other
# frame lands there (usable while flow is still rough). consistency: forward and backward flow
# disagree.
Occlusion = Literal["none", "range", "consistency"]

_FLOW_EPSILON = 0.01  # of Charbonnier, in pixels: differences of flow below it count as equal


class Pyramid(Protocol):
    """Flow of one direction, as a network returns it."""

    @property
    def flow(self) -> Tensor:
        """(B, 2, H, W) at full resolution."""

    @property
    def levels(self) -> Sequence[Tensor]:
        """(B, 2, h, w) of each level, coarsest first, in pixels of that level."""


# From two frames (B, 3, H, W) to the forward and backward pyramid.
Net = Callable[..., tuple[Pyramid, Pyramid]]


def flow_losses(
    net: Net,
    batch: Mapping[str, Tensor],
    weights: Mapping[str, float],
    *,
    margin: int = 0,
    occlusion: Occlusion = "none",
    skip: int = 0,
    student_margin: int = 0,
) -> dict[str, Tensor]:
    """Return the terms of a batch, each (B,), and their weighted sum as ``loss``.

    A term is computed if its weight is not 0 and the batch has what it needs.

    Args:
        net: the network.
        batch: ``image1`` and ``image2``, (B, 3, H + 2 * margin, W + 2 * margin) in [0, 1]; the
            network sees the crop without the margin. Optional: ``flow_12`` and ``flow_21``, known
            flow of these frames, NaN where unknown; ``image0``, the frames before, NaN where there
            is none; ``student1`` and ``student2``, (B, 3, H, W), the crops as self-supervision
            shows them.
        weights: weight of each term, one of them above 0. ``census``, ``charbonnier``, ``ssim``
            and ``gradient`` compare frame 1 with frame 2 warped; ``smoothness`` and
            ``smoothness_second`` regularise; ``levels`` is census at the coarser levels;
            ``fitted`` is the distance to known flow; ``velocity`` and ``self_supervision`` teach
            what frame 2 does not show.
        margin: pixels around the crop on each side.
        occlusion: how hidden pixels are found, which the first four terms leave out.
        skip: the number of finest levels that the network leaves out.
        student_margin: pixels on each side of the crop that the student does not see.
    """
    full1, full2 = batch["image1"], batch["image2"]
    crop1, crop2 = crop_margin(full1, margin), crop_margin(full2, margin)
    forward, backward = net(crop1, crop2, skip=skip)
    visible1, visible2 = visible_masks(forward.flow, backward.flow, occlusion)
    known1, known2 = (
        crop_margin(batch[name], margin) if name in batch else None
        for name in ("flow_12", "flow_21")
    )
    forward_terms = direction_terms(
        crop1, full2, forward, weights, visible=visible1, known_flow=known1
    )
    backward_terms = direction_terms(
        crop2, full1, backward, weights, visible=visible2, known_flow=known2
    )
    terms = {name: 0.5 * (forward_terms[name] + backward_terms[name]) for name in forward_terms}
    if weights.get("velocity") and "image0" in batch and visible1 is not None:
        crop0 = crop_margin(batch["image0"], margin)
        terms["velocity"] = velocity_term(net, crop0, crop1, forward, visible1)
    if weights.get("self_supervision"):
        views = (batch["student1"], batch["student2"]) if "student1" in batch else (crop1, crop2)
        terms["self_supervision"] = self_supervision_term(
            net, views, forward, backward, student_margin
        )
    weighted = [weight * terms[name] for name, weight in weights.items() if name in terms]
    return {"loss": reduce(torch.add, weighted), **terms}


def crop_margin(image: Tensor, margin: int) -> Tensor:
    """Cut ``margin`` pixels off each side of (..., H, W)."""
    return image if margin == 0 else image[..., margin:-margin, margin:-margin]


def visible_masks(
    flow_12: Tensor, flow_21: Tensor, occlusion: Occlusion
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return which pixels of each frame the other one shows, without a gradient.

    Args:
        flow_12: (B, 2, H, W), forward.
        flow_21: (B, 2, H, W), backward.
        occlusion: how to find hidden pixels.

    Returns:
        ``visible`` of frame 1 and of frame 2, (B, 1, H, W) bool each; None for ``none``.
    """
    if occlusion == "none":
        return None, None
    flow_12, flow_21 = flow_12.detach(), flow_21.detach()
    if occlusion == "range":
        return visible_by_range(flow_21), visible_by_range(flow_12)
    # What leaves the crop counts as visible: full-image warping finds it in the margin.
    visible1 = visible_by_consistency(flow_12, flow_21) | ~_stays_inside(flow_12)
    visible2 = visible_by_consistency(flow_21, flow_12) | ~_stays_inside(flow_21)
    return visible1, visible2


def _stays_inside(flow: Tensor) -> Tensor:
    """Return where a pixel's target lies in the frame, (B, 1, H, W) bool."""
    return warp(flow, flow, mask=True)[1]


def direction_terms(
    crop: Tensor,
    other: Tensor,
    pyramid: Pyramid,
    weights: Mapping[str, float],
    *,
    visible: Tensor | None = None,
    known_flow: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms of one direction in time that have a weight, (B,) each.

    Args:
        crop: (B, 3, H, W), the frame that the flow starts from.
        other: (B, 3, H + 2 * margin, W + 2 * margin), the frame that it leads to.
        pyramid: its flow.
        weights: see :func:`flow_losses`.
        visible: (B, 1, H, W) bool, the pixels of ``crop`` that ``other`` shows; None for all.
        known_flow: (B, 2, H, W), NaN where unknown.
    """
    margin = (other.shape[-1] - crop.shape[-1]) // 2
    warped, inside = warp_crop(other, pyramid.flow, margin)  # (B, 3, H, W), (B, 1, H, W)
    mask = inside if visible is None else inside & visible
    terms = {
        name: loss(crop, warped, mask) for name, loss in PHOTOMETRIC.items() if weights.get(name)
    }
    # Smoothness at the finest level of the decoder, where the flow is made: upsampling interpolates
    # it, and full resolution has 16 times the pixels.
    flow = pyramid.levels[-1]
    image = F.interpolate(crop, flow.shape[-2:], mode="area")
    terms |= {name: loss(flow, image) for name, loss in SMOOTHNESS.items() if weights.get(name)}
    if weights.get("levels"):
        terms["levels"] = level_census(crop, crop_margin(other, margin), pyramid.levels)
    if weights.get("fitted") and known_flow is not None:
        terms["fitted"] = known_flow_distance(pyramid, known_flow)
    return terms


def level_census(image1: Tensor, image2: Tensor, levels: Sequence[Tensor]) -> Tensor:
    """Return the mean census loss over the levels of a pyramid, (B,).

    At a coarse level a large motion is small, so this gives it a gradient early in training.

    Args:
        image1: (B, C, H, W).
        image2: (B, C, H, W).
        levels: flow of each level, (B, 2, h, w), in pixels of that level.
    """
    losses = []
    for flow in levels:
        size = flow.shape[-2:]
        if min(size) < 8:  # a census of 5 x 5 leaves out two pixels at each side
            continue
        small1, small2 = (F.interpolate(image, size, mode="area") for image in (image1, image2))
        warped, inside = warp(small2, flow, mask=True)
        losses.append(census_loss(small1, warped, inside, radius=2))
    return torch.stack(losses).mean(0) if losses else image1.new_zeros(len(image1))


def known_flow_distance(pyramid: Pyramid, flow: Tensor) -> Tensor:
    """Return the distance to known flow at full size and at each level, (B,), in pixels of each.

    Args:
        pyramid: the network's flow.
        flow: (B, 2, H, W), NaN where unknown.
    """
    flow, known = split_known(flow)  # NaN becomes 0; (B, 1, H, W) bool
    total = masked_charbonnier(pyramid.flow - flow, known, _FLOW_EPSILON)
    for level in pyramid.levels:
        size = (level.shape[-2], level.shape[-1])
        # The mean over the known pixels of each cell, where these are more than half.
        share = F.adaptive_avg_pool2d(known.float(), size)
        mean = F.adaptive_avg_pool2d(flow * known, size) / share.clamp_min(1e-6)
        scale = flow.shape[-1] / size[-1]  # from pixels of full size to pixels of the level
        total = total + masked_charbonnier(level - mean / scale, share > 0.5, _FLOW_EPSILON)
    return total


def velocity_term(
    net: Net, image0: Tensor, image1: Tensor, forward: Pyramid, visible: Tensor
) -> Tensor:
    """Where only the previous frame shows a pixel, pull its forward flow towards constant velocity.

    The flow to the previous frame is the target and is detached.

    Args:
        net: the network.
        image0: (B, 3, H, W), the frames before ``image1``; NaN where there is none.
        image1: (B, 3, H, W).
        forward: flow from ``image1`` to the next frame.
        visible: (B, 1, H, W) bool, the pixels of ``image1`` that the next frame shows.

    Returns:
        (B,); 0 where there is no frame before.
    """
    # One example's frame is NaN as a whole or not at all: (B, 1, 1, 1).
    exists = image0.isfinite().all(1, keepdim=True).all(-1, keepdim=True).all(-2, keepdim=True)
    to_previous, from_previous = net(image1, torch.where(exists, image0, image1))
    teacher = to_previous.flow.detach()
    consistent = visible_by_consistency(teacher, from_previous.flow.detach())
    return constant_velocity(forward.flow, teacher, ~visible & consistent & exists)


def self_supervision_term(
    net: Net,
    views: tuple[Tensor, Tensor],
    forward: Pyramid,
    backward: Pyramid,
    margin: int,
) -> Tensor:
    """Train the flow of a cropped view (student) on the flow of the whole view (teacher), (B,).

    Pixels that leave the middle stay in the whole view, so its flow can teach them. It has no
    gradient, and teaches only where its two directions agree.

    Args:
        net: the network.
        views: both frames, (B, 3, H, W), as the student sees them before they are cut.
        forward: flow of the whole view.
        backward: likewise.
        margin: pixels that are cut off each side.
    """
    students = net(*(crop_margin(view, margin) for view in views))
    flows = forward.flow.detach(), backward.flow.detach()
    trusted = visible_by_consistency(*flows), visible_by_consistency(*flows[::-1])
    forward_term, backward_term = (
        masked_charbonnier(student.flow - crop_margin(flow, margin), crop_margin(mask, margin))
        for student, flow, mask in zip(students, flows, trusted, strict=True)
    )
    return 0.5 * (forward_term + backward_term)
