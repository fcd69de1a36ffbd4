"""Run every benchmark of the operators and write BENCHMARKS.md.

Usage: python tools/bench/report.py [--rounds 7] [--only FAMILY] [--threads N]
All of it takes about 20 minutes, in which the machine should do nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _page

HERE = Path(__file__).parent
FAMILIES = ("warping", "splatting", "correlation", "census")
INTRODUCTION = """\
# Benchmarks

Made by `python tools/bench/report.py`. Each line compares ways of doing one thing on the same
inputs in one process, all sides in turn; times are medians of {rounds} samples, ratios are taken
within each round (how many times longer the other takes; below 1 it is faster), in brackets their
quartiles. Peak memory is what one call adds at most, its results included.

{environment}

The flow is smooth, as real flow is; in the cases named *rough* each pixel moves on its own. *grid
cached* is `grid_sample` with its grid made beforehand, which holds only as long as flow does not
change; *grid per call* makes it from flow. In half precision the peers warp in fp32 and round,
since the half-precision backward of torch 2.13's `grid_sample` crashes on the CPU at these sizes.
*copy of the bytes* reads an image and a flow field, writes an image, and does nothing else.

**What limits `warp`** (by `perf record` of each kernel, 1 x 3 x 436 x 1024, one thread, AVX-512).
With 32 channels and more it is memory. With 3, it is what channels share: computing taps and
weights from flow takes 35 % of the forward kernel, 27 % of the flow gradient's and 21 % of the
image gradient's, which each do it anew. The image gradient besides spends 51 % on adding squares,
17 % on bringing sums back into planes and 8 % on clearing them. Hence the goals that are not
reached there: 1.7 times `grid_sample` with its grid cached at this one size, 3 times with the grid
per call or on two threads, and 1080p forward in twice the time of the copy.
"""


def main() -> None:
    """Run the benchmarks and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=FAMILIES, help="measure anew only these sections")
    parser.add_argument("--threads", type=int, choices=(1, 2), help="likewise")
    arguments = parser.parse_args()
    sections = _page.read_sections()
    environment: dict[str, Any] = {}
    for family in FAMILIES:
        for threads in (1, 2):
            title = f"{family}, {threads} thread{'s' * (threads > 1)}"
            if arguments.only not in (None, family) or arguments.threads not in (None, threads):
                continue
            result = _run(family, arguments.rounds, threads)
            environment = result["environment"]
            sections[title] = "\n".join(["", *(_table(row) for row in result["cases"])])
    del environment["threads"]
    words = ", ".join(f"{key} {value}" for key, value in environment.items())
    _page.write_sections(INTRODUCTION.format(rounds=arguments.rounds, environment=words), sections)


def _run(family: str, rounds: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, str(HERE / f"{family}.py"), f"--rounds={rounds}"]
    command += [f"--threads={threads}", *(["--no-memory"] if threads > 1 else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _table(row: dict[str, Any]) -> str:
    details = {k: v for k, v in row.items() if k not in ("case", "sides", "rounds")}
    difference = details.pop("largest_difference", None)
    words = ", ".join(f"{key} {value}" for key, value in details.items())
    if difference is not None:
        words += f"; results differ by {difference:.1e} at most"
    return "\n".join([f"**{row['case']}**: {words}\n", *_lines(row["sides"]), ""])


def _lines(sides: dict[str, Any]) -> Iterator[str]:
    yield "| | ms | ratio | peak MiB |"
    yield "| --- | ---: | ---: | ---: |"
    for name, side in sides.items():
        low, high = side["ratio_quartiles"]
        peak = f"{side['peak_mib']:.1f}" if "peak_mib" in side else ""
        ratio = f"{side['ratio']:.2f} ({low:.2f}–{high:.2f})"
        yield f"| {name} | {side['ms']:.2f} | {ratio} | {peak} |"


if __name__ == "__main__":
    main()
