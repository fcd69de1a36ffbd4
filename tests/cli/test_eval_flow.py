"""``flowwarp eval-flow`` on pairs of a few pixels, compared with values computed by hand."""

import json

import pytest
import torch

from flowwarp.cli import eval_flow, main
from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import write_image


@pytest.fixture
def evaluate(capsys):
    """Run the command; return exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["eval-flow", *map(str, arguments)])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def save_pair(folder, u, occluded=None, size=(2, 4)):
    """Write a pair with flow ``u`` px to the right, one value per column."""
    folder.mkdir(parents=True)
    for name in ("frame1.png", "frame2.png"):
        write_image(folder / name, torch.rand(3, *size))
    flow = torch.zeros(2, *size)
    flow[0] = torch.tensor(u).float()
    write_flow(folder / "flow.flo", flow)
    if occluded is not None:
        write_image(folder / "occ.png", torch.tensor(occluded).float().expand(3, *size))


def test_folders_may_be_a_glob(tmp_path, evaluate):
    for name in ("set1/a", "set2/b", "other/c"):
        save_pair(tmp_path / name, [0, 2, 12, 50])
    (tmp_path / "set.txt").write_text("no folder")
    code, out, err = evaluate(tmp_path / "set*", "--method", "zero", "--json")
    assert (code, err) == (0, "")
    assert [row["set"] for row in json.loads(out)["sets"]] == ["set1", "set2"]
    code, out, err = evaluate(tmp_path / "nothing*", "--method", "zero")
    assert (code, out) == (3, "")
    assert err.endswith("nothing*: matches no file that can be read\n")


def test_zero_flow_computed_by_hand(tmp_path, evaluate):
    save_pair(tmp_path / "set/a", [0, 2, 12, 50], occluded=[0, 0, 0, 1])
    save_pair(tmp_path / "set/b", [4, 4, 4, 4])
    save_pair(tmp_path / "other/c", [1, 1, 1, 1])
    code, out, err = evaluate(tmp_path, "--method", "zero", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["failed"] == []
    assert [(row["set"], row["pairs"]) for row in result["sets"]] == [("other", 1), ("set", 2)]
    row = result["sets"][1]
    assert row["method"] == "zero"
    assert row["epe"] == (16 + 4) / 2
    assert row["epe_matched"] == pytest.approx(14 / 3)
    assert row["epe_unmatched"] == 50
    assert row["fl_all"] == (50 + 100) / 2
    assert row["epe_s0_10"] == (1 + 4) / 2
    assert row["epe_s10_40"] == 12
    assert row["epe_s40"] == 50
    assert row["seconds"] >= 0
    other = result["sets"][0]
    assert other["angular_error"] == pytest.approx(45)
    assert other["epe_matched"] is other["epe_s40"] is None
    assert [(r["pair"], r["epe"]) for r in result["pairs"]] == [("c", 1), ("a", 16), ("b", 4)]


def test_the_table(tmp_path, evaluate):
    save_pair(tmp_path / "set/a", [4, 4, 4, 4])
    code, out, err = evaluate(tmp_path, "--method", "zero")
    assert (code, err) == (0, "")
    head, row = out.splitlines()
    assert head.split()[:4] == ["set", "(pairs)", "method", "EPE"]
    assert row.split()[:7] == ["set", "(1)", "zero", "4.000", "-", "-", "100.00"]


@pytest.mark.parametrize("name", ["zero", "dis", "dis-fine", "farneback"])
def test_methods_find_a_shift(name):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 16, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (96, 128), mode="bicubic").clamp(0, 1)
    image1, image2 = wide[..., 3:], wide[..., :-3]  # frame 2 shows it 3 px further right
    flow = eval_flow.METHODS[name]("base", "cpu")(image1, image2)
    assert (flow.shape, flow.dtype) == ((1, 2, 96, 125), torch.float32)
    wanted = torch.tensor([0.0 if name == "zero" else 3.0, 0])
    assert (flow[0, :, 20:-20, 20:-20].mean((1, 2)) - wanted).abs().max() < 0.3


def test_gray_is_computed_from_rgb():
    assert eval_flow.to_grey(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)) == 76  # 0.299 of 255


def test_broken_pair_does_not_stop_the_others(tmp_path, evaluate):
    save_pair(tmp_path / "set/a", [4, 4, 4, 4])
    save_pair(tmp_path / "set/b", [4, 4, 4, 4])
    (tmp_path / "set/a/frame2.png").write_bytes(b"nonsense")
    code, out, err = evaluate(tmp_path, "--method", "zero", "--json")
    assert code == 5
    assert json.loads(out)["sets"][0]["pairs"] == 1
    assert "frame2.png" in json.loads(out)["failed"][0]["error"]
    assert "1 of 2 failed" in err


def test_incomplete_pair_does_not_stop_the_others(tmp_path, evaluate, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        save_pair(tmp_path / "data/set" / name, [4, 4, 4, 4])
    lacking = ["a/frame2.*", "b/frame1.*", "c/flow.*"]
    for name in lacking:
        (path,) = (tmp_path / "data/set").glob(name)
        path.unlink()
    for options in ((), ("--dry-run",)):
        # What is given twice counts once, and a folder may be a single pair that is incomplete.
        code, out, err = evaluate("data/set", "data/*/*", "--method", "zero", "--json", *options)
        assert code == 5
        result = json.loads(out)
        assert [row["pairs"] for row in result["sets"]] == [1]
        assert {fault["input"] for fault in result["failed"]} == {
            f"data/set/{name}" for name in lacking
        }
        assert "flowwarp: data/set/a/frame2.*: no such file\n" in err
        assert err.endswith("flowwarp: 3 of 4 failed\n")
    (tmp_path / "data/set/d/frame2.png").write_bytes(b"no picture")
    assert evaluate("data", "--method", "zero")[0] == 5  # though it is the only one to be read
    (tmp_path / "data/set/d/frame2.png").unlink()
    code, out, err = evaluate("data", "--method", "zero")
    assert (code, out) == (3, "")
    line = "flowwarp: data/set/a/frame2.*: no such file, and no pair has all of its files; this is"
    assert err.startswith(line)


def test_nonfinite_flow_is_an_error(tmp_path, evaluate, monkeypatch):
    save_pair(tmp_path / "set/a", [4, 4, 4, 4])
    broken = lambda *_: lambda image1, image2: torch.full_like(image1[:, :2], torch.nan)  # noqa: E731
    monkeypatch.setitem(eval_flow.METHODS, "zero", broken)
    code, out, err = evaluate(tmp_path, "--method", "zero")
    assert (code, out) == (3, "")
    assert "zero returned flow that is not finite" in err


def test_pair_too_small_for_one_method_is_left_out_of_all(tmp_path, evaluate):
    save_pair(tmp_path / "set/a", [4, 4, 4, 4])
    save_pair(tmp_path / "set/b", [4] * 32, size=(24, 32))
    code, out, err = evaluate(tmp_path, "--method", "zero", "--method", "dis", "--json")
    assert code == 5
    assert [row["pairs"] for row in json.loads(out)["sets"]] == [1, 1]
    assert "dis: cannot process images of size 4x2" in err
    assert "dis-fine: cannot process" in evaluate(tmp_path, "--method", "dis-fine")[2]


def test_flows_of_another_program(tmp_path, evaluate):
    save_pair(tmp_path / "data/set/a", [0, 2, 12, 50])
    save_pair(tmp_path / "data/set/b", [4, 4, 4, 4])
    for folder, u in (("mine", [0, 2, 12, 10]), ("theirs", [1, 3, 13, 51])):
        for pair, kind in (("a", "flo"), ("b", "npz")):
            flow = torch.zeros(2, 2, 4)
            flow[0] = torch.tensor(u).float() if pair == "a" else 4
            (tmp_path / folder / "set").mkdir(parents=True, exist_ok=True)
            write_flow(tmp_path / folder / f"set/{pair}.{kind}", flow)
    given = ("--flows", tmp_path / "mine", "--flows", tmp_path / "theirs")
    code, out, _ = evaluate(tmp_path / "data", "--method", "zero", *given, "--json")
    assert code == 0
    rows = {row["method"]: row for row in json.loads(out)["sets"]}
    assert {name: row["epe"] for name, row in rows.items()} == {
        "zero": 10,
        "mine": 5,
        "theirs": 0.5,
    }
    assert rows["mine"]["seconds"] is None
    # A pair without a file counts for no method.
    (tmp_path / "theirs/set/b.npz").unlink()
    code, out, err = evaluate(tmp_path / "data", "--method", "zero", *given, "--json")
    assert code == 5
    assert "theirs/set/b.flo: no such file" in err
    assert {row["pair"] for row in json.loads(out)["pairs"]} == {"a"}


@pytest.mark.parametrize(
    ("flow", "problem"),
    [
        (torch.zeros(2, 2, 5), "a.flo: is 5x2, the pair is 4x2"),
        (torch.full((2, 2, 4), torch.nan), "own/set/a.flo: has no flow at 8 pixels that count"),
    ],
)
def test_flow_files_that_do_not_fit_the_pair(tmp_path, evaluate, flow, problem):
    save_pair(tmp_path / "data/set/a", [0, 2, 12, 50])
    (tmp_path / "own/set").mkdir(parents=True)
    write_flow(tmp_path / "own/set/a.flo", flow)
    code, out, err = evaluate(tmp_path / "data", "--method", "zero", "--flows", tmp_path / "own")
    assert (code, out) == (3, "")
    assert problem in err


def test_flow_is_needed_only_at_valid_pixels(tmp_path, evaluate):
    save_pair(tmp_path / "data/set/a", [torch.nan, 2, 12, 50])
    (tmp_path / "own/set").mkdir(parents=True)
    flow = torch.zeros(2, 2, 4)
    flow[:, :, 0] = torch.nan
    write_flow(tmp_path / "own/set/a.flo", flow)
    given = ("--flows", tmp_path / "own", "--method", "zero", "--json")
    code, out, _ = evaluate(tmp_path / "data", *given)
    assert code == 0
    assert [row["epe"] for row in json.loads(out)["sets"]] == [pytest.approx(64 / 3)] * 2


def test_each_pair_counts_once(tmp_path, evaluate):
    save_pair(tmp_path / "data/set/a", [4, 4, 4, 4])
    save_pair(tmp_path / "data/set/b", [2, 2, 2, 2])
    roots = (tmp_path / "data/set/a", tmp_path / "data", tmp_path / "data/set")
    code, out, _ = evaluate(*roots, "--method", "zero", "--json")
    assert code == 0
    assert [row["pair"] for row in json.loads(out)["pairs"]] == ["a", "b"]


def test_two_pairs_with_one_name_are_refused(tmp_path, evaluate):
    for root in "xy":
        save_pair(tmp_path / root / "set/a", [4, 4, 4, 4])
    code, out, err = evaluate(tmp_path / "x", tmp_path / "y", "--method", "zero")
    assert (code, out) == (3, "")
    assert f"its pair is named set/a, as is that of {tmp_path}/x/set/a/frame1.png" in err


def test_flow_folders_with_one_name_are_refused(tmp_path, evaluate):
    save_pair(tmp_path / "data/set/a", [0, 2, 12, 50])
    for given in (["a/x", "b/x"], ["b/zero"]):
        options = [part for folder in given for part in ("--flows", tmp_path / folder)]
        code, out, err = evaluate(tmp_path / "data", "--method", "zero", *options)
        assert (code, out) == (2, "")
        assert "folders of different names, none that of a method" in err


def test_recipe(tmp_path, evaluate):
    for name in ("img1.ppm", "img2.ppm"):
        (tmp_path / "data").mkdir(exist_ok=True)
        write_image(tmp_path / f"data/00001_{name}", torch.rand(3, 2, 4))
    write_flow(tmp_path / "data/00001_flow.flo", torch.ones(2, 2, 4))
    options = ("--recipe", "flyingchairs", "--method", "zero", "--json")
    code, out, _ = evaluate(tmp_path, *options)
    assert code == 0
    assert json.loads(out)["sets"][0]["set"] == "flyingchairs/all"


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["none"], 3, "none: no such file or directory"),
        (["."], 3, "no file is like {*pair}/frame1.{kind}"),
        ([".", "--recipe", "sintl"], 3, "is not a recipe"),
        ([".", "--recipe", ""], 3, "flowwarp: '': is not a recipe"),
        ([".", "--method", "guess"], 2, "guess"),
        ([], 2, "DATA..."),
    ],
)
def test_errors_are_one_line(tmp_path, evaluate, monkeypatch, arguments, code, problem):
    monkeypatch.chdir(tmp_path)
    got, out, err = evaluate(*arguments)
    assert (got, out) == (code, "")
    assert problem in err
    assert err.count("\n") == 1


def test_dry_run_reads_everything_and_estimates_nothing(tmp_path, evaluate, monkeypatch):
    save_pair(tmp_path / "set/a", [0, 2, 12, 50])
    save_pair(tmp_path / "set/b", [4, 4, 4, 4])
    save_pair(tmp_path / "other/c", [1, 1, 1, 1])
    monkeypatch.setattr(eval_flow, "_measure", None)
    code, out, err = evaluate(tmp_path, "--dry-run", "--method", "zero", "--method", "fast")
    assert (code, out, err) == (0, "other: 1 pair\nset: 2 pairs\nmethods: zero, fast\n", "")
    (tmp_path / "set/b/frame2.png").write_bytes(b"no picture")
    code, out, err = evaluate(tmp_path, "--dry-run", "--method", "zero", "--json")
    assert code == 5
    plan = json.loads(out)
    assert plan["sets"] == [{"set": "other", "pairs": 1}, {"set": "set", "pairs": 1}]
    assert (plan["dry_run"], plan["methods"], len(plan["failed"])) == (True, ["zero"], 1)
    assert evaluate(tmp_path / "set/a", "--dry-run", "--weights", "nowhere.safetensors")[0] == 3
    assert evaluate(tmp_path / "other", "--dry-run", "--flows", tmp_path)[0] == 3
