"""Settings of the loop, and the learning rate."""

from dataclasses import replace

import pytest

import tiny
from flowwarp.errors import InputError
from flowwarp.train.loop import learning_rate
from flowwarp.train.task import LoopConfig
from tiny import run


def test_schedule():
    config = LoopConfig(steps=110, warmup=10, learning_rate=1.0, floor=0.1)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == 1.0
    assert learning_rate(config, 60) == pytest.approx(0.55)
    assert learning_rate(config, 110) == pytest.approx(0.1)
    assert learning_rate(replace(config, decay="constant"), 109) == 1.0


@pytest.mark.parametrize(
    "changes",
    [{"steps": 0}, {"accumulate": 6}, {"ema": 1.0}, {"learning_rate": -1.0}, {"keep": 1}],
)
def test_config_is_checked(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        tiny.config(**changes)


@pytest.mark.parametrize("name", ["learning_rate", "steps", "threads", "warmup", "workers"])
def test_values_that_overflow_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at most"):
        tiny.config(**{name: 10**30})


def test_muon_needs_matrices(tmp_path):
    with pytest.raises(InputError, match=r"loop.muon: a tiny has no matrices for Muon"):
        run(tiny.make(), tiny.config(muon=0.5), tmp_path)
