"""Operators, networks and trainers are exact, and the self-test notices one that is not."""

from dataclasses import replace

import pytest

from flowwarp.nn import check_batch_invariance
from flowwarp.selftest import exactness
from flowwarp.selftest.exactness import (
    PARTS,
    ROUNDING,
    micro_batch_difference,
    networks,
    operators,
    operators_without_gradient,
    process_difference,
    whole_gradient,
)
from flowwarp.selftest.small_tasks import TRAINERS, VARIANTS, small_config, small_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exactness")


# One example


@pytest.mark.parametrize("name", operators() | operators_without_gradient())
def test_an_operator_gives_the_same_bits_in_any_batch(name):
    check_batch_invariance(*(operators() | operators_without_gradient())[name], tolerance=0)


@pytest.mark.parametrize("name", networks())
def test_networks_are_batch_invariant(name):
    """Up to rounding: libraries choose the order of sums by the batch size."""
    check_batch_invariance(*networks()[name], tolerance=ROUNDING)


@pytest.mark.parametrize("name", [*TRAINERS, *VARIANTS])
def test_losses_are_batch_invariant(name, folder):
    config = small_config()
    task = small_task(name, config, folder)
    step = config.steps // 4
    check_batch_invariance(
        lambda **examples: task.loss(task.model, examples, step),
        task.batch(range(1)),
        tolerance=ROUNDING,
    )


def test_operators_do_not_depend_on_the_number_of_threads():
    assert exactness.thread_differences() == 0


# One step


@pytest.mark.parametrize("name", [*TRAINERS, *VARIANTS])
def test_micro_batches_give_the_gradient_of_one_batch(name, folder):
    assert micro_batch_difference(name, folder) <= ROUNDING


@pytest.mark.parametrize("name", [*TRAINERS, *VARIANTS])
def test_two_processes_give_the_gradient_of_one(name, folder):
    assert process_difference(name, folder) <= ROUNDING


@pytest.mark.parametrize("name", TRAINERS)
def test_the_measured_step_has_empty_masks_and_uneven_parts(name, folder):
    """Only such a step shows a loss that divides by a sum over the batch."""
    batch = small_task(name, small_config(), folder).batch(range(5))
    names = ("known", "visible", "same", "weights", "asked", "actor", "flow_12")
    masks = [batch[key] for key in names if key in batch]
    # Labels are ignored where they are -100.
    masks += [batch[key][:, None] + 100 for key in ("direction", "ground") if key in batch]
    for mask in masks:
        counts = mask.nan_to_num(0).flatten(1).ne(0).any(1)  # (B,)
        assert not counts[1]
        assert not counts[4]
        assert counts.any()
    assert masks
    assert any(5 % count for count in PARTS)
    gradient = whole_gradient(name, folder)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.5


def test_a_loss_with_a_batch_statistic_is_noticed(folder, monkeypatch):
    def make(name, config, folder):
        task = small_task(name, config, folder)

        def loss(model, examples, step):
            losses = task.loss(model, examples, step)
            return {"loss": losses["loss"] / losses["loss"].detach().mean()}

        return replace(task, loss=loss)

    monkeypatch.setattr(exactness, "small_task", make)
    assert micro_batch_difference("dvae", folder / "leak") > 1e-3
