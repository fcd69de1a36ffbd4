"""The local cost volume: how well each pixel matches the pixels around it in another image.

``correlation`` is the operator; ``correlation_reference`` beside it is its readable twin in plain
torch, which also serves devices without a kernel, and forward-mode differentiation. The kernels
are ``cuda/correlation.h`` (the maths), ``correlation.cpp`` (CPU) and ``correlation.cu`` (CUDA).
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from flowwarp.ops import native, nvrtc
from flowwarp.ops._dispatch import needs_reference
from flowwarp.ops._operators import custom_op, fold_vmap
from flowwarp.ops._shifts import pad_back, shifted_pair
from flowwarp.tensors import check_alike, check_image


def correlation(a: Tensor, b: Tensor, radius: int = 4, dilation: int = 1) -> Tensor:
    """Correlate each pixel of ``a`` with the pixels of ``b`` in a square around it.

    ``out[:, k, y, x]`` is the mean over the channels of
    ``a[:, :, y, x] * b[:, :, y + dy * dilation, x + dx * dilation]`` with
    ``k = (dy + radius) * (2 * radius + 1) + dx + radius``: rows of displacements from the upper
    left to the lower right, as in FlowNet-C (Dosovitskiy et al., 2015) and PWC-Net (Sun et al.,
    2018). Where that pixel of ``b`` lies outside the image the result is 0, whatever ``a`` is.
    Differentiable any number of times; the result of one example depends neither on its batch
    nor on the number of threads. Memory beside the result is a few rows, never an unfolded image.

    Args:
        a: (B, C, H, W) features, fp64, fp32, fp16 or bf16 (summed in fp32); any strides.
        b: (B, C, H, W) features of the other image, of the same dtype.
        radius: the largest displacement, in steps of ``dilation``; 0 correlates pixel by pixel.
        dilation: pixels between neighbouring displacements.

    Returns:
        (B, (2 * radius + 1)**2, H, W), like ``a``.

    Raises:
        TypeError: an argument is not a floating-point tensor, or a number is not an integer.
        ValueError: shapes, dtypes or devices differ, no channels, radius < 0 or dilation < 1.

    >>> import torch
    >>> a = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> b = torch.tensor([[[[10.0, 20.0, 30.0]]]])
    >>> correlation(a, b, radius=1)[0, 3:6, 0]  # dy = 0: from the left, straight, from the right
    tensor([[ 0., 20., 60.],
            [10., 40., 90.],
            [20., 60.,  0.]])
    """
    check_image(a, "a")
    check_image(b, "b")
    check_alike(b, "b", a, "a")
    if a.shape[1] == 0:
        raise ValueError(f"a must have at least one channel, got shape {tuple(a.shape)}")
    _check_count(radius, "radius", 0)
    _check_count(dilation, "dilation", 1)
    if needs_reference(a, b):
        return correlation_reference(a, b, radius, dilation)
    result: Tensor = torch.ops.flowwarp.correlation(a, b, radius, dilation)
    return result


def _check_count(value: int, name: str, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if not least <= value < 2**15:
        raise ValueError(f"{name} must be {least} to {2**15 - 1}, got {value}")


# ------------------------------------------------------------------ reference


def correlation_reference(a: Tensor, b: Tensor, radius: int = 4, dilation: int = 1) -> Tensor:
    """Correlate in plain torch, one displacement after the other.

    Args:
        a: (B, C, H, W).
        b: (B, C, H, W).
        radius: as in :func:`correlation`.
        dilation: as in :func:`correlation`.

    Returns:
        (B, (2 * radius + 1)**2, H, W), as in :func:`correlation`.
    """
    planes = [_product(a, b, dy, dx) for dy, dx in _displacements(radius, dilation)]
    return torch.stack(planes, dim=1).to(a.dtype)


def correlation_gradient_reference(
    grad_out: Tensor, other: Tensor, radius: int, dilation: int, side: int
) -> Tensor:
    """Return the gradient of ``correlation`` for ``a`` (side 0) or ``b`` (side 1) in plain torch.

    Without autograd, which is out of reach inside an operator. The gradient for ``b`` is that for
    ``a`` with the displacements reversed: a term stands at the pixel it came from.
    """
    dtype = _sum_dtype(other)
    total = torch.zeros_like(other, dtype=dtype)
    for k, (dy, dx) in enumerate(_displacements(radius, dilation)):
        dy, dx = (dy, dx) if side == 0 else (-dy, -dx)
        here, there = shifted_pair(grad_out[:, k : k + 1], grad_out[:, k : k + 1], dy, dx)
        _, value = shifted_pair(other, other, dy, dx)
        grad = here if side == 0 else there
        total = total + pad_back(grad.to(dtype) * value.to(dtype), other, dy, dx)
    return (total / other.shape[1]).to(other.dtype)


def _displacements(radius: int, dilation: int) -> list[tuple[int, int]]:
    steps = [step * dilation for step in range(-radius, radius + 1)]
    return [(dy, dx) for dy in steps for dx in steps]


def _product(a: Tensor, b: Tensor, dy: int, dx: int) -> Tensor:
    """Return the mean of ``a[y, x] * b[y + dy, x + dx]`` over the channels, (B, H, W)."""
    here, there = shifted_pair(a, b, dy, dx)
    product = here.to(_sum_dtype(a)) * there.to(_sum_dtype(a))
    return pad_back(product.mean(1), a, dy, dx)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


# ------------------------------------------------------------------ operators


@custom_op("flowwarp::correlation")
def _correlation(a: Tensor, b: Tensor, radius: int, dilation: int) -> Tensor:
    out = _empty_volume(a, radius)
    if library := native.library_for(a, b):
        library.fw_correlation(
            native.DTYPES[a.dtype],
            *_header(a, radius, dilation),
            native.pointer(a),
            _strides(a),
            native.pointer(b),
            _strides(b),
            native.pointer(out),
        )
    elif nvrtc.serves(a, b):
        nvrtc.correlation(a, b, radius, dilation, out)
    else:
        out.copy_(correlation_reference(a, b, radius, dilation))
    return out


@custom_op("flowwarp::correlation_gradient")
def correlation_gradient(
    grad_out: Tensor, other: Tensor, radius: int, dilation: int, side: int
) -> Tensor:
    """Return the gradient of ``correlation`` for ``a`` (side 0) or ``b`` (side 1).

    ``other`` is the input that the gradient is not for. The result is linear in both tensors.
    """
    grad_out, out = grad_out.contiguous(), torch.empty_like(other)
    if library := native.library_for(grad_out, other):
        library.fw_correlation_gradient(
            native.DTYPES[other.dtype],
            side,
            *_header(other, radius, dilation),
            native.pointer(grad_out),
            native.pointer(other),
            _strides(other),
            native.pointer(out),
            _strides(out),
        )
    elif nvrtc.serves(grad_out, other):
        nvrtc.correlation_gradient(grad_out, other, side, radius, dilation, out)
    else:
        out.copy_(correlation_gradient_reference(grad_out, other, radius, dilation, side))
    return out


def _header(image: Tensor, radius: int, dilation: int) -> list[Any]:
    """Return batch, channels, height, width, radius and dilation as the C functions take them."""
    batch, *rest = image.shape
    return [ctypes.c_int64(batch), *rest, radius, dilation]


def _strides(tensor: Tensor) -> Any:
    return (ctypes.c_int64 * 4)(*tensor.stride())


def _empty_volume(a: Tensor, radius: int) -> Tensor:
    return a.new_empty((a.shape[0], (2 * radius + 1) ** 2, *a.shape[2:]))


@_correlation.register_fake
def _(a: Tensor, b: Tensor, radius: int, dilation: int) -> Tensor:
    return _empty_volume(a, radius)


@correlation_gradient.register_fake
def _(grad_out: Tensor, other: Tensor, radius: int, dilation: int, side: int) -> Tensor:
    return torch.empty_like(other)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, ctx.radius, ctx.dilation, *ctx.side = inputs
    ctx.save_for_backward(first, second)


def _correlation_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, b = ctx.saved_tensors
    grad_a = _gradient(grad, b, ctx, side=0) if ctx.needs_input_grad[0] else None
    grad_b = _gradient(grad, a, ctx, side=1) if ctx.needs_input_grad[1] else None
    return grad_a, grad_b, None, None


def _gradient_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # <grad, gradient(grad_out, b)> = <grad_out, correlation(grad, b)>: both derivatives are
    # kernels we have, so that every order of differentiation is.
    grad_out, other = ctx.saved_tensors
    (side,) = ctx.side
    for_grad_out = for_other = None
    if ctx.needs_input_grad[0]:
        pair = (grad, other) if side == 0 else (other, grad)
        for_grad_out = correlation(pair[0], pair[1], ctx.radius, ctx.dilation)
    if ctx.needs_input_grad[1]:
        for_other = _gradient(grad_out, grad, ctx, side=1 - side)
    return for_grad_out, for_other, None, None, None


def _gradient(grad_out: Tensor, other: Tensor, ctx: Any, side: int) -> Tensor:
    plain = needs_reference(grad_out, other)
    gradient = correlation_gradient_reference if plain else correlation_gradient
    result: Tensor = gradient(grad_out, other, ctx.radius, ctx.dilation, side)
    return result


_correlation.register_autograd(_correlation_backward, setup_context=_save)
correlation_gradient.register_autograd(_gradient_backward, setup_context=_save)
_correlation.register_vmap(fold_vmap(_correlation))
correlation_gradient.register_vmap(fold_vmap(correlation_gradient))
