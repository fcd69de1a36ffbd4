"""``flowwarp warp`` on images small enough to compute the result by hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from warp_images import (
    HEIGHT,
    WIDTH,
    assert_clip,
    assert_picture,
    assert_same_file_content,
    picture,
    save,
    save_clip,
    save_flow,
    shifted,
)

from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import ImageFormat, read_image, read_image_with_format, write_image
from flowwarp.io.video_writer import write_video
from flowwarp.ops.padding import PADDINGS
from flowwarp.ops.warping import warp_reference

pytestmark = pytest.mark.usefixtures("inside")


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_backward_warp_reads_at_x_plus_flow(warp, mode):
    image = save("a.png")
    save_flow("f.flo", 2, 0)
    assert warp("a.png", "f.flo", "--mode", mode) == (0, ["a_warped.png"], [])
    assert_picture("a_warped.png", shifted(image, 2))


def test_positive_v_reads_below(warp):
    image = save("a.png")
    save_flow("f.flo", 0, 1)
    assert warp("a.png", "f.flo")[0] == 0
    assert_picture("a_warped.png", image[:, [1, 2, 3, 4, 5, 5]])


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_and_mask(warp, padding):
    image = save("a.png")
    save_flow("f.flo", 1)
    code, _, err = warp("a.png", "f.flo", "--padding", padding, "--mask", "new/m.png")
    assert (code, err) == (0, [])
    flow = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, HEIGHT, WIDTH)
    expected, valid = warp_reference(image[None], flow, padding=padding)
    assert_picture("a_warped.png", expected[0])
    known, format = read_image_with_format("new/m.png")
    assert format == ImageFormat(8, gray=True)
    assert torch.equal(known[0], valid[0, 0].float())


def test_scale(warp):
    image = save("a.png")
    save_flow("f.flo", 4)
    assert warp("a.png", "f.flo", "--scale", "0.5", "-o", "half.png")[0] == 0
    assert_picture("half.png", shifted(image, 2))
    assert warp("a.png", "f.flo", "--scale", "-0.25", "-o", "back.png")[0] == 0
    assert_picture("back.png", shifted(image, -1))


def test_forward_moves_pixels_along_the_flow(warp):
    image = save("a.png")
    save_flow("f.flo", 2)
    code, out, err = warp("a.png", "f.flo", "--forward", "--scale", "0.5", "--mask", "m.png")
    assert (code, out, err) == (0, ["a_warped.png"], [])
    hole = torch.zeros(3, HEIGHT, 1)
    assert_picture("a_warped.png", torch.cat([hole, image[..., :-1]], 2))
    assert torch.equal(read_image("m.png")[0], (torch.arange(WIDTH) > 0).float().expand(6, 8))


def test_forward_by_half_a_pixel(warp):
    image = save("a.png")
    save_flow("f.flo", 0.5)
    assert warp("a.png", "f.flo", "--forward", "--mask", "m.png")[0] == 0
    assert_picture("a_warped.png", (image + shifted(image, -1)) / 2)
    assert read_image("m.png").min() == 1


def test_softmax_lets_the_faster_pixel_win(warp):
    image = save("a.png")
    flow = torch.zeros(2, HEIGHT, WIDTH)
    flow[0, :, 0] = 1  # the first column moves onto the second, which is still
    write_flow("f.flo", flow)
    assert warp("a.png", "f.flo", "--forward", "-o", "average.png")[0] == 0
    assert warp("a.png", "f.flo", "--forward", "--mode", "softmax", "-o", "softmax.png")[0] == 0
    met, hole = image[..., :2].mean(2, keepdim=True), torch.zeros(3, HEIGHT, 1)
    assert_picture("average.png", torch.cat([hole, met, image[..., 2:]], 2))
    assert_picture("softmax.png", torch.cat([hole, image[..., :1], image[..., 2:]], 2))


def test_softmax_leaves_no_hole_around_slow_pixels(warp):
    image = save("a.png")
    flow = torch.zeros(2, HEIGHT, WIDTH)
    flow[0, 0, 0] = 1e6  # softmax against this one must not underflow
    write_flow("f.flo", flow)
    assert warp("a.png", "f.flo", "--forward", "--mode", "softmax")[0] == 0
    assert_picture("a_warped.png", image * (flow[:1] == 0))


@pytest.mark.parametrize("way", [[], ["--forward"]])
def test_unknown_flow_gives_an_empty_pixel(warp, way):
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
def test_zero_flow_returns_the_same_file(warp, bits, channels, way):
    image = picture(channels, bits)
    if channels == 4:
        image[3, 0] = 0  # colors of transparent pixels stay, too
    write_image("a.png", image, ImageFormat(bits, gray=channels == 1))
    save_flow("f.flo")
    assert warp("a.png", "f.flo", *way)[0] == 0
    assert_same_file_content("a.png", "a_warped.png")


def test_zero_flow_on_gray_with_alpha_and_palette(warp):
    save_flow("f.flo")
    random = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    Image.fromarray(np.ascontiguousarray(random[..., :2]), "LA").save("la.png")
    Image.fromarray(random[..., :3]).quantize(7).save("palette.png")
    for name in ("la", "palette"):
        assert warp(f"{name}.png", "f.flo")[0] == 0
        assert_same_file_content(f"{name}.png", f"{name}_warped.png")


def test_colors_of_transparent_pixels_do_not_bleed(warp):
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


def test_flow_of_another_size_is_refused_or_resized(warp):
    image = save("a.png")
    save_flow("f.flo", 1, size=(HEIGHT // 2, WIDTH // 2))
    code, out, err = warp("a.png", "f.flo")
    assert (code, out) == (3, [])
    assert err == ["flowwarp: f.flo: is 4x3, but a.png is 8x6; --resize fits the flow to the image"]
    assert warp("a.png", "f.flo", "--resize")[0] == 0
    assert_picture("a_warped.png", shifted(image, 2))  # resized flow is scaled, too


def test_json(warp):
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


def test_dry_run_checks_and_writes_nothing(warp):
    save("a.png")
    save_flow("f.flo", 2)
    before = sorted(Path().rglob("*"))
    assert warp("a.png", "f.flo", "--dry-run", "-o", "new/b.png") == (0, ["new/b.png"], [])
    save_flow("small.flo", size=(1, 1))
    assert warp("a.png", "small.flo", "--dry-run")[0] == 3
    assert sorted(Path().rglob("*")) == sorted([*before, Path("small.flo")])


def test_existing_file_needs_overwrite(warp):
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


def test_result_may_replace_its_source(warp):
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
def test_other_input_is_never_replaced(warp, arguments, kept):
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
        (["clip.gif", "f.flo", "-o", "v1.5"], 2, "OUT must end in .apng, .gif"),
        (["clip.gif", "f.flo", "--mask", "m.png"], 2, "--mask must name a folder for a video"),
        (["a.png"], 2, "Missing argument 'FLOW'"),
        (["none.png", "f.flo"], 3, "none.png: no such file or directory"),
        (["a.png", "none.flo"], 3, "none.flo: no such file or directory"),
        (["a.png", "a.png"], 3, "a.png: is 8-bit RGB PNG, not flow"),
        (["a.png", "broken.flo"], 3, "broken.flo: is cut off"),
        (["broken.png", "f.flo"], 3, "broken.png: is not a picture of a known type"),
        (["clip.gif", "broken.flo"], 3, "broken.flo: is cut off"),
        (["broken.mp4", "f.flo"], 3, "broken.mp4: is not a video of a known type"),
        (["a.png", "empty"], 3, "empty: holds no file that can be read"),
        (["empty", "f.flo"], 3, "empty: holds no file that can be read"),
        (["a.png", "f.flo", "-o", "in"], 0, ""),
        (["clear.png", "f.flo", "-o", "b.jpg"], 4, "b.jpg: a .jpg file has no transparency"),
        (["clear.png", "f.flo", "-o", "b.jpg", "--dry-run"], 4, "has no transparency"),
        (["a.png", "f.flo", "-o", "b.pgm", "--dry-run"], 4, "b.pgm: a .pgm file has no colour"),
        (["a.png", "f.flo", "-o", ""], 2, "'--output': it is empty; name a file or a folder"),
        (["a.png", "f.flo", "--mask="], 2, "'--mask': it is empty"),
        (["a.png", "f.flo", "-o", "-"], 2, "results cannot go to stdout"),
        (["a.png", "f.flo", "-o", "a.png/b.png"], 4, "a.png is not a folder"),
    ],
)
def test_errors_are_one_line_and_write_nothing(warp, arguments, code, words):
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


def test_device_without_a_gpu(warp, monkeypatch):
    image = save("a.png")
    save_flow("f.flo", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = warp("a.png", "f.flo", "--device", "cuda")
    assert (code, out, len(err)) == (2, [], 1)
    assert "--device cuda: torch finds no CUDA GPU here" in err[0]
    for device in ("auto", "cpu"):
        assert warp("a.png", "f.flo", "--device", device, "--overwrite")[0] == 0
        assert_picture("a_warped.png", shifted(image, 1))


def test_as_a_program(tmp_path):
    image = save("a.png")
    save_flow("f.flo", 1)
    command = [sys.executable, "-m", "flowwarp", "warp", "a.png", "f.flo"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("a_warped.png\n", "")
    assert_picture("a_warped.png", shifted(image, 1))
