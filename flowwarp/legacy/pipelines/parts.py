"""Work of one piece, shared out among copies of this process that have one thread each.

Torch shares out each operation, and after it waits for all of its threads. Where operations are
small and tens of thousands follow on each other, as where a transformer writes, much of the time is
waiting; and if a thread's core is taken by another program, nearly all is.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from flowwarp.errors import InputError
from flowwarp.pipelines.workers import Worker

R = TypeVar("R")


def run_parts(work: Callable[[range], R], count: int, threads: int) -> list[R]:
    """Work on ``range(count)`` in consecutive parts, one for each thread.

    The first is worked on here, each other in a copy of this process, which is there at once and
    takes little memory. None has to wait for another before the end.

    Args:
        work: takes a part; it must not print, nor change anything but what it returns.
        count: of items, at least one.
        threads: how many parts, if there are as many items; 1 leaves all to torch's own threads, as
            must be where :func:`can_fork` says no.

    Returns:
        What ``work`` returns, part by part. All but the first comes from another process, so it is
        of arrays rather than tensors, which would go by shared memory.

    Raises:
        InputError: a process was killed, or the system allows no other.
        MemoryError: there is none for another process, or ``work`` says so.
        RuntimeError: of ``work``, likewise.
    """
    parts = min(threads, count)
    if parts == 1:
        return [work(range(count))]
    ends = [count * part // parts for part in range(parts + 1)]
    before = torch.get_num_threads()
    workers: list[Worker] = []

    def prepare(number: int) -> Callable[[range], R]:
        torch.set_num_threads(1)
        return work

    try:
        for number in range(1, parts):
            workers.append(Worker(prepare, number, "fork"))
            workers[-1].give(range(ends[number], ends[number + 1]))
        torch.set_num_threads(1)
        results = [work(range(ends[1]))]
        for worker in workers:
            answer = worker.take()[1]
            if isinstance(answer, InputError):
                raise answer
            results.append(answer)
        return results
    finally:
        torch.set_num_threads(before)
        for worker in workers:
            worker.stop()


def can_fork(device: torch.device) -> bool:
    """Say whether copies of this process can compute on a device: on a CPU, under Linux.

    A copy has only the thread that made it, so none of torch's pool: it must be content with one.
    """
    used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if sys.platform != "linux" or device.type != "cpu" or used:
        return False
    return not multiprocessing.current_process().daemon  # these may have no children
