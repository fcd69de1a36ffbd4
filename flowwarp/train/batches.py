"""The examples of each step, and threads that prepare them ahead.

Example ``i`` of step ``s`` has the number ``s * batch_size + i``. So the batch of a step is the
same however it is split: into micro-batches, over processes, or by an interruption.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from flowwarp.train.processes import Process
from flowwarp.train.task import Batch, LoopConfig, Task


def micro_batches(config: LoopConfig, process: Process) -> list[range]:
    """Return the parts of a batch that one process computes, as ranges in [0, batch_size).

    The batch is cut into ``accumulate`` parts whose lengths differ by at most one. Process r of w
    takes parts r, r + w, r + 2 w, …; it has none if there are fewer parts than processes.
    """
    size, parts = config.batch_size, config.accumulate
    cuts = [size * part // parts for part in range(parts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(cuts)][process.rank :: process.world]


def example_numbers(config: LoopConfig, process: Process, first_step: int) -> Iterator[range]:
    """Yield the numbers of the examples of each micro-batch of this process, to the last step."""
    for step in range(first_step, config.steps):
        first = step * config.batch_size
        for part in micro_batches(config, process):
            yield range(first + part.start, first + part.stop)


def first_example_digest(task: Task) -> str:
    """Return a digest of example 0: 12 hex digits that change with any of its tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(task.batch(range(1)).items()):
        digest.update(name.encode())
        # A tensor whose first axis has length 1 counts as contiguous whatever its stride there;
        # view(uint8) needs it truly dense.
        values = tensor.cpu().flatten().clone(memory_format=torch.contiguous_format)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


@contextmanager
def prefetched(
    load: Callable[[range], Batch], numbers: Iterator[range], workers: int
) -> Iterator[Iterator[tuple[range, Batch]]]:
    """Give the batches of ``numbers`` in order, prepared ahead by ``workers`` threads, if any."""
    if not workers:
        yield ((indices, load(indices)) for indices in numbers)
        return

    pool = ThreadPoolExecutor(workers, thread_name_prefix="batch")

    def ahead() -> Iterator[tuple[range, Batch]]:
        waiting: list[tuple[range, Future[Batch]]] = []
        # One batch more than there are threads may wait. At the end, None empties the queue.
        for indices in itertools.chain(numbers, [None] * (workers + 1)):
            if indices is not None:
                waiting.append((indices, pool.submit(load, indices)))
            if waiting and (indices is None or len(waiting) > workers + 1):
                first, future = waiting.pop(0)
                yield first, future.result()

    try:
        yield ahead()
    finally:
        pool.shutdown(cancel_futures=True)
