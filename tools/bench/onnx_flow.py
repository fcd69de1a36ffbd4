"""Measure the flow network as an ONNX file: onnxruntime on it beside torch on the network itself.

Usage: python tools/bench/onnx_flow.py --no-memory [--threads 2] [--rounds 5] [--only NAME]

On the two frames of the sample, at their own size and at half of it, in float32 both; torch is
what ``estimate_both`` does in quality *fast*. How long the export took and how large the file is
are given too. It needs the extra ``onnx``, and onnxruntime.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _measure
import onnxruntime
import torch
from torch import Tensor

from flowwarp.bundled import bundled
from flowwarp.compat.onnx import OUTPUTS, export_flownet
from flowwarp.io.images import read_image
from flowwarp.pipelines.flow.estimate import load_flownet, run_network


def scene(half: bool) -> list[Tensor]:
    """Return two real frames."""
    sample = bundled("datasets") / "sample"
    frames = [read_image(sample / f"frame{number}.png")[None] for number in (1, 2)]
    return [torch.nn.functional.avg_pool2d(frame, 2) for frame in frames] if half else frames


def case(name: str, weights: str, *, half: bool) -> _measure.Case:
    frames = scene(half)
    details: dict[str, Any] = {"shape": list(frames[0].shape), "weights": weights}

    def make() -> Mapping[str, _measure.Call]:
        net = load_flownet(weights)
        inputs = {f"image{number}": frame.numpy() for number, frame in enumerate(frames, 1)}
        height, width = frames[0].shape[-2:]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            path = export_flownet(Path(folder, "f.onnx"), weights, height=height, width=width)
            details["export_s"] = round(time.perf_counter() - start, 1)
            details["file_mb"] = round(path.stat().st_size / 1e6, 1)
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )

        def by_torch() -> list[Tensor]:
            with torch.no_grad():
                return list(run_network(net, *frames))

        return {
            "onnxruntime": lambda: [torch.from_numpy(f) for f in session.run(OUTPUTS, inputs)],
            "torch": by_torch,
        }

    def agree(results: Mapping[str, Any]) -> float:
        pairs = zip(*results.values(), strict=True)
        return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)

    return _measure.Case(name, make, details, agree, "flow differs by {:.1e} px at most")


CASES = [
    case("base", "base", half=False),
    case("base, half the size", "base", half=True),
    case("small", "small", half=False),
]

if __name__ == "__main__":
    _measure.main(CASES, (__doc__ or "").splitlines()[0])
