"""Forward warping against hand-worked values and the index_add reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowwarp.ops.splatting import MODES, splat, splat_reference
from flowwarp.ops.warping import warp


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def row(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


def along_x(*values):
    return torch.cat([row(*values), torch.zeros(1, 1, 1, len(values))], 1)


def test_sum_shares_a_pixel_between_its_targets():
    assert splat(row(8, 0, 0), along_x(0.25, 0, 0)).flatten().tolist() == [6, 2, 0]
    assert splat(row(8, 1, 0), along_x(1, 0, 0)).flatten().tolist() == [0, 9, 0]
    assert splat(row(8, 1, 3), along_x(-1, 0, 1)).flatten().tolist() == [0, 1, 0]  # two leave


def test_average_divides_where_pixels_meet():
    assert splat(row(8, 2, 0), along_x(1, 0, 0), "average").flatten().tolist() == [0, 5, 0]


def test_linear_weighs_pixels():
    out = splat(row(8, 2, 5), along_x(1, 0, 0), "linear", row(3, 1, 1))
    assert out.flatten().tolist() == [0, (3 * 8 + 2) / 4, 5]


def test_softmax_weighs_by_exponentials():
    weight = row(math.log(3), 0, 0)
    out = splat(row(8, 2, 5), along_x(1, 0, 0), "softmax", weight)
    assert out.flatten().tolist() == pytest.approx([0, (3 * 8 + 2) / 4, 5])
    shifted = splat(row(8, 2, 5), along_x(1, 0, 0), "softmax", weight + 500)
    assert torch.allclose(shifted, out)
    large = splat(row(8, 2, 5), along_x(1, 0, 0), "softmax", row(80, 0, 0))
    assert large[0, 0, 0, 1] == 8


def test_softmax_does_not_look_at_the_largest_weight_of_another_example():
    image, flow, weight = row(8, 2, 5), along_x(1, 0, 0), row(0.5, 1, 0)
    alone = splat(image, flow, "softmax", weight)
    together = splat(
        torch.cat([image, image]),
        torch.cat([flow, flow]),
        "softmax",
        torch.cat([weight, weight + 200]),  # e^-200 of the largest is nothing in float32
    )
    assert torch.equal(together[:1], alone)


def test_softmax_is_not_decided_by_what_lands_nowhere():
    image, flow, weight = row(8, 2, 5, 9), along_x(1, 0, 0, math.nan), row(0.5, 1, 0, 500)
    inputs = [tensor.requires_grad_() for tensor in (image, flow, weight)]
    out = splat(image, flow, "softmax", weight)
    alone = splat(image[..., :3], flow[..., :3], "softmax", weight[..., :3])
    assert torch.equal(out, torch.cat([alone, row(0)], -1))
    for got, wanted in zip(
        torch.autograd.grad(out.square().sum(), inputs),
        torch.autograd.grad(alone.square().sum(), inputs),
        strict=True,
    ):
        assert torch.equal(got, wanted)  # 0 for the fourth


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_softmax_of_a_weight_that_is_no_number_spoils_only_where_it_lands(bad):
    image, flow = row(8, 2, 5, 9), along_x(1, 0, 0, 0)
    assert not splat(image, flow, "softmax", row(*[-math.inf] * 4)).any()
    out = splat(image, flow, "softmax", row(bad, 90, -math.inf, -5)).flatten()
    assert out.isnan().tolist() == [False, True, False, False]
    assert out[[0, 2, 3]].tolist() == [0, 0, 9]


def test_zero_flow_returns_the_image():
    image = torch.rand(2, 3, 9, 40, generator=seeded())
    flow = torch.zeros(2, 2, 9, 40)
    assert torch.equal(splat(image, flow), image)
    assert torch.equal(splat(image, flow, "average"), image)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(1, 30),
    st.integers(1, 60),
    st.sampled_from([0.1, 2.0, 20.0]),
    st.booleans(),
)
def test_agrees_with_the_float64_reference(batch, channels, height, width, scale, channels_last):
    image = torch.rand(batch, channels, height, width, generator=seeded(width))
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    flow = torch.randn(batch, 2, height, width, generator=seeded(height)) * scale
    expected = splat_reference(image.double(), flow.double())
    assert (splat(image, flow).double() - expected).abs().max() <= 1e-6 * expected.max().clamp_min(
        1
    )


def test_sum_keeps_what_stays_inside():
    image = torch.rand(1, 2, 20, 30, generator=seeded(), dtype=torch.float64)
    flow = torch.zeros(1, 2, 20, 30, dtype=torch.float64)
    flow[..., 5:15, 5:25] = (
        torch.rand(1, 2, 10, 20, generator=seeded(1), dtype=torch.float64) * 4 - 2
    )
    assert splat(image, flow).sum().item() == pytest.approx(image.sum().item())


def test_is_the_adjoint_of_warping():
    image = torch.rand(2, 3, 9, 11, generator=seeded(), dtype=torch.float64)
    other = torch.rand(2, 3, 9, 11, generator=seeded(1), dtype=torch.float64)
    flow = torch.randn(2, 2, 9, 11, generator=seeded(2), dtype=torch.float64) * 3
    left = (splat(image, flow) * other).sum()
    right = (image * warp(other, flow, padding="zeros")).sum()
    assert left.item() == pytest.approx(right.item())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_unknown_flow_lands_nowhere(bad):
    image, flow = torch.ones(1, 2, 4, 20), torch.zeros(1, 2, 4, 20)
    image[0, 0, 1, 2] = math.nan
    flow[0, 1, 1, 2] = bad
    for mode in ("sum", "average"):
        out = splat(image, flow, mode)
        assert out[0, :, 1, 2].tolist() == [0, 0]
        assert out.sum() == 2 * 79


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck_and_gradgradcheck(mode):
    image = torch.rand(1, 2, 3, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    flow = torch.rand(1, 2, 3, 4, generator=seeded(1), dtype=torch.float64) * 0.3 + 0.1
    flow = (flow + torch.randint(-2, 2, flow.shape, generator=seeded(4))).requires_grad_()
    weight = torch.rand(1, 1, 3, 4, generator=seeded(2), dtype=torch.float64) + 0.5
    inputs = (
        (image, flow, weight.requires_grad_()) if mode in ("linear", "softmax") else (image, flow)
    )

    def run(image, flow, weight=None):
        return splat(image, flow, mode, weight)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, atol=1e-4)


def test_reference_has_the_gradient_of_the_operator_on_whole_pixels():
    image = torch.rand(1, 2, 5, 6, generator=seeded(), dtype=torch.float64)
    flow = torch.randint(-2, 3, (1, 2, 5, 6), generator=seeded(1)).double().requires_grad_()
    other = torch.rand(1, 2, 5, 6, generator=seeded(2), dtype=torch.float64)
    got, wanted = (
        torch.autograd.grad((sent(image, flow) * other).sum(), flow)[0]
        for sent in (splat_reference, splat)
    )
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_compile_vmap_and_forward_mode(mode):
    image = torch.rand(2, 3, 4, 5, generator=seeded(), dtype=torch.float64)
    flow = torch.randn(2, 2, 4, 5, generator=seeded(1), dtype=torch.float64)
    weight = torch.rand(2, 1, 4, 5, generator=seeded(2), dtype=torch.float64)
    weight = weight if mode in ("linear", "softmax") else None

    def run(image, flow):
        return splat(image, flow, mode, weight)

    eager = run(image, flow)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(image, flow), eager)
    mapped = torch.vmap(run)(image.expand(2, 2, 3, 4, 5), flow.expand(2, 2, 2, 4, 5))
    assert torch.allclose(mapped[1], eager)
    _, tangent = torch.func.jvp(lambda f: run(image, f), (flow,), (torch.ones_like(flow),))
    step = 1e-6
    numeric = (run(image, flow + step) - run(image, flow - step)) / (2 * step)
    assert torch.allclose(tangent, numeric, atol=1e-5)


@pytest.mark.parametrize("mode", ["average", "softmax"])
def test_half_precision_is_rounded_once(mode):
    image = torch.rand(1, 3, 9, 40, generator=seeded()).bfloat16()
    flow = torch.randn(1, 2, 9, 40, generator=seeded(1))
    weight = torch.rand(1, 1, 9, 40, generator=seeded(2)) if mode == "softmax" else None
    exact = splat(image.float(), flow, mode, weight)
    half = splat(image, flow, mode, weight)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.bfloat16())


@pytest.mark.parametrize("mode", MODES)
def test_nothing_goes_nowhere(mode):
    weight = torch.ones(2, 1, 0, 5) if mode in ("linear", "softmax") else None
    assert splat(torch.ones(2, 3, 0, 5), torch.ones(2, 2, 0, 5), mode, weight).shape == (2, 3, 0, 5)


IMAGE, FLOW, WEIGHT = torch.rand(2, 3, 4, 5), torch.zeros(2, 2, 4, 5), torch.ones(2, 1, 4, 5)


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (ValueError, "image must be (B, C, H, W)", (IMAGE[0], FLOW)),
        (ValueError, "flow must have batch", (IMAGE, FLOW[:1])),
        (ValueError, "mode must be one of", (IMAGE, FLOW, "max")),
        (ValueError, "weight is needed", (IMAGE, FLOW, "softmax")),
        (ValueError, "weight is for the modes", (IMAGE, FLOW, "average", WEIGHT)),
        (ValueError, "weight must have 1 channel", (IMAGE, FLOW, "linear", FLOW)),
        (ValueError, "weight must have batch", (IMAGE, FLOW, "linear", WEIGHT[..., 1:])),
        (TypeError, "weight must be fp64", (IMAGE, FLOW, "linear", WEIGHT.int())),
    ],
)
def test_wrong_arguments_name_themselves(error, words, arguments):
    with pytest.raises(error) as caught:
        splat(*arguments)
    assert str(caught.value).startswith(words)
