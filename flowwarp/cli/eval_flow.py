"""``flowwarp eval-flow``: compare estimated flow with ground truth and with other methods."""

from __future__ import annotations

import functools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths
from flowwarp.cli._options import dry_run_option, input_argument, json_option, weights_option
from flowwarp.cli._report import align, print_text, progress_bar, raise_if_failed
from flowwarp.cli.device import check_device, choose_device, device_option
from flowwarp.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.data.recipes import GroundTruth, GroundTruthPair
    from flowwarp.defaults import Quality

    Method = Callable[[Tensor, Tensor], Tensor]  # (1, 3, H, W) twice to flow (1, 2, H, W)

# Key, column heading and decimals of each metric. s10-40: pixels that move by 10 to 40 px.
METRICS = (
    ("epe", "EPE", 3),
    ("epe_matched", "matched", 3),
    ("epe_unmatched", "unmatched", 3),
    ("fl_all", "Fl-all %", 2),
    ("angular_error", "AAE °", 2),
    ("epe_s0_10", "s0-10", 3),
    ("epe_s10_40", "s10-40", 3),
    ("epe_s40", "s40+", 3),
    ("seconds", "s/pair", 3),
)
SIZES = {"epe_s0_10": (0, 10), "epe_s10_40": (10, 40), "epe_s40": (40, math.inf)}  # px


def _zero() -> Method:
    import torch

    return lambda image1, image2: torch.zeros_like(image1[:, :2])


def _dis(*, fine: bool) -> Method:
    """OpenCV's dense inverse search (Kroeger et al., ECCV 2016), medium preset."""
    import cv2

    estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    if fine:
        estimator.setFinestScale(0)
        estimator.setPatchStride(1)

    def estimate(image1: Tensor, image2: Tensor) -> Tensor:
        try:
            return from_rows(estimator.calc(to_grey(image1), to_grey(image2), None))
        except cv2.error as fault:
            size = f"{image1.shape[-1]}x{image1.shape[-2]}"
            name = "dis-fine" if fine else "dis"  # as in METHODS
            raise InputError(name, f"cannot process images of size {size}") from fault

    return estimate


def _farneback() -> Method:
    """OpenCV's polynomial expansion (Farnebäck, SCIA 2003), its tutorial's options, five levels."""
    import cv2

    options = (0.5, 5, 15, 3, 5, 1.2, 0)  # scale, levels, window, rounds, patch, sigma, flags
    estimate: Any = cv2.calcOpticalFlowFarneback  # the stub forbids None for flow
    return lambda image1, image2: from_rows(
        estimate(to_grey(image1), to_grey(image2), None, *options)
    )


def _ours(quality: Quality, weights: str, device: str) -> Method:
    from flowwarp.pipelines.flow.estimate import estimate_flow, load_flownet

    net = load_flownet(weights, device)
    return lambda image1, image2: estimate_flow(
        net, image1.to(device), image2.to(device), quality
    ).cpu()


# name: function from (weights, device) to the method, called once for all pairs
METHODS: dict[str, Callable[[str, str], Method]] = {
    "zero": lambda *_: _zero(),
    "dis": lambda *_: _dis(fine=False),
    "dis-fine": lambda *_: _dis(fine=True),
    "farneback": lambda *_: _farneback(),
    "fast": functools.partial(_ours, "fast"),
    "balanced": functools.partial(_ours, "balanced"),
    "best": functools.partial(_ours, "best"),
}
DEFAULT_METHODS = ("zero", "dis", "farneback", "fast", "balanced", "best")


@click.command()
@input_argument("data", "DATA...", nargs=-1)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(list(METHODS)),
    default=DEFAULT_METHODS,
    show_default=True,
    help="Method to measure; repeatable.",
)
@weights_option("Flow network of fast, balanced and best: base, small, or a file.")
@click.option(
    "--recipe",
    metavar="NAME",
    default="pairs",
    show_default=True,
    help="Layout of DATA: sintel, kitti2015, ... (`flowwarp datasets list`), or a TOML file.",
)
@click.option(
    "--flows",
    "folders",
    multiple=True,
    metavar="FOLDER",
    help="Also measure flow files of another program: FOLDER/SET/PAIR.flo, .png, ...; repeatable.",
)
@device_option
@dry_run_option("Read and check everything, estimate nothing.")
@json_option("a table")
def command(
    data: tuple[str, ...],
    methods: tuple[str, ...],
    weights: str,
    recipe: str,
    folders: tuple[str, ...],
    device: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure optical flow methods against ground truth.

    DATA is one or more folders or globs of folders. Without --recipe, a pair is a folder anywhere
    in DATA that contains frame1.*, frame2.* and flow.* (or .flo.xz), and optionally occ.png (white:
    occluded), invalid.png (white: does not count) and flow_noc.png (KITTI: valid where visible).
    The folder above it names the set.

    Columns: endpoint error (EPE) in pixels, of all pixels, of those visible in frame 2 (matched)
    and of the occluded ones (unmatched); Fl-all, the outliers (more than 3 px and 5 % off) in
    percent; average angular error in degrees; EPE of pixels that move by 0-10, 10-40 and more than
    40 px; seconds per pair. A value is the mean over the pairs that have such pixels.

    --flows measures flow files of another program, named as --json names sets and pairs. Its row
    has the name of the folder.

    \b
    flowwarp eval-flow pairs/
    flowwarp eval-flow pairs/ --method fast --weights runs/flow/best.safetensors
    flowwarp eval-flow pairs/ --method zero --method dis-fine --json
    flowwarp eval-flow /data/sintel --recipe sintel --method balanced --flows raft/
    """  # noqa: D301 - click wants the character itself
    check_device(device)
    from flowwarp.data.recipes import find_pairs, load_recipe, read_pair

    layout = load_recipe(recipe)
    found: list[GroundTruthPair] = []
    lacking: dict[Path, None] = {}
    for root in _paths.expand_patterns(data, _paths.expand_folders):
        whole, names = find_pairs(layout, root)
        found += whole
        lacking |= dict.fromkeys(root / name for name in names)
    if not found:
        problem = "no such file, and no pair has all of its files"
        raise InputError(next(iter(lacking)), problem, f"this is read as {layout.title}")
    pairs = _drop_duplicates(found)
    total = len(pairs) + len(lacking)
    methods = tuple(dict.fromkeys(methods))
    given = {Path(folder).resolve().name: Path(folder) for folder in folders}
    if len(given) < len(folders) or given.keys() & methods:
        raise click.UsageError("--flows needs folders of different names, none that of a method")
    estimators = {name: METHODS[name](weights, choose_device(device)) for name in methods}
    if dry_run:
        estimators = {}  # the flow of --flows is still compared, which checks it

    read: list[GroundTruthPair] = []
    rows: list[dict[str, Any]] = []
    failed = [
        {"input": str(path), "error": str(InputError(path, "no such file"))} for path in lacking
    ]
    with progress_bar(pairs, "eval-flow") as bar:
        for pair in bar:
            try:
                truth = read_pair(pair)
                # A pair counts for all methods or for none: their means must be comparable.
                rows += [
                    *(_measure(pair, truth, *method) for method in estimators.items()),
                    *(_compare_file(pair, truth, *flows) for flows in given.items()),
                ]
                read.append(pair)
            except InputError as fault:
                if total == 1:
                    raise
                failed.append({"input": str(pair.frame1), "error": str(fault)})
    table = _average(rows)
    if dry_run:
        _print_plan(read, [*methods, *given], failed, as_json)
    elif as_json:
        click.echo(json.dumps({"dry_run": False, "sets": table, "pairs": rows, "failed": failed}))
    elif table:
        print_text(_format(table))  # a set is named after a folder
    raise_if_failed(failed, total)


def _print_plan(
    pairs: Sequence[GroundTruthPair],
    methods: Sequence[str],
    failed: Sequence[dict[str, str]],
    as_json: bool,
) -> None:
    """Print the sets and methods that would be measured, as --dry-run does."""
    counts = Counter(pair.group for pair in pairs)
    if as_json:
        sets = [{"set": name, "pairs": count} for name, count in counts.items()]
        plan = {"dry_run": True, "methods": methods, "sets": sets, "failed": failed}
        click.echo(json.dumps(plan))
        return
    lines = [f"{name}: {count} pair{'s' * (count > 1)}" for name, count in counts.items()]
    print_text("\n".join([*lines, f"methods: {', '.join(methods)}"]))


def _drop_duplicates(pairs: Iterable[GroundTruthPair]) -> list[GroundTruthPair]:
    """Drop duplicate pairs, for example of a folder inside another one.

    Raises:
        InputError: two different pairs have one name, which --json and --flows identify them by.
    """
    known: dict[tuple[str, str], GroundTruthPair] = {}
    for pair in pairs:
        other = known.setdefault((pair.group, pair.name), pair)
        if other is not pair and _real_files(other) != _real_files(pair):
            problem = f"its pair is named {pair.group}/{pair.name}, as is that of {other.frame1}"
            raise InputError(pair.frame1, problem, "measure them separately, or rename one")
    return list(known.values())


def _real_files(pair: GroundTruthPair) -> list[Path]:
    return [path.resolve() for path in (pair.frame1, pair.frame2, pair.flow)]


def _measure(
    pair: GroundTruthPair, truth: GroundTruth, name: str, estimate: Method
) -> dict[str, Any]:
    """Estimate the flow of one pair and compare it with the ground truth."""
    import torch

    start = time.perf_counter()
    with torch.inference_mode():
        flow = estimate(truth.image1, truth.image2)
    return _compare(pair, truth, name, flow, time.perf_counter() - start)


def _compare_file(
    pair: GroundTruthPair, truth: GroundTruth, name: str, folder: Path
) -> dict[str, Any]:
    """Compare the flow file that another program wrote for a pair.

    Raises:
        InputError: there is no such file, it cannot be read, has another size, or is unknown at
            pixels that count.
    """
    from flowwarp.io.file_types import FLOW_EXTENSIONS
    from flowwarp.io.flow_files import read_flow

    wanted = folder / pair.group / pair.name
    files = [wanted.with_name(wanted.name + kind) for kind in sorted(FLOW_EXTENSIONS)]
    path = next(filter(Path.is_file, files), None)
    if path is None:
        raise InputError(f"{wanted}.flo", "no such file, in no flow format")
    flow, valid = read_flow(path)
    if flow.shape[1:] != truth.flow_12.shape[2:]:
        sizes = [f"{part.shape[-1]}x{part.shape[-2]}" for part in (flow, truth.flow_12)]
        raise InputError(path, f"is {sizes[0]}, the pair is {sizes[1]}")
    if lacking := int((truth.valid[0] & ~valid).sum()):  # unknown flow is read as 0
        raise InputError(path, f"has no flow at {lacking} pixels that count")
    return _compare(pair, truth, name, flow[None], math.nan)


def _compare(
    pair: GroundTruthPair, truth: GroundTruth, name: str, flow: Tensor, seconds: float
) -> dict[str, Any]:
    """Return the metrics of a flow (1, 2, H, W); a metric without pixels, such as s40+, is None."""
    import torch

    from flowwarp.metrics.flow import angular_error, epe, fl_all

    if not flow.isfinite().all():  # otherwise NaN would read as "no such pixel"
        raise InputError(pair.frame1, f"{name} returned flow that is not finite")

    target, valid = truth.flow_12, truth.valid
    length = torch.linalg.vector_norm(target, dim=1, keepdim=True)
    metrics = {
        "epe": epe(flow, target, valid=valid),
        "fl_all": fl_all(flow, target, valid=valid),
        "angular_error": angular_error(flow, target, valid=valid),
    }
    if truth.visible is not None:
        metrics["epe_matched"] = epe(flow, target, valid=valid & truth.visible)
        metrics["epe_unmatched"] = epe(flow, target, valid=valid & ~truth.visible)
    for key, (low, high) in SIZES.items():
        moving = (length >= low) & (length < high)
        metrics[key] = epe(flow, target, valid=valid & moving)
    known = {key: value.item() for key, value in metrics.items()}
    known["seconds"] = seconds
    return {
        "set": pair.group,
        "pair": pair.name,
        "method": name,
        **{key: _finite(known.get(key, math.nan)) for key, _, _ in METRICS},
    }


def _average(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average over the pairs of each set and method, in input order."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        for row in rows:
            if row["set"] == name:
                groups.setdefault((name, row["method"]), []).append(row)
    return [
        {
            "set": name,
            "method": method,
            "pairs": len(members),
            **{key: _mean([row[key] for row in members]) for key, _, _ in METRICS},
        }
        for (name, method), members in groups.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _format(table: Sequence[dict[str, Any]]) -> str:
    lines = [["set (pairs)", "method", *(heading for _, heading, _ in METRICS)]]
    for row in table:
        cells = [
            "-" if row[key] is None else f"{row[key]:.{decimals}f}" for key, _, decimals in METRICS
        ]
        lines.append([f"{row['set']} ({row['pairs']})", row["method"], *cells])
    return align(lines, 2)


def to_grey(image: Tensor) -> Any:
    """Convert an RGB image (1, 3, H, W) in [0, 1] to the 8-bit gray (H, W) of OpenCV's methods."""
    import cv2

    pixels = image[0].mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def from_rows(rows: Any) -> Tensor:
    """Convert OpenCV's flow array (H, W, 2) to a flow tensor (1, 2, H, W)."""
    import torch

    return torch.from_numpy(rows).permute(2, 0, 1)[None].contiguous()
