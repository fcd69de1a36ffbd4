"""What tests of several commands share."""

import weakref
from dataclasses import asdict

import pytest
import torch

import flowwarp.io.video_reader
from flowwarp.cli import main
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.io.video_reader import read_video
from flowwarp.models.flownet import TINY, FlowNet


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """Be in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    """Return what runs a command line, and returns exit code, stdout lines and stderr lines."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out.splitlines(), captured.err.splitlines()

    return run


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Return the weights of a small flow network that was never trained."""
    path = tmp_path_factory.mktemp("untrained") / "tiny.safetensors"
    torch.manual_seed(0)
    save_weights(path, FlowNet(TINY), Card("flownet", asdict(TINY)))
    return path


@pytest.fixture
def frames_held(monkeypatch):
    """Return how many frames of videos are held at once, as each is read: a list that grows."""
    alive, held = weakref.WeakSet(), []

    def counted(path):
        for frame in read_video(path):
            alive.add(frame)
            held.append(len(alive))
            yield frame

    monkeypatch.setattr(flowwarp.io.video_reader, "read_video", counted)
    return held
