"""Settings of the loop."""

import pytest

import tiny
from flowwarp.errors import InputError
from tiny import run


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
