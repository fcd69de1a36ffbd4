"""Fixtures of tests of files."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def noisy():
    return list(np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3), dtype=np.uint8))
