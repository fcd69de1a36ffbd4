"""Random choices among a few options, reproducible from a NumPy generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

Option = TypeVar("Option")


def choose(random: np.random.Generator, options: Sequence[Option]) -> Option:
    """Draw one of several options, all equally likely."""
    return options[int(random.integers(len(options)))]


def choose_weighted(random: np.random.Generator, weights: Mapping[str, float]) -> str:
    """Draw a key with a probability proportional to its weight.

    >>> choose_weighted(np.random.default_rng(0), {"never": 0.0, "always": 2.0})
    'always'

    Args:
        random: the generator; one number is drawn.
        weights: at least one key, with weights of at least 0.
    """
    rest = random.random() * sum(weights.values())
    for key, weight in weights.items():
        rest -= weight
        if rest < 0:
            return key
    return key  # rounding may leave a rest of exactly 0
