"""Sampling of an image at arbitrary points."""

import torch

from flowwarp.data.sampling import inside, sample, transform
from flowwarp.ops.fields import coordinate_grid


def test_at_pixel_centres_the_image_is_unchanged():
    image = torch.rand(1, 2, 5, 7)
    torch.testing.assert_close(sample(image, coordinate_grid(5, 7)), image)


def test_between_two_pixels_lies_their_mean():
    image = torch.tensor([[0.0, 1.0, 4.0]]).view(1, 1, 1, 3)
    points = torch.tensor([0.5, 1.75, 9.0]).view(1, 1, 1, 3)
    points = torch.cat([points, torch.zeros_like(points)], 1)
    torch.testing.assert_close(sample(image, points).flatten(), torch.tensor([0.5, 3.25, 4.0]))
    zeros = sample(image, points, padding="zeros").flatten()
    torch.testing.assert_close(zeros, torch.tensor([0.5, 3.25, 0.0]))


def test_points_on_the_border_are_inside():
    x = torch.tensor([-0.01, 0.0, 3.0, 3.01]).view(1, 1, 1, 4)
    points = torch.cat([x, torch.zeros_like(x)], 1)
    assert inside(points, 2, 4).flatten().tolist() == [False, True, True, False]


def test_affine_map_of_points():
    matrix = torch.tensor([[[0.0, -1.0, 5.0], [2.0, 0.0, 1.0]]])  # x' = 5 - y, y' = 2 x + 1
    points = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    assert transform(matrix, points).flatten().tolist() == [1.0, 7.0]
