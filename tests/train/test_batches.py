"""Which examples a step takes, and the threads that prepare them."""

import pytest
import torch

import tiny
from flowwarp.errors import InputError
from flowwarp.train.batches import example_numbers, micro_batches, prefetched
from flowwarp.train.processes import Process
from tiny import run


def test_vanished_data_in_a_worker(tmp_path):
    def gone(step):
        if step == 6:
            raise InputError("frame7.png", "no such file")

    with pytest.raises(InputError, match=r"frame7\.png"):
        run(tiny.make(gone), tiny.config(workers=2), tmp_path)
    assert (tmp_path / "state-00000006.safetensors").exists()


def test_micro_batches_by_hand():
    config = tiny.config(batch_size=5, accumulate=3)
    one = Process(0, 1, torch.device("cpu"))
    assert micro_batches(config, one) == [range(1), range(1, 3), range(3, 5)]
    first, second, third = (Process(rank, 3, one.device) for rank in range(3))
    assert micro_batches(config, second) == [range(1, 3)]
    # One part for two processes: the second computes nothing.
    assert micro_batches(tiny.config(batch_size=5), second) == []
    config = tiny.config(batch_size=5, accumulate=3, steps=2)
    taken = [list(example_numbers(config, process, 1)) for process in (first, second, third)]
    assert taken == [[range(5, 6)], [range(6, 8)], [range(8, 10)]]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_and_only_a_few_ahead(workers):
    loaded = []

    def load(indices):
        loaded.append(indices)
        return {"first": torch.tensor(indices.start)}

    numbers = [range(n, n + 1) for n in range(9)]
    with prefetched(load, iter(numbers), workers) as batches:
        indices, batch = next(batches)
        assert (indices, int(batch["first"])) == (range(1), 0)
        assert len(loaded) <= workers + 2
        rest = [(indices, int(batch["first"])) for indices, batch in batches]
    assert rest == [(indices, indices.start) for indices in numbers[1:]]
