"""Finite scalar quantisation: vectors to a few small integers, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowwarp.tensors import check_wholes

MOST_LEVELS = 1000  # with more, the range of tanh below would reach one level too many


class FSQ(nn.Module):
    """Rounds each channel of a vector to one of a few levels.

    Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR 2024. There is no
    codebook to learn, so none of its entries can fall out of use. Gradients pass through the
    rounding as if it were not there (straight-through).

    Args:
        levels: how many values each channel has, 2 to 1000.

    Raises:
        ValueError: they are not such.
    """

    reach: Tensor
    offset: Tensor
    shift: Tensor
    middle: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        check_wholes(self.levels, "levels", 2, MOST_LEVELS)
        count = torch.tensor(self.levels, dtype=torch.float32)
        # The paper's equation: an even number of levels is shifted by half a step, so that 0 stays
        # in the middle of the range that tanh reaches.
        half = (count - 1) / 2 * 1.001
        offset = torch.where(count % 2 == 0, 0.5, 0.0)
        self.register_buffer("reach", half, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("shift", torch.atanh(offset / half), persistent=False)
        self.register_buffer("middle", torch.div(count, 2, rounding_mode="floor"), persistent=False)

    def _bounded(self, z: Tensor) -> Tensor:
        return torch.tanh(z.float() + self.shift) * self.reach - self.offset

    def forward(self, z: Tensor) -> Tensor:
        """Return quantised values in [-1, 1], (..., channels); differentiable in ``z``."""
        bounded = self._bounded(z)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / self.middle

    def digits(self, z: Tensor) -> Tensor:
        """Return the level of each channel, (..., channels) of int64, from 0."""
        return (self._bounded(z).round() + self.middle).long()

    def values(self, digits: Tensor) -> Tensor:
        """Return what ``forward`` returns where ``digits`` returns these; (..., channels)."""
        return (digits - self.middle) / self.middle
