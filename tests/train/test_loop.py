"""The whole loop: interrupted runs, several processes, the files of a run."""

import json
import math
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

import tiny
from flowwarp.errors import InputError, OutputError, Stopped
from flowwarp.io.checkpoints import load_tensors, load_weights
from flowwarp.selftest.exactness import relative_difference
from flowwarp.selftest.fault_injection import run_differences
from tiny import assert_close_metrics, metrics, run, weights


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 2, "workers": 2},
        {"ema": 0.0, "clip": 0.0, "decay": "constant"},
        {"precision": "bf16", "accumulate": 3},
        {"muon": 0.5},
        {"steps": 40, "validate_every": 3, "flat": 0.5, "decay": "linear"}
        | {"patience": 1, "least_gain": 0.9},
    ],
    ids=["plain", "accumulate", "bare", "bf16", "muon", "early end"],
)
def test_interrupted_run_is_bit_equal(tmp_path, changes):
    config = tiny.config(**changes)
    make = partial(tiny.make, dropout=0.2, matrices=("first",))
    run(make(), config, tmp_path / "whole")
    for stops in ((0,), (3,), (4, 5), (2, 7, 11)):
        folder = tmp_path / "-".join(map(str, stops))
        for stop in stops:

            def interrupt(step, stop=stop):
                if step == stop:
                    signal.raise_signal(signal.SIGTERM)

            with pytest.raises(Stopped) as fault:
                run(make(interrupt), config, folder, resume="auto")
            assert fault.value.exit_code == 143
        run(make(), config, folder, resume="auto")
        assert run_differences(tmp_path / "whole", folder) == []


def test_killed_run_is_bit_equal(tmp_path, forked):
    assert "killed 5 times" in forked("kill", tmp_path).stdout
    assert run_differences(tmp_path / "whole", tmp_path / "killed") == []
    assert not list((tmp_path / "killed").glob("**/.flowwarp-*"))


def test_finished_run_resumes_to_itself(tmp_path):
    first = run(tiny.make(), tiny.config(), tmp_path / "a")
    run(tiny.make(), tiny.config(), tmp_path / "b")
    assert run(tiny.make(), tiny.config(), tmp_path / "b", resume="auto") == replace(
        first, weights=tmp_path / "b" / "best.safetensors"
    )
    assert run_differences(tmp_path / "a", tmp_path / "b") == []


def test_two_processes_are_one(tmp_path, forked):
    # Three micro-batches: 2 + 1; "idle" has one: 1 + 0.
    out = forked("processes", tmp_path).stdout
    assert out.count("exits 0 0") == 3
    assert out.count("exits 143 143") == 1  # the signal came to the second process only
    # The second does not end before the first has written: torchrun would end that one, too.
    for rank in range(2):
        assert f"{rank} stopped after state-00000006.safetensors" in out
    assert run_differences(tmp_path / "whole", tmp_path / "cut") == []
    run(tiny.make(), tiny.config(), tmp_path / "one")
    for name in ("whole", "idle"):
        assert relative_difference(weights(tmp_path / name), weights(tmp_path / "one")) < 1e-6
        assert_close_metrics(tmp_path / "one", tmp_path / name)


def test_loop_is_adamw_by_hand(tmp_path):
    """Two steps: of mean gradients over the batch, at the rates of the warm-up."""
    config = tiny.config(steps=2, beta2=0.7, weight_decay=0.3, clip=0.0, ema=0.0)
    task = tiny.make()
    weight = task.model.first.weight
    before = weight.detach().clone()
    loss = task.loss(task.model, task.batch(range(5)), 0)["loss"].mean()
    one = torch.autograd.grad(loss, weight)[0]
    run(task, config, tmp_path)
    two = weight.grad
    # AdamW's first step is the sign of the gradient times the rate, up to its epsilon.
    rate = 0.5 * config.learning_rate
    middle = (1 - 0.3 * rate) * before - rate * one / (one.abs() + 1e-8)
    mean = (0.9 * 0.1 * one + 0.1 * two) / (1 - 0.9**2)
    square = (0.7 * 0.3 * one**2 + 0.3 * two**2) / (1 - 0.7**2)
    step = mean / (square.sqrt() + 1e-8)
    rate = config.learning_rate
    torch.testing.assert_close(weight, (1 - 0.3 * rate) * middle - rate * step)


def test_loss_falls_and_average_is_validated(tmp_path):
    config = tiny.config(steps=200, learning_rate=0.03, validate_every=50, log_every=50)
    run(tiny.make(width=32), config, tmp_path)
    losses = [line["loss"] for line in metrics(tmp_path) if line["split"] == "train"]
    assert losses[-1] < 0.1 * losses[0]
    state = load_tensors(tmp_path / "state-00000200.safetensors")[0]
    average = load_weights(tmp_path / "last.safetensors")[0]
    assert torch.equal(average["first.weight"], state["average.module.first.weight"])
    assert not torch.equal(average["first.weight"], state["model.first.weight"])


def test_files_of_a_run(tmp_path):
    result = run(tiny.make(), tiny.config(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "best.safetensors", "config.toml", "last.safetensors", "metrics.jsonl",
        "samples", "state-00000010.safetensors", "state-00000012.safetensors",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "00000006-field.png",
        "00000012-field.png",
    ]
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if line["split"] == "train"] == [3, 6, 9, 12]
    errors = {line["step"]: line["error"] for line in lines if line["split"] == "val"}
    assert list(errors) == [4, 8, 12]
    step = min(errors, key=errors.get)
    assert result.best == (errors[step], step)
    tensors, card = load_weights(result.weights, "tiny")
    assert card.step == step
    assert card.config == {"width": 8, "dropout": 0.0}
    assert card.notes["licence"] == "MIT"
    assert math.isclose(json.loads(card.notes["figures"])["error"], errors[step])
    tiny.make().model.load_state_dict(tensors)


def test_preparation_comes_after_all_checks(tmp_path):
    prepared = []
    task = replace(tiny.make(), prepare=lambda: prepared.append(1))
    run(task, tiny.config(steps=2), tmp_path)
    assert prepared == [1]
    with pytest.raises(OutputError, match="holds a run already"):
        run(task, tiny.config(steps=2), tmp_path)
    with pytest.raises(InputError, match="clip"):
        run(task, tiny.config(steps=2, clip=2.0), tmp_path, resume="auto")
    assert prepared == [1]


def test_example_of_the_docs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "example", ModuleType("example"))
    names = {"__name__": "example"}
    exec(code, names)
    assert names["result"].figures["error"] < 0.2
    assert names["card"].config == {"width": 16}
