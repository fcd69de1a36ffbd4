"""Frames between frames: from flow both ways, without a learned part.

The motion is sent to the moment wanted by softmax splatting (Niklaus and Liu, "Softmax Splatting
for Video Frame Interpolation", CVPR 2020), from frame 1 along ``flow_12`` and from frame 2 along
``flow_21``. Each of the two motions then reads both frames by backward warping, which unlike
splatting the colours themselves leaves no holes and loses no detail, and a pixel that one frame
hides comes from the other. So does the motion of four places around, as in overlapped block motion
compensation (Orchard and Sullivan, "Overlapped Block Motion Compensation", IEEE TIP 1994). These
pictures and the plain average of the frames are weighed at each pixel by how well what they join
agrees: where the flow is right, the average has no say; where nothing agrees, all are mixed, which
is less wrong than any one of them.
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

# How little a pixel counts where several land in one place, in units of e: for a brightness that
# differs by 1 between its two ends, and for each pixel by which forward and backward flow differ.
BRIGHTNESS, CONSISTENCY = 20.0, 1.0
FURTHEST = 10.0  # px; more inconsistent than that is not worse
SEEN = 1.0  # px of inconsistency at which a pixel counts e times less as seen in the other frame
LANDED = 0.3  # of a pixel; where less lands there is a hole, filled from around

# Costs are differences of brightness in [0, 1], averaged over a window of this radius.
RADIUS = 2  # px
# px from a pixel to the four places whose motion is tried as well; they are read bilinearly, as
# accurate here and nine times as fast.
AROUND = 6
HOLE = 0.05  # a motion filled in from around may be wrong, without a difference to tell it
HIDDEN = 0.03  # where one frame hides a pixel there is no difference to judge by
# The average of the frames is preferred where they differ by no more than a step or two of 8
# bits: it lowers the noise, and no resampling blurs it. Where motion is slow it errs by the square
# of that motion, so that the difference of the frames overstates its cost; and the motion of a
# fraction of a pixel is uncertain itself.
STILL, STILL_SHARE = 0.008, 0.8
SLOW = 2.0  # px from frame to frame
CREEPING = 1.0  # px; the average is then cheaper by the first figure, and likelier by e^second
CREEPING_GAIN, CREEPING_ODDS = 0.02, 3.0
MOST_GAIN = 2.0  # in contrast; more is no fade
# Costs that differ by less than this, or than this many times the lowest, are nearly alike.
ALIKE, ALIKE_SHARE = 0.003, 2.0

Estimate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Level = tuple[Tensor, Tensor, Tensor]


def interpolate(
    image1: Tensor, image2: Tensor, flow_12: Tensor, flow_21: Tensor, times: Sequence[float]
) -> Iterator[Tensor]:
    """Make the frames at some times between two.

    Both directions are treated alike: swapping the frames and the flows gives the frames at
    ``1 - time``. An example's result does not depend on the others in its batch. Where the frames
    are equal and the flow is zero, so are the results, bit for bit.

    Args:
        image1: (B, C, H, W) in [0, 1].
        image2: the next frame, of the same shape, dtype and device.
        flow_12: (B, 2, H, W) in pixels, from frame 1 to frame 2; where it is NaN or infinite
            nothing moves, and frame 2 counts as not showing the pixel.
        flow_21: (B, 2, H, W) likewise, from frame 2 to frame 1.
        times: each in [0, 1]; 0 gives frame 1 and 1 frame 2, as they are.

    Returns:
        An iterator over (B, C, H, W) like ``image1``, one for each time; without gradients, and not
        clamped: bicubic warping may leave [0, 1] a little.

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
    times = tuple(times)  # of a generator nothing is left once it has been looked at
    for time in times:
        if not 0 <= time <= 1:
            raise ValueError(f"times must be in [0, 1], got {time}")
    return _interpolate(image1, image2, flow_12, flow_21, times)


def interpolate_video(
    frames: Iterable[Tensor],
    factor: int,
    estimate: Estimate,
    *,
    told: Callable[[str], None] | None = None,
) -> Iterator[Tensor]:
    """Put ``factor - 1`` frames between each two of a video, one at a time.

    The video's own frames come out as they went in. Across a cut the frame before it is repeated,
    since a mixture of two scenes is neither; equal frames are repeated too.

    Args:
        frames: (3, H, W) in [0, 1], all of one size; a fourth channel is opacity.
        factor: from 2.
        estimate: gives the flow between two (1, 3, H, W) both ways, such as
            :func:`flowwarp.pipelines.flow.estimate.estimate_both` of a network,
            ``partial(estimate_both, net)``; frames may be moved to another device in it.
        told: called with ``"cut"`` or ``"repeat"`` for each two frames that are not interpolated.

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
            kind = _kind(before, frame)
            if kind is None:
                yield from _between(before, frame, times, estimate)
            else:
                if told is not None:
                    told(kind)
                yield from [before] * len(times)
        yield frame
        before = frame


def _kind(frame1: Tensor, frame2: Tensor) -> str | None:
    if torch.equal(frame1, frame2):
        return "repeat"
    return "cut" if is_cut(frame1[:3], frame2[:3]) else None


def _between(
    frame1: Tensor, frame2: Tensor, times: Sequence[float], estimate: Estimate
) -> Iterator[Tensor]:
    flows = estimate(frame1[None, :3], frame2[None, :3])
    device = flows[0].device
    images = [_weigh(frame)[None].to(device) for frame in (frame1, frame2)]
    for image in interpolate(images[0], images[1], *flows, times):
        yield _unweigh(image[0].clamp(0, 1).to(frame1.device))


def _weigh(frame: Tensor) -> Tensor:
    """Multiply colour by opacity, if there is one: what nobody sees must not mix in."""
    return frame if len(frame) == 3 else torch.cat([frame[:3] * frame[3:], frame[3:]])


def _unweigh(frame: Tensor) -> Tensor:
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
    one, two = image1.to(dtype), image2.to(dtype)
    level = _find_level(one, two)
    there, back = flow_12.to(dtype), flow_21.to(dtype)
    change1 = _difference(one, warp(two, there), level, 1)
    change2 = _difference(warp(one, back), two, level, 1)
    visible_12, weight1 = _judge(change1, there, back)
    visible_21, weight2 = _judge(change2, back, there)
    there, back = (split_known(flow)[0] for flow in (there, back))
    difference = _difference(one, two, level)
    for time in times:
        if time in (0, 1):
            yield image2 if time else image1
            continue
        forward, seen2, known1 = _send(there, time, weight1, visible_12)
        backward, seen1, known2 = _send(back, 1 - time, weight2, visible_21)
        everywhere = torch.ones_like(seen1)
        readings = [
            _read(one, two, forward, time, (everywhere, seen2), known1, level),
            _read(one, two, -backward, time, (seen1, everywhere), known2, level),
        ]
        for motion in _around((forward - backward) / 2):
            seen, known = (everywhere, everywhere), known1 & known2
            readings.append(_read(one, two, motion, time, seen, known, level, "bilinear"))
        plain = torch.lerp(one, two, time)
        speed = torch.maximum(*(f.norm(dim=1, keepdim=True) for f in (forward, backward)))
        costs = [cost for _, cost in readings]
        both = seen1 * seen2
        slow = both * (1 - (speed / SLOW).clamp_max(1))
        creeping = both * torch.exp(-(speed / CREEPING).square())
        average = STILL_SHARE * (1 - slow) * difference - STILL - CREEPING_GAIN * creeping
        weights = _weights(torch.cat([*costs, average], 1), CREEPING_ODDS * creeping)
        # As a sum of differences, so that pictures that are equal give that picture, bit for bit.
        result = plain
        for k, (picture, _) in enumerate(readings):
            result = torch.addcmul(result, weights[:, k : k + 1], picture - plain)
        yield result.to(image1.dtype)


def _find_level(image1: Tensor, image2: Tensor) -> Level:
    """Return two gains and an offset, (B, C, 1, 1), that bring both frames to one level.

    ``gain1 * image1 - gain2 * image2 + offset`` is their difference in brightness and contrast
    that are alike over the whole frame: a fade or a flicker says nothing about motion.
    """
    mean1, spread1 = _statistics(image1)
    mean2, spread2 = _statistics(image2)
    spread = (spread1 + spread2) / 2
    gain1, gain2 = ((spread / s).clamp(1 / MOST_GAIN, MOST_GAIN) for s in (spread1, spread2))
    return gain1, gain2, gain2 * mean2 - gain1 * mean1


def _statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, (B, C, 1, 1), the latter at least 0.01.

    Summed in whole steps of 8 bits: exact, whatever the number of threads and the batch.
    """
    steps = (image.nan_to_num(0, 0, 0).clamp(0, 1) * 255).round().long()
    count = max(1, image.shape[-2] * image.shape[-1])
    mean = steps.sum((2, 3), keepdim=True).double() / count
    square = steps.square().sum((2, 3), keepdim=True).double() / count
    spread = (square - mean.square()).clamp_min(0).sqrt() / 255
    return (mean / 255).to(image.dtype), spread.clamp_min(0.01).to(image.dtype)


def _judge(change: Tensor, flow: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Say of each pixel how surely image 2 shows it, in [0, 1], and its weight in splatting.

    Niklaus and Liu's importance metric, from brightness constancy, and the consistency of the flow
    both ways.
    """
    returned, inside = warp(back, flow, mask=True)
    length = (flow + returned).norm(dim=1, keepdim=True).nan_to_num(FURTHEST, FURTHEST)
    inconsistency = length.clamp_max(FURTHEST)
    visible = inside * (inconsistency / SEEN).square().neg().exp()
    return visible, -BRIGHTNESS * change - CONSISTENCY * inconsistency


def _send(
    flow: Tensor, time: float, weight: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Send flow along itself to ``time``; return it there, visibility there, and where it landed.

    ``time`` counts from the frame that the flow starts from, and so does the flow returned.
    """
    share = torch.exp(weight - weight.amax((1, 2, 3), keepdim=True))
    ones = torch.ones_like(share)
    sent = torch.cat([flow * share, visible * share, share, ones], 1)
    landed = splat(sent, time * flow, "sum")
    known = (landed[:, 4:] > LANDED) & (landed[:, 3:4] > 0)
    filled = fill_holes(landed[:, :3] * known, landed[:, 3:4] * known)
    return filled[:, :2], filled[:, 2:], known


def _read(
    image1: Tensor,
    image2: Tensor,
    motion: Tensor,
    time: float,
    seen: tuple[Tensor, Tensor],
    known: Tensor,
    level: Level,
    mode: Mode = "bicubic",
) -> tuple[Tensor, Tensor]:
    """Read both frames along the motion from frame 1 to 2 at ``time``; return a blend and its cost.

    Each frame counts by its nearness in time, as far as it shows the pixel.
    """
    first, inside1 = warp(image1, -time * motion, mode=mode, mask=True)
    second, inside2 = warp(image2, (1 - time) * motion, mode=mode, mask=True)
    share1 = (1 - time) * (seen[0] * inside1)
    share2 = time * (seen[1] * inside2)
    total = share1 + share2
    blend = torch.lerp(first, second, torch.where(total > 0, share2 / total, time))
    both = seen[0] * seen[1]
    cost = both * (_difference(first, second, level) + HOLE * ~known) + (1 - both) * HIDDEN
    return blend, cost


def _around(motion: Tensor) -> Iterator[Tensor]:
    """Yield the motion of the places left, right, above and below; the border repeats."""
    height, width = motion.shape[-2:]
    padded = F.pad(motion, [AROUND] * 4, mode="replicate")
    for x, y in ((0, 1), (2, 1), (1, 0), (1, 2)):
        yield padded[..., y * AROUND : y * AROUND + height, x * AROUND : x * AROUND + width]


def _weights(costs: Tensor, favour: Tensor) -> Tensor:
    """Turn costs (B, K, H, W) into weights that sum to 1; the last is favoured by e^``favour``."""
    alike = ALIKE + ALIKE_SHARE * costs.amin(1, keepdim=True).clamp_min(0)
    logits = -costs / alike
    return torch.softmax(torch.cat([logits[:, :-1], logits[:, -1:] + favour], 1), 1)


def _difference(first: Tensor, second: Tensor, level: Level, radius: int = RADIUS) -> Tensor:
    """Return how pictures of both frames differ, as they are or at one level, whichever is less.

    What does not take part in a fade shall not pay for it.
    """
    gain1, gain2, offset = level
    as_they_are = (first - second).abs_().mean(1, keepdim=True)
    levelled = torch.addcmul(gain1 * first + offset, second, gain2, value=-1)
    levelled = levelled.abs_().mean(1, keepdim=True)
    return torch.minimum(box_blur(as_they_are, radius), box_blur(levelled, radius))
