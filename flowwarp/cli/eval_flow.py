"""``flowwarp eval-flow``: how far estimated flow is from the truth, beside simple methods."""

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
from flowwarp.cli._device import check_device, choose_device, device_option
from flowwarp.cli._options import input_argument
from flowwarp.cli._report import align, print_text, progress_bar, raise_if_failed
from flowwarp.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.data.recipes import GroundTruth, GroundTruthPair
    from flowwarp.defaults import Quality

    Method = Callable[[Tensor, Tensor], Tensor]  # (1, 3, H, W) twice to flow (1, 2, H, W)

# Key of a figure, its heading and its decimals. s10-40: pixels that move by 10 to 40 px.
FIGURES = (
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
            raise InputError(name, f"cannot take pictures of {size}") from fault

    return estimate


def _farneback() -> Method:
    """OpenCV's polynomial expansion (Farnebäck, SCIA 2003), as in its tutorial, of five levels."""
    import cv2

    options = (0.5, 5, 15, 3, 5, 1.2, 0)  # scale, levels, window, rounds, patch, sigma, flags
    estimate: Any = cv2.calcOpticalFlowFarneback  # its stub does not know that flow may be None
    return lambda image1, image2: from_rows(
        estimate(to_grey(image1), to_grey(image2), None, *options)
    )


def _ours(quality: Quality, weights: str, device: str) -> Method:
    from flowwarp.pipelines.flow.estimate import estimate_flow, load_flownet

    net = load_flownet(weights, device)
    return lambda image1, image2: estimate_flow(
        net, image1.to(device), image2.to(device), quality
    ).cpu()


# name: makes the method, once for all pairs, from the weights and the device of those that have any
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
    help="What to measure; may be given several times.",
)
@click.option(
    "--weights",
    metavar="FILE",
    default="base",
    show_default=True,
    help="Of the network in fast, balanced and best: base, small, or a file.",
)
@click.option(
    "--recipe",
    metavar="NAME",
    default="pairs",
    show_default=True,
    help="Layout of DATA: sintel, kitti2015, ... or a TOML file.",
)
@click.option(
    "--flows",
    "folders",
    multiple=True,
    metavar="FOLDER",
    help="Also measure flow that another program wrote: SET/PAIR.flo, or of another flow format.",
)
@device_option
@click.option("--dry-run", is_flag=True, help="Read and check everything, estimate nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
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
    """Measure optical flow against ground truth.

    DATA is one or more folders, or globs of them. Without --recipe, each pair is a folder somewhere
    in DATA that holds frame1.*, frame2.* and flow.* (a .flo may be packed, .flo.xz), and if there
    are any, occ.png (white: occluded), invalid.png (white: does not count) and flow_noc.png (KITTI:
    valid where visible). The folder above it names the set it counts to.

    The columns: endpoint error in pixels, of all pixels, of those that frame 2 shows (matched) and
    does not show; outliers (more than 3 px and 5 % off); angular error; endpoint error of pixels
    that move by 0-10, 10-40 and more than 40 px; time. Each figure is the mean over a set's pairs
    of the pair's own mean, over the pairs that have such pixels.

    --flows measures files beside these methods, under the name of their folder, by which any other
    method can be compared: --json names the sets and pairs that they must be called after.

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
    pairs = _each_once(found)
    total = len(pairs) + len(lacking)
    methods = tuple(dict.fromkeys(methods))
    given = {Path(folder).resolve().name: Path(folder) for folder in folders}
    if len(given) < len(folders) or given.keys() & methods:
        raise click.UsageError("--flows needs folders of different names, none that of a method")
    estimators = {name: METHODS[name](weights, choose_device(device)) for name in methods}
    if dry_run:
        estimators = {}  # what others wrote is compared all the same, and so checked

    read: list[GroundTruthPair] = []
    rows: list[dict[str, Any]] = []
    failed = [
        {"input": str(path), "error": str(InputError(path, "no such file"))} for path in lacking
    ]
    with progress_bar(pairs, "eval-flow") as bar:
        for pair in bar:
            try:
                truth = read_pair(pair)
                # A pair counts for all methods or for none, or their means could not be compared.
                rows += [
                    *(_measure(pair, truth, *method) for method in estimators.items()),
                    *(_read(pair, truth, *flows) for flows in given.items()),
                ]
                read.append(pair)
            except InputError as fault:
                if total == 1:
                    raise
                failed.append({"input": str(pair.frame1), "error": str(fault)})
    table = _average(rows)
    if dry_run:
        _tell_plan(read, [*methods, *given], failed, as_json)
    elif as_json:
        click.echo(json.dumps({"dry_run": False, "sets": table, "pairs": rows, "failed": failed}))
    elif table:
        print_text(_format(table))  # a set has the name of a folder
    raise_if_failed(failed, total)


def _tell_plan(
    pairs: Sequence[GroundTruthPair],
    methods: Sequence[str],
    failed: Sequence[dict[str, str]],
    as_json: bool,
) -> None:
    """Say what would be measured by what."""
    counts = Counter(pair.group for pair in pairs)
    if as_json:
        sets = [{"set": name, "pairs": count} for name, count in counts.items()]
        plan = {"dry_run": True, "methods": methods, "sets": sets, "failed": failed}
        click.echo(json.dumps(plan))
        return
    lines = [f"{name}: {count} pair{'s' * (count > 1)}" for name, count in counts.items()]
    print_text("\n".join([*lines, f"methods: {', '.join(methods)}"]))


def _each_once(pairs: Iterable[GroundTruthPair]) -> list[GroundTruthPair]:
    """Drop pairs that come again, as of a folder that lies in another one.

    Raises:
        InputError: two pairs have one name, by which results and --flows are told apart.
    """
    known: dict[tuple[str, str], GroundTruthPair] = {}
    for pair in pairs:
        other = known.setdefault((pair.group, pair.name), pair)
        if other is not pair and _real_files(other) != _real_files(pair):
            problem = f"its pair is {pair.group}/{pair.name}, as is that of {other.frame1}"
            raise InputError(pair.frame1, problem, "measure them apart, or rename one")
    return list(known.values())


def _real_files(pair: GroundTruthPair) -> list[Path]:
    return [path.resolve() for path in (pair.frame1, pair.frame2, pair.flow)]


def _measure(
    pair: GroundTruthPair, truth: GroundTruth, name: str, estimate: Method
) -> dict[str, Any]:
    """Estimate one pair and compare."""
    import torch

    start = time.perf_counter()
    with torch.inference_mode():
        flow = estimate(truth.image1, truth.image2)
    return _compare(pair, truth, name, flow, time.perf_counter() - start)


def _read(pair: GroundTruthPair, truth: GroundTruth, name: str, folder: Path) -> dict[str, Any]:
    """Compare what another program wrote for a pair.

    Raises:
        InputError: there is no file of it, it cannot be read, is of another size, or lacks flow
            that counts.
    """
    from flowwarp.io.file_types import FLOW_EXTENSIONS
    from flowwarp.io.flow_files import read_flow

    wanted = folder / pair.group / pair.name
    files = [wanted.with_name(wanted.name + kind) for kind in sorted(FLOW_EXTENSIONS)]
    path = next(filter(Path.is_file, files), None)
    if path is None:
        raise InputError(f"{wanted}.flo", "no such file, nor of another kind of flow")
    flow, valid = read_flow(path)
    if flow.shape[1:] != truth.flow_12.shape[2:]:
        sizes = [f"{part.shape[-1]}x{part.shape[-2]}" for part in (flow, truth.flow_12)]
        raise InputError(path, f"is of {sizes[0]}, the pair of {sizes[1]}")
    if lacking := int((truth.valid[0] & ~valid).sum()):  # where it is unknown, it reads as 0
        raise InputError(path, f"has no flow at {lacking} pixels that count")
    return _compare(pair, truth, name, flow[None], math.nan)


def _compare(
    pair: GroundTruthPair, truth: GroundTruth, name: str, flow: Tensor, seconds: float
) -> dict[str, Any]:
    """Return the figures of a flow; one without a pixel to its name is None."""
    import torch

    from flowwarp.metrics.flow import angular_error, epe, fl_all

    if not flow.isfinite().all():  # NaN must not pass for "no such pixel"
        raise InputError(pair.frame1, f"{name} gave a flow that is not finite")

    target, valid = truth.flow_12, truth.valid
    length = torch.linalg.vector_norm(target, dim=1, keepdim=True)
    figures = {
        "epe": epe(flow, target, valid=valid),
        "fl_all": fl_all(flow, target, valid=valid),
        "angular_error": angular_error(flow, target, valid=valid),
    }
    if truth.visible is not None:
        figures["epe_matched"] = epe(flow, target, valid=valid & truth.visible)
        figures["epe_unmatched"] = epe(flow, target, valid=valid & ~truth.visible)
    for key, (low, high) in SIZES.items():
        moving = (length >= low) & (length < high)
        figures[key] = epe(flow, target, valid=valid & moving)
    known = {key: value.item() for key, value in figures.items()}
    known["seconds"] = seconds
    return {
        "set": pair.group,
        "pair": pair.name,
        "method": name,
        **{key: _finite(known.get(key, math.nan)) for key, _, _ in FIGURES},
    }


def _average(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average over the pairs of each set and method, in the order they came."""
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
            **{key: _mean([row[key] for row in members]) for key, _, _ in FIGURES},
        }
        for (name, method), members in groups.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _format(table: Sequence[dict[str, Any]]) -> str:
    lines = [["set (pairs)", "method", *(heading for _, heading, _ in FIGURES)]]
    for row in table:
        figures = [
            "-" if row[key] is None else f"{row[key]:.{decimals}f}" for key, _, decimals in FIGURES
        ]
        lines.append([f"{row['set']} ({row['pairs']})", row["method"], *figures])
    return align(lines, 2)


def to_grey(image: Tensor) -> Any:
    """Turn (1, 3, H, W) in [0, 1] into the 8-bit grey (H, W) that OpenCV's methods take."""
    import cv2

    pixels = image[0].mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def from_rows(rows: Any) -> Tensor:
    """Turn the (H, W, 2) rows that OpenCV returns into flow (1, 2, H, W)."""
    import torch

    return torch.from_numpy(rows).permute(2, 0, 1)[None].contiguous()
