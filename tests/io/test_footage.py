"""Footage as it is read."""

import numpy as np
import pytest

from flowwarp.errors import InputError
from flowwarp.io.footage import open_footage
from flowwarp.io.video_reader import read_video
from recordings import copy, picture, record
from videos import save_animation


def test_ten_bits_are_read_in_full(tmp_path):
    record(tmp_path / "a.mkv", codec="ffv1", pix_fmt="gbrp10le", options={})
    (frame, *_) = read_video(tmp_path / "a.mkv")
    wanted = picture(0, deep=True).astype(np.float32) / 65535
    assert np.abs(frame.permute(1, 2, 0).numpy() - wanted).max() < 1 / 1023


def test_an_opaque_gif_has_no_alpha(tmp_path):
    save_animation(tmp_path / "a.gif", [picture(0), picture(1)], 100)
    assert not open_footage(tmp_path / "a.gif").layout.alpha


def test_a_broken_file_is_an_error_of_one_line(tmp_path):
    record(tmp_path / "a.mkv", sound="aac")
    data = (tmp_path / "a.mkv").read_bytes()
    for name, content in (("empty", b""), ("text", b"hello" * 99), ("cut", data[: len(data) // 3])):
        path = tmp_path / f"{name}.mkv"
        path.write_bytes(content)
        with pytest.raises(InputError) as fault:
            copy(path, tmp_path / "b.mp4")
        assert "\n" not in str(fault.value)
    assert not (tmp_path / "b.mp4").exists()
