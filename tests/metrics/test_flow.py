"""Flow metrics: values worked by hand."""

import math

import pytest
import torch

from flowwarp.metrics.flow import angular_error, endpoint_error, epe, fl_all

METRICS = [epe, fl_all, angular_error]


def field(*vectors):
    """One row of pixels, (1, 2, 1, W)."""
    return torch.tensor(vectors, dtype=torch.float64).T.view(1, 2, 1, -1)


def mask(*values):
    return torch.tensor(values, dtype=torch.bool).view(1, 1, 1, -1)


def test_endpoint_error_is_the_distance():
    error = endpoint_error(field((1, 2), (0, 0), (-3, 0)), field((4, 6), (0, 0), (3, 0)))
    assert error.shape == (1, 1, 1, 3)
    assert error.flatten().tolist() == [5, 0, 6]


def test_epe_is_a_mean_over_valid_pixels():
    flow, target = field((3, 4), (0, 0), (0, 1)), field((0, 0), (0, 0), (0, 0))
    assert epe(flow, target).tolist() == [2]
    assert epe(flow, target, valid=mask(1, 0, 1)).tolist() == [3]


def test_fl_all_needs_both_thresholds():
    target = field((0, 0), (0, 0), (100, 0), (100, 0), (0, 60))
    # off by 3 (not more), 3.1, 4 of 100 (4 %), 5.1 of 100, exactly 5 % of 60
    flow = field((3, 0), (3.1, 0), (104, 0), (100, 5.1), (0, 63))
    assert fl_all(flow, target).tolist() == [pytest.approx(40)]
    assert fl_all(flow, target, valid=mask(1, 1, 1, 0, 0)).item() == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("estimate", "truth", "degrees"),
    [
        ((0, 0), (0, 0), 0),
        ((0, 0), (1, 0), 45),
        ((0, 0), (0, math.sqrt(3)), 60),
        ((1, 0), (-1, 0), 90),
        ((1, 0), (0, 1), 60),  # dot 1 of lengths √2 · √2
        ((1, 2), (3, 1), math.degrees(math.acos(6 / math.sqrt(66)))),
        ((1e8, 0), (-1e8, 0), 180),
    ],
)
def test_angular_error_by_hand(estimate, truth, degrees):
    angle = angular_error(field(estimate), field(truth)).item()
    assert angle == pytest.approx(degrees, abs=1e-5)


def test_angular_error_resolves_tiny_angles_in_float32():
    tiny = angular_error(field((1e-5, 0)).float(), field((0, 0)).float()).item()
    assert tiny == pytest.approx(math.degrees(1e-5), rel=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_invalid_pixels_may_hold_anything(metric):
    flow, target = field((1, 1), (math.nan, 0)), field((7, 1), (0, math.inf))
    assert metric(flow, target, valid=mask(1, 0)) == metric(field((1, 1)), field((7, 1)))


@pytest.mark.parametrize("metric", [epe, angular_error])
def test_invalid_pixels_have_no_gradient(metric):
    flow = field((1, 1), (2, 0)).requires_grad_()
    metric(flow, field((7, 1), (math.nan, math.inf)), valid=mask(1, 0)).sum().backward()
    assert flow.grad[..., 0].abs().sum() > 0
    assert flow.grad[..., 1].tolist() == [[[0.0], [0.0]]]


@pytest.mark.parametrize("metric", METRICS)
def test_without_valid_pixels_metrics_are_nan(metric):
    flow = torch.cat([field((9, 9)), field((9, 9))])
    valid = torch.cat([mask(0), mask(1)])
    result = metric(flow, torch.zeros_like(flow), valid=valid)
    assert result.isnan().tolist() == [True, False]
    assert metric(flow[:, :, :0], flow[:, :, :0]).isnan().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_estimate_that_is_not_finite_is_an_error(value):
    flow, target = field((value, 0), (5, 1)), field((5, 1), (5, 1))
    assert not epe(flow, target).isfinite()
    assert fl_all(flow, target).item() == 50
    assert angular_error(flow, target).isnan()


@pytest.mark.parametrize("metric", METRICS)
def test_examples_do_not_depend_on_their_batch(metric):
    generator = torch.Generator().manual_seed(0)
    flow, target = 5 * torch.randn(2, 3, 2, 9, 11, generator=generator)
    valid = torch.rand(3, 1, 9, 11, generator=generator) > 0.4
    alone = torch.cat(
        [metric(flow[i : i + 1], target[i : i + 1], valid=valid[i : i + 1]) for i in range(3)]
    )
    assert alone.shape == (3,)
    torch.testing.assert_close(metric(flow, target, valid=valid), alone)
    assert metric(flow[:0], target[:0], valid=valid[:0]).shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_half_is_summed_in_float32(metric, dtype, expected):
    flow = torch.ones(1, 2, 300, 300, dtype=dtype)  # 90,000 pixels: a half sum would be infinite
    result = metric(flow, 4 * flow)
    assert result.dtype == expected
    torch.testing.assert_close(result, metric(flow.double(), 4 * flow.double()), check_dtype=False)


@pytest.mark.parametrize("metric", METRICS)
def test_errors_name_the_wrong_shape(metric):
    flow = torch.zeros(2, 2, 3, 4)
    with pytest.raises(ValueError, match="flow must be"):
        metric(flow[:, :1], flow)
    with pytest.raises(ValueError, match="target must have batch"):
        metric(flow, flow[:1])
    with pytest.raises(ValueError, match="valid must have batch"):
        metric(flow, flow, valid=torch.ones(2, 1, 3, 5))
    with pytest.raises(ValueError, match=r"valid must be \(B, 1, H, W\)"):
        metric(flow, flow, valid=torch.ones(2, 3, 4))
    with pytest.raises(TypeError, match="target must be"):
        metric(flow, flow.int())
