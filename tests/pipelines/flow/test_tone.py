"""Tone curves against changes of colour that are known."""

import pytest
import torch

from flowwarp.pipelines.flow.tone import (
    LEVELS,
    apply_tone,
    chain_tone,
    identity_curve,
    match_tone,
    mean_tone,
)


def values(channels=3, count=2000):
    return torch.rand(channels, count, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_a_curve_is_found_from_points_in_any_order(gamma):
    one = values()
    curve = match_tone(one, (0.8 * one**gamma + 0.1).flip(1))
    levels = torch.linspace(0, 1, LEVELS)
    middle = slice(4, -4)  # beyond the outer quantiles it is extrapolated
    wanted = (0.8 * levels**gamma + 0.1).expand(3, LEVELS)
    torch.testing.assert_close(curve[:, middle], wanted[:, middle], atol=0.01, rtol=0)
    assert (curve.diff(dim=1) >= 0).all()


def test_each_channel_has_its_own_curve():
    one = values()
    curve = match_tone(one, one * torch.tensor([[1.0], [0.5], [0.8]]))
    assert curve[:, LEVELS // 2].tolist() == pytest.approx([0.508, 0.254, 0.406], abs=0.01)


def test_noise_does_not_lower_the_contrast():
    """A regression of one on the other would find a slope of 0.7."""
    generator = torch.Generator().manual_seed(1)
    clean = 0.3 + 0.4 * values(1, 20000)
    one, other = (clean + 0.075 * torch.randn(clean.shape, generator=generator) for _ in range(2))
    curve = match_tone(one, other)[0]
    slope = (curve[40] - curve[24]) / (16 / (LEVELS - 1))
    assert slope == pytest.approx(1, abs=0.03)


def test_one_value_is_shifted():
    curve = match_tone(torch.full((1, 500), 0.6), torch.full((1, 500), 0.4))
    torch.testing.assert_close(apply_tone(torch.full((1, 1, 2, 2), 0.6), curve).mean().item(), 0.4)


def test_few_points_change_nothing():
    assert torch.equal(match_tone(values(3, 5), values(3, 5) / 2), identity_curve(3))


def test_the_identity_keeps_an_image():
    image = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(apply_tone(image, identity_curve(3)), image, atol=1e-6, rtol=0)


def test_values_between_the_levels_are_interpolated():
    curve = torch.linspace(0, 1, LEVELS)[None] ** 2
    between = torch.tensor([10.5 / (LEVELS - 1)]).view(1, 1, 1, 1)
    wanted = ((10 / (LEVELS - 1)) ** 2 + (11 / (LEVELS - 1)) ** 2) / 2
    assert apply_tone(between, curve).item() == pytest.approx(wanted, abs=1e-6)


def test_chain_and_mean():
    half = identity_curve(1) / 2
    torch.testing.assert_close(chain_tone(half, half), identity_curve(1) / 4, atol=1e-6, rtol=0)
    mean = mean_tone([identity_curve(1), half], [1.0, 3.0])
    torch.testing.assert_close(mean, identity_curve(1) * 0.625)
