"""Codecs and layouts that footage gets."""

import pytest

from flowwarp.io.footage import open_footage
from flowwarp.io.footage_writer import write_footage
from recordings import copy, psnr, record


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"],
)
def test_bits_and_chroma_are_kept(tmp_path, suffix, pix_fmt):
    record(tmp_path / "a.mkv", pix_fmt=pix_fmt)
    got = copy(tmp_path / "a.mkv", tmp_path / f"b{suffix}")
    assert (got["codec"], got["pix_fmt"]) == ("h264", pix_fmt)
    assert psnr(tmp_path / "a.mkv", tmp_path / f"b{suffix}") > 40


@pytest.mark.parametrize(
    ("suffix", "options", "words"),
    [
        (".mp4", {"codec": "ffv1"}, "a .mp4 file holds h264, h265, av1, vp9, not ffv1"),
        (".mp4", {"crf": 52}, "from 0 to 51, got 52"),
        (".mkv", {"codec": "ffv1", "crf": 3}, "ffv1 has no --crf"),
        (".gif", {"codec": "h264"}, "neither --codec nor --crf"),
        (".xyz", {}, "path must end in"),
    ],
)
def test_options_that_do_not_fit(tmp_path, suffix, options, words):
    record(tmp_path / "a.mkv")
    clip = open_footage(tmp_path / "a.mkv")
    with pytest.raises(ValueError, match=words.replace(".", "[.]")):
        write_footage(tmp_path / f"b{suffix}", clip.frames(), clip, **options)
    assert not (tmp_path / f"b{suffix}").exists()
