"""Finite scalar quantisation: values by hand, and digits to values and back."""

import itertools

import pytest
import torch

from flowwarp.models.quantizers import FSQ


def test_an_odd_number_of_levels_by_hand():
    fsq = FSQ([5])
    z = torch.tensor([-9.0, -0.6, 0.0, 0.2, 9.0])[:, None]
    # 2.002 tanh z = -2.002, -1.08, 0, .40, 2.002
    assert fsq.digits(z)[:, 0].tolist() == [0, 1, 2, 2, 4]
    assert fsq(z)[:, 0].tolist() == [-1, -0.5, 0, 0, 1]


def test_an_even_number_of_levels_by_hand():
    fsq = FSQ([4])
    z = torch.tensor([-9.0, -0.7, 0.0, 0.4, 9.0])[:, None]
    # 1.5015 tanh(z + atanh(.5 / 1.5015)) - .5 = -2.0015, -1.01, 0, .44, 1.0015
    assert fsq.digits(z)[:, 0].tolist() == [0, 1, 2, 2, 3]
    assert fsq(z)[:, 0].tolist() == [-1, -0.5, 0, 0, 0.5]


@pytest.mark.parametrize("levels", [(2, 3), (8, 6, 5), (7, 2, 4)])
def test_digits_to_values_and_back(levels):
    fsq = FSQ(levels)
    digits = torch.tensor(list(itertools.product(*map(range, levels))))
    values = fsq.values(digits)
    assert len(values.unique(dim=0)) == len(digits)
    assert values.min() >= -1
    assert values.max() <= 1
    # A vector whose bounded value is the level itself: the inverse of tanh.
    z = torch.atanh((values * fsq.middle + fsq.offset) / fsq.reach) - fsq.shift
    assert torch.equal(fsq.digits(z), digits)
    torch.testing.assert_close(fsq(z), values)


@pytest.mark.parametrize("levels", [2, 3, 8, 999, 1000])
def test_any_number_has_a_digit(levels):
    z = torch.tensor([-torch.inf, -1e30, -3.0, 0.0, 3.0, 1e30, torch.inf])[:, None]
    digits = FSQ([levels]).digits(z)[:, 0]
    assert digits[0] == 0
    assert digits[-1] == levels - 1
    assert (digits.diff() >= 0).all()


def test_every_level_is_reached_and_none_else():
    fsq = FSQ([8, 5])
    z = torch.linspace(-4, 4, 2001)[:, None].expand(-1, 2)
    digits = fsq.digits(z)
    assert digits[:, 0].unique().tolist() == list(range(8))
    assert digits[:, 1].unique().tolist() == list(range(5))
    assert torch.equal(fsq(z), fsq.values(digits))


def test_the_gradient_is_that_of_tanh_without_rounding():
    fsq = FSQ([5])
    z = torch.tensor([[-1.3], [0.0], [0.4]], requires_grad=True)
    fsq(z).sum().backward()
    expected = 2.002 * (1 - torch.tanh(z.detach()) ** 2) / 2
    torch.testing.assert_close(z.grad, expected)


def test_half_precision_has_the_digits_of_float32():
    z = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    fsq = FSQ([8, 8, 8, 5])
    assert torch.equal(fsq.digits(z), fsq.digits(z.float()))


@pytest.mark.parametrize("levels", [(), (1,), (8, 0), (1001,), (5.0,)])
def test_levels_are_checked(levels):
    with pytest.raises(ValueError, match="levels"):
        FSQ(levels)
