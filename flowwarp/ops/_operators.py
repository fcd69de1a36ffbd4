"""Helpers of the custom operators: registration, memory layouts, the vmap rule."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

_MARK = "__dynamo_disable"  # torch keeps the wrapper that hides a kernel from Dynamo here


def custom_op(
    name: str, *, mutates_args: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Register an operator like ``torch.library.custom_op``, without loading Dynamo.

    Torch hides kernels from Dynamo and imports Dynamo for this at the first call, which takes a
    second at the start of every command. As long as nothing else has loaded Dynamo, there is no
    need to hide them. torch 2.6 to 2.13 do this by a wrapper that is replaced here; with another
    version of torch that has no such wrapper, this is plain ``torch.library.custom_op``.
    """
    define = torch.library.custom_op(name, mutates_args=mutates_args)

    def decorate(function: Callable[..., Any]) -> CustomOpDef:
        operator = define(function)
        for kernel in getattr(operator, "_backend_fns", {}).values():
            plain = getattr(kernel, "__wrapped__", None)
            if plain is not None:
                setattr(plain, _MARK, _until_dynamo(kernel, plain))
        return operator

    return decorate


def _until_dynamo(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a replacement of the wrapper; it restores the wrapper once Dynamo is loaded."""

    def call(*arguments: Any, **named: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return plain(*arguments, **named)
        if getattr(plain, _MARK, None) is call:
            delattr(plain, _MARK)
        return kernel(*arguments, **named)

    return call


def dense(image: Tensor) -> tuple[Tensor, bool]:
    """Return ``image`` (B, C, H, W) in dense memory, and whether that is channels last.

    It is copied only if it is dense in neither of the two layouts.
    """
    if image.is_contiguous():
        return image, False
    if image.is_contiguous(memory_format=torch.channels_last):
        return image, True
    return image.contiguous(), False


def match_layout(tensor: Tensor, channels_last: bool) -> Tensor:
    """Return ``tensor`` (B, C, H, W) in one of the layouts of :func:`dense`."""
    return tensor.contiguous(memory_format=_memory_format(channels_last))


def empty_in_layout(like: Tensor, channels_last: bool) -> Tensor:
    """Return an uninitialised tensor like ``like`` (B, C, H, W) in one of the layouts."""
    return torch.empty_like(like, memory_format=_memory_format(channels_last))


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def fold_vmap(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the vmap rule of an operator whose tensors all begin with a batch dimension.

    The mapped dimension N is folded into the batch, (N, B, ...) to (N * B, ...), and one call
    computes all. This is right because no result depends on the batch that an example is in.
    """

    def rule(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        count = info.batch_size

        def fold(argument: Any, dim: int | None) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            if dim is None:
                argument = argument.expand(count, *argument.shape)
            else:
                argument = argument.movedim(dim, 0)
            return argument.flatten(0, 1)

        def unfold(result: Tensor) -> Tensor:
            # With N = 0 the batch size B is known from an argument only. Else it follows from the
            # result, as a mask that is not wanted is empty.
            batch = result.shape[0] // count if count else one_batch
            return result.view(count, batch, *result.shape[1:])

        first, dim = arguments[0], in_dims[0]
        one_batch = first.shape[0] if dim is None else first.movedim(dim, 0).shape[1]
        results = operator(*(fold(a, d) for a, d in zip(arguments, in_dims, strict=True)))
        if isinstance(results, Tensor):
            return unfold(results), 0
        return tuple(map(unfold, results)), tuple(0 for _ in results)

    return rule
