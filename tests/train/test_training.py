"""When something is due, and what interrupts a training."""

import io
import math

import pytest
import torch

import tiny
from flowwarp.train.networks import Networks
from flowwarp.train.processes import Process
from flowwarp.train.progress import Progress
from flowwarp.train.stopping import Stop
from flowwarp.train.training import Training


def make(folder, world=1, **changes):
    task, config = tiny.make(), tiny.config(**changes)
    process = Process(0, 1, torch.device("cpu"))
    networks = Networks(task, config, process)
    progress = Progress(io.StringIO(), config.steps)
    process = process._replace(world=world)
    return Training(task, config, process, None, Stop(folder), progress, networks)


@pytest.mark.parametrize(
    ("every", "due"), [(4, {4, 8, 10}), (0, {10}), (3, {3, 6, 9, 10}), (99, {10})]
)
def test_something_is_due_every_so_often_and_at_the_end(tmp_path, every, due):
    training = make(tmp_path, steps=10)
    found = set()
    for training.step in range(1, 11):
        if training.is_every(every):
            found.add(training.step)
    assert found == due


def test_one_process_is_interrupted_at_once_and_several_once_they_agree(tmp_path):
    for world, found in ((1, (15, True)), (2, (0, False))):
        training = make(tmp_path, world, save_seconds=1)
        training.saved_at = -math.inf
        training.stop.number = 15
        assert training.own_interruption() == (15, True)
        assert training.interrupted() == found
