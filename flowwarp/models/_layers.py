"""Layers that several networks share.

All keep the variance of their input at initialisation, so that networks train with norms and
without (docs/initialisation.md).
"""

from __future__ import annotations

import math

from torch import nn

GROUPS = 8  # number of groups of channels, each normalised by itself


def convolution(inputs: int, outputs: int, size: int = 3, gain: float = 1.0) -> nn.Conv2d:
    """Return a convolution that multiplies the mean square of its input by ``gain`` squared.

    It does so at initialisation, for input whose channels are independent (He et al., ICCV 2015).

    Args:
        inputs: channels of the input (N, inputs, H, W).
        outputs: channels of the output (N, outputs, H, W).
        size: side of the kernel, odd: height and width stay the same.
        gain: of the root mean square.
    """
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs * size**2))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def group_norm(width: int, norm: str) -> nn.Module:
    """Return a group norm of images (N, width, H, W) for ``group``, the identity for ``none``."""
    return nn.GroupNorm(GROUPS, width) if norm == "group" else nn.Identity()
