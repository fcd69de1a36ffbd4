"""Measure flow against ground truth and the clock: every method on the same pairs, one run.

Usage: python tools/bench/accuracy.py PAIRS [--threads 2] [--write]

PAIRS is a folder as `flowwarp eval-flow` takes it: SET/PAIR with frame1.*, frame2.*, flow.*. Time
is the median over the pairs, in milliseconds a frame of 640 x 480, in proportion to the pixels;
loading weights is not counted, and each method sees one pair beforehand. `fast` gives flow both
ways in that time. Peak memory is what estimating the largest pair adds, in a process of its own.
--write renews the section in BENCHMARKS.md and its plot, docs/images/accuracy.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import _measure
import _page
import cv2
import torch
from torch import Tensor

from flowwarp.cli.eval_flow import METHODS, from_rows, to_grey
from flowwarp.data.recipes import GroundTruth, load_recipe, pairs_of, read_pair
from flowwarp.metrics.flow import epe, fl_all
from flowwarp.pipelines.flow_estimation import SHIPPED

TITLE = "flow: accuracy against time"
PLOT = Path("docs/images/accuracy.png")
PIXELS = 640 * 480
Method = Callable[[Tensor, Tensor], Tensor]


def deepflow() -> Method:
    """DeepFlow (Weinzaepfel et al., ICCV 2013) of OpenCV's contributed modules, if installed."""
    modules: Any = cv2
    estimator = modules.optflow.createOptFlow_DeepFlow()
    return lambda a, b: from_rows(estimator.calc(to_grey(a), to_grey(b), None))


def methods() -> dict[str, Callable[[], Method]]:
    found: dict[str, Callable[[], Method]] = {
        name: partial(make, "base", "cpu") for name, make in METHODS.items()
    }
    for name in SHIPPED[1:]:
        found[f"fast, {name}"] = partial(METHODS["fast"], name, "cpu")
    if hasattr(cv2, "optflow"):
        found["deepflow"] = deepflow
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", metavar="PAIRS")
    parser.add_argument("--threads", type=int, default=2, help="torch's and OpenCV's (default 2)")
    parser.add_argument("--write", action="store_true", help="renew BENCHMARKS.md and the plot")
    parser.add_argument("--peak", metavar="METHOD", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    pairs = pairs_of(load_recipe("pairs"), arguments.pairs)
    truths = [(pair.group, read_pair(pair)) for pair in pairs]
    if arguments.peak is not None:
        largest = max((truth for _, truth in truths), key=lambda truth: truth.image1.numel())
        print(_peak_here(methods()[arguments.peak](), largest))
        return

    results = {}
    for name, make in methods().items():
        results[name] = _run(make(), truths)
        command = [sys.executable, __file__, arguments.pairs, f"--threads={arguments.threads}"]
        done = subprocess.run(
            [*command, f"--peak={name}"], check=True, capture_output=True, text=True
        )
        results[name]["peak_mib"] = float(done.stdout.split()[-1])
        print(name, results[name], file=sys.stderr)
    sets = list(dict.fromkeys(group for group, _ in truths))
    counts = {name: sum(group == name for group, _ in truths) for name in sets}
    table = _table(results, counts)
    print(table)
    environment = _measure.describe_machine()
    if arguments.write:
        words = ", ".join(f"{key} {value}" for key, value in environment.items())
        _plot(results, sets)
        made = "Made by `python tools/bench/accuracy.py PAIRS --write`"
        _page.replace_section(TITLE, f"\n{made}; {words}.\n\n{EXPLANATION}\n{table}\n")
    print(json.dumps({"environment": environment, "methods": results}))


EXPLANATION = """\
Mean endpoint error in pixels (KITTI: outliers, Fl-all %), the number of pairs in brackets. The
pairs are samples of research sets (Middlebury, MPI-Sintel, FlyingChairs, KITTI, a stereo pair) that
nothing was trained on; two settings were chosen by them (docs/flow.md). `dis` is OpenCV's DIS,
medium; `dis-fine` the same with finest scale 0 and patch stride 1. Time is for 640 x 480, one
direction, except `fast`, which gives both in it; peak memory is of the largest pair.

![error over time](docs/images/accuracy.png)
"""


def _run(estimate: Method, truths: list[tuple[str, GroundTruth]]) -> dict[str, Any]:
    errors: dict[str, list[float]] = {}
    seconds = []
    with torch.inference_mode():
        estimate(truths[0][1].image1, truths[0][1].image2)
        for group, truth in truths:
            start = time.perf_counter()
            flow = estimate(truth.image1, truth.image2)
            elapsed = time.perf_counter() - start
            seconds.append(elapsed * PIXELS / flow[0, 0].numel())
            measure = fl_all if group.startswith("kitti") else epe
            value = float(measure(flow, truth.flow_12, valid=truth.valid))
            errors.setdefault(group, []).append(value)
    figures = {group: statistics.mean(values) for group, values in errors.items()}
    return {"ms": statistics.median(seconds) * 1e3, **figures}


def _peak_here(estimate: Method, truth: GroundTruth) -> float:
    """Return by how many MiB one estimate raises this process's memory at most (Linux)."""
    call = lambda: estimate(truth.image1, truth.image2)  # noqa: E731
    with torch.inference_mode():
        return _measure.peak_here(call) / 2**10


def _table(results: dict[str, dict[str, Any]], counts: dict[str, int]) -> str:
    heads = [f"{name} ({count})" for name, count in counts.items()]
    lines = ["| | " + " | ".join([*heads, "ms", "peak MiB"]) + " |"]
    lines.append("| --- |" + " ---: |" * (len(heads) + 2))
    for name, result in results.items():
        figures = [_figure(group, result[group]) for group in counts]
        cells = [*figures, f"{result['ms']:.0f}", f"{result['peak_mib']:.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(group: str, value: float) -> str:
    return f"{value:.1f} %" if group.startswith("kitti") else f"{value:.3f}"


def _plot(results: dict[str, dict[str, Any]], sets: list[str]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(sets), figsize=(3.4 * len(sets), 3.6))
    for axis, group in zip(axes, sets, strict=True):
        for name, result in results.items():
            if name == "zero":
                continue
            ours = name.split(",")[0] in ("fast", "balanced", "best")
            axis.plot(result["ms"], result[group], "o" if ours else "s", color=_color(ours))
            axis.annotate(
                name, (result["ms"], result[group]), xytext=(4, 4), textcoords="offset points",
                fontsize=8,
            )  # fmt: skip
        axis.set(xscale="log", yscale="log", title=group, xlabel="ms a frame, 640 x 480")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("endpoint error in px (KITTI: outliers in %)")
    figure.tight_layout()
    figure.savefig(PLOT, dpi=80)


def _color(ours: bool) -> str:
    return "tab:red" if ours else "tab:gray"


if __name__ == "__main__":
    main()
