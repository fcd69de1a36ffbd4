"""Exit codes, and one line on stderr for each error, signal or closed stream."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import logging
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
BROKEN_PIPE = 141  # 128 + SIGPIPE, which Windows does not define

_GC_THRESHOLD = 50_000  # net new objects before Python collects garbage

COMPLETION = "_FLOWWARP_COMPLETE"  # click's variable for shell completion

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
# These come from files to read: output paths are checked before and raise OutputError.
_INPUT_ERRORS = (errno.ENAMETOOLONG, errno.EACCES)
# Torch (CPU and CUDA), cuBLAS and OpenCV have no common exception for out of memory.
_NO_MEMORY = re.compile(
    r"tried to allocate|out of memory|failed to allocate|alloc_failed|storage size calculation",
    re.I,
)
_AMOUNT = re.compile(r"allocate ([\d.]+ ?\w+)")
# What to lower in commands whose memory does not depend on the size of input images.
_MEMORY_REMEDIES = {
    "generate-video": "lower --best-of or --candidates",
    "eval-video": "lower --best-of or --candidates",
    "describe-video": "lower --best-of",
    "datasets": "lower --size",
}


class _Ended(BaseException):
    """Raised on SIGTERM or SIGHUP, so that ``finally`` blocks remove half-written files."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(
    command: click.Command, arguments: Sequence[str] | None = None, name: str = "flowwarp"
) -> NoReturn:
    """Run a click command and exit the process with its exit code.

    0 done · 1 internal error · 2 usage · 3 bad input · 4 output or disk · 5 some inputs failed ·
    6 out of memory · 7 training diverged · 8 locked by another process · 129 terminal closed ·
    130 interrupted · 141 nobody reads stdout · 143 terminated.

    Args:
        command: the command or group.
        arguments: its arguments; None for those of this process.
        name: what usage lines call the program.
    """
    if arguments is None:  # only if this process is the command line
        _prepare_streams()
        # Importing torch creates 300,000 objects that stay. Collecting garbage during the import
        # and at exit would take half a second.
        gc.set_threshold(_GC_THRESHOLD)
        atexit.register(gc.freeze)
    _log_to_stderr()
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if number == HANG_UP:  # it can come twice: from the shell that ends and from the system
            signal.signal(number, signal.SIG_IGN)
        received.append(number)
        raise _Ended(number)

    with handled(end, TERMINATE, HANG_UP):
        code = _call(command, arguments, name)
    if received and code:  # a progress bar may fail while unwinding, if its terminal is gone
        code = 128 + received[0]
    if arguments is None and code == INTERRUPTED:
        # A second Ctrl-C at interpreter exit would print a traceback. A Python handler would not
        # help: the interpreter removes it on exit and then dies of the signal.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(_flush_stdout(code))


class _LogLines(logging.Handler):
    """Prints what the library logs as lines on stderr, like errors."""

    def emit(self, record: logging.LogRecord) -> None:
        _print_error(record.getMessage())


def _log_to_stderr() -> None:
    log = logging.getLogger("flowwarp.io")  # of one file, like errors; others report on many
    if not any(isinstance(handler, _LogLines) for handler in log.handlers):
        log.addHandler(_LogLines(logging.WARNING))


def _flush_stdout(code: int) -> int:
    """Flush stdout and return the exit code, which a failed flush changes."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as fault:
        _redirect_to_null(sys.stdout)
        if _is_closed_pipe(fault):
            return code or BROKEN_PIPE
        if code == 0:  # otherwise the command has already failed and printed why
            _print_error(f"output: {os.strerror(fault.errno or errno.EIO).lower()}")
            return BAD_OUTPUT
    return code


def _prepare_streams() -> None:
    """Open standard streams that the shell has closed; replace characters stdout cannot encode."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:  # otherwise the next opened file would get this number
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _call(command: click.Command, arguments: Sequence[str] | None, name: str) -> int:
    """Run a command, print its error if it fails, and return its exit code."""
    if completion := os.environ.get(COMPLETION):
        from click.shell_completion import shell_complete

        return shell_complete(command, {}, "flowwarp", COMPLETION, completion)
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        Path.cwd()
    except FileNotFoundError:
        _print_error("the current folder has been deleted; change to another")
        return InputError.exit_code
    try:
        # Not command.main: it reports a closed pipe as an error.
        with command.make_context(name, given) as context:
            result = command.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        _print_error("interrupted")
        return INTERRUPTED
    except _Ended as ended:
        _print_error("terminated" if ended.number == TERMINATE else "hung up")
        return 128 + ended.number
    except click.ClickException as fault:  # usage
        message = " ".join(fault.format_message().split()).removesuffix(".")
        _print_error(message + _help_hint(fault))
        return fault.exit_code
    except SomeFailed as fault:
        for line in (*fault.failures, str(fault)):
            _print_error(line)
        return fault.exit_code
    except FlowwarpError as fault:
        _print_error(str(fault))
        return fault.exit_code
    except Exception as fault:  # noqa: BLE001 - everything that is not ours
        return _report_other(fault, given[0] if given else "")
    return result if isinstance(result, int) else 0


def _report_other(fault: Exception, command: str) -> int:
    """Print an error of Python, the system or a library; return its exit code."""
    if _is_closed_pipe(fault):
        return BROKEN_PIPE
    if isinstance(fault, OSError) and fault.errno in _DISK_ERRORS:
        _print_error(f"{fault.filename or 'output'}: {os.strerror(fault.errno).lower()}")
        return BAD_OUTPUT
    if isinstance(fault, OSError) and fault.errno in _INPUT_ERRORS:
        _print_error(str(InputError(fault.filename or "input", os.strerror(fault.errno).lower())))
        return InputError.exit_code
    if isinstance(fault, MemoryError) or _NO_MEMORY.search(str(fault)):
        amount = _AMOUNT.search(str(fault))
        problem = f"out of memory: cannot allocate {amount[1]}" if amount else "out of memory"
        remedy = "lower batch_size, or raise accumulate"
        if not command.startswith("train-"):
            remedy = _MEMORY_REMEDIES.get(command, "use smaller images")
        _print_error(f"{problem}; {remedy}, or close other programs")
        return OUT_OF_MEMORY
    traceback.print_exception(fault)
    _print_error("internal error; please report it with the lines above and the output of doctor")
    return INTERNAL_ERROR


def _is_closed_pipe(fault: Exception) -> bool:
    """Return whether the reader of our output has closed the pipe."""
    if sys.platform == "win32" and isinstance(fault, OSError) and fault.filename is None:
        return fault.errno in (errno.EPIPE, errno.EINVAL)  # Windows uses EINVAL for pipes
    return isinstance(fault, BrokenPipeError)


def _redirect_to_null(stream: IO[str]) -> None:
    """Redirect a broken stream, so that Python's flush at exit does not fail again."""
    with suppress(OSError), open(os.devnull, "w") as null:  # noqa: PTH123
        os.dup2(null.fileno(), stream.fileno())


def _print_error(line: str) -> None:
    try:
        click.echo(f"flowwarp: {line}", err=True)
    except OSError:  # nobody reads stderr
        _redirect_to_null(sys.stderr)


def _help_hint(fault: click.ClickException) -> str:
    context = getattr(fault, "ctx", None)
    return f"; see '{context.command_path} --help'" if context is not None else ""
