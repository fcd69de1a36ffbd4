"""Running means, metrics.jsonl and TensorBoard."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import tiny
from flowwarp.errors import InputError
from tiny import run


def test_means_cover_the_steps_since_the_previous_line(tmp_path):
    """Also in a run that ended in the midst of a line, and is longer now."""
    config = tiny.config(steps=4, log_every=3, validate_every=0, ema=0.0)
    run(tiny.make(), config, tmp_path)
    run(tiny.make(), replace(config, steps=9, log_every=1), tmp_path / "each")
    run(tiny.make(), replace(config, steps=9), tmp_path, resume="changed")

    def losses(folder):
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}

    means, each = losses(tmp_path), losses(tmp_path / "each")
    assert sorted(means) == [3, 4, 6, 9]
    # The rate's schedule is another before and after; so are the steps, a little.
    assert means[6] == pytest.approx((each[5] + each[6]) / 2, rel=0.02)


def test_a_term_that_joins_late_is_the_mean_of_its_steps(tmp_path):
    """It is 1 in the steps that have it; so it is logged, also by a run that was resumed."""

    def make():
        task = tiny.make()

        def loss(model, batch, step):
            late = {"late": torch.ones(len(batch["x"]))} if step >= 2 else {}
            return {**task.loss(model, batch, step), **late}

        return replace(task, loss=loss)

    config = tiny.config(steps=3, log_every=3, save_every=1, validate_every=0)
    run(make(), config, tmp_path / "whole")
    run(make(), replace(config, steps=2, log_every=5), tmp_path / "cut")
    run(make(), config, tmp_path / "cut", resume="changed")
    for name in ("whole", "cut"):
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        logged = [line["late"] for line in lines if line["step"] == 3 and "late" in line]
        assert logged == [1.0]


def test_tensorboard_gets_the_figures_of_the_metrics(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    stand_in = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    task = replace(tiny.make(), validate=lambda model: {"error": 0.5})
    run(task, tiny.config(), tmp_path, tensorboard=True)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    means = [
        (f"{line['split']}/{name}", value, line["step"])
        for line in lines
        for name, value in line.items()
        if name not in ("step", "split")
    ]
    assert {name for name, *_ in means} >= {"train/loss", "val/error"}
    assert written == [(str(tmp_path), 1), *means, "closed"]
    steps = tiny.config().steps
    run(task, tiny.config(steps=steps + 1), tmp_path, tensorboard=True, resume="changed")
    assert (str(tmp_path), steps + 1) in written


def test_missing_tensorboard_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    task = replace(tiny.make(), prepare=lambda: pytest.fail("before what takes long"))
    with pytest.raises(InputError, match="install the extra 'log'"):
        run(task, tiny.config(), tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
