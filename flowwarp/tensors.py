"""The conventions of all tensors in the package, and checks of arguments of public functions.

* ``image`` (B, C, H, W), floating point, RGB in [0, 1] where a range matters.
* ``video`` (B, T, C, H, W).
* ``flow`` (B, 2, H, W) **in pixels of its own resolution**; channel 0 is x (right positive),
  channel 1 is y (down positive). ``flow_12`` maps frame 1 to frame 2, so that backward warping,
  ``warp(image2, flow_12)``, reads image 2 at ``x + flow`` and looks like frame 1.
* Pixel centres are integers: pixel (0, 0) is at x = 0, y = 0. ``grid_sample`` calls that
  ``align_corners=True``.
* Masks (B, 1, H, W), boolean, are named by what True means: ``visible`` (the other frame shows the
  pixel) or ``valid`` (a value exists). No mask is True where a pixel is occluded.
"""

from __future__ import annotations

import reprlib

import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGEST = 2**24  # size of anything: the product of two, in bytes, still fits in 64 bits


def check_float(tensor: Tensor, name: str) -> None:
    """Check that ``tensor`` is floating point.

    Raises:
        TypeError: not a tensor, or not fp64, fp32, fp16 or bf16.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be fp64, fp32, fp16 or bf16, got {tensor.dtype}")


def check_image(image: Tensor, name: str = "image") -> None:
    """Check that ``image`` is (B, C, H, W) and floating point.

    Raises:
        TypeError: not a tensor, or not fp64, fp32, fp16 or bf16.
        ValueError: not four-dimensional.
    """
    check_float(image, name)
    if image.ndim != 4:
        raise ValueError(f"{name} must be (B, C, H, W), got shape {_shape(image)}")


def check_pixels(image: Tensor, name: str) -> None:
    """Check that ``image`` is (B, C, H, W), floating point, and neither H nor W is 0.

    Raises:
        TypeError: not a tensor, or not fp64, fp32, fp16 or bf16.
        ValueError: not four-dimensional, or without pixels.
    """
    check_image(image, name)
    if not (image.shape[2] and image.shape[3]):
        raise ValueError(f"{name} must have pixels, got shape {_shape(image)}")


def check_range(image: Tensor, name: str) -> None:
    """Check that an image is in [0, 1] rather than in 0 … 255; overshoots up to 2 are accepted.

    Raises:
        ValueError: a value is above 2, or NaN.
    """
    largest = float(image.detach().amax()) if image.numel() else 0.0
    if not largest <= 2:
        raise ValueError(f"{name} must be in [0, 1], its largest value is {largest:g}")


def check_video(video: Tensor, name: str = "video") -> None:
    """Check that ``video`` is (B, T, C, H, W), floating point, and not empty.

    Raises:
        TypeError: not a tensor, or not fp64, fp32, fp16 or bf16.
        ValueError: not five-dimensional, or empty.
    """
    check_float(video, name)
    if video.ndim != 5 or not video.numel():
        raise ValueError(f"{name} must be (B, T, C, H, W) and not empty, got shape {_shape(video)}")


def check_frames(video: Tensor, stride: int) -> None:
    """Check that ``video`` is RGB, (B, T, 3, H, W), with sides that are multiples of ``stride``.

    Raises:
        TypeError: not a tensor, or not fp64, fp32, fp16 or bf16.
        ValueError: another shape, empty, or H or W is not a multiple of ``stride``.
    """
    check_video(video)
    if video.shape[2] != 3 or video.shape[3] % stride or video.shape[4] % stride:
        raise ValueError(
            f"video must be (B, T, 3, H, W) with H and W multiples of {stride}, "
            f"got shape {_shape(video)}"
        )


def check_flow(flow: Tensor, name: str = "flow", *, like: Tensor | None = None) -> None:
    """Check that ``flow`` is (B, 2, H, W), floating point, and fits ``like``.

    Args:
        flow: the flow field.
        name: of the argument, for the message.
        like: an image or flow whose batch, height, width and device it must have.

    Raises:
        TypeError: not a tensor, or not fp64, fp32, fp16 or bf16.
        ValueError: wrong number of dimensions or channels, other size or device than ``like``.
    """
    check_float(flow, name)
    if flow.ndim != 4 or flow.shape[1] != 2:
        raise ValueError(f"{name} must be (B, 2, H, W), got shape {_shape(flow)}")
    if like is not None:
        check_same_grid(flow, name, like)


def check_same_grid(tensor: Tensor, name: str, like: Tensor, channels: int | None = None) -> None:
    """Check that ``tensor``, (B, ..., H, W), has the batch, height, width and device of ``like``.

    Args:
        tensor: the tensor.
        name: of the argument, for the message.
        like: the other tensor, (B, ..., H, W).
        channels: number that it must have; None for any.

    Raises:
        ValueError: one of them differs.
    """
    wanted = (like.shape[0], *like.shape[-2:])
    got = (*tensor.shape[:1], *tensor.shape[-2:])
    if got != wanted:
        raise ValueError(
            f"{name} must have batch, height and width {tuple(wanted)}, got {tuple(got)}"
        )
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {tensor.device}")
    if channels is not None and tensor.shape[1] != channels:
        wanted_channels = f"{channels} channel{'s' * (channels > 1)}"
        raise ValueError(f"{name} must have {wanted_channels}, got {tensor.shape[1]}")


def check_alike(tensor: Tensor, name: str, like: Tensor, like_name: str) -> None:
    """Check that ``tensor`` has the shape, dtype and device of ``like``.

    Args:
        tensor: the tensor.
        name: of the argument, for the message.
        like: the other tensor.
        like_name: its name, for the message.

    Raises:
        ValueError: one of them differs.
    """
    if (tensor.shape, tensor.dtype, tensor.device) != (like.shape, like.dtype, like.device):
        raise ValueError(
            f"{name} must be {_shape(like)} {like.dtype} on {like.device} as {like_name} is, "
            f"got {_shape(tensor)} {tensor.dtype} on {tensor.device}"
        )


def check_mask(mask: Tensor, name: str, like: Tensor) -> None:
    """Check that ``mask``, boolean or weights, is (B, 1, H, W) on the grid of ``like``.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape, which would broadcast over channels or examples, or device.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(mask).__name__}")
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(f"{name} must be (B, 1, H, W), got shape {_shape(mask)}")
    check_same_grid(mask, name, like)


def check_choice(value: str, name: str, choices: tuple[str, ...]) -> None:
    """Check that ``value`` is one of ``choices``.

    Raises:
        ValueError: it is not; the message lists what is allowed.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {reprlib.repr(value)}")


def check_whole(value: object, name: str, least: int, most: int = LARGEST) -> None:
    """Check that ``value`` is an ``int`` in ``[least, most]``, and not a ``bool``.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(
            f"{name} must be a whole number in [{least}, {most}], got {reprlib.repr(value)}"
        )


def check_wholes(values: object, name: str, least: int, most: int = LARGEST) -> None:
    """Check that ``values`` is a tuple of one or more ``int`` in ``[least, most]``.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(values, tuple) or not values:
        raise ValueError(f"{name} must be one whole number or more, got {reprlib.repr(values)}")
    for value in values:
        check_whole(value, name, least, most)


def check_number(value: object, name: str, least: float, most: float) -> None:
    """Check that ``value`` is a number in ``[least, most]``, and not a ``bool``.

    Raises:
        ValueError: it is not.
    """
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not least <= value <= most  # also for NaN
    ):
        raise ValueError(
            f"{name} must be a number in [{least:g}, {most:g}], got {reprlib.repr(value)}"
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
