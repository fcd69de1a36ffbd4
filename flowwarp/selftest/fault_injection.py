"""Measures what runs cost that end early: stopped, killed, on a full disk, or with a broken file.

Each ends bit for bit like one that nothing happened to. ``flowwarp doctor --full`` prints the
figures, and the tests hold them to what is allowed.
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
RESUMED: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "fp32": {"accumulate": 2, "workers": 2},
    # Muon is for what has matrices.
    "bf16": {"precision": "bf16", "ema": 0.0, "muon": 0.1, "accumulate": 3, "workers": 1},
}


def run_differences(one: Path, two: Path) -> list[str]:
    """Return the names of files in which two runs differ, by what is in them.

    The newest state and the weights (of which only times may differ), settings, figures, pictures.
    """
    newest = max(path.name for path in one.glob("state-*"))
    pictures = {path.name for run in (one, two) for path in (run / SAMPLES).glob("*")}
    files = (newest, BEST, LAST, CONFIG, METRICS, *(f"{SAMPLES}/{name}" for name in pictures))
    return sorted(name for name in files if _differ(one / name, two / name))


def _differ(one: Path, two: Path) -> bool:
    if not (one.exists() and two.exists()):
        return one.exists() != two.exists()
    if one.suffix != ".safetensors":
        return one.read_bytes() != two.read_bytes()
    a, b = load_tensors(one)[0], load_tensors(two)[0]
    return a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a)


def resume_differences(name: str, kind: str, folder: Path) -> float:
    """Return in how many files a run that was stopped twice differs from one that was not."""
    config = _resumed(name, kind, folder)
    whole, cut = _whole(name, kind, folder), folder / f"{name}-{kind}-cut"
    for step in sorted(random.Random(f"{name}, {kind}").sample(range(1, config.steps), 2)):  # noqa: S311
        _fail(_stopped(small_task(name, config, folder), step), config, cut, Stopped)
    _run(small_task(name, config, folder), config, cut)
    return len(run_differences(whole, cut))


def _resumed(name: str, kind: str, folder: Path) -> LoopConfig:
    config = small_config(**RESUMED[kind])
    if config.muon and not small_task(name, config, folder).matrices:
        config = replace(config, muon=0.0)
    return config


@cache
def _whole(name: str, kind: str, folder: Path) -> Path:
    """Return a run that nothing happened to, for several others to be compared with."""
    config, whole = _resumed(name, kind, folder), folder / f"{name}-{kind}-whole"
    _run(small_task(name, config, folder), config, whole)
    return whole


def _stopped(task: Task, last: int) -> Task:
    """Return a task that gets SIGTERM in a step."""
    sent = False

    def loss(model: nn.Module, examples: Batch, step: int) -> Mapping[str, Tensor]:
        nonlocal sent
        if step == last and not sent:  # a second one would not wait for the step to end
            sent = True
            signal.raise_signal(signal.SIGTERM)
        return task.loss(model, examples, step)

    return replace(task, loss=loss)


def divergence_differences(name: str, folder: Path) -> float:
    """Return in how many files a run differs that went on after a loss that was no number."""
    config = small_config()
    whole, cut = _whole(name, PLAIN, folder), folder / f"{name}-finite"
    task = small_task(name, config, folder)

    def loss(model: nn.Module, examples: Batch, step: int) -> Mapping[str, Tensor]:
        losses = task.loss(model, examples, step)
        return {key: value + (torch.nan if step == 3 else 0) for key, value in losses.items()}

    _fail(replace(task, loss=loss), config, cut, Diverged)
    _run(small_task(name, config, folder), config, cut)
    return len(run_differences(whole, cut))


def damage_differences(name: str, folder: Path) -> float:
    """Return in how many files a run differs that went on with a bit of its last state flipped."""
    config = small_config()
    whole, hurt = _whole(name, PLAIN, folder), folder / f"{name}-hurt"
    shutil.copytree(whole, hurt)
    state = max(hurt.glob("state-*"))
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    said = _run(small_task(name, config, folder), config, hurt)
    if f"{state.name}: " not in said:
        raise RuntimeError(f"nothing was said of a state that is broken: {said!r}")
    return len(run_differences(whole, hurt))


def lock_differences(name: str, folder: Path) -> float:
    """Return how many files of a run change as another process would train it, too."""
    config = small_config()
    whole, held = _whole(name, PLAIN, folder), folder / f"{name}-held"
    shutil.copytree(whole, held)
    task = small_task(name, config, folder)
    with open_run(held, {"loop": config, **task.configs}, resume="auto"):
        _fail(task, replace(config, steps=7), held, Locked)
    return len(run_differences(whole, held))


def full_disk_differences(name: str, folder: Path, every: int = 1) -> float:
    """Let the disk be full at each write of a run in turn, then go on.

    Args:
        name: of ``TRAINERS`` or ``OTHERWISE``.
        folder: for ``small_task``; the runs are made in it.
        every: of how many writes one fails; 1 for each.

    Returns:
        In how many files the runs differ from one whose disk had room, and how many files were left
        that are none of a run.
    """
    config = small_config(steps=2, save_every=1, validate_every=2, samples_every=2)
    whole = folder / f"{name}-room"
    task = small_task(name, config, folder)
    begun = {key: value.clone() for key, value in task.model.state_dict().items()}
    with FullDisk(0) as disk:
        _run(task, config, whole)
    wrong = 0
    for failing in range(every, disk.count + 1, every):
        run = folder / f"{name}-full-{failing}"
        task.model.load_state_dict(begun)
        with FullDisk(failing):
            _fail(task, config, run, OutputError)
        wrong += len(list(run.glob("**/.flowwarp-*")))
        task.model.load_state_dict(begun)
        _run(task, config, run)
        wrong += len(run_differences(whole, run))
        shutil.rmtree(run)
    return wrong


class FullDisk:
    """While it is entered, one write of a file fails: half-way, or in the flush after it.

    Flushes of a folder, whose new entry a power cut may cost, always succeed.

    Args:
        failing: which, from 1; 0 for none.

    Attributes:
        count: how many writes and flushes there were.
    """

    def __init__(self, failing: int) -> None:
        self.failing, self.count = failing, 0
        self._write, self._flush, self._open = Path.write_bytes, os.fsync, Path.open
        self._patches = (
            mock.patch.object(Path, "write_bytes", lambda path, data: self._written(path, data)),
            mock.patch.object(os, "fsync", self._flushed),
            mock.patch.object(
                Path, "open", lambda path, *how, **named: self._opened(path, *how, **named)
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

    def _written(self, path: Path, data: bytes) -> int:
        if not self._is_full():
            return self._write(path, data)
        self._write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _opened(self, path: Path, mode: str = "r", *how: Any, **more: Any) -> Any:
        file = self._open(path, mode, *how, **more)
        return _Appended(file, self._is_full) if mode == "ab" else file

    def _flushed(self, descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and self._is_full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._flush(descriptor)


class _Appended:
    """A file that is written to at its end, of which a full disk takes a part."""

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


def _run(task: Task, config: LoopConfig, run: Path) -> str:
    """Train to the end, and return what was said."""
    said = io.StringIO()
    train(task, config, run, resume="auto", stream=said)
    return said.getvalue()


def _fail(task: Task, config: LoopConfig, run: Path, fault: type[Exception]) -> None:
    """Train, and see it end by a fault.

    Raises:
        RuntimeError: it went well.
    """
    try:
        _run(task, config, run)
    except fault:
        return
    raise RuntimeError(f"a training should have ended by {fault.__name__}")


def kills(folder: Path, count: int = 5) -> float:
    """Kill a training at random moments; return how many states were lost and files differ.

    Raises:
        RuntimeError: one was over before it could be killed, or failed.
    """
    config = small_config(steps=30, save_every=1, validate_every=10, samples_every=10)
    configs = {"loop": config, **small_task("dvae", config, folder).configs}
    whole, killed = folder / "kill-whole", folder / "killed"
    _end(_child(whole, config, folder), 0)
    chance = random.Random(0)  # noqa: S311 - when to kill is no secret
    step = lost = 0
    for _ in range(count):
        child = _child(killed, config, folder)
        step += chance.randint(1, config.steps // (count + 1))
        while child.is_alive() and not any(n >= step for n in _saved_steps(killed)):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))  # in the midst of a step, or of a write
        child.kill()
        _end(child, -getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has one way only
        said: list[str] = []  # of states that are broken
        with open_run(killed, configs, resume="auto") as run:
            state = run.newest_state(said.append)
        step = 0 if state is None else state.step
        lost += len(said)
    _end(_child(killed, config, folder), 0)
    return lost + len(run_differences(whole, killed))


def _saved_steps(run: Path) -> list[int]:
    return [int(path.stem.removeprefix("state-")) for path in run.glob("state-*.safetensors")]


def _end(child: Any, code: int) -> None:
    child.join()
    if child.exitcode != code:
        raise RuntimeError(f"a training ended with {child.exitcode}, not {code}")


def _child(run: Path, config: LoopConfig, folder: Path) -> Any:
    child = processes().Process(target=_train, args=(run, config, folder))
    child.start()
    return child


def _train(run: Path, config: LoopConfig, folder: Path) -> None:
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process lives
    train(small_task("dvae", config, folder), config, run, resume="auto")
