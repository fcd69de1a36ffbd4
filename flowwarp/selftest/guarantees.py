"""The guarantees that ``flowwarp doctor --full`` measures, each with the largest value allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flowwarp.selftest import fault_injection
from flowwarp.selftest.exactness import (
    ROUNDING,
    batch_dependence,
    micro_batch_difference,
    networks,
    operators,
    operators_without_gradient,
    process_difference,
    thread_differences,
)
from flowwarp.selftest.small_tasks import TRAINERS, VARIANTS


@dataclass(frozen=True)
class Guarantee:
    """Something that flowwarp guarantees, and how to measure it.

    Args:
        name: what is measured, as printed.
        allowed: the largest value that fulfils it.
        text: a phrase with ``{}`` where the value goes.
        measure: returns the value.
    """

    name: str
    allowed: float
    text: str
    measure: Callable[[], float]


# Each takes a trainer's name and a folder, and returns in how many files the runs differ.
_FAULTS: Mapping[str, Callable[[str, Path], float]] = {
    "loss is NaN": fault_injection.divergence_differences,
    "corrupt checkpoint": fault_injection.corruption_differences,
    "run in use": fault_injection.lock_differences,
    "disk full at each write": fault_injection.full_disk_differences,
}


def guarantees(folder: Path) -> Iterator[Guarantee]:
    """Yield all guarantees in the order in which they are measured.

    Args:
        folder: an empty folder for the files of measurements; the caller removes it.
    """
    yield from _exactness()
    for name in (*TRAINERS, *VARIANTS):
        yield from _split_steps(name, folder)
    for name in (*TRAINERS, *VARIANTS):
        yield from _interrupted_runs(name, folder)
    kills = partial(fault_injection.kill_differences, folder)
    yield Guarantee("kill -9, five times", 0, "loses or changes {} files", kills)


def _exactness() -> Iterator[Guarantee]:
    exact = operators().keys() | operators_without_gradient().keys()
    for name in [*operators(), *operators_without_gradient(), *networks()]:
        measure: Callable[[], float] = partial(_by_neighbours, name)
        yield Guarantee(f"{name}: neighbours", 0, "change an example by {}", measure)
        # Libraries choose the order of sums in a network by the batch size.
        allowed = 0 if name in exact else ROUNDING
        measure = partial(_by_batch_size, name)
        yield Guarantee(f"{name}: batch size", allowed, "changes an example by {}", measure)
    yield Guarantee("operators: threads", 0, "change {} results", thread_differences)


def _split_steps(name: str, folder: Path) -> Iterator[Guarantee]:
    text = "change the gradient by {}"
    micro_batches = partial(micro_batch_difference, name, folder)
    yield Guarantee(f"{name}: micro-batches", ROUNDING, text, micro_batches)
    processes = partial(process_difference, name, folder)
    yield Guarantee(f"{name}: 2 processes", ROUNDING, text, processes)


def _interrupted_runs(name: str, folder: Path) -> Iterator[Guarantee]:
    text = "changes {} files"
    for settings in fault_injection.RESUME_SETTINGS:
        resumed = partial(fault_injection.resume_differences, name, settings, folder)
        yield Guarantee(f"{name}: resumed, {settings}", 0, text, resumed)
    for fault, measure in _FAULTS.items():
        yield Guarantee(f"{name}: {fault}", 0, text, partial(measure, name, folder))


def _by_neighbours(name: str) -> float:
    return batch_dependence(name).neighbours


def _by_batch_size(name: str) -> float:
    return batch_dependence(name).size
