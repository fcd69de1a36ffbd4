"""Commands on a full or read-only disk, with a closed pipe, no home folder, or one core."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowwarp.cli import eval_video, main
from flowwarp.errors import OutputError
from flowwarp.io.flow_files import read_flow, write_flow
from flowwarp.io.images import read_image, write_image
from flowwarp.io.manifests import open_manifest, read_manifests
from flowwarp.io.video_writer import write_video
from flowwarp.ops import native
from flowwarp.selftest.fault_injection import FullDisk, run_differences
from flowwarp.train.runs import Run

SIZE = 144
NET = "--weights {net} --quality fast"
VIDEO = "--gpt {gpt} --dvae {dvae} --upsampler {upsampler} --flow {net}"
ONCE = "--preset tiny --steps 1 --run {disk}/run --resume auto --set batch_size=1"
# Each command would write more into {disk} than fits.
CALLS = {
    "warp": "warp a.png a.flo -o {disk}/out.png",
    "warp of many": "warp frames a.flo -o {disk}/warped",
    "show": "show a.flo -o {disk}/out.png",
    "convert": "convert a.flo -o {disk}/out.npy",
    "flow": f"flow a.png b.png {NET} -o {{disk}}/out.flo",
    "flow of many": f"flow frames {NET} -o {{disk}}/flows",
    "interpolate": f"interpolate frames {NET} -o {{disk}}/out.mp4",
    "interpolate to frames": f"interpolate frames {NET} -o {{disk}}/new",
    "datasets": "datasets make digits --size 64 --count 1 --flow -o {disk}/made",
    "generate-video": f"generate-video knight {VIDEO} --frames 32 -o {{disk}}/out.webp",
    "generate-video to frames": f"generate-video knight {VIDEO} --best-of 1 -o {{disk}}/new",
    "eval-video": f"eval-video --part pictures --prompts 1 --no-held-out --training-clips 1 {VIDEO}"
    " --best-of 1 -o {disk}/out",
    "train-flow": f"train-flow frames {ONCE} --set data.height=64 --set data.width=64"
    " --set margin=8 --set student_margin=8 --set fitted_pairs=0",
    "train-dvae": f"train-dvae digits {ONCE} --set size=16 --set frames=4 --set validation=1"
    " --set widths=8,16,32",
    "train-gpt": f"train-gpt digits {ONCE} --dvae {{dvae}} --set clips=1 --set checked=1"
    " --set data.size=16 --set data.frames=8",
    "train-captioner": f"train-captioner digits {ONCE} --set clips=1 --set checked=1"
    " --set model.size=16 --set length=8",
    "train-upsampler": f"train-upsampler digits {ONCE} --dvae {{dvae}} --set data.size=32"
    " --set length=4 --set frames=2",
    "train-reviser": f"train-reviser sprites {ONCE} --dvae {{dvae}} --gpt {{gpt}} --set clips=1"
    " --set checked=1 --set size=16 --set length=8 --set groups=1",
}


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(eval_video, "SHOWN", 2)  # of 24 prompts, which take seconds
    Path("frames").mkdir()
    generator = torch.Generator().manual_seed(0)
    for name in ("a.png", "b.png", "frames/0.png", "frames/1.png"):
        write_image(name, torch.rand(3, SIZE, SIZE, generator=generator))
    write_flow("a.flo", torch.randn(2, SIZE, SIZE, generator=generator))


@pytest.fixture
def run(capfd, video_weights):
    """Run a command; return exit code, stdout and the lines on stderr."""

    def call(text, **names):
        names = {**video_weights, "net": video_weights["flow"], **names}
        with pytest.raises(SystemExit) as stop:
            main([word.format(**names) for word in text.split()])
        out, err = capfd.readouterr()
        return stop.value.code, out, err.splitlines()

    return call


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", CALLS)
def test_full_disk(name, run, small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(236 * 1024))
    code, _, lines = run(CALLS[name], disk=small_disk)
    assert code == 4, lines
    assert sum(line.startswith("flowwarp: ") for line in lines) == 1
    assert "no space left on device" in lines[-1].lower()
    assert ".flowwarp-" not in lines[-1]  # a name that nobody has given
    # What is whole may stay, such as a manifest; nothing that is half.
    left = [path for path in names(small_disk) if not path.startswith(("ballast", "run/", "made/"))]
    assert {Path(path).name for path in left} <= {"manifest.jsonl", ".lock"}
    assert not list(small_disk.rglob(".flowwarp-*"))
    if name.endswith("of many") or name.startswith("train-"):
        subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
        assert run(CALLS[name], disk=small_disk)[0] == 0


@pytest.mark.parametrize("name", CALLS)
def test_disk_full_at_flush(name, run, monkeypatch):
    """As on a network disk; unlike the small disk above, it needs no mount."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if name == "train-flow":  # whose footage is prepared on another disk; see below
        assert run(CALLS[name], disk="other")[0] == 0
    monkeypatch.setattr(os, "fsync", full)
    Path("disk").mkdir()
    code, _, lines = run(CALLS[name], disk="disk")
    assert code == 4, lines
    assert sum(line.startswith("flowwarp: disk/") for line in lines) == 1
    assert "no space left on device" in lines[-1]
    assert not [path for path in names(Path("disk")) if "lock" not in path]


@pytest.mark.parametrize("name", ["flow of many", "warp of many"])
def test_disk_full_at_each_write_in_turn(name, run):
    """Also at the last write, of the manifest, when every result is written."""
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        write_image(f"frames/{number}.png", torch.rand(3, 24, 40, generator=generator))
    write_flow("a.flo", torch.ones(2, 24, 40))
    with FullDisk(0) as disk:
        assert run(CALLS[name], disk="whole")[0] == 0
    whole = results("whole")
    for failing in range(1, disk.count + 1):
        with FullDisk(failing):
            code, _, lines = run(CALLS[name], disk=f"{failing}")
        assert (code, len(lines)) == (4, 1), lines
        assert lines[0].startswith(f"flowwarp: {failing}/")
        assert "no space left on device" in lines[0]
        assert results(f"{failing}").items() <= whole.items()
        assert run(CALLS[name], disk=f"{failing}")[0] == 0
        assert results(f"{failing}") == whole
        assert done(f"{failing}") == done("whole")
    assert disk.count == {"flow of many": 2 + 2 * 3 + 1, "warp of many": 2 + 3 * 3 + 1}[name]


def test_first_error_is_reported_if_closing_the_manifest_fails_too(tmp_path):
    def work(*faults):
        with open_manifest(tmp_path / "out", {"job": "test"}) as manifest:
            manifest.append({"part": "a", "status": "done"})
            disk.failing = disk.count + 1
            for fault in faults:
                raise fault

    with FullDisk(0) as disk:
        with pytest.raises(KeyboardInterrupt):
            work(KeyboardInterrupt)
        with pytest.raises(OutputError, match="no space left on device"):
            work()


def results(folder):
    """Return the files of a folder by name; a manifest, which contains times, as empty."""
    return {
        path: b"" if path.endswith(".jsonl") else Path(folder, path).read_bytes()
        for path in names(Path(folder))
    }


def done(folder):
    """Return the parts that a folder's manifest lists as done."""
    (path,) = Path(folder).rglob("manifest.jsonl")
    job = json.loads(path.read_text().splitlines()[0])
    return read_manifests(path.parent, job).keys()


def test_full_disk_leaves_existing_files_intact(run, small_disk):
    (small_disk / "out.npy").write_bytes(b"precious")
    (small_disk / "ballast").write_bytes(bytes(236 * 1024))
    code, _, lines = run(CALLS["convert"] + " --overwrite", disk=small_disk)
    assert (code, len(lines)) == (4, 1)
    assert (small_disk / "out.npy").read_bytes() == b"precious"
    assert names(small_disk) == ["ballast", "out.npy"]


@pytest.mark.parametrize("name", CALLS)
def test_read_only_disk(name, run, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    code, _, lines = run(CALLS[name], disk=small_disk)
    assert (code, len(lines)) == (4, 1), lines  # nothing is prepared first
    assert "read-only" in lines[0] or "no permission" in lines[0]


@pytest.mark.parametrize("text", [CALLS["flow of many"], "convert a.flo -o {disk}/a.npy"])
def test_closed_pipe_ends_every_command(text, run, tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patch, open(writer, "wb", buffering=0) as pipe:  # noqa: PTH123
        patch.setattr(sys, "stdout", io.TextIOWrapper(pipe, write_through=True))
        assert run(text, disk=tmp_path / "out") == (141, "", [])
        patch.undo()
    # What was finished is kept, and the rest is done by the same command.
    again = text if "flows" in text else f"{text} --overwrite"
    code, out, _ = run(again, disk=tmp_path / "out")
    assert code == 0
    assert Path(out.splitlines()[0]).is_file()


# ------------------------------------------------------------------ where prepared data goes

PREPARE = "train-flow frames --preset tiny --run run --steps 1"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{disk}/cache", "read-only"),
        ("a.png", "a.png"),  # a file
        ("a.png/cache", "a.png"),
    ],
)
def test_cache_folder_that_cannot_be_created(place, words, run, small_disk, monkeypatch):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", place.format(disk=small_disk))
    code, _, lines = run(PREPARE)
    assert (code, len(lines)) == (4, 1), lines
    assert words in lines[0]
    assert not Path("run").exists()


def test_no_home_folder(run, monkeypatch):
    for name in ("FLOWWARP_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    code, _, lines = run(PREPARE)
    assert (code, lines) == (
        4, ["flowwarp: cache: there is no folder for it; set FLOWWARP_CACHE_DIR"],
    )  # fmt: skip
    assert run(CALLS["flow"], disk=".")[0] == 0  # which needs none


def test_missing_cache_folder_is_created(run, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", "some/where/new")
    code, _, lines = run(CALLS["train-captioner"], disk=".")
    assert code == 0, lines
    assert list(Path("some/where/new").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="which removes nothing that is open")
@pytest.mark.parametrize("name", ["train-flow", "train-dvae"])
def test_data_deleted_during_a_run_is_not_needed(name, run, monkeypatch):
    """Nor is the prepared data: the process keeps it open."""
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", "cache")
    Path("clips").mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        write_video(f"clips/{number}.gif", torch.rand(6, 3, 24, 32, generator=generator))
        Path(f"clips/{number}.txt").write_text(f"noise number {number}")
    call = CALLS[name].replace("digits", "clips --flow none") + " --set save_every=1"
    fitted = "fitted_pairs=1 --set fitted_share=0.5"  # examples of both kinds
    call = call.replace("--steps 1", "--steps 4").replace("fitted_pairs=0", fitted)
    source = call.split()[1]
    assert run(call, disk="whole")[0] == 0
    save = Run.save_state
    for number, gone in enumerate(("cache", source)):

        def disturbed(run, state, gone=gone):
            save(run, state)
            if state.step == 1:
                shutil.rmtree(gone)

        with monkeypatch.context() as patch:
            patch.setattr(Run, "save_state", disturbed)
            assert run(call, disk=f"{number}")[0] == 0
        assert not Path(gone).exists()
        assert run_differences(Path("whole/run"), Path(f"{number}/run")) == []
    # What begins or goes on has to look at the files again.
    code, _, lines = run(call, disk="whole")
    assert (code, len(lines)) == (3, 1)
    assert source in lines[0]


# ------------------------------------------------------------------ one core, many, an old one


@pytest.mark.parametrize("threads", [1, 32])
def test_results_do_not_depend_on_threads(threads, run):
    before = torch.get_num_threads()
    results = []
    for count in (2, threads):
        torch.set_num_threads(count)
        try:
            assert run(f"warp a.png a.flo -o {count}.png")[0] == 0
            assert run(f"flow a.png b.png {NET} -o {count}.flo")[0] == 0
        finally:
            torch.set_num_threads(before)
        results.append((read_image(f"{count}.png"), read_flow(f"{count}.flo")[0]))
    assert torch.equal(results[0][0], results[1][0])
    # Convolutions are torch's, whose sums depend on threads.
    assert (results[0][1] - results[1][1]).abs().max() < 1e-2


def test_without_the_cpu_library(run, monkeypatch):
    assert run("warp a.png a.flo -o fast.png")[0] == 0
    with monkeypatch.context() as patch:
        patch.setenv("FLOWWARP_NATIVE", "off")
        native.native.cache_clear()
        assert native.native().library is None
        assert run("warp a.png a.flo -o slow.png")[0] == 0
        assert run(f"flow a.png b.png {NET} -o slow.flo")[0] == 0
    native.native.cache_clear()
    one, other = (read_image(f"{name}.png") for name in ("fast", "slow"))
    assert (one - other).abs().max() < 1.5 / 255
