"""The motion of a clip whose flow nobody knows, by the flow network."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from flowwarp.legacy.models.upsampler import enlarge
from flowwarp.models.flownet import FlowNet
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.pipelines.flow.estimate import estimate_both

# What both ways may differ by in steady motion, in pixels squared: a fifth of what is usual, since
# motion over several frames, divided by these, errs less.
TOLERANCE = 0.1


def estimate_motion(net: FlowNet, video: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return flow between the frames of a clip both ways, and what is visible.

    Args:
        net: from :func:`flowwarp.pipelines.flow.estimate.load_flownet`.
        video: (T, 3, H, W), uint8 or in [0, 1].

    Returns:
        ``flow_12`` and ``flow_21``, (T - 1, 2, H, W) in pixels, ``visible_12`` and ``visible_21``,
        (T - 1, 1, H, W) bool, where both agree; on the video's device.
    """
    pixels = video.float() / 255 if video.dtype == torch.uint8 else video
    place = next(net.parameters()).device
    height, width = pixels.shape[-2:]
    # Of a clip of one frame there is no motion, which has a shape all the same.
    flows = [[video.new_empty(0, 2, height, width, dtype=torch.float32)] for _ in range(2)]
    for frame1, frame2 in pairwise(pixels.to(place)):  # one by one: what it takes stays little
        for way, flow in zip(
            flows, estimate_both(net, frame1[None], frame2[None], "fast"), strict=True
        ):
            way.append(flow.to(video.device))
    there, back = map(torch.cat, flows)
    return there, back, visible_by_consistency(there, back), visible_by_consistency(back, there)


def steady_motion(
    net: FlowNet, frames: Iterable[Tensor], apart: int, still: int = 0
) -> Iterator[tuple[Tensor, Tensor] | None]:
    """Estimate the flow from each frame to the one before, as if motion changed slowly.

    For frames that a video autoencoder decodes from codes that several of them share: within such a
    group they hardly move, and from group to group they leap. So motion is estimated from each
    frame to those that far before and after it, and divided evenly.

    Args:
        net: from :func:`flowwarp.pipelines.flow.estimate.load_flownet`.
        frames: (1, 3, H, W) in [0, 1] each, on the network's device; ``apart + 1`` of them are held
            at a time.
        apart: how many frames share codes, at least 1. In a clip that has no more, frames half as
            far apart as it is long are compared.
        still: so many frames from the first on are known to show one picture that does not move.
            The next one leaps from that, and is compared with it.

    Yields:
        For each frame the flow (1, 2, H, W) in pixels, and where the frame before shows the same,
        (1, 1, H, W) bool; None for the first.

    Raises:
        ValueError: frames differ in size.
    """
    around: list[Tensor] = []  # the last that stands still, and the next

    def noted() -> Iterator[Tensor]:
        for number, frame in enumerate(frames):
            if still and still - 1 <= number <= still:
                around.append(frame)
            yield frame
            del frame

    before: Tensor | None = None
    for number, velocity in enumerate(_velocities(net, noted(), apart)):
        if before is None or velocity is None:
            yield None
        elif number < still:
            yield torch.zeros_like(velocity), torch.ones_like(velocity[:, :1], dtype=torch.bool)
        elif number == still:
            last, following = around
            there, back = estimate_both(net, last, following, "fast")
            around.clear()
            yield back, visible_by_consistency(back, there)
        else:
            back = -velocity
            yield back, visible_by_consistency(back, before, beta=TOLERANCE)
        before = velocity


def steady_clip_motion(net: FlowNet, video: Tensor, apart: int) -> tuple[Tensor, Tensor]:
    """Return what :func:`steady_motion` estimates of a whole clip.

    Args:
        net: from :func:`flowwarp.pipelines.flow.estimate.load_flownet`.
        video: (T, 3, H, W) in [0, 1].
        apart: how many frames share codes.

    Returns:
        ``flow_21``, (T - 1, 2, H, W) in pixels, and ``visible_21``, (T - 1, 1, H, W) bool, on the
        video's device.
    """
    place = next(net.parameters()).device
    frames = (frame[None].to(place) for frame in video)
    known = [moved for moved in steady_motion(net, frames, apart) if moved is not None]
    height, width = video.shape[-2:]
    flow = video.new_empty(0, 2, height, width, dtype=torch.float32)
    visible = video.new_empty(0, 1, height, width, dtype=torch.bool)
    return (
        torch.cat([flow, *(moved[0].to(video.device) for moved in known)]),
        torch.cat([visible, *(moved[1].to(video.device) for moved in known)]),
    )


def enlarged_motion(net: FlowNet, decode: Tensor, apart: int) -> tuple[Tensor, Tensor]:
    """Return the flow from each frame to the one before at twice the size, and what that shows.

    Args:
        net: as for :func:`steady_clip_motion`.
        decode: (T, 3, h, w) in [0, 1].
        apart: how many frames share codes.

    Returns:
        As :func:`steady_clip_motion`, at (2 h, 2 w).
    """
    return steady_clip_motion(net, enlarge(decode).clamp(0, 1), apart)


def _velocities(net: FlowNet, frames: Iterable[Tensor], apart: int) -> Iterator[Tensor | None]:
    """Yield how each frame moves until the next, (1, 2, H, W); None for the only one of a clip."""
    coming = iter(frames)
    begun = deque(itertools.islice(coming, apart + 1))
    if len(begun) <= apart:
        apart = len(begun) // 2
    waiting: deque[tuple[Tensor, Tensor | None]] = deque()  # frames, and how they came to move
    velocity: Tensor | None = None
    while (frame := begun.popleft() if begun else next(coming, None)) is not None:
        past = None
        if apart and len(waiting) == apart:
            first, came = waiting.popleft()
            there, back = (flow / apart for flow in estimate_both(net, first, frame, "fast"))
            past = -back
            velocity = there if came is None else (came + there) / 2
            yield velocity
        waiting.append((frame, past))
    for _, came in waiting:
        # In the middle of a short clip nothing is so far before or after: as those before it do.
        velocity = velocity if came is None else came
        yield velocity
