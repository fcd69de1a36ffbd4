"""Whether a video holds still, and whether it does so by being blurred.

Warping error alone rewards blur: a grey video has none. High frequencies stand beside it, and both
want the same figure of the ground truth to be judged by. Every measure is one number for each
example, (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowwarp.ops.warping import warp
from flowwarp.tensors import check_float, check_flow, check_pixels, check_same_grid

FINE = 0.25  # cycles a pixel: what a frame of half the size cannot hold


def warping_error(video: Tensor, flow_21: Tensor, visible: Tensor | None = None) -> Tensor:
    """Return how far frames are from the frames before them, warped: E_warp.

    The mean over visible pixels and channels of the squared difference (Lai et al., "Learning Blind
    Video Temporal Consistency", ECCV 2018, equation 6), over all frames of a clip together, and of
    that the root, which has the unit of the colours. Frames are warped bicubically; that, and
    real change, leaves the truth a figure above 0 too.

    Args:
        video: (B, T, C, H, W) in [0, 1].
        flow_21: (B, T - 1, 2, H, W) in pixels, from each frame but the first to the one before.
        visible: (B, T - 1, 1, H, W) bool, which pixels to compare: those that the frame before
            shows and whose flow is right. Others, and flow that is not finite or leads outside,
            never count. Default: all.

    Returns:
        (B,); NaN where no pixel counts.

    Raises:
        TypeError: the video or flow is not floating-point.
        ValueError: shapes do not fit.

    >>> flow = torch.zeros(1, 1, 2, 4, 4)
    >>> warping_error(torch.tensor([0.2, 0.5]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 4, 4), flow)
    tensor([0.3000])
    """
    check_float(video, "video")
    check_float(flow_21, "flow_21")
    if video.ndim != 5 or flow_21.ndim != 5 or video.shape[1] != flow_21.shape[1] + 1:
        raise ValueError(
            "video must be (B, T, C, H, W) and flow_21 (B, T - 1, 2, H, W), "
            f"got {tuple(video.shape)} and {tuple(flow_21.shape)}"
        )
    now, before = video[:, 1:].flatten(0, 1), video[:, :-1].flatten(0, 1)
    flow = flow_21.flatten(0, 1)
    check_flow(flow, "flow_21", like=now)
    warped, counts = warp(before, flow, mode="bicubic", mask=True)
    if visible is not None:
        if visible.ndim != 5 or visible.shape[:3] != (*flow_21.shape[:2], 1):
            raise ValueError(f"visible must be (B, T - 1, 1, H, W), got {tuple(visible.shape)}")
        seen = visible.flatten(0, 1)
        check_same_grid(seen, "visible", now)
        counts = counts & seen.bool()
    error = torch.where(counts, (now - warped).float().square().mean(1, keepdim=True), 0)
    shape = (*flow_21.shape[:2], *error.shape[1:])
    total, pixels = (each.reshape(shape).flatten(1).sum(1) for each in (error, counts))
    return (total / pixels).sqrt()


def fine_energy(image: Tensor) -> Tensor:
    """Return the mean square of what is finer than :data:`FINE` along either axis.

    Frames are faded out towards their edges, which the spectrum would take for steps. What is no
    more than float32's rounding of the image counts as 0.

    Args:
        image: (B, C, H, W).

    Returns:
        (B,).
    """
    check_pixels(image, "image")
    if not image.numel():  # some libraries have no transform of it
        return image.float().mean((1, 2, 3))
    height, width = image.shape[-2:]
    window = torch.outer(
        torch.hann_window(height, dtype=torch.float32, device=image.device),
        torch.hann_window(width, dtype=torch.float32, device=image.device),
    )
    # The mean would leak into everything through the window.
    flat = image.float() - image.float().mean((2, 3), keepdim=True)
    power = torch.fft.fft2(flat * window, norm="forward").abs().square()
    rows = torch.fft.fftfreq(height, dtype=torch.float32, device=image.device).abs()[:, None]
    columns = torch.fft.fftfreq(width, dtype=torch.float32, device=image.device).abs()
    fine = (rows > FINE) | (columns > FINE)
    energy = torch.where(fine, power, 0).sum((2, 3)).mean(1)
    energy = energy / window.square().mean().clamp_min(1e-12)
    rounding = (4 * torch.finfo(torch.float32).eps) ** 2 * image.float().square().mean((1, 2, 3))
    return torch.where(energy > rounding, energy, 0)


def fine_ratio(image: Tensor, original: Tensor) -> Tensor:
    """Return how strong the high frequencies are beside those of the original: the amplitude ratio.

    Args:
        image: (B, C, H, W), or (B, T, C, H, W) for a mean over a clip's frames.
        original: the same shape.

    Returns:
        (B,): 1 is right, less is blurred, more is noise or false edges. Where the original has
        none: infinite, or NaN if the image has none either.

    Raises:
        TypeError: one is not floating-point.
        ValueError: the shapes differ.
    """
    check_float(image, "image")
    check_float(original, "original")
    if image.shape != original.shape or image.ndim not in (4, 5):
        raise ValueError(
            f"image and original must have one shape, (B, C, H, W) or (B, T, C, H, W), "
            f"got {tuple(image.shape)} and {tuple(original.shape)}"
        )
    if image.ndim == 4:
        image, original = image[:, None], original[:, None]
    energy, wanted = (
        fine_energy(video.flatten(0, 1)).view(video.shape[:2]).mean(1)
        for video in (image, original)
    )
    return (energy / wanted).sqrt()
