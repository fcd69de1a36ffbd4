"""Resizing to uint8."""

import pytest
import torch

from flowwarp.data.resizing import middle_square, resized_bytes, shrink, shrunk_size


@pytest.mark.parametrize(
    ("size", "longest", "wanted"),
    [((30, 40), 40, (30, 40)), ((30, 40), 20, (15, 20)), ((1, 1000), 10, (1, 10))],
)
def test_no_side_is_longer_and_none_vanishes(size, longest, wanted):
    assert shrunk_size(*size, longest) == wanted
    assert shrink(torch.rand(3, *size), longest).shape == (3, *wanted)


def test_values_are_rounded_and_clamped():
    image = torch.tensor([-0.1, 0.5 / 255 + 1e-4, 0.4 / 255, 1.2]).expand(3, 1, 4)
    assert resized_bytes(image, (1, 4))[0, 0].tolist() == [0, 1, 0, 255]


@pytest.mark.parametrize("size", [(4, 8), (8, 4)])
def test_middle_square_is_cut_from_the_longer_side(size):
    image = torch.zeros(3, *size)
    image[:, size[0] // 2 - 2 : size[0] // 2 + 2, size[1] // 2 - 2 : size[1] // 2 + 2] = 1
    assert (middle_square(image, 4) == 255).all()


def test_frames_that_are_no_image_are_refused():
    with pytest.raises(TypeError, match="frame must be"):
        middle_square(torch.zeros(3, 4, 4, dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match=r"still must be \(3, H, W\), got shape \(1, 4, 4\)"):
        middle_square(torch.zeros(1, 4, 4), 4, "still")
    with pytest.raises(ValueError, match="frame"):
        middle_square(torch.full((3, 4, 4), 255.0), 4)
