import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flowwarp.compat.onnx import _correlation, _warp, export_flownet
from flowwarp.errors import InputError, OutputError
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.io.images import read_image, write_image
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.ops.correlation import correlation
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow.estimate import estimate_both, load_flownet

HEIGHT, WIDTH = 45, 107
NOTES = {"licence": "CC-BY-SA", "data": "Footage by somebody"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a small network whose flow varies a lot and leads far outside the frame."""
    torch.manual_seed(0)
    net = FlowNet(dataclasses.replace(TINY, widths=(8, 16, 24), radius=2))
    with torch.no_grad():
        for layer in (net.decoder.first, net.decoder.second):
            layer.weight.mul_(60)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_weights(path, net, Card("flownet", dataclasses.asdict(net.config), 7, NOTES))
    return path


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    path = tmp_path_factory.mktemp("exported") / "flow.onnx"
    assert export_flownet(path, weights, height=HEIGHT, width=WIDTH) == path
    return path


@pytest.fixture(scope="module")
def frames():
    """Two pairs: one moves by 9 px, the frames of the other are unrelated."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 3, HEIGHT + 4, WIDTH + 13, generator=generator)
    texture = F.avg_pool2d(noise, 5, 1)
    moved, other = texture[:1, ..., :-9], texture[1:, ..., 9:]
    return torch.cat([moved, other[:1]]), torch.cat([texture[:1, ..., 9:], other[1:]])


@pytest.fixture(scope="module")
def session(exported):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def float32(monkeypatch):
    """Run networks in float32 on any machine, as the file does; bfloat16 gives another flow."""
    monkeypatch.setattr("flowwarp.precision.fast_dtype", lambda device: torch.float32)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("pair", [0, 1])
def test_onnxruntime_gives_the_same_flow(weights, session, frames, pair):
    image1, image2 = (frame[pair : pair + 1] for frame in frames)
    flows = session.run(None, {"image1": image1.numpy(), "image2": image2.numpy()})
    expected = estimate_both(load_flownet(weights), image1, image2, "fast")
    assert [output.name for output in session.get_outputs()] == ["flow_12", "flow_21"]
    for flow, truth in zip(flows, expected, strict=True):
        assert flow.dtype == np.float32
        assert truth.abs().max() > 9
        assert np.abs(flow - truth.numpy()).max() < 1e-3


def test_metadata(weights, exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes | NOTES == notes
    assert notes["model"] == "flownet"
    assert notes["step"] == "7"
    assert json.loads(notes["config"])["radius"] == 2
    assert notes["weights"] == "net.safetensors"
    assert notes["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "flow_12 from image1 to image2" in notes["convention"]
    assert str(Path(__file__).parents[2]).encode() not in exported.read_bytes()


def test_metadata_name_weights_of_the_package(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr("flowwarp.compat.onnx._export", lambda net, shape: onnx.ModelProto())
    monkeypatch.setattr("onnx.checker.check_model", lambda model, full_check: None)
    path = export_flownet(tmp_path / "flow.onnx", "small", height=HEIGHT, width=WIDTH)
    notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert notes["weights"] == "flownet_small.safetensors"
    assert notes["licence"].startswith("MIT")


def test_a_file_is_replaced_only_with_overwrite(weights, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "flow.onnx"
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"flow\.onnx: exists; overwrite=True replaces it"):
        export_flownet(path, weights, height=HEIGHT, width=WIDTH)
    model = onnx.ModelProto()
    shapes = []
    monkeypatch.setattr(
        "flowwarp.compat.onnx._export", lambda net, shape: shapes.append(shape) or model
    )
    with pytest.raises(onnx.checker.ValidationError):  # an empty model is not valid
        export_flownet(path, weights, height=HEIGHT, width=WIDTH, overwrite=True)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr("onnx.checker.check_model", lambda model, full_check: None)
    export_flownet(path, weights, height=HEIGHT, width=WIDTH, batch=2, overwrite=True)
    assert onnx.load(path).doc_string.startswith("Optical flow")
    assert shapes == [(1, 3, HEIGHT, WIDTH), (2, 3, HEIGHT, WIDTH)]


def test_wrong_arguments_are_errors(weights, tmp_path):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    size = {"height": HEIGHT, "width": WIDTH}
    with pytest.raises(InputError, match=r"nothing\.safetensors: no such file"):
        export_flownet(tmp_path / "flow.onnx", tmp_path / "nothing.safetensors", **size)
    with pytest.raises(OutputError, match=r"no such file or directory"):
        export_flownet(tmp_path / "missing" / "flow.onnx", weights, **size)
    for name in ("height", "width", "batch"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            export_flownet(tmp_path / "flow.onnx", weights, **{**size, name: 0})
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_exporter_is_one_line(weights, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")

    def fail(*args, **options):
        raise torch.onnx.errors.OnnxExporterError("no such\noperator" + 500 * "!")

    monkeypatch.setattr("torch.onnx.export", fail)
    monkeypatch.setattr("torch.export.export", lambda *args, **options: None)
    words = r"torch 2\S+: cannot export it \(no such operator!{50,184}\)$"
    with pytest.raises(InputError, match=words):
        export_flownet(tmp_path / "flow.onnx", weights, height=HEIGHT, width=WIDTH)
    assert not list(tmp_path.iterdir())


# Operators in torch's functions


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (13, 17)])
def test_warp_equals_the_operator(size):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, *size, generator=generator)
    flow = 9 * torch.randn(2, 2, *size, generator=generator)
    warped, _ = _warp(image, flow, "bilinear", "border", False)
    assert torch.allclose(warped, warp(image, flow), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (13, 17)])
@pytest.mark.parametrize(("radius", "dilation"), [(0, 1), (3, 1), (2, 3)])
def test_correlation_equals_the_operator(size, radius, dilation):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 5, *size, generator=generator)
    costs = _correlation(a, b, radius, dilation)
    assert torch.allclose(costs, correlation(a, b, radius, dilation), atol=1e-6)


# Examples of docs/onnx.md


@pytest.mark.usefixtures("float32")
def test_the_examples_of_the_documentation(weights, exported, frames, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    text = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text("utf-8")
    export, use = (part.split("```")[0] for part in text.split("```python\n")[1:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flowwarp.compat.onnx.export_flownet", create_autospec(export_flownet))
    exec(export, {})  # tests the signature only: an export takes long
    (tmp_path / "flow.onnx").write_bytes(exported.read_bytes())
    images = []
    for number, frame in enumerate(frames, 1):
        write_image(tmp_path / f"frame{number}.png", frame[0])
        images.append(read_image(tmp_path / f"frame{number}.png")[None])
    names = {}
    exec(use, names)
    expected = estimate_both(load_flownet(weights), *images, "fast")
    for name, flow in zip(("flow_12", "flow_21"), expected, strict=True):
        assert np.abs(names[name] - flow.numpy()).max() < 1e-3


# Without the extra


@pytest.mark.parametrize("library", ["onnx", "onnxscript"])
def test_a_missing_extra_is_named(weights, tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, "onnx", sys)  # is there
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"{library}: .*install the extra 'onnx'"):
        export_flownet(tmp_path / "flow.onnx", weights, height=HEIGHT, width=WIDTH)


def test_the_import_loads_no_extra():
    code = "import sys, flowwarp.compat.onnx; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"onnx", "onnxscript", "onnxruntime", "torch.onnx"} & set(done.stdout.split())
