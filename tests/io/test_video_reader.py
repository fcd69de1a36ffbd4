import av
import numpy as np
import pytest
import torch

from flowwarp.data.footage import find_footage
from flowwarp.errors import InputError
from flowwarp.io.images import write_image
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from videos import clip, encode, until_it_breaks


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


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG"), (14, None), (1, None)])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_hdr_is_warned_of_once(tmp_path, caplog, kind, transfer, name):
    path = tmp_path / f"a.{kind}"
    encode_hdr(path, transfer)
    for _ in range(2):
        assert len(list(read_video(path))) == 2
    problem = f"{path}: is HDR video ({name}) and is read without tone mapping"
    messages = [f"{problem}; colours will look pale"] if name else []
    assert [record.getMessage() for record in caplog.records] == messages


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
    assert "frame 2 is 5x2, the first is 4x2" in problem


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
    assert "frame 4 is 48x16, the first is 48x32" in problem


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
    """Every extension that can be read is found in a folder, too."""
    shades = [np.full((48, 64, 3), 60 * number + 20, np.uint8) for number in range(4)]
    encode(tmp_path / name, shades, container=container, codec=codec, rate=25)
    ((path,),) = (one.files for one in find_footage([tmp_path]))
    means = [float(frame.mean()) for frame in read_video(path)]
    assert means == pytest.approx([shade.mean() / 255 for shade in shades], abs=0.03)
