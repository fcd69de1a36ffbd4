"""``flowwarp show``: each option, on images that are easy to check."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowwarp.cli import main
from flowwarp.cli import show as command
from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import read_image, write_image
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.viz.colors import flow_to_image, legend
from flowwarp.viz.overlay import arrows, error_map

HEIGHT, WIDTH = 40, 48
FLOW = "is a flow file; name another OUT for images"
FRAME = "is the input {}; name another file to write"
pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def show(capsys):
    """Run the command; return exit code, stdout lines and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["show", *arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out.splitlines(), captured.err

    return run


def save_flow(name, u, v=0, valid=None):
    flow = torch.tensor([float(u), float(v)]).view(2, 1, 1).repeat(1, HEIGHT, WIDTH)
    Path(name).parent.mkdir(exist_ok=True)
    write_flow(name, flow, valid)
    return flow[None]


def save_frame(name, shift=0):
    """Write an image that warps exactly: a ramp from left to right in steps of 5 levels."""
    ramp = (torch.arange(WIDTH) - shift).clamp(0, WIDTH - 1) * 5 / 255
    image = ramp.expand(3, HEIGHT, WIDTH).contiguous()
    write_image(name, image)
    return image[None]


def assert_picture(name, expected):
    torch.testing.assert_close(read_image(name)[None], expected, atol=0.51 / 255, rtol=0)


def test_default_is_a_color_image_beside_the_flow(show):
    save_flow("a.flo", 3)
    assert show("a.flo") == (0, ["a_flow.png"], "")
    assert_picture("a_flow.png", torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 40, 48))


def test_max_sets_the_scale(show):
    flow = save_flow("a.flo", 3)
    assert show("a.flo", "--max", "6", "-o", "out/half.png") == (0, ["out/half.png"], "")
    assert_picture("out/half.png", flow_to_image(flow, max_flow=6))


def test_unknown_pixels_are_black(show):
    valid = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[0, :, :10] = False
    save_flow("kitti.png", -2, 1, valid)
    assert show("kitti.png")[:2] == (0, ["kitti_flow.png"])
    black = (read_image("kitti_flow.png") == 0).all(0)
    assert torch.equal(black, ~valid[0])


def test_legend_is_added_on_the_right(show):
    flow = save_flow("a.flo", 3)
    assert show("a.flo", "--legend")[0] == 0
    picture = read_image("a_flow.png")
    assert picture.shape == (3, 112, WIDTH + 4 + 96)
    colors = flow_to_image(flow, max_flow=3)[0]
    torch.testing.assert_close(picture[:, :HEIGHT, :WIDTH], colors, atol=0.51 / 255, rtol=0)
    torch.testing.assert_close(picture[:, :, -96:], legend(3.0), atol=0.51 / 255, rtol=0)


def test_image_is_blended_in(show):
    flow, image = save_flow("a.flo", 3), save_frame("1.png")
    assert show("a.flo", "--image", "1.png")[0] == 0
    assert_picture("a_flow.png", (flow_to_image(flow, max_flow=3) + image) / 2)


def test_side_by_side_shows_image_and_colors(show):
    flow, image = save_flow("a.flo", 3), save_frame("1.png")
    assert show("a.flo", "--image", "1.png", "--side-by-side")[0] == 0
    gap = torch.ones(1, 3, HEIGHT, 4)
    expected = torch.cat([image, gap, flow_to_image(flow, max_flow=3)], 3)
    assert_picture("a_flow.png", expected)


def test_arrows(show):
    flow, image = save_flow("a.flo", 3), save_frame("1.png")
    assert show("a.flo", "--arrows")[1] == ["a_arrows.png"]
    assert_picture("a_arrows.png", arrows(flow, scale=8))  # 3 px fill the grid of 24
    assert show("a.flo", "--arrows", "--max", "6", "--image", "1.png", "--overwrite")[0] == 0
    assert_picture("a_arrows.png", arrows(flow, image, scale=4))


def test_error_draws_and_measures(show):
    flow, truth = save_flow("a.flo", 3, 4), save_flow("truth.flo", 0)
    status, out, err = show("a.flo", "--error", "truth.flo")
    assert (status, out) == (0, ["a_error.png"])
    assert err == "EPE 5.000 px, Fl-all 100.00 %, angle 78.69° on 100.0% of the pixels\n"
    assert_picture("a_error.png", error_map(flow, truth))
    status, out, _ = show("a.flo", "--error", "truth.flo", "--json", "--overwrite")
    (result,) = json.loads("".join(out))["results"]
    assert result["epe"] == 5
    assert result["fl_all"] == 100
    assert result["compared"] == 1
    assert result["output"] == "a_error.png"


def test_error_counts_pixels_valid_in_both(show):
    valid = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[0, :10] = False
    save_flow("a.flo", 3, 4, valid)
    save_flow("truth.flo", 3, 4, valid.flip(1))
    status, out, _ = show("a.flo", "--error", "truth.flo", "--json")
    (result,) = json.loads("".join(out))["results"]
    assert (result["epe"], result["compared"]) == (0, 0.5)
    black = (read_image("a_error.png") == 0).all(0)
    assert torch.equal(black, ~(valid & valid.flip(1))[0])
    save_flow("truth.flo", 3, 4, ~valid)
    status, out, _ = show("a.flo", "--error", "truth.flo", "--json", "--overwrite")
    (result,) = json.loads("".join(out))["results"]
    assert (status, result["epe"], result["compared"]) == (0, None, 0)


def test_error_side_by_side_with_everything(show):
    save_flow("a.flo", 3)
    save_flow("truth.flo", 2)
    save_frame("1.png")
    options = ["--error", "truth.flo", "--image", "1.png", "--side-by-side", "--legend"]
    assert show("a.flo", *options)[0] == 0
    picture = read_image("a_error.png")
    assert picture.shape == (3, 120, 4 * (WIDTH + 4) + 96 + 4 + 80)
    estimate, truth = (picture[:, 20, 60 + 52 * index] for index in range(2))
    red = torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(truth, red)  # the truth sets the scale
    torch.testing.assert_close(estimate, 0.75 * red, atol=0.51 / 255, rtol=0)  # 3 px of 2
    assert show("a.flo", *options[:2], "--legend", "-o", "alone.png")[0] == 0
    assert read_image("alone.png").shape == (3, 120, WIDTH + 4 + 80)


def test_flicker_is_still_where_the_flow_is_right(show):
    valid = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[0, :20] = False
    save_flow("a.flo", 4, valid=valid)
    save_frame("1.png")
    save_frame("2.png", shift=4)
    assert show("a.flo", "--image", "1.png", "--flicker", "2.png") == (0, ["a_flicker.gif"], "")
    options = ["--image", "1.png", "--flicker", "2.png", "-o", "out/x.mp4"]
    assert show("a.flo", *options) == (0, ["out/x.mp4"], "")
    first, second = read_video("a_flicker.gif")
    torch.testing.assert_close(first[..., :40], second[..., :40], atol=0.02, rtol=0)
    assert (first[:, 20:, 47] - second[:, 20:, 47]).abs().min() > 0.05  # frame 2 ends there
    torch.testing.assert_close(first[:, :20], second[:, :20], atol=0.02, rtol=0)  # unknown
    assert video_info("a_flicker.gif").fps == 2


def test_folder_becomes_a_folder_or_images_beside(show, tmp_path):
    (tmp_path / "flows").mkdir()
    for name, u in (("f10", 1), ("f2", -1)):
        save_flow(f"flows/{name}.flo", u)
    assert show("flows", "-o", "out") == (0, ["out/f2.png", "out/f10.png"], "")
    assert show("flows/*.flo")[:2] == (0, ["flows/f2_flow.png", "flows/f10_flow.png"])
    assert_picture("out/f2.png", read_image("flows/f2_flow.png")[None])


@pytest.mark.parametrize("given", ["flows", "flows/*"])
def test_pictures_of_show_are_left_out(show, given):
    for name in ("a.flo", "b.png"):
        save_flow(f"flows/{name}", 1)
    made = ["flows/a_flow.png", "flows/b_flow.png"]
    assert show(given) == (0, made, "")
    assert show(given) == (
        4,
        [],
        "flowwarp: flows/a_flow.png: exists; use --overwrite to replace it\n",
    )
    assert show(given, "--overwrite") == (0, made, "")
    assert show(given, "--arrows")[:2] == (0, ["flows/a_arrows.png", "flows/b_arrows.png"])
    assert show(given, "-o", "out") == (0, ["out/a.png", "out/b.png"], "")
    assert show(given, "-o", "out.gif") == (0, ["out.gif"], "")
    assert show("flows/a.flo", "flows/a_flow.png", "-o", "out", "--overwrite")[0] == 5  # named


def test_flow_named_like_a_picture_of_show_is_read(show):
    for name in ("a.flo", "a_flow.png"):
        save_flow(name, 1)
    assert show(".", "-o", "out") == (0, ["out/a.png", "out/a_flow.png"], "")
    assert show("a_flow.png") == (0, ["a_flow_flow.png"], "")


@pytest.mark.parametrize(
    ("arguments", "kept", "problem"),
    [
        ("a.flo a_flow.png", "a_flow.png", FLOW),
        ("a.flo", "a_flow.png", FLOW),  # though it is not read
        (".", "a_flow.png", FLOW),
        ("a_flow.png -o ./a_flow.png", "a_flow.png", FLOW),
        ("*_flow.png -o .", "a_flow.png", FLOW),
        ("a.flo --error a_flow.png -o link.png", "link.png", FLOW),
        ("a.flo --image 1.png -o 1.png", "1.png", FRAME.format("1.png")),
        ("a.flo --image 1.png --flicker 2.webp -o 2.webp", "2.webp", FRAME.format("2.webp")),
    ],
)
def test_flow_and_input_frames_are_never_replaced(show, tmp_path, arguments, kept, problem):
    for name in ("a.flo", "a_flow.png"):
        save_flow(name, 1)
    for name in ("1.png", "2.webp"):
        save_frame(name)
    (tmp_path / "link.png").symlink_to("a_flow.png")
    before = (tmp_path / kept).read_bytes()
    code, out, err = show(*arguments.split(), "--overwrite")
    assert (code, out) == (4, [])
    assert err == f"flowwarp: {kept}: {problem}\n"
    assert (tmp_path / kept).read_bytes() == before


def test_two_flows_with_one_output_name_are_refused(show, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("a.flo", "a.pfm"):
        save_flow(name, 1)
    for where, more in ((".", ()), ("out", ("-o", "out"))):
        before = sorted(tmp_path.rglob("*"))
        code, out, err = show("a.flo", "a.pfm", *more)
        assert (code, out) == (4, [])
        assert "would be the output of both a.flo and a.pfm" in err, where
        assert sorted(tmp_path.rglob("*")) == before


def test_folder_becomes_a_video_at_one_scale(show, tmp_path):
    (tmp_path / "flows").mkdir()
    for index, u in enumerate((1, 2, 4)):
        save_flow(f"flows/{index}.flo", u)
    status, out, _ = show("flows", "-o", "out/flows.gif", "--json")
    (result,) = json.loads("".join(out))["results"]
    assert (status, result["frames"], result["max_flow"]) == (0, 3, 4)
    greens = [frame[1].mean().item() for frame in read_video("out/flows.gif")]
    assert greens == pytest.approx([3 / 4, 1 / 2, 0], abs=0.01)  # paler the slower
    assert show("flows", "-o", "out/flows.mp4", "--legend") == (0, ["out/flows.mp4"], "")
    assert len(list(read_video("out/flows.mp4"))) == 3
    assert show("flows", "-o", "out/flows.webp") == (0, ["out/flows.webp"], "")
    assert video_info("out/flows.webp").frames == 3


def test_scale_of_a_video_ignores_still_flows(show):
    save_flow("0.flo", 0)
    save_flow("1.flo", 0.25)
    save_flow("2.flo", 9, valid=torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool))
    for flows, scale in (("012", 0.25), ("02", 1)):
        names = [f"{flow}.flo" for flow in flows]
        _, out, _ = show(*names, "-o", "a.gif", "--json", "--overwrite")
        assert json.loads("".join(out))["results"][0]["max_flow"] == scale


def test_webp_of_one_flow_is_an_image(show):
    flow = save_flow("a.flo", 3, 1)
    assert show("a.flo", "-o", "a.webp") == (0, ["a.webp"], "")
    assert_picture("a.webp", flow_to_image(flow, max_flow=10**0.5))


def test_video_needs_one_size(show):
    save_flow("a.flo", 1)
    write_flow("b.flo", torch.zeros(2, 7, 9))
    status, out, err = show("a.flo", "b.flo", "-o", "ab.mp4")
    assert (status, out) == (3, [])
    assert err == "flowwarp: b.flo: is 9x7, the flows before it 48x40\n"


def test_broken_file_does_not_stop_the_others(show, tmp_path):
    (tmp_path / "flows").mkdir()
    save_flow("flows/a.flo", 1)
    (tmp_path / "flows/b.flo").write_bytes(b"PIEH cut off")
    save_flow("flows/c.flo", 1)
    status, out, err = show("flows", "-o", "out")
    assert (status, out) == (5, ["out/a.png", "out/c.png"])
    assert err.splitlines()[0].startswith("flowwarp: flows/b.flo: ")
    assert err.splitlines()[-1] == "flowwarp: 1 of 3 failed"
    status, out, _ = show("flows", "-o", "out", "--overwrite", "--json")
    answer = json.loads("".join(out))
    assert status == 5
    assert [result["output"] for result in answer["results"]] == ["out/a.png", "out/c.png"]
    assert [fault["input"] for fault in answer["failed"]] == ["flows/b.flo"]


def test_existing_files_need_overwrite(show, tmp_path):
    save_flow("a.flo", 1)
    (tmp_path / "a_flow.png").write_bytes(b"mine")
    status, out, err = show("a.flo")
    assert (status, out) == (4, [])
    assert err == "flowwarp: a_flow.png: exists; use --overwrite to replace it\n"
    assert (tmp_path / "a_flow.png").read_bytes() == b"mine"
    assert show("a.flo", "--overwrite")[0] == 0


def test_output_created_during_work_is_not_replaced(show, monkeypatch):
    for name in ("a.flo", "b.flo"):
        save_flow(name, 1)
    write = command.write_picture

    def late(*arguments):
        Path("b_flow.png").write_text("mine")
        return write(*arguments)

    monkeypatch.setattr(command, "write_picture", late)
    status, out, err = show("a.flo", "b.flo")
    assert (status, out) == (4, ["a_flow.png"])
    assert err.endswith("flowwarp: b_flow.png: exists; use --overwrite to replace it\n")
    assert Path("b_flow.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.flo"], 3, "missing.flo: no such file"),
        ([""], 3, "'': is an empty file name"),
        (["a.flo", "--error", ""], 2, "must name a file"),
        (["a.flo", "--image", ""], 2, "must name a file"),
        (["a.flo", "--image", "1.png", "--flicker", ""], 2, "must name a file"),
        (["1.png"], 3, "1.png: "),
        (["a.flo", "--image", "small.png"], 3, "small.png: is 9x7, the flow 48x40"),
        (["a.flo", "--image", "a.flo"], 3, "a.flo: is not a picture"),
        (["a.flo", "--error", "small.flo"], 3, "small.flo: is 9x7, the flow 48x40"),
        (["a.flo", "--image", "1.png", "--flicker", "small.png"], 3, "small.png: is 9x7"),
        (["a.flo", "-o", "out.xyz"], 2, "OUT must end in"),
        (["a.flo", "-o", "out.pgm"], 2, "OUT must end in"),
        (["a.flo", "small.flo", "-o", "out.png"], 2, "many inputs need a folder or video"),
        (["a.flo", "small.flo", "--image", "1.png"], 2, "take one FLOW, got 2"),
        (["a.flo", "--max", "0"], 2, "--max must be from"),
        (["a.flo", "--max", "nan"], 2, "--max must be from"),
        (["a.flo", "--max", "inf"], 2, "--max must be from"),
        (
            ["a.flo", "--arrows", "--error", "a.flo"],
            2,
            "give only one of --arrows, --error and --flicker",
        ),
        (["a.flo", "--flicker", "1.png"], 2, "--image FRAME1"),
        (
            ["a.flo", "--image", "1.png", "--flicker", "1.png", "--legend"],
            2,
            "--flicker does not go with --max",
        ),
        (["a.flo", "--image", "1.png", "--flicker", "1.png", "-o", "a.png"], 2, "OUT must end"),
        (["a.flo", "--side-by-side"], 2, "--side-by-side needs"),
        (
            ["a.flo", "--error", "a.flo", "--image", "1.png"],
            2,
            "--error with --image needs --side-by-side",
        ),
        (["a.flo", "--arrows", "--legend"], 2, "--arrows with --legend needs --side-by-side"),
        (["a.flo", "--image", "1.png", "-o", "a.mp4"], 2, "OUT cannot be a video"),
        ([], 2, "Missing argument"),
    ],
)
def test_errors_are_one_line_and_write_nothing(show, tmp_path, arguments, status, message):
    save_flow("a.flo", 1)
    write_flow("small.flo", torch.zeros(2, 7, 9))
    write_image("small.png", torch.zeros(3, 7, 9))
    save_frame("1.png")
    before = sorted(tmp_path.rglob("*"))
    got, out, err = show(*arguments)
    assert (got, out) == (status, [])
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_one_pixel(show):
    write_flow("a.flo", torch.tensor([0.0, -1]).view(2, 1, 1))
    for options in ([], ["--arrows"], ["--error", "a.flo"]):
        assert show("a.flo", *options)[0] == 0
    assert read_image("a_flow.png").shape == (3, 1, 1)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from flowwarp.cli import main\n"
        "try: main(['show', '--help'])\n"
        "finally: assert not {'torch', 'cv2', 'av', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--side-by-side" in done.stdout
