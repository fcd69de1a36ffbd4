"""Surveys of own clips: figures by hand, broken videos, and the table."""

import dataclasses
import json
import struct

import pytest
import torch

from captioned_videos import pack, video
from flowwarp.data.captioned_survey import (
    MIN_CAPTIONS,
    MIN_CLIPS,
    FileSurvey,
    Spread,
    Survey,
    format_survey,
    survey,
)
from flowwarp.data.clip_layout import ClipLayout
from flowwarp.errors import InputError
from flowwarp.io.images import write_image
from flowwarp.io.video_writer import write_video


def caption(path, text):
    path.with_suffix(".txt").write_text(text)


def test_figures(data):
    """Videos of 24x40: 6 frames at 25 a second (0.24 s), and 12 at 5 (2.4 s)."""
    caption(video(data / "a.mp4"), "A red bar, a bar")
    picture = torch.zeros(3, 24, 40)
    write_video(data / "b.gif", [picture, picture + 1] * 6, 5)
    caption(data / "b.gif", "a white flash")
    calls = []
    found = survey(data, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(1, 2), (2, 2)]
    assert found.layout == ClipLayout((48, 80), (48, 80), 4, 1, 15)
    files = found.files
    assert (files.videos, files.clips, files.captions) == (2, 4, 2)  # 6 // 4 + 12 // 4
    assert files.sizes == (("40x24", 2),)
    assert files.frames == Spread(6, 9, 12)
    assert files.seconds == Spread(pytest.approx(0.24), pytest.approx(1.32), pytest.approx(2.4))
    assert files.fps == Spread(5, 15, 25)
    assert files.words == (("a", 2), ("bar", 1), ("flash", 1), ("red", 1), ("white", 1))
    assert files.rare == ("a", "bar", "flash", "red", "white")
    assert files.cut == files.skipped == ()
    assert not found.enough


def test_what_is_cut(data):
    """Two squares of three: of the wide video 24 of 40 columns are kept."""
    for name in ("a", "b"):
        caption(video(data / f"{name}.mkv", 46, (40, 40), seed=ord(name)), "a bar")
    caption(video(data / "c.mkv", 46, (24, 40)), "a bar")
    caption(video(data / "d.mkv", 9, (24, 40)), "short")
    found = survey(data)
    assert (found.layout.base, found.layout.step, found.layout.frames) == ((64, 64), 1, 8)
    assert found.files.cut == ("edges: 20% of the area of frames, 40% at most",)
    (data / "d.mkv").unlink()
    for number in range(7):
        caption(video(data / f"e{number}.mkv", 46, (40, 40), seed=number), f"bar {number}")
    caption(video(data / "f.mkv", 9, (40, 40)), "short")
    found = survey(data)
    assert (found.layout.step, found.layout.frames) == (3, 16)
    assert found.files.cut[1:] == (
        "frames: 1 of 3 is used, 8.33 a second",
        "1 of 11 videos: shorter than 16 frames",
    )
    assert "short" not in dict(found.files.words)
    assert found.files.videos == 10


def test_hostile_files_have_a_line_each(data, film):
    (data / "good.mp4").write_bytes(film)
    caption(data / "good.mp4", "good")
    (data / "empty.mp4").touch()
    (data / "zeros.mp4").write_bytes(bytes(5000))
    (data / "again.mp4").write_bytes(film)
    (data / "head.mp4").write_bytes(film[:200])
    (data / "huge.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0))
    (data / "frames").mkdir()
    (data / "frames/1.png").write_bytes(b"no picture")
    (data / "frames/caption.txt").write_text("frames")
    for name in ("empty.mp4", "zeros.mp4", "again.mp4", "head.mp4", "huge.gif"):
        caption(data / name, "good")
    (data / "mute.mp4").write_bytes(film)
    (data / "captions.csv").write_text("file,caption\n../out.mp4,out\nnone.mp4,none\n")
    pack(data / "z.tar", [("x.mp4", b"broken"), ("x.txt", b"packed")])
    found = survey(data)
    assert (found.files.videos, found.files.captions) == (1, 1)
    text = "\n".join(found.files.skipped)
    for part in (
        "../out.mp4' does not lie in",
        "none.mp4': no such file",
        "mute.mp4: has no caption",
        "empty.mp4: is empty",
        "zeros.mp4: is not a video",
        "good.mp4: is the same as",
        "head.mp4: contains no video",
        "huge.gif: ",
        "frames/1.png: ",
        "z.tar:x.mp4: is not a video",
    ):
        assert text.count(part) == 1, part
    assert len(found.files.skipped) == 10


def test_nothing_of_use(data):
    with pytest.raises(InputError, match="holds no captioned video"):
        survey(data)
    (data / "a.mp4").write_bytes(b"no video")
    caption(data / "a.mp4", "broken")
    with pytest.raises(InputError, match=r"no video is of use; the first fault: .*a\.mp4: is not"):
        survey(data)
    caption(video(data / "a.mp4", frames=3), "short")
    with pytest.raises(InputError, match="no video is of use; none has 4 frames"):
        survey(data)


def test_two_captions_of_one_video(data):
    video(data / "a.mp4")
    (data / "captions.csv").write_text("file,caption\na.mp4,one\na.mp4,two\n")
    files = survey(data).files
    assert (files.videos, files.captions) == (1, 2)


def test_without_captions(data):
    """Clips are counted in place of videos: 4 * 50 frames of one video are enough."""
    video(data / "a.mkv", frames=10)
    found = survey(data, captions="none")
    assert (found.files.captions, found.files.words) == (0, ())
    assert found.files.lacking == (f"1 clips, where at least {MIN_CLIPS} are advised",)
    (data / "a").mkdir()  # beside a video of its name: no clip
    write_image(data / "a/0.png", torch.zeros(3, 8, 8))
    write_video(data / "a.mkv", [torch.zeros(3, 24, 40)] * (16 * MIN_CLIPS), 8)
    found = survey(data, captions="none")
    assert found.files.clips == MIN_CLIPS
    assert found.files.videos == 1
    assert found.enough


def test_a_table_elsewhere(data, tmp_path):
    video(data / "a.mp4")
    (tmp_path / "names.jsonl").write_text(json.dumps({"file": "a.mp4", "prompt": "a name"}))
    words = survey(data, captions=tmp_path / "names.jsonl").files.words
    assert words == (("a", 1), ("name", 1))


@pytest.fixture
def many(data):
    """Return a folder of links to as many videos of 4 frames as are enough."""
    frame = torch.zeros(3, 8, 8)
    for number in range(MIN_CLIPS):
        write_video(data / f"{number}.gif", [frame, frame + number / 255] * 2 + [frame], 8)
    return data


@pytest.mark.parametrize(("rare", "enough"), [(0, True), (5, True), (12, False)])
def test_enough(many, rare, enough):
    """Each caption has two common words; up to a tenth of all words may be rare."""
    for number in range(MIN_CLIPS):
        word = "abcdefghijklm"[number] * 3 if number < rare else ""
        (many / f"{number}.txt").write_text(f"one two {word}")
    found = survey(many)
    assert len(found.files.rare) == rare
    assert found.enough is enough
    if not enough:
        (lacking,) = found.files.lacking
        assert lacking.endswith("here 12 of 14 words are rarer")


def test_the_words_of_five_captions_are_not_rare():
    words = (("a", MIN_CAPTIONS), ("b", MIN_CAPTIONS - 1))
    assert files_of(words=words).rare == ("b",)


def test_worlds_need_no_files():
    for name in ("sprites", "digits"):
        found = survey(name)
        assert found.layout == ClipLayout((64, 64), (128, 128), 16, 1, 12)
        assert found.enough
        assert format_survey(found).splitlines() == [
            f"source      {name}",
            "clips       made as they are needed, without end",
            "trained on  16 frames at 12 a second (1.3 s), 64x64, enlarged to 128x128",
        ]


def files_of(**changes):
    """Return a survey of files with some changes."""
    files = FileSurvey(
        videos=400,
        clips=800,
        captions=401,
        sizes=(("96x96", 399), ("40x24", 1)),
        frames=Spread(16, 32, 48),
        seconds=Spread(2, 4, 6),
        fps=Spread(8, 8, 8),
        words=(("red", 300), ("blue", 100), ("odd", 1)),
        cut=("edges: some",),
        skipped=("a: is empty",),
        lacking=(),
    )
    return dataclasses.replace(files, **changes)


LAYOUT = ClipLayout((64, 64), (64, 64), 16, 1, 8)


def test_table():
    assert format_survey(Survey("clips", LAYOUT, files_of())).splitlines() == [
        "source      clips",
        "videos      400, with 401 captions; 800 clips that share no frame",
        "sizes       96x96 (399), 40x24 (1)",
        "length      16 to 48 (median 32) frames, 2 to 6 (median 4) s",
        "rate        8 frames a second",
        "words       3: red 300, blue 100",
        "rare words  in fewer than 5 captions: odd",
        "cut         edges: some",
        "skipped     a: is empty",
        "enough      yes, by rules of thumb",
        "trained on  16 frames at 8 a second (2 s), 64x64",
    ]


def test_a_long_table_is_cut_and_printable():
    many = tuple((f"word{number}", 9) for number in range(30))
    files = files_of(
        words=many,
        skipped=tuple(f"\x1b[2J{number}" for number in range(25)),
        lacking=("this", "that"),
        fps=Spread(10, 12, 30),
        captions=0,
    )
    lines = format_survey(Survey("clips\n", LAYOUT, files)).splitlines()
    assert len(lines) == 32
    assert all(line.isprintable() for line in lines)
    assert lines[1] == "videos      400, with no captions; 800 clips that share no frame"
    assert lines[5].startswith("            they differ")
    assert lines[6].endswith("word19 9 and 10 more")
    assert lines[8].startswith("skipped     \N{REPLACEMENT CHARACTER}[2J0")
    assert lines[9].startswith("            ")
    assert lines[29:31] == ["too few     this", "            that"]
