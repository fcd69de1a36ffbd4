"""The cost volume, and what every operator of ours does under torch's transforms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from comparisons import assert_same_gradients
from flowwarp.ops import native
from flowwarp.ops.correlation import correlation, correlation_gradient, correlation_reference

# torch's own, when forward AD loads its decompositions
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def relative(got, wanted):
    return float((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def with_gradients(volume, a, b, grad, *sizes):
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    out = volume(a, b, *sizes)
    return out.detach(), *torch.autograd.grad(out, (a, b), grad)


def test_values_by_hand():
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    b = torch.tensor([[10.0, 20.0], [30.0, 40.0]]).view(1, 1, 2, 2)
    out = correlation(a, b, radius=1)
    assert out.shape == (1, 9, 2, 2)
    assert out[0, 4].tolist() == [[10, 40], [90, 160]]  # no displacement
    assert out[0, 5].tolist() == [[20, 0], [120, 0]]  # dx = 1
    assert out[0, 7].tolist() == [[30, 80], [0, 0]]  # dy = 1
    assert out[0, 0].tolist() == [[0, 0], [0, 40]]  # dy = dx = -1
    assert out[0, 2].tolist() == [[0, 0], [60, 0]]  # dy = -1, dx = 1


def test_mean_over_channels():
    a, b = torch.full((1, 4, 1, 1), 3.0), torch.full((1, 4, 1, 1), 5.0)
    assert correlation(a, b, radius=0).tolist() == [[[[15.0]]]]


def test_dilation_by_hand():
    a = torch.ones(1, 1, 1, 5)
    b = torch.arange(1.0, 6.0).view(1, 1, 1, 5)
    out = correlation(a, b, radius=1, dilation=2)[0, 3:6, 0]
    assert out.tolist() == [[0, 0, 1, 2, 3], [1, 2, 3, 4, 5], [3, 4, 5, 0, 0]]


def test_gradient_by_hand():
    a = torch.tensor([[[[1.0, 2.0, 3.0]]]], requires_grad=True)
    b = torch.tensor([[[[10.0, 20.0, 30.0]]]], requires_grad=True)
    correlation(a, b, radius=1).sum().backward()
    assert a.grad.tolist() == [[[[30, 60, 50]]]]
    assert b.grad.tolist() == [[[[3, 6, 5]]]]


def layouts(image, kind):
    if kind == "last":
        return image.contiguous(memory_format=torch.channels_last)
    if kind == "turned":
        return image.transpose(2, 3).contiguous().transpose(2, 3)
    if kind == "cut":
        wide = image.new_zeros(*image.shape[:3], image.shape[3] + 3)
        wide[..., 2:-1] = image
        return wide[..., 2:-1]
    return image


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    shape=st.tuples(
        st.integers(1, 3),
        st.integers(1, 6),
        st.integers(1, 14),
        st.sampled_from([1, 2, 7, 16, 33, 50]),
    ),
    radius=st.integers(0, 6),
    dilation=st.sampled_from([1, 1, 2, 3, 9]),
    dtype=st.sampled_from(list(TOLERANCE)),
    kinds=st.tuples(*[st.sampled_from(["plain", "last", "turned", "cut"])] * 2),
)
def test_against_reference(shape, radius, dilation, dtype, kinds):
    a, b = (layouts(randn(*shape, seed=k, dtype=dtype), kinds[k]) for k in range(2))
    grad = randn(shape[0], (2 * radius + 1) ** 2, *shape[2:], seed=2, dtype=dtype)
    got = with_gradients(correlation, a, b, grad, radius, dilation)
    exact = (t.double() for t in (a, b, grad))
    wanted = with_gradients(correlation_reference, *exact, radius, dilation)
    for mine, theirs, factor in zip(got, wanted, (1, 10, 10), strict=True):
        assert mine.dtype == dtype
        assert relative(mine, theirs) <= factor * TOLERANCE[dtype]


def test_gradient_keeps_channels_last():
    a = randn(1, 8, 5, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    correlation(a, randn(1, 8, 5, 6), 1).sum().backward()
    assert a.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bit_equal_however_cut(dtype):
    a, b = (randn(3, 5, 23, 37, seed=k, dtype=dtype) for k in range(2))
    grad = randn(3, 49, 23, 37, seed=2, dtype=dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = with_gradients(correlation, a, b, grad, 3, 1)
        again = with_gradients(correlation, a, b, grad, 3, 1)
        torch.set_num_threads(2)
        two = with_gradients(correlation, a, b, grad, 3, 1)
    finally:
        torch.set_num_threads(threads)
    parts = [
        with_gradients(correlation, *(t[k : k + 1] for t in (a, b, grad)), 3, 1) for k in range(3)
    ]
    for k in range(3):
        assert torch.equal(one[k], again[k])
        assert torch.equal(one[k], two[k])
        assert torch.equal(one[k], torch.cat([part[k] for part in parts]))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_bit_equal_for_every_instruction_set(each_level, dtype):
    for width, radius, dilation in ((1, 1, 1), (7, 4, 1), (41, 6, 2), (64, 4, 3)):
        a, b = (randn(2, 3, 13, width, seed=k, dtype=dtype) for k in range(2))
        grad = randn(2, (2 * radius + 1) ** 2, 13, width, seed=2, dtype=dtype)
        first, *others = each_level(
            lambda *tensors: with_gradients(correlation, *tensors), a, b, grad, radius, dilation
        )
        for other in others:
            assert all(map(torch.equal, first, other))


def test_outside_is_zero_whatever_the_pixel_is():
    a = randn(1, 2, 4, 20)
    a[..., 0, 0] = float("nan")
    out = correlation(a, randn(1, 2, 4, 20, seed=1), 2)
    bad = out.isnan()
    inside = correlation(torch.ones_like(a), torch.ones_like(a), 2) == 1
    assert torch.equal(bad[0, :, 0, 0], inside[0, :, 0, 0])
    assert not bad[..., 1:].any()
    assert not bad[..., 1:, :].any()


def test_nan_in_b_reaches_only_its_partners():
    b = randn(1, 1, 6, 40)
    b[0, 0, 3, 17] = float("inf")
    out = correlation(torch.ones_like(b), b, 1)
    assert (~out.isfinite()).sum() == 9
    a = torch.ones_like(b).requires_grad_()
    (grad,) = torch.autograd.grad(correlation(a, b, 1).sum(), a)
    assert (~grad.isfinite()).sum() == 9


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_empty(shape):
    a = torch.ones(shape, requires_grad=True)
    out = correlation(a, torch.ones(shape), 1)
    assert out.shape == (shape[0], 9, *shape[2:])
    out.sum().backward()
    assert a.grad.shape == shape


def test_radius_beyond_the_image():
    out = correlation(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3), radius=7)
    assert out.sum() == 4 * 9  # every pair of pixels once


A = torch.ones(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], A), TypeError, "a must be a torch.Tensor"),
        ((A, A.long()), TypeError, "b must be fp64"),
        ((A[0], A), ValueError, r"a must be \(B, C, H, W\)"),
        ((A, A[:, :1]), ValueError, r"b must be \(1, 2, 3, 4\)"),
        ((A, A.double()), ValueError, "b must be .* torch.float32"),
        ((A, A.to("meta")), ValueError, "b must be .* on cpu"),
        ((A[:, :0], A[:, :0]), ValueError, "a must have at least one channel"),
        ((A, A, -1), ValueError, "radius must be 0"),
        ((A, A, 1.5), TypeError, "radius must be an integer"),
        ((A, A, True), TypeError, "radius must be an integer"),
        ((A, A, 1, 0), ValueError, "dilation must be 1"),
        ((A, A, 1, 2**40), ValueError, "dilation must be 1 to 32767"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        correlation(*arguments)


# ------------------------------------------------------------------ torch


SMALL = (randn(2, 3, 4, 5), randn(2, 3, 4, 5, seed=1))


def test_gradcheck_twice():
    a, b = (t[:1, :2, :3, :4].clone().requires_grad_() for t in SMALL)
    assert torch.autograd.gradcheck(lambda a, b: correlation(a, b, 1), (a, b))
    assert torch.autograd.gradgradcheck(lambda a, b: correlation(a, b, 1, 2), (a, b))


def test_third_derivative():
    a, b = (t[:1, :1, :2, :3].clone().requires_grad_() for t in SMALL)

    def second(a, b):
        (first,) = torch.autograd.grad(correlation(a, b, 1).pow(3).sum(), a, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), b, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, (a, b))


@pytest.mark.parametrize("kind", ["plain", "last", "cut"])
def test_opcheck(kind):
    a, b = (layouts(t, kind).detach().clone().requires_grad_() for t in SMALL)
    grad = randn(2, 9, 4, 5)
    torch.library.opcheck(torch.ops.flowwarp.correlation.default, (a, b, 1, 1))
    torch.library.opcheck(
        torch.ops.flowwarp.correlation_gradient.default, (grad.requires_grad_(), b, 1, 1, 0)
    )


def test_compile_fullgraph():
    compiled = torch.compile(
        lambda a, b: correlation(2 * a, b, 2).sin(), fullgraph=True, backend="aot_eager"
    )
    a, b = (t.clone().requires_grad_() for t in SMALL)
    wanted = correlation(2 * a, b, 2).sin()
    got = compiled(a, b)
    assert torch.equal(got, wanted)
    assert_same_gradients(got, wanted, (a, b))


def test_vmap():
    a, b = randn(3, 2, 2, 4, 5), randn(2, 2, 4, 5)
    got = torch.func.vmap(lambda a: correlation(a, b, 1))(a)
    assert torch.equal(got, torch.stack([correlation(x, b, 1) for x in a]))


def test_batched_gradients():
    a = SMALL[0].clone().requires_grad_()
    out = correlation(a, SMALL[1], 1)
    grads = randn(3, *out.shape)
    (got,) = torch.autograd.grad(out, a, grads, is_grads_batched=True, retain_graph=True)
    wanted = [torch.autograd.grad(out, a, grad, retain_graph=True)[0] for grad in grads]
    assert torch.equal(got, torch.stack(wanted))


def volume(a):
    return correlation(a, SMALL[1], 1)


TANGENT = correlation_reference(torch.ones_like(SMALL[0]), SMALL[1], 1)  # it is linear in a


def test_forward_mode_of_func():
    _, got = torch.func.jvp(volume, (SMALL[0],), (torch.ones_like(SMALL[0]),))
    torch.testing.assert_close(got, TANGENT)


def test_forward_mode_of_dual_tensors():
    with forward_ad.dual_level():
        out = volume(forward_ad.make_dual(SMALL[0], torch.ones_like(SMALL[0])))
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, TANGENT)


def test_forward_mode_through_a_compiled_function():
    compiled = torch.compile(volume, fullgraph=True, backend="aot_eager")
    compiled(SMALL[0])  # a graph without forward AD is now in the cache
    with forward_ad.dual_level():
        out = compiled(forward_ad.make_dual(SMALL[0], torch.ones_like(SMALL[0])))
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, TANGENT)
    inside = torch.compile(
        lambda a, t: torch.func.jvp(volume, (a,), (t,))[1], fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(inside(SMALL[0], torch.ones_like(SMALL[0])), TANGENT)


def test_forward_mode_over_backward():
    a = SMALL[0].clone().requires_grad_()
    out, grad = volume(a), randn(2, 9, 4, 5)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(grad, torch.ones_like(grad))
        tangent = forward_ad.unpack_dual(torch.autograd.grad(out, a, dual)[0]).tangent
    wanted = correlation_gradient(torch.ones_like(grad), SMALL[1], 1, 1, 0)
    torch.testing.assert_close(tangent, wanted)


def test_transforms_of_func():
    a = SMALL[0][:, :, :2, :2]
    b = SMALL[1][:, :, :2, :2]
    leaf = a.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(correlation(leaf, b, 1).square().sum(), leaf)

    def small(a):
        return correlation(a, b, 1).square().sum()

    torch.testing.assert_close(torch.func.grad(small)(a), wanted)
    hessian = torch.func.hessian(small)(a).reshape(a.numel(), a.numel())
    product = (hessian @ a.flatten()).view_as(a)
    torch.testing.assert_close(product, wanted)  # the energy is quadratic: H a is its gradient


def test_autocast_leaves_inputs_as_they_are():
    a = SMALL[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        assert correlation(a, a, 1).dtype == torch.float32


def test_reference_serves_without_the_library(monkeypatch):
    a, b = (t.clone().requires_grad_() for t in SMALL)
    ours = with_gradients(correlation, a, b, TANGENT, 1, 1)
    monkeypatch.setattr(native, "library_for", lambda *tensors: None)
    for mine, theirs in zip(with_gradients(correlation, a, b, TANGENT, 1, 1), ours, strict=True):
        torch.testing.assert_close(mine, theirs)
