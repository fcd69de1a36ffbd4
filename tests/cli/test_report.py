"""The progress bar, and the error that lists failed inputs."""

import io
import sys

import pytest

from flowwarp.cli._report import progress_bar, raise_if_failed
from flowwarp.errors import SomeFailed


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "options", "shown"),
    [(True, {}, True), (True, {"shown": False}, False), (False, {}, False)],
)
def test_progress_bar_shows_on_terminals_only(monkeypatch, terminal, options, shown):
    monkeypatch.setattr(sys, "stderr", Stream(terminal))
    with progress_bar("abc", "letters", **options) as bar:
        assert list(bar) == ["a", "b", "c"]
    assert ("letters" in sys.stderr.getvalue()) == shown


def test_progress_bar_takes_a_length():
    with progress_bar(iter("abc"), "letters", length=3) as bar:
        assert bar.length == 3
        assert list(bar) == ["a", "b", "c"]


def test_failed_inputs_raise():
    raise_if_failed([], 3)
    with pytest.raises(SomeFailed) as stop:
        raise_if_failed([{"input": "a.flo", "error": "a.flo: is empty"}], 3)
    assert stop.value.failures == ("a.flo: is empty",)
    assert str(stop.value) == "1 of 3 failed"
