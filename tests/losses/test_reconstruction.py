"""What a reconstruction gets wrong, against values worked by hand."""

import pytest
import torch

from flowwarp.losses.reconstruction import (
    coarse_error,
    detail_loss,
    gradient_error,
    l1_loss,
    rmse_loss,
    warp_loss,
)


def test_color_and_gradient_by_hand():
    error = torch.zeros(2, 1, 1, 2, 2)
    error[1, 0, 0] = torch.tensor([[0.0, 0.4], [0.0, -0.4]])
    assert l1_loss(error).tolist() == pytest.approx([0, 0.2])
    # Along x 0.4 and 0.4, along y 0 and 0.8: the mean of 0.4 and 0.4.
    assert gradient_error(error).tolist() == pytest.approx([0, 0.4])
    assert rmse_loss(error).tolist() == pytest.approx([0, 0.08**0.5], abs=2e-6)  # of 0.32 / 4


def test_mean_colors_by_hand():
    error = torch.zeros(2, 1, 1, 2, 5)
    error[0, 0, 0] = torch.tensor([[0.4, -0.4, 0.2, 0.2, 9.0], [-0.4, 0.4, 0.2, 0.2, 9.0]])
    error[1, 0, 0, 0, 0] = -0.8
    # Two squares, of which the first one's errors cancel; the last column is left over.
    assert coarse_error(error, 2).tolist() == pytest.approx([0.1, 0.1])


def test_strength_of_edges_by_hand():
    image, original = torch.zeros(2, 2, 1, 3, 5, 5)
    original[..., 2:] = 0.8  # an edge along y
    image[0, ..., 1:] = 0.8  # the same, a pixel to the left
    image[1, ..., 2:] = 0.5  # in its place, and weaker
    weight = torch.ones(2, 1, 1, 5, 5)
    # In the one square of 4 x 4 changes along x a quarter is 0.3 off; of those along y, none.
    assert detail_loss(image, original, weight, 4).tolist() == pytest.approx([0, 0.3 / 4 / 2])
    assert detail_loss(image, original, weight, 9).tolist() == pytest.approx([0, 0.3 / 4 / 2])
    # Of three squares of two columns the first one's changes have only moved; the next has lost
    # a half of 0.8. The weaker edge is half of what two of them have.
    found = detail_loss(image, original, weight, 2).tolist()
    assert found == pytest.approx([0.4 / 3 / 2, 2 * 0.15 / 3 / 2])
    weight[1] = 3
    assert detail_loss(image, original, weight, 4).tolist() == pytest.approx([0, 0.9 / 4 / 2])
    turned = detail_loss(image.mT, original.mT, weight, 4).tolist()
    assert turned == pytest.approx([0, 0.9 / 4 / 2], abs=1e-7)


def test_no_error_has_gradient_zero():
    error = torch.zeros(1, 1, 3, 2, 2, requires_grad=True)
    rmse_loss(error).sum().backward()
    assert not error.grad.any()


def test_along_a_side_of_one_pixel_nothing_changes():
    assert gradient_error(torch.ones(1, 1, 3, 4, 1)).tolist() == [0]
    assert gradient_error(torch.ones(1, 1, 3, 1, 4)).tolist() == [0]


def test_warp_loss_by_hand():
    """A dot that is wrong by 0.5 either moves along or stays where it is."""
    flow = torch.zeros(2, 1, 2, 1, 4)
    flow[:, :, 0] = 1
    error = torch.zeros(2, 2, 3, 1, 4)
    error[:, 0, :, 0, 1] = 0.5
    error[0, 1, :, 0, 2] = 0.5  # moves by 1, as the scene does
    error[1, 1, :, 0, 1] = 0.5  # stays
    known = torch.ones(2, 1, 1, 1, 4, dtype=torch.bool)
    # Of four pixels the last leads outside. Of the others of the second example, warped back the
    # error is [.5, 0, 0] and that of the first frame [0, .5, 0].
    assert warp_loss(error, flow, known).tolist() == pytest.approx([0, 1 / 3])
    known[1, 0, 0, 0, 0] = False
    assert warp_loss(error, flow, known).tolist() == pytest.approx([0, 1 / 4])
    assert warp_loss(error, flow, ~known | known).shape == (2,)
    assert warp_loss(error, flow, torch.zeros_like(known)).tolist() == [0, 0]
