"""Errors with exit codes, for what is not a bug: bad input, no space, a signal.

The library raises them; ``flowwarp.cli`` prints one line to stderr. The exit codes are those of
docs/cli.md: 3 bad input, 4 the output cannot be written, 5 some of many inputs failed, 7 training
diverged, 8 locked by another process, 128 + n stopped by signal n.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class FlowwarpError(Exception):
    """Base of all errors that are not bugs; the message is one line.

    Errors can be pickled, since worker processes return them.
    """

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # The arguments of __init__ are not stored, only the message made of them.
        return _restore, (type(self), self.args, self.__dict__)


class InputError(FlowwarpError, ValueError):
    """An input file or value cannot be used.

    The message is ``source: problem; remedy``.

    Args:
        source: the file or argument.
        problem: what is wrong with it, beginning with a verb.
        remedy: what the user can do, if that is known.
    """

    exit_code = 3

    def __init__(self, source: str | Path, problem: str, remedy: str | None = None) -> None:
        super().__init__(_one_line(source, problem, remedy))
        self.source = str(source)


def missing_extra(library: str, extra: str) -> InputError:
    """Return the error for a library that cannot be imported and belongs to an optional extra."""
    return InputError(library, "cannot be imported", install_extra(extra))


def install_extra(extra: str) -> str:
    """Return the remedy for a missing optional extra of the package."""
    # No command installs it by name: flowwarp is not on PyPI, where another may have its name.
    return f"install the extra {extra!r} as README.md says"


def none_started(kind: str, fault: OSError) -> InputError:
    """Return the error for a process or thread that the system cannot start.

    Args:
        kind: ``"process"`` or ``"thread"``.
        fault: the system's error.
    """
    reason = os.strerror(fault.errno or errno.EAGAIN).lower()
    remedy = "allow more of them, or use fewer (--workers, or OMP_NUM_THREADS)"
    return InputError(kind, f"no other can be started ({reason})", remedy)


class OutputError(FlowwarpError, OSError):
    """A result cannot be written: no space, no permission, or the file exists.

    Args:
        target: the file or folder.
        problem: what is wrong with it, beginning with a verb.
        remedy: what the user can do, if that is known.
    """

    exit_code = 4

    def __init__(self, target: str | Path, problem: str, remedy: str | None = None) -> None:
        super().__init__(_one_line(target, problem, remedy))
        self.target = str(target)


class SomeFailed(FlowwarpError):
    """Some of many inputs failed; the others are done.

    Args:
        failures: one line for each input that failed.
        total: number of inputs.
    """

    exit_code = 5

    def __init__(self, failures: Sequence[str], total: int) -> None:
        super().__init__(f"{len(failures)} of {total} failed")
        self.failures = tuple(failures)


class Diverged(FlowwarpError):
    """A loss or gradient in training is not finite.

    Args:
        run: the folder of the run; its last good state is saved there.
        problem: what is not finite, and at which step.
        remedy: what the user can do.
    """

    exit_code = 7

    def __init__(self, run: str | Path, problem: str, remedy: str | None = None) -> None:
        super().__init__(_one_line(run, problem, remedy))
        self.run = str(run)


class Locked(FlowwarpError):
    """Another process works on the same run or output.

    Args:
        target: the folder.
        problem: what the other process does.
        remedy: what the user can do.
    """

    exit_code = 8

    def __init__(self, target: str | Path, problem: str, remedy: str | None = None) -> None:
        super().__init__(_one_line(target, problem, remedy))
        self.target = str(target)


class Stopped(FlowwarpError):
    """A signal has stopped long work; what was done is saved.

    Args:
        target: the output of the work.
        signal_number: number of the signal.
        remedy: how to resume.
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
    """Replace unprintable characters: file names may contain escape sequences of terminals."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _one_line(where: str | Path, problem: str, remedy: str | None) -> str:
    text = f"{where}: {problem}" + (f"; {remedy}" if remedy else "")
    return printable(" ".join(text.split()))
