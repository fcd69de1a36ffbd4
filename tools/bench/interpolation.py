"""Measure interpolation: every second frame of real clips is left out and made again.

Usage: python tools/bench/interpolation.py CLIP... [--frames 12] [--threads 2] [--quality best]
    [--weights base|FILE|none] [--learned CLIP]... [--write]

A clip's figure is the mean PSNR of the 8-bit RGB frames that were left out: for the average of
their neighbours; for flow by OpenCV's DIS (medium preset) as it is often used, both neighbours read
half-way along their flow and averaged; for our interpolation with flow both ways by DIS; and for
the same by each quality. Frames that repeat the one before are dropped first, since no method
can know which of two moments a doubled frame shows: a step that changes less than a twentieth of
what the steps beside it change (in squared error) is taken for one. Nor does a frame count whose
neighbours show two scenes: which one it belongs to cannot be known either, and a mixture of both,
though never far off in PSNR, is no frame. --keep-all measures both too. Where the neighbours are
equal, all methods are exact, and the frame is left out of the mean. Clips that the network learned
from (--learned; by its card) have a mean of their own.
Seconds are the median for one new frame, flow included; all methods take turns at each frame, and
see the first one beforehand. DIS's solver and the grey pictures it reads are made before the clock
starts. The last line of the output is JSON; --write writes docs/figures/interpolation.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import _figures
import _measure
import cv2
import torch
from torch import Tensor

from flowwarp.cli.eval_flow import from_rows, to_grey
from flowwarp.data.cuts import is_cut
from flowwarp.defaults import QUALITIES, Quality
from flowwarp.io.video_reader import read_video
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow.estimate import estimate_both, load_flownet
from flowwarp.pipelines.flow.interpolate import Estimate, interpolate_video
from flowwarp.pipelines.flow.refine import refine

REPEATED = 1 / 20  # of the squared change beside it
EXACT = 100.0  # dB
MEASURES = (
    "PSNR in dB of frames that were left out and interpolated. average: mean of the neighbours; "
    "dis_half_way: both neighbours read half-way along OpenCV's DIS flow and averaged; dis and the "
    "qualities: flowwarp's interpolation with that flow. learned: the flow network learned from "
    "this clip."
)

# Two (3, H, W) to a call that makes the frame in the middle, and is timed.
Method = Callable[[Tensor, Tensor], Callable[[], Tensor]]


def average(before: Tensor, after: Tensor) -> Callable[[], Tensor]:
    return lambda: (before + after) / 2


def interpolation(estimate: Estimate) -> Method:
    def prepare(before: Tensor, after: Tensor) -> Callable[[], Tensor]:
        return lambda: middle(before, after, estimate)

    return prepare


def middle(before: Tensor, after: Tensor, estimate: Estimate) -> Tensor:
    _, frame, _ = interpolate_video([before, after], 2, estimate)
    return frame


class Dis:
    """OpenCV's DIS; of two frames it is given the grey ones beforehand."""

    def __init__(self) -> None:
        self.solver: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def both(self, before: Tensor, after: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
        one, two = to_grey(before[None]), to_grey(after[None])
        return lambda: (
            from_rows(self.solver.calc(one, two, None)),
            from_rows(self.solver.calc(two, one, None)),
        )

    def interpolation(self, before: Tensor, after: Tensor) -> Callable[[], Tensor]:
        flows = self.both(before, after)
        return lambda: middle(before, after, lambda *_: flows())

    def halfway(self, before: Tensor, after: Tensor) -> Callable[[], Tensor]:
        """Read each frame half-way along its flow, as if its motion were that of the middle."""
        flows, one, two = self.both(before, after), before[None], after[None]

        def made() -> Tensor:
            there, back = flows()
            # A pixel of the middle is taken to move as the same pixel of a neighbour does.
            return ((warp(one, -there / 2) + warp(two, -back / 2)) / 2)[0]

        return made


def fitted(quality: str) -> Estimate:
    """Return the fit alone, which begins from matches instead of a network's flow."""
    return lambda one, two: (refine(one, two, quality=quality), refine(two, one, quality=quality))


def ours(weights: str, qualities: Sequence[Quality]) -> dict[str, Method]:
    if weights == "none":
        return {name: interpolation(fitted(name)) for name in qualities if name != "fast"}
    net = load_flownet(weights)
    return {name: interpolation(partial(estimate_both, net, quality=name)) for name in qualities}


# ------------------------------------------------------------------ frames


def triplets(clip: str, most: int, keep_all: bool) -> tuple[list[list[Tensor]], int]:
    """Return frames to leave out between their neighbours, evenly spread, and the repeats dropped.

    The clip is read twice, so that only the frames in use are in memory.
    """
    steps = [math.inf]  # squared change from the frame before
    before = None
    for frame in read_video(clip):
        if before is not None:
            steps.append(error(before, frame))
        before = frame
    beside = [
        max(step for step in (a, b) if math.isfinite(step))
        for a, b in zip([0.0, *steps], [*steps[1:], 0.0], strict=False)
    ]
    distinct = [
        k
        for k, (step, near) in enumerate(zip(steps, beside, strict=True))
        if keep_all or step >= REPEATED * near
    ]
    middles = range(1, len(distinct) - 1, 2)
    count = min(most, len(middles))
    chosen = {middles[k * (len(middles) - 1) // max(count - 1, 1)] for k in range(count)}
    wanted = {distinct[m + side] for m in chosen for side in (-1, 0, 1)}
    frames = {k: frame for k, frame in enumerate(read_video(clip)) if k in wanted}
    groups = [[frames[distinct[m + side]] for side in (-1, 0, 1)] for m in sorted(chosen)]
    return groups, len(steps) - len(distinct)


def error(image1: Tensor, image2: Tensor) -> float:
    """Return the mean squared difference of two frames in 8 bits."""
    first, second = ((image.clamp(0, 1) * 255).round() for image in (image1, image2))
    return float((first - second).square().mean())


def psnr(image: Tensor, truth: Tensor) -> float:
    squared = error(image, truth)
    return 10 * math.log10(255**2 / squared) if squared else EXACT


def measure(clip: str, methods: Mapping[str, Method], most: int, keep: bool) -> dict[str, Any]:
    groups, repeats = triplets(clip, most, keep)
    cuts = 0
    figures: dict[str, list[float]] = {name: [] for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for before, truth, after in groups:
        if torch.equal(before, after):
            continue
        if is_cut(before, after) and not keep:
            cuts += 1
            continue
        calls = {name: method(before, after) for name, method in methods.items()}
        if not figures["average"]:
            for call in calls.values():  # memory and threads are there then
                call()
        for name, call in calls.items():
            start = time.perf_counter()
            made = call()
            seconds[name].append(time.perf_counter() - start)
            figures[name].append(psnr(made, truth))
    height, width = groups[0][0].shape[1:] if groups else (0, 0)
    return {
        "clip": Path(clip).name,
        "size": f"{width}x{height}",
        "frames": len(figures["average"]),
        "repeats": repeats,
        "cuts": cuts,
        "psnr": {name: statistics.mean(values or [math.nan]) for name, values in figures.items()},
        "seconds": {
            name: statistics.median(values or [math.nan]) for name, values in seconds.items()
        },
        "seconds_quartiles": {
            name: _measure.quartiles(values or [math.nan]) for name, values in seconds.items()
        },
    }


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean of each method, of clips that nothing learned from and of the others."""
    known = [row for row in rows if row["frames"]]
    parted = {
        "mean": [row for row in known if not row["learned"]],
        "mean of *": [row for row in known if row["learned"]],
    }
    return {
        name: {
            method: statistics.mean(row["psnr"][method] for row in part)
            for method in part[0]["psnr"]
        }
        for name, part in parted.items()
        if part
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a clip's figures as a row of JSON."""
    width, height = map(int, row["size"].split("x"))
    psnr = {
        name.replace(",", "").replace("-", "_").replace(" ", "_").lower(): round(value, 2)
        for name, value in row["psnr"].items()
    }
    about = {key: row[key] for key in ("clip", "learned", "frames")}
    return {**about, "width": width, "height": height, **psnr}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", help="videos or folders of frames")
    parser.add_argument("--frames", type=int, default=12, help="frames a clip (default 12)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default 1)")
    parser.add_argument("--quality", action="append", choices=QUALITIES, help="default: all")
    parser.add_argument("--weights", default="base", help="none: the fit without a network")
    parser.add_argument(
        "--learned", action="append", default=[], metavar="CLIP", help="the network learned from it"
    )
    parser.add_argument("--write", action="store_true", help="write the figures")
    parser.add_argument("--keep-all", action="store_true", help="doubled frames and cuts too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    arguments.quality = arguments.quality or list(QUALITIES)
    dis = Dis()
    methods = {"average": average, "DIS, half-way": dis.halfway, "DIS": dis.interpolation}
    methods |= ours(arguments.weights, arguments.quality)

    environment = _measure.describe_machine() | {"opencv": cv2.__version__}
    print("  ".join(f"{key}={value}" for key, value in environment.items()))
    names = "".join(f"{name:>14}" for name in methods)
    print(
        f"\nPSNR in dB{'':22}{'size':>10}{'frames':>7}{'repeats':>8}{'cuts':>5}{names}   s/frame",
        end="",
    )
    print("".join(f"{name:>14}" for name in list(methods)[1:]))
    rows = []
    for clip in arguments.clips:
        row = measure(clip, methods, arguments.frames, arguments.keep_all)
        row["learned"] = row["clip"] in arguments.learned
        rows.append(row)
        figures = "".join(f"{value:14.2f}" for value in row["psnr"].values())
        times = "".join(f"{value:14.3f}" for value in list(row["seconds"].values())[1:])
        print(
            f"{row['clip']:32}{row['size']:>10}{row['frames']:7}{row['repeats']:8}{row['cuts']:5}"
            f"{figures}          {times}",
            flush=True,
        )
    means = _means(rows)
    for name, values in means.items():
        print(f"{name:62}" + "".join(f"{value:14.2f}" for value in values.values()))
    known = [row["psnr"] for row in rows if row["frames"]]
    above = {name: sum(row[name] > row["average"] for row in known) for name in methods}
    print(f"{f'above average, of {len(known)}':62}" + "".join(f"{n:14}" for n in above.values()))
    if arguments.write:
        places = {"clips": "CLIP..."}
        if Path(arguments.weights).suffix:
            places["weights"] = "--weights FILE"
        command = _figures.command("interpolation", _figures.options(arguments, places))
        _figures.write_run(
            "interpolation", command, environment, [_row(row) for row in rows], MEASURES
        )
    print(
        json.dumps(
            {"environment": environment, "weights": arguments.weights, "clips": rows, "mean": means}
        )
    )


if __name__ == "__main__":
    main()
