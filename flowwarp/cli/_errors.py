"""Every fault becomes one line on stderr and its exit code."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

import click

from flowwarp.errors import FlowwarpError, InputError, SomeFailed
from flowwarp.signals import HANG_UP, INTERRUPT, TERMINATE, handled

INTERNAL_ERROR = 1
BAD_OUTPUT = 4
OUT_OF_MEMORY = 6
INTERRUPTED = 128 + INTERRUPT
BROKEN_PIPE = 141  # 128 + SIGPIPE, which Windows does not know

_GARBAGE = 50_000  # objects that come without one going, before garbage is looked for

COMPLETION = "_FLOWWARP_COMPLETE"  # as click names it

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
# Of what is to be read; what is to be written is checked before, and says so itself.
_INPUT = (errno.ENAMETOOLONG, errno.EACCES)
# Torch (CPU and CUDA), cuBLAS and OpenCV have no common exception for it.
_NO_MEMORY = re.compile(
    r"tried to allocate|out of memory|failed to allocate|alloc_failed|storage size calculation",
    re.I,
)
_AMOUNT = re.compile(r"allocate ([\d.]+ ?\w+)")
# Of commands whose memory does not hang on a picture's size.
_SMALLER = {
    "generate-video": "lower --best-of or --candidates",
    "eval-video": "lower --best-of or --candidates",
    "describe-video": "lower --best-of",
    "datasets": "lower --size",
}


class _Ended(BaseException):
    """SIGTERM or SIGHUP came: unwind, so that no half-written file stays."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(
    command: click.Command, arguments: Sequence[str] | None = None, name: str = "flowwarp"
) -> NoReturn:
    """Run a click command, called by ``name``, and exit the process.

    0 done · 1 our bug · 2 usage · 3 bad input · 4 output or disk · 5 some of many failed ·
    6 out of memory · 7 training diverged · 8 locked by another process · 129 terminal closed ·
    130 interrupted · 141 nobody reads our output · 143 terminated.
    """
    if arguments is None:  # of this process, not of one that calls us
        _open_streams()
        # Torch makes 300,000 objects that stay. To look for garbage among them, again and again
        # while they come and once more at the end, takes half a second.
        gc.set_threshold(_GARBAGE)
        atexit.register(gc.freeze)
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if number == HANG_UP:  # a shell that ends sends it, and so does the system
            signal.signal(number, signal.SIG_IGN)
        came.append(number)
        raise _Ended(number)

    with handled(end, TERMINATE, HANG_UP):
        code = _call(command, arguments, name)
    if came and code:  # what a bar writes at its end, to a terminal that is gone, is a fault too
        code = 128 + came[0]
    if arguments is None and code == INTERRUPTED:
        # Pressed once more, Ctrl-C would interrupt the interpreter's farewell with a traceback; a
        # handler would not do, as the interpreter drops it on its way and dies of the signal.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as fault:
        _mute(sys.stdout)
        if _is_closed_pipe(fault):
            code = code or BROKEN_PIPE
        elif code == 0:  # otherwise it was said when the command wrote
            _say(f"output: {os.strerror(fault.errno or errno.EIO).lower()}")
            code = BAD_OUTPUT
    sys.exit(code)


def _open_streams() -> None:
    """Open what the shell has closed, and let no letter be a fault that a stream does not know."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would be it
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _call(command: click.Command, arguments: Sequence[str] | None, name: str) -> int:
    """Run a command, say what went wrong, and return its exit code."""
    if completion := os.environ.get(COMPLETION):
        from click.shell_completion import shell_complete

        return shell_complete(command, {}, "flowwarp", COMPLETION, completion)
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        Path.cwd()
    except FileNotFoundError:
        _say("the folder you are in has been deleted; change to another")
        return InputError.exit_code
    try:
        # Not command.main, which calls a closed pipe a failure of ours.
        with command.make_context(name, given) as context:
            result = command.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return INTERRUPTED
    except _Ended as ended:
        _say("terminated" if ended.number == TERMINATE else "hung up")
        return 128 + ended.number
    except click.ClickException as fault:  # usage
        _say(" ".join(fault.format_message().split()).removesuffix(".") + _hint(fault))
        return fault.exit_code
    except SomeFailed as fault:
        for line in fault.failures:
            _say(line)
        _say(str(fault))
        return fault.exit_code
    except FlowwarpError as fault:
        _say(str(fault))
        return fault.exit_code
    except Exception as fault:  # noqa: BLE001 - the last line of defence
        if _is_closed_pipe(fault):
            return BROKEN_PIPE
        if isinstance(fault, OSError) and fault.errno in _DISK:
            _say(f"{fault.filename or 'output'}: {os.strerror(fault.errno).lower()}")
            return BAD_OUTPUT
        if isinstance(fault, OSError) and fault.errno in _INPUT:
            _say(str(InputError(fault.filename or "input", os.strerror(fault.errno).lower())))
            return InputError.exit_code
        if isinstance(fault, MemoryError) or _NO_MEMORY.search(str(fault)):
            amount = _AMOUNT.search(str(fault))
            problem = f"out of memory: {amount[1]} are not to be had" if amount else "out of memory"
            called = given[0] if given else ""
            remedy = "lower batch_size, or raise accumulate"
            if not called.startswith("train-"):
                remedy = _SMALLER.get(called, "use smaller images")
            _say(f"{problem}; {remedy}, or close other programs")
            return OUT_OF_MEMORY
        traceback.print_exc()
        _say("this is our bug: please report it with the lines above and what doctor prints")
        return INTERNAL_ERROR
    return result if isinstance(result, int) else 0


def _is_closed_pipe(fault: Exception) -> bool:
    """Return whether nobody reads our output any more."""
    if sys.platform == "win32" and isinstance(fault, OSError) and fault.filename is None:
        return fault.errno in (errno.EPIPE, errno.EINVAL)  # it says the latter of a pipe
    return isinstance(fault, BrokenPipeError)


def _mute(stream: IO[str]) -> None:
    """Keep Python from failing once more when it flushes a dead stream at exit."""
    with suppress(OSError), open(os.devnull, "w") as null:  # noqa: PTH123
        os.dup2(null.fileno(), stream.fileno())


def _say(line: str) -> None:
    try:
        click.echo(f"flowwarp: {line}", err=True)
    except OSError:  # nobody reads stderr
        _mute(sys.stderr)


def _hint(fault: click.ClickException) -> str:
    context = getattr(fault, "ctx", None)
    return f"; see '{context.command_path} --help'" if context is not None else ""
