"""Pictures of another size as bytes: what footage, captioned videos and photos are kept as."""

from __future__ import annotations

from torch import Tensor

from flowwarp.ops.filters import resize


def shrink(image: Tensor, longest: int) -> Tensor:
    """Make an image smaller until no side is longer than ``longest``; see :func:`resized_bytes`."""
    height, width = image.shape[1:]
    return resized_bytes(image, shrunk_size(height, width, longest))


def shrunk_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Return the (height, width) that :func:`shrink` gives an image."""
    scale = longest / max(height, width)
    if scale >= 1:
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized_bytes(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image, antialiased, and round it to bytes.

    Args:
        image: (3, H, W), floating point in [0, 1].
        size: (height, width) of the result.

    Returns:
        (3, height, width) uint8.
    """
    if image.shape[1:] != size:
        image = resize(image[None], size)[0]
    return image.mul(255).round_().clamp_(0, 255).byte()
