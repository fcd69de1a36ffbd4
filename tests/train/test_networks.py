"""The moving average of the weights, by hand."""

import pytest
import torch

import tiny
from flowwarp.train.networks import Networks
from flowwarp.train.processes import Process

ONE = Process(0, 1, torch.device("cpu"))


@pytest.mark.parametrize(("step", "decay"), [(1, 2 / 11), (2, 3 / 12), (1000, 0.9)])
def test_the_average_moves_by_its_decay(step, decay):
    networks = Networks(tiny.make(), tiny.config(ema=0.9), ONE)
    networks.update_average(1)  # the first one copies
    before = networks.result().unused.clone()
    with torch.no_grad():
        networks.model.unused += 1
    networks.update_average(step)
    torch.testing.assert_close(networks.result().unused, before + 1 - decay)


def test_without_an_average_the_result_is_the_network():
    networks = Networks(tiny.make(), tiny.config(ema=0.0), ONE)
    networks.update_average(1)
    assert networks.average is None
    assert networks.result() is networks.model
