"""Validation: stopping in it, repeating it, the best weights."""

import json
import signal
from dataclasses import replace

import pytest
import torch

import tiny
from flowwarp.errors import Stopped
from flowwarp.io.checkpoints import load_tensors, load_weights
from flowwarp.selftest.fault_injection import run_differences
from tiny import metrics, run


def test_stops_during_validation_and_validates_on_resuming(tmp_path):
    def draws(model):
        return {"error": float(torch.rand(()))}

    def is_stopped(model):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal came too late")

    run(replace(tiny.make(), validate=draws), tiny.config(), tmp_path / "whole")
    with pytest.raises(Stopped) as fault:
        run(replace(tiny.make(), validate=is_stopped), tiny.config(), tmp_path / "cut")
    assert fault.value.exit_code == 130
    run(replace(tiny.make(), validate=draws), tiny.config(), tmp_path / "cut", resume="auto")
    assert run_differences(tmp_path / "whole", tmp_path / "cut") == []


@pytest.mark.parametrize("steps", [16, 10])
def test_the_final_validation_is_repeated_when_a_run_goes_on(tmp_path, steps):
    """Though no more is due at that step, and its state is of before it."""
    values = iter([3.0, 2.0, 1.0])
    task = replace(tiny.make(), validate=lambda model: {"error": next(values)})
    assert run(task, tiny.config(steps=11), tmp_path).best == (1.0, 11)
    values = iter([1.0, 5.0, 5.0])
    assert run(task, tiny.config(steps=steps), tmp_path, resume="changed").best == (1.0, 11)
    assert load_weights(tmp_path / "best.safetensors")[1].step == 11
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    validations = [(line["step"], line["error"]) for line in lines if line["split"] == "val"]
    assert validations[:3] == [(4, 3.0), (8, 2.0), (11, 1.0)]


def test_a_trained_network_is_validated_before_the_first_step(tmp_path):
    task = replace(tiny.make(), trained=True)
    begun = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    losses = iter([1.0, 3.0, 2.0, 4.0])
    worse = replace(task, validate=lambda model: {"error": next(losses)})
    result = run(worse, tiny.config(), tmp_path / "worse")
    assert result.best == (1.0, 0)
    assert [line["step"] for line in metrics(tmp_path / "worse") if line["split"] == "val"] == [
        0, 4, 8, 12,
    ]  # fmt: skip
    best, _ = load_tensors(result.weights)
    assert all(torch.equal(best[name], tensor) for name, tensor in begun.items())
    assert run(replace(tiny.make(), trained=True), tiny.config(), tmp_path / "better").best[1] == 12


def test_a_signal_stops_the_validation_before_the_first_step(tmp_path):
    run(replace(tiny.make(), trained=True), tiny.config(), tmp_path / "whole")

    def validate(model):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal came too late")

    with pytest.raises(Stopped):
        run(replace(tiny.make(), trained=True, validate=validate), tiny.config(), tmp_path / "cut")
    run(replace(tiny.make(), trained=True), tiny.config(), tmp_path / "cut", resume="auto")
    assert run_differences(tmp_path / "whole", tmp_path / "cut") == []
