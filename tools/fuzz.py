"""Read mutated files of each format: a reader must answer correctly or refuse in one line.

    python tools/fuzz.py --format flo --count 100000 --seed 0

Formats are in ``fuzz_formats/``. A fault is an exception other than an InputError that names the
file, a result of a wrong shape or range, more than two seconds of CPU time, more than 1 GiB of
memory, or a line on stderr. The smallest file with a fault is shrunk and written to --keep. The
last line printed is JSON; the exit code is 1 if there was a fault. Equal seeds give equal files.
``tools/fuzz_ops.py`` does the same for operators.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from flowwarp.errors import InputError
from fuzz_formats.limits import TooSlow, alarm, arm
from fuzz_formats.mutations import case
from fuzz_formats.table import FORMATS, GROUPS, NAMES

BYTES = 2**30  # of memory
SCRATCH = Path("/dev/shm")  # writing to a disk takes a hundred times as long as reading


def attempt(path: Path, data: bytes, check: Callable[[Path], None]) -> BaseException | None:
    """Read one file; return the exception, or None if there is an answer."""
    path.write_bytes(data)
    for broken in path.parent.glob("*.broken"):
        broken.unlink()
    try:
        try:
            arm()
            check(path)
        finally:  # the alarm may come in here, hence the outer try
            signal.setitimer(signal.ITIMER_PROF, 0)
    except (Exception, TooSlow) as fault:  # noqa: BLE001 - to find whatever it is
        return fault
    return None


def is_fault(fault: BaseException | None, folder: Path) -> bool:
    """Return whether the exception is anything but an InputError that names the file."""
    if fault is None:
        return False
    line = str(fault)
    named = str(folder) in line and len(line.splitlines()) == 1
    return not (isinstance(fault, InputError) and named)


def shrink(data: bytes, fails: Callable[[bytes], bool], tries: int = 400) -> bytes:
    """Remove parts of a failing file while it still fails (Zeller's delta debugging)."""
    step = len(data) // 2
    while step:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + step :]
            tries -= 1
            if tries < 0:
                return data
            if fails(shorter):
                data = shorter
            else:
                at += step
        step //= 2
    return data


def fuzz(name: str, count: int, seed: int, folder: Path, keep: Path) -> dict[str, object]:
    """Read ``count`` mutated files and return how many were read, refused or at fault."""
    extension, make, check = FORMATS[name]
    path = folder / NAMES.get(name, f"case{extension}")
    make(path)
    data = path.read_bytes()
    signal.signal(signal.SIGPROF, alarm)
    check(path)  # imports and memory pools come before the limit
    signal.setitimer(signal.ITIMER_PROF, 0)
    rng = random.Random(seed)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    counts: Counter[str] = Counter()
    stderr_size = os.fstat(2).st_size
    smallest: bytes | None = None
    slowest, started = 0.0, time.perf_counter()
    for number in range(count):
        mutated = case(name, data, rng)
        before = time.perf_counter()
        fault = attempt(path, mutated, check)
        slowest = max(slowest, time.perf_counter() - before)
        if is_fault(fault, folder):
            counts["faults"] += 1
            if smallest is None or len(mutated) < len(smallest):
                smallest = mutated
        else:
            counts["read" if fault is None else "refused"] += 1
        noise = os.fstat(2).st_size
        if noise > stderr_size:
            counts["noise"] += 1
            stderr_size = noise
        if number % 1000 == 999:
            shutil.rmtree(folder / "cache", ignore_errors=True)
    seconds = time.perf_counter() - started
    if smallest is not None:
        smallest = shrink(smallest, lambda data: is_fault(attempt(path, data, check), folder))
        (keep / f"fuzz_{name}_{seed}{extension}").write_bytes(smallest)
        fault = attempt(path, smallest, check)
        traceback.print_exception(fault, file=sys.stdout)
    return {
        "format": name,
        "count": count,
        "seed": seed,
        "read": counts["read"],
        "refused": counts["refused"],
        "faults": counts["faults"],
        "noise": counts["noise"],
        "seconds": round(seconds, 1),
        "slowest_ms": round(slowest * 1000, 1),
    }


def main() -> int:
    """Fuzz one format, or a group of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--format", choices=[*FORMATS, *GROUPS], default="all")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable()  # load_captioned logs the clips that it skips
    names = GROUPS.get(options.format, [options.format])
    reports = []
    if SCRATCH.is_dir():
        tempfile.tempdir = os.fspath(SCRATCH)
    with tempfile.TemporaryFile() as stderr:
        # C code prints to the descriptor, not to sys.stderr.
        terminal = os.dup(2)
        os.dup2(stderr.fileno(), 2)
        try:
            for name in names:
                with tempfile.TemporaryDirectory() as folder:
                    report = fuzz(name, options.count, options.seed, Path(folder), options.keep)
                reports.append(report)
                print(json.dumps(report), flush=True)
        finally:
            os.dup2(terminal, 2)
        stderr.seek(0)
        noise = stderr.read().decode(errors="replace").splitlines()
    if noise:
        print(f"{len(noise)} lines on stderr, the first: {noise[0]}")
    faults = len(noise) + sum(int(str(report["faults"])) for report in reports)
    print(json.dumps({"formats": len(reports), "faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
