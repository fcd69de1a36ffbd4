"""The progress line, on a terminal and in a log."""

import io
from pathlib import Path

from flowwarp.train.progress import Part, Progress


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


def test_lines_of_a_part_name_it_the_end_of_the_whole_and_samples(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    progress = Progress(stream, 100, part=Part("stage 2 of 3, gpt", ends=630.0))
    for step in range(1, 101):
        progress.step(step, 1.0)
    progress.sample(Path("run/samples/1.png"))
    lines = stream.getvalue().splitlines()
    begin = "stage 2 of 3, gpt: step 30/100  loss 1  1 steps/s"
    assert lines[0] == f"{begin}  1:10 left, 10:00 in all"
    assert lines[-1] == "stage 2 of 3, gpt: samples: run/samples/1.png"


def test_the_whole_takes_no_less_than_its_part(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    progress = Progress(stream, 100, part=Part("stage 1 of 3, dvae", ends=31.0))
    for step in range(1, 31):
        progress.step(step, 1.0)
    assert stream.getvalue().endswith("1:10 left, 1:10 in all\n")


def test_a_training_by_itself_names_no_samples():
    stream = io.StringIO()
    Progress(stream, 100).sample(Path("run/samples/1.png"))
    assert stream.getvalue() == ""
