"""Checks of arguments of public functions."""

import math

import pytest
import torch

from flowwarp.tensors import (
    LARGEST,
    check_alike,
    check_choice,
    check_mask,
    check_number,
    check_range,
    check_whole,
    check_wholes,
)

NO_NUMBERS = [None, True, "4", [], {}, math.nan, math.inf, -math.inf, 10**30, -(10**30), 1e308]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 4.0, 1, 8])
def test_check_whole_refuses(value):
    with pytest.raises(ValueError, match=r"^side must be a whole number in \[2, 7\], got "):
        check_whole(value, "side", 2, 7)
    with pytest.raises(ValueError, match=r"^sides must be a whole number in \[2, 7\], got "):
        check_wholes((3, value), "sides", 2, 7)


@pytest.mark.parametrize("values", [(), [3], 3, "3", None])
def test_check_wholes_refuses(values):
    with pytest.raises(ValueError, match="sides must be one whole number or more, got "):
        check_wholes(values, "sides", 2)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0.24, 8.01, 0, 9])
def test_check_number_refuses(value):
    with pytest.raises(ValueError, match=r"^share must be a number in \[0.25, 8\], got "):
        check_number(value, "share", 0.25, 8)


def test_bounds_are_inclusive():
    check_whole(0, "side", 0)
    check_whole(LARGEST, "side", 0)
    check_wholes((1, 7), "sides", 1, 7)
    for value in (0.25, 8.0, 8, 1):
        check_number(value, "share", 0.25, 8)
    with pytest.raises(ValueError, match="side"):
        check_whole(LARGEST + 1, "side", 0)


def test_messages_are_short():
    for value in ([0] * 10**6, "x" * 10**6, 10**4000):
        for check in (
            lambda value: check_whole(value, "side", 0),
            lambda value: check_number(value, "side", 0, 1),
            lambda value: check_choice(value, "side", ("left", "right")),
        ):
            with pytest.raises(ValueError, match="side must be") as fault:
                check(value)
            assert len(str(fault.value)) < 200


@pytest.mark.parametrize("value", [255.0, math.nan, math.inf])
def test_an_image_of_another_range_is_refused(value):
    image = torch.zeros(1, 3, 4, 4)
    image[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=rf"^view must be in \[0, 1\], .* is {value:g}$"):
        check_range(image, "view")
    image[0, 1, 2, 3] = 1.1
    check_range(image, "view")
    check_range(image[:0], "view")


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 4, 5), (1, 1, 4, 5), (2, 1, 4, 1)])
def test_a_mask_that_would_broadcast_is_refused(shape):
    like = torch.zeros(2, 3, 4, 5)
    check_mask(torch.ones(2, 1, 4, 5), "visible", like)
    with pytest.raises(ValueError, match="visible must"):
        check_mask(torch.ones(shape), "visible", like)
    with pytest.raises(TypeError, match=r"visible must be a torch\.Tensor, got bool"):
        check_mask(True, "visible", like)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (torch.zeros(2, 3, 4), r"\(2, 3, 4\) torch.float32 on cpu"),
        (torch.zeros(1, 3, 4, 5), r"\(1, 3, 4, 5\) torch.float32 on cpu"),
        (torch.zeros(2, 3, 4, 5).half(), r"\(2, 3, 4, 5\) torch.float16 on cpu"),
        (torch.zeros(2, 3, 4, 5, device="meta"), r"\(2, 3, 4, 5\) torch.float32 on meta"),
    ],
)
def test_check_alike_refuses(other, words):
    like = torch.zeros(2, 3, 4, 5)
    check_alike(like + 1, "two", like, "one")
    wanted = r"\(2, 3, 4, 5\) torch.float32 on cpu"
    with pytest.raises(ValueError, match=f"^two must be {wanted} as one is, got {words}$"):
        check_alike(other, "two", like, "one")
