"""Run every benchmark of the operators and write their figures into docs/figures/.

Usage: python tools/bench/report.py [--rounds 7] [--only FAMILY] [--threads N]
All of it takes about 20 minutes, in which the machine should do nothing else.

A family has one run for each machine, number of threads and instruction set. FLOWWARP_NATIVE and
ATEN_CPU_CAPABILITY choose a lower instruction set. For each run a short table is printed, and the
goals that it misses.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _figures

HERE = Path(__file__).parent
FAMILIES = ("warping", "splatting", "correlation", "census")
FIGURES = ("ms", "ms_quartiles", "ratio", "ratio_quartiles", "peak_mib")
NOT_IN_ROWS = ("case", "sides", "rounds", "difference", "agreement")
SPREAD = 1.3  # upper over lower quartile; a line that varies more is marked as unsteady


@dataclass(frozen=True)
class Goal:
    """A goal: in some cases the ratio of one method is at least ``least``."""

    words: str
    side: str
    least: float
    counts: Callable[[Mapping[str, Any], int], bool]  # whether it is for a case and threads

    def missed(self, rows: Sequence[Mapping[str, Any]], threads: int) -> str:
        """Return the cases that miss it, with their ratios, or nothing."""
        found = []
        for row in rows:
            side = row["sides"].get(self.side)
            if side and self.counts(row, threads) and side["ratio"] < self.least:
                # For the copy the goal is how much longer ours takes.
                ratio = side["ratio"] if self.least >= 1 else 1 / side["ratio"]
                found.append(f"{row['case']} {ratio:.2f}")
        return f"missed: {self.words}: {', '.join(found)}" if found else ""


def _both(row: Mapping[str, Any]) -> bool:
    return bool(row["pass"] == "forward+backward")


GOALS = {
    "warping": (
        Goal(
            "2 times `grid_sample` with its grid cached, 32 channels and more, one thread",
            "grid_sample, grid cached", 2.0,
            lambda row, threads: threads == 1 and _both(row) and row["shape"][1] >= 32,
        ),
        Goal(
            "1.7 times `grid_sample` with its grid cached, 3 channels, one thread",
            "grid_sample, grid cached", 1.7,
            lambda row, threads: threads == 1 and _both(row) and row["shape"][1] == 3,
        ),
        Goal(
            "3 times `grid_sample` with its grid cached, one example, two threads",
            "grid_sample, grid cached", 3.0,
            lambda row, threads: threads == 2 and _both(row) and row["shape"][0] == 1,
        ),
        Goal(
            "3 times `grid_sample` with its grid made per call",
            "grid_sample, grid per call", 3.0,
            lambda row, _: _both(row),
        ),
        Goal(
            "1080p forward in at most 2 times the copy of the bytes",
            "copy of the bytes", 0.5,
            lambda row, _: row["shape"][2] == 1080,
        ),
    ),
}  # fmt: skip


def main() -> None:
    """Run the benchmarks and write their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=FAMILIES, help="only this family")
    parser.add_argument("--threads", type=int, choices=(1, 2), help="only so many threads")
    arguments = parser.parse_args()
    for family in FAMILIES:
        for threads in (1, 2):
            if arguments.only in (None, family) and arguments.threads in (None, threads):
                words = [f"--rounds={arguments.rounds}", f"--threads={threads}"]
                words += ["--no-memory"] if threads > 1 else []
                add(family, words, _run(family, words))


def add(family: str, words: Sequence[str], result: Mapping[str, Any]) -> None:
    """Write the figures of one run, and print a table and the goals that it misses."""
    cases, machine = result["cases"], result["environment"]
    _figures.write_run(family, _figures.command(family, words), machine, list(rows_of(cases)))
    print("\n".join([*table(cases), *missed_goals(family, cases, machine["threads"])]), flush=True)


def rows_of(cases: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each method of each case."""
    for case in cases:
        about = {key: value for key, value in case.items() if key not in NOT_IN_ROWS}
        for number, (method, side) in enumerate(case["sides"].items()):
            figures = {key: _rounded(side[key]) for key in FIGURES if key in side}
            row = {"case": case["case"], **about, "method": method, **figures}
            if number == 0 and "difference" in case:
                row["agreement"] = case["agreement"].format(case["difference"])
            yield row


def _rounded(value: Any) -> Any:
    return [_rounded(one) for one in value] if isinstance(value, list) else float(f"{value:.4g}")


def table(cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each method of each case."""
    for case in cases:
        for method, side in case["sides"].items():
            low, high = side["ratio_quartiles"]
            figures = f"{side['ms']:9.2f} ms {side['ratio']:7.2f} ({low:.2f}–{high:.2f})"
            yield f"{case['case']:28} {method:28} {figures}{'  unsteady' * is_unsteady(side)}"


def is_unsteady(side: Mapping[str, Any]) -> bool:
    """Return whether the quartiles of ratio or time are far apart."""
    spreads = [side["ratio_quartiles"], side["ms_quartiles"]]
    return any(high > SPREAD * low for low, high in spreads)


def missed_goals(family: str, cases: Sequence[Mapping[str, Any]], threads: int) -> Iterator[str]:
    """Yield a line for each goal that a run misses."""
    for goal in GOALS.get(family, ()):
        if line := goal.missed(cases, threads):
            yield line


def _run(family: str, words: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, str(HERE / f"{family}.py"), *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
