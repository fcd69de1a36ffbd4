"""Every operator, network and trainer keeps what is promised, and the measures see it if not."""

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
    process_difference,
    whole_gradient,
    without_gradients,
)
from flowwarp.selftest.small_tasks import OTHERWISE, TRAINERS, small_config, small_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exactness")


# One example


@pytest.mark.parametrize("name", operators() | without_gradients())
def test_an_operator_gives_the_same_bits_in_any_batch(name):
    check_batch_invariance(*(operators() | without_gradients())[name], tolerance=0)


@pytest.mark.parametrize("name", networks())
def test_an_example_sees_no_other(name):
    """Alone it may differ by rounding: libraries sum convolutions and products by their shape."""
    check_batch_invariance(*networks()[name], tolerance=ROUNDING)


@pytest.mark.parametrize("name", [*TRAINERS, *OTHERWISE])
def test_the_loss_of_an_example_sees_no_other(name, folder):
    config = small_config()
    task = small_task(name, config, folder)
    step = config.steps // 4
    check_batch_invariance(
        lambda **examples: task.loss(task.model, examples, step),
        task.batch(range(1)),
        tolerance=ROUNDING,
    )


def test_no_number_of_threads_changes_an_operator():
    assert exactness.thread_differences() == 0


# One step


@pytest.mark.parametrize("name", [*TRAINERS, *OTHERWISE])
def test_micro_batches_are_one_batch(name, folder):
    assert micro_batch_difference(name, folder) <= ROUNDING


@pytest.mark.parametrize("name", [*TRAINERS, *OTHERWISE])
def test_two_processes_are_one(name, folder):
    assert process_difference(name, folder) <= ROUNDING


@pytest.mark.parametrize("name", TRAINERS)
def test_the_step_is_one_that_could_go_wrong(name, folder):
    """Its masks are empty in some examples and not in others, and its parts are uneven."""
    batch = small_task(name, small_config(), folder).batch(range(5))
    names = ("known", "visible", "same", "weights", "asked", "actor", "flow_12")
    masks = [batch[key] for key in names if key in batch]
    # Of these -100 is what the others' 0 is.
    masks += [batch[key][:, None] + 100 for key in ("direction", "ground") if key in batch]
    for mask in masks:
        kept = mask.nan_to_num(0).flatten(1).ne(0).any(1)
        assert not kept[1]
        assert not kept[4]
        assert kept.any()
    assert masks
    assert any(5 % count for count in PARTS)
    gradient = whole_gradient(name, folder)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.5


def test_a_statistic_of_the_batch_is_measured(folder, monkeypatch):
    def make(name, config, folder):
        task = small_task(name, config, folder)

        def loss(model, examples, step):
            losses = task.loss(model, examples, step)
            return {"loss": losses["loss"] / losses["loss"].detach().mean()}

        return replace(task, loss=loss)

    monkeypatch.setattr(exactness, "small_task", make)
    assert micro_batch_difference("dvae", folder / "leak") > 1e-3
