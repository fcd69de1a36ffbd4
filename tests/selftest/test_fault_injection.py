"""Runs with injected faults end like runs without, and the self-test notices one that does not."""

import itertools
import os
import signal
from contextlib import suppress
from dataclasses import replace

import pytest

from flowwarp.errors import Diverged
from flowwarp.io.checkpoints import load_tensors, save_tensors
from flowwarp.selftest import fault_injection
from flowwarp.selftest.fault_injection import (
    PLAIN,
    RESUME_SETTINGS,
    corruption_differences,
    divergence_differences,
    full_disk_differences,
    kill_differences,
    lock_differences,
    resume_differences,
    run_differences,
)
from flowwarp.selftest.small_tasks import TRAINERS, VARIANTS, small_config, small_task
from flowwarp.train.loop import train

SLOW = {("flow", "bf16"), ("upsampler", "bf16")}  # on a processor without bf16 instructions
# Trainers whose steps take little time: the loop treats a failure of each alike.
QUICK = ("dvae", "captioner", "classifier", "reviser")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        # Not all, to save time; `doctor --full` measures all. The tests of failures resume plain
        # runs. The residual DVAE needs "accumulate", which averages weights and codebooks.
        *(
            (name, settings)
            for name, settings in itertools.product(TRAINERS, RESUME_SETTINGS)
            if settings != PLAIN and (name, settings) not in SLOW
        ),
        *zip(VARIANTS, ("accumulate", "bf16"), strict=True),
    ],
)
def test_a_stopped_run_ends_like_a_whole_one(name, settings, folder):
    assert resume_differences(name, settings, folder) == 0


def test_a_killed_run_ends_like_a_whole_one(folder):
    assert kill_differences(folder, 1) == 0


class Terminated:
    """A finished process that reports the exit code of a killed one on Windows."""

    exitcode = 0

    def join(self):
        pass

    def is_alive(self):
        return False

    def kill(self):
        self.exitcode = -signal.SIGTERM


def test_a_process_that_was_killed_on_windows(tmp_path, monkeypatch):
    monkeypatch.delattr(signal, "SIGKILL", raising=False)
    monkeypatch.setattr(fault_injection, "_start", lambda *arguments: Terminated())
    monkeypatch.setattr(fault_injection, "run_differences", lambda *runs: [])
    assert kill_differences(tmp_path, 1) == 0


@pytest.mark.parametrize(
    "measure", [divergence_differences, corruption_differences, lock_differences]
)
@pytest.mark.parametrize("name", QUICK)
def test_a_run_that_failed_ends_like_a_whole_one(name, measure, folder):
    assert measure(name, folder) == 0


def test_a_full_disk_loses_nothing(folder):
    """Files are written by the loop, whatever it trains: one trainer, and more of its writes."""
    assert full_disk_differences("dvae", folder, every=4) == 0


@pytest.mark.parametrize("measure", [divergence_differences, corruption_differences])
def test_a_fault_without_effect_is_an_error(measure, folder, monkeypatch):
    train_once = fault_injection._train

    def silent(*arguments):
        with suppress(Diverged):
            train_once(*arguments)
        return ""

    monkeypatch.setattr(fault_injection, "_train", silent)
    with pytest.raises(RuntimeError, match=r"should have failed with Diverged|was not reported"):
        measure("dvae", folder / "silent")


def test_differing_files_are_counted(folder, monkeypatch):
    """A task whose data change each time it is made, so a resumed run gets others."""
    draws = itertools.count()

    def make(name, config, folder):
        task = small_task(name, config, folder)
        first = 1000 * next(draws)
        return replace(task, batch=lambda numbers: task.batch(range(first, first + len(numbers))))

    monkeypatch.setattr(fault_injection, "small_task", make)
    assert resume_differences("dvae", "accumulate", folder / "lost") >= 3


def test_run_differences_by_hand(folder):
    config = small_config(steps=2, validate_every=1, samples_every=2)
    runs = [folder / name for name in ("one", "two")]
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        for run in runs:
            train(small_task("dvae", config, folder), config, run, stream=nowhere)
    assert run_differences(*runs) == []
    one = runs[1] / "samples" / "00000002-clips.png"
    one.write_bytes(one.read_bytes() + b"\0")
    assert run_differences(*runs) == ["samples/00000002-clips.png"]
    one.unlink()
    with (runs[1] / "metrics.jsonl").open("a") as metrics:
        metrics.write("{}\n")
    assert run_differences(*runs) == ["metrics.jsonl", "samples/00000002-clips.png"]
    tensors, metadata = load_tensors(runs[1] / "last.safetensors")
    tensors[min(tensors)].view(-1)[0] += 1e-6
    save_tensors(runs[1] / "last.safetensors", tensors, metadata)
    (runs[1] / "best.safetensors").unlink()
    assert run_differences(*runs)[:2] == ["best.safetensors", "last.safetensors"]
