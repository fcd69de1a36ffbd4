"""Fixtures for tests of the world of sprites."""

import pytest
import torch

from flowwarp.data.sprite_world.layers import bundled_layers


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def layers():
    return bundled_layers()
