"""What the custom operators share: how they are made, memory layouts, the rule for vmap."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

_MARK = "__dynamo_disable"  # where torch keeps a kernel's wrapper that Dynamo does not look into


def custom_op(
    name: str, *, mutates_args: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Do what ``torch.library.custom_op`` does, without loading Dynamo for it.

    Torch hides kernels from Dynamo, and imports it for that at the first call: a second of every
    command's start. As long as nobody else has loaded it, there is nothing to hide from. Where
    torch has another way of hiding them than 2.6 to 2.13 had, all is as it would be without this.
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
    """Return a stand-in for the wrapper: it steps aside once Dynamo is loaded."""

    def call(*arguments: Any, **named: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return plain(*arguments, **named)
        if getattr(plain, _MARK, None) is call:
            delattr(plain, _MARK)
        return kernel(*arguments, **named)

    return call


def dense(image: Tensor) -> tuple[Tensor, bool]:
    """Return ``image`` without gaps, and whether it is channels last; copies only if it must."""
    if image.is_contiguous():
        return image, False
    if image.is_contiguous(memory_format=torch.channels_last):
        return image, True
    return image.contiguous(), False


def match_layout(tensor: Tensor, channels_last: bool) -> Tensor:
    """Return ``tensor`` in the layout that :func:`dense` found for another."""
    return tensor.contiguous(memory_format=_memory_format(channels_last))


def empty_in_layout(like: Tensor, channels_last: bool) -> Tensor:
    """Return memory of the shape and dtype of ``like`` in one of the two layouts."""
    return torch.empty_like(like, memory_format=_memory_format(channels_last))


def _memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def fold_vmap(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Make the vmap rule of an operator whose tensors all have a leading batch dimension.

    The mapped dimension is folded into the batch, so that one call serves: no result depends on
    the batch that an example is in.
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
            # Where nothing is mapped, only an argument tells the batch; else the result does, which
            # may be empty where nobody wants it.
            batch = result.shape[0] // count if count else one_batch
            return result.view(count, batch, *result.shape[1:])

        first, dim = arguments[0], in_dims[0]
        one_batch = first.shape[0] if dim is None else first.movedim(dim, 0).shape[1]
        results = operator(*(fold(a, d) for a, d in zip(arguments, in_dims, strict=True)))
        if isinstance(results, Tensor):
            return unfold(results), 0
        return tuple(map(unfold, results)), tuple(0 for _ in results)

    return rule
