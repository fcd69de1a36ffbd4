import io
import json
import math
import re
import shutil
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import tiny
from flowwarp.errors import Diverged, InputError, OutputError, Stopped
from flowwarp.io.checkpoints import load_tensors, load_weights, save_tensors
from flowwarp.selftest.exactness import relative_difference
from flowwarp.selftest.fault_injection import run_differences
from flowwarp.signals import HANG_UP, INTERRUPT, TERMINATE
from flowwarp.train import runs
from flowwarp.train.loop import (
    LoopConfig,
    Progress,
    learning_rate,
    train,
)

STATE = "state-00000012.safetensors"


def run(task, config, folder, **options):
    return train(task, config, folder, stream=io.StringIO(), **options)


def weights(folder, state=STATE):
    tensors = load_tensors(folder / state)[0]
    return torch.cat([t.flatten() for k, t in tensors.items() if k.startswith("model.")])


def assert_close_metrics(one, two):
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert a.pop("split") == b.pop("split")
        assert a == pytest.approx(b, rel=1e-5)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# Resuming


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 2, "workers": 2},
        {"ema": 0.0, "clip": 0.0, "decay": "constant"},
        {"precision": "bf16", "accumulate": 3},
        {"muon": 0.5},
    ],
    ids=["plain", "accumulate", "bare", "bf16", "muon"],
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


def test_signals_and_their_codes(tmp_path, forked):
    assert forked("signals", tmp_path).stdout.count("exit 143") == 1
    for name in ("15", "2"):
        assert list((tmp_path / name).glob("state-*.safetensors"))


def test_second_process_is_locked_out_until_the_first_dies(tmp_path, forked):
    out = forked("lock", tmp_path / "run").stdout
    assert "another process trains this run" in out
    assert out.count("exit 8") == 1
    assert out.count("exit 0") == 1


def test_finished_run_resumes_to_itself(tmp_path):
    first = run(tiny.make(), tiny.config(), tmp_path / "a")
    run(tiny.make(), tiny.config(), tmp_path / "b")
    assert run(tiny.make(), tiny.config(), tmp_path / "b", resume="auto") == replace(
        first, weights=tmp_path / "b" / "best.safetensors"
    )
    assert run_differences(tmp_path / "a", tmp_path / "b") == []


def test_says_what_makes_it_approximate(tmp_path, monkeypatch):
    run(tiny.make(), tiny.config(), tmp_path)
    stream = io.StringIO()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    train(tiny.make(), tiny.config(), tmp_path, resume="auto", stream=stream)
    assert "resuming approximately (threads 1 → 7) after step 12" in stream.getvalue()


@pytest.mark.parametrize("muon", [0.5, 0.0])
def test_says_that_muon_sums_in_another_precision(tmp_path, monkeypatch, muon):
    """As it does on two processors that otherwise are called the same; states of before did so."""
    fast = "_is_avx512_bf16_supported"
    config = tiny.config(muon=muon)

    def task():
        return tiny.make(matrices=("first",))

    monkeypatch.setattr(torch.cpu, fast, lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    run(task(), config, tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr("flowwarp.train.loop._Loop._circumstances", lambda _: {"data": ""})
        run(task(), config, tmp_path / "old")
    monkeypatch.setattr(torch.cpu, fast, lambda: False)
    for name in ("new", "old"):
        stream = io.StringIO()
        train(task(), config, tmp_path / name, resume="auto", stream=stream)
        told = "muon torch.bfloat16 → torch.float32" in stream.getvalue()
        assert told == bool(muon)
        assert ("bf16 AVX-512 → none" in stream.getvalue()) == (name == "new")


@pytest.mark.parametrize("name", ["learning_rate", "steps", "threads", "warmup", "workers"])
def test_what_cannot_be_computed_with_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at most"):
        tiny.config(**{name: 10**30})


# Exactness


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_micro_batches_are_one_batch(tmp_path, parts):
    run(tiny.make(), tiny.config(), tmp_path / "one")
    run(tiny.make(), tiny.config(accumulate=parts), tmp_path / "many")
    assert relative_difference(weights(tmp_path / "many"), weights(tmp_path / "one")) < 1e-6
    assert_close_metrics(tmp_path / "one", tmp_path / "many")


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


def test_muon_moves_matrices_alike_in_all_directions(tmp_path):
    """One step: the nearest matrix to the gradient whose singular values are 1, about."""
    config = tiny.config(steps=1, weight_decay=0.0, clip=0.0, ema=0.0, muon=0.5)
    task = tiny.make(matrices=("first", "last"))
    first, bias = task.model.first.weight, task.model.first.bias
    before = first.detach().clone(), bias.detach().clone()
    loss = task.loss(task.model, task.batch(range(5)), 0)["loss"].mean()
    matrix, vector = torch.autograd.grad(loss, [first, bias])
    run(task, config, tmp_path)
    rate = 0.5 * config.learning_rate
    # As large as AdamW's steps, whose root mean square is 0.2 or so.
    moved = (before[0] - first) / (0.5 * rate * 0.2 * math.sqrt(max(first.shape)))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # Along each direction of the gradient, but for those that are lost in bfloat16.
    told = values > 0.02 * values[0]
    assert values[told].min() < 0.3 * values[0]
    along = (left.mT @ moved @ right.mT)[told][:, told]
    assert along.diagonal().min() > 0.6
    assert along.diagonal().max() < 1.3
    torch.testing.assert_close(along, along.diagonal().diag(), atol=0.05, rtol=0)
    torch.testing.assert_close(bias, before[1] - rate * vector / (vector.abs() + 1e-8))


def test_muon_needs_matrices(tmp_path):
    with pytest.raises(InputError, match=r"loop.muon: a tiny has no matrices for Muon"):
        run(tiny.make(), tiny.config(muon=0.5), tmp_path)


def test_a_configuration_without_its_settings_is_no_older_one(tmp_path):
    run(tiny.make(), tiny.config(), tmp_path)
    path = tmp_path / "config.toml"
    loop, *_ = path.read_text().split("[model]")
    path.write_text(loop)
    with pytest.raises(InputError, match=r"model.width is None in this run"):
        run(tiny.make(), tiny.config(), tmp_path, resume="auto")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_are_computed_in_the_precision_that_is_asked_for(tmp_path, precision):
    task, seen = tiny.make(), []

    def loss(model, batch, step):
        seen.append(model(batch["x"]).dtype)
        return task.loss(model, batch, step)

    run(replace(task, loss=loss), tiny.config(steps=1, precision=precision), tmp_path)
    assert seen == [{"fp32": torch.float32, "bf16": torch.bfloat16}[precision]]


def test_noise_is_another_in_each_micro_batch_and_by_each_seed(tmp_path):
    drawn = set()
    for seed in (0, 1):
        task = tiny.make()

        def loss(model, batch, step, task=task):
            drawn.add(float(torch.rand(())))
            return task.loss(model, batch, step)

        config = tiny.config(steps=3, accumulate=2, seed=seed)
        run(replace(task, loss=loss), config, tmp_path / str(seed))
    assert len(drawn) == 3 * 2 * 2


def test_losses_must_be_per_example(tmp_path):
    task = replace(tiny.make(), loss=lambda model, batch, step: {"loss": model(batch["x"]).mean()})
    with pytest.raises(ValueError, match="one number an example"):
        run(task, tiny.config(), tmp_path)


def test_schedule():
    config = LoopConfig(steps=110, warmup=10, learning_rate=1.0, floor=0.1)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 9) == 1.0
    assert learning_rate(config, 60) == pytest.approx(0.55)
    assert learning_rate(config, 110) == pytest.approx(0.1)
    assert learning_rate(replace(config, decay="constant"), 109) == 1.0


# Faults


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


def test_vanished_data_in_a_worker(tmp_path):
    def gone(step):
        if step == 6:
            raise InputError("frame7.png", "no such file")

    with pytest.raises(InputError, match=r"frame7\.png"):
        run(tiny.make(gone), tiny.config(workers=2), tmp_path)
    assert (tmp_path / "state-00000006.safetensors").exists()


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


def test_all_states_broken_is_said_each_time(tmp_path):
    run(tiny.make(), tiny.config(), tmp_path)
    for path in tmp_path.glob("state-*"):
        path.write_bytes(b"nothing")
    for _ in range(2):
        with pytest.raises(InputError, match="none of its states is whole"):
            run(tiny.make(), tiny.config(), tmp_path, resume="auto")


def test_a_state_whose_best_is_at_no_step_is_refused(tmp_path):
    run(tiny.make(), tiny.config(steps=4), tmp_path)
    tensors, metadata = load_tensors(tmp_path / "state-00000004.safetensors")
    metadata["facts"] = json.dumps({**json.loads(metadata["facts"]), "best": [1.0, math.inf]})
    save_tensors(tmp_path / "state-00000004.safetensors", tensors, metadata)
    with pytest.raises(InputError, match="its facts are broken"):
        run(tiny.make(), tiny.config(steps=4), tmp_path, resume="auto")


def test_another_configuration_is_refused_by_key(tmp_path):
    run(tiny.make(), tiny.config(steps=4), tmp_path)
    with pytest.raises(InputError, match=r"loop\.clip is 1\.0 in this run, not 2\.0"):
        run(tiny.make(), tiny.config(steps=4, clip=2.0), tmp_path, resume="auto")
    with pytest.raises(InputError, match=r"model\.width is 8 in this run, not 9"):
        run(tiny.make(width=9), tiny.config(steps=4), tmp_path, resume="auto")
    run(tiny.make(), tiny.config(steps=4, save_every=1, workers=1), tmp_path, resume="auto")
    longer = run(tiny.make(), tiny.config(steps=6), tmp_path, resume="changed")
    assert longer.step == 6


def test_a_run_is_not_overwritten(tmp_path):
    run(tiny.make(), tiny.config(steps=2), tmp_path)
    with pytest.raises(OutputError, match="holds a run already"):
        run(tiny.make(), tiny.config(steps=2), tmp_path)
    (tmp_path / "state-00000002.safetensors").unlink()
    with pytest.raises(OutputError, match="holds a run already"):  # its weights are still there
        run(tiny.make(), tiny.config(steps=2), tmp_path)


def test_a_refused_change_leaves_the_configuration(tmp_path):
    run(tiny.make(), tiny.config(steps=2), tmp_path)
    before = (tmp_path / "config.toml").read_bytes()
    with pytest.raises(InputError, match="first"):
        run(tiny.make(width=9), tiny.config(steps=3), tmp_path, resume="changed")
    assert (tmp_path / "config.toml").read_bytes() == before
    assert run(tiny.make(), tiny.config(steps=2), tmp_path, resume="auto").step == 2


def test_the_best_is_the_best_of_one_measure(tmp_path):
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


@pytest.mark.parametrize("steps", [16, 10])
def test_the_validation_at_the_end_counts_when_a_run_goes_on(tmp_path, steps):
    """Though no more is due at that step, and its state is of before it."""
    values = iter([3.0, 2.0, 1.0])
    task = replace(tiny.make(), validate=lambda model: {"error": next(values)})
    assert run(task, tiny.config(steps=11), tmp_path).best == (1.0, 11)
    values = iter([1.0, 5.0, 5.0])
    assert run(task, tiny.config(steps=steps), tmp_path, resume="changed").best == (1.0, 11)
    assert load_weights(tmp_path / "best.safetensors")[1].step == 11
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    told = [(line["step"], line["error"]) for line in lines if line["split"] == "val"]
    assert told[:3] == [(4, 3.0), (8, 2.0), (11, 1.0)]


def test_what_was_trained_before_has_to_be_bettered(tmp_path):
    task = replace(tiny.make(), trained=True)
    begun = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    losses = iter([1.0, 3.0, 2.0, 4.0])
    worse = replace(task, validate=lambda model: {"error": next(losses)})
    result = run(worse, tiny.config(), tmp_path / "worse")
    assert result.best == (1.0, 0)
    assert [line["step"] for line in metrics(tmp_path / "worse") if line["split"] == "val"] == [
        0, 4, 8, 12,
    ]  # fmt: skip
    kept, _ = load_tensors(result.weights)
    assert all(torch.equal(kept[name], tensor) for name, tensor in begun.items())
    assert run(replace(tiny.make(), trained=True), tiny.config(), tmp_path / "better").best[1] == 12


def test_stops_while_the_beginning_is_validated(tmp_path):
    run(replace(tiny.make(), trained=True), tiny.config(), tmp_path / "whole")

    def validate(model):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal came too late")

    with pytest.raises(Stopped):
        run(replace(tiny.make(), trained=True, validate=validate), tiny.config(), tmp_path / "cut")
    run(replace(tiny.make(), trained=True), tiny.config(), tmp_path / "cut", resume="auto")
    assert run_differences(tmp_path / "whole", tmp_path / "cut") == []


def test_what_is_measured_anew_is_known_after_a_stop(tmp_path):
    """Before the run that was told of it has saved anything."""
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


def test_another_seed_holds_out_other_clips(tmp_path):
    """So that what was best of the former ones says nothing."""
    run(tiny.make(), tiny.config(steps=8), tmp_path)
    task = replace(tiny.make(), validate=lambda model: {"error": 1e9})
    again = run(task, tiny.config(steps=12, seed=1), tmp_path, resume="changed")
    assert again.best[0] == 1e9


def test_weights_without_a_state_are_not_written_over(tmp_path):
    run(tiny.make(), tiny.config(), tmp_path)
    for state in tmp_path.glob("state-*"):
        state.unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for resume in ("auto", "changed"):
        with pytest.raises(InputError, match="no state to go on from"):
            run(tiny.make(), tiny.config(), tmp_path, resume=resume)
    (tmp_path / "state-00000004.broken").touch()
    with pytest.raises(InputError, match="no state to go on from"):
        run(tiny.make(), tiny.config(), tmp_path, resume="auto")
    (tmp_path / "state-00000004.broken").unlink()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl"])
def test_files_of_others_are_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("[tool]\nmine = 1\n")
    for resume in ("never", "auto", "changed"):
        with pytest.raises(OutputError, match="is no run's of ours"):
            run(tiny.make(), tiny.config(steps=2), tmp_path, resume=resume)
    assert (tmp_path / name).read_text() == "[tool]\nmine = 1\n"


def test_what_another_run_is_writing_below_stays(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.flowwarp-0123.safetensors").touch()
    (tmp_path / ".flowwarp-0123.safetensors").touch()
    run(tiny.make(), tiny.config(steps=2), tmp_path)
    assert [path.parent.name for path in tmp_path.rglob(".flowwarp-*")] == ["other"]


def test_says_that_the_data_is_another(tmp_path):
    stream = io.StringIO()
    run(replace(tiny.make(), data="pairs-1"), tiny.config(steps=8), tmp_path)
    task = replace(tiny.make(), data="pairs-2", validate=lambda model: {"error": 1e9})
    result = train(task, tiny.config(steps=8), tmp_path, resume="auto", stream=stream)
    assert "resuming approximately (data pairs-1 → pairs-2)" in stream.getvalue()
    assert result.best[0] == 1e9  # what was the best of other clips says nothing


def test_says_that_the_examples_are_others(tmp_path):
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


def test_what_is_prepared_first_is_no_change(tmp_path):
    """Examples are compared once they are what they will be, and the best so far is kept."""

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


def test_means_are_of_the_steps_since_the_line_before(tmp_path):
    """Also in a run that ended in the midst of a line, and is longer now."""
    config = tiny.config(steps=4, log_every=3, validate_every=0, ema=0.0)
    run(tiny.make(), config, tmp_path)
    run(tiny.make(), replace(config, steps=9, log_every=1), tmp_path / "each")
    run(tiny.make(), replace(config, steps=9), tmp_path, resume="changed")

    def losses(folder):
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}

    told, each = losses(tmp_path), losses(tmp_path / "each")
    assert sorted(told) == [3, 4, 6, 9]
    # The rate's schedule is another before and after; so are the steps, a little.
    assert told[6] == pytest.approx((each[5] + each[6]) / 2, rel=0.02)


def test_hours_are_counted_on(tmp_path):
    run(tiny.make(), tiny.config(steps=4), tmp_path)
    newest = tmp_path / "state-00000004.safetensors"
    tensors, metadata = load_tensors(newest)
    metadata["facts"] = json.dumps({**json.loads(metadata["facts"]), "seconds": 7200.0})
    save_tensors(newest, tensors, metadata)
    run(tiny.make(), tiny.config(steps=6), tmp_path, resume="changed")
    assert load_weights(tmp_path / "last.safetensors")[1].notes["hours"] == "2.00"


def test_last_weights_are_those_of_the_last_state(tmp_path):
    """Also where a kill came between the two."""
    run(tiny.make(), tiny.config(), tmp_path)
    last = tmp_path / "last.safetensors"
    wanted, card = load_tensors(last)
    save_tensors(last, {"first.bias": torch.zeros(8)}, {})
    run(tiny.make(), tiny.config(), tmp_path, resume="auto")
    renewed, again = load_tensors(last)
    assert again == card
    assert all(torch.equal(renewed[name], tensor) for name, tensor in wanted.items())


def test_a_state_of_no_step_is_refused(tmp_path):
    run(tiny.make(), tiny.config(), tmp_path)
    newest = max(tmp_path.glob("state-*.safetensors"))
    tensors, metadata = load_tensors(newest)
    save_tensors(newest, tensors, metadata | {"step": "-1"})
    with pytest.raises(InputError, match="step -1"):
        runs._read_state(newest)


def test_what_takes_long_is_prepared_once_all_is_checked(tmp_path):
    prepared = []
    task = replace(tiny.make(), prepare=lambda: prepared.append(1))
    run(task, tiny.config(steps=2), tmp_path)
    assert prepared == [1]
    with pytest.raises(OutputError, match="holds a run already"):
        run(task, tiny.config(steps=2), tmp_path)
    with pytest.raises(InputError, match="clip"):
        run(task, tiny.config(steps=2, clip=2.0), tmp_path, resume="auto")
    assert prepared == [1]


@pytest.mark.parametrize("number", list(filter(None, [INTERRUPT, HANG_UP])))
def test_a_signal_that_is_ignored_is_none(tmp_path, number):
    """By nohup, or in the background of a shell."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        task = replace(tiny.make(), prepare=lambda: signal.raise_signal(number))
        run(task, tiny.config(steps=2), tmp_path)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", list(filter(None, [INTERRUPT, TERMINATE, HANG_UP])))
def test_a_signal_stops_preparations_at_once(tmp_path, number):
    reached = []

    def prepare():
        signal.raise_signal(number)
        reached.append(1)

    with pytest.raises(Stopped) as stop:
        run(replace(tiny.make(), prepare=prepare), tiny.config(steps=2), tmp_path)
    assert stop.value.exit_code == 128 + number
    assert reached == []
    run(tiny.make(), tiny.config(steps=2), tmp_path, resume="auto")


def test_tensorboard_is_told_what_the_metrics_are(tmp_path, monkeypatch):
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
    told = [
        (f"{line['split']}/{name}", value, line["step"])
        for line in lines
        for name, value in line.items()
        if name not in ("step", "split")
    ]
    assert {name for name, *_ in told} >= {"train/loss", "val/error"}
    assert written == [(str(tmp_path), 1), *told, "closed"]
    steps = tiny.config().steps
    run(task, tiny.config(steps=steps + 1), tmp_path, tensorboard=True, resume="changed")
    assert (str(tmp_path), steps + 1) in written


def test_tensorboard_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    task = replace(tiny.make(), prepare=lambda: pytest.fail("before what takes long"))
    with pytest.raises(InputError, match="install the extra 'log'"):
        run(task, tiny.config(), tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [{"steps": 0}, {"accumulate": 6}, {"ema": 1.0}, {"learning_rate": -1.0}, {"keep": 1}],
)
def test_config_is_checked(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        tiny.config(**changes)


# What is written


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


def test_states_are_saved_once_it_is_time(tmp_path):
    config = tiny.config(steps=3, save_every=100, validate_every=0, save_seconds=0, keep=5)
    run(tiny.make(), config, tmp_path)
    assert len(list(tmp_path.glob("state-*"))) == 3


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


def test_loss_falls_and_average_is_validated(tmp_path):
    config = tiny.config(steps=200, learning_rate=0.03, validate_every=50, log_every=50)
    run(tiny.make(width=32), config, tmp_path)
    losses = [line["loss"] for line in metrics(tmp_path) if line["split"] == "train"]
    assert losses[-1] < 0.1 * losses[0]
    state = load_tensors(tmp_path / "state-00000200.safetensors")[0]
    average = load_weights(tmp_path / "last.safetensors")[0]
    assert torch.equal(average["first.weight"], state["average.module.first.weight"])
    assert not torch.equal(average["first.weight"], state["model.first.weight"])


def test_example_of_the_docs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "example", ModuleType("example"))
    names = {"__name__": "example"}
    exec(code, names)
    assert names["result"].last["error"] < 0.2
    assert names["card"].config == {"width": 16}


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
