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
    """Return :func:`middle_part` of a height and width of ``size``."""
    return middle_part(frame, (size, size), name)


def middle_part(frame: Tensor, size: tuple[int, int], name: str = "frame") -> Tensor:
    """Cut out the largest part in the middle of some aspect, and resize it, antialiased.

    Args:
        frame: (3, H, W) in [0, 1].
        size: (height, width) of the result, in pixels.
        name: of the argument, for error messages.

    Returns:
        (3, height, width) uint8.

    Raises:
        TypeError: the frame is not a floating-point tensor.
        ValueError: its shape is wrong, or the part has values outside [0, 1] or NaN.
    """
    check_float(frame, name)
    if frame.ndim != 3 or len(frame) != 3 or not frame.numel():
        raise ValueError(f"{name} must be (3, H, W), got shape {tuple(frame.shape)}")
    whole_height, whole_width = frame.shape[1:]
    height, width = cut_size(whole_height, whole_width, size)
    top, left = (whole_height - height) // 2, (whole_width - width) // 2
    part = frame[:, top : top + height, left : left + width]
    check_range(part[None], name)
    return resized_bytes(part, size)


def cut_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of the largest part of an image with the aspect of ``size``.

    >>> cut_size(480, 640, (64, 64)), cut_size(96, 96, (48, 80))
    ((480, 480), (58, 96))
    """
    scale = min(height / size[0], width / size[1])
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))
