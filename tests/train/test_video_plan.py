"""The plan of train-video: how time is shared, what is chosen, and files that are no plan."""

import json
import math

import pytest
import torch
from torch import nn

from flowwarp.errors import InputError
from flowwarp.train import loop, video_plan
from flowwarp.train.video_plan import (
    GPT_SIZES,
    LEAST_EXAMPLES,
    PLAN,
    SHARES,
    STAGES,
    Plan,
    choose_size,
    gpt_config,
    read_plan,
    seconds_of_stage,
    seconds_per_step,
    stages_of,
    steps_within,
)

# ------------------------------------------------------------------ time


@pytest.mark.parametrize("stages", [STAGES, STAGES[:-1]])
@pytest.mark.parametrize("overhead", [0.0, 20.0])
def test_stages_one_after_the_other_fill_the_time(stages, overhead):
    """Whatever is spent between them, as on measuring; a few per cent stay for the report."""
    left, spent = 3600.0, {}
    for stage in stages:
        left -= overhead
        spent[stage] = seconds_of_stage(stage, left, stages)
        left -= spent[stage]
    assert 0.01 * 3600 < left < 0.05 * 3600
    for one in stages:  # by their shares, as far as the overhead lets them
        share = SHARES[one] / sum(SHARES[stage] for stage in stages)
        assert spent[one] / sum(spent.values()) == pytest.approx(share, rel=0.05)


def test_a_stage_by_hand():
    assert seconds_of_stage("dvae", 1000, STAGES) == pytest.approx(200 / 0.975)
    assert seconds_of_stage("upsampler", 1000, STAGES) == pytest.approx(150 / 0.175)
    assert seconds_of_stage("gpt", 1000, STAGES[:-1]) == pytest.approx(600 / 0.625)


def test_own_clips_and_those_that_need_no_enlarging_have_no_upsampler():
    assert stages_of("sprites", enlarges=True) == STAGES
    assert stages_of("sprites", enlarges=False) == stages_of("own", enlarges=True) == STAGES[:-1]


def test_a_late_run_has_no_time():
    assert seconds_of_stage("gpt", -5.0, STAGES) == 0
    assert steps_within(0.0, 0.1, 20) == 20


def test_steps_within_a_time():
    assert steps_within(10.0, 0.3, 20) == 33
    assert steps_within(1.0, 0.3, 20) == 20


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    ("per_second", "expected"),
    [
        ([1, 1, 1, 1, 1], 0),  # even the smallest sees too few
        ([200, 160, 159, 100, 50], 1),
        ([900, 800, 700, 600, 500], 4),
        ([900, 100, 700, 600, 500], 0),  # no further than the first that is too slow
    ],
)
def test_the_largest_size_that_sees_enough_examples(per_second, expected):
    assert LEAST_EXAMPLES == 16_000
    speeds = dict(zip(GPT_SIZES, per_second, strict=True))
    measured = []

    def measure(size):
        measured.append(size)
        return speeds[size]

    assert choose_size(100.0, None, measure) == GPT_SIZES[expected]
    assert measured == list(GPT_SIZES[1 : expected + 2])  # and nothing larger is measured


@pytest.mark.parametrize(
    ("clips", "expected"),
    [(10, (128, 4)), (100, (128, 4)), (400, (256, 6)), (2000, (384, 8)), (10_000, (512, 12))],
)
def test_few_clips_are_for_a_small_transformer(clips, expected):
    """However fast the machine is."""
    assert choose_size(100.0, clips, lambda _: 1e9) == expected


def test_sizes_grow_and_are_possible():
    configs = [gpt_config(size) for size in GPT_SIZES]
    assert [config.width // config.heads for config in configs] == [64] * len(configs)
    costs = [config.width**2 * config.depth for config in configs]
    assert costs == sorted(costs)


# ------------------------------------------------------------------ measuring


def test_a_step_is_measured_and_changes_nothing(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(video_plan.time, "monotonic", lambda: next(clock) * 0.5)
    torch.manual_seed(0)
    net, drawn = nn.Linear(3, 1), []
    before = [parameter.clone() for parameter in net.parameters()]

    def batch(numbers):
        drawn.append(numbers)
        return {"x": torch.ones(len(numbers), 3)}

    def loss(model, examples, step):
        assert model is not net
        assert model.training
        return {"loss": model(examples["x"])[:, 0].square()}

    task = loop.Task("line", net.eval(), batch, loss)
    threads = torch.get_num_threads()
    config = loop.LoopConfig(batch_size=5, threads=1)
    # Two readings of the clock a step, and 5 % beside the steps.
    assert seconds_per_step(task, config, torch.device("cpu")) == pytest.approx(0.5 * 1.05)
    assert drawn[:2] == [range(5), range(5, 10)]
    assert torch.get_num_threads() == threads
    assert not net.training
    for parameter, old in zip(net.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None


# ------------------------------------------------------------------ the file


@pytest.mark.parametrize(
    "plan",
    [
        Plan(1.0, 0),
        Plan(0.25, 7, "sprites", (192, 5), {"dvae": 100, "gpt": 20}, {"dvae": 3.5}, True),
    ],
)
def test_a_plan_is_read_as_it_was_written(tmp_path, plan):
    plan.write(tmp_path)
    assert read_plan(tmp_path) == plan


def test_a_folder_without_a_plan(tmp_path):
    assert read_plan(tmp_path) is None


GOOD = {"hours": 1.0, "seed": 0, "mirror": False, "gpt": None, "steps": {}, "seconds": {}}


@pytest.mark.parametrize(
    "change",
    [
        {"hours": "1"},
        {"hours": None},
        {"hours": True},
        {"hours": 0},
        {"hours": -1},
        {"hours": math.nan},
        {"hours": math.inf},
        {"hours": 10**400},
        {"seed": -1},
        {"seed": 1.5},
        {"seed": 10**30},
        {"preset": "huge"},
        {"preset": ["own"]},
        {"mirror": 1},
        {"mirror": None},
        {"distinct": 5},
        {"gpt": [128]},
        {"gpt": [128, 4, 1]},
        {"gpt": "ab"},
        {"gpt": {"0": 128, "1": 4}},
        {"gpt": [math.inf, 4]},
        {"gpt": [128.0, 4]},
        {"gpt": [0, 4]},
        {"gpt": [101, 4]},
        {"gpt": [10**9, 4]},
        {"gpt": [128, 10**6]},
        {"gpt": 5},
        {"steps": None},
        {"steps": [1, 2]},
        {"steps": {"dvae": 0}},
        {"steps": {"dvae": -3}},
        {"steps": {"dvae": 1e3}},
        {"steps": {"dvae": 10**13}},
        {"steps": {"dvae": {}}},
        {"steps": {"reviser": 4}},
        {"seconds": {"gpt": -1.0}},
        {"seconds": {"gpt": math.nan}},
        {"seconds": {"gpt": "long"}},
        {"seconds": 3},
        {"notes": "x"},
        {"x" * 100_000: 1},
    ],
    ids=lambda change: str(change)[:40],
)
def test_hostile_entries(tmp_path, change):
    (tmp_path / PLAN).write_text(json.dumps(GOOD | change))
    check_refused(tmp_path)


@pytest.mark.parametrize("name", ["hours", "seed"])
def test_missing_entries(tmp_path, name):
    (tmp_path / PLAN).write_text(json.dumps({k: v for k, v in GOOD.items() if k != name}))
    check_refused(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"gpt"',
        b"\xff\xfe\x00",
        b'{"hours": "\xff"}',
        b"[" * 100_000,
        b'{"hours": ' + b"9" * 10_000 + b"}",
        b" " * 2**21 + b"{}",
        json.dumps(GOOD).encode() + b"}",
    ],
    ids=lambda data: str(data[:20]),
)
def test_files_that_are_no_plan(tmp_path, data):
    (tmp_path / PLAN).write_bytes(data)
    check_refused(tmp_path)


def test_a_folder_in_the_place_of_a_plan(tmp_path):
    (tmp_path / PLAN).mkdir()
    check_refused(tmp_path)


def check_refused(folder):
    with pytest.raises(InputError) as caught:
        read_plan(folder)
    message = str(caught.value)
    assert message.startswith(str(folder / PLAN))
    assert "\n" not in message
    assert len(message) < 1000
