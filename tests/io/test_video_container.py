import gc
import io
import struct
from fractions import Fraction
from itertools import product

import av
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from flowwarp.errors import InputError
from flowwarp.io import video_container
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_salvage import salvage_video
from flowwarp.io.video_writer import write_video
from videos import clip, encode, save_animation, until_it_breaks


def test_no_frame_stays_in_memory(tmp_path):
    """Nor a decoder: Python collects cycles late, after thousands of short videos."""

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


@pytest.mark.parametrize("read", [read_video, salvage_video])
def test_merged_pictures_of_a_gif_are_reported(tmp_path, read):
    pictures = [Image.new("1", (60, 40), number % 2) for number in range(8)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:])
    with pytest.raises(InputError, match="8 pictures, of which only 1 can be distinguished"):
        list(read(tmp_path / "a.gif"))


def test_a_later_frame_that_is_too_large_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(video_container, "MAX_FRAME_PIXELS", 2500)
    for name, size in (("a", (32, 48)), ("b", (64, 64))):
        encode(tmp_path / name, [np.full((*size, 3), 90, np.uint8)] * 3, container="h264")
    parts = ((tmp_path / name).read_bytes() for name in "ab")
    (tmp_path / "c.h264").write_bytes(b"".join(parts))
    frames, problem = until_it_breaks(tmp_path / "c.h264")
    assert {frame.shape for frame in frames} == {(3, 32, 48)}
    assert "breaks off after" in problem


def save_transparent(path, opacity):
    """Write two grey frames; a corner of the first has the given opacity, 0 to 255."""
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
    problem = (
        f"{path}: is transparent in places and is read as opaque; hidden colours become visible"
    )
    assert [record.getMessage() for record in caplog.records] == [problem]


@pytest.mark.parametrize("extension", [".gif", ".webp", ".mov", ""])
def test_opaque_videos_are_not_warned_of(tmp_path, caplog, extension):
    path = tmp_path / f"a{extension}"
    save_transparent(path, 255)
    dark, light = read_video(path)
    assert light.mean() - dark.mean() == pytest.approx(40 / 255, abs=2 / 255)
    assert caplog.records == []


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
    """PyAV reads no side data of a frame if one is of an unknown type."""
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
    assert "contains no video stream" in until_it_breaks(tmp_path / "a.mkv")[1]


@pytest.mark.parametrize("read", [read_video, salvage_video])
def test_the_film_is_read_and_not_the_cover(tmp_path, read):
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
        with pytest.raises(InputError, match=rf"{name}: is (not a video|empty)"):
            read(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.mp4")
    assert capfd.readouterr() == ("", "")


def test_a_video_opens_no_other_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", clip(2))
    (tmp_path / "b.mp4").write_bytes(b"ffconcat version 1.0\nfile a.mp4\n")
    assert "is not a video" in until_it_breaks(tmp_path / "b.mp4")[1]


def test_broken_webp(tmp_path):
    path = tmp_path / "a.webp"
    write_video(path, clip())
    path.write_bytes(path.read_bytes()[:-100])
    assert "broken WebP" in until_it_breaks(path)[1]


def test_still_webp_is_one_frame(tmp_path):
    Image.new("RGB", (4, 3), "red").save(tmp_path / "a.webp", lossless=True)
    (frame,) = read_video(tmp_path / "a.webp")
    assert frame[:, 0, 0].tolist() == [1, 0, 0]
