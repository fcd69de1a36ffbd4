"""``flowwarp flow``: shards, worker processes and ray."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from flow_frames import files, frame, lines, save_frames

from flowwarp.errors import InputError
from flowwarp.io.video_writer import write_video
from flowwarp.pipelines import workers
from flowwarp.pipelines.flow import run_job

pytestmark = pytest.mark.usefixtures("inside")


def test_all_shards_equal_one_run(flow):
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
    # All pairs are done: without --shard only the pictures are left to do.
    assert flow("in", "-o", "out", "--show", "s")[0] == 0
    assert [record["part"] for record in lines("out/manifest.jsonl")[1:]] == [
        f"show {Path('s').absolute()}"
    ]
    assert len(files("s")) == 9


def test_job_is_identified_by_its_files_not_by_their_folder(flow):
    """The folder differs on other machines; other files are another job."""
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


def test_two_workers_give_the_same_files_as_one(flow):
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


def test_ray_gives_the_same_files(flow):
    pytest.importorskip("ray")
    save_frames("in", 4)
    Path("in/frame9.png").write_text("no picture")
    first = flow("in", "-o", "one", "--backward", "back1")
    second = flow("in", "-o", "two", "--backward", "back2", "--ray", "local", "--workers", "1")
    assert first[0] == second[0] == 5
    assert files("one") == files("two")
    assert files("back1") == files("back2")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_ray_does_not_look_for_a_gpu_here(flow, monkeypatch, device):
    """The tasks choose the device where they run."""
    calls_made = []

    def run_ray(address, remote, constants, calls, *, device, count):
        calls_made.append((address, next(constants[0].parameters()).device.type, device))
        for pair, arguments in calls:
            yield pair, remote(*constants, *arguments)

    monkeypatch.setattr(workers, "check_ray", lambda address: None)
    monkeypatch.setattr(run_job, "run_ray", run_ray)
    save_frames("in", 3)
    assert flow("in", "--ray", "far:1", "--device", device)[0] == 0
    assert calls_made == [("far:1", "cpu", device)]
    assert len(list(Path("in_flow").glob("*.flo"))) == 2


def test_missing_ray_is_reported(flow, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    save_frames("in", 3)
    with pytest.raises(InputError, match="ray is not installed"):
        workers.check_ray("local")
    assert flow("in", "--ray", "local") == (
        3, [], ["flowwarp: --ray: ray is not installed; install the extra 'ray' as README.md says"],
    )  # fmt: skip
    assert not Path("in_flow").exists()
