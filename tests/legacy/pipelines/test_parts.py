"""Parts of one piece of work, in copies of this process."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch

from flowwarp.errors import InputError
from flowwarp.legacy.pipelines.parts import can_fork, run_parts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are not copied")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("count", "threads", "parts"),
    [
        (5, 2, [[0, 1], [2, 3, 4]]),
        (2, 3, [[0], [1]]),
        (7, 3, [[0, 1], [2, 3], [4, 5, 6]]),
        (4, 1, [[0, 1, 2, 3]]),
    ],
)
def test_parts_are_consecutive_and_processes(count, threads, parts):
    weight = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    torch.mm(weight, weight)  # torch's pool is there, and has worked

    def work(part):
        torch.mm(weight, weight)
        return list(part), os.getpid(), torch.get_num_threads(), (weight[part.start] * 2).tolist()

    found = run_parts(work, count, threads)
    assert [part for part, _, _, _ in found] == parts
    assert found[0][1] == os.getpid()
    assert len({pid for _, pid, _, _ in found}) == len(parts)
    assert {used for _, _, used, _ in found} == {1 if len(parts) > 1 else 2}
    for part, _, _, row in found:
        assert row == (weight[part[0]] * 2).tolist()


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize(
    "fault", [InputError("a", "is bad"), MemoryError("of 9 GiB"), RuntimeError("of torch")]
)
def test_a_fault_of_any_part_is_the_fault_of_all(here, fault):
    def work(part):
        if (part.start == 0) == here:
            raise fault
        return part

    with pytest.raises(type(fault), match=str(fault)):
        run_parts(work, 2, 2)


def test_a_part_that_is_killed():
    def work(part):
        if part.start:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(InputError, match="SIGKILL"):
        run_parts(work, 2, 2)


@pytest.mark.parametrize(
    ("number", "fault"), [(errno.ENOMEM, MemoryError), (errno.EAGAIN, InputError)]
)
def test_a_process_that_cannot_be_started(monkeypatch, number, fault):
    """It is no OSError, which would be taken for one of the file that is written."""

    def fork():
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(fault, match="process"):
        run_parts(lambda part: part, 2, 2)


PARENT = """
import time
from flowwarp.legacy.pipelines.parts import run_parts

def work(part):
    if part.start:
        print(part.start, flush=True)
    else:
        time.sleep(60)

run_parts(work, 3, 3)
"""


def test_copies_end_with_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert {parent.stdout.readline() for _ in range(2)} == {"1\n", "2\n"}
    parent.kill()
    assert parent.communicate(timeout=20) == ("", None)  # nobody is left who could write


def test_where_there_are_no_copies(monkeypatch):
    assert can_fork(CPU)
    assert not can_fork(torch.device("cuda"))
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        assert not can_fork(CPU)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert not can_fork(CPU)
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert not can_fork(CPU)
