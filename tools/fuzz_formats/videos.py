"""Videos: makers of valid ones, and checks of what a reader returns."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from flowwarp.io.video_reader import read_video
from flowwarp.io.video_salvage import salvage_video
from flowwarp.io.video_writer import write_video
from fuzz_formats.limits import arm
from fuzz_formats.pictures import check_range


def check_video(path: Path) -> None:
    """Read a video to its end and check shape and range of each frame."""
    for frame in read_video(path):
        arm()  # the limit is that of one frame
        assert frame.shape[0] == 3
        check_range(frame)


def check_salvage(path: Path) -> None:
    """Read a damaged video to its end, and check each frame that can be decoded."""
    for frame in salvage_video(path):
        arm()
        if frame is not None:
            check_range(frame)


def make_video(extension: str) -> Callable[[Path], None]:
    """Return a maker of a small valid video."""

    def make(path: Path) -> None:
        frames = torch.linspace(0, 1, 4 * 3 * 16 * 16).reshape(4, 3, 16, 16)
        write_video(path.with_suffix(extension), frames.unbind())

    return make


def make_film(extension: str) -> Callable[[Path], None]:
    """Return a maker of a small valid video of a kind that is only read."""

    def make(path: Path) -> None:
        with av.open(path.with_suffix(extension), "w") as container:
            stream: Any = container.add_stream("mpeg4", Fraction(25))
            stream.width = stream.height = 16
            stream.pix_fmt = "yuv420p"
            for level in range(4):
                pixels = np.full((16, 16, 3), 60 * level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode(None))

    return make
