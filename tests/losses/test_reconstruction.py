"""What a reconstruction gets wrong, against values worked by hand."""

import pytest
import torch

from flowwarp.losses.reconstruction import (
    coarse_error,
    gradient_error,
    l1_loss,
    rmse_loss,
    texture_loss,
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
    image[0, ..., 3:] = 0.8  # the same, a pixel to the right
    image[1, ..., 2:] = 0.5  # in its place, and weaker
    weight = torch.ones(2, 1, 1, 5, 5)
    # Of the three inner columns two have half the edge as edge and a quarter of it as spot along
    # x, at level along y; all other masks give nothing.
    weaker = 2 / 3 * (0.3 / 2 + 0.3 / 4) / 8
    whole = texture_loss(image, original, weight, 3)
    assert whole.tolist() == pytest.approx([0, weaker], abs=1e-7)
    assert texture_loss(image, original, weight, 9).tolist() == whole.tolist()
    # Of two squares of two columns the left one has lost half of what the right one has gained.
    # Of the weaker edge the left one has two columns, the right one one.
    found = texture_loss(image, original, weight, 2).tolist()
    assert found == pytest.approx([(0.4 + 0.2) / 2 / 8, (1 + 0.5) / 2 * (0.15 + 0.075) / 8])
    weight[1] = 3
    assert float(texture_loss(image, original, weight, 3)[1]) == pytest.approx(3 * weaker)
    turned = texture_loss(image.mT, original.mT, weight, 3).tolist()
    assert turned == pytest.approx([0, 3 * weaker], abs=1e-7)


def test_dots_do_not_replace_an_edge():
    edge, dots = torch.zeros(2, 1, 1, 1, 8, 8)
    edge[..., 4:] = 1
    dots[..., ::2, ::2] = dots[..., 1::2, 1::2] = 1 / 14  # neighbours differ as much in all
    assert gradient_error(dots) == pytest.approx(float(gradient_error(edge)))
    blank = torch.zeros_like(edge)
    weight = torch.ones(1, 1, 1, 8, 8)
    assert texture_loss(dots, edge, weight, 8) > 0.9 * texture_loss(blank, edge, weight, 8)


def test_the_gradient_without_error_is_zero():
    error = torch.zeros(1, 1, 3, 2, 2, requires_grad=True)
    rmse_loss(error).sum().backward()
    assert not error.grad.any()


def test_a_side_of_one_pixel_has_no_gradient_error():
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
