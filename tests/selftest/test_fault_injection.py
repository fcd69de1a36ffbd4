"""Runs end like those that nothing happened to, and the measures see it if one does not."""

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
    RESUMED,
    damage_differences,
    divergence_differences,
    full_disk_differences,
    kills,
    lock_differences,
    resume_differences,
    run_differences,
)
from flowwarp.selftest.small_tasks import OTHERWISE, TRAINERS, small_config, small_task
from flowwarp.train.loop import train

SLOW = {("flow", "bf16"), ("upsampler", "bf16")}  # on a processor that has no bf16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mishaps")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        # To spare time; `doctor --full` has all. A plain run is resumed where one failed, below; of
        # the two kinds fp32 averages weights, and with them a residual's books.
        *(
            (name, kind)
            for name, kind in itertools.product(TRAINERS, RESUMED)
            if kind != PLAIN and (name, kind) not in SLOW
        ),
        *zip(OTHERWISE, ("fp32", "bf16"), strict=True),
    ],
)
def test_a_stopped_run_ends_like_a_whole_one(name, kind, folder):
    assert resume_differences(name, kind, folder) == 0


def test_a_killed_run_ends_like_a_whole_one(folder):
    assert kills(folder, 1) == 0


class Terminated:
    """A process that is over, and then says of itself what on Windows one says that was killed."""

    exitcode = 0

    def join(self):
        pass

    def is_alive(self):
        return False

    def kill(self):
        self.exitcode = -signal.SIGTERM


def test_a_process_that_was_killed_on_windows(tmp_path, monkeypatch):
    monkeypatch.delattr(signal, "SIGKILL", raising=False)
    monkeypatch.setattr(fault_injection, "_child", lambda *arguments: Terminated())
    monkeypatch.setattr(fault_injection, "run_differences", lambda *runs: [])
    assert kills(tmp_path, 1) == 0


@pytest.mark.parametrize("measure", [divergence_differences, damage_differences, lock_differences])
@pytest.mark.parametrize("name", TRAINERS)
def test_a_run_that_failed_ends_like_a_whole_one(name, measure, folder):
    assert measure(name, folder) == 0


@pytest.mark.parametrize("name", TRAINERS)
def test_a_full_disk_costs_nothing(name, folder):
    assert full_disk_differences(name, folder, every=9) == 0


@pytest.mark.parametrize("measure", [divergence_differences, damage_differences])
def test_a_failure_that_is_none_is_told(measure, folder, monkeypatch):
    run = fault_injection._run

    def silent(*arguments):
        with suppress(Diverged):
            run(*arguments)
        return ""

    monkeypatch.setattr(fault_injection, "_run", silent)
    with pytest.raises(RuntimeError, match=r"should have ended by Diverged|nothing was said"):
        measure("dvae", folder / "silent")


def test_what_is_lost_in_a_run_is_counted(folder, monkeypatch):
    """A task that draws by the clock: each part of the run is another."""
    draws = itertools.count()

    def make(name, config, folder):
        task = small_task(name, config, folder)
        first = 1000 * next(draws)
        return replace(task, batch=lambda numbers: task.batch(range(first, first + len(numbers))))

    monkeypatch.setattr(fault_injection, "small_task", make)
    assert resume_differences("dvae", "fp32", folder / "lost") >= 3


def test_differences_of_runs_by_hand(folder):
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
