"""Worker processes; each imports this module, so it imports nothing heavy."""

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import count
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowwarp.errors import InputError, OutputError
from flowwarp.pipelines.workers import _describe_death, run_here, run_processes, run_ray

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let the workers import this module, by the name that pytest gives it."""
    monkeypatch.syspath_prepend(ROOT)


def prepare(number):
    return work


def work(item):
    if item == 3:
        signal.raise_signal(signal.SIGKILL)
    if item == "ended":
        signal.raise_signal(signal.SIGTERM)
    if item == 5:
        raise InputError("5", "is odd")
    if item == "full":
        raise OutputError("a.flo", "no space left on device")
    if item == "torch":
        raise RuntimeError("out of memory: tried to allocate 9 GiB")
    if item == "memory":
        raise MemoryError("Unable to allocate 9.00 GiB for an array")
    if item == "bug":
        raise TypeError("never meant to happen")
    return item, os.getpid()


@pytest.mark.posix
def test_a_worker_that_is_killed_costs_one_item():
    results = dict(run_processes(prepare, iter(range(8)), 1))
    assert sorted(results) == list(range(8))
    assert isinstance(results[3], InputError)
    assert "its process was ended by SIGKILL" in str(results[3])
    assert str(results[5]) == "5: is odd"
    for item in (0, 1, 2, 4, 6, 7):
        assert results[item][0] == item
    assert results[2][1] == results[1][1]
    assert results[2][1] != results[4][1]  # another process took its place


@pytest.mark.posix
def test_a_worker_that_gets_sigterm_costs_one_item():
    results = dict(run_processes(prepare, iter([0, "ended", 1]), 1))
    assert "its process was ended by SIGTERM" in str(results["ended"])
    assert (results[0][0], results[1][0]) == (0, 1)


def say_number(number):
    return partial(say, number)


def say(number, item):
    time.sleep(0.1)  # so that the other process gets one, too
    return number


def test_each_process_gets_its_number():
    found = {number for _, number in run_processes(say_number, iter(range(8)), 2)}
    assert found == {0, 1}


def test_a_worker_that_crashes_on_windows_costs_one_item():
    """The exit code is the number of the exception; a Python error gives 1."""
    assert str(_describe_death(0xC0000005)) == "worker: its process was ended by 0xC0000005"
    with pytest.raises(RuntimeError, match="ended with code 1"):
        _describe_death(1)


@pytest.mark.parametrize(
    ("number", "fault"), [(errno.ENOMEM, MemoryError), (errno.EAGAIN, InputError)]
)
def test_a_worker_that_cannot_be_started(monkeypatch, number, fault):
    """The error is not an OSError, which callers take for a bug; started workers end."""
    start = SpawnProcess._Popen
    started = []

    def refuse_the_second(process):
        if started:
            raise OSError(number, os.strerror(number))
        started.append(start(process))
        return started[0]

    monkeypatch.setattr(SpawnProcess, "_Popen", staticmethod(refuse_the_second))
    with pytest.raises(fault, match="process"):
        list(run_processes(prepare, iter(range(8)), 2))
    assert started[0].poll() is not None


@pytest.mark.posix
def test_items_are_read_as_they_are_needed():
    taken = []
    items = (taken.append(item) or item for item in count(10))
    running = run_processes(prepare, items, 2)
    pids = set()
    for done in range(1, 20):
        pids.add(next(running)[1][1])
        assert len(taken) <= done + 3  # two in work, one ahead
    running.close()
    assert len(pids) <= 2  # one may have been quick enough for both
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("item", "fault", "words"),
    [
        ("full", OutputError, "a.flo: no space left on device"),
        ("torch", RuntimeError, "tried to allocate 9 GiB"),
        ("memory", MemoryError, r"^Unable to allocate 9.00 GiB for an array$"),
        ("bug", RuntimeError, "a worker process ended with code 1"),
    ],
)
def test_other_errors_end_the_work(item, fault, words):
    with pytest.raises(fault, match=words):
        list(run_processes(prepare, [item], 1))


def begin_badly(number):
    raise RuntimeError("out of memory: tried to allocate 9 GiB")


def lose_the_parent(number):
    def work(item):
        raise EOFError("of a file that the work reads")

    return work


@pytest.mark.parametrize(
    ("begin", "words"), [(begin_badly, "tried to allocate 9 GiB"), (lose_the_parent, "code 1")]
)
def test_errors_before_the_first_item_and_pipe_errors(begin, words):
    with pytest.raises(RuntimeError, match=words):
        list(run_processes(begin, [6], 1))


def test_run_here():
    results = list(run_here(work, [5, 6]))
    assert str(results[0][1]) == "5: is odd"
    assert results[1] == (6, (6, os.getpid()))


PARENT = """
import sys, itertools
sys.path.insert(0, {folder!r})
import test_workers
from flowwarp.pipelines.workers import run_processes
for item, (_, pid) in run_processes(test_workers.prepare, itertools.count(10), 1):
    print(pid, flush=True)
"""


@pytest.mark.posix
def test_workers_end_with_a_parent_that_is_killed():
    program = PARENT.format(folder=str(Path(__file__).parent))
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.stdout.close()
    parent.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail("the worker lives on")


# What a worker imports before it can say what to do with signals.
SLOW = """
import multiprocessing, os, time
if multiprocessing.current_process().name != "MainProcess":
    os.write(1, b"begun\\n")
    time.sleep(2)
def prepare(number):
    return str
"""
INTERRUPTED = """
import signal, sys
import slow
from flowwarp.pipelines.workers import run_processes
signal.signal(signal.SIGHUP, signal.default_int_handler)
try:
    list(run_processes(slow.prepare, range(9), 2))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_starting_workers_print_nothing_on_an_interrupt(tmp_path, name):
    """A terminal sends SIGINT, and SIGHUP when it is closed, to workers, too."""
    (tmp_path / "slow.py").write_text(SLOW)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    parent = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    )
    assert parent.stdout.readline() == "begun\n"
    os.killpg(parent.pid, getattr(signal, name))
    _, stderr = parent.communicate(timeout=60)
    assert stderr == ""
    assert parent.returncode == 130


# A stand-in for ray, which need not be installed


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class FakeRay:
    """The parts of ray that `run_ray` uses; a task runs when its result is requested."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, room, refusal=None):
        self.room, self.refusal = room, refusal
        self.running = self.most = 0
        self.gpus = None

    def init(self, address, **options):
        if self.refusal is not None:
            raise self.refusal

    def cluster_resources(self):
        return self.room

    def remote(self, num_cpus, num_gpus):
        self.gpus = num_gpus

        def begin(*arguments, function):
            self.running += 1
            self.most = max(self.most, self.running)
            return lambda: function(*arguments)

        return lambda function: SimpleNamespace(remote=partial(begin, function=function))

    def put(self, constant):
        return constant

    def wait(self, references):
        return references[:1], references[1:]

    def get(self, reference):
        self.running -= 1
        return reference()

    def shutdown(self):
        self.running = 0


def on_ray(monkeypatch, ray, work=str, address="auto", *, device="auto", count=None):
    monkeypatch.setitem(sys.modules, "ray", ray)
    calls = ((item, (item,)) for item in range(20))
    return dict(run_ray(address, work, (), calls, device=device, count=count))


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (
            RuntimeError("Version mismatch:\n    The cluster: Ray: 2.9\n    Here: Ray: 2.50"),
            "--ray: no cluster at auto (Version mismatch: The cluster: Ray: 2.9 Here: Ray: 2.50)",
        ),
        (ConnectionError(), "--ray: no cluster at auto (ConnectionError)"),
        (
            ModuleNotFoundError("No module named 'grpc'"),
            "--ray: no cluster at auto (No module named 'grpc');"
            " install the extra 'ray' as README.md says",
        ),
    ],
)
def test_no_ray_cluster_is_one_line(monkeypatch, refusal, words):
    with pytest.raises(InputError) as fault:
        on_ray(monkeypatch, FakeRay({"CPU": 2}, refusal))
    assert str(fault.value) == words


def test_a_ray_cluster_without_flowwarp(monkeypatch):
    def missing(item):
        raise RayTaskError(
            "ray::_work_afar()\nRuntimeError: The remote function failed to import on the worker. "
            "[...]\nModuleNotFoundError: No module named 'flowwarp'"
        )

    with pytest.raises(InputError, match="cannot be imported on the cluster's machines; install"):
        on_ray(monkeypatch, FakeRay({"CPU": 2}), missing)

    def broken(item):
        raise RayTaskError("ZeroDivisionError: division by zero")

    with pytest.raises(RayTaskError, match="division"):
        on_ray(monkeypatch, FakeRay({"CPU": 2}), broken)


@pytest.mark.parametrize(
    ("address", "count", "most"), [("auto", 3, 3), ("auto", None, 8), ("local", 3, 6)]
)
def test_number_of_ray_tasks_at_a_time(monkeypatch, address, count, most):
    """The given number on a remote cluster; otherwise twice its processors, so that tasks queue."""
    ray = FakeRay({"CPU": 3 if address == "local" else 4})
    results = on_ray(monkeypatch, ray, address=address, count=count)
    assert results == {item: str(item) for item in range(20)}
    assert ray.most == most


@pytest.mark.parametrize(
    ("device", "there", "taken"), [("auto", 2, 1), ("auto", 0, 0), ("cpu", 2, 0), ("cuda", 2, 1)]
)
def test_a_ray_task_takes_one_of_the_cluster_s_gpus(monkeypatch, device, there, taken):
    ray = FakeRay({"CPU": 4, "GPU": float(there)} if there else {"CPU": 4})
    on_ray(monkeypatch, ray, device=device)
    assert ray.gpus == taken


def test_a_gpu_that_a_ray_cluster_lacks(monkeypatch):
    with pytest.raises(InputError, match="--device: the cluster at auto has no GPU"):
        on_ray(monkeypatch, FakeRay({"CPU": 4}), device="cuda")
