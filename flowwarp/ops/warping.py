"""Backward warping: read an image at ``x + flow``.

``warp`` is the operator. ``warp_reference`` is the same in plain torch; it serves devices without a
kernel, and forward-mode differentiation. The kernels are ``cuda/warping.h`` (the maths, for CPU and
GPU), ``warping*.cpp`` (CPU) and ``warping.cu`` (CUDA). Padding modes are in ``padding.py``.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from flowwarp.ops import native, nvrtc
from flowwarp.ops._dispatch import leaves, needs_reference
from flowwarp.ops._operators import (
    custom_op,
    dense,
    empty_in_layout,
    fold_vmap,
    match_layout,
)
from flowwarp.ops.padding import PADDINGS, Padding, fold_position, is_inside, pad_tap
from flowwarp.tensors import check_choice, check_flow, check_image

Mode = Literal["bilinear", "nearest", "bicubic"]

# enum Mode in cuda/warping.h: the taps along an axis
MODES: dict[str, int] = {"nearest": 1, "bilinear": 2, "bicubic": 4}

# True inside vmap, grad or jvp of torch.func
_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor

_FURTHEST = float(2**30)  # px; beyond it a displacement is clamped, as in cuda/warping.h


@overload
def warp(
    image: Tensor,
    flow: Tensor,
    *,
    padding: Padding = ...,
    mode: Mode = ...,
    out: Tensor | None = ...,
    mask: Literal[False] = ...,
) -> Tensor: ...
@overload
def warp(
    image: Tensor,
    flow: Tensor,
    *,
    padding: Padding = ...,
    mode: Mode = ...,
    out: Tensor | None = ...,
    mask: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@overload
def warp(
    image: Tensor,
    flow: Tensor,
    *,
    padding: Padding = ...,
    mode: Mode = ...,
    out: Tensor | None = ...,
    mask: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...
def warp(
    image: Tensor,
    flow: Tensor,
    *,
    padding: Padding = "border",
    mode: Mode = "bilinear",
    out: Tensor | None = None,
    mask: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Warp an image backward by a flow field: ``out[y, x] = image[y + v, x + u]``.

    With ``flow_12``, ``warp(image2, flow_12)`` looks like image 1. Zero flow returns the image
    bit for bit; a position is split into whole pixels and a fraction before anything is rounded,
    so that wide images lose no precision. Differentiable twice in both arguments; the result of
    one example depends neither on its batch nor on the number of threads.

    Args:
        image: (B, C, H, W), fp64, fp32, fp16 or bf16; any strides, channels-last included.
        flow: (B, 2, H, W) in pixels, x then y. It is used in fp32 (fp64 for an fp64 image).
        padding: what lies outside: ``"border"`` repeats the outer pixel; the other modes are
            described in :mod:`flowwarp.ops.padding`.
        mode: ``"bilinear"``; ``"nearest"``, halves up; ``"bicubic"``, cubic convolution with
            a = -0.75 (Keys, 1981).
        out: where to write; same shape, dtype and device as ``image``; must not share memory with
            ``image`` or ``flow``. Not with gradients, nor under a transform of ``torch.func``.
        mask: also return where the position lies inside the image.

    Returns:
        (B, C, H, W) like ``image``; with ``mask=True`` a pair with ``valid`` (B, 1, H, W) bool.
        Where flow is NaN or infinite the result is 0 and ``valid`` is False.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: a shape, device, mode or padding does not fit.

    >>> import torch
    >>> image = torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]])
    >>> shift = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    >>> warp(image, shift)
    tensor([[[[0.5000, 1.5000, 2.5000, 3.0000]]]])
    >>> warp(image, shift, mask=True)[1].int()
    tensor([[[[1, 1, 1, 0]]]], dtype=torch.int32)
    """
    check_image(image)
    check_flow(flow, like=image)
    check_choice(padding, "padding", tuple(PADDINGS))
    check_choice(mode, "mode", tuple(MODES))
    flow = flow.to(compute_dtype(image))
    if out is not None:
        _check_out(out, image, flow)
    if needs_reference(image, flow):
        result, valid = warp_reference(image, flow, padding=padding, mode=mode)
        result = result if out is None else out.copy_(result)
    elif out is not None:
        result, valid = out, torch.ops.flowwarp.warp_out(image, flow, mode, padding, mask, out)
    else:
        result, valid = torch.ops.flowwarp.warp(image, flow, mode, padding, mask)
    return (result, valid) if mask else result


def compute_dtype(image: Tensor) -> torch.dtype:
    """Return the dtype of positions and sums: fp64 for fp64 images, else fp32."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


# ------------------------------------------------------------------ reference


def warp_reference(
    image: Tensor, flow: Tensor, *, padding: str = "border", mode: str = "bilinear"
) -> tuple[Tensor, Tensor]:
    """Warp in plain torch, differentiable any number of times in both modes of AD.

    Args:
        image: (B, C, H, W).
        flow: (B, 2, H, W), fp32 or fp64.
        padding: as in :func:`warp`.
        mode: as in :func:`warp`.

    Returns:
        The warped image and ``valid`` (B, 1, H, W), as in :func:`warp`, but for the sign of zero: a
        pixel of -0.0 becomes 0.0.
    """
    height, width = image.shape[-2:]
    finite = torch.isfinite(flow).all(1, keepdim=True)
    flow = torch.where(finite, flow, 0)
    columns, rows = (
        torch.arange(width, device=flow.device),  # (W,)
        torch.arange(height, device=flow.device)[:, None],  # (H, 1)
    )
    # Whole pixels and fractions of the positions, (B, H, W) each.
    x, y = _position(columns, flow[:, 0]), _position(rows, flow[:, 1])
    # The weight of a tap in 2D is the product of its weights along both axes.
    taps_x = _taps(*x, width, padding, mode)
    taps_y = _taps(*y, height, padding, mode)

    pixels = image.to(flow.dtype).flatten(2)  # (B, C, H*W)
    total = torch.zeros_like(image, dtype=flow.dtype)
    for index_y, weight_y in taps_y:
        for index_x, weight_x in taps_x:
            weight = (weight_y * weight_x)[:, None]  # (B, 1, H, W)
            index = (index_y * width + index_x).flatten(1)[:, None]  # (B, 1, H*W)
            value = pixels.gather(2, index.expand(-1, image.shape[1], -1)).view_as(total)
            # 0 * inf is NaN: a tap without weight must not count.
            value = torch.where((weight == 0) & ~value.isfinite(), 0, value)
            total = total + weight * value
    inside = is_inside(*x, width, padding) & is_inside(*y, height, padding)
    return torch.where(finite, total, 0).to(image.dtype), finite & inside[:, None]


def _position(coordinate: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Split ``coordinate + displacement`` into whole pixels and a fraction, both exact."""
    displacement = displacement.clamp(-_FURTHEST, _FURTHEST)
    floor = displacement.floor()
    return coordinate + floor.long(), displacement - floor


def _taps(
    whole: Tensor, fraction: Tensor, size: int, padding: str, mode: str
) -> list[tuple[Tensor, Tensor]]:
    """List the pixels read along one axis as pairs of index and weight, each (B, H, W)."""
    if mode == "nearest":
        # 0 * fraction: the gradient for flow is 0, but there is one.
        return [pad_tap(whole + (fraction >= 0.5), 1 + 0 * fraction, size, padding)]
    if mode == "bilinear":
        whole, fraction = fold_position(whole, fraction, size, padding)
        weights = {0: 1 - fraction, 1: fraction}
    else:
        weights = _cubic_weights(fraction)
    return [pad_tap(whole + shift, weight, size, padding) for shift, weight in weights.items()]


def _cubic_weights(t: Tensor, a: float = -0.75) -> dict[int, Tensor]:
    """Weights of the four taps around a fraction, by their shift (Keys 1981, equation 15)."""

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:  # at distance 1 + d, written without cancellation
        return a * d * (1 - d) ** 2

    return {-1: far(t), 0: near(t), 1: near(1 - t), 2: far(1 - t)}


# ------------------------------------------------------------------ operators
# Called only where there is a kernel: on the CPU with its library, or on a GPU with NVRTC. The mode
# is named `sampling`: an operator's argument `mode` collides with one of torch's own in opcheck.


@custom_op("flowwarp::warp")
def _warp(
    image: Tensor, flow: Tensor, sampling: str, padding: str, mask: bool
) -> tuple[Tensor, Tensor]:
    image, channels_last = dense(image)
    out = empty_in_layout(image, channels_last)
    return out, _warp_into(out, image, flow, sampling, padding, mask)


@custom_op("flowwarp::warp_out", mutates_args=("out",))
def _warp_out(
    image: Tensor, flow: Tensor, sampling: str, padding: str, mask: bool, out: Tensor
) -> Tensor:
    image, channels_last = dense(image)
    if match_layout(out, channels_last) is out:  # the kernel can write into it
        return _warp_into(out, image, flow, sampling, padding, mask)
    result = empty_in_layout(image, channels_last)
    valid = _warp_into(result, image, flow, sampling, padding, mask)
    out.copy_(result)
    return valid


def _warp_into(
    out: Tensor, image: Tensor, flow: Tensor, sampling: str, padding: str, mask: bool
) -> Tensor:
    """Warp a dense image into ``out`` of its layout and return the mask, empty if not wanted."""
    valid = _empty_mask(flow, mask)
    if library := native.library_for(image, flow):
        status = library.fw_warp(
            *_header(image, sampling, padding),
            native.pointer(image),
            native.pointer(flow := flow.contiguous()),
            native.pointer(out),
            native.pointer(valid if mask else None),
        )
        _check_status(status, image, sampling, padding)
    else:
        nvrtc.warp(image, flow.contiguous(), MODES[sampling], PADDINGS[padding], out, valid)
    return valid


def _header(image: Tensor, sampling: str, padding: str) -> list[Any]:
    """Return the first arguments of each C function; ``image`` (B, C, H, W) is dense."""
    return [
        native.DTYPES[image.dtype],
        MODES[sampling],
        PADDINGS[padding],
        int(not image.is_contiguous()),
        *native.sizes(*image.shape),
    ]


def _check_status(status: int, image: Tensor, sampling: str, padding: str) -> None:
    """Raise if the C function refused: Python and C++ differ in dtypes, modes or paddings."""
    if status:
        call = f"dtype {image.dtype}, mode {sampling}, padding {padding}"
        raise RuntimeError(f"the CPU library cannot warp with {call}")


def _empty_mask(flow: Tensor, mask: bool) -> Tensor:
    batch, _, height, width = flow.shape
    shape = (batch, 1, height, width) if mask else (0,)
    return torch.empty(shape, dtype=torch.bool, device=flow.device)


@_warp.register_fake
def _(
    image: Tensor, flow: Tensor, sampling: str, padding: str, mask: bool
) -> tuple[Tensor, Tensor]:
    image, channels_last = dense(image)
    return empty_in_layout(image, channels_last), _empty_mask(flow, mask)


@_warp_out.register_fake
def _(image: Tensor, flow: Tensor, sampling: str, padding: str, mask: bool, out: Tensor) -> Tensor:
    return _empty_mask(flow, mask)


@custom_op("flowwarp::warp_image_gradient")
def warp_image_gradient(grad_out: Tensor, flow: Tensor, sampling: str, padding: str) -> Tensor:
    """Return the gradient of ``warp`` for its image, (B, C, H, W).

    It is the adjoint of reading: each value of ``grad_out`` (B, C, H, W) is added, times the
    weights of its taps, to the pixels that these taps read.
    """
    grad_out, channels_last = dense(grad_out)
    flow = flow.contiguous()
    grad_image = empty_in_layout(grad_out, channels_last)
    if library := native.library_for(grad_out, flow):
        status = library.fw_warp_image_gradient(
            *_header(grad_out, sampling, padding),
            native.pointer(flow),
            native.pointer(grad_out),
            native.pointer(grad_image),
            torch.get_num_threads(),
        )
        _check_status(status, grad_out, sampling, padding)
    else:
        nvrtc.image_gradient(grad_out, flow, MODES[sampling], PADDINGS[padding], grad_image)
    return grad_image


@custom_op("flowwarp::warp_flow_gradient")
def warp_flow_gradient(
    grad_out: Tensor, image: Tensor, flow: Tensor, sampling: str, padding: str
) -> Tensor:
    """Return the gradient of ``warp`` for its flow, (B, 2, H, W).

    ``grad_flow[:, 0] = sum over channels of grad_out * d warped / d u``, and so on for v; at each
    pixel, the derivative of a tap's weight takes the place of its weight.
    """
    image, channels_last = dense(image)
    grad_out, flow = match_layout(grad_out, channels_last), flow.contiguous()
    grad_flow = torch.empty_like(flow)
    if library := native.library_for(image, flow, grad_out):
        status = library.fw_warp_flow_gradient(
            *_header(image, sampling, padding),
            native.pointer(image),
            native.pointer(flow),
            native.pointer(grad_out),
            native.pointer(grad_flow),
        )
        _check_status(status, image, sampling, padding)
    else:
        nvrtc.flow_gradient(image, flow, grad_out, MODES[sampling], PADDINGS[padding], grad_flow)
    return grad_flow


def _flow_gradient_reference(
    grad_out: Tensor,
    image: Tensor,
    flow: Tensor,
    sampling: str,
    padding: str,
    create_graph: bool = True,
) -> Tensor:
    """Return what the kernel does; with ``create_graph``, differentiable in all three tensors."""
    warped, _ = warp_reference(image, flow, padding=padding, mode=sampling)
    (grad_flow,) = torch.autograd.grad(
        warped, flow, grad_out, create_graph=create_graph, materialize_grads=True
    )
    return grad_flow


@warp_image_gradient.register_fake
def _(grad_out: Tensor, flow: Tensor, sampling: str, padding: str) -> Tensor:
    grad_out, channels_last = dense(grad_out)
    return empty_in_layout(grad_out, channels_last)


@warp_flow_gradient.register_fake
def _(grad_out: Tensor, image: Tensor, flow: Tensor, sampling: str, padding: str) -> Tensor:
    return torch.empty_like(flow, memory_format=torch.contiguous_format)


def _save_warp(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    image, flow, ctx.sampling, ctx.padding, _ = inputs
    ctx.save_for_backward(image, flow)
    ctx.mark_non_differentiable(output[1])


def _warp_backward(
    ctx: Any, grad_out: Tensor, _grad_valid: Tensor
) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    image, flow = ctx.saved_tensors
    grad_image = grad_flow = None
    if needs_reference(grad_out):  # a dual tensor: the kernels would lose its tangent
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            tensors = leaves((image, flow))
            warped, _ = warp_reference(*tensors, padding=ctx.padding, mode=ctx.sampling)
            grad_image, grad_flow = torch.autograd.grad(
                warped, tensors, grad_out, create_graph=create_graph, materialize_grads=True
            )
        return grad_image, grad_flow, None, None, None
    if ctx.needs_input_grad[0]:
        grad_image = warp_image_gradient(grad_out, flow, ctx.sampling, ctx.padding)
    if ctx.needs_input_grad[1]:
        grad_flow = warp_flow_gradient(grad_out, image, flow, ctx.sampling, ctx.padding)
    return grad_image, grad_flow, None, None, None


def _save_image_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_out, flow, ctx.sampling, ctx.padding = inputs
    ctx.save_for_backward(grad_out, flow)


def _image_gradient_backward(
    ctx: Any, grad: Tensor
) -> tuple[Tensor | None, Tensor | None, None, None]:
    # The image gradient is linear in grad_out, and its adjoint is warp:
    # <grad, image_gradient(grad_out)> = <warp(grad), grad_out>. So both derivatives have kernels.
    grad_out, flow = ctx.saved_tensors
    for_grad_out = for_flow = None
    if needs_reference(grad):
        create_graph = torch.is_grad_enabled()
        for_grad_out, _ = warp_reference(grad, flow, padding=ctx.padding, mode=ctx.sampling)
        with torch.enable_grad():
            (leaf,) = leaves([flow])
            for_flow = _flow_gradient_reference(
                grad_out, grad, leaf, ctx.sampling, ctx.padding, create_graph
            )
        return for_grad_out, for_flow, None, None
    if ctx.needs_input_grad[0]:
        for_grad_out, _ = torch.ops.flowwarp.warp(grad, flow, ctx.sampling, ctx.padding, False)
    if ctx.needs_input_grad[1]:
        for_flow = warp_flow_gradient(grad_out, grad, flow, ctx.sampling, ctx.padding)
    return for_grad_out, for_flow, None, None


def _save_flow_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.sampling, ctx.padding = inputs
    ctx.save_for_backward(*tensors)


def _flow_gradient_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # Second derivatives are rarely needed and have no kernel: the reference computes them.
    create_graph = torch.is_grad_enabled()  # a third may follow
    with torch.enable_grad():
        tensors = leaves(ctx.saved_tensors)
        grad_out, image, flow = tensors
        grad_flow = _flow_gradient_reference(grad_out, image, flow, ctx.sampling, ctx.padding)
        grads = torch.autograd.grad(
            grad_flow, tensors, grad, create_graph=create_graph, materialize_grads=True
        )
    return (*grads, None, None)


_warp.register_autograd(_warp_backward, setup_context=_save_warp)
warp_image_gradient.register_autograd(_image_gradient_backward, setup_context=_save_image_gradient)
warp_flow_gradient.register_autograd(_flow_gradient_backward, setup_context=_save_flow_gradient)
_warp.register_vmap(fold_vmap(_warp))
warp_image_gradient.register_vmap(fold_vmap(warp_image_gradient))
warp_flow_gradient.register_vmap(fold_vmap(warp_flow_gradient))


def _check_out(out: Tensor, image: Tensor, flow: Tensor) -> None:
    check_image(out, "out")
    if out.shape != image.shape or out.dtype != image.dtype or out.device != image.device:
        raise ValueError(
            f"out must be {tuple(image.shape)} {image.dtype} on {image.device}, "
            f"got {tuple(out.shape)} {out.dtype} on {out.device}"
        )
    if not torch.compiler.is_compiling():
        if any(map(_is_transformed, (out, image, flow))):
            problem = "out cannot be used under vmap, grad or jvp of torch.func"
            raise ValueError(f"{problem}; leave it out")
        for name, read in (("image", image), ("flow", flow)):
            if _share_memory(out, read):
                problem = f"out must not share memory with {name}"
                raise ValueError(f"{problem}: warping reads what it would write")
    if torch.is_grad_enabled() and (image.requires_grad or flow.requires_grad):
        raise ValueError("out cannot be used where gradients are recorded; leave it out")


def _share_memory(a: Tensor, b: Tensor) -> bool:
    one, other = _extent(a), _extent(b)
    return max(one.start, other.start) < min(one.stop, other.stop)


def _extent(tensor: Tensor) -> range:
    """Return the addresses from a tensor's first byte to its last, gaps included."""
    if not tensor.numel() or tensor.is_meta or isinstance(tensor, FakeTensor):  # no memory
        return range(0)
    first = tensor.data_ptr()
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in sides)
    return range(first, first + (last + 1) * tensor.element_size())
