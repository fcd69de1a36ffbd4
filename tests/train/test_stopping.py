"""Signals: exit codes, stopping at once, a second signal, ignored ones."""

import signal
import time
from dataclasses import replace

import pytest
import torch

import tiny
from flowwarp.errors import Stopped
from flowwarp.io.checkpoints import load_tensors
from flowwarp.signals import HANG_UP, INTERRUPT, TERMINATE
from flowwarp.train.stopping import Stop, StopNow
from tiny import run


@pytest.mark.parametrize("number", list(filter(None, [INTERRUPT, TERMINATE, HANG_UP])))
def test_a_second_signal_loses_only_the_current_step(tmp_path, number):
    """The second one, after a second, does not wait for the step to end and be saved."""
    config = tiny.config(steps=6, save_every=2)

    def twice(step):
        if step == 3:
            signal.raise_signal(number)
            time.sleep(1.05)
            signal.raise_signal(number)

    with pytest.raises(Stopped) as stop:
        run(tiny.make(twice), config, tmp_path / "cut")
    assert stop.value.exit_code == 128 + number
    assert [path.name for path in (tmp_path / "cut").glob("state-*")] == [
        "state-00000002.safetensors"
    ]
    run(tiny.make(), config, tmp_path / "cut", resume="auto")
    run(tiny.make(), config, tmp_path / "whole")
    one, two = (load_tensors(tmp_path / n / "state-00000006.safetensors") for n in ("cut", "whole"))
    assert all(torch.equal(one[0][key], two[0][key]) for key in two[0])


def test_a_signal_passed_on_twice_within_a_second_is_one(tmp_path, monkeypatch):
    """A terminal and torchrun may both."""
    now = 5.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stop = Stop(tmp_path)
    stop.handle(INTERRUPT, None)
    now = 5.9
    stop.handle(INTERRUPT, None)
    now = 6.1
    with pytest.raises(StopNow):
        stop.handle(INTERRUPT, None)


def test_signals_and_their_codes(tmp_path, forked):
    assert forked("signals", tmp_path).stdout.count("exit 143") == 1
    for name in ("15", "2"):
        assert list((tmp_path / name).glob("state-*.safetensors"))


@pytest.mark.parametrize("number", list(filter(None, [INTERRUPT, HANG_UP])))
def test_an_ignored_signal_has_no_effect(tmp_path, number):
    """By nohup, or in the background of a shell."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        task = replace(tiny.make(), prepare=lambda: signal.raise_signal(number))
        run(task, tiny.config(steps=2), tmp_path)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", list(filter(None, [INTERRUPT, TERMINATE, HANG_UP])))
def test_a_signal_stops_the_preparation_at_once(tmp_path, number):
    reached = []

    def prepare():
        signal.raise_signal(number)
        reached.append(1)

    with pytest.raises(Stopped) as stop:
        run(replace(tiny.make(), prepare=prepare), tiny.config(steps=2), tmp_path)
    assert stop.value.exit_code == 128 + number
    assert reached == []
    run(tiny.make(), tiny.config(steps=2), tmp_path, resume="auto")
