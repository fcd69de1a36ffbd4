"""How much CPU time ``flowwarp --help`` takes, beside a Python that does nothing.

    python tools/bench/startup.py [--rounds 9]

Both alternate in one run; user and system time of the process, so that a busy machine does not
count. The last line of the output is JSON.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version

SIDES = {
    "flowwarp --help": ["-m", "flowwarp", "--help"],
    "flowwarp warp --help": ["-m", "flowwarp", "warp", "--help"],
    "python -c pass": ["-c", "pass"],
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="samples of each side (default 9)")
    rounds = parser.parse_args().rounds
    samples: dict[str, list[float]] = {name: [] for name in SIDES}
    for number in range(rounds + 1):
        for name, arguments in SIDES.items():
            seconds = _cpu_seconds([sys.executable, *arguments])
            if number:  # the first round compiles bytecode and fills the page cache
                samples[name].append(seconds)
    environment = {
        "python": platform.python_version(),
        "click": version("click"),
        "machine": platform.machine(),
        "rounds": rounds,
    }
    print("  ".join(f"{key}={value}" for key, value in environment.items()))
    floor = samples["python -c pass"]
    rows = {}
    for name, times in samples.items():
        ratio = statistics.median(own / least for own, least in zip(times, floor, strict=True))
        rows[name] = {
            "cpu_s": statistics.median(times),
            "cpu_s_min": min(times),
            "cpu_s_max": max(times),
            "ratio": ratio,
        }
        print(
            f"  {name:22} {statistics.median(times):.3f} CPU s "
            f"({min(times):.3f} to {max(times):.3f})  x{ratio:.2f}"
        )
    print(json.dumps({"environment": environment, "sides": rows}))


def _cpu_seconds(command: list[str]) -> float:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # else Popen waits for it once more
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
