"""Resizing to uint8."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowwarp.data.resizing import (
    cut_size,
    middle_part,
    middle_square,
    resized_bytes,
    shrink,
    shrunk_size,
)


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


@pytest.mark.parametrize(
    ("image", "size", "wanted"),
    [
        ((480, 640), (64, 64), (480, 480)),
        ((480, 640), (56, 72), (480, 617)),
        ((480, 640), (80, 48), (480, 288)),
        ((1, 1000), (80, 48), (1, 1)),
    ],
)
def test_the_largest_part_of_an_aspect(image, size, wanted):
    assert cut_size(*image, size) == wanted


SIDES = st.integers(1, 300)


@given(image=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES))
def test_a_part_fills_one_side(image, size):
    """It lies in the image, fills one side, and on the other is off by half a pixel at most."""
    height, width = cut_size(*image, size)
    assert 1 <= height <= image[0]
    assert 1 <= width <= image[1]
    assert height == image[0] or width == image[1]
    if height == image[0]:
        assert abs(width - height * size[1] / size[0]) <= 0.5 or width == 1
    else:
        assert abs(height - width * size[0] / size[1]) <= 0.5 or height == 1


def test_the_part_is_the_middle_one():
    image = torch.zeros(3, 6, 10)
    image[:, :, 4:6] = 1
    assert middle_part(image, (6, 2)).unique().tolist() == [255]
    assert middle_part(image, (3, 1)).shape == (3, 3, 1)


def test_frames_that_are_no_image_are_refused():
    with pytest.raises(TypeError, match="frame must be"):
        middle_square(torch.zeros(3, 4, 4, dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match=r"still must be \(3, H, W\), got shape \(1, 4, 4\)"):
        middle_square(torch.zeros(1, 4, 4), 4, "still")
    with pytest.raises(ValueError, match="frame"):
        middle_square(torch.full((3, 4, 4), 255.0), 4)
