"""The progress line of a training, on a terminal or in a log."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, final


@dataclass(frozen=True)
class Part:
    """The place of a training within a longer one, which its lines then show.

    Args:
        name: such as "stage 2 of 3, gpt"; lines begin with it.
        ends: when the whole should be done, by ``time.monotonic()``.
    """

    name: str
    ends: float


@final
class Progress:
    """A line that is updated in place on a terminal; in a log, a new line now and then.

    Args:
        stream: where to write.
        steps: steps of the training.
        shown: whether to write at all.
        every: seconds between lines of a log.
        part: set if the training is a part of a longer one.
    """

    def __init__(
        self,
        stream: TextIO,
        steps: int,
        *,
        shown: bool = True,
        every: float = 30.0,
        part: Part | None = None,
    ) -> None:
        self.stream, self.steps, self.shown, self.part = stream, steps, shown, part
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
            left = (self.steps - step) / rate
            text += f"  {rate:.3g} steps/s  {_clock(left)} left"
            if self.part is not None:
                text += f", {_clock(max(left, self.part.ends - now))} in all"
        self._write(text, updated=self.live)

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._write(text, updated=False)

    def sample(self, path: Path) -> None:
        """Name a new sheet of samples, if this is a part: whoever starts one looks on."""
        if self.part is not None:
            self.say(f"samples: {path}")

    def end(self) -> None:
        """End the updated line, so that later output begins on a new one."""
        if self.live and self.width:
            self._put("\n")
            self.width = 0

    def _write(self, text: str, *, updated: bool) -> None:
        if not self.shown:
            return
        if self.part is not None:
            text = f"{self.part.name}: {text}"
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
