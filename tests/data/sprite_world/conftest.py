"""Fixtures for tests of the world of sprites."""

import pytest

from flowwarp.data.sprite_world.layers import bundled_layers


@pytest.fixture(autouse=True)
def _one_thread(one_torch_thread):
    """Run every test here with one thread."""


@pytest.fixture(scope="module")
def layers():
    return bundled_layers()
