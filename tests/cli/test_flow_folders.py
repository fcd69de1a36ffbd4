"""``flowwarp flow`` on folders of frames."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from flow_frames import HEIGHT, WIDTH, files, flows, frame, lines, save_frames

from flowwarp.io.flow_files import read_flow
from flowwarp.io.images import read_image, write_image
from flowwarp.io.video_writer import write_video
from flowwarp.pipelines.flow.estimate import estimate_both, load_flownet

pytestmark = pytest.mark.usefixtures("inside")


def test_folder(flow):
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
def test_globs_and_frame_lists_are_in_natural_order(flow, given):
    save_frames("in")
    # As a shell expands in/*.png.
    arguments = given or sorted(str(path) for path in Path("in").iterdir())
    numbers = (10, 11) if given and len(given) > 1 else (8, 9, 10)
    assert flow(*arguments)[1] == flows("in_flow", *numbers)


@pytest.mark.parametrize("format", ["flo", "png", "pfm", "npy", "npz"])
def test_every_flow_format(flow, untrained, format):
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


def test_each_clip_has_its_own_folder(flow):
    save_frames("in/a", 3)
    save_frames("in/b/deep", 2)
    save_frames("in", 2)
    save_frames("in/single", 1)
    write_video("in/a.mp4", [frame(index) for index in range(3)])
    code, out, err = flow("in")
    assert (code, err) == (0, [])
    names = ["frame8", "a/frame8", "a/frame9", "b/deep/frame8", "a.mp4/000000", "a.mp4/000001"]
    assert sorted(out) == sorted(f"in_flow/{name}.flo" for name in names)
    # With several inputs, each has a folder of its name.
    assert "give -o FOLDER when there are several INPUTs" in flow("in/b", "in/a.mp4")[2][0]
    assert flow("in/b", "in/a.mp4", "-o", "out")[1] == [
        "out/b/deep/frame8.flo", "out/a/000000.flo", "out/a/000001.flo",
    ]  # fmt: skip


def test_earlier_results_among_frames_are_not_input(flow):
    save_frames("in/a", 3)
    options = ["in", "-o", "in/flow", "--occlusion", "in/seen", "--format", "png"]
    first = flow(*options)
    assert first[0] == 0
    assert flow(*options) == first
    assert flow("in/a", "-o", "in/a", "--overwrite")[::2] == (
        4, ["flowwarp: in/a: contains input frames; name another folder"],
    )  # fmt: skip


def test_trailing_slash_names_a_folder(flow):
    save_frames("in", 2)
    assert flow("in", "-o", "out.mp4/")[0] == 0
    assert files("out.mp4")


def test_input_files_are_never_replaced(flow):
    """Neither by --show of many pairs, nor in the folder of a later frame."""
    save_frames("in/a", 3)
    save_frames("in/b", 3)
    write_video("in/c.gif", [frame(index) for index in range(3)])
    before = files("in")
    for arguments, problem in (
        ("in/c.gif -o out --show in/c.gif", "in/c.gif: is the input in/c.gif; name another file"),
        ("in/a -o out --show in/a", "in/a: contains input frames"),
        ("in -o out --show in", "in/a: contains input frames"),  # it would draw in/a/frame8.png
        ("in/a/frame8.png in/b/frame9.png in/b/frame10.png -o in/b", "in/b: contains input frames"),
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
        (["-o", "mine"], 4, "mine: is not empty, and contains no job to resume"),
        (["--occlusion", "mine"], 4, "mine: is not empty"),
        (["--show", "mine"], 4, "mine: is not empty"),
        (["-o", "mine/a.txt"], 4, "mine/a.txt: is a file, not a folder; name a folder"),
        (["-o", "mine/a.txt", "--overwrite"], 4, "mine/a.txt: is a file, not a folder"),
        (["--occlusion", "x.flo"], 2, "many pairs need a folder, but --occlusion is 'x.flo'"),
        (["--ray", "127.0.0.1:1"], 3, "--ray: "),
    ],
)
def test_folder_refuses_wrong_options(flow, arguments, code, words):
    save_frames("in", 3)
    Path("mine").mkdir()
    Path("mine/a.txt").write_text("mine")
    before = files(".")
    for more in ([], ["--dry-run"]):
        got, out, err = flow("in", *arguments, *more)
        assert (got, out, len(err)) == (code, [], 1)
        assert words in err[0]
        assert files(".") == before


def test_two_frames_with_one_output_name_are_refused(flow):
    save_frames("in", 2)
    shutil.copy("in/frame8.png", "in/frame8.bmp")
    code, _, err = flow("in")
    assert (code, len(err)) == (4, 1)
    assert "would be the result of both in/frame8.bmp and in/frame8.png" in err[0]


def test_dry_run_reads_everything_and_writes_nothing(flow):
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


def test_json_of_a_folder(flow):
    save_frames("in", 3)
    write_image("in/frame10.png", torch.zeros(3, 4, 4))
    code, out, _ = flow("in", "--json", "--backward", "b")
    assert code == 5
    printed = json.loads("".join(out))
    assert printed["output"] == "in_flow"
    (result,) = printed["results"]
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
    assert printed["failed"] == [
        {
            "input": ["in/frame9.png", "in/frame10.png"],
            "error": "in_flow/frame9.flo: in/frame10.png: is 4x4, but in/frame9.png is 64x48; "
            "a pair needs frames of one size",
        }
    ]
    (again,) = json.loads("".join(flow("in", "--json", "--backward", "b")[1]))["results"]
    assert again.pop("seconds") == pytest.approx(seconds, abs=1e-3)
    assert again == result | {"kept": True}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_file_names_not_utf8_or_of_maximum_length(flow):
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
