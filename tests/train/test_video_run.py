"""Training all networks: from a plan or measured, interrupted and continued to the same bits."""

import time
from dataclasses import replace

import pytest
import torch

from flowwarp.data.clip import clip_without_flow
from flowwarp.errors import Stopped
from flowwarp.io.checkpoints import load_tensors
from flowwarp.pipelines.video.generate import Request, generate
from flowwarp.pipelines.video.load import MODEL, load_video_model
from flowwarp.train import loop, video_plan, video_run
from flowwarp.train.video_plan import Plan, read_plan
from flowwarp.train.video_run import VideoRun, decode_as_generated, train_video
from squares import DATA, FRAMES, LARGER, SIZE, SOURCE, WORDS, draw, run_in
from tiny import metrics


def tensors(folder):
    return load_tensors(folder / MODEL)[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run of all stages, and its model."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train_video(LARGER, run_in(folder))


def test_a_run_leaves_a_model(trained):
    folder, model = trained
    loaded = load_video_model(folder)
    assert loaded.config == model.config
    assert not model.training
    assert (model.config.base, model.config.size) == ((16, 16), SIZE)
    assert (model.config.frames, model.config.fps) == (FRAMES, 8.0)
    assert model.config.words == WORDS.words
    assert loaded.notes["licence"] == "CC0"
    assert {name.split(".")[0] for name in tensors(folder)} == {"dvae", "gpt", "upsampler"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.bfloat16().float()), name
    video = generate(loaded, Request("a red square moves left", 4, steps=1))
    assert video.shape == (4, 3, *SIZE)


def test_the_plan_says_what_was_done(trained):
    folder, _ = trained
    plan = read_plan(folder)
    assert plan.steps == {"dvae": 3, "gpt": 3, "upsampler": 2}
    assert list(plan.seconds) == ["dvae", "gpt", "upsampler"]
    assert all(seconds > 0 for seconds in plan.seconds.values())


def test_two_processes_follow_the_first_and_are_one(tmp_path, forked):
    assert "exits 0 0" in forked("video", tmp_path).stdout
    one, two = (read_plan(tmp_path / name) for name in ("one", "two"))
    assert (two.gpt, two.steps) == (one.gpt, one.steps)
    assert two.steps == dict.fromkeys(video_plan.STAGES, 2)
    for stage in video_plan.STAGES:  # a code may round the other way: not as close as in one stage
        losses = [
            [line["loss"] for line in metrics(tmp_path / name / stage) if "loss" in line]
            for name in ("one", "two")
        ]
        assert losses[0]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3), stage


class Interrupted(Exception):
    pass


def test_a_run_interrupted_after_each_stage_continues_to_the_same_bits(
    tmp_path, trained, monkeypatch
):
    train, begun = loop.train, []

    def interrupted(task, *arguments, **named):
        begun.append(task.name)
        result = train(task, *arguments, **named)
        if begun.count(task.name) == 1:
            raise Interrupted  # the stage is complete, but the plan does not say so yet
        return result

    monkeypatch.setattr(loop, "train", interrupted)
    folder = tmp_path / "run"
    for done, stage in enumerate(video_plan.STAGES):
        with pytest.raises(Interrupted):
            train_video(LARGER, run_in(folder))
        assert list(read_plan(folder).seconds) == list(video_plan.STAGES[:done])
        assert begun[-1] == stage
    train_video(LARGER, run_in(folder))
    assert begun == [stage for stage in video_plan.STAGES for _ in range(2)]
    expected = tensors(trained[0])
    for name, tensor in tensors(folder).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_finished_run_has_nothing_to_do(trained, monkeypatch):
    folder, model = trained

    def train(*arguments, **named):
        raise AssertionError

    monkeypatch.setattr(loop, "train", train)
    again = train_video(LARGER, run_in(folder))
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_an_interruption_reaches_the_caller(tmp_path, monkeypatch):
    def train(*arguments, **named):
        raise Stopped(tmp_path, 15, "resume")

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(Stopped):
        train_video(DATA, run_in(tmp_path))
    assert read_plan(tmp_path).seconds == {}


def test_without_a_plan_speed_is_measured(tmp_path, monkeypatch):
    """Clips of the size that the DVAE sees need no upsampler."""
    monkeypatch.setattr(video_run, "_LEAST_STEPS", 1)
    monkeypatch.setattr(video_plan, "GPT_SIZES", ((16, 1), (32, 1), (16, 2)))
    monkeypatch.setattr(video_plan, "LEAST_EXAMPLES", 32)
    monkeypatch.setattr(video_plan, "PARAMETERS_PER_CLIP", 10_000)
    measured = []

    def seconds_per_step(task, config, device):
        sizes = task.configs["model"]
        size = (sizes.width, sizes.depth) if task.name == "gpt" else None
        measured.append(size)
        return {None: 20.0, (32, 1): 65.0, (16, 2): 120.0}[size]

    monkeypatch.setattr(video_plan, "seconds_per_step", seconds_per_step)
    plan = Plan(190 / 3600, 0)
    model = train_video(DATA, VideoRun(tmp_path, plan, torch.device("cpu"), time.monotonic()))
    # Of 190 s the DVAE gets 46, two steps and a bit. The transformer then has 182 or less, as
    # these steps take no time here. A batch of 16 in 65 s is enough for 32 examples, in 120 s not.
    assert measured == [None, (32, 1), (16, 2), (32, 1)]
    assert plan.gpt == (32, 1)
    assert plan.steps == {"dvae": 2, "gpt": 2}
    assert set(plan.seconds) == {"dvae", "gpt"}
    assert read_plan(tmp_path) == plan
    assert model.upsampler is None
    assert (model.config.gpt.width, model.config.gpt.depth) == plan.gpt


def test_time_that_is_left(tmp_path):
    run = VideoRun(tmp_path, Plan(1.0, 0), torch.device("cpu"), time.monotonic() - 600)
    assert run.left() == pytest.approx(3000, abs=5)


def test_decodes_have_the_errors_of_the_transformer(trained):
    _, model = trained
    clip = draw(0, 1)
    plain = decode_as_generated(model, clip, None)
    assert plain.shape == (FRAMES, 3, 16, 16)
    assert plain.min() >= 0
    assert plain.max() <= 1
    made = [
        decode_as_generated(model, clip, torch.Generator().manual_seed(seed)) for seed in range(12)
    ]
    same = [torch.equal(video, plain) for video in made]
    assert 0 < sum(same) < 8  # one in four
    again = decode_as_generated(model, clip, torch.Generator().manual_seed(same.index(False)))
    assert torch.equal(again, made[same.index(False)])


def test_clips_of_other_shapes(tmp_path):
    def wide(seed, index):
        clip = draw(seed, index)
        return clip_without_flow(clip.video[..., 8:24, :], clip.caption)

    source = replace(SOURCE, draw=wide)
    data = replace(DATA, source=source, validation=source, base=(16, 32), size=(16, 32))
    model = train_video(data, run_in(tmp_path, steps={"dvae": 1, "gpt": 1}))
    assert model.grid == (2, 2, 4)
