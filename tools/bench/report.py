"""Run every benchmark of the operators and write their sections of BENCHMARKS.md.

Usage: python tools/bench/report.py [--rounds 7] [--only FAMILY] [--threads N]
All of it takes about 20 minutes, in which the machine should do nothing else.

A section is of one family, number of threads, and instruction set: a machine with another one adds
its own beside those that are there. FLOWWARP_NATIVE and ATEN_CPU_CAPABILITY choose a lower one.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _page

HERE = Path(__file__).parent
FAMILIES = ("warping", "splatting", "correlation", "census")
SPREAD = 1.3  # of quartiles, the upper over the lower; what varies more is said to
INTRODUCTION = """\
# Benchmarks

Operators are measured by `python tools/bench/report.py`, a section for each number of threads and
instruction set of flowwarp's own library; each section says on which machine, when, and by which
command. Each line compares ways of doing one thing on the same inputs in one process, all sides in
turn; times are medians of the rounds, ratios are taken within each round (how many times longer the
other takes; below 1 it is faster), in brackets their quartiles; a line whose quartiles are more
than 30 % apart is called unsteady. Peak memory is what one call adds at most, its results included.

The flow is smooth, as real flow is; in the cases named *rough* each pixel moves on its own. *grid
cached* is `grid_sample` with its grid made beforehand, which holds only as long as flow does not
change; *grid per call* makes it from flow. In half precision the peers warp in fp32 and round,
since the half-precision backward of torch 2.13's `grid_sample` crashes on the CPU at these sizes.
*copy of the bytes* reads an image and a flow field, writes an image, and does nothing else.

The goals of `warp`, forward and backward, are 2 times `grid_sample` with its grid cached at 32
channels and more and 1.7 times at 3, on one thread; 3 times with one example on two threads; 3
times with the grid per call; and 1080p forward in at most 2 times the copy. Each of its sections
lists the cases that miss one. Its peak memory was to be below that of `grid_sample`: with the grid
cached it is the same, the result and no more, and lower where the grid is made per call and in half
precision.

**What limits `warp`** (by `perf record` of each kernel, 1 x 3 x 436 x 1024, one thread, AVX-512).
With 32 channels and more it is memory, but not how many bytes it moves alone: a copy of as many
takes less than half the time. With 3, it is what channels share: computing taps and weights from
flow takes 35 % of the forward kernel, 27 % of the flow gradient's and 21 % of the image gradient's,
which each do it anew. The image gradient besides spends 51 % on adding squares, 17 % on bringing
sums back into planes and 8 % on clearing them.
"""


@dataclass(frozen=True)
class Goal:
    """What one side's ratio must be in some cases: at least ``least``."""

    words: str
    side: str
    least: float
    counts: Callable[[Mapping[str, Any], int], bool]  # of a row, on so many threads

    def missed(self, rows: Sequence[Mapping[str, Any]], threads: int) -> str:
        """List the cases that miss it, with what they have instead."""
        found = []
        for row in rows:
            side = row["sides"].get(self.side)
            if side and self.counts(row, threads) and side["ratio"] < self.least:
                # Of the copy it is told how much longer ours takes.
                ratio = side["ratio"] if self.least >= 1 else 1 / side["ratio"]
                found.append(f"{row['case']} {ratio:.2f}")
        return f"- {self.words}: {', '.join(found)}" if found else ""


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
    """Run the benchmarks and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=FAMILIES, help="measure anew only these sections")
    parser.add_argument("--threads", type=int, choices=(1, 2), help="likewise")
    arguments = parser.parse_args()
    for family in FAMILIES:
        for threads in (1, 2):
            if arguments.only in (None, family) and arguments.threads in (None, threads):
                words = [f"--rounds={arguments.rounds}", f"--threads={threads}"]
                words += ["--no-memory"] if threads > 1 else []
                add(family, words, _run(family, words))


def add(family: str, words: Sequence[str], result: Mapping[str, Any]) -> None:
    """Write the section of one run; what was measured elsewhere stays as it is."""
    sections = _page.read_sections()
    environment = result["environment"]
    threads, level = environment["threads"], environment["native"]
    alone = sections.get(_title(family, 1, level), "") if threads > 1 else ""
    # On another machine one thread takes another time.
    times = read_times(alone) if _where(environment, 1) in alone else {}
    made = _page.made_by(_page.command(family, words), environment)
    parts = ["", made, "", *_goals(family, result["cases"], threads)]
    parts += [_table(row, times) for row in result["cases"]]
    sections[_title(family, threads, level)] = "\n".join(parts)
    places = {title: place for title in sections if (place := _place(title))}
    ours = sorted(places, key=places.__getitem__)
    rest = [title for title in sections if title not in places]
    _page.write_sections(INTRODUCTION, {title: sections[title] for title in [*ours, *rest]})


def _title(family: str, threads: int, level: str) -> str:
    return f"{family}, {threads} thread{'s' * (threads > 1)}, {level}"


def _place(title: str) -> tuple[int, str, str] | None:
    """Return where a section of an operator stands; None of another, all of which follow."""
    found = re.fullmatch(rf"({'|'.join(FAMILIES)}), (\d+) threads?, (\w+)", title)
    return (FAMILIES.index(found[1]), found[2], found[3]) if found else None


def _where(environment: Mapping[str, Any], threads: int) -> str:
    words = (f"{key} {value}" for key, value in {**environment, "threads": threads}.items())
    return ", ".join(words)


def _run(family: str, words: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, str(HERE / f"{family}.py"), *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _goals(family: str, rows: Sequence[Mapping[str, Any]], threads: int) -> Iterator[str]:
    goals = GOALS.get(family, ())
    missed = [line for goal in goals if (line := goal.missed(rows, threads))]
    if missed:
        yield "\n".join(["Missed goals, and what there is instead:", "", *missed, ""])
    elif goals:
        yield "All goals are met.\n"


def read_times(section: str) -> dict[tuple[str, str], float]:
    """Return the milliseconds in a section's tables, by case and side."""
    times, case = {}, ""
    for line in section.splitlines():
        if found := re.match(r"\*\*(.+?)\*\*: ", line):
            case = found[1]
        elif found := re.match(r"\| (.+?) \| ([\d.]+) \|", line):
            times[case, found[1]] = float(found[2])
    return times


def _table(row: Mapping[str, Any], alone: Mapping[tuple[str, str], float]) -> str:
    """Write a case; ``alone`` has the times of one thread."""
    left_out = ("case", "sides", "rounds", "difference", "agreement")
    words = ", ".join(f"{key} {value}" for key, value in row.items() if key not in left_out)
    if "difference" in row:
        words += f"; {row['agreement'].format(row['difference'])}"
    notes = {name: _notes(row, name, alone) for name in row["sides"]}
    return "\n".join([f"**{row['case']}**: {words}\n", *_lines(row["sides"], notes), ""])


def _notes(row: Mapping[str, Any], name: str, alone: Mapping[tuple[str, str], float]) -> str:
    """Say what makes a line doubtful."""
    side, notes = row["sides"][name], []
    spreads = [side["ratio_quartiles"], side["ms_quartiles"]]
    if any(high > SPREAD * low for low, high in spreads):
        notes.append("unsteady")
    if side["ms"] > alone.get((row["case"], name), float("inf")):
        notes.append("slower than one thread")
    return ", ".join(notes)


def _lines(sides: Mapping[str, Any], notes: Mapping[str, str]) -> Iterator[str]:
    noted = any(notes.values())
    yield "| | ms | ratio | peak MiB |" + " |" * noted
    yield "| --- | ---: | ---: | ---: |" + " --- |" * noted
    for name, side in sides.items():
        low, high = side["ratio_quartiles"]
        peak = f"{side['peak_mib']:.1f}" if "peak_mib" in side else ""
        ratio = f"{side['ratio']:.2f} ({low:.2f}–{high:.2f})"
        note = f" {notes[name]} |" if noted else ""
        yield f"| {name} | {side['ms']:.2f} | {ratio} | {peak} |{note}"


if __name__ == "__main__":
    main()
