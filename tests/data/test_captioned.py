"""Captioned videos as clips: windows, the cache, and videos of no use."""

import pickle

import pytest
import torch

from captioned_videos import video
from flowwarp.errors import OutputError


def test_the_middle_square_is_kept(load, data):
    """Of 24x40 the columns 8 to 31 remain, 1.5 px of them a pixel of 16."""
    video(data / "a.mp4")
    (data / "a.txt").write_text("a bar\nthat moves")
    clip = load(data)[0]
    assert clip.caption == "a bar that moves"
    red = clip.video[:, 0].float().mean(1) / 255  # (T, 16)
    centre = (red * torch.arange(16)).sum(1) / red.sum(1)
    # Frame 1 has the bar at columns 8 to 15: pixels 0 to 5.33 here, whose middle is 2.17.
    assert centre[1].item() == pytest.approx(2.17, abs=0.15)
    assert (centre[2:] - centre[1:-1]).tolist() == pytest.approx([8 / 3] * 2, abs=0.15)


def test_two_captions_of_one_video(load, data):
    video(data / "a.mp4")
    (data / "captions.csv").write_text("file,caption\na.mp4,one\na.mp4,two\n")
    store = load(data, frames=6)
    assert [store[k].caption for k in range(2)] == ["one", "two"]


def test_a_second_call_reads_no_video(load, data, monkeypatch):
    video(data / "a.mp4")
    (data / "a.txt").write_text("a bar")
    first = load(data)
    monkeypatch.setattr("flowwarp.data.captioned.read_video", None)
    second = load(data)
    assert torch.equal(first[1].video, second[1].video)
    copy = pickle.loads(pickle.dumps(second))
    assert torch.equal(copy[1].video, second[1].video)
    assert copy[1].caption == "a bar"
    (data / "a.txt").write_text("another caption")
    with pytest.raises(TypeError):  # it must be made anew, which cannot be done now
        load(data)


def test_what_cannot_be_used_is_left_out(load, data, tmp_path):
    video(data / "good.mp4")
    video(data / "short.mp4", frames=3)
    (data / "broken.mp4").write_bytes(b"no video at all")
    rows = ["good.mp4,good", "short.mp4,short", "broken.mp4,broken", "missing.mp4,missing"]
    rows += ["good.mp4,", "good.mp4", "good.mp4,a\0b"]
    (data / "captions.csv").write_text("file,caption\n" + "\n".join(rows))
    store = load(data)
    assert {store[k].caption for k in range(len(store))} == {"good"}
    text = "\n".join(store.skipped)
    assert len(store.skipped) == 6
    for part in ("has 3 frames, not 4", "broken.mp4", "missing.mp4': no such file", "is empty"):
        assert part in text
    assert store[0].video.amax() > 200
    (frames,) = (tmp_path / "cache").rglob("frames.bin")
    assert frames.stat().st_size == 6 * 3 * 16 * 16


def test_frames_before_the_damage_are_used(load, data):
    path = video(data / "a.mkv", frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    (data / "a.txt").write_text("a bar")
    store = load(data)
    assert 3 < len(store) < 37
    assert "breaks off" in store.skipped[0]


def test_arguments(load, data):
    for name in ("size", "frames"):
        with pytest.raises(ValueError, match=f"^{name} must be a whole number"):
            load(data, **{name: 2.5})


def test_the_cache_is_bounded(load, data):
    video(data / "a.mp4")
    (data / "a.txt").write_text("a bar")
    with pytest.raises(OutputError, match="lower the size or raise max_bytes"):
        load(data, max_bytes=1000)
