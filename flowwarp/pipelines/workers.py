"""One function over many items: here, on several processes, or on a ray cluster.

Each way takes items from an iterator only as fast as it works on them, so that memory does not
grow with their number, and yields ``(item, result)`` as results come. A fault of the item itself is
a result too, an :class:`InputError`; any other ends the whole.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from typing import Any, TypeVar, final

from flowwarp.errors import FlowwarpError, InputError, install_extra, none_started
from flowwarp.signals import HANG_UP, INTERRUPT

T = TypeVar("T")
R = TypeVar("R")

_TIMEOUT = 10  # s that a cluster has to answer
_PATIENCE = 10  # s that a worker has to put its half-written file away


def run_here(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R | InputError]]:
    """Work on one item after the other in this process."""
    for item in items:
        try:
            result: R | InputError = work(item)
        except InputError as fault:
            result = fault
        yield item, result


def run_processes(
    prepare: Callable[[int], Callable[[T], R]], items: Iterable[T], count: int
) -> Iterator[tuple[T, R | InputError]]:
    """Work on ``count`` items at a time, each in a process of its own.

    A process that dies, for example of too little memory, costs the item it had: that has failed,
    and another process takes its place. All end with this one, however it ends.

    Args:
        prepare: called once in each process with its number; returns the function to use there.
            Like items and results, it is pickled.
        items: what to work on.
        count: of processes.
    """
    workers: list[Worker] = []
    busy: dict[Any, Worker] = {}
    waiting = iter(items)
    try:
        workers += (Worker(prepare, number) for number in range(count))
        idle = list(workers)
        ahead = next(waiting, _END)  # made while the processes are busy
        while busy or ahead is not _END:
            while idle and ahead is not _END:
                worker = idle.pop(0)
                worker.give(ahead)
                busy[worker.answers] = worker
                ahead = next(waiting, _END)
            for answers in connection.wait(list(busy)):
                worker = busy.pop(answers)
                item, result = worker.take()
                if worker.is_dead:
                    workers.remove(worker)
                    worker = Worker(prepare, worker.number)
                    workers.append(worker)
                idle.append(worker)
                yield item, result
    finally:
        for worker in workers:
            worker.stop()


def run_ray(
    address: str,
    remote: Callable[..., R],
    constants: tuple[Any, ...],
    calls: Iterable[tuple[T, tuple[Any, ...] | InputError]],
    *,
    device: str,
    count: int | None,
) -> Iterator[tuple[T, R | InputError]]:
    """Call ``remote(*constants, *arguments)`` for each item as a ray task.

    Args:
        address: of the cluster, as ``ray.init`` takes it; ``local`` starts one here.
        remote: flowwarp must be installed where it runs.
        constants: put into the cluster once.
        calls: items, each with its arguments.
        device: cuda if a task takes a GPU, auto if it does so where the cluster has any.
        count: of tasks at a time; by default, as many as the cluster has room for.

    Raises:
        InputError: ray is not installed, there is no such cluster, or it lacks a GPU or flowwarp.
    """
    ray = check_ray(address)
    try:
        cpus = {"num_cpus": count, "include_dashboard": False} if address == "local" else {}
        ray.init(address, log_to_driver=False, logging_level="ERROR", **cpus)
    except (ConnectionError, ValueError, RuntimeError, ImportError) as fault:
        reason = " ".join(str(fault).split()) or type(fault).__name__
        # For ray:// it needs grpcio, which ray alone does not bring.
        remedy = install_extra("ray") if isinstance(fault, ImportError) else None
        raise InputError("--ray", f"no cluster at {address} ({reason})", remedy) from fault
    try:
        room = ray.cluster_resources()
        gpus = 0 if device == "cpu" else int(room.get("GPU", 0))
        if device == "cuda" and not gpus:
            raise InputError("--device", f"the cluster at {address} has no GPU", "use auto or cpu")
        task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(remote)
        shared = [ray.put(constant) for constant in constants]
        if count and address != "local":
            most = count
        else:  # twice the room, so that no processor waits for its next item
            most = 2 * (count or gpus or int(room.get("CPU", 1)))
        running: dict[Any, T] = {}
        waiting = iter(calls)
        more = True
        while running or more:
            while more and len(running) < most:
                call = next(waiting, None)
                if call is None:
                    more = False
                elif isinstance(call[1], InputError):
                    yield call[0], call[1]
                else:
                    running[task.remote(*shared, *call[1])] = call[0]
            for reference in ray.wait(list(running))[0] if running else ():
                item = running.pop(reference)
                result: R | InputError
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError:  # our fault, or that of what it was given
                    raise
                except ray.exceptions.RayError as fault:  # the machine's
                    problem = type(fault).__name__
                    result = InputError("ray", f"the task's worker was lost ({problem})")
                yield item, result
    except (ray.exceptions.RayTaskError, ImportError) as fault:  # the latter by way of ray://
        if "No module named 'flowwarp'" not in str(fault):
            raise
        problem = "flowwarp cannot be imported on the cluster's machines"
        raise InputError("--ray", problem, "install the same version there") from fault
    finally:
        ray.shutdown()


def check_ray(address: str) -> Any:
    """Return ray's module, if there is a chance that it will find a cluster at the address.

    Raises:
        InputError: ray is not installed, or nothing answers.
    """
    try:
        import ray
    except ImportError as fault:
        raise InputError("--ray", "ray is not installed", install_extra("ray")) from fault
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():  # ray itself tries for minutes, and prints on the way
        try:
            socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT).close()
        except (OSError, OverflowError) as fault:
            raise InputError("--ray", f"nothing answers at {address} ({fault})") from fault
    return ray


# ------------------------------------------------------------------ processes

_END: Any = object()
_TERMINATED = 128 + signal.SIGTERM  # the code of a process that takes its leave when it is ended
_CRASHED = 0xC0000000  # from here on, on Windows, the code of what crashed: 0xC0000005 and the like


@final
class Worker:
    """A process and the pipe to it, seen from here."""

    def __init__(
        self, prepare: Callable[[int], Callable[[Any], Any]], number: int, method: str = "spawn"
    ) -> None:
        """Start a process: a new one, or by ``fork`` a copy of this one without its threads.

        Raises:
            InputError: the system allows no other.
            MemoryError: there is none for another.
        """
        self.number = number
        self.is_dead = False
        context: Any = multiprocessing.get_context(method)
        try:
            self.answers, theirs = context.Pipe()
            copied = [self.answers] if method == "fork" else []
            arguments = prepare, number, theirs, copied
            self._process = context.Process(target=_serve, args=arguments, daemon=True)
            with _uninterrupted(method), warnings.catch_warnings():
                # From 3.12 on, that locks of other threads stay locked in a copy: it takes none.
                warnings.filterwarnings("ignore", "This process.*fork", DeprecationWarning)
                self._process.start()
        except OSError as fault:  # it is none of the file that is being written
            raise _refusal(fault) from fault
        theirs.close()  # the end of either process is then the end of the pipe
        self._item: Any = None

    def give(self, item: Any) -> None:
        """Have an item worked on; it is idle."""
        self._item = item
        with suppress(BrokenPipeError, ConnectionResetError):  # it died idle; take() says so
            self.answers.send(item)

    def take(self) -> tuple[Any, Any]:
        """Return the item it was given, and what became of it."""
        item, self._item = self._item, None
        try:
            result = self.answers.recv()
        except (EOFError, ConnectionResetError):
            self.is_dead = True
            self._process.join()
            return item, _describe_death(self._process.exitcode or 0)
        if isinstance(result, BaseException) and not isinstance(result, InputError):
            raise result
        return item, result

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.answers.close()
        self._process.terminate()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextmanager
def _uninterrupted(method: str) -> Iterator[None]:
    """Have a process that is started here, and begins with imports, never see a Ctrl-C.

    Its parent sees one after this block. To ignore it here would lose it, and a worker can take
    seconds to read what it is given.
    """
    if sys.platform == "win32":
        yield
        return
    if method == "spawn":
        resource_tracker.ensure_running()  # else it is started in the block, and lets signals in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _refusal(fault: OSError) -> InputError | MemoryError:
    """Say why no process could be started."""
    if fault.errno == errno.ENOMEM:
        return MemoryError("for another process")
    return none_started("process", fault)


def _describe_death(code: int) -> InputError:
    """Say what a process died of.

    Raises:
        RuntimeError: of a fault of ours, which it has printed.
    """
    if code >= _CRASHED:
        return InputError("worker", f"its process was ended by 0x{code:X}")
    if code == _TERMINATED:
        code = -signal.SIGTERM
    if code >= 0:
        raise RuntimeError(f"a worker process ended with code {code}")
    name = signal.Signals(-code).name
    remedy = "is there enough memory for so many workers?" if name == "SIGKILL" else None
    return InputError("worker", f"its process was ended by {name}", remedy)


def _serve(
    prepare: Callable[[int], Callable[[Any], Any]],
    number: int,
    pipe: connection.Connection,
    copied: list[connection.Connection],
) -> None:
    """Be a worker: until the pipe ends, answer each item with its result."""
    for other in copied:  # a pipe ends when nobody has its other end any more
        other.close()
    for ignored in filter(None, (INTERRUPT, HANG_UP)):  # the parent gets it too, and sends SIGTERM
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    work = _try(prepare, number)
    while True:
        with _parent():
            item = pipe.recv()
        # What cannot even begin says so for each item.
        answer = work if isinstance(work, BaseException) else _try(work, item)
        with _parent():
            pipe.send(answer)


@contextmanager
def _parent() -> Iterator[None]:
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):  # it is gone
        os._exit(0)  # without the interpreter's farewell, which would want its stderr


def _try(work: Callable[[Any], Any], item: Any) -> Any:
    try:
        return work(item)
    except FlowwarpError as fault:
        return fault
    except MemoryError as fault:
        return MemoryError(str(fault))
    except RuntimeError:  # torch's own faults, too little memory among them
        return RuntimeError(traceback.format_exc())
