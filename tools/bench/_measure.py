"""Measure time and peak memory of several ways of doing one thing.

All sides of a case alternate in one process, so that a slow minute of the machine hits all of them;
a ratio is taken within each round, and its median and quartiles are given. The C allocator keeps
freed memory, as in long-lived programs: otherwise the kernel, clearing fresh pages for each
result, takes more time than any of the sides. Peak memory is measured in a process of its own for
each side: the kernel's high-water mark over one call, inputs excluded. The last line of the output
is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Call = Callable[[], Any]
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**40)}
SAMPLE_SECONDS = 0.01  # a sample repeats a faster call until it lasts about this long


@dataclass(frozen=True)
class Case:
    """One comparison: ``make`` builds the inputs and returns a call for each side, ours first.

    ``agree`` gets the sides' results by name and returns how much they differ; ``agreement`` says
    in words what that number is.
    """

    name: str
    make: Callable[[], Mapping[str, Call]]
    details: Mapping[str, Any]
    agree: Callable[[Mapping[str, Any]], float] | None = None
    agreement: str = "results differ by {:.1e} at most"


def main(cases: list[Case], description: str) -> None:
    """Run a benchmark's command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=9, help="samples of each side (default 9)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    if arguments.peak is not None:
        name, side = arguments.peak
        case = next(case for case in cases if case.name == name)
        print(peak_here(case.make()[side]))
        return

    if any(os.environ.get(key) != value for key, value in KEEP_MEMORY.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    environment = describe_machine()
    print("  ".join(f"{key}={value}" for key, value in environment.items()))
    rows = []
    for case in cases:
        if arguments.only in case.name:
            row = _compare(case, arguments.rounds)
            if not arguments.no_memory:
                for side in row["sides"]:
                    row["sides"][side]["peak_mib"] = _peak(case.name, side, arguments.threads)
            _show(row)
            rows.append(row)
    print(json.dumps({"environment": environment, "cases": rows}))


def _compare(case: Case, rounds: int) -> dict[str, Any]:
    sides = case.make()
    ours = next(iter(sides))
    results = {name: call() for name, call in sides.items()}  # also the warm-up
    difference = None if case.agree is None else case.agree(results)
    del results
    repeats = {
        name: max(1, round(SAMPLE_SECONDS / _seconds(call, 1))) for name, call in sides.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            samples[name].append(_seconds(call, repeats[name]))
    row: dict[str, Any] = {"case": case.name, **case.details, "rounds": rounds, "sides": {}}
    if difference is not None:
        row |= {"difference": difference, "agreement": case.agreement}
    for name, times in samples.items():
        ratios = [theirs / own for theirs, own in zip(times, samples[ours], strict=True)]
        row["sides"][name] = {
            "ms": statistics.median(times) * 1e3,
            "ms_quartiles": [1e3 * value for value in quartiles(times)],
            "ms_min": min(times) * 1e3,
            "ms_max": max(times) * 1e3,
            "ratio": statistics.median(ratios),
            "ratio_quartiles": quartiles(ratios),
        }
    return row


def quartiles(samples: Sequence[float]) -> list[float]:
    """Return the lower and the upper quartile."""
    low, _, high = statistics.quantiles(samples, n=4) if len(samples) > 1 else [samples[0]] * 3
    return [low, high]


def _seconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _show(row: Mapping[str, Any]) -> None:
    left_out = ("case", "sides", "difference", "agreement")
    words = [f"{key} {value}" for key, value in row.items() if key not in left_out]
    if "difference" in row:
        words.append(row["agreement"].format(row["difference"]))
    print(f"\n{row['case']}: " + ", ".join(words))
    for name, side in row["sides"].items():
        low, high = side["ratio_quartiles"]
        memory = f"  peak {side['peak_mib']:8.2f} MiB" if "peak_mib" in side else ""
        print(
            f"  {name:28} {side['ms']:9.3f} ms ({side['ms_min']:.3f} to {side['ms_max']:.3f})"
            f"  x{side['ratio']:.2f} ({low:.2f} to {high:.2f}){memory}"
        )


def _peak(case: str, side: str, threads: int) -> float:
    """Return the peak memory in MiB of one call of one side, measured in a fresh process."""
    command = [sys.executable, sys.argv[0], "--threads", str(threads), "--peak", case, side]
    # Freed blocks go back to the system at once, so that none serves a later request unseen.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 2**10


def peak_here(call: Call) -> int:
    """Return by how many KiB a call raises this process's memory at most (Linux)."""
    # Pages of code and the thread pool are loaded by a first call; its buffers are unmapped again.
    call()
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is used now
    before = _status("VmRSS")
    result = call()
    after = _status("VmHWM")
    del result
    return max(0, after - before)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise KeyError(key)


def describe_machine() -> dict[str, Any]:
    """Return the properties of machine and libraries that the figures depend on."""
    from flowwarp.ops import native

    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "native": native.native().level,
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
    }
