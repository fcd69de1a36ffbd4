"""Pixels for an encoder, and the size and length of what it writes."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from flowwarp.io.video_encoder import Clock, Encoding, Timed, encode, to_pixels
from recordings import stated


def test_pixels_are_rounded_and_clamped():
    image = torch.tensor([-1.0, 0.5, 2.0, float("nan")])[:, None, None]
    assert to_pixels(image, "rgba").tolist() == [[[0, 128, 255, 0]]]
    assert to_pixels(image[:3], "rgba64le").tolist() == [[[0, 32768, 65535, 65535]]]
    assert to_pixels(image, "rgb48le").dtype == np.uint16


@pytest.mark.parametrize(
    ("encoding", "source", "block"),
    [
        (Encoding("libx264", "yuv420p"), "rgb24", (2, 2)),
        (Encoding("libx264", "yuv422p10le"), "rgb48le", (2, 1)),
        (Encoding("libx265", "yuv444p"), "rgb24", (1, 1)),
        (Encoding("ffv1", "yuva420p16le"), "rgba64le", (1, 1)),
        (Encoding("gif", "pal8"), "rgb24", (1, 1)),
        (Encoding("gif", "pal8", {"transparent": "1"}), "rgba", (1, 1)),
    ],
)
def test_layouts(encoding, source, block):
    assert (encoding.source, encoding.block) == (source, block)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_last_frame_has_its_duration(tmp_path, suffix):
    """Frames are decoded in another order than shown, so the last packet is not the last frame."""
    import av

    path = tmp_path / f"a{suffix}"
    starts = [0, 10, 25, 26, 60, 100, 110, 170]
    frames = (
        Timed(torch.full((3, 16, 16), index / 8), start, 30) for index, start in enumerate(starts)
    )
    encode(
        path, frames, (16, 16), Encoding("libx264", "yuv420p"), Clock(Fraction(100), Fraction(8))
    )
    with av.open(str(path)) as container:
        assert container.duration == pytest.approx(2_000_000, abs=10_000)
    assert stated(path)["times"] == [Fraction(start, 100) for start in starts]
