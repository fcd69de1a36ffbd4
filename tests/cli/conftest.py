"""Fixtures that the tests of several commands share."""

import weakref
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
import pytest
import torch

import flowwarp.io.footage
import flowwarp.io.video_reader
from flowwarp.cli import main
from flowwarp.cli.errors import run as run_command
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.io.video_reader import read_timed
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.pipelines.flow import pair_fields, run_job


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """Change to an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    """Return a function that runs a command line: exit code, stdout lines, stderr lines."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out.splitlines(), captured.err.splitlines()

    return run


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Return a weights file of a tiny flow network that was never trained."""
    path = tmp_path_factory.mktemp("untrained") / "tiny.safetensors"
    torch.manual_seed(0)
    save_weights(path, FlowNet(TINY), Card("flownet", asdict(TINY)))
    return path


@pytest.fixture
def frames_held(monkeypatch):
    """Return a list that grows by the number of video frames in memory as each is read."""
    alive, held = weakref.WeakSet(), []

    def counted(path, **options):
        for frame in read_timed(path, **options):
            alive.add(frame.image)
            held.append(len(alive))
            yield frame

    def images(path):
        return (frame.image for frame in counted(path))

    monkeypatch.setattr(flowwarp.io.video_reader, "read_video", images)
    monkeypatch.setattr(flowwarp.io.footage, "read_timed", counted)
    return held


@pytest.fixture
def flow(call, untrained):
    """Return a function that runs ``flowwarp flow`` with an untrained network."""
    # fast takes a tenth of the time, and the tests do not depend on the accuracy.
    return partial(call, "flow", "--weights", untrained, "--quality", "fast")


@pytest.fixture
def create_during_estimation(monkeypatch):
    """Return a function that creates a file of a given name while flow is estimated."""
    estimate = run_job.estimate_fields

    def create(name):
        def estimate_later(*arguments, **options):
            Path(name).write_text("mine")
            return estimate(*arguments, **options)

        for module in (pair_fields, run_job):
            monkeypatch.setattr(module, "estimate_fields", estimate_later)

    return create


@pytest.fixture
def warp(call):
    """Return a function that runs ``flowwarp warp``."""
    return partial(call, "warp")


@pytest.fixture
def outcome(capfd):
    """Run a command that raises; return exit code, stdout and stderr lines."""

    def run_it(fault, arguments=()):
        @click.command()
        def command():
            if isinstance(fault, BaseException):
                raise fault
            return fault

        with pytest.raises(SystemExit) as stop:
            run_command(command, arguments)
        captured = capfd.readouterr()
        return stop.value.code, captured.out, captured.err.splitlines()

    return run_it
