"""One function over many items: in this process, in several processes, or on a ray cluster.

Each takes items from an iterator only as fast as it works on them, so that memory does not grow
with their number, and yields ``(item, result)`` as results are ready. An :class:`InputError` is the
result of its item; any other error ends the work.
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

_TIMEOUT = 10  # s to wait for an answer of a cluster
_PATIENCE = 10  # s to wait for a worker that removes its temporary files


def run_here(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R | InputError]]:
    """Call ``work`` for one item after the other in this process.

    Yields:
        Each item with its result, or with the error that it caused.
    """
    for item in items:
        try:
            result: R | InputError = work(item)
        except InputError as fault:
            result = fault
        yield item, result


def run_processes(
    prepare: Callable[[int], Callable[[T], R]], items: Iterable[T], count: int
) -> Iterator[tuple[T, R | InputError]]:
    """Work on ``count`` items at a time, each in its own process.

    If a process dies, for example of too little memory, its item has failed, and a new process
    replaces it. All processes end with this one, however it ends.

    Args:
        prepare: called once in each process with its number; returns the function to call there.
            Like items and results, it is pickled.
        items: the items.
        count: number of processes.

    Yields:
        Each item with its result, or with the error that it caused.
    """
    workers: list[Worker] = []
    busy: dict[Any, Worker] = {}
    waiting = iter(items)
    try:
        workers += (Worker(prepare, number) for number in range(count))
        idle = list(workers)
        ahead = next(waiting, _END)  # the next item is read while the processes are busy
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
        address: of the cluster, as ``ray.init`` takes it; ``local`` starts one on this machine.
        remote: the function; flowwarp must be installed on the cluster.
        constants: first arguments, sent to the cluster once.
        calls: items, each with its arguments or with an error.
        device: ``cuda`` if each task needs a GPU, ``auto`` to use GPUs if the cluster has any.
        count: number of tasks at a time; by default, as many as the cluster has resources for.

    Yields:
        Each item with its result, or with the error that it caused.

    Raises:
        InputError: ray is not installed, there is no such cluster, or it lacks a GPU or flowwarp.
    """
    ray = check_ray(address)
    try:
        cpus = {"num_cpus": count, "include_dashboard": False} if address == "local" else {}
        ray.init(address, log_to_driver=False, logging_level="ERROR", **cpus)
    except (ConnectionError, ValueError, RuntimeError, ImportError) as fault:
        reason = " ".join(str(fault).split()) or type(fault).__name__
        # ray:// needs grpcio, which is not a dependency of ray.
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
        else:  # twice as many as run, so that no processor waits for its next item
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
                except ray.exceptions.RayTaskError:  # an exception of the function
                    raise
                except ray.exceptions.RayError as fault:  # a failure of the machine
                    problem = type(fault).__name__
                    result = InputError("ray", f"the task's worker was lost ({problem})")
                yield item, result
    except (ray.exceptions.RayTaskError, ImportError) as fault:  # ImportError through ray://
        if "No module named 'flowwarp'" not in str(fault):
            raise
        problem = "flowwarp cannot be imported on the cluster's machines"
        raise InputError("--ray", problem, "install the same version there") from fault
    finally:
        ray.shutdown()


def check_ray(address: str) -> Any:
    """Import ray, and check that something answers at the address of its cluster.

    Returns:
        The module.

    Raises:
        InputError: ray is not installed, or nothing answers.
    """
    try:
        import ray
    except ImportError as fault:
        raise InputError("--ray", "ray is not installed", install_extra("ray")) from fault
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():  # ray itself would try for minutes, and print meanwhile
        try:
            socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT).close()
        except (OSError, OverflowError) as fault:
            raise InputError("--ray", f"nothing answers at {address} ({fault})") from fault
    return ray


# ------------------------------------------------------------------ processes

_END: Any = object()
_TERMINATED = 128 + signal.SIGTERM  # exit code of a worker that ends by SIGTERM
_CRASHED = 0xC0000000  # on Windows, exit codes of crashes begin here, such as 0xC0000005


@final
class Worker:
    """A worker process and the pipe to it."""

    def __init__(
        self, prepare: Callable[[int], Callable[[Any], Any]], number: int, method: str = "spawn"
    ) -> None:
        """Start a process.

        Args:
            prepare: as for :func:`run_processes`.
            number: of the worker.
            method: "spawn" for a new interpreter, or "fork" for a copy of this process without its
                threads.

        Raises:
            InputError: the system allows no further process.
            MemoryError: there is too little memory for it.
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
                # Python 3.12 warns that a fork keeps locks of other threads; it takes none of them.
                warnings.filterwarnings("ignore", "This process.*fork", DeprecationWarning)
                self._process.start()
        except OSError as fault:  # as OSError, callers would blame the file that they write
            raise _start_error(fault) from fault
        theirs.close()  # then the pipe ends when either process does
        self._item: Any = None

    def give(self, item: Any) -> None:
        """Send an item to an idle worker."""
        self._item = item
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died; take() reports that
            self.answers.send(item)

    def take(self) -> tuple[Any, Any]:
        """Wait for the worker; return its item and the result or error."""
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
        """End the process, first by SIGTERM, then by SIGKILL."""
        self.answers.close()
        self._process.terminate()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextmanager
def _uninterrupted(method: str) -> Iterator[None]:
    """Block SIGINT and SIGHUP while a process is started, so that the process inherits the block.

    A worker imports modules for seconds before it can ignore Ctrl-C. In this process the signal
    arrives after the block; if it were ignored here, it would be lost.
    """
    if sys.platform == "win32":
        yield
        return
    if method == "spawn":
        resource_tracker.ensure_running()  # started within the block, it would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_error(fault: OSError) -> InputError | MemoryError:
    if fault.errno == errno.ENOMEM:
        return MemoryError("for another process")
    return none_started("process", fault)


def _describe_death(code: int) -> InputError:
    """Return the error for a worker's exit code.

    Raises:
        RuntimeError: the worker ended with a Python error, which it has printed.
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
    """Answer each item with its result until the pipe ends; the main function of a worker."""
    for other in copied:  # a pipe ends when no process has its other end open
        other.close()
    for ignored in filter(None, (INTERRUPT, HANG_UP)):  # the parent gets them and sends SIGTERM
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    work = _try(prepare, number)
    while True:
        with _exit_without_parent():
            item = pipe.recv()
        # An error of `prepare` is the result of every item.
        answer = work if isinstance(work, BaseException) else _try(work, item)
        with _exit_without_parent():
            pipe.send(answer)


@contextmanager
def _exit_without_parent() -> Iterator[None]:
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # without the interpreter's shutdown, which would write to a closed stderr


def _try(work: Callable[[Any], Any], item: Any) -> Any:
    try:
        return work(item)
    except FlowwarpError as fault:
        return fault
    except MemoryError as fault:
        return MemoryError(str(fault))
    except RuntimeError:  # errors of torch, such as too little memory
        return RuntimeError(traceback.format_exc())
