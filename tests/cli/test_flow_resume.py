"""``flowwarp flow``: jobs that are interrupted, resumed or changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from flow_frames import files, flows, frame, lines, save_frames

from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.io.images import write_image
from flowwarp.io.locks import lock
from flowwarp.models.flownet import TINY, FlowNet

KILLS = 1  # each costs an import of torch
pytestmark = pytest.mark.usefixtures("inside")


def test_failed_pairs_are_retried(flow):
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


def test_missing_results_and_changed_frames_are_redone(flow):
    save_frames("in")
    assert flow("in")[0] == 0
    Path("in_flow/frame8.flo").unlink()
    write_image("in/frame11.png", frame(5))
    write_image("in/frame12.png", frame(6))  # and one more
    assert flow("in") == (0, flows("in_flow", 8, 9, 10, 11), [])
    parts = [record["part"] for record in lines("in_flow/manifest.jsonl")[4:]]
    assert parts == ["frame8", "frame10", "frame11"]


@pytest.mark.parametrize("format", ["flo", "png"])
def test_flow_of_deleted_frames_is_kept_with_a_warning(flow, call, format):
    save_frames("in/a", 5)
    save_frames("in/b", 2)
    options = ["in", "--format", format, "--backward", "back"]
    assert flow(*options)[::2] == (0, [])
    # Files made from the flow cause no warning: pictures beside it, or flow in another format.
    assert call("show", "in_flow/a")[0] == 0
    assert call("convert", "in_flow/a", "-o", "in_flow/a", "--to", "npy")[0] == 0
    before = files("in_flow"), files("back")
    for number, more in ((11, 1), (10, 3)):
        Path(f"in/a/frame{number + 1}.png").unlink()
        lines = [
            f"flowwarp: back/a/frame{number}.{format} (and {more} more): is in the output folder,"
            " but belongs to no pair of this job; move it before you use the folder"
        ]
        for arguments in (["--dry-run"], [], [], ["--overwrite"]):
            assert flow(*options, *arguments)[::2] == (0, lines)
    assert (files("in_flow"), files("back")) == before
    assert flow(*options, "--shard", "1/2")[::2] == (0, [])  # which has not made the others either


@pytest.mark.parametrize("format", ["flo", "png", "npz"])
@pytest.mark.parametrize("size", [0, 100])
def test_truncated_results_are_redone(flow, format, size):
    save_frames("in", 3)
    options = ["in", "--format", format, "--backward", "b", "--occlusion", "o"]
    assert flow(*options)[0] == 0
    folders = ("in_flow", "b", "o")
    before = [files(folder) for folder in folders]
    made = lines("in_flow/manifest.jsonl")[1:]
    for name in (f"in_flow/frame8.{format}", f"b/frame9.{format}", "o/frame8.png"):
        os.truncate(name, size)
        printed = json.loads("".join(flow(*options, "--json")[1]))["results"]
        assert [result["kept"] for result in printed] == ["frame9" in name, "frame8" in name]
        assert [files(folder) for folder in folders] == before
    # Manifests of older versions have no sizes.
    for record in made:
        del record["bytes"]
    job = lines("in_flow/manifest.jsonl")[:1]
    text = "".join(f"{json.dumps(line)}\n" for line in [*job, *made])
    Path("in_flow/manifest.jsonl").write_text(text)
    os.truncate(f"b/frame8.{format}", 0)
    printed = json.loads("".join(flow(*options, "--json")[1]))["results"]
    assert [result["kept"] for result in printed] == [False, True]
    assert [files(folder) for folder in folders] == before


def test_manifest_with_a_truncated_line(flow):
    save_frames("in")
    assert flow("in")[0] == 0
    before = files("in_flow")
    path = Path("in_flow/manifest.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    Path("in_flow/.flowwarp-1234.flo").write_bytes(b"half")
    assert flow("in") == (0, flows("in_flow", 8, 9, 10), [])
    assert files("in_flow") == before
    assert [json.loads(line)["part"] for line in path.read_text().splitlines()[-1:]] == ["frame10"]


def test_folder_of_another_job_is_refused(flow):
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
        assert err[0].startswith("flowwarp: in_flow: contains another job, ")
        assert words in err[0]
        assert err[0].endswith("; name another folder, or begin again with --overwrite")
        assert files("in_flow") == before
        assert not Path("b").exists()
    assert flow("in", "--format", "npy", "--overwrite")[0] == 0
    assert lines("in_flow/manifest.jsonl")[0]["format"] == "npy"
    assert flow("in", "--format", "npy")[0] == 0


def test_manifest_of_an_older_version_is_resumed(flow):
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
    assert "in_flow: contains another job, whose source is" in err[0]


def test_second_process_on_the_same_job_is_refused(flow):
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
def test_resumes_after_kill_9(flow, untrained):
    """Kill the process once the manifest has five pairs; compare with an uninterrupted run."""
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
    assert len(parts) == len(set(parts)) == 23  # no pair in the manifest was done twice


# A disk that hangs: from the second pair on, fsync prints a line and does not return.
SLOWLY = """
import os, signal, sys, time
from flowwarp.cli import main

# A shell starts background processes with SIGINT ignored; tests may be such.
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
def test_two_ctrl_c_end_a_job_that_waits_for_the_disk(flow, untrained):
    save_frames("in")
    assert flow("in", "-o", "whole")[0] == 0
    command = [sys.executable, "-c", SLOWLY, "flow", "in", "--weights", untrained]
    child = subprocess.Popen(
        [*command, "--quality", "fast"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    printed = [child.stdout.readline() for _ in range(2)]
    assert printed == ["in_flow/frame8.flo\n", "flushing\n"]
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
