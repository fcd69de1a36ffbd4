"""Pictures: makers of valid ones, and checks of what a reader returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from flowwarp.io.images import ImageFormat, read_image_with_format, write_image
from flowwarp.io.video_writer import write_video


def check_image(path: Path) -> None:
    """Read a picture and check shape and range."""
    image, format = read_image_with_format(path)
    assert image.shape[0] == 3 + format.alpha
    check_range(image)


def check_range(image: torch.Tensor) -> None:
    """Check for float32 in [0, 1]."""
    assert image.dtype == torch.float32
    assert image.ndim == 3
    assert image.numel() > 0
    assert bool(((image >= 0) & (image <= 1)).all())


def make_image(extension: str, format: ImageFormat | None = None) -> Callable[[Path], None]:
    """Return a maker of a small valid picture."""

    def make(path: Path) -> None:
        image = torch.linspace(0, 1, 3 * 6 * 7).reshape(3, 6, 7)
        write_image(path.with_suffix(extension), image, format)

    return make


def make_gif(path: Path) -> None:
    """Make a small valid GIF."""
    write_video(path.with_suffix(".gif"), torch.rand(2, 3, 6, 7).unbind())
