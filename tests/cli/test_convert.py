import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowwarp.cli import _paths, main
from flowwarp.errors import InputError, OutputError
from flowwarp.io import flow_files
from flowwarp.io.file_types import FLOW_FORMATS
from flowwarp.io.flow_files import read_flow, write_flow
from flowwarp.io.images import write_image

FLOW = torch.tensor([[[1.5, -2.0, 0.25]], [[3.0, 0.0, -7.5]]])  # fits every format exactly
VALID = torch.tensor([[[True, False, True]]])


def run(capfdbinary, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([os.fspath(argument) for argument in arguments])
    out, err = capfdbinary.readouterr()
    return stop.value.code, out, err.decode().splitlines()


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_flow(folder / name, FLOW, VALID)
    return folder


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("source", FLOW_FORMATS)
@pytest.mark.parametrize("target", FLOW_FORMATS)
def test_every_format_to_every_format(tmp_path, capfdbinary, source, target):
    make(tmp_path, f"a.{source}")
    output = tmp_path / f"b.{target}"
    code, out, err = run(capfdbinary, "convert", tmp_path / f"a.{source}", "-o", output)
    assert (code, out, err) == (0, f"{output}\n".encode(), [])
    flow, valid = read_flow(output)
    assert torch.equal(flow, FLOW * VALID)
    assert torch.equal(valid, VALID)


def test_several_files_into_a_folder(tmp_path, capfdbinary):
    make(tmp_path, "in/f10.flo", "in/f9.png", "other/x.npy", "other/y.npz")
    (tmp_path / "in" / "notes.txt").write_text("not a flow file")
    out_folder = tmp_path / "new" / "out"
    inputs = [tmp_path / "in", f"{tmp_path}/other/*.np?", tmp_path / "in" / "f9.png"]
    code, out, err = run(capfdbinary, "convert", *inputs, "-o", out_folder, "--to", "pfm")
    assert (code, err) == (0, [])
    expected = [str(out_folder / f"{stem}.pfm") for stem in ("f9", "f10", "x", "y")]
    assert out.decode().splitlines() == expected
    assert all(torch.equal(read_flow(path)[1], VALID) for path in expected)


def test_broken_files_are_listed(tmp_path, capfdbinary):
    make(tmp_path, "in/a.flo", "in/c.flo")
    (tmp_path / "in" / "b.flo").write_bytes(b"PIEH")
    out_folder = tmp_path / "out"
    code, out, err = run(
        capfdbinary, "convert", tmp_path / "in", tmp_path / "d.flo", "-o", out_folder, "--to", "npy"
    )
    assert code == 5
    assert out.decode().splitlines() == [f"{out_folder}/a.npy", f"{out_folder}/c.npy"]
    assert err == [
        f"flowwarp: {tmp_path}/in/b.flo: is cut off in its header",
        f"flowwarp: {tmp_path}/d.flo: no such file or directory",
        "flowwarp: 2 of 4 failed",
    ]
    assert listing(out_folder) == ["a.npy", "c.npy"]


def test_pictures_of_show_are_left_out(tmp_path, capfdbinary):
    make(tmp_path, "in/a.flo", "in/b.png", "in/b_flow.png")
    for name in ("a_flow", "a_arrows", "b_error", "c_flow"):
        write_image(tmp_path / "in" / f"{name}.png", torch.zeros(3, 1, 3))
    arguments = ["convert", tmp_path / "in", "-o", tmp_path / "out", "--to", "npz"]
    code, _, err = run(capfdbinary, *arguments)
    assert (code, len(err)) == (5, 2)
    assert "c_flow.png: is 8-bit RGB PNG, not flow" in err[0]  # whose picture would it be?
    assert listing(tmp_path / "out") == ["a.npz", "b.npz", "b_flow.npz"]


def test_bad_input_creates_no_folder(tmp_path, capfdbinary):
    write_flow(tmp_path / "a.flo", torch.full((2, 1, 1), 600.0))
    for name in ("a.flo", ""):
        path = tmp_path / name if name else name
        assert run(capfdbinary, "convert", path, "-o", tmp_path / "out/a.png")[0] == 3
    assert listing(tmp_path) == ["a.flo"]


def test_flow_out_of_range_for_kitti_is_bad_input(tmp_path, capfdbinary):
    write_flow(tmp_path / "a.flo", torch.full((2, 1, 1), 600.0))
    code, out, err = run(capfdbinary, "convert", tmp_path / "a.flo", "-o", tmp_path / "a.png")
    assert (code, out, len(err)) == (3, b"", 1)
    assert "600 px does not fit a KITTI PNG (-512 to 511.98); write .flo" in err[0]
    assert listing(tmp_path) == ["a.flo"]


def test_existing_output_is_refused_before_any_work(tmp_path, capfdbinary):
    make(tmp_path, "in/a.flo", "in/b.flo")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.npy").write_bytes(b"precious")
    arguments = ["convert", tmp_path / "in", "-o", tmp_path / "out", "--to", "npy"]
    code, out, err = run(capfdbinary, *arguments)
    problem = "exists; use --overwrite to replace it"
    assert (code, out, err) == (4, b"", [f"flowwarp: {tmp_path}/out/b.npy: {problem}"])
    assert listing(tmp_path / "out") == ["b.npy"]
    assert (tmp_path / "out" / "b.npy").read_bytes() == b"precious"
    code, _, err = run(capfdbinary, *arguments, "--overwrite")
    assert (code, err) == (0, [])
    assert torch.equal(read_flow(tmp_path / "out" / "b.npy")[1], VALID)


def test_file_may_replace_itself(tmp_path, capfdbinary):
    path = make(tmp_path, "a.flo") / "a.flo"
    before = path.read_bytes()
    assert run(capfdbinary, "convert", path, "-o", path)[0] == 4
    assert run(capfdbinary, "convert", path, "-o", path, "--overwrite")[0] == 0
    assert path.read_bytes() == before


def test_json(tmp_path, capfdbinary):
    make(tmp_path, "a.flo")
    (tmp_path / "b.flo").write_bytes(b"PIEH")
    code, out, err = run(
        capfdbinary, "convert", tmp_path, "-o", tmp_path / "out", "--to", "npz", "--json"
    )
    assert (code, len(err)) == (5, 2)
    assert json.loads(out) == {
        "dry_run": False,
        "results": [
            {
                "input": f"{tmp_path}/a.flo",
                "output": f"{tmp_path}/out/a.npz",
                "height": 1,
                "width": 3,
                "valid": 0.666667,
            }
        ],
        "failed": [
            {
                "input": f"{tmp_path}/b.flo",
                "error": f"{tmp_path}/b.flo: is cut off in its header",
            }
        ],
    }


def test_dry_run_reads_everything_and_writes_nothing(tmp_path, capfdbinary):
    make(tmp_path, "a.flo")
    output = tmp_path / "new" / "a.png"
    code, out, err = run(capfdbinary, "convert", tmp_path / "a.flo", "-o", output, "--dry-run")
    assert (code, out, err) == (0, f"{output}\n".encode(), [])
    (tmp_path / "a.flo").write_bytes(b"PIEH")
    assert run(capfdbinary, "convert", tmp_path / "a.flo", "-o", output, "--dry-run")[0] == 3
    assert listing(tmp_path) == ["a.flo"]


def test_dry_run_checks_the_range_of_the_format(tmp_path, capfdbinary):
    write_flow(tmp_path / "a.flo", torch.full((2, 4, 5), 600.0))
    outcomes = [
        run(capfdbinary, "convert", tmp_path / "a.flo", "-o", tmp_path / "a.png", *more)
        for more in (("--dry-run",), ())
    ]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == 3
    assert listing(tmp_path) == ["a.flo"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.flo"], "Missing option '-o'"),
        (["-o", "b.flo"], "Missing argument 'IN...'"),
        (["a.flo", "-o", "b.jpg"], "OUT must end in .flo"),
        (["a.flo", "-o", "b.npy", "--to", "flo"], "OUT must end in .flo"),
        (["a.flo", "-o", "b", "--to", "xyz"], "'xyz' is not one of"),
        (["a.flo", "b.flo", "-o", "out"], "give --to FORMAT"),
        (["a.flo", "-o", "out/"], "give --to FORMAT"),
        (["a.flo", "b.flo", "-o", "c.npy", "--to", "npy"], "many inputs need a folder"),
        (["a.flo", "b.flo", "-o", "c.mp4", "--to", "npy"], "many inputs need a folder"),
    ],
)
def test_usage_errors(tmp_path, capfdbinary, monkeypatch, arguments, words):
    monkeypatch.chdir(make(tmp_path, "a.flo", "b.flo"))
    code, out, err = run(capfdbinary, "convert", *arguments)
    assert (code, out, len(err)) == (2, b"", 1)
    assert words in err[0]


def test_two_inputs_with_one_name_are_refused(tmp_path, capfdbinary):
    make(tmp_path, "x/a.flo", "y/a.flo")
    code, _, err = run(
        capfdbinary, "convert", tmp_path / "x", tmp_path / "y", "-o", tmp_path / "o", "--to", "npy"
    )
    assert code == 4
    assert f"would be the output of both {tmp_path}/x/a.flo and {tmp_path}/y/a.flo" in err[0]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_input_names_that_differ_in_case_only(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    sources = [Path("x/a.flo"), Path("x/A.flo")]
    if platform == "linux":
        assert _paths.name_outputs(sources, Path("o"), ".npy") == [Path("o/a.npy"), Path("o/A.npy")]
    else:
        with pytest.raises(OutputError, match=r"would be the output of both x.a.flo and x.A.flo"):
            _paths.name_outputs(sources, Path("o"), ".npy")


def test_output_that_links_to_another_input_is_refused(tmp_path, capfdbinary):
    """It would be replaced before it is read."""
    make(tmp_path, "in/a.flo")
    write_flow(tmp_path / "in/b.flo", 2 * FLOW)
    before = (tmp_path / "in/b.flo").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.flo").symlink_to(tmp_path / "in/b.flo")
    inputs = ("convert", tmp_path / "in", "-o", tmp_path / "out", "--overwrite", "--to", "flo")
    code, out, err = run(capfdbinary, *inputs)
    assert (code, out, len(err)) == (4, b"", 1)
    assert f"out/a.flo: is the input {tmp_path}/in/b.flo; name another file to write" in err[0]
    assert (tmp_path / "in/b.flo").read_bytes() == before
    assert listing(tmp_path / "out") == ["a.flo"]


def test_output_created_during_work_is_not_replaced(tmp_path, capfdbinary, monkeypatch):
    make(tmp_path, "in/a.flo", "in/b.flo")
    read = flow_files.read_flow

    def late(path):
        if path.name == "b.flo":
            (tmp_path / "out/b.npy").write_text("mine")
        return read(path)

    monkeypatch.setattr(flow_files, "read_flow", late)
    inputs = ("convert", tmp_path / "in", "-o", tmp_path / "out", "--to", "npy")
    code, out, err = run(capfdbinary, *inputs)
    assert (code, out.split()) == (4, [os.fsencode(tmp_path / "out/a.npy")])
    assert err[-1].endswith("out/b.npy: exists; use --overwrite to replace it")
    assert (tmp_path / "out/b.npy").read_text() == "mine"


def test_two_outputs_that_are_one_file_are_refused(tmp_path, capfdbinary):
    make(tmp_path, "in/a.flo", "in/b.flo")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.npy").symlink_to("a.npy")
    inputs = ("convert", tmp_path / "in", "-o", tmp_path / "out", "--overwrite", "--to", "npy")
    code, out, err = run(capfdbinary, *inputs)
    assert (code, out, len(err)) == (4, b"", 1)
    assert f"out/b.npy: is the same file as the output {tmp_path}/out/a.npy" in err[0]
    assert listing(tmp_path / "out") == ["b.npy"]


def test_folder_may_replace_its_files(tmp_path, capfdbinary):
    make(tmp_path, "a.flo", "b.flo")
    before = (tmp_path / "a.flo").read_bytes()
    inputs = ("convert", tmp_path, "-o", tmp_path, "--overwrite", "--to", "flo")
    assert run(capfdbinary, *inputs)[0] == 0
    assert (tmp_path / "a.flo").read_bytes() == before


def test_impossible_output_paths(tmp_path, capfdbinary):
    make(tmp_path, "a.flo")
    (tmp_path / "dir.npy").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for output, words in [
        ("file/b.npy", "file is not a folder"),
        ("n" * 300 + ".npy", "file name too long"),
    ]:
        code, out, err = run(capfdbinary, "convert", tmp_path / "a.flo", "-o", tmp_path / output)
        assert (code, out, len(err)) == (4, b"", 1)
        assert words in err[0]
    assert listing(tmp_path) == ["a.flo", "dir.npy", "file"]


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path, capfdbinary):
    make(tmp_path, "a.flo")
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = run(
        capfdbinary, "convert", tmp_path / "a.flo", "-o", tmp_path / "locked" / "b.npy"
    )
    assert code == 4
    assert "no permission to write" in err[0]


def test_full_disk_stops_everything(tmp_path, capfdbinary, monkeypatch):
    make(tmp_path, "in/a.flo", "in/b.flo")
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fsync)
    code, out, err = run(
        capfdbinary, "convert", tmp_path / "in", "-o", tmp_path / "out", "--to", "npy"
    )
    assert (code, out, len(calls)) == (4, b"", 1)
    assert err == [f"flowwarp: {tmp_path}/out/a.npy: no space left on device"]
    assert listing(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["li\nne.flo", "gl[o]b.flo", "not-utf8-\udcff.flo", "-dash.flo"])
def test_unusual_file_names(tmp_path, capfdbinary, name):
    make(tmp_path, name)
    output = tmp_path / name.replace(".flo", ".npz")
    code, out, err = run(capfdbinary, "convert", tmp_path / name, "-o", output)
    assert (code, out, err) == (0, os.fsencode(output) + b"\n", [])
    assert torch.equal(read_flow(output)[1], VALID)


def test_folder_or_glob_without_flow_files(tmp_path, capfdbinary):
    for name in (tmp_path, f"{tmp_path}/*.flo"):
        code, _, err = run(capfdbinary, "convert", name, "-o", tmp_path / "o", "--to", "npy")
        assert (code, len(err)) == (3, 1)
        assert err[0].endswith(
            "holds no file that can be read; known are .flo, .npy, .npz, .pfm, .png"
        )


def test_folder_of_folders_suggests_one(tmp_path, capfdbinary):
    """As `flow` writes them for several clips."""
    make(tmp_path, "f[1]/a10/000000.flo", "f[1]/a9/000000.flo", "f[1]/.hidden/a.flo")
    for name, folder in (("f[1]", "f[1]/a9"), ("f[1]/", "f[1]/a9"), ("f*", "f[1]")):
        code, _, err = run(capfdbinary, "convert", f"{tmp_path}/{name}", "-o", "o", "--to", "npy")
        assert (code, len(err)) == (3, 1)
        assert err[0].endswith(f".png; give one of its folders, such as {tmp_path}/{folder}")


def test_as_a_program_without_heavy_imports(tmp_path):
    make(tmp_path, "a.flo")
    command = [sys.executable, "-X", "importtime", "-m", "flowwarp", "convert"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    assert "--dry-run" in helped.stdout
    for heavy in ("torch", "cv2", "imageio", "av", "PIL", "numpy"):
        assert f" {heavy}\n" not in helped.stderr
    done = subprocess.run(
        [*command, "a.flo", "-o", "b.npz"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "b.npz\n"
    assert " cv2\n" not in done.stderr  # which .flo and .npz do not need


def test_name_beside():
    image = _paths.Path("some/image.png")
    assert str(_paths.name_beside(image, "warped")) == "some/image_warped.png"
    assert str(_paths.name_beside(image, "flow", ".flo")) == "some/image_flow.flo"


def test_make_folder(tmp_path):
    _paths.make_folder(tmp_path / "a" / "b")
    _paths.make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="not a directory"):
        _paths.make_folder(tmp_path / "file" / "b")


def test_expand_inputs_keeps_file_names(tmp_path):
    # Even one that is missing or of another kind: reading it says what is wrong.
    names = [str(tmp_path / "none.flo"), str(tmp_path / "a.txt")]
    assert [str(path) for path in _paths.expand_inputs(names, frozenset({".flo"}))] == names
    with pytest.raises(InputError):
        _paths.expand_inputs([str(tmp_path)], frozenset({".flo"}))
