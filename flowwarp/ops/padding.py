"""The padding modes of ``warp``: their names, and how its torch reference applies them.

* ``"border"`` repeats the outer pixel.
* ``"zeros"`` is black.
* ``"reflection"`` mirrors the image about the centre of its outer pixel.
* ``"wrap"`` repeats the image: by whole pixels the result is that of ``torch.roll``.

The kernels have the same rules in ``cuda/warping.h``. This module does not import torch, so that
the help of the command line can list the modes without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

# The one list of these modes in Python. cuda/warping.h has them in the same order (enum Padding).
Padding = Literal["border", "zeros", "reflection", "wrap"]

PADDINGS: dict[str, int] = {name: number for number, name in enumerate(get_args(Padding))}


def is_inside(whole: Tensor, fraction: Tensor, size: int, padding: str) -> Tensor:
    """Return where positions ``whole + fraction`` are inside an axis of ``size`` pixels, as bool.

    All tensors here are (B, H, W); ``whole`` is an integer and ``fraction`` in [0, 1).
    """
    if padding == "wrap":  # a periodic image has no outside
        return fraction >= 0
    return (whole >= 0) & ((whole < size - 1) | ((whole == size - 1) & (fraction == 0)))


def pad_tap(index: Tensor, weight: Tensor, size: int, padding: str) -> tuple[Tensor, Tensor]:
    """Return the pixel in [0, size) that a tap reads, and its weight.

    Raises:
        ValueError: the padding is unknown.
    """
    if padding == "zeros":
        weight = weight.masked_fill((index < 0) | (index >= size), 0)
    elif padding == "reflection":
        phase = index % max(2 * (size - 1), 1)
        index = phase.minimum(2 * (size - 1) - phase)
    elif padding == "wrap":
        index = index % max(size, 1)
    elif padding != "border":
        raise ValueError(f"padding {padding} is unknown")
    return index.clamp(0, size - 1), weight


def fold_position(
    whole: Tensor, fraction: Tensor, size: int, padding: str
) -> tuple[Tensor, Tensor]:
    """Map a position into the image, as (whole, fraction), before its bilinear taps are found.

    Under ``"border"`` and ``"reflection"`` the gradient to the flow is 0 on the centres of the
    outer pixels, as in torch's grid_sample; so it is in an image of one pixel, which is constant.
    """
    last = size - 1
    if padding == "zeros":  # taps outside lose their weight instead
        return whole, fraction
    if padding == "wrap":
        # 0 * fraction keeps the graph: the gradient is 0, not None
        return whole, fraction if size > 1 else 0 * fraction
    if padding == "reflection" and last > 0:
        phase = whole % (2 * last)  # rises until `last`, then falls
        turning = (phase == last) & (fraction == 0)
        falling = phase >= last
        whole = phase.where(~falling, (2 * last - phase - 1).masked_fill(turning, last))
        fraction = fraction.where(~falling, 1 - fraction)
    low = (whole < 0) | ((whole == 0) & (fraction == 0))
    return whole.clamp(0, last), fraction.masked_fill(low | (whole >= last), 0)
