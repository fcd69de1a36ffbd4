"""Signals that end a training: recorded on arrival, handled where nothing is lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import final

from flowwarp.errors import Stopped
from flowwarp.signals import HANG_UP, INTERRUPT, TERMINATE, handled

RESUME = "resume it with --resume auto"


class StopNow(BaseException):
    """A signal came where the training may stop at once, or a second signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stopping(folder: str | Path) -> Iterator[None]:
    """Turn `StopNow` into `Stopped`, with the run's folder."""
    try:
        yield
    except StopNow as signalled:
        raise Stopped(folder, signalled.number, RESUME) from None


@final
class Stop:
    """The signal that came (0: none), and whether it stops the training at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self._came = 0.0
        self._now = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Record a signal; a second one raises `StopNow` wherever the training is."""
        if self.number:
            # Within a second it is the same one: a terminal and torchrun both pass on Ctrl-C.
            if time.monotonic() - self._came > 1:
                raise StopNow(number)
            return
        self.number, self._came = number, time.monotonic()
        if self._now:
            raise StopNow(number)

    @contextlib.contextmanager
    def at_once(self, allowed: bool) -> Iterator[None]:
        """Let a signal stop the training at once in this block, if allowed."""
        self._now = allowed
        try:
            if allowed and self.number:
                raise StopNow(self.number)
            yield
        finally:
            self._now = False


@contextlib.contextmanager
def signals(folder: Path) -> Iterator[Stop]:
    """Record SIGINT, SIGTERM and SIGHUP instead of exiting, unless they are ignored."""
    stop = Stop(folder)
    with handled(stop.handle, INTERRUPT, TERMINATE, HANG_UP):
        yield stop
