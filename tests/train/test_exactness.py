"""Every operator, network and trainer keeps what is promised, and the measures see it if not."""

import itertools
import os
from dataclasses import replace

import pytest

from flowwarp.nn import check_batch_invariance
from flowwarp.train import exactness
from flowwarp.train.exactness import (
    PARTS,
    RESUMED,
    ROUNDING,
    TRAINERS,
    kills,
    micro_batch_difference,
    networks,
    operators,
    process_difference,
    refinements,
    resume_differences,
    run_differences,
    small_config,
    small_task,
    step_gradient,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exactness")


# One example


@pytest.mark.parametrize("name", operators() | refinements())
def test_an_operator_gives_the_same_bits_in_any_batch(name):
    check_batch_invariance(*(operators() | refinements())[name], tolerance=0)


@pytest.mark.parametrize("name", networks())
def test_an_example_sees_no_other(name):
    """Alone it may differ by rounding: libraries sum convolutions and products by their shape."""
    check_batch_invariance(*networks()[name], tolerance=ROUNDING)


@pytest.mark.parametrize("name", TRAINERS)
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


@pytest.mark.parametrize("name", TRAINERS)
def test_micro_batches_are_one_batch(name, folder):
    assert micro_batch_difference(name, folder) <= ROUNDING


@pytest.mark.parametrize("name", TRAINERS)
def test_two_processes_are_one(name, folder):
    assert process_difference(name, folder) <= ROUNDING


@pytest.mark.parametrize("name", TRAINERS)
def test_the_step_is_one_that_could_go_wrong(name, folder):
    """Its masks are empty in some examples and not in others, and its parts are uneven."""
    batch = small_task(name, small_config(), folder).batch(range(5))
    masks = [
        batch[key] for key in ("known", "visible", "weights", "asked", "flow_12") if key in batch
    ]
    for mask in masks:
        kept = mask.nan_to_num(0).flatten(1).ne(0).any(1)
        assert not kept[1]
        assert not kept[4]
        assert kept.any()
    assert masks
    assert any(5 % count for count in PARTS)
    gradient = step_gradient(name, small_config(), folder, f"{name}-seen")
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


# Runs


@pytest.mark.parametrize("kind", RESUMED)
@pytest.mark.parametrize("name", TRAINERS)
def test_a_stopped_run_ends_like_a_whole_one(name, kind, folder):
    assert resume_differences(name, kind, folder) == 0


def test_a_killed_run_ends_like_a_whole_one(folder):
    assert kills(folder, 1) == 0


def test_what_is_lost_in_a_run_is_counted(folder, monkeypatch):
    """A task that draws by the clock: each part of the run is another."""
    draws = itertools.count()

    def make(name, config, folder):
        task = small_task(name, config, folder)
        first = 1000 * next(draws)
        return replace(task, batch=lambda numbers: task.batch(range(first, first + len(numbers))))

    monkeypatch.setattr(exactness, "small_task", make)
    assert resume_differences("dvae", "fp32", folder / "lost") >= 3


def test_differences_of_runs_by_hand(folder):
    config = small_config(steps=2, validate_every=1, samples_every=2)
    runs = [folder / name for name in ("one", "two")]
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        for run in runs:
            exactness.train(small_task("dvae", config, folder), config, run, stream=nowhere)
    assert run_differences(*runs) == []
    one = runs[1] / "samples" / "00000002-clips.png"
    one.write_bytes(one.read_bytes() + b"\0")
    assert run_differences(*runs) == ["samples/00000002-clips.png"]
    one.unlink()
    with (runs[1] / "metrics.jsonl").open("a") as metrics:
        metrics.write("{}\n")
    assert run_differences(*runs) == ["metrics.jsonl", "samples/00000002-clips.png"]
    tensors, metadata = exactness.load_tensors(runs[1] / "last.safetensors")
    tensors[min(tensors)].view(-1)[0] += 1e-6
    exactness.save_tensors(runs[1] / "last.safetensors", tensors, metadata)
    (runs[1] / "best.safetensors").unlink()
    assert run_differences(*runs)[:2] == ["best.safetensors", "last.safetensors"]
