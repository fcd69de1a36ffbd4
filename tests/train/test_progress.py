"""The progress line, on a terminal and in a log."""

import io

from flowwarp.train.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_and_elsewhere(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    terminal, plain = Terminal(), io.StringIO()
    for stream in (terminal, plain):
        progress = Progress(stream, 4000)
        for step in range(1, 65):
            progress.step(step, 1.0)
        progress.say("done")
        progress.end()
    assert terminal.getvalue().count("\r") == 65
    lines = plain.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "step 30/4000  loss 1  1 steps/s  1:06:10 left"
