"""Random calls of every operator, and that the tool which makes them sees what is wrong."""

import random
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[2] / "tools" / "fuzz_ops.py"


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("fuzz_ops")


def test_random_calls_are_right(tool):
    rng = random.Random(7)
    for _ in range(240):
        case = tool.draw(rng)
        assert tool.compare(case) is None, case


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
def test_a_wrong_operator_is_seen(tool, monkeypatch, harm, words):
    _, slow, values = tool.OPERATORS["census"](a_case(tool))
    monkeypatch.setitem(
        tool.OPERATORS, "census", lambda case: (lambda image: harm(slow(image)), slow, values)
    )
    assert words in tool.compare(a_case(tool))


@pytest.mark.parametrize("operator", ["warp", "splat", "correlation", "census", "census_distance"])
def test_pictures_that_are_not_finite(tool, operator):
    case = tool.Case(operator, 2, 3, 9, 8, torch.float32, "contiguous", True, 0, 5)
    _, slow, values = tool.OPERATORS[operator](case)
    assert not values[0].isfinite().all()
    known = slow(*values)
    assert known.isfinite().any()
    assert not known.isfinite().all()
    assert tool.compare(case) is None


def test_a_hidden_nan_is_seen(tool):
    known = torch.tensor([torch.nan, torch.inf, 1.0])
    assert tool._differ(known, known, 1e-5) is None
    for other in ([0.0, torch.inf, 1.0], [torch.nan, -torch.inf, 1.0], [torch.inf, torch.nan, 1.0]):
        assert tool._differ(torch.tensor(other), known, 1e-5)


def a_case(tool):
    return tool.Case("census", 1, 3, 9, 9, torch.float32, "contiguous", False, 0, 5)


def test_the_smallest_case_is_found(tool, monkeypatch):
    monkeypatch.setattr(tool, "compare", lambda case: case.height >= 3 and case.width >= 2)
    case = tool.Case("warp", 3, 4, 17, 33, torch.float32, "expanded", True, 0, 5)
    found = tool.shrink(case)
    assert (found.batch, found.channels, found.height, found.width) == (0, 1, 3, 2)
    assert (found.layout, found.wild) == ("contiguous", False)
