"""Layers of several networks here, all of which keep the variance of what goes through them.

So they train with norms and without (docs/initialisation.md).
"""

from __future__ import annotations

import math

from torch import nn

GROUPS = 8  # of channels that are normalised together


def convolution(inputs: int, outputs: int, size: int = 3, gain: float = 1.0) -> nn.Conv2d:
    """Return a convolution whose output has ``gain`` squared times the mean square of its input.

    That is so at the beginning, for an input whose channels do not hang on each other (He et al.,
    ICCV 2015). Height and width stay.
    """
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs * size**2))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def group_norm(width: int, norm: str) -> nn.Module:
    """Return a norm over groups of channels of an image for ``group``; for ``none`` nothing."""
    return nn.GroupNorm(GROUPS, width) if norm == "group" else nn.Identity()
