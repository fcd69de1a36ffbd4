from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from flowwarp.errors import InputError, OutputError
from flowwarp.io import video_reader, video_writer
from flowwarp.io.video_info import VideoInfo, video_info
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from videos import NO_THREAD, clip, play_time, without_threads


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(
    ("extension", "tolerance"), [(".mp4", 3), (".mov", 3), (".mkv", 3), (".webp", 3), (".gif", 9)]
)
@pytest.mark.parametrize("size", [(32, 48), (31, 47)])
def test_round_trip(tmp_path, extension, tolerance, size):
    frames = clip(6, *size)
    path = tmp_path / f"a{extension}"
    assert write_video(path, iter(frames), 10) == 6
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    info, got = video_info(path), list(read_video(path))
    assert info.fps == 10
    assert len(got) == 6
    height, width = got[0].shape[1:]
    assert (info.height, info.width) == (height, width)
    # H.264 as every player takes it has even sizes.
    even = (32, 48) if extension in (".mp4", ".mov", ".mkv") else size
    assert (height, width) == even
    for mine, theirs in zip(frames, got, strict=True):
        assert theirs.dtype == torch.float32
        cut = theirs[:, : size[0], : size[1]]
        assert (cut - mine).abs().mean() * 255 < tolerance


def test_an_odd_size_is_made_even_by_the_last_row_and_column(tmp_path):
    write_video(tmp_path / "a.mp4", [torch.full((3, 15, 15), 0.8)])
    (got,) = read_video(tmp_path / "a.mp4")
    assert got.shape == (3, 16, 16)
    assert got[:, -1].min() > 0.7
    assert got[:, :, -1].min() > 0.7


def test_mp4_plays_everywhere(tmp_path):
    write_video(tmp_path / "a.mp4", clip())
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_range) == (1, 1)  # BT.709, limited
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")  # starts before it is loaded whole


@pytest.mark.parametrize("colour", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.2, 0.5, 0.9), (1, 1, 1)])
@pytest.mark.parametrize("extension", [".mp4", ".gif", ".webp"])
def test_colours_round_trip(tmp_path, colour, extension):
    frame = torch.tensor(colour, dtype=torch.float32)[:, None, None].expand(3, 16, 16)
    write_video(tmp_path / f"a{extension}", [frame])
    (got,) = read_video(tmp_path / f"a{extension}")
    assert (got - frame).abs().max() * 255 <= 3.5


@pytest.mark.parametrize("extension", [".mp4", ".mov", ".mkv"])
def test_rewriting_a_video_does_not_darken_it(tmp_path, extension):
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(3, 8, 12, generator=generator)
    frame = colours.repeat_interleave(16, 1).repeat_interleave(16, 2)
    got = frame
    for number in range(3):
        write_video(tmp_path / f"{number}{extension}", [got])
        (got,) = read_video(tmp_path / f"{number}{extension}")
    assert ((got - frame).mean((1, 2)) * 255).abs().max() < 0.5


@pytest.mark.parametrize("colour", [0, 1, 2])
def test_chroma_is_not_shifted(tmp_path, colour):
    """Chroma of H.264 has half the size, and its position relative to luma is a convention."""
    x, y = torch.arange(64.0), torch.arange(48.0)[:, None]
    frame = torch.zeros(3, 48, 64)
    frame[colour] = torch.exp(-((x - 30.3).square() + (y - 20.6).square()) / 32)
    write_video(tmp_path / "a.mp4", [frame])
    (got,) = read_video(tmp_path / "a.mp4")
    spot = got[colour] * (frame[colour] > 0.1)
    assert (spot * x).sum() / spot.sum() == pytest.approx(30.3, abs=0.08)
    assert (spot * y).sum() / spot.sum() == pytest.approx(20.6, abs=0.08)
    if colour == 0:  # players take what two pixels share for the left one's
        with av.open(str(tmp_path / "a.mp4")) as container:
            planes = next(container.decode(video=0)).to_ndarray()
        red = (planes[60:].reshape(24, 32) - 128.0).clip(0)  # V, after luma and U
        assert 2 * (red.sum(0) * np.arange(32)).sum() / red.sum() == pytest.approx(30.3, abs=0.1)


@pytest.mark.parametrize("extension", [".gif", ".webp"])
def test_animated_pictures_repeat_forever(tmp_path, extension):
    write_video(tmp_path / f"a{extension}", clip(4))
    with Image.open(tmp_path / f"a{extension}") as picture:
        assert picture.info["loop"] == 0


@pytest.mark.parametrize("extension", [".mp4", ".gif", ".webp", ""])
def test_one_pixel(tmp_path, extension):
    write_video(tmp_path / f"a{extension}", [torch.ones(3, 1, 1)])
    (frame,) = read_video(tmp_path / f"a{extension}")
    assert frame[:, 0, 0].round().tolist() == [1, 1, 1]


@pytest.mark.parametrize("extension", [".gif", ".webp", ""])
def test_pixels_are_square_in_formats_without_an_aspect(tmp_path, extension):
    write_video(tmp_path / f"a{extension}", clip(2), pixel_aspect=2)
    assert video_info(tmp_path / f"a{extension}").pixel_aspect == 1


def test_folder_of_pictures(tmp_path):
    frames = clip(3)
    assert write_video(tmp_path / "out", frames) == 3
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["000000.png", "000001.png", "000002.png"]
    for mine, theirs in zip(frames, read_video(tmp_path / "out"), strict=True):
        assert (mine - theirs).abs().max() <= 0.501 / 255
    assert video_info(tmp_path / "out") == VideoInfo(48, 32, Fraction(25), 3)
    with pytest.raises(OutputError, match="not an empty folder"):
        write_video(tmp_path / "out", frames)


def test_a_thread_that_cannot_be_started_is_its_own_error(tmp_path, monkeypatch):
    frames = [torch.zeros(3, 16, 16)] * 2
    write_video(tmp_path / "a.mp4", frames)
    monkeypatch.setattr(video_writer, "encode", without_threads)
    monkeypatch.setattr(video_reader, "_decode_packets", lambda *_: map(without_threads, [0]))
    with pytest.raises(InputError, match=NO_THREAD):
        write_video(tmp_path / "b.mp4", frames)
    with pytest.raises(InputError, match=NO_THREAD):
        list(read_video(tmp_path / "a.mp4"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("extension", [".mp4", ".gif", ".webp", ""])
@pytest.mark.parametrize("fault", [InputError("src", "broken"), KeyboardInterrupt()])
def test_nothing_is_left_when_the_frames_break_off(tmp_path, extension, fault):
    def frames():
        yield from clip(3)
        raise fault

    with pytest.raises(type(fault)):
        write_video(tmp_path / f"a{extension}", frames())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extension", [".mp4", ""])
@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "must not be empty"),
        ([torch.zeros(1, 4, 4)], r"frame 1 must be \(3, H, W\)"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)], r"frame 2 must be \(3, 4, 4\)"),
    ],
)
def test_write_checks_its_frames(tmp_path, extension, frames, words):
    with pytest.raises(ValueError, match=words):
        write_video(tmp_path / f"a{extension}", frames)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extension", [".mp4", ".gif", ".webp"])
def test_colours_out_of_range_are_clamped(tmp_path, extension):
    colour = torch.tensor([1.2, -0.2, 0.5]).view(3, 1, 1).expand(3, 16, 16)
    write_video(tmp_path / f"a{extension}", [colour])
    (got,) = read_video(tmp_path / f"a{extension}")
    assert (got[:, 8, 8] - torch.tensor([1.0, 0.0, 0.5])).abs().max() < 0.03


@pytest.mark.parametrize("extension", [".mp4", ".gif", ".webp", ""])
@pytest.mark.parametrize(
    ("frame", "got"),
    [
        (torch.full((3, 4, 4), 60, dtype=torch.uint8), "torch.uint8"),
        (torch.ones(3, 4, 4, dtype=torch.int64), "torch.int64"),
        (np.zeros((3, 4, 4), np.float32), "ndarray"),
    ],
)
def test_write_accepts_floating_point_frames_only(tmp_path, extension, frame, got):
    """Integers are mostly meant as 0 to 255, and would be clamped to black and white."""
    with pytest.raises(TypeError, match=f"frame 2 must be a floating-point.*, got {got}"):
        write_video(tmp_path / f"a{extension}", [torch.zeros(3, 4, 4), frame])
    assert not list(tmp_path.iterdir())


def test_a_gif_counts_hundredths_of_a_second(tmp_path):
    for fps in (1 / 656, 51, 1000):  # of 51 some frames would be shown for a tenth of a second
        with pytest.raises(ValueError, match=f"a GIF plays from 1/655 to 50 .*, not {fps:g}"):
            write_video(tmp_path / "a.GIF", clip(2), fps)
    assert not list(tmp_path.iterdir())
    for fps, each in ((50, 20), (Fraction(1, 655), 655_000)):
        write_video(tmp_path / "a.gif", clip(5), fps)
        assert play_time(tmp_path / "a.gif") == 5 * each


def test_write_checks_its_other_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.mp4"):
        write_video(tmp_path / "a.xyz", clip(1))
    for fps in (0, 0.0001):
        with pytest.raises(ValueError, match="fps must be at least 1/1001"):
            write_video(tmp_path / "a.mp4", clip(1), fps)
    for fps in (1_000_001, 1e10, float("inf")):
        with pytest.raises(ValueError, match="fps must be at most 1,000,000"):
            write_video(tmp_path / "a.mp4", clip(1), fps)
    for aspect in (0, -1, 1002, float("nan")):
        with pytest.raises(ValueError, match="pixel_aspect must be from 1/1001 to 1001"):
            write_video(tmp_path / "a.mp4", clip(1), pixel_aspect=aspect)
    for fps in (1 / 1001, 1_000_000):
        write_video(tmp_path / "a.mp4", clip(1), fps)
    with pytest.raises(OutputError, match="no such file"):
        write_video(tmp_path / "none" / "a.mp4", clip(1))
    with pytest.raises(OutputError, match="no such file"):
        write_video(tmp_path / "none" / "a", clip(1))
