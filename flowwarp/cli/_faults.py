"""Every fault becomes one line on stderr and its exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence

import click

from flowwarp.errors import FlowwarpError, SomeFailed

OUR_BUG = 1
BAD_OUTPUT = 4
OUT_OF_MEMORY = 6
INTERRUPTED = 128 + signal.SIGINT


def run(command: click.Command, arguments: Sequence[str] | None = None) -> None:
    """Run a click command and exit the process.

    0 done · 1 our bug · 2 usage · 3 bad input · 4 output or disk · 5 some of many failed ·
    6 out of memory · 130 interrupted.
    """
    try:
        result = command.main(
            args=None if arguments is None else list(arguments),
            prog_name="flowwarp",
            standalone_mode=False,
        )
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except click.ClickException as fault:  # usage
        _say(" ".join(fault.format_message().split()) + _hint(fault))
        sys.exit(fault.exit_code)
    except SomeFailed as fault:
        for line in fault.failures:
            _say(line)
        _say(str(fault))
        sys.exit(fault.exit_code)
    except FlowwarpError as fault:
        _say(str(fault))
        sys.exit(fault.exit_code)
    except BrokenPipeError:
        # The reader of our stdout is gone (`flowwarp ... | head`): stop quietly, as other tools do,
        # and keep Python from flushing into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except MemoryError as fault:
        _say(f"out of memory: {fault}; use smaller images or fewer at a time")
        sys.exit(OUT_OF_MEMORY)
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            _say(f"{fault.filename or 'output'}: {os.strerror(fault.errno).lower()}")
            sys.exit(BAD_OUTPUT)
        raise
    else:
        sys.exit(result if isinstance(result, int) else 0)


def _say(line: str) -> None:
    click.echo(f"flowwarp: {line}", err=True)


def _hint(fault: click.ClickException) -> str:
    context = getattr(fault, "ctx", None)
    return f"; see '{context.command_path} --help'" if context is not None else ""
