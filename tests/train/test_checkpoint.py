"""States: saving after faults, going on from them, what is compared."""

import io
import json
import math
import re
import shutil
import signal
from dataclasses import replace

import pytest
import torch

import tiny
from flowwarp.errors import Diverged, InputError, Stopped
from flowwarp.io.checkpoints import load_tensors, load_weights, save_tensors
from flowwarp.selftest.fault_injection import run_differences
from flowwarp.train.loop import train
from tiny import STATE, run, weights


def test_nan_stops_with_the_last_good_state(tmp_path):
    run(tiny.make(), tiny.config(steps=12, save_every=7), tmp_path / "good")
    with pytest.raises(Diverged, match="the loss of step 8 is not finite") as fault:
        run(tiny.make(spoil=7 * 5 + 2), tiny.config(save_every=5), tmp_path / "bad")
    assert fault.value.exit_code == 7
    seventh = "state-00000007.safetensors"
    assert bool(weights(tmp_path / "bad", seventh).isfinite().all())
    # The state is good indeed: with the data mended the run ends as it would have.
    run(tiny.make(), tiny.config(), tmp_path / "bad", resume="auto")
    assert torch.equal(weights(tmp_path / "good"), weights(tmp_path / "bad"))


def test_vanished_data_keeps_the_last_good_state(tmp_path):
    def gone(step):
        if step == 6:
            raise InputError("frame7.png", "no such file")

    with pytest.raises(InputError, match=r"frame7\.png"):
        run(tiny.make(gone), tiny.config(), tmp_path / "cut")
    assert (tmp_path / "cut" / "state-00000006.safetensors").exists()
    run(tiny.make(), tiny.config(), tmp_path / "cut", resume="auto")
    run(tiny.make(), tiny.config(), tmp_path / "whole")
    assert run_differences(tmp_path / "whole", tmp_path / "cut") == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_broken_state_falls_back(tmp_path, damage):
    run(tiny.make(), tiny.config(), tmp_path / "whole")
    run(tiny.make(), tiny.config(), tmp_path / "hurt")
    path = tmp_path / "hurt" / STATE
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-5] ^= 1
    path.write_bytes({"truncated": data[:-9], "empty": b""}.get(damage, data))
    stream = io.StringIO()
    train(tiny.make(), tiny.config(), tmp_path / "hurt", resume="auto", stream=stream)
    assert f"{STATE}: " in stream.getvalue()
    assert "resuming exactly after step 10" in stream.getvalue()
    assert run_differences(tmp_path / "whole", tmp_path / "hurt") == []


def test_all_states_broken_is_an_error_each_time(tmp_path):
    run(tiny.make(), tiny.config(), tmp_path)
    for path in tmp_path.glob("state-*"):
        path.write_bytes(b"nothing")
    for _ in range(2):
        with pytest.raises(InputError, match="all of its states are broken"):
            run(tiny.make(), tiny.config(), tmp_path, resume="auto")


def test_a_state_with_an_infinite_best_step_is_refused(tmp_path):
    run(tiny.make(), tiny.config(steps=4), tmp_path)
    tensors, metadata = load_tensors(tmp_path / "state-00000004.safetensors")
    metadata["facts"] = json.dumps({**json.loads(metadata["facts"]), "best": [1.0, math.inf]})
    save_tensors(tmp_path / "state-00000004.safetensors", tensors, metadata)
    with pytest.raises(InputError, match="its facts are broken"):
        run(tiny.make(), tiny.config(steps=4), tmp_path, resume="auto")


def test_states_are_saved_after_save_seconds(tmp_path):
    config = tiny.config(steps=3, save_every=100, validate_every=0, save_seconds=0, keep=5)
    run(tiny.make(), config, tmp_path)
    assert len(list(tmp_path.glob("state-*"))) == 3


def test_hours_include_those_before_resuming(tmp_path):
    run(tiny.make(), tiny.config(steps=4), tmp_path)
    newest = tmp_path / "state-00000004.safetensors"
    tensors, metadata = load_tensors(newest)
    metadata["facts"] = json.dumps({**json.loads(metadata["facts"]), "seconds": 7200.0})
    save_tensors(newest, tensors, metadata)
    run(tiny.make(), tiny.config(steps=6), tmp_path, resume="changed")
    assert load_weights(tmp_path / "last.safetensors")[1].notes["hours"] == "2.00"


def test_last_weights_are_rewritten_from_the_last_state(tmp_path):
    """Also where a kill came between the two."""
    run(tiny.make(), tiny.config(), tmp_path)
    last = tmp_path / "last.safetensors"
    wanted, card = load_tensors(last)
    save_tensors(last, {"first.bias": torch.zeros(8)}, {})
    run(tiny.make(), tiny.config(), tmp_path, resume="auto")
    renewed, again = load_tensors(last)
    assert again == card
    assert all(torch.equal(renewed[name], tensor) for name, tensor in wanted.items())


def test_resuming_with_other_threads_is_reported(tmp_path, monkeypatch):
    run(tiny.make(), tiny.config(), tmp_path)
    stream = io.StringIO()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    train(tiny.make(), tiny.config(), tmp_path, resume="auto", stream=stream)
    assert "resuming approximately (threads 1 → 7) after step 12" in stream.getvalue()


@pytest.mark.parametrize("muon", [0.5, 0.0])
def test_resuming_muon_in_another_precision_is_reported(tmp_path, monkeypatch, muon):
    """As it does on two processors that otherwise are called the same; states of before did so."""
    fast = "_is_avx512_bf16_supported"
    config = tiny.config(muon=muon)

    def task():
        return tiny.make(matrices=("first",))

    monkeypatch.setattr(torch.cpu, fast, lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    run(task(), config, tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr("flowwarp.train.checkpoint._circumstances", lambda _: {"data": ""})
        run(task(), config, tmp_path / "old")
    monkeypatch.setattr(torch.cpu, fast, lambda: False)
    for name in ("new", "old"):
        stream = io.StringIO()
        train(task(), config, tmp_path / name, resume="auto", stream=stream)
        reported = "muon torch.bfloat16 → torch.float32" in stream.getvalue()
        assert reported == bool(muon)
        assert ("bf16 AVX-512 → none" in stream.getvalue()) == (name == "new")


def test_resuming_with_other_data_is_reported(tmp_path):
    stream = io.StringIO()
    run(replace(tiny.make(), data="pairs-1"), tiny.config(steps=8), tmp_path)
    task = replace(tiny.make(), data="pairs-2", validate=lambda model: {"error": 1e9})
    result = train(task, tiny.config(steps=8), tmp_path, resume="auto", stream=stream)
    assert "resuming approximately (data pairs-1 → pairs-2)" in stream.getvalue()
    assert result.best[0] == 1e9  # what was the best of other clips says nothing


def test_resuming_with_other_examples_is_reported(tmp_path):
    """Though nothing names what they are made of."""
    run(tiny.make(), tiny.config(steps=8), tmp_path)
    task = tiny.make()

    def batch(numbers):
        examples = {name: value.clone() * 2 for name, value in task.batch(numbers).items()}
        columns = torch.zeros(len(numbers), 3).unbind(1)  # not as dense as they look, if of one
        return examples | {"column": columns[1]}

    stream = io.StringIO()
    other = replace(task, batch=batch, validate=lambda model: {"error": 1e9})
    result = train(other, tiny.config(steps=8), tmp_path, resume="auto", stream=stream)
    assert re.search(r"resuming approximately \(examples \w{12} → \w{12}\)", stream.getvalue())
    assert result.best[0] == 1e9


def test_examples_are_compared_after_preparation(tmp_path):
    """So a task that makes its data first is not reported as changed, and the best figure stays."""

    def task(error):
        inner, ready = tiny.make(), []

        def batch(numbers):
            examples = inner.batch(numbers)
            return examples if ready else {n: torch.zeros_like(v) for n, v in examples.items()}

        return replace(
            inner,
            batch=batch,
            prepare=lambda: ready.append(1),
            validate=lambda model: {"error": error},
        )

    stream = io.StringIO()
    run(task(1.0), tiny.config(steps=8), tmp_path)
    again = train(task(2.0), tiny.config(steps=8), tmp_path, resume="auto", stream=stream)
    assert "resuming exactly after step 8" in stream.getvalue()
    assert again.best[0] == 1.0


def test_best_figure_is_dropped_if_the_validation_changes(tmp_path):
    """Of other data, or another figure, nothing is the best so far."""

    def worse(figure="error", **changes):
        task = replace(tiny.make(**changes), metric=figure)
        return replace(task, validate=lambda model: {figure: 1e9})

    run(tiny.make(), tiny.config(steps=8), tmp_path / "a")
    for name in ("b", "c"):
        shutil.copytree(tmp_path / "a", tmp_path / name)
    more = tiny.config(steps=12)
    # The state of step 8 is of before its validation, which comes again.
    assert run(worse(), more, tmp_path / "a", resume="changed").best[1] == 4
    assert run(worse(dropout=0.1), more, tmp_path / "b", resume="changed").best[0] == 1e9
    assert run(worse("other"), more, tmp_path / "c", resume="changed").best[0] == 1e9


def test_a_changed_validation_is_remembered_after_a_stop(tmp_path):
    """Though the run with the changed validation has not saved a state yet."""
    run(replace(tiny.make(), validate=lambda model: {"error": 0.0}), tiny.config(), tmp_path)

    def stop(model):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal came too late")

    more = tiny.config(steps=16)
    task = tiny.make(dropout=0.1)
    with pytest.raises(Stopped):
        run(replace(task, validate=stop), more, tmp_path, resume="changed")
    again = replace(tiny.make(dropout=0.1), validate=lambda model: {"error": 1e9})
    assert run(again, more, tmp_path, resume="auto").best[0] == 1e9


def test_best_figure_is_dropped_if_the_seed_changes(tmp_path):
    """So that what was best of the former ones says nothing."""
    run(tiny.make(), tiny.config(steps=8), tmp_path)
    task = replace(tiny.make(), validate=lambda model: {"error": 1e9})
    again = run(task, tiny.config(steps=12, seed=1), tmp_path, resume="changed")
    assert again.best[0] == 1e9
