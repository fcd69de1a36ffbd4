from pathlib import Path

import numpy as np
import pytest
import torch

from flowwarp.io.images import write_image
from flowwarp.io.manifests import open_manifest
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.pipelines.flow import run_job
from flowwarp.pipelines.flow.job_pairs import Job, place_clips


@pytest.fixture
def job(tmp_path):
    """Return a job of five pictures, the last of which is broken."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(4):
        write_image(folder / f"{index}.png", torch.rand(3, 32, 40))
    (folder / "4.png").write_text("no picture")
    return Job((str(folder),), place_clips([folder]), tmp_path / "out", "fast", "small", ".flo")


def run(job):
    """Run a job; return the state of each pair."""
    torch.manual_seed(0)
    net, outcomes = FlowNet(TINY).eval(), []
    with open_manifest(job.folder, job.describe(net)) as manifest:
        run_job.run_pairs(job, net, manifest, outcomes.append)
    return [(outcome.key, outcome.state) for outcome in outcomes]


def test_a_job_is_resumed(job):
    done = [("0", "done"), ("1", "done"), ("2", "done"), ("3", "failed")]
    assert run(job) == done
    Path(job.folder, "1.flo").unlink()
    write_image(Path(job.sources[0], "3.png"), torch.rand(3, 32, 41))  # of another size
    assert run(job) == [("0", "kept"), ("1", "done"), ("2", "failed"), ("3", "failed")]


def test_a_check_writes_nothing(job):
    outcomes = list(run_job.check_pairs(job, {}, None))
    assert [outcome.state for outcome in outcomes] == ["done", "done", "done", "failed"]
    assert outcomes[0].size == (32, 40)
    assert outcomes[3].error.startswith(f"{job.sources[0]}/4.png: ")
    assert not job.folder.exists()


@pytest.mark.parametrize("top", [255, 65535])
def test_pictures_are_packed_without_loss(top):
    image = torch.arange(top + 1).float().view(1, 1, -1) / top
    packed = run_job._pack(image)
    assert packed.dtype == (np.uint8 if top == 255 else np.float32)
    assert torch.equal(run_job._unpack(packed), image)
