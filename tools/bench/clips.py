"""Time how many clips of sprites a thread composes in a minute, with their flow and visibility.

Usage: python tools/bench/clips.py [--layers FOLDER] [--clips 60] [--rounds 5] [--write]

Clips of 16 frames of 128 x 128 and 64 x 64 in turn, other ones in each round; some are made before
that, as a ground is painted when it is first wanted, once in a process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import _figures
import _measure
import torch

from flowwarp.data.clip import WorldFiles
from flowwarp.data.sources import open_source
from flowwarp.train.memory import freed_memory_kept

SIZES = (128, 64)
WARM = 400  # clips: by then nearly all of the 128 grounds are painted
MEASURES = (
    "Clips of 16 frames that one thread composes in a minute: median, least and most of the rounds."
)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", metavar="FOLDER", help="default: those in the package")
    parser.add_argument("--clips", type=int, default=60, help="of each round (default 60)")
    parser.add_argument("--rounds", type=int, default=5, help="of each size (default 5)")
    parser.add_argument("--write", action="store_true", help="write the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sources = {
        size: open_source("sprites", size, 16, world_files=WorldFiles(arguments.layers))
        for size in SIZES
    }
    for number in range(WARM):
        sources[SIZES[-1]](arguments.rounds, number)
    rates: dict[int, list[float]] = {size: [] for size in SIZES}
    with freed_memory_kept():  # as where clips are made for a training, or to be kept
        for seed in range(arguments.rounds):
            for size, source in sources.items():
                start = time.perf_counter()
                for number in range(arguments.clips):
                    source(seed, number)
                rates[size].append(60 * arguments.clips / (time.perf_counter() - start))
    table = "| pixels | clips a minute |\n| --- | ---: |"
    for size, found in rates.items():
        least, most = min(found), max(found)
        table += f"\n| {size} x {size} | {statistics.median(found):.0f} ({least:.0f}–{most:.0f}) |"
    print(table)
    environment = _measure.describe_machine()
    if arguments.write:
        places = {"layers": "--layers LPC"} if arguments.layers else {}
        command = _figures.command("clips", _figures.options(arguments, places))
        rows = [
            {
                "size": size,
                "clips_per_minute": round(statistics.median(found)),
                "range": [round(min(found)), round(max(found))],
            }
            for size, found in rates.items()
        ]
        _figures.write_run("clips", command, environment, rows, MEASURES)
    print(json.dumps({"environment": environment, "clips_a_minute": rates}))


if __name__ == "__main__":
    main()
