import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from flowwarp.errors import InputError, OutputError
from flowwarp.io.images import write_image
from flowwarp.io.video import VideoInfo, read_video, video_info, write_video


def clip(frames=6, height=32, width=48):
    """Smooth frames, each brighter than the one before."""
    x = torch.linspace(0, 0.5, width).expand(height, width)
    y = torch.linspace(0, 0.5, height)[:, None].expand(height, width)
    return [torch.stack([x + i / 20, y + i / 20, 0.5 - x / 2]) for i in range(frames)]


def encode(path, arrays, *, container=None, codec="libx264", rate=10, **stream_options):
    """Write frames of any sizes, which write_video refuses."""
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate, options=stream_options)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = arrays[0].shape[:2]
        for array in arrays:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(array, "rgb24")))
        output.mux(stream.encode(None))


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def until_it_breaks(path):
    frames = []
    with pytest.raises(InputError) as fault:
        frames.extend(read_video(path))  # keeps what came before the error
    return frames, str(fault.value)


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


@pytest.mark.parametrize("extension", [".mp4", ".gif", ".webp", ""])
def test_one_pixel(tmp_path, extension):
    write_video(tmp_path / f"a{extension}", [torch.ones(3, 1, 1)])
    (frame,) = read_video(tmp_path / f"a{extension}")
    assert frame[:, 0, 0].round().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("fps", "expected"), [(29.97, Fraction(2997, 100)), (Fraction(30000, 1001), None), (0.5, None)]
)
def test_frame_rates(tmp_path, fps, expected):
    write_video(tmp_path / "a.mp4", clip(4), fps)
    assert video_info(tmp_path / "a.mp4").fps == (expected or Fraction(fps))


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


def test_write_checks_the_rest(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.mp4"):
        write_video(tmp_path / "a.xyz", clip(1))
    with pytest.raises(ValueError, match="fps must be positive"):
        write_video(tmp_path / "a.mp4", clip(1), 0)
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


def test_video_that_changes_size(tmp_path, noisy):
    # Raw H.264 may be joined end to end, and each part brings its own size.
    encode(tmp_path / "a.h264", noisy[:3], container="h264")
    encode(tmp_path / "b.h264", [array[:16] for array in noisy[:3]], container="h264")
    joined = tmp_path / "c.h264"
    joined.write_bytes((tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes())
    frames, problem = until_it_breaks(joined)
    assert len(frames) == 3
    assert "frame 4 is 48x16, the first was 48x32" in problem


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1), ((1, 0, 0, 1), 0)],
)
def test_phone_video_is_turned_upright(tmp_path, matrix, turn):
    path = tmp_path / "a.mp4"
    frames = clip(2)
    write_video(path, frames)
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 4 + 40  # version and flags, times, id, duration, layer, volume
    a, b, c, d = (struct.pack(">i", value * 0x10000) for value in matrix)
    data[at : at + 20] = a + b + bytes(4) + c + d
    path.write_bytes(data)
    upright = next(read_video(path))
    expected = torch.rot90(frames[0], turn, (1, 2))
    assert upright.shape == expected.shape
    assert (upright - expected).abs().mean() * 255 < 4
    assert video_info(path).height == expected.shape[1]


def test_sound_without_pictures(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("pcm_s16le", 8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    assert "holds no video stream" in until_it_breaks(tmp_path / "a.mkv")[1]


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
