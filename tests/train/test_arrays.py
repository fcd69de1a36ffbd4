import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, current_thread

import numpy as np
import pytest
import torch

from flowwarp.errors import OutputError
from flowwarp.train.arrays import fill_arrays, open_array


def test_an_array_is_made_of_zeros_only_once(tmp_path):
    path = tmp_path / "a.npy"
    array = open_array(path, (3, 4), np.uint16)
    assert not array.any()
    array[1, 2] = 7
    array.flush()
    assert open_array(path, (3, 4), np.uint16)[1, 2] == 7
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]


def test_later_threads_have_torchs_number_of_threads(tmp_path):
    torch.set_num_threads(3)
    row = {"a": np.zeros(2, np.uint8)}
    fill_arrays(tmp_path, {"a": ((2,), np.uint8)}, 40, lambda number: row, problem="")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3


def test_rows_are_on_the_disk_before_they_are_marked_as_done(tmp_path, monkeypatch):
    flush, marked = np.memmap.flush, []

    def spy(array):
        if Path(array.filename).name == "a.npy":
            marked.append(int(np.load(tmp_path / "done.npy", "r").sum()))
        flush(array)

    monkeypatch.setattr(np.memmap, "flush", spy)
    row = {"a": np.ones(2, np.uint8)}
    fill_arrays(tmp_path, {"a": ((2,), np.uint8)}, 40, lambda number: row, problem="")
    assert marked == [0, 16, 32]


@pytest.mark.parametrize(("processes", "most"), [("1", 1), ("2", 3)])
def test_one_of_several_processes_uses_all_cores(tmp_path, monkeypatch, processes, most):
    """Where torchrun, which gives each of them one thread, has begun them."""
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    torch.set_num_threads(1)
    begun = set()
    meet = Barrier(most, timeout=5)

    def make(number):
        begun.add((current_thread().name, torch.get_num_threads()))
        if number < most:
            meet.wait()  # or the first thread might make all
        return {"a": np.zeros(2, np.uint8)}

    fill_arrays(tmp_path, {"a": ((2,), np.uint8)}, 20, make, problem="")
    assert len(begun) == most
    assert {threads for _, threads in begun} == {1}


@pytest.mark.posix
@pytest.mark.parametrize("without", [False, True])
def test_all_blocks_are_allocated(tmp_path, monkeypatch, without):
    if without:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    path = tmp_path / "a.npy"
    array = open_array(path, (3 * 2**20,), np.uint8)
    status = path.stat()
    assert status.st_size == 3 * 2**20 + array.offset
    assert 512 * status.st_blocks >= status.st_size
    assert not array.any()


@pytest.mark.parametrize("without", [False, True])
def test_a_full_disk_is_an_error_not_a_crash(small_disk, monkeypatch, without):
    """In a child, as a page without a place ends the process."""
    if without:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    child = os.fork()
    if not child:
        code = 1
        try:
            open_array(small_disk / "a.npy", (2**20,), np.uint8)[:] = 1
        except OSError as fault:
            code = 4 if fault.errno == errno.ENOSPC else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert list(small_disk.iterdir()) == []


def test_an_array_larger_than_the_disk_is_refused(tmp_path):
    calls = []
    with pytest.raises(OutputError, match=r"takes up to 1e\+11 GB, and .* GB are free.*fewer than"):
        fill_arrays(
            tmp_path / "a",
            {"x": ((10**9,), np.uint8)},
            10**11,
            lambda number: {},
            problem="is made",
            progress=lambda *numbers: calls.append(numbers),
        )
    assert calls == []
    assert not list(tmp_path.glob("a/*.npy"))


def test_a_different_or_broken_array_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    open_array(path, (3, 400), np.uint8)
    with pytest.raises(OutputError, match="another array"):
        open_array(path, (3, 4), np.uint8)
    with pytest.raises(OutputError, match="another array"):
        open_array(path, (3, 400), np.int8)
    os.truncate(path, 500)
    with pytest.raises(OutputError, match=r"a\.npy: is broken"):
        open_array(path, (3, 400), np.uint8)
