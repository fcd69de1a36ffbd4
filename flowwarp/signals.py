"""Signals that ask a process to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPT: int = signal.SIGINT
TERMINATE: int = signal.SIGTERM
HANG_UP: int | None = getattr(signal, "SIGHUP", None)  # the terminal is gone; Windows has none


@contextmanager
def handled(
    handler: Callable[[int, FrameType | None], None], *numbers: int | None
) -> Iterator[None]:
    """Handle signals with ``handler`` in this block; has an effect in the main thread only.

    A signal that the process ignores stays ignored: SIGHUP under ``nohup``, or SIGINT in the
    background of a shell.

    Args:
        handler: called with the signal's number and the current stack frame.
        numbers: of the signals; None is skipped.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    current = {number: signal.getsignal(number) for number in numbers if number is not None}
    before = {number: old for number, old in current.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
