"""The flow network as an ONNX file, which runs without torch and without flowwarp.

It needs the extra ``onnx`` (onnx and onnxscript), and torch's exporter by ``torch.export``, which
every torch that flowwarp supports has; it was tried with 2.13. ONNX knows none of our operators, so
they are spelt in torch's own, of which the exporter knows what they are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flowwarp.errors import InputError, OutputError, missing_extra
from flowwarp.io.atomic import atomic_output
from flowwarp.io.checkpoints import load_weights
from flowwarp.io.files import open_input
from flowwarp.io.shipped import find_weights
from flowwarp.models.flownet import FlowNet
from flowwarp.pipelines.flow.estimate import infer, load_flownet
from flowwarp.tensors import check_whole

INPUTS, OUTPUTS = ("image1", "image2"), ("flow_12", "flow_21")
CONVENTION = (
    "Optical flow of two frames. Images are RGB in [0, 1]; flow is in pixels, channel 0 to the"
    " right, channel 1 down: flow_12 from image1 to image2, flow_21 back."
)
_SHOWN = 200  # characters of the exporter's message


def export_flownet(
    path: str | Path,
    weights: str | Path = "base",
    *,
    height: int,
    width: int,
    batch: int = 1,
    overwrite: bool = False,
) -> Path:
    """Write a flow network as an ONNX file for frames of one size.

    The file does what :func:`flowwarp.estimate_both` does in quality ``"fast"``, enlarging frames
    included, in float32: from ``image1`` and ``image2``, (batch, 3, height, width) float32 RGB in
    [0, 1], to ``flow_12`` and ``flow_21``, (batch, 2, height, width) float32 in pixels. What the
    card of the weights says, their SHA-256 and this convention are among the file's metadata.

    Args:
        path: the ``.onnx`` file; it appears whole, or not at all.
        weights: as for :func:`flowwarp.load_flownet`.
        height: of the frames; any.
        width: likewise.
        batch: how many pairs it takes at once.
        overwrite: replace what is there.

    Returns:
        ``path``.

    Raises:
        InputError: the extra ``onnx`` is missing, the weights cannot be read, or torch's exporter
            says that something is not in ONNX.
        OutputError: the file exists and ``overwrite`` is off, or it cannot be written.
        ValueError: a size is not a whole number of at least 1.
    """
    for value, name in ((height, "height"), (width, "width"), (batch, "batch")):
        check_whole(value, name, 1)
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as fault:
        raise missing_extra(fault.name or "onnx", "onnx") from fault
    if os.path.lexists(path) and not overwrite:
        raise OutputError(path, "exists", "overwrite=True replaces it")
    notes = _notes(weights)
    net = load_flownet(weights)
    with atomic_output(path) as temporary:  # now, so that a folder at fault is known at once
        model = _translate(net, (batch, 3, height, width))
        _forget_where(model)
        model.doc_string = CONVENTION
        onnx.helper.set_model_props(model, notes)
        onnx.checker.check_model(model, full_check=True)
        temporary.write_bytes(model.SerializeToString())
    return Path(path)


def _notes(weights: str | Path) -> dict[str, str]:
    """Return what the card of weights says, and which file they were."""
    source = find_weights(weights, "flownet")
    _, card = load_weights(source, "flownet")
    with open_input(source) as (file, _):
        digest = hashlib.sha256(file.read()).hexdigest()
    notes = dict(card.notes) | {"model": card.model, "config": json.dumps(card.config)}
    if card.step is not None:
        notes["step"] = str(card.step)
    return notes | {
        "convention": CONVENTION,
        "weights": Path(source).name,
        "weights_sha256": digest,
    }


def _translate(net: FlowNet, shape: tuple[int, ...]) -> Any:
    """Return a network as an ``onnx.ModelProto`` for images of one shape.

    Raises:
        InputError: the exporter fails.
    """
    images = torch.zeros(shape), torch.zeros(shape)
    with warnings.catch_warnings(), torch.no_grad():
        # Of the exporter about itself.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        try:
            with _InOthersWords():
                program = torch.export.export(_Fast(net), images, strict=False)
            exported = torch.onnx.export(
                program, input_names=INPUTS, output_names=OUTPUTS, dynamo=True, verbose=False
            )
        except torch.onnx.errors.OnnxExporterError as fault:
            problem = " ".join(str(fault).split())[:_SHOWN]
            raise InputError(
                f"torch {torch.__version__}", f"cannot export it ({problem})"
            ) from fault
    assert exported is not None
    return exported.model_proto


def _forget_where(model: Any) -> None:
    """Take off what the exporter notes of each line of code: paths of this machine, in the main."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    for value in graph.value_info:
        del value.metadata_props[:]


@final
class _Fast(nn.Module):
    """Flow of both directions of frames as they come, as quality ``"fast"`` finds it."""

    def __init__(self, net: FlowNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image1: Tensor, image2: Tensor) -> tuple[Tensor, Tensor]:
        return infer(self.net, image1, image2)


# ------------------------------------------------------------------ our operators in torch's words


@final
class _InOthersWords(TorchFunctionMode):
    """Put what ONNX knows in place of our operators.

    Where they have no kernels, as without a compiler, the network calls their references instead.
    Those can be exported, too: a file of several times the nodes.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.flowwarp.warp:
            return _warp(*args)
        if func is torch.ops.flowwarp.correlation:
            return _correlation(*args)
        return func(*args, **(kwargs or {}))


def _warp(
    image: Tensor, flow: Tensor, sampling: str, padding: str, mask: bool
) -> tuple[Tensor, Tensor]:
    """Warp by ``grid_sample``, where position -1 is the first pixel's centre, 1 the last one's."""
    steps = [2 / max(side - 1, 1) for side in image.shape[-2:]]
    y, x = (torch.arange(side, dtype=flow.dtype) for side in image.shape[-2:])
    columns = (flow[:, 0] + x) * steps[1] - 1
    rows = (flow[:, 1] + y[:, None]) * steps[0] - 1
    grid = torch.stack([columns, rows], -1)
    assert not mask
    return F.grid_sample(image, grid, sampling, padding, align_corners=True), image.new_empty(0)


def _correlation(a: Tensor, b: Tensor, radius: int, dilation: int) -> Tensor:
    """Correlate in few operations: a column of displacements at once."""
    batch, channels, height, width = a.shape
    reach, side = radius * dilation, 2 * radius + 1
    padded = F.pad(b, 4 * [reach])
    # The rows that each displacement reads, one after the other.
    rows = dilation * torch.arange(side)[:, None] + torch.arange(height)
    own, planes = a[:, :, None], []
    for dx in range(0, 2 * reach + 1, dilation):
        seen = padded.narrow(3, dx, width).index_select(2, rows.flatten())
        planes.append((own * seen.view(batch, channels, side, height, width)).mean(1))
    return torch.stack(planes, 2).flatten(1, 2)
