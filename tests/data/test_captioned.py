"""Captioned videos as clips: windows, the cache, and videos of no use."""

import pickle

import pytest
import torch

from captioned_videos import video
from flowwarp.errors import InputError, OutputError
from flowwarp.io.images import write_image


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


@pytest.mark.parametrize("size", [(12, 20), (20, 12)])
def test_frames_that_are_not_square(load, data, size):
    """Of 24x40 all is kept at 12x20; of 20x12 the middle 14 columns: 14/12 px a pixel."""
    video(data / "a.mp4")
    (data / "a.txt").write_text("a bar")
    clip = load(data, size)[0]
    assert clip.video.shape == (4, 3, *size)
    assert clip.flow_12.shape == (3, 2, *size)
    red = clip.video[:, 0].float().mean(1) / 255  # (T, W)
    centre = (red * torch.arange(size[1])).sum(1) / red.sum(1)
    # Frame 2 has the bar at columns 12 to 19, whose middle is 16 from the left edge.
    wanted = 16 / 2 - 0.5 if size[1] == 20 else None
    if wanted:
        assert centre[2].item() == pytest.approx(wanted, abs=0.15)
        assert (centre[2:] - centre[1:-1]).tolist() == pytest.approx([2] * 2, abs=0.1)
    else:
        assert red[2, :6].mean() > 5 * red[2, 7:].mean()  # columns 13 to 19 of 13 to 26


def test_every_third_frame(load, data, tmp_path):
    """Of ten frames numbers 0, 3, 6 and 9 are stored."""
    video(data / "a.mkv", frames=10, size=(24, 64))
    (data / "a.txt").write_text("a bar")
    every, third = load(data, (24, 64), frames=10)[0], load(data, (24, 64), step=3)
    assert len(third) == 1
    assert torch.equal(third[0].video, every.video[::3])
    assert sorted(path.stat().st_size for path in tmp_path.rglob("frames.bin")) == [
        frames * 3 * 24 * 64 for frames in (4, 10)
    ]
    with pytest.raises(InputError, match="has 4 frames at a step of 3, not 5"):
        load(data, (24, 64), frames=5, step=3)


def test_the_cache_knows_its_layout(load, data):
    video(data / "a.mp4", frames=9)
    (data / "a.txt").write_text("a bar")
    (data / "names.csv").write_text("file,caption\na.mp4,a name\n")
    layouts = [{}, {"size": (16, 24)}, {"size": (24, 16)}, {"step": 2}, {"frames": 3}]
    layouts += [{"captions": "none"}, {"captions": data / "names.csv"}]
    assert len({load(data, **layout).key for layout in layouts}) == len(layouts)
    assert load(data, size=(16, 16)).key == load(data).key


def test_the_cache_follows_the_frames_of_a_folder(load, data):
    (data / "a").mkdir()
    for number in range(4):
        write_image(data / f"a/{number}.png", torch.zeros(3, 8, 8))
    (data / "a.txt").write_text("black")
    keys = {load(data).key}
    write_image(data / "a/2.png", torch.rand(3, 8, 8))
    store = load(data)
    assert store.key not in keys
    assert store[0].video[2].amax() > 100


def test_arguments(load, data):
    with pytest.raises(ValueError, match=r"^size must be a whole number"):
        load(data, (16, 0))
    for name in ("size", "frames", "step"):
        with pytest.raises(ValueError, match=f"^{name} must be a whole number"):
            load(data, **{name: 2.5})


def test_the_cache_is_bounded(load, data):
    video(data / "a.mp4")
    (data / "a.txt").write_text("a bar")
    with pytest.raises(OutputError, match="lower the size or raise max_bytes"):
        load(data, max_bytes=1000)
