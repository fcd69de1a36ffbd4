"""``flowwarp show``: flow files as pictures."""

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
from flowwarp.cli._options import input_argument, output_option
from flowwarp.cli._report import print_path, progress_bar, raise_if_failed
from flowwarp.cli._video_output import VIDEOS
from flowwarp.errors import InputError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

SLOWEST, FASTEST = 1e-6, 1e9  # px, what --max may be
ARROW_STEP = 24  # px
FLICKER_RATE = 2  # pictures a second: slow enough to look at each


@dataclass(frozen=True)
class View:
    """What to make of a flow file: the options of the command by their names."""

    max_flow: float | None = None
    arrows: bool = False
    error: str | None = None
    flicker: str | None = None
    image: str | None = None
    side_by_side: bool = False
    legend: bool = False

    @property
    def name(self) -> str:
        """The word a picture's file name ends in."""
        views = {"arrows": self.arrows, "error": self.error, "flicker": self.flicker}
        return next((name for name, asked in views.items() if asked), "flow")

    @property
    def files(self) -> list[str]:
        """What is read besides the flow."""
        return [name for name in (self.error, self.flicker, self.image) if name]


@click.command()
@input_argument("inputs", "FLOW...", nargs=-1)
@output_option("A picture or video; for many, also a folder.")
@click.option("--max", "max_flow", type=float, metavar="PX", help="Motion shown in full colour.")
@click.option(
    "--arrows",
    is_flag=True,
    help=f"Arrows instead of colours, {ARROW_STEP} px apart and as long for motion of --max.",
)
@click.option("--error", metavar="TRUTH", help="Distance to this flow, in KITTI's colours.")
@click.option("--flicker", metavar="FRAME2", help="GIF of --image and FRAME2 warped onto it.")
@click.option("--image", metavar="FRAME1", help="The first frame, to put under the picture.")
@click.option("--side-by-side", is_flag=True, help="Put what belongs to the picture left of it.")
@click.option("--legend/--no-legend", help="Add what the colours mean, in pixels.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of paths.")
def command(
    inputs: tuple[str, ...], output: str | None, overwrite: bool, as_json: bool, **options: Any
) -> None:
    """Turn flow files into pictures: the hue is the direction, the saturation the speed.

    FLOW is one or more files, folders or globs, without the pictures that this put there. Without
    -o, the picture of NAME.flo is NAME_flow.png beside it; the paths written are printed on
    stdout. Without --max it is, for each file, what 99 % of the moving pixels do not exceed; a
    video has one for all its frames. In .mp4, .m4v, .mov and .mkv, which hold even sizes only, an
    odd last column or row is repeated.

    \b
    flowwarp show a.flo --legend                             a_flow.png
    flowwarp show a.flo --image frame1.png --arrows          a_arrows.png
    flowwarp show a.flo --error truth.flo --side-by-side     a_error.png
    flowwarp show a.flo --image frame1.png --flicker frame2.png
    flowwarp show flows/ -o flows.mp4                        one video
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
                    _paths.check_output(target, overwrite=overwrite)  # anew: there may be many
                    report(write(source, target, view))
                except InputError as fault:  # an OutputError, such as a full disk, stops all
                    if len(sources) == 1:
                        raise
                    failed.append({"input": str(source), "error": str(fault)})
    if as_json:
        click.echo(json.dumps({"results": results, "failed": failed}))
    raise_if_failed(failed, len(sources))


def _check_view(view: View) -> None:
    """Refuse options that do not go together.

    Raises:
        click.UsageError: they do not.
    """
    if view.max_flow is not None and not SLOWEST <= view.max_flow <= FASTEST:
        raise click.UsageError(f"--max must be from {SLOWEST:g} to {FASTEST:g}")
    if view.arrows + bool(view.error) + bool(view.flicker) > 1:
        raise click.UsageError(
            "--arrows, --error and --flicker are pictures of their own: one only"
        )
    if "" in (view.error, view.flicker, view.image):
        raise click.UsageError("--error, --flicker and --image must name a file, got ''")
    if view.flicker and not view.image:
        raise click.UsageError("--flicker needs the first frame: --image FRAME1")
    if view.flicker and (view.max_flow or view.side_by_side or view.legend):
        raise click.UsageError("--flicker shows frames: no --max, --side-by-side or --legend")
    if view.side_by_side and view.name == "flow" and not view.image:
        raise click.UsageError("--side-by-side needs --image, --arrows or --error")
    if view.error and view.image and not view.side_by_side:
        raise click.UsageError("--image shows beside an error only: add --side-by-side")
    if view.arrows and view.legend and not view.side_by_side:
        raise click.UsageError("--legend explains colours: add --side-by-side, or no --arrows")


def _check_no_flow(target: Path) -> None:
    """Refuse to replace flow by its picture, though asked to, and though it is not read.

    Raises:
        OutputError: there is some.
    """
    from flowwarp.io._png import peek_header

    header = peek_header(target)
    if header and header.is_flow:
        raise OutputError(target, "is flow", "name another OUT for pictures")


def _name_targets(
    inputs: tuple[str, ...], sources: list[Path], output: str | None, view: View
) -> list[Path]:
    """Return where each source's picture goes; for a video, only where that goes."""
    from flowwarp.io.file_types import COLOR_EXTENSIONS

    extension = ".gif" if view.flicker else ".png"
    if output is None:
        return _paths.name_each(
            sources, lambda source: _paths.name_beside(source, view.name, extension)
        )
    kind = Path(output).suffix.lower()
    if _is_video(inputs, Path(output)) and not Path(output).is_dir():
        if not view.flicker and (view.image or view.error):
            raise click.UsageError("--image and --error make a picture: OUT cannot be a video")
        return [Path(output)]
    if _paths.wants_folder(inputs, output):
        _paths.check_folder_name(output, "many inputs need a folder or video, but OUT is")
        return _paths.name_outputs(sources, Path(output), extension)
    known = VIDEOS if view.flicker else VIDEOS | COLOR_EXTENSIONS
    if kind not in known:
        raise click.UsageError(f"OUT must end in {', '.join(sorted(known))}, got {output!r}")
    return [Path(output)]


def _is_video(inputs: tuple[str, ...], target: Path) -> bool:
    kind = target.suffix.lower()
    if kind == ".webp":  # of one flow a picture, as lossless as the others
        return _paths.wants_folder(inputs, "")
    return kind in VIDEOS


def write_picture(source: Path, target: Path, view: View) -> dict[str, Any]:
    """Write one flow as a picture."""
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
    # Where the flow is unknown there is nothing to judge: let it stand still.
    warped = torch.where(valid, warp(image2, flow), image1)
    _paths.make_folder(target.parent)
    write_video(target, flicker(image1, warped)[0], FLICKER_RATE)
    return {"input": str(source), "output": str(target)}


def write_sequence(
    sources: Sequence[Path], target: Path, view: View, rate: Fraction | None = None
) -> dict[str, Any]:
    """Write all flows as one video at one scale; reads each twice to know that scale."""
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
    """Return the motion that is to be shown in full colour where flows shall be comparable.

    Flows without any have no say in it; 1 px where none has any.
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
    """Draw one picture, (1, 3, H, W); everything given to it has the flow's size."""
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

    return min(max(robust_maximum(flow, valid=valid).item(), SLOWEST), FASTEST)


def _measure(flow: Tensor, truth: Tensor, valid: Tensor) -> dict[str, float | None]:
    """Measure the error, say it on stderr and return it; None if no pixel is known in both."""
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
