"""Random choices: uniform and weighted."""

from collections import Counter

import numpy as np
import pytest

from flowwarp.data.choices import choose, choose_weighted


def test_choices_are_uniform():
    random = np.random.default_rng(0)
    counts = Counter(choose(random, "abcd") for _ in range(4000))
    assert set(counts) == set("abcd")
    assert all(count == pytest.approx(1000, rel=0.15) for count in counts.values())


def test_weighted_choices_have_their_shares():
    random = np.random.default_rng(0)
    weights = {"one": 1.0, "none": 0.0, "three": 3.0}
    counts = Counter(choose_weighted(random, weights) for _ in range(4000))
    assert counts["none"] == 0
    assert counts["three"] / 4000 == pytest.approx(0.75, abs=0.03)
