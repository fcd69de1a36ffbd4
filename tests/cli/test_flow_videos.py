"""``flowwarp flow`` on videos."""

from pathlib import Path

import av
import numpy as np
import pytest
from flow_frames import HEIGHT, WIDTH, files, frame

from flowwarp.io.images import write_image
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video

pytestmark = pytest.mark.usefixtures("inside")


def test_video(flow):
    frames = [frame(index) for index in range(4)]
    write_video("a.gif", frames, 10)
    code, out, err = flow("a.gif", "--show", "new/s.mp4")
    assert (code, err) == (0, [])
    assert out == [*(f"a_flow/{index:06d}.flo" for index in range(3)), "new/s.mp4"]
    assert len(list(read_video("new/s.mp4"))) == 3
    assert video_info("new/s.mp4").fps == 10
    assert flow("a.gif", "--show", "s.webp")[::2] == (0, [])  # from the flow that is there
    assert video_info("s.webp").frames == 3
    Path("in").mkdir()
    for index, image in enumerate(read_video("a.gif")):
        write_image(f"in/{index:06d}.png", image)
    assert flow("in", "-o", "out")[0] == 0
    assert files("out") == files("a_flow")


def test_single_animated_image_is_a_clip(flow):
    write_video("a.webp", [frame(index) for index in range(3)], 10)
    assert flow("a.webp") == (0, ["a_flow/000000.flo", "a_flow/000001.flo"], [])


def test_two_animated_images_are_clips_not_a_pair(flow):
    Path("in").mkdir()
    for name in "ab":
        write_video(f"in/{name}.webp", [frame(index) for index in range(3)], 10)
    flows = [f"{name}/{index:06d}.flo" for name in "ab" for index in range(2)]
    assert flow("in", "-o", "out") == (0, [f"out/{name}" for name in flows], [])
    assert flow("in/a.webp", "in/b.webp", "-o", "named") == (
        0, [f"named/{name}" for name in flows], [],
    )  # fmt: skip
    assert files("named") == files("out")
    write_video("c.mp4", [frame(index) for index in range(2)], 10)
    flows = ["mixed/c/000000.flo", "mixed/a/000000.flo", "mixed/a/000001.flo"]
    assert flow("c.mp4", "in/a.webp", "-o", "mixed") == (0, flows, [])


def test_still_webp_is_a_single_frame(flow):
    write_image("a.webp", frame(0))
    assert flow("a.webp") == (3, [], ["flowwarp: a.webp: is a single frame; flow needs two"])


def test_frame_rate_a_gif_cannot_store_is_refused_before_work(flow):
    write_video("a.mp4", [frame(index) for index in range(3)], 120)
    code, _, err = flow("a.mp4", "--show", "s.gif")
    assert code == 2
    assert "a GIF plays from 1/655 to 50 frames a second" in err[-1]
    assert not Path("a_flow").exists()


def encode(path, codec, pix_fmt, frames):
    with av.open(path, "w") as output:
        stream = output.add_stream(codec, 25, options={"g": "10"} if codec == "libx264" else {})
        stream.pix_fmt = pix_fmt
        stream.height, stream.width = HEIGHT, WIDTH
        for image in frames:
            pixels = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        output.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.avi", "mjpeg", "yuvj420p"), ("a.mp4", "libx264", "yuv420p")],
)
def test_damaged_frame_fails_two_pairs_only(flow, name, codec, pix_fmt):
    encode(name, codec, pix_fmt, [frame(index) for index in range(8)])
    with av.open(name) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    damaged = sorted(packets, key=lambda packet: packet.pts)[4]
    data = bytearray(Path(name).read_bytes())
    # The head of the packet: the size of its first unit, or JPEG's tables.
    first, length = damaged.pos, damaged.size // 2
    data[first : first + length] = np.random.default_rng(0).bytes(length)
    Path(name).write_bytes(data)
    code, out, err = flow(name)
    assert code == 5
    assert out == [f"a_flow/{index:06d}.flo" for index in (0, 1, 2, 5, 6)]
    assert err == [
        f"flowwarp: a_flow/000003.flo: {name}: frame 000004 is damaged",
        f"flowwarp: a_flow/000004.flo: {name}: frame 000004 is damaged",
        "flowwarp: 2 of 7 failed",
    ]


def test_truncated_video(flow):
    write_video("a.gif", [frame(index) for index in range(6)])
    assert flow("a.gif", "-o", "whole")[0] == 0
    whole = Path("a.gif").read_bytes()
    Path("a.gif").write_bytes(whole[: len(whole) // 2])
    code, out, err = flow("a.gif", "--show", "s.gif")
    assert code == 5
    assert 1 <= len(out) - 1 < 5
    assert out[:-1] == [f"a_flow/{index:06d}.flo" for index in range(len(out) - 1)]
    assert len(err) == 2
    assert f"breaks off after {len(out)} frames" in err[0]
    # The complete video is another file: everything is redone.
    Path("a.gif").write_bytes(whole)
    code, out, err = flow("a.gif", "--show", "s.gif")
    assert (code, len(out), err) == (0, 6, [])
    assert files("a_flow") == files("whole")


def test_files_that_are_not_videos(flow):
    Path("a.mp4").write_bytes(b"junk" * 99)
    write_video("b.gif", [frame(0)])
    write_video("c.gif", [frame(0), frame(1)])
    before = files(".")
    assert flow("a.mp4")[2] == ["flowwarp: a.mp4: is not a video of a known type, or is cut off"]
    assert flow("b.gif")[2] == ["flowwarp: b.gif: is a single frame; flow needs two"]
    assert files(".") == before
    code, out, err = flow("a.mp4", "b.gif", "c.gif", "-o", "out")
    assert (code, out) == (5, ["out/c/000000.flo"])
    assert err == [
        "flowwarp: out/a/000000.flo: a.mp4: is not a video of a known type, or is cut off",
        "flowwarp: out/b/000000.flo: b.gif: is a single frame; flow needs two",
        "flowwarp: 2 of 3 failed",
    ]
