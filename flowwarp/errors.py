"""The faults a user can meet, each with the exit code the command line returns for it.

Library code raises these; ``flowwarp.cli`` turns them into one line on stderr.
The codes follow the table in docs/cli.md: 3 bad input, 4 output or disk, 5 some of many failed,
7 training diverged, 8 locked, 128 + n stopped by signal n.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class FlowwarpError(Exception):
    """Base of every fault that is not our bug; its text is one line.

    It can be pickled, so that a worker process can hand it over.
    """

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # What __init__ was given is not kept, only the line it made.
        return _restore, (type(self), self.args, self.__dict__)


class InputError(FlowwarpError, ValueError):
    """A file or value given by the user cannot be used.

    Args:
        source: the file (or argument) at fault.
        problem: what is wrong with it.
        remedy: what the user can do, if that is known.
    """

    exit_code = 3

    def __init__(self, source: str | Path, problem: str, remedy: str | None = None) -> None:
        super().__init__(_one_line(source, problem, remedy))
        self.source = str(source)


def missing_extra(library: str, extra: str) -> InputError:
    """Return what to raise where a library of one of the package's extras cannot be imported."""
    return InputError(library, "cannot be imported", install_extra(extra))


def install_extra(extra: str) -> str:
    """Return what a user can do who lacks one of the package's extras."""
    # Not by its name from an index: nothing is released, and what has it there is a stranger's.
    return f"install the extra {extra!r} as README.md says"


def none_started(kind: str, fault: OSError) -> InputError:
    """Return what to raise where the system starts no other process, or no other thread."""
    reason = os.strerror(fault.errno or errno.EAGAIN).lower()
    remedy = "allow more of them, or use fewer (--workers, or OMP_NUM_THREADS)"
    return InputError(kind, f"no other can be started ({reason})", remedy)


class OutputError(FlowwarpError, OSError):
    """A result cannot be written: no space, no permission, or already there."""

    exit_code = 4

    def __init__(self, target: str | Path, problem: str, remedy: str | None = None) -> None:
        super().__init__(_one_line(target, problem, remedy))
        self.target = str(target)


class SomeFailed(FlowwarpError):
    """Some of many inputs failed; the others are done.

    Args:
        failures: one line for each input that failed.
        total: how many inputs there were.
    """

    exit_code = 5

    def __init__(self, failures: Sequence[str], total: int) -> None:
        super().__init__(f"{len(failures)} of {total} failed")
        self.failures = tuple(failures)


class Diverged(FlowwarpError):
    """Training came to a loss or gradient that is no number.

    Args:
        run: the folder of the run; its last good state is saved there.
        problem: what was seen, and at which step.
        remedy: what the user can do.
    """

    exit_code = 7

    def __init__(self, run: str | Path, problem: str, remedy: str | None = None) -> None:
        super().__init__(_one_line(run, problem, remedy))
        self.run = str(run)


class Locked(FlowwarpError):
    """Another process is working on the same run or output."""

    exit_code = 8

    def __init__(self, target: str | Path, problem: str, remedy: str | None = None) -> None:
        super().__init__(_one_line(target, problem, remedy))
        self.target = str(target)


class Stopped(FlowwarpError):
    """A signal ended long work in good order; what it had done is saved.

    Args:
        target: what was worked on.
        signal_number: which signal came.
        remedy: how to go on.
    """

    def __init__(self, target: str | Path, signal_number: int, remedy: str | None = None) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(_one_line(target, f"stopped by {name}", remedy))
        self.target = str(target)
        self.exit_code = 128 + signal_number


def _restore(kind: type[FlowwarpError], args: tuple[Any, ...], state: Any) -> FlowwarpError:
    fault = kind.__new__(kind, *args)
    fault.args = args
    fault.__dict__.update(state)
    return fault


def printable(text: str) -> str:
    """Replace what could steer a terminal: a name may hold anything, escape sequences included."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _one_line(where: str | Path, problem: str, remedy: str | None) -> str:
    text = f"{where}: {problem}" + (f"; {remedy}" if remedy else "")
    return printable(" ".join(text.split()))
