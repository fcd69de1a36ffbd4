"""Which files are found as footage."""

import sys

import pytest

from flowwarp.data.footage import find_footage
from flowwarp.errors import InputError
from flowwarp.io.images import write_image
from flowwarp.io.video_writer import write_video
from footage_frames import frame


def test_an_animated_webp_is_a_video_and_a_still_one_a_picture(tmp_path):
    (tmp_path / "still").mkdir()
    for name in ("a.webp", "b.webp"):
        write_video(tmp_path / name, [frame(0), frame(3)])
        write_image(tmp_path / f"still/{name}", frame(0))
    for sources in ([tmp_path / "a.webp", tmp_path / "b.webp"], [tmp_path]):
        found = [(clip.kind, [file.name for file in clip.files]) for clip in find_footage(sources)]
        assert found[:2] == [("video", ["a.webp"]), ("video", ["b.webp"])]
        assert found[2:] == [("frames", ["a.webp", "b.webp"])] * (sources == [tmp_path])
    (alone,) = find_footage([tmp_path / "still/a.webp"])
    assert alone.kind == "frames"


def test_a_picture_mistyped_is_said_at_once(tmp_path):
    (tmp_path / "a.png").write_bytes(b"?")
    with pytest.raises(InputError, match=r"b\.png"):
        list(find_footage([tmp_path / "a.png", tmp_path / "b.png"]))


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        ("linux", ["c:ab.png", r"other one\c.png"]),
        ("win32", [r"c:\a\b.png", r"other one\c.png"]),
    ],
)
def test_backslashes_in_a_list_of_pairs(tmp_path, monkeypatch, platform, names):
    """On Windows they part folders, elsewhere they quote as in a shell."""
    monkeypatch.setattr(sys, "platform", platform)
    (tmp_path / "pairs.txt").write_text('# two\nc:\\a\\b.png "other one\\c.png"  # one\n')
    (pair,) = find_footage([tmp_path / "pairs.txt"])
    assert pair.files == tuple(tmp_path / name for name in names)
