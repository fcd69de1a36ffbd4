"""What every network here promises: of the batch it is in, an example sees nothing but itself.

So the output for an example, its loss and its gradient are the same whoever its neighbours are, and
a batch may be split as one likes. Batch norm breaks that, and so does any sum over the batch.
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

_SIZES = (2, 3, 8)  # of the batches tried


@dataclass(frozen=True)
class BatchDependence:
    """How much the output for an example changes with its batch: largest relative differences.

    Each is the norm of an output's difference over the output's norm; of integers it is the share
    that differs. Infinite where a number becomes none.

    Args:
        neighbours: between batches of one size, the example at one place, that hold other examples.
            The same sums are done in the same order, so anything but 0 is a leak.
        size: between the example alone and at each place of a batch. Libraries choose how to sum
            (the blocks of a matrix product or convolution) by the shape of the whole, so this may
            be some roundings of float32 where the network leaks nothing.
    """

    neighbours: float
    size: float


def check_batch_invariance(
    model: Callable[..., Any], example: Example, *, tolerance: float = 1e-6
) -> BatchDependence:
    """Raise if what a model makes of an example depends on the batch it is in.

    Args:
        model: a network or a function. A network is called in the mode it is in: batch norm
            leaks in training mode only. One that draws random numbers, such as dropout, does
            depend on its batch, since one generator serves all of it.
        example: the model's arguments for one example, each (1, ...): a tensor, a sequence of
            tensors, or a mapping from names to tensors.
        tolerance: the largest relative difference that rounding may make when an example comes
            alone or in a batch. None is allowed between batches of one size.

    Returns:
        What was measured; see :func:`measure_batch_dependence`.

    Raises:
        ValueError: it depends on its batch, or an output has not the example as its first axis.

    >>> check_batch_invariance(torch.nn.Tanh(), torch.rand(1, 4))
    BatchDependence(neighbours=0.0, size=0.0)
    >>> check_batch_invariance(torch.nn.BatchNorm1d(4), torch.rand(1, 4, 9))
    Traceback (most recent call last):
        ...
    ValueError: model depends on the batch: by its neighbours an example changes by inf, allowed 0
    """
    found = measure_batch_dependence(model, example)
    if found.neighbours:
        raise ValueError(
            "model depends on the batch: by its neighbours an example changes by "
            f"{found.neighbours:.1e}, allowed 0"
        )
    if not found.size <= tolerance:
        raise ValueError(
            "model depends on the batch: alone and among others an example differs by "
            f"{found.size:.1e}, allowed {tolerance:.0e}"
        )
    return found


@torch.no_grad()
def measure_batch_dependence(model: Callable[..., Any], example: Example) -> BatchDependence:
    """Measure how much what a model makes of an example depends on the batch it is in.

    The example is put at the beginning, middle and end of batches of 2, 3 and 8, among neighbours
    made from it: mirrored, very large, and not a number, which nothing that is summed survives.
    Arguments and faults are those of :func:`check_batch_invariance`.
    """
    if isinstance(model, torch.nn.Module):
        model = copy.deepcopy(model)  # batch norm keeps what it saw
    alone = _outputs(model, example, 1, 0, _mirrored)
    neighbours = size = 0.0
    for count in _SIZES:
        for place in {0, count // 2, count - 1}:
            usual, *others = (
                _outputs(model, example, count, place, neighbour)
                for neighbour in (_mirrored, _loud, _broken)
            )
            size = max(size, _difference(usual, alone))
            neighbours = max(neighbours, *(_difference(other, usual) for other in others))
    return BatchDependence(neighbours, size)


def _mirrored(tensor: Tensor) -> Tensor:
    return tensor.flip(list(range(1, tensor.ndim)))


def _loud(tensor: Tensor) -> Tensor:
    return 1e4 * tensor if tensor.is_floating_point() else tensor


def _broken(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor


def _outputs(
    model: Callable[..., Any],
    example: Example,
    count: int,
    place: int,
    neighbour: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """Return what the model makes of the example at a place of a batch."""

    def batch(tensor: Tensor) -> Tensor:
        if tensor.ndim < 1 or len(tensor) != 1:
            raise ValueError(f"example must hold tensors (1, ...), got {tuple(tensor.shape)}")
        rows = [neighbour(tensor)] * count
        rows[place] = tensor
        return torch.cat(rows)

    if isinstance(example, Mapping):
        output = model(**{name: batch(tensor) for name, tensor in example.items()})
    elif isinstance(example, Tensor):
        output = model(batch(example))
    else:
        output = model(*map(batch, example))
    found = list(_tensors(output))
    for tensor in found:
        if tensor.ndim < 1 or len(tensor) != count:
            raise ValueError(
                f"model must return tensors whose first axis is the example, ({count}, ...), "
                f"got {tuple(tensor.shape)}"
            )
    return [tensor[place] for tensor in found]


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a result, whatever it is wrapped in."""
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
    """Return the largest relative difference of two results."""
    return max((_relative(*pair) for pair in zip(one, two, strict=True)), default=0.0)


def _relative(one: Tensor, two: Tensor) -> float:
    if torch.equal(one, two):
        return 0.0
    if not one.is_floating_point():
        return float((one != two).float().mean())
    alike = one.isinf() & (one == two)  # inf - inf is NaN
    one, two = (tensor.double().masked_fill(alike, 0) for tensor in (one, two))
    off = float((one - two).norm() / two.norm())
    return math.inf if math.isnan(off) else off
