import errno
import gc
import io
import os
import struct
from fractions import Fraction
from itertools import product
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageSequence

from flowwarp.data.clips import find_clips
from flowwarp.errors import InputError, OutputError
from flowwarp.io import video
from flowwarp.io.images import write_image
from flowwarp.io.video import (
    VideoInfo,
    read_video,
    salvage_video,
    video_info,
    write_video,
)


def clip(frames=6, height=32, width=48):
    """Smooth frames, each brighter than the one before."""
    x = torch.linspace(0, 0.5, width).expand(height, width)
    y = torch.linspace(0, 0.5, height)[:, None].expand(height, width)
    return [torch.stack([x + i / 20, y + i / 20, 0.5 - x / 2]) for i in range(frames)]


def encode(path, arrays, *, container=None, codec="libx264", rate=10, hold=1, **stream_options):
    """Write frames of any sizes, which write_video refuses; the last is shown ``hold`` times."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate, options=stream_options)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = arrays[0].shape[:2]
        packets = []
        for array in arrays:
            packets += stream.encode(av.VideoFrame.from_ndarray(array, "rgb24"))
        packets += stream.encode(None)
        packets[-1].duration = hold
        for packet in packets:
            output.mux(packet)


def save_animation(path, arrays, durations):
    """Write a GIF or a WebP of frames that are shown for so many ms."""
    first, *rest = map(Image.fromarray, arrays)
    first.save(path, save_all=True, append_images=rest, duration=durations)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def until_it_breaks(path):
    frames = []
    with pytest.raises(InputError) as fault:
        frames.extend(read_video(path))  # keeps what came before the error
    return frames, str(fault.value)


def test_no_frame_is_left_behind(tmp_path):
    """Nor its decoder: of short videos there may be thousands before Python looks for cycles."""

    def count_frames():
        return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())

    path = tmp_path / "clip.mp4"
    write_video(path, [torch.rand(3, 32, 32) for _ in range(3)])
    gc.collect()
    before = count_frames()
    gc.disable()
    try:
        for _ in range(3):
            list(read_video(path))
            next(read_video(path))
            video_info(path)
            list(salvage_video(path))
        assert count_frames() == before
    finally:
        gc.enable()


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
def test_colours_come_back(tmp_path, colour, extension):
    frame = torch.tensor(colour, dtype=torch.float32)[:, None, None].expand(3, 16, 16)
    write_video(tmp_path / f"a{extension}", [frame])
    (got,) = read_video(tmp_path / f"a{extension}")
    assert (got - frame).abs().max() * 255 <= 3.5


@pytest.mark.parametrize("extension", [".mp4", ".mov", ".mkv"])
def test_a_video_read_and_written_anew_gets_no_darker(tmp_path, extension):
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(3, 8, 12, generator=generator)
    frame = colours.repeat_interleave(16, 1).repeat_interleave(16, 2)
    got = frame
    for number in range(3):
        write_video(tmp_path / f"{number}{extension}", [got])
        (got,) = read_video(tmp_path / f"{number}{extension}")
    assert ((got - frame).mean((1, 2)) * 255).abs().max() < 0.5


@pytest.mark.parametrize("colour", [0, 1, 2])
def test_colour_stays_where_it_is(tmp_path, colour):
    """Of H.264 colour has half the size; by how far it is shifted against luma is a convention."""
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
def test_animated_pictures_never_end(tmp_path, extension):
    write_video(tmp_path / f"a{extension}", clip(4))
    with Image.open(tmp_path / f"a{extension}") as picture:
        assert picture.info["loop"] == 0


@pytest.mark.parametrize("extension", [".mp4", ".gif", ".webp", ""])
def test_one_pixel(tmp_path, extension):
    write_video(tmp_path / f"a{extension}", [torch.ones(3, 1, 1)])
    (frame,) = read_video(tmp_path / f"a{extension}")
    assert frame[:, 0, 0].round().tolist() == [1, 1, 1]


def play_time(path):
    """Return for how many ms an animated picture plays, as Pillow reads it."""
    with Image.open(path) as picture:
        return sum(frame.info["duration"] for frame in map(loaded, ImageSequence.Iterator(picture)))


def loaded(picture):
    picture.load()  # WebP tells a frame's time only then
    return picture


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


@pytest.mark.parametrize("read", [read_video, salvage_video])
def test_pictures_of_a_gif_that_come_as_one_are_not_lost_silently(tmp_path, read):
    pictures = [Image.new("1", (60, 40), number % 2) for number in range(8)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
    with pytest.raises(InputError, match="8 pictures, of which only 1 can be told apart"):
        list(read(tmp_path / "a.gif"))


def test_a_gif_without_times_plays_ten_frames_a_second(tmp_path, noisy):
    save_animation(tmp_path / "a.gif", noisy[:8], 0)
    assert video_info(tmp_path / "a.gif").fps == 10


def test_a_webp_without_times_has_the_default_rate(tmp_path, noisy):
    save_animation(tmp_path / "a.webp", noisy[:3], 0)
    assert video_info(tmp_path / "a.webp").fps == 25


@pytest.mark.parametrize("size", [0, 7, 15, 2**32 - 1])
def test_chunks_of_an_absurd_size_do_no_harm(tmp_path, size):
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
def test_a_rate_that_cannot_be_is_a_fault_of_the_file(tmp_path, fps, clock, rate):
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
def test_a_rate_that_varies_is_averaged(tmp_path, extension):
    """From the first frame to the last; the header says 25 a second."""
    path = tmp_path / f"a.{extension}"
    encode_at(path, [0, 40, 200, 240, 600])
    assert video_info(path).fps == Fraction(4 * 1000, 600)


@pytest.mark.parametrize("extension", ["mkv", "ts", "flv"])
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24), Fraction(120)])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_rate_that_is_constant_is_the_stated_one(tmp_path, noisy, extension, rate, count):
    """Not what its times say, which are rounded."""
    path = tmp_path / f"a.{extension}"
    encode(path, noisy[:count], rate=rate, bf="2")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stated = stream.average_rate or stream.guessed_rate
    assert video_info(path).fps == stated


def test_a_few_frames_missing_are_no_other_rate(tmp_path):
    encode_at(tmp_path / "a.mkv", [40 * n for n in range(400) if n not in (7, 200)])
    assert video_info(tmp_path / "a.mkv").fps == 25


def test_times_that_cannot_be_are_not_believed(tmp_path):
    encode_at(tmp_path / "a.mkv", [0, 40, 10_000_000])
    assert video_info(tmp_path / "a.mkv").fps == 25


def test_only_the_first_times_of_a_long_video_are_read(tmp_path, monkeypatch):
    encode_at(tmp_path / "a.mkv", [0, 100, 200, 300, 2300, 4300])
    monkeypatch.setattr("flowwarp.io.video._MOST_TIMED", 4)
    assert video_info(tmp_path / "a.mkv").fps == 10


def encode_hdr(path, transfer):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", 25)
        stream.pix_fmt, stream.width, stream.height = "yuv420p10le", 48, 32
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, 9, 9  # BT.2020
        for shade in (50, 100):
            pixels = np.full((32, 48, 3), shade, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        output.mux(stream.encode(None))


def test_sound_may_outlast_the_picture(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("libx264", 25)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 48, 32
        sound = output.add_stream("pcm_s16le", 8000, layout="mono")
        for shade in range(0, 200, 50):
            pixels = np.full((32, 48, 3), shade, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        output.mux(stream.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), "s16", "mono")
        silence.sample_rate = 8000
        output.mux(sound.encode(silence))
        output.mux(sound.encode(None))
    assert len(list(read_video(tmp_path / "a.mkv"))) == 4


def test_a_later_part_that_is_too_large_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_FRAME_PIXELS", 2500)
    for name, size in (("a", (32, 48)), ("b", (64, 64))):
        encode(tmp_path / name, [np.full((*size, 3), 90, np.uint8)] * 3, container="h264")
    parts = ((tmp_path / name).read_bytes() for name in "ab")
    (tmp_path / "c.h264").write_bytes(b"".join(parts))
    frames, problem = until_it_breaks(tmp_path / "c.h264")
    assert {frame.shape for frame in frames} == {(3, 32, 48)}
    assert "breaks off after" in problem


def test_a_chunk_of_an_odd_size_hides_no_frames(tmp_path):
    """It is filled up to an even one."""
    path = tmp_path / "a.webp"
    write_video(path, clip(), 10)
    data = path.read_bytes()
    start = data.index(b"ANIM")
    odd = b"JUNK" + struct.pack("<I", 7) + bytes(8)
    size = struct.pack("<I", len(data) + len(odd) - 8)
    path.write_bytes(data[:4] + size + data[8:start] + odd + data[start:])
    assert video_info(path).fps == 10


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG"), (14, None), (1, None)])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_hdr_is_warned_of_once(tmp_path, caplog, kind, transfer, name):
    path = tmp_path / f"a.{kind}"
    encode_hdr(path, transfer)
    for _ in range(2):
        assert len(list(read_video(path))) == 2
    problem = f"{path}: is HDR video ({name}), and its brightness is taken as it is"
    said = [f"{problem}; colours will look pale"] if name else []
    assert [record.getMessage() for record in caplog.records] == said


def save_transparent(path, opacity):
    """Write two grey frames of which the first has a corner of that opacity, 0 to 255."""
    frames = np.full((2, 32, 48, 4), 255, np.uint8)
    frames[..., :3] = np.array([50, 90], np.uint8)[:, None, None, None]
    frames[0, :8, :8, 3] = opacity
    codecs = {".mov": ("qtrle", "argb"), ".webm": ("libvpx-vp9", "yuva420p")}
    if not path.suffix:
        path.mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(path / f"{number}.png")
    elif path.suffix not in codecs:
        first, second = map(Image.fromarray, frames)
        first.save(path, save_all=True, append_images=[second], lossless=True, disposal=2)
    else:
        with av.open(str(path), "w") as output:
            codec, form = codecs[path.suffix]
            stream = output.add_stream(codec, 25)
            stream.pix_fmt, stream.width, stream.height = form, 48, 32
            for frame in frames:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgba")))
            output.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("extension", "read"),
    [("", read_video), *product([".gif", ".webp", ".mov", ".webm"], [read_video, salvage_video])],
)
def test_transparency_is_warned_of_once(tmp_path, caplog, extension, read):
    path = tmp_path / f"a{extension}"
    save_transparent(path, 0)
    for _ in range(2):
        assert video_info(path).width == 48
        assert [frame.shape for frame in read(path)] == 2 * [(3, 32, 48)]
    problem = f"{path}: is transparent in places, and is taken as opaque; what was hidden will show"
    assert [record.getMessage() for record in caplog.records] == [problem]


@pytest.mark.parametrize("extension", [".gif", ".webp", ".mov", ""])
def test_opaque_videos_are_not_warned_of(tmp_path, caplog, extension):
    path = tmp_path / f"a{extension}"
    save_transparent(path, 255)
    dark, light = read_video(path)
    assert light.mean() - dark.mean() == pytest.approx(40 / 255, abs=2 / 255)
    assert caplog.records == []


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
def test_pixels_that_a_header_makes_absurd_are_square(tmp_path, width, height, aspect):
    path = tmp_path / "a.mp4"
    write_video(path, clip(2), pixel_aspect=2)
    data = bytearray(path.read_bytes())
    at = data.index(b"pasp") + 4
    data[at : at + 8] = struct.pack(">II", width, height)
    path.write_bytes(data)
    assert video_info(path).pixel_aspect == aspect


@pytest.mark.parametrize("extension", [".gif", ".webp", ""])
def test_pixels_are_square_where_the_file_cannot_say_it(tmp_path, extension):
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


def test_empty_folder(tmp_path):
    with pytest.raises(InputError, match="a folder without pictures"):
        next(read_video(tmp_path))
    (tmp_path / "out").mkdir()
    write_video(tmp_path / "out", clip(1))
    assert len(list(read_video(tmp_path / "out"))) == 1


def test_folder_whose_pictures_differ(tmp_path):
    write_image(tmp_path / "1.png", torch.zeros(3, 2, 4))
    write_image(tmp_path / "2.png", torch.zeros(3, 2, 5))
    frames, problem = until_it_breaks(tmp_path)
    assert len(frames) == 1
    assert "frame 2 is 5x2, the first was 4x2" in problem


NO_THREAD = "^thread: no other can be started .resource temporarily unavailable.; allow more"


def without_threads(*arguments):
    raise av.BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_a_thread_that_cannot_be_started_is_no_fault_of_the_video(tmp_path, monkeypatch):
    frames = [torch.zeros(3, 16, 16)] * 2
    write_video(tmp_path / "a.mp4", frames)
    monkeypatch.setattr(video, "_encode", without_threads)
    monkeypatch.setattr(video, "_whole_frames", lambda *_: map(without_threads, [0]))
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
def test_colours_beyond_the_range_are_the_nearest_ones(tmp_path, extension):
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
def test_write_takes_floating_point_frames_alone(tmp_path, extension, frame, got):
    """Whole numbers are 0 to 255 to most, and would come out black and white."""
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


def test_write_checks_the_rest(tmp_path):
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


@pytest.fixture(scope="module")
def noisy():
    return list(np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "gif"])
@pytest.mark.parametrize("part", [0.97, 0.6, 0.3])
def test_video_that_breaks_off(tmp_path, noisy, kind, part):
    path = tmp_path / f"a.{kind}"
    if kind in ("mp4", "gif"):
        write_video(path, [torch.from_numpy(a).permute(2, 0, 1) / 255 for a in noisy], 10)
    else:
        encode(path, noisy, codec={"mkv": "libx264", "avi": "mpeg4"}[kind])
    whole = list(read_video(path))
    assert len(whole) == 40
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    frames, problem = until_it_breaks(path)
    assert problem == f"{path}: breaks off after {len(frames)} frames"
    assert 0 < len(frames) < 40 + (kind == "gif")  # whose last frame may be a part of one
    for mine, theirs in zip(frames[:-1], whole, strict=False):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "gif"])
@pytest.mark.parametrize("read", [read_video, salvage_video])
def test_the_last_frame_may_be_held(tmp_path, noisy, kind, read):
    path = tmp_path / f"a.{kind}"
    if kind == "gif":
        save_animation(path, noisy[:8], [100] * 7 + [3000])
    else:
        encode(path, noisy[:8], hold=30, bf="0")
    assert len(list(read(path))) == 8
    if kind != "mp4":  # whose end tells of all frames, so without it nothing can be read
        data = path.read_bytes()
        path.write_bytes(data[: int(0.6 * len(data))])
        with pytest.raises(InputError, match="breaks off after"):
            list(read(path))


def test_video_that_changes_size(tmp_path, noisy):
    # Raw H.264 may be joined end to end, and each part brings its own size.
    encode(tmp_path / "a.h264", noisy[:3], container="h264")
    encode(tmp_path / "b.h264", [array[:16] for array in noisy[:3]], container="h264")
    joined = tmp_path / "c.h264"
    joined.write_bytes((tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes())
    frames, problem = until_it_breaks(joined)
    assert len(frames) == 3
    assert "frame 4 is 48x16, the first was 48x32" in problem


# What EXIF numbers 1 to 8: the display matrix, and what it makes of (C, H, W).
ORIENTATIONS = {
    1: ((1, 0, 0, 1), lambda stored: stored),
    2: ((-1, 0, 0, 1), lambda stored: stored.flip(2)),
    3: ((-1, 0, 0, -1), lambda stored: stored.flip(1, 2)),
    4: ((1, 0, 0, -1), lambda stored: stored.flip(1)),
    5: ((0, 1, 1, 0), lambda stored: stored.mT),
    6: ((0, 1, -1, 0), lambda stored: stored.mT.flip(2)),
    7: ((0, -1, -1, 0), lambda stored: stored.mT.flip(1, 2)),
    8: ((0, -1, 1, 0), lambda stored: stored.mT.flip(1)),
}


@pytest.mark.parametrize("read", [read_video, salvage_video])
@pytest.mark.parametrize("number", ORIENTATIONS)
def test_phone_video_is_turned_upright(tmp_path, number, read):
    path = tmp_path / "a.mp4"
    frames = clip(2)
    write_video(path, frames, pixel_aspect=Fraction(4, 3))
    matrix, turned = ORIENTATIONS[number]
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4 + 40  # version and flags, times, id, duration, layer, volume
    a, b, c, d = (struct.pack(">i", value * 0x10000) for value in matrix)
    data[at : at + 20] = a + b + bytes(4) + c + d
    path.write_bytes(data)
    for upright, stored in zip(read(path), frames, strict=True):
        expected = turned(stored)
        assert upright.shape == expected.shape
        assert (upright - expected).abs().mean() * 255 < 4
    info = video_info(path)
    assert info.height == expected.shape[1]
    assert info.pixel_aspect == (Fraction(3, 4) if number > 4 else Fraction(4, 3))


@pytest.mark.parametrize("number", [1, 3, 6, 8])
def test_motion_jpeg_with_exif_is_turned_upright(tmp_path, number):
    """PyAV reads no side data of frames that hold a kind it does not know."""
    (stored,) = clip(1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    picture = io.BytesIO()
    pixels = stored.mul(255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(picture, "JPEG", exif=exif)
    with av.open(str(tmp_path / "a.avi"), "w") as output:
        stream = output.add_stream("mjpeg", 10)
        stream.pix_fmt, stream.width, stream.height = "yuvj420p", 48, 32
        for time in range(2):
            packet = av.Packet(picture.getvalue())
            packet.stream, packet.pts, packet.dts = stream, time, time
            output.mux(packet)
    expected = ORIENTATIONS[number][1](stored)
    for upright in read_video(tmp_path / "a.avi"):
        assert upright.shape == expected.shape
        assert (upright - expected).abs().mean() * 255 < 4


def test_sound_without_pictures(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("pcm_s16le", 8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    assert "holds no video stream" in until_it_breaks(tmp_path / "a.mkv")[1]


@pytest.mark.parametrize("read", [read_video, salvage_video])
def test_the_film_is_read_and_not_a_cover_before_it(tmp_path, read):
    shade = np.full((32, 48, 3), 90, np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        cover = output.add_stream("mjpeg", 1)
        film = output.add_stream("libx264", 10)
        for stream, size in ((cover, (16, 16)), (film, (48, 32))):
            stream.pix_fmt = "yuvj420p" if stream is cover else "yuv420p"
            stream.width, stream.height = size
        output.mux(cover.encode(av.VideoFrame.from_ndarray(shade[:16, :16], "rgb24")))
        for _ in range(5):
            output.mux(film.encode(av.VideoFrame.from_ndarray(shade, "rgb24")))
        output.mux(cover.encode(None))
        output.mux(film.encode(None))
    assert [frame.shape for frame in read(tmp_path / "a.mkv")] == 5 * [(3, 32, 48)]
    info = video_info(tmp_path / "a.mkv")
    assert (info.width, info.height, info.fps) == (48, 32, 10)


@pytest.mark.parametrize("read", [video_info, lambda path: next(read_video(path))])
def test_what_is_not_a_video(tmp_path, capfd, read):
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n"
    for name, data in [("a.mp4", b"junk" * 99), ("b.mp4", b""), ("c.mp4", playlist)]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}: is (no video|empty)"):
            read(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.mp4")
    assert capfd.readouterr() == ("", "")


def test_a_video_opens_no_other_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", clip(2))
    (tmp_path / "b.mp4").write_bytes(b"ffconcat version 1.0\nfile a.mp4\n")
    assert "is no video" in until_it_breaks(tmp_path / "b.mp4")[1]


def test_broken_webp(tmp_path):
    path = tmp_path / "a.webp"
    write_video(path, clip())
    path.write_bytes(path.read_bytes()[:-100])
    assert "broken WebP" in until_it_breaks(path)[1]


def test_still_webp_is_one_frame(tmp_path):
    Image.new("RGB", (4, 3), "red").save(tmp_path / "a.webp", lossless=True)
    (frame,) = read_video(tmp_path / "a.webp")
    assert frame[:, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("a.MTS", "mpegts", "libx264"),
        ("a.mpeg", "mpeg", "mpeg2video"),
        ("a.flv", "flv", "flv1"),
        ("a.wmv", "asf", "wmv2"),
        ("a.3gp", "3gp", "mpeg4"),
    ],
)
def test_a_folder_of_what_cameras_write(tmp_path, name, container, codec):
    """What can be read when it is named is found where it is not."""
    shades = [np.full((48, 64, 3), 60 * number + 20, np.uint8) for number in range(4)]
    encode(tmp_path / name, shades, container=container, codec=codec, rate=25)
    ((path,),) = (one.files for one in find_clips([tmp_path]))
    means = [float(frame.mean()) for frame in read_video(path)]
    assert means == pytest.approx([shade.mean() / 255 for shade in shades], abs=0.03)


def box(kind, *parts):
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


@pytest.mark.parametrize(
    ("boxes", "claimed"),
    [
        (box(b"moov", box(b"trak", box(b"stsz", struct.pack(">III", 0, 1, 10**8)))), 10**8),
        (box(b"moof", box(b"traf", 2 * box(b"trun", struct.pack(">II", 0, 900)))), 1800),
        (
            struct.pack(">I4sQ", 1, b"moov", 36) + box(b"stsz", struct.pack(">III", 0, 1, 2000)),
            2000,
        ),
        (box(b"moov", box(b"stsz", struct.pack(">III", 0, 0, 2000))), None),  # each is listed
        (struct.pack(">I4sQ", 1, b"mdat", 2**33) + box(b"moov"), None),
        (struct.pack(">I4s", 3, b"moov") + box(b"stsz", struct.pack(">III", 0, 1, 2000)), None),
    ],
)
def test_samples_that_a_file_cannot_hold(tmp_path, boxes, claimed):
    """FFmpeg would make an index of them all before it looks for one."""
    (tmp_path / "a.mp4").write_bytes(boxes.ljust(1000, b"\0"))
    problem = f"claims {claimed} samples in 1000 bytes" if claimed else "is no video|holds no video"
    with pytest.raises(InputError, match=problem):
        video_info(tmp_path / "a.mp4")


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov", "frag_every_frame"])
def test_fragments_are_read(tmp_path, movflags):
    with av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": movflags}) as output:
        stream = output.add_stream("libx264", 10)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 16, 16
        for _ in range(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        output.mux(stream.encode(None))
    assert len(list(read_video(tmp_path / "a.mp4"))) == 5


# ------------------------------------------------------------------ damage in the middle


def overwrite(path, number, start=0.5, length=0.4):
    """Overwrite a part of a packet, in shares of its size; return which frame the packet holds."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        shown = sorted(packet.pts for packet in packets).index(packets[number].pts)
        at, size = packets[number].pos, packets[number].size
    junk = np.random.default_rng(number).integers(0, 256, int(length * size), dtype=np.uint8)
    data = bytearray(path.read_bytes())
    first = at + int(start * size)
    data[first : first + len(junk)] = junk.tobytes()
    path.write_bytes(data)
    return shown


def encode_kind(path, arrays):
    codecs = {"avi": "mjpeg", "mp4": "libx264", "mkv": "libx264", "mpg": "mpeg2video"}
    kind = path.suffix[1:]
    with av.open(str(path), "w") as output:
        options = {"g": "10", "sc_threshold": "0"} if kind == "mp4" else {}
        stream = output.add_stream(codecs[kind], 25, options=options)
        stream.pix_fmt = "yuvj420p" if kind == "avi" else "yuv420p"
        # As many slices on any machine: how damage shows depends on them.
        stream.codec_context.thread_count = 2
        stream.height, stream.width = arrays[0].shape[:2]
        for array in arrays:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(array, "rgb24")))
        output.mux(stream.encode(None))


@pytest.mark.parametrize("kind", ["avi", "mp4", "mkv", "mpg", "gif", "webp"])
def test_salvages_a_whole_video_whole(tmp_path, noisy, kind):
    path = tmp_path / f"a.{kind}"
    if kind in ("gif", "webp"):
        write_video(path, clip())
    else:
        encode_kind(path, noisy)
    for mine, theirs in zip(salvage_video(path), read_video(path), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("length", "lost"),
    [(0.4, 1), (0.6, 2)],  # within a frame; over the next frame's header, which hides that frame
)
def test_salvages_motion_jpeg(tmp_path, noisy, length, lost):
    path = tmp_path / "a.avi"
    encode_kind(path, noisy)
    whole = list(read_video(path))
    assert overwrite(path, 20, 0.5, length) == 20
    with pytest.raises(InputError, match="breaks off after"):
        list(read_video(path))  # as ever
    frames = list(salvage_video(path))
    assert len(frames) == 40
    for number, (got, wanted) in enumerate(zip(frames, whole, strict=True)):
        if 20 <= number < 20 + lost:
            assert got is None
        else:
            assert torch.equal(got, wanted)


@pytest.mark.parametrize(("one", "other"), [(10, 20), (3, 30), (38, 39)])
def test_an_index_whose_entries_are_exchanged_is_no_fault(tmp_path, noisy, one, other):
    """Then a packet comes before its place, and one after it."""
    path = tmp_path / "a.avi"
    encode_kind(path, noisy)
    data = bytearray(path.read_bytes())
    first = data.rindex(b"idx1") + 8
    offsets = [first + 16 * number + 8 for number in (one, other)]
    places = [data[at : at + 4] for at in offsets]
    for at, place in zip(offsets, reversed(places), strict=True):
        data[at : at + 4] = place
    path.write_bytes(data)
    frames = list(salvage_video(path))
    assert 40 <= len(frames) <= 80
    assert any(frame is not None for frame in frames)


@pytest.fixture(scope="module")
def moving():
    texture = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.interpolate(texture, (128, 192), mode="bicubic").clamp(0, 1)
    pixels = texture[0].mul(255).byte().permute(1, 2, 0).numpy()
    return [np.ascontiguousarray(pixels[i : i + 64, 2 * i : 2 * i + 96]) for i in range(40)]


@pytest.mark.parametrize("length", [0.4, 3])  # of a packet: within it, or into those after it
def test_salvages_h264(tmp_path, moving, length):
    path = tmp_path / "a.mp4"
    encode_kind(path, moving)
    whole = list(read_video(path))
    damaged = overwrite(path, 12, 0, length)
    frames = list(salvage_video(path))
    assert len(frames) == 40
    lost = [number for number, frame in enumerate(frames) if frame is None]
    assert damaged in lost
    assert len(lost) == 1 or length > 1
    for number in [*range(10), *range(20, 40)]:  # in other groups of pictures than the damage
        assert torch.equal(frames[number], whole[number])


def test_frames_that_need_a_lost_key_frame_are_missed_in_their_place(tmp_path, moving):
    path = tmp_path / "a.mp4"
    encode_kind(path, moving)
    whole = list(read_video(path))
    assert overwrite(path, 20, 0, 1) == 20
    frames = list(salvage_video(path))
    assert len(frames) == 40
    assert frames[20] is None
    for number in [*range(18), *range(30, 40)]:
        assert torch.equal(frames[number], whole[number])


@pytest.mark.parametrize("kind", ["avi", "mkv"])
def test_salvages_up_to_where_a_video_breaks_off(tmp_path, noisy, kind):
    path = tmp_path / f"a.{kind}"
    encode_kind(path, noisy)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.6 * len(data))])
    before, problem = until_it_breaks(path)
    frames = salvage_video(path)
    for frame in before:
        assert torch.equal(next(frames), frame)
    with pytest.raises(InputError) as fault:
        next(frames)
    assert str(fault.value) == problem


def frame(time, *, key=False):
    return SimpleNamespace(pts=time, key_frame=key, is_corrupt=False)


def test_a_frame_of_a_damaged_packet_is_not_whole():
    schedule = video._Schedule()
    schedule.expect(0)
    schedule.spoil(0)
    assert schedule.arrive(frame(0, key=True)) == (0, False)


def test_damage_ends_with_a_key_frame_that_is_shown_after_it():
    schedule = video._Schedule()
    for time in (3, 5):
        schedule.expect(time)
    schedule.spoil(5)
    assert schedule.arrive(frame(3, key=True)) == (0, True)
    schedule.expect(7)
    assert schedule.arrive(frame(8)) == (2, True)  # 5 and 7 are missing
    schedule.expect(9)
    assert schedule.arrive(frame(10)) == (1, True)
    assert schedule.arrive(frame(11, key=True)) == (0, True)
    schedule.expect(12)
    assert schedule.arrive(frame(13)) == (0, True)


def test_nothing_to_salvage(tmp_path, noisy):
    path = tmp_path / "a.avi"
    encode_kind(path, noisy[:3])
    for number in range(3):
        overwrite(path, number, 0, 1)
    frames = salvage_video(path)
    assert [next(frames) for _ in range(3)] == [None] * 3
    with pytest.raises(InputError, match="holds no frame that can be decoded"):
        next(frames)
    with pytest.raises(InputError, match="no such file"):
        next(salvage_video(tmp_path / "none.avi"))
