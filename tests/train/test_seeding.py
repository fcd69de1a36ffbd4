"""What follows from numbers: orders, random numbers, and series that no training draws."""

import numpy as np
import torch

from flowwarp.train.seeding import generator, held_out_series, shuffled


def test_every_epoch_has_each_item_once_in_its_own_order():
    epochs = [[shuffled(3, i, 11) for i in range(11 * e, 11 * e + 11)] for e in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_generator_depends_on_every_number():
    draws = {
        float(torch.rand(1, generator=generator(*numbers)))
        for numbers in ((0,), (1,), (0, 0), (0, 1), (1, 0), (-1,))
    }
    assert len(draws) == 6


def test_no_training_draws_held_out_examples():
    """Nor of one with another seed, from which a network may go on."""
    seeds = (0, 1, 2, 3, 2**32 - 1)
    series = [held_out_series(seed, kind) for seed in seeds for kind in range(3)]
    assert 2**32 - 1 < min(series) < max(series) < 2**63

    def drawn(seed, index):
        """What both kinds of generators draw."""
        own = int(torch.randint(2**62, (), generator=generator(seed, index)))
        return int(np.random.default_rng([seed, index]).integers(2**62)), own

    trained = [drawn(seed, index) for seed in seeds for index in range(20)]
    held_out = [drawn(seed, index) for seed in series for index in range(4)]
    for numbers in zip(*(trained + held_out), strict=True):
        assert len({*numbers}) == len(numbers)
