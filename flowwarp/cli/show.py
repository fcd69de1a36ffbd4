"""``flowwarp show``: draw flow files as images or videos."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths
from flowwarp.cli._options import input_argument, json_option, output_option, overwrite_option
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.cli._video_output import VIDEOS
from flowwarp.errors import InputError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

MIN_SCALE, MAX_SCALE = 1e-6, 1e9  # px, limits of --max
ARROW_STEP = 24  # px
FLICKER_RATE = 2  # pictures a second: slow enough to look at each


@dataclass(frozen=True)
class View:
    """What to draw: the options of the command by their names."""

    max_flow: float | None = None
    arrows: bool = False
    error: str | None = None
    flicker: str | None = None
    image: str | None = None
    side_by_side: bool = False
    legend: bool = False

    @property
    def name(self) -> str:
        """The suffix of the output name: flow, arrows, error or flicker."""
        views = {"arrows": self.arrows, "error": self.error, "flicker": self.flicker}
        return next((name for name, chosen in views.items() if chosen), "flow")

    @property
    def files(self) -> list[str]:
        """The input files besides the flow."""
        return [name for name in (self.error, self.flicker, self.image) if name]


@click.command()
@input_argument("inputs", "FLOW...", nargs=-1)
@output_option("The result: an image or video; for many flows also a folder.")
@click.option(
    "--max",
    "max_flow",
    type=float,
    metavar="PX",
    help="Motion, in pixels, that is drawn in full saturation.",
)
@click.option(
    "--arrows",
    is_flag=True,
    help=f"Draw arrows, {ARROW_STEP} px apart; motion of --max px has that length.",
)
@click.option(
    "--error", metavar="TRUTH", help="Draw the endpoint error to this flow file in KITTI's colours."
)
@click.option(
    "--flicker",
    metavar="FRAME2",
    help="Write a GIF that alternates --image with FRAME2 warped to it.",
)
@click.option(
    "--image", metavar="FRAME1", help="Blend with the first frame, or use it for another option."
)
@click.option(
    "--side-by-side", is_flag=True, help="Put --image and the flow in colour to the left."
)
@click.option("--legend/--no-legend", help="Add a legend of the colours, in pixels.  [default: no]")
@overwrite_option()
@json_option("paths")
def command(
    inputs: tuple[str, ...], output: str | None, overwrite: bool, as_json: bool, **options: Any
) -> None:
    """Draw flow files as images: the hue is the direction, the saturation the speed.

    FLOW is one or more flow files, folders or globs; images that this command wrote there are
    skipped. Default output: NAME_flow.png beside NAME.flo. The paths are printed on stdout.

    Without --max, each image uses the speed that 99 % of its moving pixels do not exceed; a video
    uses one scale for all frames. --error prints EPE, Fl-all and angular error on stderr. In .mp4,
    .m4v, .mov and .mkv, which need even sizes, an odd last column or row is repeated.

    \b
    flowwarp show flow.flo --legend                             writes flow_flow.png
    flowwarp show flow.flo --image frame1.png --arrows          writes flow_arrows.png
    flowwarp show flow.flo --error truth.flo --side-by-side     writes flow_error.png
    flowwarp show flow.flo --image frame1.png --flicker frame2.png
    flowwarp show flows/ -o flows.mp4                           one video
    """  # noqa: D301 - click wants the character itself
    view = View(**options)
    _check_view(view)
    sources = _paths.expand_flows(inputs)
    if len(sources) > 1 and (view.image or view.error):
        raise click.UsageError(f"--image and --error take one FLOW, got {len(sources)}")
    targets = _name_targets(inputs, sources, output, view)
    read = _paths.real_names([*sources, *view.files])
    for target in targets:
        _check_no_flow(target)
        _paths.check_output(target, overwrite=overwrite, read=read)

    results: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []

    def report(result: dict[str, Any]) -> None:
        results.append(result)
        if not as_json:
            print_path(Path(result["output"]))

    if not view.flicker and _is_video(inputs, targets[0]):
        report(write_sequence(sources, targets[0], view))
    else:
        jobs = list(zip(sources, targets, strict=True))
        with progress_bar(jobs, "show", shown=len(jobs) > 1) as pairs:
            write = _write_flicker if view.flicker else write_picture
            for source, target in pairs:
                try:
                    # Check again: earlier files take time, and OUT may exist by now.
                    _paths.check_output(target, overwrite=overwrite)
                    report(write(source, target, view))
                except InputError as fault:  # an OutputError, such as a full disk, stops everything
                    if len(sources) == 1:
                        raise
                    failed.append({"input": str(source), "error": str(fault)})
    if as_json:
        click.echo(json.dumps({"results": results, "failed": failed}))
    raise_if_failed(failed, len(sources))


def _check_view(view: View) -> None:
    """Refuse options that exclude each other.

    Raises:
        click.UsageError: there are such options.
    """
    if view.max_flow is not None and not MIN_SCALE <= view.max_flow <= MAX_SCALE:
        raise click.UsageError(f"--max must be from {MIN_SCALE:g} to {MAX_SCALE:g}")
    if view.arrows + bool(view.error) + bool(view.flicker) > 1:
        raise click.UsageError("give only one of --arrows, --error and --flicker")
    if "" in (view.error, view.flicker, view.image):
        raise click.UsageError("--error, --flicker and --image must name a file, got ''")
    if view.flicker and not view.image:
        raise click.UsageError("--flicker needs the first frame: --image FRAME1")
    if view.flicker and (view.max_flow or view.side_by_side or view.legend):
        raise click.UsageError("--flicker does not go with --max, --side-by-side or --legend")
    if view.side_by_side and view.name == "flow" and not view.image:
        raise click.UsageError("--side-by-side needs --image, --arrows or --error")
    if view.error and view.image and not view.side_by_side:
        raise click.UsageError("--error with --image needs --side-by-side")
    if view.arrows and view.legend and not view.side_by_side:
        raise click.UsageError("--arrows with --legend needs --side-by-side")


def _check_no_flow(target: Path) -> None:
    """Refuse to replace a flow file by an image, even with --overwrite.

    Raises:
        OutputError: the target is a flow PNG.
    """
    from flowwarp.io.png import peek_header

    header = peek_header(target)
    if header and header.is_flow:
        raise OutputError(target, "is a flow file", "name another OUT for images")


def _name_targets(
    inputs: tuple[str, ...], sources: list[Path], output: str | None, view: View
) -> list[Path]:
    """Return the output file of each source, or the one video."""
    from flowwarp.io.file_types import COLOR_EXTENSIONS

    extension = ".gif" if view.flicker else ".png"
    if output is None:
        return _paths.name_each(
            sources, lambda source: _paths.name_beside(source, view.name, extension)
        )
    if _is_video(inputs, Path(output)) and not Path(output).is_dir():
        if not view.flicker and (view.image or view.error):
            raise click.UsageError("OUT cannot be a video with --image or --error")
        return [Path(output)]
    if _paths.wants_folder(inputs, output):
        _paths.check_folder_name(output, "many inputs need a folder or video, but OUT is")
        return _paths.name_outputs(sources, Path(output), extension)
    known = VIDEOS if view.flicker else VIDEOS | COLOR_EXTENSIONS
    if Path(output).suffix.lower() not in known:
        raise click.UsageError(f"OUT must end in {', '.join(sorted(known))}, got {output!r}")
    return [Path(output)]


def _is_video(inputs: tuple[str, ...], target: Path) -> bool:
    extension = target.suffix.lower()
    if extension == ".webp":  # of one flow it is an image
        return _paths.wants_folder(inputs, "")
    return extension in VIDEOS


def write_picture(source: Path, target: Path, view: View) -> dict[str, Any]:
    """Draw one flow file as an image; return the record for --json."""
    from flowwarp.io.flow_files import read_flow
    from flowwarp.io.images import write_image

    flow, valid = (tensor[None] for tensor in read_flow(source))
    image = _read_frame(view.image, flow) if view.image else None
    truth = _read_truth(view.error, flow) if view.error else None
    max_flow = view.max_flow or _maximum(*(truth or (flow, valid)))
    picture = _draw(flow, valid, view, max_flow, image, truth)
    _paths.make_folder(target.parent)
    write_image(target, picture[0])
    result = {"input": str(source), "output": str(target), "max_flow": max_flow}
    return result | (_measure(flow, truth[0], valid & truth[1]) if truth else {})


def _write_flicker(source: Path, target: Path, view: View) -> dict[str, Any]:
    import torch

    from flowwarp.io.flow_files import read_flow
    from flowwarp.io.video_writer import write_video
    from flowwarp.ops.warping import warp
    from flowwarp.viz.overlay import flicker

    assert view.image is not None
    assert view.flicker is not None
    flow, valid = (tensor[None] for tensor in read_flow(source))
    image1, image2 = _read_frame(view.image, flow), _read_frame(view.flicker, flow)
    # Where the flow is unknown, do not flicker.
    warped = torch.where(valid, warp(image2, flow), image1)
    _paths.make_folder(target.parent)
    write_video(target, flicker(image1, warped)[0], FLICKER_RATE)
    return {"input": str(source), "output": str(target)}


def write_sequence(
    sources: Sequence[Path], target: Path, view: View, rate: Fraction | None = None
) -> dict[str, Any]:
    """Draw all flow files as one video at one scale; reads each file twice, first for the scale."""
    from flowwarp.io.flow_files import read_flow
    from flowwarp.io.video_container import DEFAULT_FPS
    from flowwarp.io.video_writer import write_video

    max_flow = view.max_flow or common_scale(sources)

    def pictures() -> Iterator[Tensor]:
        size = None
        for source in sources:
            flow, valid = (tensor[None] for tensor in read_flow(source))
            size = size or flow.shape
            if flow.shape != size:
                raise InputError(
                    source, f"is {_size(flow)}, the flows before it {size[3]}x{size[2]}"
                )
            yield _draw(flow, valid, view, max_flow)[0]

    _paths.make_folder(target.parent)
    count = write_video(target, pictures(), rate or DEFAULT_FPS)
    return {
        "input": [str(source) for source in sources],
        "output": str(target),
        "max_flow": max_flow,
        "frames": count,
    }


def common_scale(sources: Sequence[Path]) -> float:
    """Return the motion, in pixels, to draw in full saturation so that all flows are comparable.

    Flows that are 0 everywhere do not count; 1 px if all are.
    """
    from flowwarp.io.flow_files import read_flow

    flows = (read_flow(path) for path in sources)
    moving = (_maximum(flow[None], valid[None]) for flow, valid in flows if flow.any())
    return max(moving, default=1.0)


def _draw(
    flow: Tensor,
    valid: Tensor,
    view: View,
    max_flow: float,
    image: Tensor | None = None,
    truth: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Draw one image.

    Args:
        flow: (1, 2, H, W) in pixels.
        valid: (1, 1, H, W) bool.
        view: what to draw.
        max_flow: motion in full saturation, in pixels.
        image: the first frame (1, 3, H, W), or None.
        truth: flow and valid mask to compare with, of the same shapes, or None.

    Returns:
        (1, 3, H, W'): panels side by side, each as high as the flow.
    """
    from flowwarp.viz.colors import flow_to_image, legend
    from flowwarp.viz.overlay import arrows, error_legend, error_map, side_by_side

    def colors(field: Tensor, known: Tensor) -> Tensor:
        return flow_to_image(field, max_flow=max_flow, valid=known)

    panels = []
    if view.side_by_side:
        panels = [image, colors(flow, valid)]
        if truth:
            panels.append(colors(*truth))
    if truth:
        panels.append(error_map(flow, truth[0], valid=valid & truth[1]))
    elif view.arrows:
        panels.append(
            arrows(flow, image, valid=valid, step=ARROW_STEP, scale=ARROW_STEP / max_flow)
        )
    elif not view.side_by_side:
        picture = colors(flow, valid)
        panels.append(picture if image is None else (picture + image) / 2)
    if view.legend and (view.side_by_side or not truth):
        panels.append(legend(max_flow)[None])
    if view.legend and truth:
        panels.append(error_legend()[None])
    return side_by_side([panel for panel in panels if panel is not None])


def _maximum(flow: Tensor, valid: Tensor) -> float:
    from flowwarp.viz.colors import robust_maximum

    return min(max(robust_maximum(flow, valid=valid).item(), MIN_SCALE), MAX_SCALE)


def _measure(flow: Tensor, truth: Tensor, valid: Tensor) -> dict[str, float | None]:
    """Measure the error, print it on stderr and return it; None if no pixel is valid in both."""
    from flowwarp.metrics.flow import angular_error, epe, fl_all

    measured = {
        "epe": epe(flow, truth, valid=valid).item(),
        "fl_all": fl_all(flow, truth, valid=valid).item(),
        "angular_error": angular_error(flow, truth, valid=valid).item(),
    }
    compared = valid.double().mean().item()
    click.echo(
        "EPE {epe:.3f} px, Fl-all {fl_all:.2f} %, angle {angular_error:.2f}°".format(**measured)
        + f" on {compared:.1%} of the pixels",
        err=True,
    )
    measured["compared"] = compared
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


def _read_frame(path: str, flow: Tensor) -> Tensor:
    from flowwarp.io.images import read_image

    image = read_image(path)[None]
    _check_size(path, image, flow)
    return image


def _read_truth(path: str, flow: Tensor) -> tuple[Tensor, Tensor]:
    from flowwarp.io.flow_files import read_flow

    truth, valid = read_flow(path)
    _check_size(path, truth, flow)
    return truth[None], valid[None]


def _check_size(path: str, tensor: Tensor, flow: Tensor) -> None:
    if tensor.shape[-2:] != flow.shape[-2:]:
        raise InputError(path, f"is {_size(tensor)}, the flow {_size(flow)}", "give the same size")


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]}x{tensor.shape[-2]}"
