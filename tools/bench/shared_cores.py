"""How much slower commands get beside other work: waiting threads that spin, or that sleep soon.

    python tools/bench/shared_cores.py [--rounds 5] [--spin 0 1000 10000 300000] [--busy 2]

Threads of an OpenMP region wait for its end, and for the next region. libgomp's default is to spin
300,000 times, about a millisecond, before a thread sleeps: quick on a quiet machine, but beside
other processes it takes the cores from the threads that are waited for. Each side runs the same
command with another GOMP_SPINCOUNT, on a quiet machine and beside busy processes; all alternate in
one run. "as shipped" is what the command sets itself. The last line of the output is JSON.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[2] / "datasets" / "sample"
SHIPPED = "as shipped"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="samples of each side (default 5)")
    parser.add_argument("--spin", nargs="*", default=["300000"], help="values of GOMP_SPINCOUNT")
    parser.add_argument("--busy", type=int, default=2, help="busy processes (default 2)")
    given = parser.parse_args()
    sides = [SHIPPED, *given.spin]
    rows: dict[str, dict[str, float]] = {side: {} for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        for state, busy in (("quiet", 0), (f"beside {given.busy}", given.busy)):
            times: dict[str, list[float]] = {side: [] for side in sides}
            with _busy(busy):
                for number in range(given.rounds + 1):
                    for side in sides:
                        seconds = _seconds(side, Path(folder))
                        if number:  # the first round fills the page cache
                            times[side].append(seconds)
            for side in sides:
                rows[side][state] = statistics.median(times[side])
    for side, row in rows.items():
        quiet, beside = row.values()
        print(f"  {side:12} quiet {quiet:6.2f} s   beside {beside:6.2f} s   x{beside / quiet:.2f}")
    print(json.dumps({"cores": os.cpu_count(), "rounds": given.rounds, "seconds": rows}))


def _seconds(side: str, folder: Path) -> float:
    """Return the wall time of estimating the flow of the sample clip."""
    environment = dict(os.environ)
    if side != SHIPPED:
        environment |= {"GOMP_SPINCOUNT": side}
    command = [sys.executable, "-m", "flowwarp", "flow", str(SAMPLE / "clip.mp4")]
    command += ["-o", str(folder / "flow"), "--overwrite"]
    start = time.monotonic()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.monotonic() - start


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """Run processes that count."""
    loop = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
