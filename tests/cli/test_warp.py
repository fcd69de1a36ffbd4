"""``flowwarp warp``: as a user calls it, on pictures small enough to know the result by hand."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import ImageFormat, read_image, read_image_with_format, write_image
from flowwarp.io.locks import lock
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video

HEIGHT, WIDTH = 6, 8

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def warp(call):
    return partial(call, "warp")


def picture(channels=3, bits=8, seed=0):
    """Return an image of the values that a file of that depth holds."""
    top = 2**bits - 1
    random = np.random.default_rng(seed).integers(0, top, (channels, HEIGHT, WIDTH), endpoint=True)
    return torch.from_numpy(random.astype(np.float32)) / top


def save(name, channels=3, bits=8, seed=0):
    image = picture(channels, bits, seed)
    write_image(name, image, ImageFormat(bits, gray=channels == 1))
    return image


def save_flow(name, u=0.0, v=0.0, valid=None, size=(HEIGHT, WIDTH)):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    write_flow(
        name, torch.tensor([u, v], dtype=torch.float32).view(2, 1, 1).repeat(1, *size), valid
    )


def pictures(folder):
    return sorted(path.name for path in Path(folder).glob("*.png"))


def shifted(image, columns):
    """Return what a flow of so many whole pixels to the right reads, under border padding."""
    return image[..., (torch.arange(WIDTH) + columns).clamp(0, WIDTH - 1)]


def assert_picture(name, expected):
    torch.testing.assert_close(read_image(name), expected, atol=0.51 / 255, rtol=0)


def assert_same_file_content(first, second):
    (image1, format1), (image2, format2) = map(read_image_with_format, (first, second))
    assert format1 == format2
    assert torch.equal(image1, image2)


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_reads_where_the_flow_points(warp, mode):
    image = save("a.png")
    save_flow("f.flo", 2, 0)
    assert warp("a.png", "f.flo", "--mode", mode) == (0, ["a_warped.png"], [])
    assert_picture("a_warped.png", shifted(image, 2))


def test_y_is_down(warp):
    image = save("a.png")
    save_flow("f.flo", 0, 1)
    assert warp("a.png", "f.flo")[0] == 0
    assert_picture("a_warped.png", image[:, [1, 2, 3, 4, 5, 5]])


@pytest.mark.parametrize(
    ("padding", "column"), [("border", WIDTH - 1), ("zeros", None), ("reflection", WIDTH - 2)]
)
def test_padding_and_mask(warp, padding, column):
    image = save("a.png")
    save_flow("f.flo", 1)
    code, _, err = warp("a.png", "f.flo", "--padding", padding, "--mask", "new/m.png")
    assert (code, err) == (0, [])
    last = torch.zeros(3, HEIGHT) if column is None else image[..., column]
    assert_picture("a_warped.png", torch.cat([image[..., 1:], last[..., None]], 2))
    known, format = read_image_with_format("new/m.png")
    assert format == ImageFormat(8, gray=True)
    assert torch.equal(known[0], (torch.arange(WIDTH) < WIDTH - 1).float().expand(HEIGHT, WIDTH))


def test_halfway(warp):
    image = save("a.png")
    save_flow("f.flo", 4)
    assert warp("a.png", "f.flo", "--scale", "0.5", "-o", "half.png")[0] == 0
    assert_picture("half.png", shifted(image, 2))
    assert warp("a.png", "f.flo", "--scale", "-0.25", "-o", "back.png")[0] == 0
    assert_picture("back.png", shifted(image, -1))


def test_forward_sends_along_the_flow(warp):
    image = save("a.png")
    save_flow("f.flo", 2)
    code, out, err = warp("a.png", "f.flo", "--forward", "--scale", "0.5", "--mask", "m.png")
    assert (code, out, err) == (0, ["a_warped.png"], [])
    hole = torch.zeros(3, HEIGHT, 1)
    assert_picture("a_warped.png", torch.cat([hole, image[..., :-1]], 2))
    assert torch.equal(read_image("m.png")[0], (torch.arange(WIDTH) > 0).float().expand(6, 8))


def test_forward_by_half_a_pixel_covers_the_pixel_that_is_half_left(warp):
    image = save("a.png")
    save_flow("f.flo", 0.5)
    assert warp("a.png", "f.flo", "--forward", "--mask", "m.png")[0] == 0
    assert_picture("a_warped.png", (image + shifted(image, -1)) / 2)
    assert read_image("m.png").min() == 1


def test_where_pixels_meet_the_faster_wins_by_softmax_only(warp):
    image = save("a.png")
    flow = torch.zeros(2, HEIGHT, WIDTH)
    flow[0, :, 0] = 1  # the first column goes onto the second, which rests
    write_flow("f.flo", flow)
    assert warp("a.png", "f.flo", "--forward", "-o", "average.png")[0] == 0
    assert warp("a.png", "f.flo", "--forward", "--mode", "softmax", "-o", "softmax.png")[0] == 0
    met, hole = image[..., :2].mean(2, keepdim=True), torch.zeros(3, HEIGHT, 1)
    assert_picture("average.png", torch.cat([hole, met, image[..., 2:]], 2))
    assert_picture("softmax.png", torch.cat([hole, image[..., :1], image[..., 2:]], 2))


def test_a_fast_pixel_leaves_no_hole_around_slow_ones(warp):
    image = save("a.png")
    flow = torch.zeros(2, HEIGHT, WIDTH)
    flow[0, 0, 0] = 1e6  # softmax against this one must not underflow
    write_flow("f.flo", flow)
    assert warp("a.png", "f.flo", "--forward", "--mode", "softmax")[0] == 0
    assert_picture("a_warped.png", image * (flow[:1] == 0))


@pytest.mark.parametrize("way", [[], ["--forward"]])
def test_unknown_flow_invents_nothing(warp, way):
    image, clear = save("a.png"), save("clear.png", channels=4)
    valid = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[0, 2:4, 3:5] = False
    save_flow("f.png", 0, 0, valid)
    for name, content in (("a", image), ("clear", clear)):
        assert warp(f"{name}.png", "f.png", "--mask", f"{name}_m.png", *way)[0] == 0
        warped, _ = read_image_with_format(f"{name}_warped.png")
        assert torch.equal(warped, content * valid)
        assert torch.equal(read_image(f"{name}_m.png")[:1], valid.float())


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "way",
    [
        ["--mode", "bilinear"],
        ["--mode", "nearest"],
        ["--mode", "bicubic"],
        ["--forward"],
        ["--forward", "--mode", "softmax"],
    ],
)
def test_zero_flow_gives_back_the_same_file(warp, bits, channels, way):
    image = picture(channels, bits)
    if channels == 4:
        image[3, 0] = 0  # colours that nobody sees stay too
    write_image("a.png", image, ImageFormat(bits, gray=channels == 1))
    save_flow("f.flo")
    assert warp("a.png", "f.flo", *way)[0] == 0
    assert_same_file_content("a.png", "a_warped.png")


def test_zero_flow_on_grey_with_alpha_and_palette(warp):
    save_flow("f.flo")
    random = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    Image.fromarray(np.ascontiguousarray(random[..., :2]), "LA").save("la.png")
    Image.fromarray(random[..., :3]).quantize(7).save("palette.png")
    for name in ("la", "palette"):
        assert warp(f"{name}.png", "f.flo")[0] == 0
        assert_same_file_content(f"{name}.png", f"{name}_warped.png")


def test_transparent_colours_do_not_bleed(warp):
    image = torch.tensor([[1.0, 0], [0, 1], [0, 0], [1, 0]])[:, None]  # red, transparent green
    write_image("a.png", image)
    save_flow("f.flo", 0.5, size=(1, 2))
    assert warp("a.png", "f.flo")[0] == 0
    warped, _ = read_image_with_format("a_warped.png")
    expected = torch.tensor([[1.0, 0], [0, 1], [0, 0], [0.5, 0]])[:, None]
    torch.testing.assert_close(warped, expected, atol=0.51 / 255, rtol=0)


def test_cmyk_jpeg_and_a_single_pixel(warp):
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)).save("a.jpg")
    save_flow("f.flo", 1)
    assert warp("a.jpg", "f.flo") == (0, ["a_warped.png"], [])
    red = torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, HEIGHT, WIDTH)
    torch.testing.assert_close(read_image("a_warped.png"), red, atol=4 / 255, rtol=0)
    Image.new("RGB", (1, 1), (9, 8, 7)).save("one.png")
    save_flow("one.flo", 100, -100, size=(1, 1))
    assert warp("one.png", "one.flo")[0] == 0
    assert_same_file_content("one.png", "one_warped.png")
    assert warp("one.png", "one.flo", "--forward", "--overwrite")[0] == 0
    assert read_image("one_warped.png").sum() == 0


def test_another_size_is_refused_or_resized(warp):
    image = save("a.png")
    save_flow("f.flo", 1, size=(HEIGHT // 2, WIDTH // 2))
    code, out, err = warp("a.png", "f.flo")
    assert (code, out) == (3, [])
    assert err == ["flowwarp: f.flo: is 4x3, but a.png is 8x6; --resize fits the flow to the image"]
    assert warp("a.png", "f.flo", "--resize")[0] == 0
    assert_picture("a_warped.png", shifted(image, 2))  # a step is twice as long now


def test_json_says_what_was_done(warp):
    save("a.png")
    save_flow("f.flo", 2)
    code, out, err = warp("a.png", "f.flo", "--json", "-o", "new/b.png", "--mask", "m.png")
    assert (code, err) == (0, [])
    assert json.loads("".join(out)) == {
        "dry_run": False,
        "results": [
            {
                "input": "a.png",
                "flow": ["f.flo"],
                "output": "new/b.png",
                "mask": "m.png",
                "height": HEIGHT,
                "width": WIDTH,
                "known": 0.75,
            }
        ],
        "failed": [],
    }


def test_a_dry_run_checks_and_writes_nothing(warp):
    save("a.png")
    save_flow("f.flo", 2)
    before = sorted(Path().rglob("*"))
    assert warp("a.png", "f.flo", "--dry-run", "-o", "new/b.png") == (0, ["new/b.png"], [])
    save_flow("small.flo", size=(1, 1))
    assert warp("a.png", "small.flo", "--dry-run")[0] == 3
    assert sorted(Path().rglob("*")) == sorted([*before, Path("small.flo")])


def test_an_existing_file_is_kept_unless_told(warp):
    image = save("a.png")
    save_flow("f.flo", 1)
    Path("a_warped.png").write_text("mine")
    assert warp("a.png", "f.flo") == (
        4,
        [],
        ["flowwarp: a_warped.png: exists; use --overwrite to replace it"],
    )
    assert warp("a.png", "f.flo", "-o", "b.png", "--mask", "a_warped.png")[0] == 4
    assert Path("a_warped.png").read_text() == "mine"
    assert warp("a.png", "f.flo", "--overwrite")[0] == 0
    assert_picture("a_warped.png", shifted(image, 1))
    assert warp("a.png", "f.flo", "-o", "a.png", "--overwrite")[0] == 0  # onto itself
    assert_picture("a.png", shifted(image, 1))


def test_onto_itself_a_video_too(warp):
    frames = save_clip("a.gif")
    save_flow("f.flo", 1)
    assert warp("a.gif", "f.flo", "-o", "a.gif", "--overwrite")[0] == 0
    assert_clip("a.gif", [shifted(frame, 1) for frame in frames])


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["a.png", "f.png", "-o", "w.png", "--mask", "a.png"], "a.png"),
        (["a.png", "f.png", "-o", "w.png", "--mask", "f.png"], "f.png"),
        (["a.png", "f.png", "-o", "./f.png"], "f.png"),
        (["a.png", "f.png", "-o", "link.png"], "f.png"),
        (["clip.webp", "f.png", "-o", "link.webp"], "f.png"),
    ],
)
def test_nothing_else_that_is_read_is_replaced(warp, arguments, kept):
    save("a.png")
    save_flow("f.png", 1)
    write_video("clip.webp", [picture()] * 2)
    for name in ("link.png", "link.webp"):
        Path(name).symlink_to("f.png")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    code, out, err = warp(*arguments, "--overwrite")
    target = Path(arguments[-1])
    line = f"flowwarp: {target}: is the input {kept}; name another file to write"
    assert (code, out, err) == (4, [], [line])
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a.png", "f.flo", "--mode", "softmax"], 2, "--mode softmax needs --forward"),
        (["a.png", "f.flo", "--forward", "--mode", "nearest"], 2, "does not go with --forward"),
        (["a.png", "f.flo", "--forward", "--padding", "zeros"], 2, "does not go with --forward"),
        (["a.png", "f.flo", "--scale", "nan"], 2, "--scale must be a finite number"),
        (["a.png", "f.flo", "-o", "b.txt"], 2, "OUT must end in .bmp, .jpeg"),
        (["a.png", "f.flo", "-o", "b.mp4"], 2, "OUT must end in .bmp, .jpeg"),
        (["a.png", "f.flo", "--mask", "m.jpg"], 2, "--mask must end in .png"),
        (["a.png", "f.flo", "-o", "b.png", "--mask", "b.png"], 2, "are both 'b.png'"),
        (["a.png", "f.flo", "-o", "b.png", "--mask", "./x/../b.png"], 2, "are both './x/../b.png'"),
        (["in", "f.flo", "-o", "b.png"], 2, "many frames need a folder, but OUT is 'b.png'"),
        (["in", "f.flo", "--mask", "m.png"], 2, "many frames need a folder, but --mask"),
        (["in/*.png", "f.flo"], 2, "give -o FOLDER when IMAGE is a pattern"),
        (["clip.gif", "f.flo", "-o", "b.png"], 2, "many frames need a folder or a video"),
        (["clip.gif", "f.flo", "-o", "v1.5"], 2, "OUT must end in .gif, .m4v"),
        (["clip.gif", "f.flo", "--mask", "m.png"], 2, "--mask must name a folder for a video"),
        (["a.png"], 2, "Missing argument 'FLOW'"),
        (["none.png", "f.flo"], 3, "none.png: no such file or directory"),
        (["a.png", "none.flo"], 3, "none.flo: no such file or directory"),
        (["a.png", "a.png"], 3, "a.png: is 8-bit RGB PNG, not flow"),
        (["a.png", "broken.flo"], 3, "broken.flo: is cut off"),
        (["broken.png", "f.flo"], 3, "broken.png: is not a picture of a known kind"),
        (["clip.gif", "broken.flo"], 3, "broken.flo: is cut off"),
        (["broken.mp4", "f.flo"], 3, "broken.mp4: is not a video of a known type"),
        (["a.png", "empty"], 3, "empty: holds no file that can be read"),
        (["empty", "f.flo"], 3, "empty: holds no file that can be read"),
        (["a.png", "f.flo", "-o", "in"], 0, ""),
        (["clear.png", "f.flo", "-o", "b.jpg"], 4, "b.jpg: a .jpg file holds no transparency"),
        (["clear.png", "f.flo", "-o", "b.jpg", "--dry-run"], 4, "holds no transparency"),
        (["a.png", "f.flo", "-o", "b.pgm", "--dry-run"], 4, "b.pgm: a .pgm file holds no colour"),
        (["a.png", "f.flo", "-o", ""], 2, "'--output': it is empty; name a file or a folder"),
        (["a.png", "f.flo", "--mask="], 2, "'--mask': it is empty"),
        (["a.png", "f.flo", "-o", "-"], 2, "results cannot go to stdout"),
        (["a.png", "f.flo", "-o", "a.png/b.png"], 4, "a.png is not a folder"),
    ],
)
def test_faults_are_one_line_and_leave_nothing(warp, arguments, code, words):
    save("a.png")
    save("clear.png", channels=4)
    save_flow("f.flo", 1)
    Path("in").mkdir()
    save("in/1.png")
    Path("empty").mkdir()
    write_video("clip.gif", [picture()] * 2)
    Path("broken.flo").write_bytes(Path("f.flo").read_bytes()[:-1])
    for name in ("broken.png", "broken.mp4"):
        Path(name).write_text("no picture")
    before = sorted(Path().rglob("*"))
    got, out, err = warp(*arguments)
    assert got == code
    if code:
        assert (out, len(err)) == ([], 1)
        assert words in err[0]
        assert sorted(Path().rglob("*")) == before
    else:
        assert out == ["in/a.png"]


def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(warp, monkeypatch):
    image = save("a.png")
    save_flow("f.flo", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = warp("a.png", "f.flo", "--device", "cuda")
    assert (code, out, len(err)) == (2, [], 1)
    assert "--device cuda: torch finds no CUDA GPU here" in err[0]
    for device in ("auto", "cpu"):
        assert warp("a.png", "f.flo", "--device", device, "--overwrite")[0] == 0
        assert_picture("a_warped.png", shifted(image, 1))


# ------------------------------------------------------------------ folders


def save_frames(folder, count):
    Path(folder).mkdir()
    # Natural order: frame9 comes before frame10.
    return [save(f"{folder}/frame{index}.png", seed=index) for index in range(8, 8 + count)]


def test_a_flow_for_each_frame(warp):
    frames = save_frames("in", 3)
    for index in range(3):
        save_flow(f"flows/{index + 9}.flo", index)
    write_image("flows/9_flow.png", picture())  # as `show` puts it there
    code, out, err = warp("in/", "flows", "--mask", "masks")
    assert (code, err) == (0, [])
    assert out == [f"in_warped/frame{index}.png" for index in (8, 9, 10)]
    for index, frame in enumerate(frames):
        assert_picture(out[index], shifted(frame, index))
        assert read_image(f"masks/frame{index + 8}.png")[0, 0].sum() == WIDTH - index


@pytest.mark.parametrize(("way", "first"), [([], 1), (["--forward"], 0)])
def test_a_flow_between_frames(warp, way, first):
    frames = save_frames("in", 3)
    for index in range(2):
        save_flow(f"flows/{index}.flo")
    code, out, err = warp("in", "flows/*.flo", "-o", "new/out", *way)
    assert (code, err) == (0, [])
    assert out == [f"new/out/frame{8 + first + index}.png" for index in range(2)]
    for index in range(2):
        assert_picture(out[index], frames[first + index])


def test_flows_of_other_frames_are_told(warp):
    """Such as are left of an earlier call, before a frame was deleted."""
    save_frames("in", 3)
    for index in (7, 8, 9):
        save_flow(f"flows/frame{index}.flo")
    code, out, err = warp("in", "flows")
    assert (code, len(out)) == (0, 3)
    line = "flows/frame8.flo: is taken as the flow of frame9.png: the names do not agree"
    assert err == [f"flowwarp: {line}"]
    Path("flows/frame7.flo").unlink()
    assert warp("in", "flows", "-o", "between")[::2] == (0, [])


def test_one_flow_for_all_frames(warp):
    frames = save_frames("in", 2)
    save_flow("f.flo", 1)
    code, out, _ = warp("in/*.png", "f.flo", "-o", "out")
    assert (code, out) == (0, ["out/frame8.png", "out/frame9.png"])
    for name, frame in zip(out, frames, strict=True):
        assert_picture(name, shifted(frame, 1))


@pytest.mark.parametrize("count", [1, 4])
def test_another_number_of_flows(warp, count):
    save_frames("in", 3)
    for index in range(count):
        save_flow(f"flows/{index}.flo")
    assert warp("in", "flows") == (
        3,
        [],
        [
            f"flowwarp: flows: holds {count} flow files for 3 frames; "
            "give one for each frame, or one fewer, or a single file for all"
        ],
    )
    assert not Path("in_warped").exists()


def test_bad_files_do_not_stop_the_others(warp):
    frames = save_frames("in", 4)
    for index in range(4):
        save_flow(f"flows/{index}.flo", 1)
    Path("flows/1.flo").write_bytes(b"PIEH")
    save_flow("flows/2.flo", size=(3, 3))
    Path("in/frame8.png").write_text("no picture")
    code, out, err = warp("in", "flows", "-o", "out")
    assert (code, out) == (5, ["out/frame11.png"])
    assert err == [
        "flowwarp: in/frame8.png: is not a picture of a known kind",
        "flowwarp: flows/1.flo: is cut off in its header",
        "flowwarp: flows/2.flo: is 3x3, but in/frame10.png is 8x6; --resize fits the flow to the"
        " image",
        "flowwarp: 3 of 4 failed",
    ]
    assert_picture(out[0], shifted(frames[3], 1))
    assert pictures("out") == ["frame11.png"]
    code, out, _ = warp("in", "flows", "-o", "out", "--overwrite", "--json")
    assert code == 5
    assert [fault["input"] for fault in json.loads("".join(out))["failed"]] == [
        "in/frame8.png",
        "in/frame9.png",
        "in/frame10.png",
    ]


def test_the_same_command_does_what_is_left(warp):
    save_frames("in", 3)
    save_flow("f.flo", 1)
    whole = Path("in/frame9.png").read_bytes()
    Path("in/frame9.png").write_text("no picture")
    call = ("in", "f.flo", "-o", "out", "--mask", "masks")
    assert warp(*call)[0] == 5
    done = [Path(f"{folder}/frame8.png") for folder in ("out", "masks")]
    times = [path.stat().st_mtime_ns for path in done]
    Path("in/frame9.png").write_bytes(whole)
    code, out, _ = warp(*call, "--dry-run", "--json")
    assert code == 0
    assert [result["kept"] for result in json.loads("".join(out))["results"]] == [True, False, True]
    assert pictures("out") == ["frame10.png", "frame8.png"]
    code, out, err = warp(*call, "--json")
    assert (code, err) == (0, [])
    results = json.loads("".join(out))["results"]
    assert [result.pop("kept") for result in results] == [True, False, True]
    assert results[0] == {
        "input": "in/frame8.png",
        "flow": ["f.flo"],
        "output": "out/frame8.png",
        "mask": "masks/frame8.png",
        "height": HEIGHT,
        "width": WIDTH,
        "known": results[1]["known"],
    }
    assert [path.stat().st_mtime_ns for path in done] == times
    assert len(pictures("out")) == len(pictures("masks")) == 3

    # What is gone, or comes of a file that has changed, is made again.
    done[0].unlink()
    save("in/frame10.png", seed=9)
    code, out, _ = warp(*call, "--json")
    results = json.loads("".join(out))["results"]
    assert [result["kept"] for result in results] == [False, True, False]
    assert_picture("out/frame10.png", shifted(picture(seed=9), 1))


def test_another_job_in_the_same_folder_is_refused(warp):
    save_frames("in", 2)
    save_flow("f.flo", 1)
    assert warp("in", "f.flo", "-o", "out")[0] == 0
    code, _, err = warp("in", "f.flo", "-o", "out", "--scale", "0.5")
    assert (code, err) == (
        4,
        [
            "flowwarp: out: holds another job, whose scale is 1.0, not 0.5;"
            " name another folder, or begin again with --overwrite"
        ],
    )
    assert warp("in", "f.flo", "-o", "out", "--scale", "0.5", "--overwrite")[0] == 0
    assert warp("in", "f.flo", "-o", "out", "--scale", "0.5", "--device", "auto")[0] == 0


def test_two_at_once_on_one_folder(warp):
    save_frames("in", 2)
    save_flow("f.flo")
    Path("out").mkdir()
    with lock("out", "held"):
        code, out, err = warp("in", "f.flo", "-o", "out")
    assert (code, out, err) == (
        8,
        [],
        ["flowwarp: out: another process works on this; wait for it"],
    )
    assert pictures("out") == []


def test_a_folder_for_a_videos_masks_is_looked_at_first(warp):
    write_video("clip.gif", [picture()] * 2)
    save_flow("f.flo")
    Path("masks").mkdir()
    Path("masks/mine.png").write_text("mine")
    before = sorted(Path().rglob("*"))
    for call in (("--mask", "masks"), ("-o", "masks")):
        for more in ((), ("--dry-run",)):
            code, out, err = warp("clip.gif", "f.flo", *call, *more)
            assert (code, out) == (4, [])
            assert err == ["flowwarp: masks: exists and is not an empty folder; name a new one"]
            assert sorted(Path().rglob("*")) == before


def test_frames_are_not_written_among_those_to_read(warp):
    save_frames("in", 2)
    save_flow("f.flo")
    before = Path("in/frame8.png").read_bytes()
    for call in (("-o", "in"), ("-o", "out", "--mask", "in")):
        code, _, err = warp("in", "f.flo", *call, "--overwrite")
        assert (code, err) == (
            4, ["flowwarp: in: holds frames to read; name another folder"],
        )  # fmt: skip
    assert Path("in/frame8.png").read_bytes() == before


@pytest.mark.parametrize("given", ["flows", "flows/*.png"])
def test_frames_are_not_written_among_the_flows_to_read(warp, given):
    save_frames("in", 2)
    for index in (8, 9):
        save_flow(f"flows/frame{index}.png", 1)  # names that the results have too
    before = Path("flows/frame8.png").read_bytes()
    for call in (("-o", "flows"), ("-o", "out", "--mask", "flows")):
        code, out, err = warp("in", given, *call, "--overwrite")
        assert (code, out, err) == (
            4, [], ["flowwarp: flows: holds flows to read; name another folder"],
        )  # fmt: skip
    assert Path("flows/frame8.png").read_bytes() == before
    assert pictures("flows") == ["frame8.png", "frame9.png"]


def test_links_to_frames_are_not_written_through(warp):
    """A result goes where a link leads: to the frame, if it lies among links to frames."""
    save_frames("in", 2)
    save_flow("f.flo", 1)
    Path("links").mkdir()
    for frame in Path("in").iterdir():
        Path("links", frame.name).symlink_to(frame.absolute())
    before = [frame.read_bytes() for frame in sorted(Path("in").iterdir())]
    for folder in ("links", "in"):
        assert warp("links", "f.flo", "-o", folder, "--overwrite") == (
            4, [], [f"flowwarp: {folder}: holds frames to read; name another folder"],
        )  # fmt: skip
    assert [frame.read_bytes() for frame in sorted(Path("in").iterdir())] == before


@pytest.mark.parametrize("folder", ["out.png", "v1.5", "clip.mp4"])
def test_a_folder_of_frames_may_be_named_like_a_file(warp, folder):
    frames = save_frames("in", 2)
    save_flow("f.flo", 1)
    code, out, err = warp("in", "f.flo", "-o", f"{folder}/")
    assert (code, out, err) == (0, [f"{folder}/frame{index}.png" for index in (8, 9)], [])
    assert_picture(out[0], shifted(frames[0], 1))


def test_nothing_is_written_if_one_result_exists(warp):
    save_frames("in", 2)
    save_flow("f.flo")
    Path("out").mkdir()
    Path("out/frame9.png").write_text("mine")
    code, _, err = warp("in", "f.flo", "-o", "out")
    assert (code, err) == (
        4,
        [
            "flowwarp: out: is not empty, and holds no job to go on with;"
            " name another folder, or use --overwrite"
        ],
    )
    assert pictures("out") == ["frame9.png"]


def test_a_folder_called_dot(warp, tmp_path, monkeypatch):
    save_frames("in", 1)
    save_flow("f.flo")
    monkeypatch.chdir("in")
    assert warp(".", "../f.flo")[:2] == (0, [f"{tmp_path}/in_warped/frame8.png"])


# ------------------------------------------------------------------ videos


def save_clip(name, count=4):
    """Write columns of a few colours that a GIF holds exactly."""
    frames = []
    for index in range(count):
        level = ((torch.arange(WIDTH) + 2 * index) % 4) / 3
        frames.append(level.expand(3, HEIGHT, WIDTH))
    write_video(name, frames, 10)
    return frames


def assert_clip(name, expected, atol=0.51 / 255):
    for got, wanted in zip(read_video(name), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=atol, rtol=0)


def test_one_flow_for_a_video(warp):
    frames = save_clip("a.gif")
    save_flow("f.flo", 1)
    assert warp("a.gif", "f.flo", "--mask", "masks") == (0, ["a_warped.gif"], [])
    assert_clip("a_warped.gif", [shifted(frame, 1) for frame in frames])
    assert video_info("a_warped.gif").fps == 10
    (mask,) = Path("masks").iterdir()
    assert read_image(mask)[0, 0].tolist() == [1] * 7 + [0]


@pytest.mark.parametrize(("way", "first"), [([], 1), (["--forward"], 0)])
def test_flows_between_the_frames_of_a_video(warp, way, first):
    frames = save_clip("a.gif")
    for index in range(3):
        save_flow(f"flows/{index}.flo")
    code, out, _ = warp("a.gif", "flows", "--json", "-o", "new/out.gif", *way)
    assert code == 0
    assert json.loads("".join(out))["results"][0]["frames"] == 3
    assert_clip("new/out.gif", frames[first : first + 3])


def test_a_flow_for_each_frame_of_a_video_into_a_folder(warp):
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
def test_the_folder_of_a_video_may_have_a_dot_in_its_name(warp, exists):
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


def test_a_file_in_the_place_of_a_folder_for_a_video_is_kept(warp):
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


def test_pixels_that_are_not_square_stay_so(warp):
    write_video("a.mp4", [picture()] * 2, 10, Fraction(64, 45))
    save_flow("f.flo", 1)
    assert warp("a.mp4", "f.flo")[0] == 0
    assert video_info("a_warped.mp4") == video_info("a.mp4")
    assert video_info("a_warped.mp4").pixel_aspect == Fraction(64, 45)


@pytest.mark.parametrize("output", ["out.gif", "out.webp", "out", "out.mp4/"])
def test_pixels_that_become_square_are_told_of(warp, output):
    write_video("sar.mp4", [picture()] * 2, 10, Fraction(64, 45))
    save_flow("f.flo", 1)
    code, _, err = warp("sar.mp4", "f.flo", "-o", output)
    problem = "will have square pixels, those of the video are 64:45"
    line = f"{output.rstrip('/')}: {problem}; .m4v, .mkv, .mov, .mp4 keep the shape"
    assert (code, err) == (0, [f"flowwarp: {line}"])
    assert warp("sar.mp4", "f.flo", "-o", "out.mkv") == (0, ["out.mkv"], [])


def test_a_video_or_a_folder_into_mp4(warp):
    Path("in").mkdir()
    for index in range(3):
        write_image(f"in/{index}.png", torch.full((3, HEIGHT, WIDTH), index / 4))
    save_flow("f.flo", 1)
    assert warp("in", "f.flo", "-o", "a.mp4") == (0, ["a.mp4"], [])
    assert warp("a.mp4", "f.flo") == (0, ["a_warped.mp4"], [])
    expected = [torch.full((3, HEIGHT, WIDTH), index / 4) for index in range(3)]
    assert_clip("a_warped.mp4", expected, atol=4 / 255)


def test_an_animated_webp_is_a_video_and_a_still_one_a_picture(warp):
    save_clip("a.webp")
    image = save("b.webp")
    save_flow("f.flo", 1)
    assert warp("a.webp", "f.flo") == (0, ["a_warped.webp"], [])
    assert video_info("a_warped.webp").frames == 4
    assert warp("b.webp", "f.flo") == (0, ["b_warped.png"], [])
    assert_picture("b_warped.png", shifted(image, 1))


def test_a_rate_that_a_gif_cannot_say_is_refused(warp):
    write_video("a.mp4", [picture()] * 3, 120)
    save_flow("f.flo")
    code, _, err = warp("a.mp4", "f.flo", "-o", "a.gif")
    assert (code, len(err)) == (2, 1)
    assert "a GIF plays from 1/655 to 50 frames a second" in err[0]


def test_a_video_is_written_whole_or_not_at_all(warp):
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


def test_a_video_is_dry_run(warp):
    save_clip("a.gif")
    save_flow("f.flo")
    before = sorted(Path().iterdir())
    assert warp("a.gif", "f.flo", "--dry-run", "--mask", "m") == (0, ["a_warped.gif"], [])
    assert sorted(Path().iterdir()) == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no list of open files")
@pytest.mark.parametrize("frames", [2, 3])
def test_a_video_is_closed_before_it_is_replaced(warp, monkeypatch, frames):
    """Windows replaces nothing that is open."""
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


def test_few_frames_of_a_video_are_held_at_once(warp, frames_held):
    save_clip("a.gif", 30)
    save_flow("f.flo", 1)
    assert warp("a.gif", "f.flo")[0] == 0
    assert 0 < max(frames_held) <= 4


def test_as_a_program(tmp_path):
    image = save("a.png")
    save_flow("f.flo", 1)
    command = [sys.executable, "-m", "flowwarp", "warp", "a.png", "f.flo"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("a_warped.png\n", "")
    assert_picture("a_warped.png", shifted(image, 1))
