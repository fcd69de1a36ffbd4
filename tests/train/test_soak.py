"""Short runs of tools/soak.py."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

if not Path("/proc/self/smaps_rollup").exists():
    pytest.skip("it measures memory as Linux tells it", allow_module_level=True)

import soak

SOAK = Path(__file__).parents[2] / "tools" / "soak.py"


def test_memory_stays_flat_over_a_video(tmp_path):
    report = soak.soak_video(200, tmp_path)
    assert (report["exit"], report["flow_files"], report["faults"]) == (0, 199, 0)
    assert -20 < report["growth_mb"] < 20  # a number, so memory was measured


def test_a_broken_frame_is_named_and_a_second_process_finishes_a_killed_job(tmp_path):
    report = soak.soak_broken(200, tmp_path)
    assert (report["exit"], report["flow_files"], report["faults"]) == (5, 197, 0)
    assert 100 <= report["flow_files_when_killed"] < 197


def test_pictures_count_before_their_folder_has_its_name(tmp_path):
    hidden = tmp_path / ".flowwarp-0"
    hidden.mkdir()
    for number in range(10):
        (hidden / f"{number:06d}.png").touch()
    run = soak.Watched(["--help"], tmp_path, pictures=True)
    run.watch()
    assert {done for done, _ in run.samples} == {10}


def test_memory_is_that_of_copies_too():
    """Memory that a copy shares with its parent counts once."""
    code = "import os, time; a = 40_000_000 * b'x'; child = os.fork(); "
    code += "b = None if child else 80_000_000 * b'x'; print(); time.sleep(60)"
    command = [sys.executable, "-u", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            for _ in range(2):
                process.stdout.readline()
            found = soak.memory_of(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert 120e6 < found < 150e6
    assert soak.memory_of(process.pid) == 0


def test_a_killed_training_ends_like_a_whole_one():
    """In a process of its own: the tool forks, which a process with threads must not."""
    done = subprocess.run(
        [sys.executable, SOAK, "kill", "--kills", "1", "--network", "dvae"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["what"] == "kill"
    assert (report["kills"], report["runs"]) == (1, 1)
    assert report["lost"] == report["different"] == report["faults"] == 0
