"""Resizing of images to uint8, as footage, captioned videos and photos are cached."""

from __future__ import annotations

from torch import Tensor

from flowwarp.ops.filters import resize
from flowwarp.tensors import check_float, check_range


def shrink(image: Tensor, longest: int) -> Tensor:
    """Shrink an image (3, H, W) in [0, 1] until no side is longer than ``longest``, as uint8."""
    height, width = image.shape[1:]
    return resized_bytes(image, shrunk_size(height, width, longest))


def shrunk_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Return the (height, width) of an image after :func:`shrink`."""
    scale = longest / max(height, width)
    if scale >= 1:
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized_bytes(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image, antialiased, and round it to uint8.

    Args:
        image: (3, H, W), floating point in [0, 1].
        size: (height, width) of the result.

    Returns:
        (3, height, width) uint8.
    """
    if image.shape[1:] != size:
        image = resize(image[None], size)[0]
    return image.mul(255).round_().clamp_(0, 255).byte()


def middle_square(frame: Tensor, size: int, name: str = "frame") -> Tensor:
    """Cut out the middle square and resize it, antialiased.

    Args:
        frame: (3, H, W) in [0, 1].
        size: height and width of the result, in pixels.
        name: of the argument, for error messages.

    Returns:
        (3, size, size) uint8.

    Raises:
        TypeError: the frame is not a floating-point tensor.
        ValueError: its shape is wrong, or the middle square has values outside [0, 1] or NaN.
    """
    check_float(frame, name)
    if frame.ndim != 3 or len(frame) != 3 or not frame.numel():
        raise ValueError(f"{name} must be (3, H, W), got shape {tuple(frame.shape)}")
    height, width = frame.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    part = frame[:, top : top + side, left : left + side]
    check_range(part[None], name)
    return resized_bytes(part, (size, size))
