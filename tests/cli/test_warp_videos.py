"""``flowwarp warp`` on videos."""

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from warp_images import (
    HEIGHT,
    WIDTH,
    assert_clip,
    assert_picture,
    picture,
    pictures,
    save,
    save_clip,
    save_flow,
    shifted,
)

from flowwarp.io.images import read_image, write_image
from flowwarp.io.video_info import video_info
from flowwarp.io.video_writer import write_video

pytestmark = pytest.mark.usefixtures("inside")


def test_one_flow_for_a_video(warp):
    frames = save_clip("a.gif")
    save_flow("f.flo", 1)
    assert warp("a.gif", "f.flo", "--mask", "masks") == (0, ["a_warped.gif"], [])
    assert_clip("a_warped.gif", [shifted(frame, 1) for frame in frames])
    assert video_info("a_warped.gif").fps == 10
    (mask,) = Path("masks").iterdir()
    assert read_image(mask)[0, 0].tolist() == [1] * 7 + [0]


@pytest.mark.parametrize(("way", "first"), [([], 1), (["--forward"], 0)])
def test_video_with_one_flow_fewer_than_frames(warp, way, first):
    frames = save_clip("a.gif")
    for index in range(3):
        save_flow(f"flows/{index}.flo")
    code, out, _ = warp("a.gif", "flows", "--json", "-o", "new/out.gif", *way)
    assert code == 0
    assert json.loads("".join(out))["results"][0]["frames"] == 3
    assert_clip("new/out.gif", frames[first : first + 3])


def test_video_with_one_flow_per_frame_into_a_folder(warp):
    frames = save_clip("a.gif", 3)
    for index in range(3):
        save_flow(f"flows/{index}.flo", index)
    assert warp("a.gif", "flows", "-o", "out", "--mask", "masks") == (0, ["out"], [])
    for index, frame in enumerate(frames):
        assert_picture(f"out/{index:06d}.png", shifted(frame, index))
        assert read_image(f"masks/{index:06d}.png")[0, 0].sum() == WIDTH - index
    code, _, err = warp("a.gif", "flows", "-o", "out", "--overwrite")
    assert (code, len(err)) == (4, 1)
    assert "not an empty folder" in err[0]


@pytest.mark.parametrize("exists", [True, False])
def test_output_folder_of_a_video_may_contain_a_dot(warp, exists):
    frames = save_clip("a.gif", 3)
    save_flow("f.flo", 1)
    slash = "" if exists else "/"
    for folder in ("w_1.0", "m.d") if exists else ():
        Path(folder).mkdir()
    call = ("a.gif", "f.flo", "-o", f"w_1.0{slash}", "--mask", f"m.d{slash}")
    assert warp(*call) == (0, ["w_1.0"], [])
    assert_clip("w_1.0", [shifted(frame, 1) for frame in frames])
    assert pictures("m.d") == ["000000.png"]
    assert warp(*call)[0] == 4


def test_file_is_not_replaced_by_the_folder_of_a_video(warp):
    save_clip("a.gif")
    save_flow("f.flo")
    Path("mine").write_text("mine")
    before = sorted(Path().iterdir())
    for call in (("-o", "mine"), ("--mask", "mine")):
        code, _, err = warp("a.gif", "f.flo", *call, "--overwrite")
        assert (code, len(err)) == (4, 1)
        assert "mine: exists and is not an empty folder" in err[0]
        assert sorted(Path().iterdir()) == before
    assert Path("mine").read_text() == "mine"


def test_pixel_aspect_is_kept(warp):
    write_video("a.mp4", [picture()] * 2, 10, Fraction(64, 45))
    save_flow("f.flo", 1)
    assert warp("a.mp4", "f.flo")[0] == 0
    assert video_info("a_warped.mp4") == video_info("a.mp4")
    assert video_info("a_warped.mp4").pixel_aspect == Fraction(64, 45)


@pytest.mark.parametrize("output", ["out.gif", "out.webp", "out", "out.mp4/"])
def test_lost_pixel_aspect_gives_a_warning(warp, output):
    write_video("sar.mp4", [picture()] * 2, 10, Fraction(64, 45))
    save_flow("f.flo", 1)
    code, _, err = warp("sar.mp4", "f.flo", "-o", output)
    problem = "will have square pixels, those of the video are 64:45"
    line = f"{output.rstrip('/')}: {problem}; .m4v, .mkv, .mov, .mp4, .webm keep the shape"
    assert (code, err) == (0, [f"flowwarp: {line}"])
    assert warp("sar.mp4", "f.flo", "-o", "out.mkv") == (0, ["out.mkv"], [])


def test_video_or_folder_into_mp4(warp):
    Path("in").mkdir()
    for index in range(3):
        write_image(f"in/{index}.png", torch.full((3, HEIGHT, WIDTH), index / 4))
    save_flow("f.flo", 1)
    assert warp("in", "f.flo", "-o", "a.mp4") == (0, ["a.mp4"], [])
    assert warp("a.mp4", "f.flo") == (0, ["a_warped.mp4"], [])
    expected = [torch.full((3, HEIGHT, WIDTH), index / 4) for index in range(3)]
    assert_clip("a_warped.mp4", expected, atol=4 / 255)


def test_animated_webp_is_a_video_and_a_still_one_an_image(warp):
    save_clip("a.webp")
    image = save("b.webp")
    save_flow("f.flo", 1)
    assert warp("a.webp", "f.flo") == (0, ["a_warped.webp"], [])
    assert video_info("a_warped.webp").frames == 4
    assert warp("b.webp", "f.flo") == (0, ["b_warped.png"], [])
    assert_picture("b_warped.png", shifted(image, 1))


def test_frame_rate_a_gif_cannot_store_is_refused(warp):
    write_video("a.mp4", [picture()] * 3, 120)
    save_flow("f.flo")
    code, _, err = warp("a.mp4", "f.flo", "-o", "a.gif")
    assert (code, len(err)) == (2, 1)
    assert "a GIF plays from 1/655 to 50 frames a second" in err[0]


def test_video_is_written_completely_or_not_at_all(warp):
    save_clip("a.gif")
    Path("cut.gif").write_bytes(Path("a.gif").read_bytes()[:-9])
    save_flow("f.flo")
    for index in range(3):
        save_flow(f"flows/{index}.flo", size=(HEIGHT, WIDTH) if index < 2 else (3, 3))
    before = sorted(Path().rglob("*"))
    for arguments, words in [
        (["cut.gif", "f.flo"], "breaks off"),
        (["cut.gif", "f.flo", "--dry-run"], "breaks off"),
        (["a.gif", "flows"], "flows/2.flo: is 3x3, but a.gif is 8x6"),
        (["a.gif", "flows", "-o", "out", "--mask", "masks"], "flows/2.flo: is 3x3"),
    ]:
        code, out, err = warp(*arguments)
        assert (code, out, len(err)) == (3, [], 1)
        assert words in err[0]
        assert sorted(Path().rglob("*")) == before


def test_dry_run_of_a_video(warp):
    save_clip("a.gif")
    save_flow("f.flo")
    before = sorted(Path().iterdir())
    assert warp("a.gif", "f.flo", "--dry-run", "--mask", "m") == (0, ["a_warped.gif"], [])
    assert sorted(Path().iterdir()) == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no list of open files")
@pytest.mark.parametrize("frames", [2, 3])
def test_source_video_is_closed_before_it_is_replaced(warp, monkeypatch, frames):
    """Windows cannot replace an open file."""
    save_clip("a.gif", 3)
    for index in range(frames):
        save_flow(f"flows/{index}.flo", 1)
    place, replace, left = os.path.realpath("a.gif"), Path.replace, []

    def look(path, target):
        opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
        left.append(opened.count(place))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", look)
    assert warp("a.gif", "flows", "-o", "a.gif", "--overwrite") == (0, ["a.gif"], [])
    assert left == [0]


def test_few_frames_of_a_video_are_in_memory_at_once(warp, frames_held):
    save_clip("a.gif", 30)
    save_flow("f.flo", 1)
    assert warp("a.gif", "f.flo")[0] == 0
    assert 0 < max(frames_held) <= 4
