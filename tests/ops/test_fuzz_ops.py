"""Random calls of every operator, and that the tool which makes them sees what is wrong."""

import random

import pytest
import torch

import fuzz_ops


def test_random_calls_are_right():
    rng = random.Random(7)
    for _ in range(240):
        case = fuzz_ops.draw(rng)
        assert fuzz_ops.compare(case) is None, case


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda image: 1.01 * image, "result differs"),
        (lambda image: image.double(), "torch.float64, not"),
        (lambda image: image[..., :1], "is (1, 8, 9, 1)"),
        (lambda image: image / 0, "result is not finite"),
        (lambda image: image + 1e-6 * torch.rand_like(image), "other bits"),
        (lambda image: image.detach() + 0 * image, "gradient 0 differs"),
    ],
)
def test_a_wrong_operator_is_seen(monkeypatch, harm, words):
    _, slow, values = fuzz_ops.OPERATORS["census"](a_case())
    monkeypatch.setitem(
        fuzz_ops.OPERATORS, "census", lambda case: (lambda image: harm(slow(image)), slow, values)
    )
    assert words in fuzz_ops.compare(a_case())


@pytest.mark.parametrize("operator", ["warp", "splat", "correlation", "census", "census_distance"])
def test_pictures_that_are_not_finite(operator):
    case = fuzz_ops.Case(operator, 2, 3, 9, 8, torch.float32, "contiguous", True, 0, 5)
    _, slow, values = fuzz_ops.OPERATORS[operator](case)
    assert not values[0].isfinite().all()
    known = slow(*values)
    assert known.isfinite().any()
    assert not known.isfinite().all()
    assert fuzz_ops.compare(case) is None


def test_a_hidden_nan_is_seen():
    known = torch.tensor([torch.nan, torch.inf, 1.0])
    assert fuzz_ops._differ(known, known, 1e-5) is None
    for other in ([0.0, torch.inf, 1.0], [torch.nan, -torch.inf, 1.0], [torch.inf, torch.nan, 1.0]):
        assert fuzz_ops._differ(torch.tensor(other), known, 1e-5)


def a_case():
    return fuzz_ops.Case("census", 1, 3, 9, 9, torch.float32, "contiguous", False, 0, 5)


def test_the_smallest_case_is_found(monkeypatch):
    monkeypatch.setattr(fuzz_ops, "compare", lambda case: case.height >= 3 and case.width >= 2)
    case = fuzz_ops.Case("warp", 3, 4, 17, 33, torch.float32, "expanded", True, 0, 5)
    found = fuzz_ops.shrink(case)
    assert (found.batch, found.channels, found.height, found.width) == (0, 1, 3, 2)
    assert (found.layout, found.wild) == ("contiguous", False)
