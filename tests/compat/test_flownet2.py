"""A script written for NVIDIA/flownet2-pytorch runs after changing its imports."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from flowwarp.compat.flownet2 import (
    Resample2d,
    flow2img,
    readFlow,
    visualize_flow_file,
    visulize_flow_file,
    writeFlow,
)
from flowwarp.errors import InputError
from flowwarp.io.images import read_image


def resample_by_the_kernel(image, flow, bilinear):
    """What resample2d_kernel.cu computes, pixel by pixel, in Python's floats."""
    channels, height, width = image.shape
    out = np.zeros((channels, height, width))

    def clamp(i, size):
        return max(min(int(i), size - 1), 0)

    for y in range(height):
        for x in range(width):
            xf, yf = x + flow[0, y, x], y + flow[1, y, x]
            if not bilinear:
                near = clamp(np.floor(yf + 0.5), height), clamp(np.floor(xf + 0.5), width)
                out[:, y, x] = image[:, near[0], near[1]]
                continue
            a, b = xf - np.floor(xf), yf - np.floor(yf)
            for row, row_weight in ((0, 1 - b), (1, b)):
                for column, column_weight in ((0, 1 - a), (1, a)):
                    i = clamp(np.floor(yf) + row, height)
                    j = clamp(np.floor(xf) + column, width)
                    out[:, y, x] += row_weight * column_weight * image[:, i, j]
    return out


@pytest.mark.parametrize("bilinear", [True, False])
def test_resample2d_computes_what_the_cuda_kernel_does(bilinear):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 7, 9, generator=generator)
    flow = 4 * torch.randn(2, 2, 7, 9, generator=generator)  # many end outside
    result = Resample2d(bilinear=bilinear)(image, flow)
    for example in range(2):
        expected = resample_by_the_kernel(image[example].numpy(), flow[example].numpy(), bilinear)
        np.testing.assert_allclose(result[example].numpy(), expected, atol=2e-6)


def test_resample2d_takes_the_right_one_of_two_nearest():
    image, flow = torch.arange(4.0).view(1, 1, 1, 4), torch.zeros(1, 2, 1, 4)
    flow[0, 0, 0] = torch.tensor([0.5, -0.5, 1.49, -2.5])  # 0.5, 0.5, 3.49, 0.5
    assert Resample2d(bilinear=False)(image, flow).flatten().tolist() == [1, 1, 3, 1]


def test_resample2d_moves_one_pixel():
    image = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 2, 4)
    flow = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 4)
    assert Resample2d()(image, flow)[0, 0].tolist() == [[1, 2, 3, 3]] * 2


def test_resample2d_trains():
    image = torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    flow = torch.full((1, 2, 4, 5), 0.3, dtype=torch.float64, requires_grad=True)
    layer = Resample2d()
    assert not list(layer.parameters())
    assert not layer.state_dict()  # a checkpoint of theirs holds nothing for it either
    layer(image, flow).sum().backward()
    assert image.grad.sum().item() == pytest.approx(40)
    assert flow.grad.abs().sum() > 0


def test_larger_kernels_of_resample2d_are_errors():
    with pytest.raises(ValueError, match="kernel_size must be 1, got 3"):
        Resample2d(kernel_size=3)


def test_files_are_written_and_read(tmp_path):
    uv = np.random.default_rng(0).normal(size=(5, 7, 2))
    writeFlow(str(tmp_path / "a.flo"), uv)
    writeFlow(tmp_path / "b.flo", uv[..., 0], uv[..., 1])
    assert (tmp_path / "a.flo").read_bytes() == (tmp_path / "b.flo").read_bytes()
    back = readFlow(str(tmp_path / "a.flo"))
    assert back.dtype == np.float32
    assert back.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(back, uv.astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_with_gradients_can_be_written(tmp_path, dtype):
    uv = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=dtype, requires_grad=True)
    writeFlow(tmp_path / "a.flo", uv)
    writeFlow(tmp_path / "b.flo", uv[..., 0], uv[..., 1])
    for name in ("a.flo", "b.flo"):
        assert readFlow(tmp_path / name).tolist() == uv.tolist()
    assert np.array_equal(flow2img(uv), flow2img(uv.tolist()))


def test_the_bytes_are_those_of_a_flo_file(tmp_path):
    writeFlow(tmp_path / "a.flo", [[[1, 2], [3, 4]]])
    expected = b"PIEH" + np.array([2, 1], "<i4").tobytes() + np.array([1, 2, 3, 4], "<f4").tobytes()
    assert (tmp_path / "a.flo").read_bytes() == expected


def test_unknown_pixels_stay_above_the_usual_thresholds(tmp_path):
    uv = np.ones((2, 3, 2), np.float32)
    uv[0, 0], uv[1, 2, 1] = 1.5e9, np.nan
    writeFlow(tmp_path / "a.flo", uv)
    back = readFlow(tmp_path / "a.flo")
    assert (np.abs(back) > 1e9).all(-1).tolist() == [[True, False, False], [False, False, True]]


@pytest.mark.parametrize("uv", [np.zeros((4, 5)), np.zeros((2, 4, 5)), np.zeros((1, 4, 5, 2))])
def test_wrong_shapes_are_errors(tmp_path, uv):
    with pytest.raises(ValueError, match=r"must be \(H, W, 2\)"):
        writeFlow(tmp_path / "a.flo", uv)
    with pytest.raises(ValueError, match=r"must be \(H, W, 2\)"):
        flow2img(uv)


def test_a_file_that_is_no_flow_raises(tmp_path):
    (tmp_path / "a.flo").write_bytes(b"not a flow file at all")
    with pytest.raises(InputError, match="magic"):
        readFlow(tmp_path / "a.flo")


def test_flow2img_is_saturated_at_the_largest_magnitude():
    flow = np.zeros((1, 5, 2), np.float32)
    flow[0, 1], flow[0, 2], flow[0, 3], flow[0, 4] = (8, 0), (-8, 0), (4, 0), (1.1e7, 0)
    before = flow.copy()
    picture = flow2img(flow)
    assert picture.dtype == np.uint8
    white, red, cyan, pink, black = (
        (255,) * 3,
        (255, 0, 0),
        (0, 209, 255),
        (255, 127, 127),
        (0,) * 3,
    )
    assert [tuple(p) for p in picture[0].tolist()] == [white, red, cyan, pink, black]
    np.testing.assert_array_equal(flow, before)


@pytest.mark.parametrize(("value", "level"), [(0, 255), (np.nan, 0), (1e10, 0)])
def test_flow2img_of_nothing(value, level):
    assert (flow2img(np.full((2, 3, 2), value)) == level).all()


def test_visualize_writes_an_image_with_the_original_name(tmp_path):
    assert visulize_flow_file is visualize_flow_file
    writeFlow(tmp_path / "000001.flo", np.random.default_rng(0).normal(size=(4, 6, 2)))
    picture = visulize_flow_file(str(tmp_path / "000001.flo"), str(tmp_path))
    written = read_image(tmp_path / "000001-vis.png")
    assert torch.equal((255 * written).round().byte().permute(1, 2, 0), torch.from_numpy(picture))
    (tmp_path / "000001-vis.png").unlink()
    np.testing.assert_array_equal(visualize_flow_file(tmp_path / "000001.flo"), picture)
    assert not (tmp_path / "000001-vis.png").exists()


SCRIPT = """
import sys
from os.path import join

import numpy as np
import torch
import torch.nn as nn

# from networks.resample2d_package.resample2d import Resample2d
# from utils import flow_utils
from flowwarp.compat.flownet2 import Resample2d
from flowwarp.compat import flownet2 as flow_utils


class Refine(nn.Module):
    def __init__(self):
        super(Refine, self).__init__()
        self.resample1 = Resample2d()

    def forward(self, x, flow):
        resampled = self.resample1(x[:, 3:, :, :], flow)
        return x[:, :3, :, :] - resampled


flow_folder = sys.argv[1]
frame2 = torch.rand(1, 3, 16, 24)
flow = torch.zeros(1, 2, 16, 24)
flow[:, 0] = 2
frame1 = torch.cat((frame2[..., 2:], frame2[..., -1:], frame2[..., -1:]), 3)
diff = Refine()(torch.cat((frame1, frame2), dim=1), flow)
assert diff.abs().max() == 0, diff.abs().max()

_pflow = flow[0].data.cpu().numpy().transpose(1, 2, 0)
flow_utils.writeFlow(join(flow_folder, '%06d.flo' % 0), _pflow)
assert np.array_equal(flow_utils.readFlow(join(flow_folder, '000000.flo')), _pflow)
flow_utils.visulize_flow_file(join(flow_folder, '%06d.flo' % 0), flow_folder)
assert 'matplotlib' not in sys.modules
"""


def test_an_old_script_runs_end_to_end(tmp_path):
    script = tmp_path / "old_script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    picture = read_image(tmp_path / "000000-vis.png")
    assert (picture.mean((1, 2)) == torch.tensor([1, 0, 0])).all()  # red: to the right
