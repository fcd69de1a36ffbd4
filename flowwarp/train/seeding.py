"""Seeds: the item and the random numbers of an example, from its number and the run's seed."""

from __future__ import annotations

from functools import lru_cache

import torch

from flowwarp.defaults import MAX_SEED

_MASK = 2**64 - 1


def shuffled(seed: int, index: int, length: int) -> int:
    """Return which of ``length`` items example ``index`` is; each epoch has its own order."""
    return _order(seed, index // length, length)[index % length]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int) -> list[int]:
    order: list[int] = torch.randperm(length, generator=generator(seed, epoch)).tolist()
    return order


def held_out_series(seed: int, kind: int = 0) -> int:
    """Return the seed of a series of examples that no training draws, whatever its seed.

    So a network has never seen the examples that validate it, even if its training began with the
    weights of another one.

    Args:
        seed: seed of the training.
        kind: distinguishes series for different purposes.
    """
    # NumPy reads [seed, index] as words of 32 bits, padded with zeros. So the first example of this
    # series, [series, 0], equals training example [seed, kind + far], which no run reaches. A
    # larger `far` would exceed torch's 64-bit seeds.
    far = 2**30
    return seed + (kind + far) * (MAX_SEED + 1)


def generator(*numbers: int) -> torch.Generator:
    """Return a generator seeded by these numbers, such as seed, example and purpose."""
    return torch.Generator().manual_seed(seed_of(*numbers))


def seed_of(*numbers: int) -> int:
    """Hash numbers into a seed by splitmix64, so that neighbours give unrelated streams."""
    state = 0
    for number in numbers:
        state = (state ^ (number & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1  # 63 bits: manual_seed takes these on every device
