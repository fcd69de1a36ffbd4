"""Footage written again, compared with ffmpeg's own reading of the result."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from flowwarp.io.footage import open_footage
from flowwarp.io.footage_writer import Timing, write_footage
from recordings import UNEVEN, copy, picture, psnr, record, stated
from videos import save_animation


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp", ".apng"])
def test_uneven_times_are_kept(tmp_path, suffix):
    record(tmp_path / "a.mkv", times=UNEVEN)
    clip = open_footage(tmp_path / "a.mkv")
    write_footage(tmp_path / f"b{suffix}", clip.frames(), clip)
    again = open_footage(tmp_path / f"b{suffix}")
    assert len(list(again.frames())) == 6
    step = 5 if suffix == ".gif" else 1  # ms
    got = [float(1000 * again.start_of(number)) for number in range(6)]
    assert got == pytest.approx(UNEVEN, abs=step)
    assert 1000 * again.last_seconds == pytest.approx(100, abs=step)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_a_copy_is_visually_lossless(tmp_path, suffix):
    record(tmp_path / "a.mp4")
    copy(tmp_path / "a.mp4", tmp_path / f"b{suffix}")
    assert psnr(tmp_path / "a.mp4", tmp_path / f"b{suffix}") > 40


@pytest.mark.parametrize(
    "tags",
    [
        {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1},
        {"colorspace": 6, "color_primaries": 6, "color_trc": 6, "color_range": 1},
        {"colorspace": 9, "color_primaries": 9, "color_trc": 16, "color_range": 1},
        {},
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_colour_tags_are_kept(tmp_path, caplog, suffix, tags):
    record(tmp_path / "a.mkv", pix_fmt="yuv420p10le", tags=tags)
    before = stated(tmp_path / "a.mkv")["tags"]
    assert copy(tmp_path / "a.mkv", tmp_path / f"b{suffix}")["tags"] == before
    assert psnr(tmp_path / "a.mkv", tmp_path / f"b{suffix}") > 45
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("source", "codec", "pix_fmt", "suffix"),
    [
        (".webm", "libvpx-vp9", "yuva420p", ".webm"),
        (".mov", "prores_ks", "yuva444p10le", ".mov"),
        (".mkv", "ffv1", "bgra", ".mkv"),
        (".apng", "apng", "rgba", ".apng"),
        (".apng", "apng", "rgba", ".webp"),
        (".apng", "apng", "rgba", ".mov"),
        (".apng", "apng", "rgba", ".webm"),
        (".mov", "qtrle", "argb", ".mkv"),
        (".mkv", "ffv1", "yuva444p16le", ".mkv"),
    ],
)
def test_transparency_is_kept(tmp_path, source, codec, pix_fmt, suffix):
    record(tmp_path / f"a{source}", codec=codec, pix_fmt=pix_fmt, options={})
    clip = open_footage(tmp_path / f"a{source}")
    assert clip.layout.alpha
    frames = list(clip.frames())
    wanted = picture(2, alpha=True)[..., 3] / 255
    assert np.abs(frames[2][3].numpy() - wanted).mean() < 0.02
    write_footage(tmp_path / f"b{suffix}", clip.frames(), clip)
    again = open_footage(tmp_path / f"b{suffix}")
    assert again.layout.alpha
    for one, other in zip(frames, again.frames(), strict=True):
        assert (one[3] - other[3]).abs().mean() < 0.01
        opaque = one[3] > 0.9
        assert (one[:3] - other[:3]).abs()[:, opaque].mean() < 0.02


def test_transparency_of_a_gif_is_kept(tmp_path):
    arrays = [
        np.dstack([np.full((8, 8, 3), 200, np.uint8), 255 * (np.indices((8, 8))[1] > k)]).astype(
            np.uint8
        )
        for k in range(3)
    ]
    save_animation(tmp_path / "a.webp", arrays, 100)
    copy(tmp_path / "a.webp", tmp_path / "b.gif")
    for array, frame in zip(arrays, open_footage(tmp_path / "b.gif").frames(), strict=True):
        assert torch.equal(frame[3] * 255, torch.from_numpy(array[..., 3]).float())


@pytest.mark.parametrize("suffix", [".webp", ".apng"])
def test_animated_pictures_lose_nothing(tmp_path, suffix):
    record(tmp_path / "a.apng", codec="apng", pix_fmt="rgba", options={})
    copy(tmp_path / "a.apng", tmp_path / f"b{suffix}") if suffix != ".webp" else write(
        tmp_path, suffix
    )
    for one, other in zip(
        open_footage(tmp_path / "a.apng").frames(),
        open_footage(tmp_path / f"b{suffix}").frames(),
        strict=True,
    ):
        assert torch.equal(one, other)


def write(folder, suffix):
    clip = open_footage(folder / "a.apng")
    write_footage(folder / f"b{suffix}", clip.frames(), clip)


def test_times_of_inserted_frames(tmp_path):
    record(tmp_path / "a.mkv", times=UNEVEN)
    clip = open_footage(tmp_path / "a.mkv")
    list(clip.frames())
    twice, slow = Timing(times=2), Timing(times=4, stretch=Fraction(4))
    got = [1000 * twice.start_of(clip, number) for number in range(11)]
    assert got == [0, 20, 40, 120, 200, 216.5, 233, 466.5, 700, 850, 1000]
    assert [1000 * slow.start_of(clip, number) for number in (0, 1, 4, 6)] == [0, 40, 160, 480]
    assert Timing(times=2, fps=Fraction(25)).start_of(clip, 3) == Fraction(3, 25)
    with pytest.raises(IndexError, match="frame 6"):
        clip.start_of(6)


def test_what_is_lost_is_said_once(tmp_path, caplog):
    record(tmp_path / "a.mkv", pix_fmt="yuv422p10le", sound="aac", aspect=2)
    clip = open_footage(tmp_path / "a.mkv")
    write_footage(tmp_path / "b.webm", clip.frames(), clip, codec="av1")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'b.webm'}: is written in 4:2:0, the video is 4:2:2"
    ]
    caplog.clear()
    write_footage(tmp_path / "b.gif", clip.frames(), clip)
    assert [record.getMessage().partition(": ")[2][:30] for record in caplog.records] == [
        "is written with 8 of 10 bits",
        "will have square pixels, those",
        "has no sound, which this file ",
    ]
