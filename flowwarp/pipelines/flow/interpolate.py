"""Frame interpolation from flow in both directions, without a learned part.

1. The flow is moved to the time t by softmax splatting (Niklaus and Liu, "Softmax Splatting for
   Video Frame Interpolation", CVPR 2020): ``flow_12`` from frame 1, ``flow_21`` from frame 2. That
   gives two estimates of the motion at each pixel of the new frame.
2. Along each of them, both frames are read by backward warping and blended. Unlike splatting of
   colours, that leaves no holes and loses no detail. A pixel that is occluded in one frame comes
   from the other. Four further candidates use the motion of places around the pixel, as in
   overlapped block motion compensation (Orchard and Sullivan, IEEE TIP 1994).
3. The candidates and the plain average of the frames are mixed at each pixel by a softmax of their
   costs. The cost of a candidate is the difference between the two pixels that it blends. Where the
   flow is right, the average has hardly any weight. Where no candidate fits, all are mixed, since
   a mixture has a smaller error than one wrong candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.data.cuts import is_cut
from flowwarp.ops.fields import fill_holes, split_known
from flowwarp.ops.filters import box_blur
from flowwarp.ops.splatting import splat
from flowwarp.ops.warping import Mode, compute_dtype, warp
from flowwarp.tensors import check_alike, check_flow, check_pixels

# Splatting: where several pixels land in one place, each has the weight e^z with z = -BRIGHTNESS *
# (difference in brightness of its two ends) - CONSISTENCY * (inconsistency of the flow in px).
BRIGHTNESS, CONSISTENCY = 20.0, 1.0
MAX_INCONSISTENCY = 10.0  # px; larger values count as this
VISIBILITY_SCALE = 1.0  # px of inconsistency at which the visibility of a pixel is 1 / e
MIN_COVERAGE = 0.3  # of a pixel; where less is splatted there is a hole, filled from around

# Costs are differences of brightness in [0, 1], averaged over a window of this radius.
RADIUS = 2  # px
# px from a pixel to the four places whose motion is tried, too. For these the frames are read
# bilinearly, which is as accurate here and nine times as fast.
OFFSET = 6
HOLE_COST = 0.05  # added where the motion is filled in: it may be wrong even if the pixels match
OCCLUSION_COST = 0.03  # cost of a pixel that is occluded in one frame: there is no difference

# The cost of the average is AVERAGE_SHARE * (difference of the frames) - AVERAGE_BONUS: it wins
# where they differ by no more than one or two of 255 steps, since it lowers noise and is not
# resampled.
AVERAGE_BONUS, AVERAGE_SHARE = 0.008, 0.8
# In slow motion, the error of the average grows with the square of the motion, but the difference
# of the frames is linear in it. So the difference counts less.
SLOW_MOTION = 2.0  # px between the frames
# Flow below about one px is itself uncertain: there the cost of the average is lower by
# SUBPIXEL_BONUS, and its weight in the softmax is multiplied by e^SUBPIXEL_LOG_ODDS.
SUBPIXEL_MOTION = 1.0  # px between the frames
SUBPIXEL_BONUS, SUBPIXEL_LOG_ODDS = 0.02, 3.0

MAX_GAIN = 2.0  # of contrast; a larger change is not a fade
# Temperature of the softmax: MIN_TEMPERATURE + TEMPERATURE_SHARE * (lowest cost).
MIN_TEMPERATURE, TEMPERATURE_SHARE = 0.003, 2.0

Estimate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # images to flow_12 and flow_21
Equalisation = tuple[Tensor, Tensor, Tensor]  # two gains and an offset, (B, C, 1, 1) each


def interpolate(
    image1: Tensor, image2: Tensor, flow_12: Tensor, flow_21: Tensor, times: Sequence[float]
) -> Iterator[Tensor]:
    """Return the frames at given times between two frames.

    Both directions are treated alike: swapping the frames and the flows gives the frames at
    ``1 - time``. The result of an example does not depend on the others in its batch. Where the
    frames are equal and the flow is zero, the results are equal to the frames, bit for bit.

    Args:
        image1: (B, C, H, W) in [0, 1].
        image2: the next frame, of the same shape, dtype and device.
        flow_12: (B, 2, H, W) in pixels, from frame 1 to frame 2. Where it is NaN or infinite, it
            counts as zero, and the pixel as occluded in frame 2.
        flow_21: (B, 2, H, W) in pixels, from frame 2 to frame 1.
        times: each in [0, 1]; 0 returns frame 1 and 1 returns frame 2, unchanged.

    Returns:
        An iterator over (B, C, H, W) like ``image1``, one for each time; without gradients, and not
        clamped: bicubic warping can overshoot [0, 1] a little.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes or devices do not fit, or a time is outside [0, 1].

    >>> import torch
    >>> ramp = torch.arange(6.0).expand(1, 3, 6, 6) / 10
    >>> right = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 6, 6)
    >>> (half,) = interpolate(ramp, ramp - 0.2, right, -right, [0.5])
    >>> bool(torch.isclose(half, ramp - 0.1)[..., 2:4].all())
    True
    """
    check_pixels(image1, "image1")
    check_pixels(image2, "image2")
    check_alike(image2, "image2", image1, "image1")
    check_flow(flow_12, "flow_12", like=image1)
    check_flow(flow_21, "flow_21", like=image1)
    times = tuple(times)  # it may be a generator, and is read twice
    for time in times:
        if not 0 <= time <= 1:
            raise ValueError(f"times must be in [0, 1], got {time}")
    return _interpolate(image1, image2, flow_12, flow_21, times)


def interpolate_video(
    frames: Iterable[Tensor],
    factor: int,
    estimate: Estimate,
    *,
    report: Callable[[str], None] | None = None,
) -> Iterator[Tensor]:
    """Insert ``factor - 1`` frames between each two frames of a video, one pair at a time.

    The frames of the video are returned unchanged. Across a cut the frame before it is repeated,
    since a mixture of two scenes belongs to neither; equal frames are repeated, too.

    Args:
        frames: (3, H, W) in [0, 1], all of one size; a fourth channel is opacity.
        factor: number of frames for each frame of the video, at least 2.
        estimate: returns the flow between two (1, 3, H, W) in both directions, such as
            ``partial(estimate_both, net)`` with
            :func:`flowwarp.pipelines.flow.estimate.estimate_both`; may use another device.
        report: called with ``"cut"`` or ``"repeat"`` for each pair that is not interpolated.

    Yields:
        (3, H, W), or (4, H, W): ``factor * (n - 1) + 1`` for n frames.

    Raises:
        ValueError: ``factor`` is below 2.
    """
    if factor < 2:
        raise ValueError(f"factor must be at least 2, got {factor}")
    times = [k / factor for k in range(1, factor)]
    before: Tensor | None = None
    for frame in frames:
        if before is not None:
            exception = _cut_or_repeat(before, frame)
            if exception is None:
                yield from _between(before, frame, times, estimate)
            else:
                if report is not None:
                    report(exception)
                yield from [before] * len(times)
        yield frame
        before = frame


def _cut_or_repeat(frame1: Tensor, frame2: Tensor) -> str | None:
    if torch.equal(frame1, frame2):
        return "repeat"
    return "cut" if is_cut(frame1[:3], frame2[:3]) else None


def _between(
    frame1: Tensor, frame2: Tensor, times: Sequence[float], estimate: Estimate
) -> Iterator[Tensor]:
    flows = estimate(frame1[None, :3], frame2[None, :3])
    device = flows[0].device
    images = [_premultiply(frame)[None].to(device) for frame in (frame1, frame2)]
    for image in interpolate(images[0], images[1], *flows, times):
        yield _unpremultiply(image[0].clamp(0, 1).to(frame1.device))


def _premultiply(frame: Tensor) -> Tensor:
    """Multiply colour by opacity, if there is one, so that invisible colours are not mixed in."""
    return frame if len(frame) == 3 else torch.cat([frame[:3] * frame[3:], frame[3:]])


def _unpremultiply(frame: Tensor) -> Tensor:
    if len(frame) == 3:
        return frame
    opacity = frame[3:]
    color = torch.where(opacity > 0, frame[:3] / opacity, 0).clamp(0, 1)
    return torch.cat([color, opacity])


# ------------------------------------------------------------------ one pair


@torch.no_grad()
def _interpolate(
    image1: Tensor, image2: Tensor, flow_12: Tensor, flow_21: Tensor, times: tuple[float, ...]
) -> Iterator[Tensor]:
    dtype = compute_dtype(image1)
    frame1, frame2 = image1.to(dtype), image2.to(dtype)
    equalisation = _equalise(frame1, frame2)
    flow_12, flow_21 = flow_12.to(dtype), flow_21.to(dtype)
    # (B, 1, H, W), as all maps below.
    change1 = _difference(frame1, warp(frame2, flow_12), equalisation, 1)
    change2 = _difference(warp(frame1, flow_21), frame2, equalisation, 1)
    # visibility of frame 1's pixels in frame 2; log of their splatting weight
    visible_12, log_weight1 = _visibility_and_log_weight(change1, flow_12, flow_21)
    visible_21, log_weight2 = _visibility_and_log_weight(change2, flow_21, flow_12)
    flow_12, flow_21 = (split_known(flow)[0] for flow in (flow_12, flow_21))
    difference = _difference(frame1, frame2, equalisation)
    for time in times:
        if time in (0, 1):
            yield image2 if time else image1
            continue
        # Motion at `time`, from both frames, and which frame shows the pixel there.
        forward, visible2, known1 = _move(flow_12, time, log_weight1, visible_12)
        backward, visible1, known2 = _move(flow_21, 1 - time, log_weight2, visible_21)
        everywhere = torch.ones_like(visible1)
        candidates = [
            _blend(frame1, frame2, forward, time, (everywhere, visible2), known1, equalisation),
            _blend(frame1, frame2, -backward, time, (visible1, everywhere), known2, equalisation),
        ]
        for motion in _around((forward - backward) / 2):
            visible, known = (everywhere, everywhere), known1 & known2
            candidates.append(
                _blend(frame1, frame2, motion, time, visible, known, equalisation, "bilinear")
            )
        # The average of the frames, and its cost: see AVERAGE_BONUS, SLOW_MOTION, SUBPIXEL_MOTION.
        average = torch.lerp(frame1, frame2, time)
        speed = torch.maximum(*(f.norm(dim=1, keepdim=True) for f in (forward, backward)))
        costs = [cost for _, cost in candidates]
        both = visible1 * visible2
        slow = both * (1 - (speed / SLOW_MOTION).clamp_max(1))
        subpixel = both * torch.exp(-(speed / SUBPIXEL_MOTION).square())
        average_cost = (
            AVERAGE_SHARE * (1 - slow) * difference - AVERAGE_BONUS - SUBPIXEL_BONUS * subpixel
        )
        weights = _weights(torch.cat([*costs, average_cost], 1), SUBPIXEL_LOG_ODDS * subpixel)
        # A sum of differences to the average: equal candidates give exactly their common value.
        result = average
        for k, (blend, _) in enumerate(candidates):
            result = torch.addcmul(result, weights[:, k : k + 1], blend - average)
        yield result.to(image1.dtype)


def _equalise(image1: Tensor, image2: Tensor) -> Equalisation:
    """Return gains and an offset, (B, C, 1, 1), that equalise mean and contrast of two frames.

    ``gain1 * image1 - gain2 * image2 + offset`` is then their difference. A fade or a flicker
    changes the whole frame and says nothing about motion.
    """
    mean1, spread1 = _statistics(image1)
    mean2, spread2 = _statistics(image2)
    spread = (spread1 + spread2) / 2
    gain1, gain2 = ((spread / s).clamp(1 / MAX_GAIN, MAX_GAIN) for s in (spread1, spread2))
    return gain1, gain2, gain2 * mean2 - gain1 * mean1


def _statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, (B, C, 1, 1), the latter at least 0.01.

    The sums are over integers, 8-bit steps, so that they are exact for any number of threads and
    any batch.
    """
    steps = (image.nan_to_num(0, 0, 0).clamp(0, 1) * 255).round().long()
    count = max(1, image.shape[-2] * image.shape[-1])
    mean = steps.sum((2, 3), keepdim=True).double() / count
    square = steps.square().sum((2, 3), keepdim=True).double() / count
    spread = (square - mean.square()).clamp_min(0).sqrt() / 255
    return (mean / 255).to(image.dtype), spread.clamp_min(0.01).to(image.dtype)


def _visibility_and_log_weight(change: Tensor, flow: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Return the visibility of each pixel in image 2, and the logarithm of its splatting weight.

    The weight is the importance metric of Niklaus and Liu, from brightness constancy and from the
    consistency of forward and backward flow.

    Args:
        change: (B, 1, H, W), difference in brightness between the two ends of the flow.
        flow: (B, 2, H, W), from image 1 to image 2, pixels.
        back: (B, 2, H, W), from image 2 to image 1, pixels.

    Returns:
        (B, 1, H, W) in [0, 1], and (B, 1, H, W).
    """
    returned, inside = warp(back, flow, mask=True)
    # Zero where forward and backward flow connect the same two points.
    length = (flow + returned).norm(dim=1, keepdim=True)
    length = length.nan_to_num(MAX_INCONSISTENCY, MAX_INCONSISTENCY)
    inconsistency = length.clamp_max(MAX_INCONSISTENCY)
    visible = inside * (inconsistency / VISIBILITY_SCALE).square().neg().exp()
    return visible, -BRIGHTNESS * change - CONSISTENCY * inconsistency


def _move(
    flow: Tensor, time: float, log_weight: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Splat flow along itself to ``time``.

    Args:
        flow: (B, 2, H, W), pixels.
        time: in [0, 1], counted from the frame that the flow starts from.
        log_weight: (B, 1, H, W), logarithm of the splatting weight.
        visible: (B, 1, H, W), visibility in the other frame.

    Returns:
        The flow at ``time``, (B, 2, H, W); the visibility there, (B, 1, H, W); and where anything
        landed, (B, 1, H, W) bool. Holes are filled from around.
    """
    # Relative to the largest weight, so that exp does not overflow.
    share = torch.exp(log_weight - log_weight.amax((1, 2, 3), keepdim=True))
    ones = torch.ones_like(share)
    values = torch.cat([flow * share, visible * share, share, ones], 1)  # (B, 5, H, W)
    landed = splat(values, time * flow, "sum")
    known = (landed[:, 4:] > MIN_COVERAGE) & (landed[:, 3:4] > 0)
    filled = fill_holes(landed[:, :3] * known, landed[:, 3:4] * known)  # divides by the weights
    return filled[:, :2], filled[:, 2:], known


def _blend(
    image1: Tensor,
    image2: Tensor,
    motion: Tensor,
    time: float,
    visible: tuple[Tensor, Tensor],
    known: Tensor,
    equalisation: Equalisation,
    mode: Mode = "bicubic",
) -> tuple[Tensor, Tensor]:
    """Read both frames along a motion and blend them by nearness in time and visibility.

    Args:
        image1: (B, C, H, W).
        image2: (B, C, H, W).
        motion: (B, 2, H, W) at ``time``, from frame 1 to frame 2, pixels.
        time: in (0, 1).
        visible: visibility in frame 1 and in frame 2, (B, 1, H, W) each in [0, 1].
        known: (B, 1, H, W) bool, where the motion is not filled in.
        equalisation: see `_equalise`.
        mode: of the warp.

    Returns:
        The blend, (B, C, H, W), and its cost, (B, 1, H, W).
    """
    first, inside1 = warp(image1, -time * motion, mode=mode, mask=True)
    second, inside2 = warp(image2, (1 - time) * motion, mode=mode, mask=True)
    share1 = (1 - time) * (visible[0] * inside1)
    share2 = time * (visible[1] * inside2)
    total = share1 + share2
    blend = torch.lerp(first, second, torch.where(total > 0, share2 / total, time))
    both = visible[0] * visible[1]
    difference = _difference(first, second, equalisation) + HOLE_COST * ~known
    cost = both * difference + (1 - both) * OCCLUSION_COST
    return blend, cost


def _around(motion: Tensor) -> Iterator[Tensor]:
    """Yield (B, 2, H, W) shifted by OFFSET px left, right, up and down; the border is repeated."""
    height, width = motion.shape[-2:]
    padded = F.pad(motion, [OFFSET] * 4, mode="replicate")
    for x, y in ((0, 1), (2, 1), (1, 0), (1, 2)):
        yield padded[..., y * OFFSET : y * OFFSET + height, x * OFFSET : x * OFFSET + width]


def _weights(costs: Tensor, log_odds: Tensor) -> Tensor:
    """Return the softmax weights of costs, (B, K, H, W); the last is raised by e^``log_odds``."""
    temperature = MIN_TEMPERATURE + TEMPERATURE_SHARE * costs.amin(1, keepdim=True).clamp_min(0)
    logits = -costs / temperature
    return torch.softmax(torch.cat([logits[:, :-1], logits[:, -1:] + log_odds], 1), 1)


def _difference(
    first: Tensor, second: Tensor, equalisation: Equalisation, radius: int = RADIUS
) -> Tensor:
    """Return the absolute difference of two images (B, C, H, W), averaged: (B, 1, H, W).

    It is the smaller of two differences: of the images as they are, and of the equalised images.
    Parts of a frame, such as a caption, do not take part in a fade.
    """
    gain1, gain2, offset = equalisation
    original = (first - second).abs_().mean(1, keepdim=True)
    equalised = torch.addcmul(gain1 * first + offset, second, gain2, value=-1)
    equalised = equalised.abs_().mean(1, keepdim=True)
    return torch.minimum(box_blur(original, radius), box_blur(equalised, radius))
