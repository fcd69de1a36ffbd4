import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from flowwarp.errors import InputError
from flowwarp.io.video_info import estimate_frames, video_info
from flowwarp.io.video_writer import write_video
from videos import clip, encode, play_time, save_animation


@pytest.mark.parametrize("fps", [48, 30, 24, Fraction(30000, 1001)])
@pytest.mark.parametrize("extension", [".gif", ".webp"])
def test_animated_pictures_have_the_rate_they_play_at(tmp_path, noisy, fps, extension):
    path = tmp_path / f"a{extension}"
    write_video(path, [torch.from_numpy(a).permute(2, 0, 1) / 255 for a in noisy], fps)
    assert video_info(path).fps == Fraction(40 * 1000, play_time(path))
    assert video_info(path).fps == pytest.approx(float(fps), rel=0.02)  # in whole ticks of a clock


@pytest.mark.parametrize("extension", [".gif", ".webp"])
def test_a_long_frame_counts_in_the_rate(tmp_path, noisy, extension):
    path = tmp_path / f"a{extension}"
    save_animation(path, noisy[:8], [50, 100, 150, 50, 50, 50, 50, 3000])
    assert video_info(path).fps == Fraction(8, 1) / Fraction(7, 2)


def test_a_gif_without_durations_plays_ten_frames_a_second(tmp_path, noisy):
    save_animation(tmp_path / "a.gif", noisy[:8], 0)
    assert video_info(tmp_path / "a.gif").fps == 10


def test_a_webp_without_durations_has_the_default_rate(tmp_path, noisy):
    save_animation(tmp_path / "a.webp", noisy[:3], 0)
    assert video_info(tmp_path / "a.webp").fps == 25


@pytest.mark.parametrize("size", [0, 7, 15, 2**32 - 1])
def test_chunks_of_an_impossible_size_are_harmless(tmp_path, size):
    path = tmp_path / "a.webp"
    write_video(path, clip(), 10)
    chunk = b"ANMF" + struct.pack("<I", size)
    path.write_bytes(path.read_bytes() + chunk + bytes(size % 64))
    assert video_info(path).frames == 6


@pytest.mark.parametrize(
    ("fps", "expected"), [(29.97, Fraction(2997, 100)), (Fraction(30000, 1001), None), (0.5, None)]
)
def test_frame_rates(tmp_path, fps, expected):
    write_video(tmp_path / "a.mp4", clip(4), fps)
    assert video_info(tmp_path / "a.mp4").fps == (expected or Fraction(fps))


@pytest.mark.parametrize(
    ("fps", "clock", "rate"), [(1, 10, "0.0006"), (10, 2 * 10**9, r"1.95312e\+06")]
)
def test_an_impossible_rate_is_refused(tmp_path, fps, clock, rate):
    path = tmp_path / "a.mp4"
    write_video(path, clip(4), fps)
    data = path.read_bytes()
    at = data.index(b"mdhd") + 16  # the ticks a second, after version, flags and two dates
    path.write_bytes(data[:at] + struct.pack(">I", clock) + data[at + 4 :])
    with pytest.raises(InputError, match=rf"a\.mp4: says it has {rate}\d* frames a second"):
        video_info(path)


def encode_at(path, times, rate=25):
    """Write a frame at each time, in ms, into a file whose header states a rate."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 48, 32
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            pixels = np.full((32, 48, 3), 40 * number % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


@pytest.mark.parametrize("extension", ["mkv", "ts", "flv"])
def test_a_variable_rate_is_averaged(tmp_path, extension):
    """From the first frame to the last; the header states 25 frames a second."""
    path = tmp_path / f"a.{extension}"
    encode_at(path, [0, 40, 200, 240, 600])
    assert video_info(path).fps == Fraction(4 * 1000, 600)


@pytest.mark.parametrize("extension", ["mkv", "ts", "flv"])
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24), Fraction(120)])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_constant_rate_is_the_stated_one(tmp_path, noisy, extension, rate, count):
    """Times are rounded, so that they give another."""
    path = tmp_path / f"a.{extension}"
    encode(path, noisy[:count], rate=rate, bf="2")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stated = stream.average_rate or stream.guessed_rate
    assert video_info(path).fps == stated


def test_a_few_missing_frames_do_not_change_the_rate(tmp_path):
    encode_at(tmp_path / "a.mkv", [40 * n for n in range(400) if n not in (7, 200)])
    assert video_info(tmp_path / "a.mkv").fps == 25


def test_impossible_times_are_ignored(tmp_path):
    encode_at(tmp_path / "a.mkv", [0, 40, 10_000_000])
    assert video_info(tmp_path / "a.mkv").fps == 25


def test_only_the_first_times_of_a_long_video_are_read(tmp_path, monkeypatch):
    encode_at(tmp_path / "a.mkv", [0, 100, 200, 300, 2300, 4300])
    monkeypatch.setattr("flowwarp.io.video_info._TIMED_PACKETS", 4)
    assert video_info(tmp_path / "a.mkv").fps == 10


def test_a_chunk_of_an_odd_size_hides_no_frames(tmp_path):
    """It is padded to an even size."""
    path = tmp_path / "a.webp"
    write_video(path, clip(), 10)
    data = path.read_bytes()
    start = data.index(b"ANIM")
    odd = b"JUNK" + struct.pack("<I", 7) + bytes(8)
    size = struct.pack("<I", len(data) + len(odd) - 8)
    path.write_bytes(data[:4] + size + data[8:start] + odd + data[start:])
    assert video_info(path).fps == 10


@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
@pytest.mark.parametrize("aspect", [Fraction(64, 45), Fraction(8, 9), Fraction(1)])
def test_pixels_that_are_not_square(tmp_path, extension, aspect):
    path = tmp_path / f"a{extension}"
    write_video(path, clip(2), pixel_aspect=aspect)
    assert video_info(path).pixel_aspect == aspect


@pytest.mark.parametrize(
    ("width", "height", "aspect"),
    [(16, 15, Fraction(16, 15)), (2**31 - 1, 1, 1), (1, 2**31 - 1, 1)],
)
def test_pixels_of_an_impossible_aspect_are_square(tmp_path, width, height, aspect):
    path = tmp_path / "a.mp4"
    write_video(path, clip(2), pixel_aspect=2)
    data = bytearray(path.read_bytes())
    at = data.index(b"pasp") + 4
    data[at : at + 8] = struct.pack(">II", width, height)
    path.write_bytes(data)
    assert video_info(path).pixel_aspect == aspect


@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".gif", ".webp"])
def test_frames_are_estimated(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    write_video(path, clip(6), 10)
    assert estimate_frames(path, video_info(path)) == 6


def test_frames_of_a_folder_are_counted(tmp_path):
    write_video(tmp_path / "frames", clip(6))
    assert estimate_frames(tmp_path / "frames", video_info(tmp_path / "frames")) == 6


def test_without_a_length_packets_are_counted(tmp_path, noisy):
    """As a browser records: neither length nor number of frames are in the header."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w", format="matroska", options={"live": "1"}) as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = *noisy[0].shape[1::-1], "yuvj420p"
        for array in noisy[:7]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array)))
        container.mux(stream.encode(None))
    info = video_info(path)
    assert info.frames is None
    assert estimate_frames(path, info) == 7
