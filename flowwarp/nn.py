"""A check that a network is batch-invariant: each output depends on its own example only.

Then its loss and gradient are the same in any batch, and a batch may be split into micro-batches or
over processes. Batch norm in training mode breaks this, and so does any sum over the batch. All
networks of flowwarp are batch-invariant.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

Example = Tensor | Sequence[Tensor] | Mapping[str, Tensor]

_SIZES = (2, 3, 8)  # of the batches that are tried


@dataclass(frozen=True)
class BatchDependence:
    """The largest relative difference of the output for an example between batches.

    It is ``|a - b| / |b|`` by Euclidean norms. For integers it is the share of elements that
    differ. It is infinite where a number turns into NaN.

    Args:
        neighbours: difference between batches of the same size with the example at the same index,
            but with other neighbours. All sums are added in the same order, so anything but 0 is a
            leak.
        size: difference between the example alone and in a batch. Libraries choose the order of
            sums (blocks of a matrix product or convolution) by the batch size, so this may be a few
            roundings of float32 without a leak.
    """

    neighbours: float
    size: float


def check_batch_invariance(
    model: Callable[..., Any], example: Example, *, tolerance: float = 1e-6
) -> BatchDependence:
    """Raise an error if the output of a model for an example depends on its batch.

    Args:
        model: a network or a function. A network is called in its current mode: batch norm leaks
            in training mode only. Dropout and other random numbers make the output depend on the
            batch, since all examples share one generator.
        example: the model's arguments for one example, each (1, ...): a tensor, a sequence of
            tensors, or a mapping from names to tensors.
        tolerance: the largest relative difference allowed between the example alone and in a
            batch, where libraries round differently. Between batches of the same size none is.

    Returns:
        The differences that were measured; see :func:`measure_batch_dependence`.

    Raises:
        ValueError: the output depends on the batch, or its first axis is not the batch.

    >>> check_batch_invariance(torch.nn.Tanh(), torch.rand(1, 4))
    BatchDependence(neighbours=0.0, size=0.0)
    >>> check_batch_invariance(torch.nn.BatchNorm1d(4), torch.rand(1, 4, 9))
    Traceback (most recent call last):
        ...
    ValueError: model depends on the batch: other neighbours change an example by inf, allowed 0
    """
    measured = measure_batch_dependence(model, example)
    if measured.neighbours:
        raise ValueError(
            "model depends on the batch: other neighbours change an example by "
            f"{measured.neighbours:.1e}, allowed 0"
        )
    if not measured.size <= tolerance:
        raise ValueError(
            "model depends on the batch: alone and in a batch an example differs by "
            f"{measured.size:.1e}, allowed {tolerance:.0e}"
        )
    return measured


@torch.no_grad()
def measure_batch_dependence(model: Callable[..., Any], example: Example) -> BatchDependence:
    """Measure how much the output of a model for an example depends on its batch.

    The example is put at the beginning, middle and end of batches of 2, 3 and 8. Its neighbours are
    made from it: mirrored, times 10,000, and all NaN, since NaN spreads into every sum.

    Args:
        model: as for :func:`check_batch_invariance`.
        example: as for :func:`check_batch_invariance`.

    Raises:
        ValueError: an argument or output does not have the batch as its first axis.
    """
    if isinstance(model, torch.nn.Module):
        model = copy.deepcopy(model)  # batch norm updates its running statistics
    alone = _outputs(model, example, 1, 0, _mirrored)
    neighbours = size = 0.0
    for count in _SIZES:
        for index in {0, count // 2, count - 1}:
            first, *others = (
                _outputs(model, example, count, index, neighbour)
                for neighbour in (_mirrored, _enlarged, _all_nan)
            )
            size = max(size, _difference(first, alone))
            neighbours = max(neighbours, *(_difference(other, first) for other in others))
    return BatchDependence(neighbours, size)


def _mirrored(tensor: Tensor) -> Tensor:
    return tensor.flip(list(range(1, tensor.ndim)))


def _enlarged(tensor: Tensor) -> Tensor:
    return 1e4 * tensor if tensor.is_floating_point() else tensor


def _all_nan(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor


def _outputs(
    model: Callable[..., Any],
    example: Example,
    count: int,
    index: int,
    neighbour: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """Return the outputs (...) for the example at an index of a batch of ``count``."""

    def batch(tensor: Tensor) -> Tensor:
        if tensor.ndim < 1 or len(tensor) != 1:
            raise ValueError(f"example must hold tensors (1, ...), got {tuple(tensor.shape)}")
        rows = [neighbour(tensor)] * count
        rows[index] = tensor
        return torch.cat(rows)

    if isinstance(example, Mapping):
        output = model(**{name: batch(tensor) for name, tensor in example.items()})
    elif isinstance(example, Tensor):
        output = model(batch(example))
    else:
        output = model(*map(batch, example))
    tensors = list(_tensors(output))
    for tensor in tensors:
        if tensor.ndim < 1 or len(tensor) != count:
            raise ValueError(
                f"model must return tensors whose first axis is the example, ({count}, ...), "
                f"got {tuple(tensor.shape)}"
            )
    return [tensor[index] for tensor in tensors]


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested sequences, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif is_dataclass(value):
        for item in fields(value):
            yield from _tensors(getattr(value, item.name))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _tensors(item)


def _difference(one: Sequence[Tensor], two: Sequence[Tensor]) -> float:
    """Return the largest relative difference between the tensors of two results."""
    return max((_relative(*pair) for pair in zip(one, two, strict=True)), default=0.0)


def _relative(one: Tensor, two: Tensor) -> float:
    if torch.equal(one, two):
        return 0.0
    if not one.is_floating_point():
        return float((one != two).float().mean())
    equal = one.isinf() & (one == two)  # as in masked logits; inf - inf would be NaN
    one, two = (tensor.double().masked_fill(equal, 0) for tensor in (one, two))
    difference = float((one - two).norm() / two.norm())
    return math.inf if math.isnan(difference) else difference
