"""The progress line of a training, on a terminal or in a log."""

from __future__ import annotations

import contextlib
import time
from typing import TextIO, final


@final
class Progress:
    """A line that is updated in place on a terminal; in a log, a new line now and then.

    Args:
        stream: where to write.
        steps: steps of the training.
        shown: whether to write at all.
        every: seconds between lines of a log.
    """

    def __init__(
        self, stream: TextIO, steps: int, *, shown: bool = True, every: float = 30.0
    ) -> None:
        self.stream, self.steps, self.shown = stream, steps, shown
        self.live = shown and stream.isatty()
        self.every = 0.2 if self.live else every
        self.width = 0
        self.mean: float | None = None
        self.began: tuple[float, int] | None = None
        self.written_at = time.monotonic()

    def step(self, step: int, loss: float) -> None:
        """Count a step; write a line if it is time."""
        now = time.monotonic()
        self.mean = loss if self.mean is None else 0.95 * self.mean + 0.05 * loss
        if self.began is None:  # not counted in the rate: the first step includes warming up
            self.began = (now, step)
        if now - self.written_at < self.every and step != self.steps:
            return
        self.written_at = now
        rate = (step - self.began[1]) / max(now - self.began[0], 1e-9)
        text = f"step {step}/{self.steps}  loss {self.mean:.4g}"
        if rate > 0:
            text += f"  {rate:.3g} steps/s  {_clock((self.steps - step) / rate)} left"
        self._write(text, updated=self.live)

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._write(text, updated=False)

    def end(self) -> None:
        """End the updated line, so that later output begins on a new one."""
        if self.live and self.width:
            self._put("\n")
            self.width = 0

    def _write(self, text: str, *, updated: bool) -> None:
        if not self.shown:
            return
        start = "\r" if self.live else ""
        padding = " " * max(0, self.width - len(text))
        self.width = len(text) if updated else 0
        self._put(f"{start}{text}{padding}" + ("" if updated else "\n"))

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the other end is closed
            self.stream.write(text)
            self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
