"""Smoothness against values worked by hand."""

import math

import pytest
import torch

from flowwarp.losses.smoothness import constant_velocity, smoothness_first, smoothness_second

FLAT = torch.zeros(1, 3, 4, 5)
EPSILON = 1e-3  # what Charbonnier makes of 0


def ramp(slope):
    flow = torch.zeros(1, 2, 4, 5)
    flow[0, 0] = slope * torch.arange(5.0)
    return flow


def test_first_order_penalises_slope():
    # Along x one of two channels changes by 0.5; halves for the two directions.
    expected = ((0.5 + EPSILON) / 2 + EPSILON) / 2
    assert smoothness_first(ramp(0.5), FLAT).item() == pytest.approx(expected, abs=1e-5)


def test_second_order_is_free_on_a_ramp():
    assert smoothness_second(ramp(0.5), FLAT).item() == pytest.approx(EPSILON, abs=1e-5)


def test_an_edge_frees_the_flow():
    flow = torch.zeros(1, 2, 4, 5)
    flow[..., 2:] = 1.0
    image = torch.zeros(1, 3, 4, 5)
    image[..., 2:] = 0.1
    weight = math.exp(-150 * 0.01)
    # One of four differences along x is 1, the others are 0.
    flat = ((1 + 3 * EPSILON) / 4 + EPSILON) / 2
    edged = ((weight + 3 * EPSILON) / 4 + EPSILON) / 2
    assert smoothness_first(flow, FLAT).item() == pytest.approx(flat, abs=1e-5)
    assert smoothness_first(flow, image).item() == pytest.approx(edged, abs=1e-5)


def test_second_order_penalises_curvature():
    flow = torch.zeros(1, 2, 4, 5)
    flow[0, 0] = torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0])  # bends by 1, 0 and -1 along x
    flat = ((2 + 4 * EPSILON) / 6 + EPSILON) / 2
    assert smoothness_second(flow, FLAT).item() == pytest.approx(flat, abs=1e-5)
    # The same along y.
    turned, still = flow.transpose(2, 3), FLAT.transpose(2, 3)
    assert smoothness_second(turned, still).item() == pytest.approx(flat, abs=1e-5)
    # An edge lies within the first three pixels of a row and within the next, not in the last.
    image = torch.zeros(1, 3, 4, 5)
    image[..., 2:] = 0.1
    weight = math.exp(-150 * 0.01)
    edged = ((weight + 1 + 3 * weight * EPSILON + EPSILON) / 6 + EPSILON) / 2
    assert smoothness_second(flow, image).item() == pytest.approx(edged, abs=1e-5)


@pytest.mark.parametrize("term", [smoothness_first, smoothness_second])
def test_terms_are_per_example(term):
    generator = torch.Generator().manual_seed(0)
    flow = torch.randn(3, 2, 6, 7, generator=generator)
    image = torch.rand(3, 3, 6, 7, generator=generator)
    together = term(flow, image)
    alone = torch.cat([term(flow[i : i + 1], image[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize("term", [smoothness_first, smoothness_second])
def test_tiny_fields_cost_nothing(term):
    assert term(torch.ones(2, 2, 1, 1), torch.ones(2, 3, 1, 1)).tolist() == [0, 0]
    assert term(torch.ones(2, 2, 2, 2), torch.ones(2, 3, 2, 2)).isfinite().all()


def test_velocity_is_compared_inside_the_mask_of_each_example():
    there, back = torch.zeros(3, 2, 2, 2), torch.zeros(3, 2, 2, 2)
    there[:, 0], back[:, 0] = 5.0, -3.0  # 2 px faster than before
    there[..., 1] = 99.0
    mask = torch.zeros(3, 1, 2, 2, dtype=torch.bool)
    mask[0, ..., 0] = True
    mask[1] = True
    got = constant_velocity(there, back, mask)
    steady = math.sqrt(0 + 1e-4)
    assert got[0].item() == pytest.approx((math.sqrt(4 + 1e-4) + steady) / 2)
    assert got[1].item() > 40
    assert got[2].item() == 0


def test_masked_velocity_has_no_gradient_even_if_infinite():
    onward, back = torch.zeros(1, 2, 3, 4, requires_grad=True), torch.zeros(1, 2, 3, 4)
    back[..., 0] = torch.inf
    mask = back[:, :1].isfinite()
    constant_velocity(onward, back + 1, mask).sum().backward()
    assert onward.grad.isfinite().all()
    assert not onward.grad[..., 0].any()
    assert onward.grad[..., 1:].all()


def test_mismatched_shapes_are_refused():
    flow, other = torch.zeros(2, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    for term in (smoothness_first, smoothness_second):
        with pytest.raises(ValueError, match="image must have batch"):
            term(flow, torch.zeros(1, 3, 8, 8))  # whose edges would be those of both
        with pytest.raises(ValueError, match="flow must be"):
            term(flow[:, :1], torch.zeros(2, 3, 8, 8))
        with pytest.raises(TypeError, match=r"image must be .* got torch\.uint8"):
            term(flow, torch.zeros(2, 3, 8, 8).byte())
        with pytest.raises(TypeError, match=r"image must be .* got ndarray"):
            term(flow, torch.zeros(2, 3, 8, 8).numpy())
    with pytest.raises(ValueError, match="flow_previous must have batch"):
        constant_velocity(flow, other, torch.ones(2, 1, 8, 8) > 0)
    with pytest.raises(TypeError, match=r"flow_next must be .* got torch\.uint8"):
        constant_velocity(torch.ones(2, 1, 8, 8).byte(), flow, torch.ones(2, 1, 8, 8) > 0)
    with pytest.raises(ValueError, match="flow_next must be"):
        constant_velocity(flow[:, :1], flow, torch.ones(2, 1, 8, 8) > 0)
