"""Metrics of temporal consistency: warping error, and high frequencies beside it.

Warping error alone rewards blur: a uniformly gray video has none. So it should be read together
with the energy of high frequencies, and both with the same metric of the ground truth. Every metric
is one number for each example, (B,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowwarp.ops.warping import warp
from flowwarp.tensors import check_float, check_flow, check_pixels, check_same_grid

FINE = 0.25  # cycles per pixel: the Nyquist frequency of a frame of half the size


def warping_error(video: Tensor, flow_21: Tensor, visible: Tensor | None = None) -> Tensor:
    """Return the warping error E_warp: how far each frame is from the one before it, warped.

    It is the root of the mean squared difference over visible pixels, channels and all frames of a
    clip (Lai et al., "Learning Blind Video Temporal Consistency", ECCV 2018, equation 6), in the
    unit of the colours. Frames are warped bicubically. Interpolation and true change give a real
    video an error above 0, too.

    Args:
        video: (B, T, C, H, W) in [0, 1].
        flow_21: (B, T - 1, 2, H, W) in pixels, from each frame but the first to the one before.
        visible: (B, T - 1, 1, H, W) bool, True for the pixels to compare: those that the previous
            frame shows, too. Flow that is not finite or leads outside never counts. Default: all.

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
    current, previous = video[:, 1:].flatten(0, 1), video[:, :-1].flatten(0, 1)  # (N, C, H, W)
    flow = flow_21.flatten(0, 1)  # (N, 2, H, W) for N = B (T - 1)
    check_flow(flow, "flow_21", like=current)
    warped, mask = warp(previous, flow, mode="bicubic", mask=True)  # mask (N, 1, H, W)
    if visible is not None:
        if visible.ndim != 5 or visible.shape[:3] != (*flow_21.shape[:2], 1):
            raise ValueError(f"visible must be (B, T - 1, 1, H, W), got {tuple(visible.shape)}")
        visible = visible.flatten(0, 1)
        check_same_grid(visible, "visible", current)
        mask = mask & visible.bool()
    error = torch.where(mask, (current - warped).float().square().mean(1, keepdim=True), 0)
    shape = (*flow_21.shape[:2], *error.shape[1:])  # (B, T - 1, 1, H, W)
    total, pixels = (each.reshape(shape).flatten(1).sum(1) for each in (error, mask))  # (B,) each
    return (total / pixels).sqrt()


def fine_energy(image: Tensor) -> Tensor:
    """Return the energy of frequencies above :data:`FINE` along either axis, as a mean square.

    A Hann window fades the image out towards its edges; the transform is periodic and would take
    them for steps. Energy below float32's rounding of the image counts as 0.

    Args:
        image: (B, C, H, W).

    Returns:
        (B,).
    """
    check_pixels(image, "image")
    if not image.numel():  # some FFT libraries refuse it
        return image.float().mean((1, 2, 3))
    height, width = image.shape[-2:]
    window = torch.outer(
        torch.hann_window(height, dtype=torch.float32, device=image.device),
        torch.hann_window(width, dtype=torch.float32, device=image.device),
    )
    # The window would spread the mean over other frequencies.
    centred = image.float() - image.float().mean((2, 3), keepdim=True)
    # Parseval: with norm="forward" the sum of the power is the mean square of the image.
    power = torch.fft.fft2(centred * window, norm="forward").abs().square()  # (B, C, H, W)
    rows = torch.fft.fftfreq(height, dtype=torch.float32, device=image.device).abs()[:, None]
    columns = torch.fft.fftfreq(width, dtype=torch.float32, device=image.device).abs()
    fine = (rows > FINE) | (columns > FINE)  # (H, W)
    energy = torch.where(fine, power, 0).sum((2, 3)).mean(1)  # (B,)
    energy = energy / window.square().mean().clamp_min(1e-12)  # the window's share is lost
    rounding = (4 * torch.finfo(torch.float32).eps) ** 2 * image.float().square().mean((1, 2, 3))
    return torch.where(energy > rounding, energy, 0)


def fine_ratio(image: Tensor, original: Tensor) -> Tensor:
    """Return the amplitude of high frequencies over that of the original.

    Args:
        image: (B, C, H, W), or (B, T, C, H, W) for a mean over a clip's frames.
        original: the same shape.

    Returns:
        (B,): below 1 the image is blurred, above 1 it has noise or false edges. It is infinite
        where the original has no high frequencies, and NaN where the image has none either.

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
    energy, original_energy = (
        fine_energy(video.flatten(0, 1)).view(video.shape[:2]).mean(1)  # (B,)
        for video in (image, original)
    )
    return (energy / original_energy).sqrt()
