"""All that is promised and can be measured; ``flowwarp doctor --full`` prints the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flowwarp.selftest import fault_injection
from flowwarp.selftest.exactness import (
    ROUNDING,
    dependence,
    micro_batch_difference,
    networks,
    operators,
    process_difference,
    thread_differences,
    without_gradients,
)
from flowwarp.selftest.small_tasks import OTHERWISE, TRAINERS


@dataclass(frozen=True)
class Promise:
    """Something promised, and how to measure it.

    Args:
        name: what it is about.
        allowed: the largest figure that keeps it.
        text: what the figure is, with ``{}`` for it.
        measure: measures it.
    """

    name: str
    allowed: float
    text: str
    measure: Callable[[], float]


def promises(folder: Path) -> Iterator[Promise]:
    """Yield all promises; what they need on disk goes into a folder.

    Args:
        folder: empty; the caller removes it.
    """
    exact = operators().keys() | without_gradients().keys()
    for name in [*operators(), *without_gradients(), *networks()]:
        yield Promise(
            f"{name}: neighbours",
            0,
            "change an example by {}",
            partial(_neighbours, name),
        )
        yield Promise(
            f"{name}: batch size",
            0 if name in exact else ROUNDING,
            "changes an example by {}",
            partial(_batch_size, name),
        )
    yield Promise("operators: threads", 0, "change {} results", thread_differences)
    for name in (*TRAINERS, *OTHERWISE):
        words = "change the gradient by {}"
        part = partial(micro_batch_difference, name, folder)
        yield Promise(f"{name}: micro-batches", ROUNDING, words, part)
        part = partial(process_difference, name, folder)
        yield Promise(f"{name}: 2 processes", ROUNDING, words, part)
    for name in (*TRAINERS, *OTHERWISE):
        for kind in fault_injection.RESUMED:
            part = partial(fault_injection.resume_differences, name, kind, folder)
            yield Promise(f"{name}: resumed, {kind}", 0, "changes {} files", part)
        for what, measure in _MISHAPS.items():
            part = partial(measure, name, folder)
            yield Promise(f"{name}: {what}", 0, "changes {} files", part)
    part = partial(fault_injection.kills, folder)
    yield Promise("kill -9, five times", 0, "costs or changes {} files", part)


def _neighbours(name: str) -> float:
    return dependence(name).neighbours


def _batch_size(name: str) -> float:
    return dependence(name).size


_MISHAPS: Mapping[str, Callable[[str, Path], float]] = {
    "a loss that is no number": fault_injection.divergence_differences,
    "a broken state": fault_injection.damage_differences,
    "two at one run": fault_injection.lock_differences,
    "a full disk, at each write": fault_injection.full_disk_differences,
}
