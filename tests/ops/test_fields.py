"""Flow fields as maps."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from flowwarp.ops.fields import compose, coordinate_grid, invert, resize_flow
from flowwarp.ops.warping import warp


def smooth_flow(height=60, width=80, scale=3.0, seed=0):
    coarse = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(seed)) * scale
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)


def test_coordinate_grid_is_x_then_y():
    grid = coordinate_grid(2, 3, dtype=torch.float64)
    assert grid.dtype == torch.float64
    assert grid[0, 0].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert grid[0, 1].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_compose_adds_constant_flows():
    first, second = torch.full((1, 2, 5, 6), 1.5), torch.full((1, 2, 5, 6), -0.25)
    assert torch.equal(compose(first, second), torch.full((1, 2, 5, 6), 1.25))


def test_compose_with_zero_is_identity():
    flow = smooth_flow()
    zero = torch.zeros_like(flow)
    assert torch.equal(compose(flow, zero), flow)
    assert torch.equal(compose(zero, flow), flow)


def test_warping_by_the_composition_is_warping_twice():
    ramp = coordinate_grid(60, 80)  # bilinear interpolation of a ramp is exact
    first, second = smooth_flow(seed=1), smooth_flow(seed=2)
    twice = warp(warp(ramp, second), first)
    once = warp(ramp, compose(first, second))
    assert (twice - once)[..., 12:-12, 12:-12].abs().max() < 1e-4


def test_compose_names_its_arguments():
    with pytest.raises(ValueError, match="flow_23 must have batch"):
        compose(torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 4, 6))


def test_invert_of_a_shift_is_the_shift_back():
    flow = torch.tensor([3.25, -2.5]).view(1, 2, 1, 1).expand(1, 2, 20, 30)
    inverse, visible = invert(flow, mask=True)
    assert torch.allclose(inverse, -flow)
    assert not visible[0, 0, :, :3].any()  # nothing moves to the left edge
    assert visible[0, 0, :-3, 4:].all()


def test_there_and_back_ends_where_it_began():
    flow = smooth_flow()
    error = compose(flow, invert(flow)).norm(dim=1)[..., 10:-10, 10:-10]
    assert error.mean() < 0.02
    assert compose(flow, invert(flow, iterations=0)).norm(dim=1).mean() > 2 * error.mean()


def test_invert_survives_unknown_flow_and_no_coverage():
    flow = smooth_flow()
    flow[..., 10:20, 10:20] = torch.nan
    assert invert(flow).isfinite().all()
    half = smooth_flow()
    half[:, 0, 10:20, 10:20] = torch.nan  # what is left of it is not known either
    torch.testing.assert_close(invert(half), invert(flow))
    away, visible = invert(torch.full((1, 2, 6, 7), 100.0), mask=True)
    assert away.isfinite().all()
    assert not visible.any()
    assert invert(torch.full((1, 2, 1, 1), 9.0)).isfinite().all()


def test_invert_is_compiled_mapped_and_traced():
    flows = torch.cat([smooth_flow(20, 30), torch.zeros(1, 2, 20, 30)])  # the other has no holes
    eager = invert(flows)
    compiled = torch.compile(invert, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(flows), eager, atol=1e-5)
    assert torch.allclose(torch.vmap(invert)(flows[:, None])[:, 0], eager, atol=1e-5)
    with FakeTensorMode():
        assert invert(torch.zeros(1, 2, 20, 30)).shape == (1, 2, 20, 30)


def test_resize_scales_values():
    flow = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 12, 20)
    resized = resize_flow(flow, (6, 80))
    assert resized.shape == (1, 2, 6, 80)
    assert torch.allclose(resized[0, 0], torch.tensor(12.0))
    assert torch.allclose(resized[0, 1], torch.tensor(-1.0))


def test_resize_keeps_the_geometry_of_image_resizing():
    # Zooming about the centre stays so at any size.
    grid = coordinate_grid(40, 60) - torch.tensor([29.5, 19.5]).view(1, 2, 1, 1)
    small = coordinate_grid(20, 30) - torch.tensor([14.5, 9.5]).view(1, 2, 1, 1)
    resized = resize_flow(0.1 * grid, (20, 30))
    assert torch.allclose(resized[..., 1:-1, 1:-1], (0.1 * small)[..., 1:-1, 1:-1], atol=1e-5)


def test_smaller_flow_is_averaged():
    """Not read at some of its pixels: of stripes nothing is left."""
    stripes = torch.tensor([-1.0, 1, 1, -1]).repeat(15).expand(1, 2, 60, 60)
    for flow in (stripes, stripes.mT):
        assert resize_flow(flow, (15, 15))[..., 1:-1, 1:-1].abs().max() < 1e-6


@pytest.mark.parametrize("size", [(20, 30), (80, 120), (30, 70)])
def test_resize_is_of_what_is_known(size):
    """A fifth of the pixels is known, as of KITTI's, and nothing of the upper left."""
    flow = torch.tensor([-8.0, 3.0]).view(1, 2, 1, 1).repeat(1, 1, 40, 60)
    unknown = torch.rand(1, 1, 40, 60, generator=torch.Generator().manual_seed(0)) > 0.2
    unknown[..., :20, :30] = True
    sparse = flow.masked_fill(unknown, math.nan).requires_grad_()
    resized = resize_flow(sparse, size)
    known = resized[0, 0].isfinite()
    u, v = -8 * size[1] / 60, 3 * size[0] / 40
    assert torch.allclose(resized[0, 0][known], torch.tensor(u))
    assert torch.allclose(resized[0, 1][known], torch.tensor(v))
    assert not known[: size[0] // 2 - 1, : size[1] // 2 - 1].any()
    assert known[size[0] // 2 :].float().mean() > 0.5
    resized.nan_to_num(0).sum().backward()
    assert sparse.grad.isfinite().all()
    assert torch.equal((sparse.grad != 0).any(1, keepdim=True), ~unknown)


def test_resize_to_the_same_size_changes_nothing():
    flow = smooth_flow()
    assert torch.equal(resize_flow(flow, (60, 80)), flow)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_resize_of_other_types(dtype):
    flow = smooth_flow().to(dtype)
    wanted = resize_flow(flow.double(), (30, 50)).to(dtype)
    got = resize_flow(flow, (30, 50))
    assert got.dtype == dtype
    assert torch.allclose(got.double(), wanted.double(), rtol=8e-3, atol=1e-6)


def test_numbers_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="iterations must be a whole number"):
        invert(smooth_flow(), iterations=-1)
    for sides in ((-1, 2), (2, -1), (2.5, 2)):
        with pytest.raises(ValueError, match="must be a whole number of at least 0"):
            coordinate_grid(*sides)


def test_resize_refuses_no_size():
    with pytest.raises(ValueError, match="flow must have pixels"):
        resize_flow(torch.zeros(1, 2, 0, 5), (4, 5))
    for size in (8, (8,), (8, 8, 8), (0, 5), (8.5, 8)):
        with pytest.raises(ValueError, match=r"size must be \(height, width\), whole numbers of"):
            resize_flow(torch.zeros(1, 2, 4, 5), size)
