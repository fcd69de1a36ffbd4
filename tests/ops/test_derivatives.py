"""Derivatives of derivatives, as a loss chains them: each operator against its reference."""

import pytest
import torch
from torch.autograd import forward_ad

from flowwarp.ops.census import (
    census,
    census_distance,
    census_distance_reference,
    census_reference,
)
from flowwarp.ops.correlation import correlation, correlation_reference
from flowwarp.ops.splatting import splat, splat_reference
from flowwarp.ops.warping import warp, warp_reference


def rand(*shape, seed=0, scale=1.0, off=0.0):
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn * scale + off


IMAGE, FLOW = rand(1, 2, 6, 7), rand(1, 2, 6, 7, seed=1, scale=2, off=-1)
GRAY = [rand(1, 1, 6, 7, seed=seed, scale=0.02) for seed in (2, 3)]  # a few gray levels apart
OPERATORS = {
    "warp": (warp, lambda *x: warp_reference(*x)[0], (IMAGE, FLOW)),
    "warp bicubic": (
        lambda *x: warp(*x, mode="bicubic"),
        lambda *x: warp_reference(*x, mode="bicubic")[0],
        (IMAGE, FLOW),
    ),
    "splat": (splat, splat_reference, (IMAGE, FLOW)),
    "correlation": (
        lambda *x: correlation(*x, 1),
        lambda *x: correlation_reference(*x, 1),
        (IMAGE, FLOW),
    ),
    "census": (lambda x: census(x, 1), lambda x: census_reference(x, 1), GRAY[:1]),
    "census_distance": (
        lambda *x: census_distance(*x, 1),
        lambda *x: census_distance_reference(*x, 1),
        GRAY,
    ),
}


def chained(operator, inputs, orders):
    """Gradients of a loss, of the square of these, … so that each hangs on all before it."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    out = operator(*inputs)
    value = (out.square() * rand(*out.shape, seed=4)).sum()
    found = []
    for _ in range(orders):
        grads = torch.autograd.grad(value, inputs, create_graph=True)
        found.append([grad.detach() for grad in grads])
        value = sum(grad.square().sum() for grad in grads)
    return found


@pytest.mark.parametrize("name", OPERATORS)
def test_a_loss_of_gradients_of_gradients(name):
    operator, reference, inputs = OPERATORS[name]
    for got, wanted in zip(
        chained(operator, inputs, 3), chained(reference, inputs, 3), strict=True
    ):
        for one, other in zip(got, wanted, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize("name", OPERATORS)
def test_a_second_backward_leaves_no_history(name):
    operator, _, inputs = OPERATORS[name]
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    grads = torch.autograd.grad(operator(*inputs).square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(grad.square().sum() for grad in grads), inputs)
    assert not any(grad.requires_grad for grad in second)


def recorded(name):
    """Return leaves, the output of an operator for them, and a gradient of the output."""
    operator, _, inputs = OPERATORS[name]
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    out = operator(*inputs)
    return inputs, out, rand(*out.shape, seed=5).requires_grad_()


@pytest.mark.parametrize("name", OPERATORS)
def test_backward_of_a_dual_gradient_is_recorded(name):
    """With ``create_graph``: without it a second backward would silently lose this part."""
    inputs, out, grad = recorded(name)

    def second(grad):
        first = torch.autograd.grad(out, inputs, grad, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), [*inputs, grad])

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(grad, grad)
        got = [forward_ad.unpack_dual(found).primal for found in second(dual)]
    for one, other in zip(got, second(grad), strict=True):
        assert torch.allclose(one, other)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_tangent_is_not_lost_on_the_way_back(name):
    """Of a gradient that is a dual tensor, through the first backward and through the second."""
    inputs, out, grad = recorded(name)
    first = torch.autograd.grad(out, inputs, grad, create_graph=True)
    leaves = [*inputs, grad]
    for outputs, wanted in (((out,), inputs), (first[:1], leaves)):
        one, other = (rand(*outputs[0].shape, seed=seed) for seed in (6, 7))
        plain = torch.autograd.grad(
            outputs, wanted, other, retain_graph=True, materialize_grads=True
        )
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(one, other)
            grads = torch.autograd.grad(outputs, wanted, dual, retain_graph=True, allow_unused=True)
            for got, tangent in zip(grads, plain, strict=True):
                if got is not None:  # a backward is linear in what comes back
                    assert torch.allclose(forward_ad.unpack_dual(got).tangent, tangent)
