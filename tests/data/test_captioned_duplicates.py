"""Videos of the same bytes are found and used once."""

import pytest

from captioned_videos import pack
from flowwarp.data.captioned_duplicates import drop_duplicates
from flowwarp.data.captioned_files import list_captioned
from flowwarp.data.captioned_tar import CaptionedVideo


def listed(data, skipped=None):
    """Return (name, caption, name of the original) of each video of a folder."""
    videos = list_captioned(data, [] if skipped is None else skipped)
    root = f"{data}/"
    return [
        (video.name.removeprefix(root), video.caption, video.original.removeprefix(root))
        for video in videos
    ]


def test_the_same_row_twice(data):
    (data / "a.mp4").write_bytes(b"film")
    rows = ["a.mp4,one", "a.mp4,two", "a.mp4,one", "./a.mp4,one"]
    (data / "captions.csv").write_text("file,caption\n" + "\n".join(rows))
    skipped = []
    assert listed(data, skipped) == [("a.mp4", "one", ""), ("a.mp4", "two", "a.mp4")]
    assert skipped == [f"{data / 'a.mp4'}: is listed twice; it is used once"] * 2


def test_the_same_bytes_in_files_folders_and_tar(data):
    """The first is kept; with another caption the bytes are one video under two captions."""
    for name, content in (("a", b"film"), ("b", b"film"), ("c", b"film"), ("d", b"FILM")):
        (data / f"{name}.mp4").write_bytes(content)
        (data / f"{name}.txt").write_text("other" if name == "c" else "same")
    for name, end in (("w", b"lm"), ("x", b"lm"), ("y", b"lM")):
        (data / name).mkdir()
        (data / name / "1.png").write_bytes(b"fi")
        (data / name / f"2{name}.png").write_bytes(end)
        (data / name / "caption.txt").write_text("frames")
    pack(data / "z.tar", [("e.mp4", b"film"), ("e.txt", b"same")])
    skipped = []
    kept = [("a.mp4", "same", ""), ("c.mp4", "other", "a.mp4"), ("d.mp4", "same", "")]
    assert listed(data, skipped) == [*kept, ("w", "frames", ""), ("y", "frames", "")]
    again = {"b.mp4": "a.mp4", "x": "w", "z.tar:e.mp4": "a.mp4"}
    assert skipped == [
        f"{data}/{name}: is the same as {data}/{first}; it is used once"
        for name, first in again.items()
    ]


def test_files_that_begin_alike_differ(data):
    for name in ("a", "b"):
        (data / f"{name}.mp4").write_bytes(bytes(70_000) + name.encode())
        (data / f"{name}.txt").write_text("same")
    assert len(listed(data)) == 2


@pytest.mark.parametrize("content", [b"", None])
def test_what_cannot_be_read_is_no_duplicate(data, content):
    """It is reported when it is decoded."""
    videos = [CaptionedVideo(data / name, "") for name in ("a.mp4", "b.mp4")]
    for video in videos:
        if content is not None:
            video.file.write_bytes(content)
    skipped = []
    assert drop_duplicates(videos, skipped) == videos
    assert skipped == []
