"""The time that a reader has for one file."""

from __future__ import annotations

import signal
from types import FrameType

SECONDS = 2.0  # of CPU time


class TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for a broken file."""


def arm() -> None:
    """Start the reader's time anew."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)


def alarm(signum: int, frame: FrameType | None) -> None:
    """Stop a read that takes too long."""
    raise TooSlow
