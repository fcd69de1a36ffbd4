"""Measure error and time of every flow method on the same pairs.

Usage: python tools/bench/accuracy.py PAIRS [--rounds 5] [--threads 2] [--write]

PAIRS is a folder as `flowwarp eval-flow` takes it: SET/PAIR with frame1.*, frame2.*, flow.*. On
each pair all methods take turns, --rounds times. Time is the median, with its quartiles, over pairs
and rounds, in milliseconds a frame of 640 x 480, in proportion to the pixels; loading weights and
the grey pictures that OpenCV's methods read are not counted, and each method sees one pair
beforehand. `fast` gives flow both ways in that time. Peak memory is what estimating the largest
pair adds, in a process of its own. --write writes docs/figures/accuracy.json and the plot,
docs/images/accuracy.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import _figures
import _measure
import cv2
import torch
from torch import Tensor

from flowwarp.cli import eval_flow
from flowwarp.cli.eval_flow import METHODS, from_rows
from flowwarp.data.recipes import GroundTruth, load_recipe, pairs_of, read_pair
from flowwarp.io.shipped import FLOWNETS
from flowwarp.metrics.flow import epe, fl_all

PLOT = Path("docs/images/accuracy.png")
PIXELS = 640 * 480
Method = Callable[[Tensor, Tensor], Tensor]


def deepflow() -> Method:
    """DeepFlow (Weinzaepfel et al., ICCV 2013) of OpenCV's contributed modules, if installed."""
    modules: Any = cv2
    estimator = modules.optflow.createOptFlow_DeepFlow()
    return lambda a, b: from_rows(estimator.calc(eval_flow.to_grey(a), eval_flow.to_grey(b), None))


def methods() -> dict[str, Callable[[], Method]]:
    found: dict[str, Callable[[], Method]] = {
        name: partial(make, "base", "cpu") for name, make in METHODS.items()
    }
    for name in FLOWNETS[1:]:
        found[f"fast, {name}"] = partial(METHODS["fast"], name, "cpu")
    if hasattr(cv2, "optflow"):
        found["deepflow"] = deepflow
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", metavar="PAIRS")
    parser.add_argument("--rounds", type=int, default=5, help="of each pair (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="torch's and OpenCV's (default 2)")
    parser.add_argument("--write", action="store_true", help="write the figures and the plot")
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

    estimates = {name: make() for name, make in methods().items()}
    results = measure(estimates, truths, arguments.rounds)
    for name, result in results.items():
        command = [sys.executable, __file__, arguments.pairs, f"--threads={arguments.threads}"]
        done = subprocess.run(
            [*command, f"--peak={name}"], check=True, capture_output=True, text=True
        )
        result["peak_mib"] = float(done.stdout.split()[-1])
        print(name, result, file=sys.stderr)
    sets = list(dict.fromkeys(group for group, _ in truths))
    counts = {name: sum(group == name for group, _ in truths) for name in sets}
    table = _table(results, counts)
    print(table)
    environment = _measure.describe_machine() | {"opencv": cv2.__version__}
    if arguments.write:
        _plot(results, sets)
        words = _figures.options(arguments, {"pairs": "PAIRS"})
        made_by = _figures.command("accuracy", words)
        rows = [_row(name, result, sets) for name, result in results.items()]
        _figures.write_run("accuracy", made_by, environment, rows, MEASURES, pairs=counts)
    print(json.dumps({"environment": environment, "methods": results}))


MEASURES = (
    "Mean endpoint error in px, for KITTI Fl-all in percent; ms for one direction at 640 x 480 "
    "(both for fast), with quartiles over pairs and rounds; methods take turns."
)


def measure(
    estimates: Mapping[str, Method], truths: list[tuple[str, GroundTruth]], rounds: int
) -> dict[str, dict[str, Any]]:
    """Return each method's mean error by set and its time; on each pair all take turns."""
    errors: dict[str, dict[str, list[float]]] = {name: {} for name in estimates}
    seconds: dict[str, list[float]] = {name: [] for name in estimates}
    with torch.inference_mode():
        for number, (group, truth) in enumerate(truths):
            found = fl_all if group.startswith("kitti") else epe
            with _grey_beforehand(truth):
                if number == 0:
                    for estimate in estimates.values():
                        estimate(truth.image1, truth.image2)
                for again in range(rounds):
                    for name, estimate in estimates.items():
                        start = time.perf_counter()
                        flow = estimate(truth.image1, truth.image2)
                        elapsed = time.perf_counter() - start
                        seconds[name].append(elapsed * PIXELS / flow[0, 0].numel())
                        if again == 0:
                            value = float(found(flow, truth.flow_12, valid=truth.valid))
                            errors[name].setdefault(group, []).append(value)
    return {
        name: {
            "ms": statistics.median(times) * 1e3,
            "ms_quartiles": [1e3 * value for value in _measure.quartiles(times)],
            **{group: statistics.mean(values) for group, values in errors[name].items()},
        }
        for name, times in seconds.items()
    }


@contextmanager
def _grey_beforehand(truth: GroundTruth) -> Iterator[None]:
    """Give OpenCV's methods the grey pictures of a pair, as only they need them."""
    greys = [(image, eval_flow.to_grey(image)) for image in (truth.image1, truth.image2)]

    def found(image: Tensor) -> Any:
        return next(grey for known, grey in greys if known is image)

    with mock.patch.object(eval_flow, "to_grey", found):
        yield


def _peak_here(estimate: Method, truth: GroundTruth) -> float:
    """Return by how many MiB one estimate raises this process's memory at most (Linux)."""
    call = lambda: estimate(truth.image1, truth.image2)  # noqa: E731
    with torch.inference_mode(), _grey_beforehand(truth):
        return _measure.peak_here(call) / 2**10


def _table(results: dict[str, dict[str, Any]], counts: dict[str, int]) -> str:
    heads = [f"{name} ({count})" for name, count in counts.items()]
    lines = ["| | " + " | ".join([*heads, "ms", "peak MiB"]) + " |"]
    lines.append("| --- |" + " ---: |" * (len(heads) + 2))
    for name, result in results.items():
        figures = [_figure(group, result[group]) for group in counts]
        low, high = result["ms_quartiles"]
        ms = f"{result['ms']:.0f} ({low:.0f}–{high:.0f})"
        cells = [*figures, ms, f"{result['peak_mib']:.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _row(name: str, result: Mapping[str, Any], sets: Iterable[str]) -> dict[str, Any]:
    """Return a method's figures as a row of JSON."""
    units = {group: "fl_all_percent" if group.startswith("kitti") else "epe_px" for group in sets}
    errors = {f"{group}_{unit}": round(result[group], 3) for group, unit in units.items()}
    quartiles = [round(value) for value in result["ms_quartiles"]]
    times = {"ms": round(result["ms"]), "ms_quartiles": quartiles}
    return {"method": name, **errors, **times, "peak_mib": round(result["peak_mib"])}


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
