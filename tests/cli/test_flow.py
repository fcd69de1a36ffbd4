"""``flowwarp flow``: as a user calls it, with a network of random weights."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from flowwarp.cli import show
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.io.flow_files import read_flow
from flowwarp.io.images import ImageFormat, read_image, write_image
from flowwarp.io.locks import lock
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.ops.warping import warp
from flowwarp.pipelines import workers
from flowwarp.pipelines.flow import bulk, pairs
from flowwarp.pipelines.flow.estimate import estimate_both, estimate_flow, load_flownet

HEIGHT, WIDTH = 48, 64
SHIFT = (1.5, -0.5)
KILLS = 1  # each costs an import of torch
pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def flow(call, untrained):
    # The network alone is ten times as fast, and as good for all but the flow itself.
    return partial(call, "flow", "--weights", untrained, "--quality", "fast")


def frame(index, height=HEIGHT, width=WIDTH):
    """Return a frame of a texture that moves by SHIFT from each frame to the next."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    motion = torch.tensor(SHIFT).view(1, 2, 1, 1) * -index
    return warp(texture, motion.expand(1, 2, height, width), padding="reflection")[0]


def save_frames(folder, count=4, first=8):
    """Write frame8, frame9, frame10, ..."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        write_image(f"{folder}/frame{first + index}.png", frame(index))


def files(folder):
    """Return what a user sees in a folder, and all that is in it, by name; without manifests."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(paths)
        if not path.name.startswith((".lock", "manifest"))
    }


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def flows(folder, *numbers):
    return [f"{folder}/frame{number}.flo" for number in numbers]


@pytest.fixture
def put_meanwhile(monkeypatch):
    """Return what has somebody else write a file while flow is estimated."""
    estimate = bulk.estimate_fields

    def put(name):
        def late(*arguments, **options):
            Path(name).write_text("mine")
            return estimate(*arguments, **options)

        for module in (pairs, bulk):
            monkeypatch.setattr(module, "estimate_fields", late)

    return put


# ------------------------------------------------------------------ a pair


def test_what_came_while_a_pair_was_estimated_is_not_replaced(flow, put_meanwhile):
    save_frames(".", 2)
    put_meanwhile("s.png")
    given = ["frame8.png", "frame9.png", "-o", "x.flo", "--show", "s.png"]
    line = "flowwarp: s.png: exists; use --overwrite to replace it"
    assert flow(*given) == (4, [], [line])
    assert Path("s.png").read_text() == "mine"
    assert not Path("x.flo").exists()
    assert flow(*given, "--overwrite")[0] == 0


@pytest.mark.parametrize("option", ["-o", "--backward", "--occlusion", "--show"])
def test_no_frame_of_a_pair_is_replaced(flow, option):
    save_frames(".", 2)
    before = Path("frame8.png").read_bytes()
    Path("link.png").symlink_to("frame8.png")
    given = ["frame8.png", "frame9.png", "-o", "x.flo", option, "link.png", "--overwrite"]
    line = "flowwarp: link.png: is the input frame8.png; name another file to write"
    assert flow(*given) == (4, [], [line])
    assert Path("frame8.png").read_bytes() == before
    assert not Path("x.flo").exists()


def test_a_pair(flow, untrained):
    save_frames(".", 2)
    assert flow("frame8.png", "frame9.png", "--quality", "balanced") == (0, ["frame8_flow.flo"], [])
    field, valid = read_flow("frame8_flow.flo")
    images = [read_image(f"frame{number}.png")[None] for number in (8, 9)]
    assert torch.equal(field, estimate_flow(load_flownet(untrained), *images, "balanced")[0])
    assert valid.all()
    # Even after a network that knows nothing: matches compete with its flow.
    error = (field - torch.tensor(SHIFT).view(2, 1, 1)).norm(dim=0)
    assert error[8:-8, 8:-8].mean() < 0.3
    assert sorted(path.name for path in Path().iterdir()) == [
        "frame8.png", "frame8_flow.flo", "frame9.png",
    ]  # fmt: skip


def test_all_that_can_be_had_of_a_pair(flow, untrained):
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


def test_occlusion_is_black_where_the_way_back_ends_elsewhere(flow):
    """A square over a resting ground moves to the right, and hides what is there."""
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
def test_names_of_a_pair(flow, arguments, name):
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
        (["--shard", "3/2"], 2, "'3/2' is none of 1/N to N/N"),
        (["-o", "frame9.png"], 4, "frame9.png: is the input frame9.png"),
        (["--weights", "none.safetensors"], 3, "none.safetensors: no such file"),
    ],
)
def test_refuses(flow, arguments, code, words):
    save_frames(".", 2)
    before = files(".")
    got, out, err = flow("frame8.png", "frame9.png", *arguments)
    assert (got, out, len(err)) == (code, [], 1)
    assert words in err[0]
    assert files(".") == before


def test_a_flow_that_its_format_cannot_hold_leaves_no_file(flow, monkeypatch):
    save_frames(".", 2)
    before = files(".")
    still, fast = torch.zeros(2, HEIGHT, WIDTH), torch.full((2, HEIGHT, WIDTH), 600.0)
    seen = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    fields = pairs.Fields(fast, still, seen)
    monkeypatch.setattr(pairs, "estimate_fields", lambda *given, **wanted: fields)
    options = ["-o", "f.png", "--backward", "b.png", "--occlusion", "o.png"]
    code, out, err = flow("frame8.png", "frame9.png", *options)
    assert (code, out, len(err)) == (3, [], 1)
    assert "f.png" in err[0]
    assert files(".") == before


def test_frames_that_do_not_fit(flow):
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
    assert swapped[2][0].startswith("flowwarp: a.flo: is named like a flow file")
    Path("empty").mkdir()
    assert flow("empty")[2] == ["flowwarp: empty: contains neither frames nor videos"]
    made = ["frame8.png", "others/frame8.png", "others/frame9.png", "small.png"]
    assert sorted(files(".")) == made


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (3, 2)])
@pytest.mark.parametrize("quality", ["fast", "balanced", "best"])
def test_small_pictures(flow, size, quality):
    write_image("a.png", torch.rand(3, *size, generator=torch.Generator().manual_seed(0)))
    write_image("b.png", torch.rand(3, *size, generator=torch.Generator().manual_seed(1)))
    code, _, err = flow("a.png", "b.png", "--quality", quality, "--occlusion", "o.png")
    assert (code, err) == (0, [])
    assert read_flow("a_flow.flo")[0].shape == (2, *size)


def test_grey_transparent_and_16_bit_pictures(flow):
    write_image("a.png", frame(0)[:1], ImageFormat(16, gray=True))
    write_image("b.png", torch.cat([frame(1), torch.rand(1, HEIGHT, WIDTH)]))
    assert flow("a.png", "b.png")[0] == 0


# ------------------------------------------------------------------ folders


def test_a_folder(flow):
    save_frames("in")
    code, out, err = flow("in")
    assert (code, out, err) == (0, flows("in_flow", 8, 9, 10), [])
    assert sorted(files("in_flow")) == ["frame10.flo", "frame8.flo", "frame9.flo"]
    for index, path in enumerate(out):
        assert flow(*[f"in/frame{8 + index + k}.png" for k in (0, 1)], "-o", "pair.flo")[0] == 0
        assert Path("pair.flo").read_bytes() == Path(path).read_bytes()
        Path("pair.flo").unlink()
    first, *pairs = lines("in_flow/manifest.jsonl")
    assert (first["job"], first["quality"], first["format"]) == ("flow", "fast", "flo")
    assert [(record["part"], record["status"]) for record in pairs] == [
        ("frame8", "done"), ("frame9", "done"), ("frame10", "done"),
    ]  # fmt: skip
    assert pairs[2]["frames"] == ["frame10.png", "frame11.png"]


@pytest.mark.parametrize("given", [["in/*.png"], ["in/frame*1*.png", "in/frame8.png"], None])
def test_globs_and_many_frames_in_the_order_of_their_numbers(flow, given):
    save_frames("in")
    # As a shell expands in/*.png.
    arguments = given or sorted(str(path) for path in Path("in").iterdir())
    numbers = (10, 11) if given and len(given) > 1 else (8, 9, 10)
    assert flow(*arguments)[1] == flows("in_flow", *numbers)


@pytest.mark.parametrize("format", ["flo", "png", "pfm", "npy", "npz"])
def test_formats(flow, untrained, format):
    save_frames("in", 2)
    options = ["--format", format, "--backward", "back", "--occlusion", "seen"]
    code, out, _ = flow("in", "-o", "new/out", *options)
    names = [f"new/out/frame8.{format}", f"back/frame8.{format}", "seen/frame8.png"]
    assert (code, out) == (0, names)
    images = [read_image(f"in/frame{number}.png")[None] for number in (8, 9)]
    for name, wanted in zip(
        names, estimate_both(load_flownet(untrained), *images, "fast"), strict=False
    ):
        step = 1 / 64 if format == "png" else 0  # KITTI's
        assert (read_flow(name)[0] - wanted[0]).abs().max() <= step / 2


def test_clips_get_folders_of_their_own(flow):
    save_frames("in/a", 3)
    save_frames("in/b/deep", 2)
    save_frames("in", 2)
    save_frames("in/single", 1)
    write_video("in/a.mp4", [frame(index) for index in range(3)])
    code, out, err = flow("in")
    assert (code, err) == (0, [])
    names = ["frame8", "a/frame8", "a/frame9", "b/deep/frame8", "a.mp4/000000", "a.mp4/000001"]
    assert sorted(out) == sorted(f"in_flow/{name}.flo" for name in names)
    # Several inputs: each has a folder of its name.
    assert "give -o FOLDER when there are several INPUTs" in flow("in/b", "in/a.mp4")[2][0]
    assert flow("in/b", "in/a.mp4", "-o", "out")[1] == [
        "out/b/deep/frame8.flo", "out/a/000000.flo", "out/a/000001.flo",
    ]  # fmt: skip


def test_results_among_the_frames_are_no_input(flow):
    save_frames("in/a", 3)
    options = ["in", "-o", "in/flow", "--occlusion", "in/seen", "--format", "png"]
    first = flow(*options)
    assert first[0] == 0
    assert flow(*options) == first
    assert flow("in/a", "-o", "in/a", "--overwrite")[::2] == (
        4, ["flowwarp: in/a: holds frames to read; name another folder"],
    )  # fmt: skip


def test_a_slash_says_that_a_name_is_a_folder(flow):
    save_frames("in", 2)
    assert flow("in", "-o", "out.mp4/")[0] == 0
    assert files("out.mp4")


def test_nothing_that_is_read_is_replaced(flow):
    """By what --show makes of many, or among frames whose folder is not the first frame's."""
    save_frames("in/a", 3)
    save_frames("in/b", 3)
    write_video("in/c.gif", [frame(index) for index in range(3)])
    before = files("in")
    for arguments, problem in (
        ("in/c.gif -o out --show in/c.gif", "in/c.gif: is the input in/c.gif; name another file"),
        ("in/a -o out --show in/a", "in/a: holds frames to read"),
        ("in -o out --show in", "in/a: holds frames to read"),  # it would draw in/a/frame8.png
        ("in/a/frame8.png in/b/frame9.png in/b/frame10.png -o in/b", "in/b: holds frames to read"),
    ):
        code, out, err = flow(*arguments.split(), "--format", "png", "--overwrite")
        assert (code, out, len(err)) == (4, [], 1)
        assert err[0].startswith(f"flowwarp: {problem}")
    assert files("in") == before
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-o", "x.flo"], 2, "many pairs need a folder, but OUT is 'x.flo'"),
        (["-o", "x.mp4"], 2, "many pairs need a folder, but OUT is 'x.mp4'"),
        (["--show", "x.png"], 2, "--show must end in"),
        (["--show", "x.mp4", "--shard", "1/2"], 2, "--show needs all pairs"),
        (["--backward", "in_flow"], 2, "must differ"),
        (["-o", "mine"], 4, "mine: is not empty, and holds no job to go on with"),
        (["--occlusion", "mine"], 4, "mine: is not empty"),
        (["--show", "mine"], 4, "mine: is not empty"),
        (["-o", "mine/a.txt"], 4, "mine/a.txt: is a file, not a folder; name a folder"),
        (["-o", "mine/a.txt", "--overwrite"], 4, "mine/a.txt: is a file, not a folder"),
        (["--occlusion", "x.flo"], 2, "many pairs need a folder, but --occlusion is 'x.flo'"),
        (["--ray", "127.0.0.1:1"], 3, "--ray: "),
    ],
)
def test_refuses_for_many(flow, arguments, code, words):
    save_frames("in", 3)
    Path("mine").mkdir()
    Path("mine/a.txt").write_text("mine")
    before = files(".")
    for more in ([], ["--dry-run"]):
        got, out, err = flow("in", *arguments, *more)
        assert (got, out, len(err)) == (code, [], 1)
        assert words in err[0]
        assert files(".") == before


def test_a_name_for_two(flow):
    save_frames("in", 2)
    shutil.copy("in/frame8.png", "in/frame8.bmp")
    code, _, err = flow("in")
    assert (code, len(err)) == (4, 1)
    assert "would be the result of both in/frame8.bmp and in/frame8.png" in err[0]


def test_dry_run_reads_all_and_writes_nothing(flow):
    save_frames("in")
    before = sorted(Path().rglob("*"))
    options = ["in", "--show", "s.mp4", "--occlusion", "o", "--dry-run"]
    names = [f"{folder}/frame{k}.{kind}" for k in (8, 9, 10)
             for folder, kind in (("in_flow", "flo"), ("o", "png"))]  # fmt: skip
    assert flow(*options) == (0, [*names, "s.mp4"], [])
    assert flow("in/frame8.png", "in/frame9.png", "--dry-run")[:2] == (0, ["in/frame8_flow.flo"])
    assert flow("in", "--shard", "1/2", "--dry-run")[1] == flows("in_flow", 8, 10)
    assert sorted(Path().rglob("*")) == before
    Path("in/frame9.png").write_text("no picture")
    code, out, err = flow(*options)
    assert (code, len(out), len(err)) == (5, 3, 3)


def test_json(flow):
    save_frames("in", 3)
    write_image("in/frame10.png", torch.zeros(3, 4, 4))
    code, out, _ = flow("in", "--json", "--backward", "b")
    assert code == 5
    told = json.loads("".join(out))
    assert told["output"] == "in_flow"
    (result,) = told["results"]
    seconds = result.pop("seconds")
    assert seconds > 0
    assert result == {
        "input": ["in/frame8.png", "in/frame9.png"],
        "output": "in_flow/frame8.flo",
        "backward": "b/frame8.flo",
        "occlusion": None,
        "height": HEIGHT,
        "width": WIDTH,
        "kept": False,
    }
    assert told["failed"] == [
        {
            "input": ["in/frame9.png", "in/frame10.png"],
            "error": "in_flow/frame9.flo: in/frame10.png: is 4x4, but in/frame9.png is 64x48; "
            "a pair needs frames of one size",
        }
    ]
    (again,) = json.loads("".join(flow("in", "--json", "--backward", "b")[1]))["results"]
    assert again.pop("seconds") == pytest.approx(seconds, abs=1e-3)
    assert again == result | {"kept": True}


# ------------------------------------------------------------------ videos


def test_a_video(flow):
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


def test_an_animated_picture_alone_is_a_clip(flow):
    write_video("a.webp", [frame(index) for index in range(3)], 10)
    assert flow("a.webp") == (0, ["a_flow/000000.flo", "a_flow/000001.flo"], [])


def test_animated_pictures_are_clips_and_no_pair(flow):
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


def test_a_still_webp_alone_is_a_single_frame(flow):
    write_image("a.webp", frame(0))
    assert flow("a.webp") == (3, [], ["flowwarp: a.webp: is a single frame; flow needs two"])


def test_a_rate_that_a_gif_cannot_say_is_refused_before_any_work(flow):
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
def test_a_damaged_frame_costs_two_pairs(flow, name, codec, pix_fmt):
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


def test_a_video_that_breaks_off(flow):
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
    # Whole again, it is another file: all is done anew.
    Path("a.gif").write_bytes(whole)
    code, out, err = flow("a.gif", "--show", "s.gif")
    assert (code, len(out), err) == (0, 6, [])
    assert files("a_flow") == files("whole")


def test_what_is_no_video(flow):
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


# ------------------------------------------------------------------ colours


def test_shows_a_sequence_at_one_scale(flow):
    save_frames("in", 4)
    code, out, _ = flow("in", "--show", "colours")
    assert (code, out[-1]) == (0, "colours")
    assert sorted(files("colours")) == ["frame10.png", "frame8.png", "frame9.png"]
    code, out, _ = flow("in", "--show", "s.gif")
    video = list(read_video("s.gif"))
    for number, picture in zip((8, 9, 10), video, strict=True):
        drawn = read_image(f"colours/frame{number}.png")
        assert (drawn - picture).abs().mean() < 0.02
    # The same command may replace what it has made, another one's picture it may not.
    assert flow("in", "--show", "s.gif")[0] == 0
    Path("t.gif").write_text("mine")
    assert flow("in", "--show", "t.gif")[::2] == (
        4, ["flowwarp: t.gif: exists; use --overwrite to replace it"],
    )  # fmt: skip


def test_what_was_put_in_the_place_of_the_colours_is_kept(flow):
    save_frames("in", 3)
    refused = (4, [], ["flowwarp: s.gif: exists; use --overwrite to replace it"])
    assert flow("in", "--show", "s.gif")[0] == 0
    for _ in range(2):
        assert flow("in", "--show", "s.gif")[0] == 0  # what it has made itself, each time anew
    Path("s.gif").write_text("mine")
    assert flow("in", "--show", "s.gif") == refused
    assert flow("in", "--show", "s.gif", "--dry-run") == refused
    assert Path("s.gif").read_text() == "mine"
    Path("s.gif").unlink()
    assert flow("in", "--show", "s.gif")[0] == 0
    Path("s.gif").unlink()
    save_frames("s.gif", 1)  # a folder
    assert flow("in", "--show", "s.gif")[::2] == (
        4, ["flowwarp: s.gif: is not empty; use --overwrite to write into it"],
    )  # fmt: skip
    assert flow("in", "--show", "s.gif", "--overwrite")[0] == 0


def test_colours_that_came_while_the_flow_was_estimated_are_kept(flow, put_meanwhile):
    """Nor are they the job's on going on: no line of its manifest says so."""
    save_frames("in", 3)
    put_meanwhile("s.gif")
    for _ in range(2):
        code, _, err = flow("in", "--show", "s.gif")
        assert (code, err) == (4, ["flowwarp: s.gif: exists; use --overwrite to replace it"])
        assert Path("s.gif").read_text() == "mine"
    assert sorted(files("in_flow")) == ["frame8.flo", "frame9.flo"]


def test_a_folder_of_colours_is_gone_on_with(flow, monkeypatch):
    save_frames("in", 3)
    draw = show.write_picture

    def once(*arguments):
        monkeypatch.setattr(show, "write_picture", stopped)
        return draw(*arguments)

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(show, "write_picture", once)
    assert flow("in", "--show", "colours")[0] == 130
    assert list(files("colours")) == ["frame8.png"]
    monkeypatch.setattr(show, "write_picture", draw)
    assert flow("in", "--show", "colours")[0] == 0
    assert list(files("colours")) == ["frame8.png", "frame9.png"]


def test_sizes_that_change_are_not_shown_in_a_video(flow):
    save_frames("in", 3)
    for number in (11, 12):
        write_image(f"in/frame{number}.png", frame(number)[:, :40])
    code, out, err = flow("in", "--show", "s.gif")
    assert (code, out[:-1]) == (5, flows("in_flow", 8, 9, 11))
    assert "in_flow/frame10.flo: in/frame11.png: is 64x40, but in/frame10.png is 64x48" in err[0]
    assert "s.gif: in_flow/frame11.flo: is 64x40, the flows before it 64x48" in err[1]


# ------------------------------------------------------------------ going on


def test_a_frame_that_cannot_be_read_and_is_repaired(flow):
    save_frames("in", 6)
    assert flow("in", "-o", "whole")[0] == 0
    good = Path("in/frame10.png").read_bytes()
    Path("in/frame10.png").write_bytes(good[:300])
    code, out, err = flow("in")
    assert (code, out) == (5, flows("in_flow", 8, 11, 12))
    assert len(err) == 3
    for line, number in zip(err, (9, 10), strict=False):
        assert line.startswith(f"flowwarp: in_flow/frame{number}.flo: in/frame10.png: is ")
    assert err[2] == "flowwarp: 2 of 5 failed"
    assert flow("in") == (code, out, err)  # tried again
    Path("in/frame10.png").write_bytes(good)
    assert flow("in") == (0, flows("in_flow", 8, 9, 10, 11, 12), [])
    assert files("in_flow") == files("whole")
    made = [record["part"] for record in lines("in_flow/manifest.jsonl")[1:]
            if record["status"] == "done"]  # fmt: skip
    assert sorted(made) == sorted(f"frame{number}" for number in (8, 9, 10, 11, 12))


def test_what_is_gone_or_made_of_other_frames_is_done_again(flow):
    save_frames("in")
    assert flow("in")[0] == 0
    Path("in_flow/frame8.flo").unlink()
    write_image("in/frame11.png", frame(5))
    write_image("in/frame12.png", frame(6))  # and one more
    assert flow("in") == (0, flows("in_flow", 8, 9, 10, 11), [])
    parts = [record["part"] for record in lines("in_flow/manifest.jsonl")[4:]]
    assert parts == ["frame8", "frame10", "frame11"]


@pytest.mark.parametrize("format", ["flo", "png"])
def test_flow_of_frames_that_are_gone_is_told_and_kept(flow, call, format):
    save_frames("in/a", 5)
    save_frames("in/b", 2)
    options = ["in", "--format", format, "--backward", "back"]
    assert flow(*options)[::2] == (0, [])
    # Nor are others told that come of it: pictures beside the flow, or the flow in another format.
    assert call("show", "in_flow/a")[0] == 0
    assert call("convert", "in_flow/a", "-o", "in_flow/a", "--to", "npy")[0] == 0
    before = files("in_flow"), files("back")
    for number, more in ((11, 1), (10, 3)):
        Path(f"in/a/frame{number + 1}.png").unlink()
        lines = [
            f"flowwarp: back/a/frame{number}.{format} (and {more} more): is not of this job, but"
            " lies among its flow; move it away before the folder is used"
        ]
        for arguments in (["--dry-run"], [], [], ["--overwrite"]):
            assert flow(*options, *arguments)[::2] == (0, lines)
    assert (files("in_flow"), files("back")) == before
    assert flow(*options, "--shard", "1/2")[::2] == (0, [])  # which has not made the others either


@pytest.mark.parametrize("format", ["flo", "png", "npz"])
@pytest.mark.parametrize("size", [0, 100])
def test_what_is_not_whole_any_more_is_done_again(flow, format, size):
    save_frames("in", 3)
    options = ["in", "--format", format, "--backward", "b", "--occlusion", "o"]
    assert flow(*options)[0] == 0
    folders = ("in_flow", "b", "o")
    before = [files(folder) for folder in folders]
    made = lines("in_flow/manifest.jsonl")[1:]
    for name in (f"in_flow/frame8.{format}", f"b/frame9.{format}", "o/frame8.png"):
        os.truncate(name, size)
        told = json.loads("".join(flow(*options, "--json")[1]))["results"]
        assert [result["kept"] for result in told] == ["frame9" in name, "frame8" in name]
        assert [files(folder) for folder in folders] == before
    # A manifest of before says no sizes.
    for record in made:
        del record["bytes"]
    job = lines("in_flow/manifest.jsonl")[:1]
    text = "".join(f"{json.dumps(line)}\n" for line in [*job, *made])
    Path("in_flow/manifest.jsonl").write_text(text)
    os.truncate(f"b/frame8.{format}", 0)
    told = json.loads("".join(flow(*options, "--json")[1]))["results"]
    assert [result["kept"] for result in told] == [False, True]
    assert [files(folder) for folder in folders] == before


def test_half_a_line_is_no_harm(flow):
    save_frames("in")
    assert flow("in")[0] == 0
    before = files("in_flow")
    path = Path("in_flow/manifest.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    Path("in_flow/.flowwarp-1234.flo").write_bytes(b"half")
    assert flow("in") == (0, flows("in_flow", 8, 9, 10), [])
    assert files("in_flow") == before
    assert [json.loads(line)["part"] for line in path.read_text().splitlines()[-1:]] == ["frame10"]


def test_another_job_is_refused(flow):
    save_frames("in", 3)
    save_frames("other", 3)
    torch.manual_seed(1)
    save_weights("alike.safetensors", FlowNet(TINY), Card("flownet", asdict(TINY)))
    assert flow("in")[0] == 0
    before = files("in_flow")
    for arguments, words in [
        (["in", "--quality", "balanced"], "whose quality is 'fast', not 'balanced'"),
        (["in", "--weights", "small"], "whose weights is"),
        (["in", "--weights", "alike.safetensors"], "whose weights is"),
        (["in", "--format", "npy"], "whose format is 'flo', not 'npy'"),
        (["in", "--backward", "b"], "whose backward is None, not"),
        (["in", "--occlusion", "b"], "whose occlusion is None, not"),
        (["other", "-o", "in_flow"], "whose source is"),
        (["in", "--format", "npy", "--shard", "1/2"], "whose format is"),
    ]:
        code, out, err = flow(*arguments)
        assert (code, out, len(err)) == (4, [], 1)
        assert err[0].startswith("flowwarp: in_flow: holds another job, ")
        assert words in err[0]
        assert err[0].endswith("; name another folder, or begin again with --overwrite")
        assert files("in_flow") == before
        assert not Path("b").exists()
    assert flow("in", "--format", "npy", "--overwrite")[0] == 0
    assert lines("in_flow/manifest.jsonl")[0]["format"] == "npy"
    assert flow("in", "--format", "npy")[0] == 0


def test_shards_together_are_the_whole(flow):
    save_frames("in/a", 5)
    save_frames("in/b", 3)
    write_video("in/c.gif", [frame(index) for index in range(4)])
    assert flow("in", "-o", "whole")[0] == 0
    printed = []
    for shard in ("1/3", "3/3", "2/3"):
        code, out, _ = flow("in", "-o", "out", "--shard", shard)
        assert code == 0
        assert len(out) == 3
        printed += out
    assert len(set(printed)) == 9
    assert files("out") == files("whole")
    assert sorted(path.name for path in Path("out").glob("m*")) == [
        f"manifest-{number}-of-3.jsonl" for number in (1, 2, 3)
    ]
    # All is there: without --shard nothing is left to do but the colours.
    assert flow("in", "-o", "out", "--show", "s")[0] == 0
    assert [record["part"] for record in lines("out/manifest.jsonl")[1:]] == [
        f"show {Path('s').absolute()}"
    ]
    assert len(files("s")) == 9


def test_a_job_is_the_same_wherever_its_files_lie(flow):
    """On other machines they may, and by other ways on this one; other files are another job."""
    save_frames("a/in/clip", 4)
    write_video("a/in/c.gif", [frame(index) for index in range(3)])
    shutil.copytree("a", "b")  # with the times of files
    Path("c").symlink_to("b")
    shutil.copytree("a", "other")
    os.utime("other/in/clip/frame9.png", (0, 0))
    assert flow("a/in", "-o", "out", "--shard", "1/3")[0] == 0
    assert flow("b/in", "-o", "out", "--shard", "2/3")[0] == 0
    assert flow("c/in", "-o", "out", "--shard", "3/3")[0] == 0
    before = files("out")
    assert flow("other/in", "-o", "out")[0] == 4  # as long, and of the same name
    code, out, _ = flow("b/in", "-o", "out", "--json")
    assert code == 0
    assert [result["kept"] for result in json.loads("".join(out))["results"]] == [True] * 5
    assert files("out") == before


def test_a_job_of_before_is_gone_on_with_in_its_place(flow):
    save_frames("in", 3)
    save_frames("b/in", 3)
    assert flow("in")[0] == 0
    path = Path("in_flow/manifest.jsonl")
    job, *made = lines(path)
    del job["files"]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in [job, *made]))
    assert [result["kept"] for result in json.loads(flow("in", "--json")[1][0])["results"]] == [
        True, True,
    ]  # fmt: skip
    code, _, err = flow("b/in", "-o", "in_flow")
    assert code == 4
    assert "in_flow: holds another job, whose source is" in err[0]


def test_two_at_once(flow):
    save_frames("in", 3)
    Path("in_flow").mkdir()
    with lock(Path("in_flow"), "held"):
        assert flow("in") == (
            8, [], ["flowwarp: in_flow: another process works on this; wait for it"],
        )  # fmt: skip
        assert flow("in", "--shard", "1/2")[0] == 0
    with lock(Path("in_flow"), "held", name=".lock-1-of-2"):
        assert flow("in", "--shard", "1/2")[0] == 8
        assert flow("in", "--shard", "2/2")[0] == 0
    assert flow("in")[0] == 0


@pytest.mark.posix
def test_killed_at_any_moment_it_goes_on(flow, untrained):
    """Kill -9 as soon as the manifest has a few more pairs, and compare with a run as one."""
    save_frames("in", 24)
    arguments = ["in", "--backward", "back", "--occlusion", "seen"]
    assert flow(*arguments, "-o", "whole")[0] == 0
    whole = [files("whole"), files("back"), files("seen")]
    for folder in ("back", "seen"):
        shutil.rmtree(folder)
    command = [sys.executable, "-m", "flowwarp", "flow", "--weights", untrained]
    command += ["--quality", "fast", *arguments, "-o", "out"]
    manifest = Path("out/manifest.jsonl")
    seen = 0
    for _ in range(KILLS):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            got = manifest.read_bytes().count(b"\n") if manifest.exists() else 0
            if got > seen + 4:
                os.kill(child.pid, signal.SIGKILL)
                seen = got
            time.sleep(0.005)
        assert child.wait() == -signal.SIGKILL
    kept = {record["part"] for record in lines(manifest)[1:]}
    for key in kept:
        assert Path(f"out/{key}.flo").exists()
    assert flow(*arguments, "-o", "out")[0] == 0
    assert [files("out"), files("back"), files("seen")] == whole
    parts = [record["part"] for record in lines(manifest)[1:]]
    assert len(parts) == len(set(parts)) == 23  # nothing was done twice that had been noted


# On a disk that takes its time: from the second pair on each flush is told, and does not end.
SLOWLY = """
import os, signal, sys, time
from flowwarp.cli import main

# What is started in the background of a shell, as tests may be, is deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
flush, begun = os.fsync, []

def slowly(file):
    begun.append(file)
    if len(begun) > 4:  # of the manifest, the first pair, and the folder after each
        print("flushing", flush=True)
        time.sleep(60)
    flush(file)

os.fsync = slowly
main()
"""


@pytest.mark.posix
def test_a_second_process_is_refused_and_ctrl_c_twice_ends_the_first(flow, untrained):
    save_frames("in")
    assert flow("in", "-o", "whole")[0] == 0
    command = [sys.executable, "-c", SLOWLY, "flow", "in", "--weights", untrained]
    child = subprocess.Popen(
        [*command, "--quality", "fast"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    told = [child.stdout.readline() for _ in range(2)]
    assert told == ["in_flow/frame8.flo\n", "flushing\n"]
    assert flow("in") == (
        8, [], ["flowwarp: in_flow: another process works on this; wait for it"],
    )  # fmt: skip
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "flushing\n"  # now of the manifest, which is closed
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "flowwarp: interrupted\n")
    assert list(files("in_flow")) == ["frame8.flo"]
    assert flow("in")[0] == 0
    assert files("in_flow") == files("whole")
    parts = [record["part"] for record in lines("in_flow/manifest.jsonl")[1:]]
    assert parts == ["frame8", "frame9", "frame10"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_text_or_as_long_as_can_be(flow):
    save_frames("plain", 4, first=0)
    assert flow("plain")[0] == 0
    Path("odd").mkdir()
    stems = [os.fsdecode(b"0 \xff\xfe"), "1 \n", "2" * 251, os.fsdecode(b"3" * 250 + b"\xe9")]
    for number, stem in enumerate(stems):
        shutil.copy2(f"plain/frame{number}.png", f"odd/{stem}.png")
    options = ["odd", "--backward", "back", "--occlusion", "seen", "--json"]  # which is ASCII
    assert flow(*options)[::2] == (0, [])
    for number, stem in enumerate(stems[:-1]):
        wanted = Path(f"plain_flow/frame{number}.flo").read_bytes()
        assert Path(f"odd_flow/{stem}.flo").read_bytes() == wanted
    before = files(".")
    assert len(files("odd_flow")) == len(files("back")) == len(files("seen")) == 3
    assert flow(*options)[::2] == (0, [])
    Path(f"back/{stems[0]}.flo").unlink()
    assert flow(*options)[::2] == (0, [])
    assert files(".") == before
    records = lines("odd_flow/manifest.jsonl")[1:]
    assert [record["part"] for record in records] == [*stems[:-1], stems[0]]


# ------------------------------------------------------------------ workers


def test_two_workers_are_as_good_as_one(flow):
    save_frames("in", 5)
    write_video("in/c.gif", [frame(index) for index in range(5)])
    Path("in/frame9.png").write_text("no picture")
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # as many as each worker will have
    try:
        first = flow("in", "-o", "one", "--occlusion", "seen1")
    finally:
        torch.set_num_threads(threads)
    code, out, err = flow("in", "-o", "two", "--occlusion", "seen2", "--workers", "2")
    assert code == first[0] == 5
    assert len(err) == 3
    assert len(out) == len(first[1]) == 12
    assert files("one") == files("two")
    assert files("seen1") == files("seen2")


def test_a_ray_cluster(flow):
    pytest.importorskip("ray")
    save_frames("in", 4)
    Path("in/frame9.png").write_text("no picture")
    first = flow("in", "-o", "one", "--backward", "back1")
    second = flow("in", "-o", "two", "--backward", "back2", "--ray", "local", "--workers", "1")
    assert first[0] == second[0] == 5
    assert files("one") == files("two")
    assert files("back1") == files("back2")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_a_ray_cluster_s_gpus_are_not_those_here(flow, monkeypatch, device):
    """Whatever is here; the tasks look where they run."""
    asked = []

    def run_ray(address, remote, constants, calls, *, device, count):
        asked.append((address, next(constants[0].parameters()).device.type, device))
        for pair, arguments in calls:
            yield pair, remote(*constants, *arguments)

    monkeypatch.setattr(workers, "check_ray", lambda address: None)
    monkeypatch.setattr(bulk, "run_ray", run_ray)
    save_frames("in", 3)
    assert flow("in", "--ray", "far:1", "--device", device)[0] == 0
    assert asked == [("far:1", "cpu", device)]
    assert len(list(Path("in_flow").glob("*.flo"))) == 2


def test_without_ray(flow, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    save_frames("in", 3)
    with pytest.raises(InputError, match="ray is not installed"):
        workers.check_ray("local")
    assert flow("in", "--ray", "local") == (
        3, [], ["flowwarp: --ray: ray is not installed; install the extra 'ray' as README.md says"],
    )  # fmt: skip
    assert not Path("in_flow").exists()
