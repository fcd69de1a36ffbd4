"""Commands where the disk is full or read-only, the pipe closed, the home missing, a core alone."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowwarp.cli import eval_video, main
from flowwarp.io.flow_files import read_flow, write_flow
from flowwarp.io.images import read_image, write_image
from flowwarp.ops import _native

SIZE = 144
NET = "--weights {net} --quality fast"
VIDEO = "--gpt {gpt} --dvae {dvae} --upsampler {upsampler} --flow {net}"
ONCE = "--preset tiny --steps 1 --run {disk}/run --resume auto --set batch_size=1"
# What each would write, in {disk}, is more than fits.
CALLS = {
    "warp": "warp a.png a.flo -o {disk}/out.png",
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
    assert set(left) <= {"flows/manifest.jsonl", "flows/.lock"}
    assert not list(small_disk.rglob(".flowwarp-*"))
    if name == "flow of many" or name.startswith("train-"):
        subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
        assert run(CALLS[name], disk=small_disk)[0] == 0


@pytest.mark.parametrize("name", CALLS)
def test_a_disk_that_is_full_when_it_is_flushed(name, run, monkeypatch):
    """As behind a network; unlike the disk above, everybody can have one."""

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


def test_full_disk_spares_what_is_there(run, small_disk):
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
def test_nobody_reads_what_is_printed(text, run, tmp_path, monkeypatch):
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
def test_a_cache_that_cannot_be(place, words, run, small_disk, monkeypatch):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", place.format(disk=small_disk))
    code, _, lines = run(PREPARE)
    assert (code, len(lines)) == (4, 1), lines
    assert words in lines[0]
    assert not Path("run").exists()


def test_no_home(run, monkeypatch):
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


def test_a_cache_that_is_not_there_yet_is_made(run, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", "some/where/new")
    code, _, lines = run(CALLS["train-captioner"], disk=".")
    assert code == 0, lines
    assert list(Path("some/where/new").iterdir())


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


def test_without_the_library(run, monkeypatch):
    assert run("warp a.png a.flo -o fast.png")[0] == 0
    with monkeypatch.context() as patch:
        patch.setenv("FLOWWARP_NATIVE", "off")
        _native.native.cache_clear()
        assert _native.native().library is None
        assert run("warp a.png a.flo -o slow.png")[0] == 0
        assert run(f"flow a.png b.png {NET} -o slow.flo")[0] == 0
    _native.native.cache_clear()
    one, other = (read_image(f"{name}.png") for name in ("fast", "slow"))
    assert (one - other).abs().max() < 1.5 / 255
