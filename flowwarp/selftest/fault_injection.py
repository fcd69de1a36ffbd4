"""Injects faults into training runs: signals, kills, a full disk, corrupt files, NaN losses.

After each fault the run is resumed. It should end bit for bit like a run without a fault, so each
function returns how many files of the two differ. ``flowwarp doctor --full`` prints the figures;
tests check that they are 0.
"""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor, nn

from flowwarp.errors import Diverged, Locked, OutputError, Stopped
from flowwarp.io.checkpoints import load_tensors
from flowwarp.selftest.small_tasks import processes, small_config, small_task
from flowwarp.train.loop import Batch, LoopConfig, Task, train
from flowwarp.train.runs import BEST, CONFIG, LAST, METRICS, SAMPLES, open_run

PLAIN = "plain"
# Settings of the loop under which runs are stopped and resumed.
RESUME_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "accumulate": {"accumulate": 2, "workers": 2},
    # Muon, if the network has matrices; no weight averaging, since the other settings cover it.
    "bf16": {"precision": "bf16", "ema": 0.0, "muon": 0.1, "accumulate": 3, "workers": 1},
}


def run_differences(one: Path, two: Path) -> list[str]:
    """Return the names of files whose content differs between two runs.

    Compared are the newest checkpoint, weights, settings, metrics and sample images. Of checkpoints
    and weights only tensors count: their metadata hold times.
    """
    newest = max(path.name for path in one.glob("state-*"))
    samples = {path.name for run in (one, two) for path in (run / SAMPLES).glob("*")}
    files = (newest, BEST, LAST, CONFIG, METRICS, *(f"{SAMPLES}/{name}" for name in samples))
    return sorted(name for name in files if _differ(one / name, two / name))


def _differ(one: Path, two: Path) -> bool:
    if not (one.exists() and two.exists()):
        return one.exists() != two.exists()
    if one.suffix != ".safetensors":
        return one.read_bytes() != two.read_bytes()
    a, b = load_tensors(one)[0], load_tensors(two)[0]
    return a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a)


def resume_differences(name: str, settings: str, folder: Path) -> int:
    """Stop and resume a run twice; return how many of its files differ from an uninterrupted run.

    Args:
        name: one of ``TRAINERS`` or ``VARIANTS``.
        settings: a key of ``RESUME_SETTINGS``.
        folder: for ``small_task``, and where the runs are made.
    """
    config = _resume_config(name, settings, folder)
    whole, resumed = _whole_run(name, settings, folder), folder / f"{name}-{settings}-resumed"
    rng = random.Random(f"{name}, {settings}")  # noqa: S311 - when to stop is no secret
    for step in sorted(rng.sample(range(1, config.steps), 2)):
        _expect_failure(_stopping(small_task(name, config, folder), step), config, resumed, Stopped)
    _train(small_task(name, config, folder), config, resumed)
    return len(run_differences(whole, resumed))


def _resume_config(name: str, settings: str, folder: Path) -> LoopConfig:
    config = small_config(**RESUME_SETTINGS[settings])
    if config.muon and not small_task(name, config, folder).matrices:
        config = replace(config, muon=0.0)
    return config


@cache
def _whole_run(name: str, settings: str, folder: Path) -> Path:
    """Train without a fault, for comparison with the other runs."""
    config, whole = _resume_config(name, settings, folder), folder / f"{name}-{settings}-whole"
    _train(small_task(name, config, folder), config, whole)
    return whole


def _stopping(task: Task, last: int) -> Task:
    """Return a task that sends SIGTERM to this process in a step."""
    sent = False

    def loss(model: nn.Module, examples: Batch, step: int) -> Mapping[str, Tensor]:
        nonlocal sent
        if step == last and not sent:  # a second signal ends the process before the step is done
            sent = True
            signal.raise_signal(signal.SIGTERM)
        return task.loss(model, examples, step)

    return replace(task, loss=loss)


def divergence_differences(name: str, folder: Path) -> int:
    """End a run by a NaN loss and resume it; return how many files differ."""
    config = small_config()
    whole, diverged = _whole_run(name, PLAIN, folder), folder / f"{name}-diverged"
    task = small_task(name, config, folder)

    def loss(model: nn.Module, examples: Batch, step: int) -> Mapping[str, Tensor]:
        losses = task.loss(model, examples, step)
        return {key: value + (torch.nan if step == 3 else 0) for key, value in losses.items()}

    _expect_failure(replace(task, loss=loss), config, diverged, Diverged)
    _train(small_task(name, config, folder), config, diverged)
    return len(run_differences(whole, diverged))


def corruption_differences(name: str, folder: Path) -> int:
    """Flip a bit of a checkpoint and resume the run; return how many files differ.

    Raises:
        RuntimeError: the corrupt checkpoint was not reported.
    """
    config = small_config()
    whole, corrupt = _whole_run(name, PLAIN, folder), folder / f"{name}-corrupt"
    shutil.copytree(whole, corrupt)
    state = max(corrupt.glob("state-*"))
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    printed = _train(small_task(name, config, folder), config, corrupt)
    if f"{state.name}: " not in printed:
        raise RuntimeError(f"a corrupt checkpoint was not reported: {printed!r}")
    return len(run_differences(whole, corrupt))


def lock_differences(name: str, folder: Path) -> int:
    """Train a run that another process has locked; return how many of its files change."""
    config = small_config()
    whole, locked = _whole_run(name, PLAIN, folder), folder / f"{name}-locked"
    shutil.copytree(whole, locked)
    task = small_task(name, config, folder)
    with open_run(locked, {"loop": config, **task.configs}, resume="auto"):
        _expect_failure(task, replace(config, steps=7), locked, Locked)
    return len(run_differences(whole, locked))


def full_disk_differences(name: str, folder: Path, every: int = 1) -> int:
    """Resume runs that a full disk ended; return how many files differ in all of them.

    The disk is full at each write of a run in turn. Temporary files that stay count as well.

    Args:
        name: one of ``TRAINERS`` or ``VARIANTS``.
        folder: for ``small_task``, and where the runs are made.
        every: try every n-th write only.
    """
    config = small_config(steps=2, save_every=1, validate_every=2, samples_every=2)
    whole = folder / f"{name}-room"
    task = small_task(name, config, folder)
    initial = {key: value.clone() for key, value in task.model.state_dict().items()}
    with FullDisk(0) as disk:
        _train(task, config, whole)
    wrong = 0
    for failing in range(every, disk.count + 1, every):
        run = folder / f"{name}-full-{failing}"
        task.model.load_state_dict(initial)
        with FullDisk(failing):
            _expect_failure(task, config, run, OutputError)
        wrong += len(list(run.glob("**/.flowwarp-*")))
        task.model.load_state_dict(initial)
        _train(task, config, run)
        wrong += len(run_differences(whole, run))
        shutil.rmtree(run)
    return wrong


class FullDisk:
    """Context in which one write or flush of a file fails with ``ENOSPC``.

    A write fails half-way. Flushes of folders always succeed.

    Args:
        failing: number of the write or flush that fails, from 1; 0 for none.

    Attributes:
        count: how many writes and flushes there were.
    """

    def __init__(self, failing: int) -> None:
        self.failing, self.count = failing, 0
        self._write, self._flush, self._open = Path.write_bytes, os.fsync, Path.open
        self._patches = (
            mock.patch.object(
                Path, "write_bytes", lambda path, data: self._write_bytes(path, data)
            ),
            mock.patch.object(os, "fsync", self._fsync),
            mock.patch.object(
                Path, "open", lambda path, *args, **named: self._open_file(path, *args, **named)
            ),
        )

    def __enter__(self) -> Self:
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()

    def _is_full(self) -> bool:
        self.count += 1
        return self.count == self.failing

    def _write_bytes(self, path: Path, data: bytes) -> int:
        if not self._is_full():
            return self._write(path, data)
        self._write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open_file(self, path: Path, mode: str = "r", *args: Any, **named: Any) -> Any:
        file = self._open(path, mode, *args, **named)
        return _AppendedFile(file, self._is_full) if mode == "ab" else file

    def _fsync(self, descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and self._is_full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._flush(descriptor)


class _AppendedFile:
    """An unbuffered file opened for appending.

    On a full disk a write is short: it returns fewer bytes.
    """

    def __init__(self, file: Any, is_full: Callable[[], bool]) -> None:
        self._file, self._is_full = file, is_full

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        written: int = self._file.write(data[: len(data) // 2] if self._is_full() else data)
        return written


def _train(task: Task, config: LoopConfig, run: Path) -> str:
    """Train to the end, and return what was printed."""
    printed = io.StringIO()
    train(task, config, run, resume="auto", stream=printed)
    return printed.getvalue()


def _expect_failure(task: Task, config: LoopConfig, run: Path, error: type[Exception]) -> None:
    """Train, and check that it ends with an error.

    Raises:
        RuntimeError: it ended without one.
    """
    try:
        _train(task, config, run)
    except error:
        return
    raise RuntimeError(f"training should have failed with {error.__name__}")


def kill_differences(folder: Path, count: int = 5) -> int:
    """Kill a training process at random moments, and count the damage.

    Args:
        folder: for ``small_task``, and where the runs are made.
        count: how many times.

    Returns:
        The number of corrupt checkpoints, plus the number of files that differ in the end.

    Raises:
        RuntimeError: a process ended before it was killed, or failed.
    """
    config = small_config(steps=30, save_every=1, validate_every=10, samples_every=10)
    configs = {"loop": config, **small_task("dvae", config, folder).configs}
    whole, killed = folder / "kill-whole", folder / "killed"
    _join(_start(whole, config, folder), 0)
    rng = random.Random(0)  # noqa: S311 - when to kill is no secret
    step = corrupt = 0
    for _ in range(count):
        child = _start(killed, config, folder)
        step += rng.randint(1, config.steps // (count + 1))
        while child.is_alive() and not any(n >= step for n in _saved_steps(killed)):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))  # into the next step, or into a write
        child.kill()
        _join(child, -getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has no SIGKILL
        warnings: list[str] = []  # one for each corrupt checkpoint
        with open_run(killed, configs, resume="auto") as run:
            state = run.newest_state(warnings.append)
        step = 0 if state is None else state.step
        corrupt += len(warnings)
    _join(_start(killed, config, folder), 0)
    return corrupt + len(run_differences(whole, killed))


def _saved_steps(run: Path) -> list[int]:
    return [int(path.stem.removeprefix("state-")) for path in run.glob("state-*.safetensors")]


def _start(run: Path, config: LoopConfig, folder: Path) -> Any:
    process = processes().Process(target=_run_child, args=(run, config, folder))
    process.start()
    return process


def _join(process: Any, code: int) -> None:
    process.join()
    if process.exitcode != code:
        raise RuntimeError(f"training ended with exit code {process.exitcode}, not {code}")


def _run_child(run: Path, config: LoopConfig, folder: Path) -> None:
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - open until the process ends
    train(small_task("dvae", config, folder), config, run, resume="auto")
