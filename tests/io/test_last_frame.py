"""For how long the last frame of an animated picture is shown."""

from fractions import Fraction

import pytest
import torch
from PIL import Image, ImageSequence

from flowwarp.io._last_frame import hold_last_frame
from flowwarp.io.video_writer import write_video
from recordings import record


@pytest.mark.parametrize("seconds", [Fraction(1, 4), Fraction(7), Fraction(70_000)])
@pytest.mark.parametrize("suffix", [".webp", ".apng"])
def test_last_frame_is_held(tmp_path, suffix, seconds):
    path = tmp_path / f"a{suffix}"
    if suffix == ".webp":
        write_video(path, [torch.full((3, 8, 8), index / 4) for index in range(3)], 10)
    else:
        record(path, codec="apng", pix_fmt="rgba", times=(0, 100, 200), options={})
    hold_last_frame(path, seconds)
    with Image.open(path) as picture:  # checks the checksum of a PNG, too
        shown = []
        for frame in ImageSequence.Iterator(picture):
            frame.load()
            shown.append(frame.info["duration"])
    largest = 2**24 - 1 if suffix == ".webp" else 65_535_000
    assert shown == pytest.approx([100, 100, min(1000 * float(seconds), largest)])


def test_other_files_stay_as_they_are(tmp_path):
    record(tmp_path / "a.mp4")
    before = (tmp_path / "a.mp4").read_bytes()
    hold_last_frame(tmp_path / "a.mp4", Fraction(1))
    assert (tmp_path / "a.mp4").read_bytes() == before
