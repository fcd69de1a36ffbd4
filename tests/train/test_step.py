"""Gradients: micro-batches, precision, noise, the shape of losses."""

from dataclasses import replace

import pytest
import torch

import tiny
from flowwarp.selftest.exactness import relative_difference
from tiny import assert_close_metrics, run, weights


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_micro_batches_are_one_batch(tmp_path, parts):
    run(tiny.make(), tiny.config(), tmp_path / "one")
    run(tiny.make(), tiny.config(accumulate=parts), tmp_path / "many")
    assert relative_difference(weights(tmp_path / "many"), weights(tmp_path / "one")) < 1e-6
    assert_close_metrics(tmp_path / "one", tmp_path / "many")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_are_computed_in_the_configured_precision(tmp_path, precision):
    task, dtypes = tiny.make(), []

    def loss(model, batch, step):
        dtypes.append(model(batch["x"]).dtype)
        return task.loss(model, batch, step)

    run(replace(task, loss=loss), tiny.config(steps=1, precision=precision), tmp_path)
    assert dtypes == [{"fp32": torch.float32, "bf16": torch.bfloat16}[precision]]


def test_noise_differs_between_micro_batches_and_seeds(tmp_path):
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
