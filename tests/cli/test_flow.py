"""``flowwarp flow`` on a pair of images, with an untrained network."""

import json
from pathlib import Path

import pytest
import torch
from flow_frames import HEIGHT, SHIFT, WIDTH, files, frame, save_frames

from flowwarp.io.flow_files import read_flow
from flowwarp.io.images import ImageFormat, read_image, write_image
from flowwarp.pipelines.flow import pair_fields
from flowwarp.pipelines.flow.estimate import estimate_both, estimate_flow, load_flownet

pytestmark = pytest.mark.usefixtures("inside")


def test_file_created_during_estimation_is_not_replaced(flow, create_during_estimation):
    save_frames(".", 2)
    create_during_estimation("s.png")
    given = ["frame8.png", "frame9.png", "-o", "x.flo", "--show", "s.png"]
    line = "flowwarp: s.png: exists; use --overwrite to replace it"
    assert flow(*given) == (4, [], [line])
    assert Path("s.png").read_text() == "mine"
    assert not Path("x.flo").exists()
    assert flow(*given, "--overwrite")[0] == 0


@pytest.mark.parametrize("option", ["-o", "--backward", "--occlusion", "--show"])
def test_input_frames_are_never_replaced(flow, option):
    save_frames(".", 2)
    before = Path("frame8.png").read_bytes()
    Path("link.png").symlink_to("frame8.png")
    given = ["frame8.png", "frame9.png", "-o", "x.flo", option, "link.png", "--overwrite"]
    line = "flowwarp: link.png: is the input frame8.png; name another file to write"
    assert flow(*given) == (4, [], [line])
    assert Path("frame8.png").read_bytes() == before
    assert not Path("x.flo").exists()


def test_pair(flow, untrained):
    save_frames(".", 2)
    assert flow("frame8.png", "frame9.png", "--quality", "balanced") == (0, ["frame8_flow.flo"], [])
    field, valid = read_flow("frame8_flow.flo")
    images = [read_image(f"frame{number}.png")[None] for number in (8, 9)]
    assert torch.equal(field, estimate_flow(load_flownet(untrained), *images, "balanced")[0])
    assert valid.all()
    # Right even with an untrained network: the fit also tries matches.
    error = (field - torch.tensor(SHIFT).view(2, 1, 1)).norm(dim=0)
    assert error[8:-8, 8:-8].mean() < 0.3
    assert sorted(path.name for path in Path().iterdir()) == [
        "frame8.png", "frame8_flow.flo", "frame9.png",
    ]  # fmt: skip


def test_pair_with_all_outputs(flow, untrained):
    save_frames(".", 2)
    options = ["-o", "new/f.npy", "--backward", "b.pfm", "--occlusion", "o.png", "--show", "s.png"]
    code, out, err = flow("frame8.png", "frame9.png", *options, "--json")
    assert (code, err) == (0, [])
    assert json.loads("".join(out)) == {
        "dry_run": False,
        "results": [
            {
                "input": ["frame8.png", "frame9.png"],
                "output": "new/f.npy",
                "backward": "b.pfm",
                "occlusion": "o.png",
                "show": "s.png",
                "height": HEIGHT,
                "width": WIDTH,
            }
        ],
        "failed": [],
    }
    images = [read_image(f"frame{number}.png")[None] for number in (8, 9)]
    flow_12, flow_21 = estimate_both(load_flownet(untrained), *images, "fast")
    assert torch.equal(read_flow("new/f.npy")[0], flow_12[0])
    assert torch.equal(read_flow("b.pfm")[0], flow_21[0])
    assert read_image("s.png").shape == (3, HEIGHT, WIDTH)


def test_occlusion_mask_is_black_where_pixels_disappear(flow):
    """A square moves to the right over a still background and hides part of it."""
    ground, square = frame(0), frame(5, 16, 16)
    for name, left in (("a.png", 20), ("b.png", 26)):
        image = ground.clone()
        image[:, 16:32, left : left + 16] = square
        write_image(name, image)
    code, _, _ = flow("a.png", "b.png", "--occlusion", "o.png", "--quality", "best")
    assert code == 0
    mask = read_image("o.png")[0]
    assert set(mask.unique().tolist()) <= {0, 1}
    assert mask[18:30, 37:41].mean() < 0.5  # hidden
    assert mask[:12].mean() > 0.9
    assert mask[20:28, 22:32].mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--format", "png"], "frame8_flow.png"),
        (["-o", "out/"], "out/frame8.flo"),
        (["-o", "new/x.npz"], "new/x.npz"),
    ],
)
def test_output_names_of_a_pair(flow, arguments, name):
    save_frames(".", 2)
    assert flow("frame8.png", "frame9.png", *arguments) == (0, [name], [])
    assert read_flow(name)[0].shape == (2, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-o", "x.mp4"], 2, "OUT must end in .flo, .npy, .npz, .pfm, .png for a pair"),
        (["-o", "x.flo", "--format", "png"], 2, "OUT must end in .png"),
        (["--show", "x.mp4"], 2, "--show must end in"),
        (["--show", "x.pgm"], 2, "--show must end in"),  # which holds no colour
        (["--backward="], 2, "'--backward': it is empty"),
        (["--occlusion", "-"], 2, "'--occlusion': results cannot go to stdout"),
        (["--show="], 2, "'--show': it is empty"),
        (["--backward", "frame8_flow.flo"], 2, "must differ"),
        (["--backward", "x/../frame8_flow.flo"], 2, "must differ"),
        (["--shard", "1/2"], 2, "--shard is for many pairs"),
        (["--shard", "3/2"], 2, "'3/2' is not I/N with I from 1 to N"),
        (["-o", "frame9.png"], 4, "frame9.png: is the input frame9.png"),
        (["--weights", "none.safetensors"], 3, "none.safetensors: no such file"),
    ],
)
def test_pair_refuses_wrong_options(flow, arguments, code, words):
    save_frames(".", 2)
    before = files(".")
    got, out, err = flow("frame8.png", "frame9.png", *arguments)
    assert (got, out, len(err)) == (code, [], 1)
    assert words in err[0]
    assert files(".") == before


def test_flow_out_of_range_for_kitti_png_writes_no_file(flow, monkeypatch):
    save_frames(".", 2)
    before = files(".")
    still, fast = torch.zeros(2, HEIGHT, WIDTH), torch.full((2, HEIGHT, WIDTH), 600.0)
    seen = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    fields = pair_fields.Fields(fast, still, seen)
    monkeypatch.setattr(pair_fields, "estimate_fields", lambda *given, **wanted: fields)
    options = ["-o", "f.png", "--backward", "b.png", "--occlusion", "o.png"]
    code, out, err = flow("frame8.png", "frame9.png", *options)
    assert (code, out, len(err)) == (3, [], 1)
    assert "f.png" in err[0]
    assert files(".") == before


def test_frames_that_make_no_pair_are_refused(flow):
    save_frames(".", 1)
    write_image("small.png", torch.zeros(3, 5, 7))
    assert flow("frame8.png", "small.png") == (
        3,
        [],
        ["flowwarp: small.png: is 7x5, but frame8.png is 64x48; a pair needs frames of one size"],
    )
    assert flow("frame8.png", "none.png")[2] == ["flowwarp: none.png: no such file or directory"]
    alone = ["flowwarp: frame8.png: is a single frame; flow needs two"]
    assert flow("frame8.png")[2] == alone
    save_frames("others", 2)
    assert flow("frame8.png", "others", "-o", "both")[::2] == (3, alone)
    assert not Path("both").exists()
    assert flow("*.jpg")[2] == ["flowwarp: *.jpg: no frame, video or folder matches"]
    swapped = flow("a.flo", "frame8.png")
    assert swapped[0] == 3
    assert swapped[2][0].startswith("flowwarp: a.flo: has the extension of a flow file")
    Path("empty").mkdir()
    assert flow("empty")[2] == ["flowwarp: empty: contains neither frames nor videos"]
    made = ["frame8.png", "others/frame8.png", "others/frame9.png", "small.png"]
    assert sorted(files(".")) == made


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (3, 2)])
@pytest.mark.parametrize("quality", ["fast", "balanced", "best"])
def test_tiny_images(flow, size, quality):
    write_image("a.png", torch.rand(3, *size, generator=torch.Generator().manual_seed(0)))
    write_image("b.png", torch.rand(3, *size, generator=torch.Generator().manual_seed(1)))
    code, _, err = flow("a.png", "b.png", "--quality", quality, "--occlusion", "o.png")
    assert (code, err) == (0, [])
    assert read_flow("a_flow.flo")[0].shape == (2, *size)


def test_gray_alpha_and_16_bit_images(flow):
    write_image("a.png", frame(0)[:1], ImageFormat(16, gray=True))
    write_image("b.png", torch.cat([frame(1), torch.rand(1, HEIGHT, WIDTH)]))
    assert flow("a.png", "b.png")[0] == 0
