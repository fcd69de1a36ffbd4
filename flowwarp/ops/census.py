"""The soft census transform, and how far two images are apart in it.

``census`` and ``census_distance`` are the operators; ``census_reference`` and
``census_distance_reference`` beside them are their readable twins in plain torch, which also serve
devices without a kernel, and forward-mode differentiation. The kernels are ``cuda/census.h`` (the
maths), ``census.cpp`` (CPU) and ``census.cu`` (CUDA).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowwarp.ops import native, nvrtc
from flowwarp.ops._dispatch import leaves, needs_reference
from flowwarp.ops._operators import custom_op, fold_vmap
from flowwarp.ops._shifts import pad_back, shifted_pair
from flowwarp.tensors import check_alike, check_image

GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)  # ITU-R BT.601, as in TensorFlow's rgb_to_grayscale
SIGN_SOFTNESS = 0.81  # grey levels squared, of 255
HAMMING_SOFTNESS = 0.1
MOST_RADIUS = 127


def census(image: Tensor, radius: int = 3) -> Tensor:
    """Describe each pixel by the signs of the differences to its neighbours, softly.

    Channel ``k`` is ``d / sqrt(0.81 + d**2)`` where ``d`` is the neighbour's grey value less the
    pixel's, in grey levels: 255 times the image, RGB weighted by 0.2989, 0.5870, 0.1140. It does
    not change with brightness, and little with contrast. The neighbours are the square's
    ``K = (2 * radius + 1)**2 - 1``, row by row from the upper left, without the centre (which
    others keep: it is always 0). A neighbour outside the image gives 0.

    The census transform is by Zabih and Woodfill (1994), its ternary form by Stein (2004), this
    smooth one as in DDFlow (Liu et al., 2019), ARFlow and UFlow.

    Args:
        image: (B, C, H, W) in [0, 1], C = 1 or 3 (RGB); fp64, fp32, fp16 or bf16.
        radius: 1 to 127; 3 compares with a square of 7 x 7.

    Returns:
        (B, K, H, W) in [-1, 1], of the dtype of ``image``.

    Raises:
        TypeError: ``image`` is not a floating-point tensor, or ``radius`` not an integer.
        ValueError: a wrong shape, or a radius out of range.

    >>> import torch
    >>> image = torch.tensor([[[[0.0, 0.0, 1.0]]]])
    >>> census(image, radius=1)[0, 3:5, 0].round()  # from the left, from the right
    tensor([[ 0.,  0., -1.],
            [ 0.,  1.,  0.]])
    """
    _check(image, "image", radius)
    if needs_reference(image):
        return census_reference(image, radius)
    result: Tensor = torch.ops.flowwarp.census(image, radius)
    return result


def census_distance(image1: Tensor, image2: Tensor, radius: int = 3) -> Tensor:
    """Return the soft Hamming distance of the census transforms of two images.

    At each pixel the mean over the ``K`` neighbours of ``h(t1 - t2)``, ``h(z) = z**2 / (0.1 +
    z**2)``, where ``t1`` and ``t2`` are the channels of :func:`census`. A neighbour outside the
    image adds nothing, and the mean is over all ``K`` everywhere: the distance is smaller near the
    border. No transform is kept in memory, forward or backward. ARFlow divides by ``K + 1``, its
    centre's 0 included; UFlow takes the sum.

    Args:
        image1: (B, C, H, W) in [0, 1], C = 1 or 3 (RGB); fp64, fp32, fp16 or bf16.
        image2: the other image, of the same shape and dtype.
        radius: 1 to 127; 3 compares squares of 7 x 7.

    Returns:
        (B, 1, H, W) in [0, 1), of the images' dtype.

    Raises:
        TypeError: an image is not a floating-point tensor, or ``radius`` not an integer.
        ValueError: shapes, dtypes or devices differ, a wrong shape, or a radius out of range.

    >>> import torch
    >>> image = torch.rand(1, 3, 8, 8)
    >>> census_distance(image, 0.5 * image + 0.25).mean() < census_distance(image, 1 - image).mean()
    tensor(True)
    """
    _check(image1, "image1", radius)
    check_image(image2, "image2")
    check_alike(image2, "image2", image1, "image1")
    if needs_reference(image1, image2):
        return census_distance_reference(image1, image2, radius)
    result: Tensor = torch.ops.flowwarp.census_distance(image1, image2, radius)
    return result


def _check(image: Tensor, name: str, radius: int) -> None:
    check_image(image, name)
    if image.shape[1] not in (1, 3):
        raise ValueError(f"{name} must have 1 or 3 channels, got shape {tuple(image.shape)}")
    if not isinstance(radius, int) or isinstance(radius, bool):
        raise TypeError(f"radius must be an integer, got {type(radius).__name__}")
    if not 1 <= radius <= MOST_RADIUS:
        raise ValueError(f"radius must be 1 to {MOST_RADIUS}, got {radius}")


# ------------------------------------------------------------------ references


def census_reference(image: Tensor, radius: int = 3) -> Tensor:
    """Transform in plain torch; arguments and result as in :func:`census`."""
    grey = _grey(image)
    planes = [pad_back(_sign(grey, *step), grey, *step) for step in _neighbours(radius)]
    return torch.cat(planes, dim=1).to(image.dtype)


def census_distance_reference(image1: Tensor, image2: Tensor, radius: int = 3) -> Tensor:
    """Compare in plain torch; arguments and result as in :func:`census_distance`."""
    grey1, grey2 = _grey(image1), _grey(image2)
    total = torch.zeros_like(grey1)
    for step in _neighbours(radius):
        square = (_sign(grey1, *step) - _sign(grey2, *step)).square()
        total = total + pad_back(square / (HAMMING_SOFTNESS + square), grey1, *step)
    return (total / ((2 * radius + 1) ** 2 - 1)).to(image1.dtype)


def census_gradient_reference(grad_out: Tensor, image: Tensor, radius: int) -> Tensor:
    """Return the gradient of ``census`` in plain torch, without autograd (see below)."""
    grey, grad_out = _grey(image), _widen(grad_out)
    total, last = torch.zeros_like(grey), grad_out.shape[1] - 1
    for k, step in enumerate(_neighbours(radius)):
        # The pixel is the centre in plane k, and its neighbour's neighbour in the opposite plane.
        own, _ = shifted_pair(grad_out[:, k : k + 1], grad_out, *step)
        _, others = shifted_pair(grey, grad_out[:, last - k : last - k + 1], *step)
        total = total + pad_back(_slope(grey, *step) * (others - own), grey, *step)
    return _spread(total, image)


def census_distance_gradient_reference(
    grad_out: Tensor, image1: Tensor, image2: Tensor, radius: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``census_distance`` for both images in plain torch.

    Without autograd, which is out of reach inside an operator. The sign is odd and the distance
    even, so that a pixel and its neighbour add the same term to the distances of both; hence
    ``grad1(p) = -1 / K * sum_k (g(p) + g(p + k)) h'(z) s'(d1)``; ``grad2`` has a plus and ``d2``.
    """
    grey1, grey2, grad_out = _grey(image1), _grey(image2), _widen(grad_out)
    total1, total2 = torch.zeros_like(grey1), torch.zeros_like(grey2)
    for step in _neighbours(radius):
        z = _sign(grey1, *step) - _sign(grey2, *step)
        slope = 2 * HAMMING_SOFTNESS * z / (HAMMING_SOFTNESS + z.square()).square()
        own, others = shifted_pair(grad_out, grad_out, *step)
        term = (own + others) * slope
        total1 = total1 - pad_back(term * _slope(grey1, *step), grey1, *step)
        total2 = total2 + pad_back(term * _slope(grey2, *step), grey2, *step)
    count = (2 * radius + 1) ** 2 - 1
    return _spread(total1 / count, image1), _spread(total2 / count, image2)


def _grey(image: Tensor) -> Tensor:
    """Return grey levels of 0 to 255, (B, 1, H, W), in fp32 or fp64."""
    image = _widen(image)
    return (_weights(image) * image).sum(1, keepdim=True)


def _spread(grad_grey: Tensor, image: Tensor) -> Tensor:
    """Return what a gradient for grey levels is for the image."""
    return (_weights(grad_grey, image.shape[1]) * grad_grey).to(image.dtype)


def _weights(like: Tensor, channels: int | None = None) -> Tensor:
    count = like.shape[1] if channels is None else channels
    weights = (1.0,) if count == 1 else GREY_WEIGHTS
    return 255 * torch.tensor(weights, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)


def _neighbours(radius: int) -> Iterator[tuple[int, int]]:
    steps = range(-radius, radius + 1)
    return ((dy, dx) for dy in steps for dx in steps if (dy, dx) != (0, 0))


def _sign(grey: Tensor, dy: int, dx: int) -> Tensor:
    """Return the soft sign of the differences to one neighbour, where that is inside."""
    here, there = shifted_pair(grey, grey, dy, dx)
    difference = there - here
    return difference * torch.rsqrt(SIGN_SOFTNESS + difference.square())


def _slope(grey: Tensor, dy: int, dx: int) -> Tensor:
    """Return the derivative of :func:`_sign` for the difference."""
    here, there = shifted_pair(grey, grey, dy, dx)
    return SIGN_SOFTNESS * torch.rsqrt(SIGN_SOFTNESS + (there - here).square()).pow(3)


# ------------------------------------------------------------------ operators


@custom_op("flowwarp::census")
def _census(image: Tensor, radius: int) -> Tensor:
    out = _empty_planes(image, (2 * radius + 1) ** 2 - 1)
    if library := native.library_for(image):
        library.fw_census(*_header(image, radius), *_strided(image), native.pointer(out))
    elif nvrtc.serves(image):
        nvrtc.census(image, radius, out)
    else:
        out.copy_(census_reference(image, radius))
    return out


@custom_op("flowwarp::census_gradient")
def census_gradient(grad_out: Tensor, image: Tensor, radius: int) -> Tensor:
    """Return the gradient of ``census`` for its image."""
    grad_out, out = grad_out.contiguous(), torch.empty_like(image)
    if library := native.library_for(grad_out, image):
        library.fw_census_gradient(
            *_header(image, radius),
            native.pointer(grad_out),
            *_strided(image),
            *_strided(out),
        )
    elif nvrtc.serves(grad_out, image):
        nvrtc.census_gradient(grad_out, image, radius, out)
    else:
        out.copy_(census_gradient_reference(grad_out, image, radius))
    return out


@custom_op("flowwarp::census_distance")
def _census_distance(image1: Tensor, image2: Tensor, radius: int) -> Tensor:
    out = _empty_planes(image1, 1)
    if library := native.library_for(image1, image2):
        library.fw_census_distance(
            *_header(image1, radius), *_strided(image1), *_strided(image2), native.pointer(out)
        )
    elif nvrtc.serves(image1, image2):
        nvrtc.census_distance(image1, image2, radius, out)
    else:
        out.copy_(census_distance_reference(image1, image2, radius))
    return out


@custom_op("flowwarp::census_distance_gradient")
def census_distance_gradient(
    grad_out: Tensor, image1: Tensor, image2: Tensor, radius: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``census_distance`` for both images."""
    grad_out = grad_out.contiguous()
    out1, out2 = torch.empty_like(image1), torch.empty_like(image2)
    if library := native.library_for(grad_out, image1, image2):
        library.fw_census_distance_gradient(
            *_header(image1, radius),
            native.pointer(grad_out),
            *_strided(image1),
            *_strided(image2),
            *_strided(out1),
            *_strided(out2),
        )
    elif nvrtc.serves(grad_out, image1, image2):
        nvrtc.census_distance_gradient(grad_out, image1, image2, radius, out1, out2)
    else:
        grads = census_distance_gradient_reference(grad_out, image1, image2, radius)
        out1.copy_(grads[0])
        out2.copy_(grads[1])
    return out1, out2


def _header(image: Tensor, radius: int) -> list[Any]:
    """Return dtype, batch, channels, height, width and radius as the C functions take them."""
    batch, *rest = image.shape
    return [native.DTYPES[image.dtype], ctypes.c_int64(batch), *rest, radius]


def _strided(tensor: Tensor) -> tuple[Any, Any]:
    return native.pointer(tensor), (ctypes.c_int64 * 4)(*tensor.stride())


def _empty_planes(image: Tensor, count: int) -> Tensor:
    return image.new_empty((image.shape[0], count, *image.shape[2:]))


@_census.register_fake
def _(image: Tensor, radius: int) -> Tensor:
    return _empty_planes(image, (2 * radius + 1) ** 2 - 1)


@census_gradient.register_fake
def _(grad_out: Tensor, image: Tensor, radius: int) -> Tensor:
    return torch.empty_like(image)


@_census_distance.register_fake
def _(image1: Tensor, image2: Tensor, radius: int) -> Tensor:
    return _empty_planes(image1, 1)


@census_distance_gradient.register_fake
def _(grad_out: Tensor, image1: Tensor, image2: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(image1), torch.empty_like(image2)


# ------------------------------------------------------------------ derivatives
#
# First ones are kernels; second ones are rare and small, and differentiate the reference of those.


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.radius = inputs
    ctx.save_for_backward(*tensors)


def _census_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
    (image,) = ctx.saved_tensors
    plain = needs_reference(grad, image)
    gradient = census_gradient_reference if plain else census_gradient
    return gradient(grad, image, ctx.radius), None


def _distance_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    image1, image2 = ctx.saved_tensors
    plain = needs_reference(grad, image1, image2)
    gradient = census_distance_gradient_reference if plain else census_distance_gradient
    grad1, grad2 = gradient(grad, image1, image2, ctx.radius)
    return grad1, grad2, None


def _second_census(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_second(census_gradient_reference, ctx, (grad,)), None


def _second_distance(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return *_second(census_distance_gradient_reference, ctx, grads), None


def _second(gradient: Any, ctx: Any, grads: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    again = torch.is_grad_enabled()  # a third derivative may follow
    with torch.enable_grad():
        tensors = leaves(ctx.saved_tensors)
        first = gradient(*tensors, ctx.radius)
        return torch.autograd.grad(
            first, tensors, grads, create_graph=again, materialize_grads=True
        )


_census.register_autograd(_census_backward, setup_context=_save)
census_gradient.register_autograd(_second_census, setup_context=_save)
_census_distance.register_autograd(_distance_backward, setup_context=_save)
census_distance_gradient.register_autograd(_second_distance, setup_context=_save)
for _operator in (_census, census_gradient, _census_distance, census_distance_gradient):
    _operator.register_vmap(fold_vmap(_operator))
