"""What follows from the number of an example: which item it is, its random numbers, its series."""

from __future__ import annotations

from functools import lru_cache

import torch

from flowwarp.defaults import MAX_SEED

_MASK = 2**64 - 1


def shuffled(seed: int, index: int, length: int) -> int:
    """Return which of ``length`` items example ``index`` is, each epoch in an order of its own."""
    return _order(seed, index // length, length)[index % length]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int) -> list[int]:
    order: list[int] = torch.randperm(length, generator=generator(seed, epoch)).tolist()
    return order


def held_out_series(seed: int, kind: int = 0) -> int:
    """Return a series of examples that no training draws, whatever its seed.

    So what a network is judged by is new to it even if it goes on from one with another seed.

    Args:
        seed: of the training.
        kind: tells apart what is held out for different ends.
    """
    # NumPy reads [seed, index] as words of 32 bits, filled up with zeros. So the first example of
    # this series is that of number `kind + far` in training, which is further than any goes; more
    # would be no seed for torch, which takes 64 bits.
    far = 2**30
    return seed + (kind + far) * (MAX_SEED + 1)


def generator(*numbers: int) -> torch.Generator:
    """Return a generator that is a function of these numbers: seed, example, purpose."""
    return torch.Generator().manual_seed(seed_of(*numbers))


def seed_of(*numbers: int) -> int:
    """Hash numbers into a seed: neighbours must not give neighbouring streams (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state ^ (number & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1  # what manual_seed takes on every device
