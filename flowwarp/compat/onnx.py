"""Export of the flow network to an ONNX file, which runs without torch and flowwarp.

It needs the extra ``onnx`` (onnx and onnxscript) and torch's exporter based on ``torch.export``;
tested with torch 2.13. ONNX does not have flowwarp's operators, so they are replaced by torch
functions that the exporter can translate.
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
from flowwarp.pipelines.flow.estimate import load_flownet, run_network
from flowwarp.tensors import check_whole

INPUTS, OUTPUTS = ("image1", "image2"), ("flow_12", "flow_21")
CONVENTION = (
    "Optical flow of two frames. Images are RGB in [0, 1]; flow is in pixels, channel 0 to the"
    " right, channel 1 down: flow_12 from image1 to image2, flow_21 back."
)
_MAX_MESSAGE = 200  # characters of the exporter's message that are printed


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

    The file computes :func:`flowwarp.estimate_both` in quality ``"fast"``, in float32. Its inputs
    are ``image1`` and ``image2``, (batch, 3, height, width) float32 RGB in [0, 1]; its outputs are
    ``flow_12`` and ``flow_21``, (batch, 2, height, width) float32 in pixels. The metadata hold the
    card of the weights, their SHA-256 and this convention.

    Args:
        path: the ``.onnx`` file to write, atomically.
        weights: as for :func:`flowwarp.load_flownet`.
        height: of the frames in pixels; any.
        width: of the frames in pixels; any.
        batch: number of frame pairs.
        overwrite: replace an existing file.

    Returns:
        ``path``.

    Raises:
        InputError: the extra ``onnx`` is missing, the weights cannot be read, or torch's exporter
            fails.
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
    metadata = _metadata(weights)
    net = load_flownet(weights)
    with atomic_output(path) as temporary:  # before the export, which takes long: may raise
        model = _export(net, (batch, 3, height, width))
        _remove_paths(model)
        model.doc_string = CONVENTION
        onnx.helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        temporary.write_bytes(model.SerializeToString())
    return Path(path)


def _metadata(weights: str | Path) -> dict[str, str]:
    """Return the card of the weights, and the name and SHA-256 of their file."""
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


def _export(net: FlowNet, shape: tuple[int, ...]) -> Any:
    """Return a network as an ``onnx.ModelProto`` for images of a shape (B, 3, H, W).

    Raises:
        InputError: the exporter fails.
    """
    images = torch.zeros(shape), torch.zeros(shape)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter uses a deprecated function of torch.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        try:
            with _TorchOperators():
                program = torch.export.export(_FastFlow(net), images, strict=False)
            exported = torch.onnx.export(
                program, input_names=INPUTS, output_names=OUTPUTS, dynamo=True, verbose=False
            )
        except torch.onnx.errors.OnnxExporterError as fault:
            problem = " ".join(str(fault).split())[:_MAX_MESSAGE]
            raise InputError(
                f"torch {torch.__version__}", f"cannot export it ({problem})"
            ) from fault
    assert exported is not None
    return exported.model_proto


def _remove_paths(model: Any) -> None:
    """Remove the metadata of nodes, in which the exporter stores paths of this machine."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    for value in graph.value_info:
        del value.metadata_props[:]


@final
class _FastFlow(nn.Module):
    """Flow in both directions, as in quality ``"fast"``."""

    def __init__(self, net: FlowNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image1: Tensor, image2: Tensor) -> tuple[Tensor, Tensor]:
        """Return two flow fields (B, 2, H, W) of two images (B, 3, H, W)."""
        return run_network(self.net, image1, image2)


# ------------------------------------------------------------------ operators in torch's functions


@final
class _TorchOperators(TorchFunctionMode):
    """Context in which flowwarp's operators are computed by functions that ONNX has.

    Where the operators have no kernels (no compiler), the network calls their references instead.
    These can be exported, too, but give several times as many nodes.
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
    """Warp an image (B, C, H, W) by flow (B, 2, H, W) with ``grid_sample``."""
    # With align_corners, -1 and 1 are the centres of the first and the last pixel.
    steps = [2 / max(side - 1, 1) for side in image.shape[-2:]]
    y, x = (torch.arange(side, dtype=flow.dtype) for side in image.shape[-2:])
    columns = (flow[:, 0] + x) * steps[1] - 1
    rows = (flow[:, 1] + y[:, None]) * steps[0] - 1
    grid = torch.stack([columns, rows], -1)  # (B, H, W, 2)
    assert not mask  # the network does not use it
    return F.grid_sample(image, grid, sampling, padding, align_corners=True), image.new_empty(0)


def _correlation(a: Tensor, b: Tensor, radius: int, dilation: int) -> Tensor:
    """Return the local correlation of a and b, (B, C, H, W) to (B, (2 radius + 1)^2, H, W).

    All displacements with the same dx are computed at once, which keeps the number of nodes low.
    """
    batch, channels, height, width = a.shape
    reach, side = radius * dilation, 2 * radius + 1
    padded = F.pad(b, 4 * [reach])
    # Row indices of b for each dy, (side, H).
    rows = dilation * torch.arange(side)[:, None] + torch.arange(height)
    a, costs = a[:, :, None], []  # a: (B, C, 1, H, W)
    for dx in range(0, 2 * reach + 1, dilation):
        shifted = padded.narrow(3, dx, width).index_select(2, rows.flatten())
        shifted = shifted.view(batch, channels, side, height, width)
        costs.append((a * shifted).mean(1))  # (B, side, H, W)
    return torch.stack(costs, 2).flatten(1, 2)  # dy first, then dx
