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
    """Have signals call ``handler`` in this block; only the main thread can.

    What the process was started to ignore it goes on to ignore: SIGHUP under ``nohup``, or SIGINT
    in the background of a shell.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    present = {number: signal.getsignal(number) for number in numbers if number is not None}
    before = {number: old for number, old in present.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
