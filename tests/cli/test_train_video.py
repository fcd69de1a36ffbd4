"""``train-video`` through the real command line, on few small clips and by a plan of few steps."""

import json
import shutil
from functools import partial

import pytest
import torch

from flowwarp.errors import Stopped
from flowwarp.io.checkpoints import load_tensors
from flowwarp.io.locks import lock
from flowwarp.pipelines.video.load import load_video_model
from flowwarp.train import video_check, video_run
from flowwarp.train.video_plan import Plan, read_plan

STEPS = {"dvae": 2, "gpt": 2, "upsampler": 2}


@pytest.fixture(scope="module")
def clips(tmp_path_factory, captioned_squares):
    return captioned_squares(tmp_path_factory.mktemp("clips") / "squares", 10)


@pytest.fixture
def train(call, clips, inside):
    """Return a function that runs train-video on the clips, by default in the folder ``run``."""
    return lambda *arguments, source=clips: call("train-video", source, "--run", "run", *arguments)


def plan(folder, **changes):
    folder.mkdir(exist_ok=True)
    planned = {"hours": 0.004, "seed": 3, "gpt": (32, 1), "steps": dict(STEPS), **changes}
    Plan(**planned).write(folder)


def weights(path):
    return load_tensors(path)[0]


def equal(some, others):
    return some.keys() == others.keys() and all(
        torch.equal(part, others[name]) for name, part in some.items()
    )


def test_trains_all_networks_and_exports_the_model(tmp_path, train):
    plan(tmp_path / "run")
    code, out, err = train("--export", "mine.safetensors")
    assert code == 0, err
    assert out == ["run/model.safetensors", "run/report.html", "mine.safetensors"]
    assert "videos      10, with 10 captions; 10 clips that share no frame" in err
    assert "too few     10 clips, where at least 50 are advised" in err
    assert any(line.startswith("stage 1 of 2, dvae: step 2/2  loss") for line in err)
    assert any(line.startswith("stage 2 of 2, gpt: step 2/2  loss") for line in err)
    assert any("samples: run/dvae/samples/00000002-clips.png" in line for line in err)
    model = load_video_model("run")
    assert (model.config.base, model.config.frames, model.config.fps) == ((64, 64), 8, 12)
    words = {"a", "red", "green", "blue", "square", "moves", "left", "right"}
    assert set(model.config.words) == words
    whole = weights("run/model.safetensors")
    assert equal(weights("mine.safetensors"), whole)
    # A second call refuses.
    problem = "holds a run already; resume it (--resume auto), or name another"
    assert train() == (4, [], [f"flowwarp: run: {problem}"])
    code, _, err = train("--resume", "auto", "--seed", "4")
    problem = "seed is 3 in this run, not 4; leave it out, or name another run"
    assert (code, err) == (3, [f"flowwarp: run: {problem}"])
    # As if it had been killed within the transformer, whose last state is there.
    run = tmp_path / "run"
    (run / "model.safetensors").unlink()
    (run / "gpt" / "last.safetensors").unlink()
    left = read_plan(run)
    del left.seconds["gpt"]
    left.write(run)
    code, out, err = train("--resume", "auto", "--json")
    assert code == 0, err
    assert json.loads(out[0])["model"] == "run/model.safetensors"
    assert not any("dvae: step" in line for line in err)
    assert equal(weights("run/model.safetensors"), whole)


def test_a_dry_run_writes_nothing(tmp_path, train):
    code, out, err = train("--dry-run", "--hours", "2", "--seed", "5")
    assert code == 0
    assert "stages: dvae 29.1 min, gpt 87.3 min; the rest" in "\n".join(out)
    assert "preset: own, seed 5, on cpu" in out
    assert "trained on  8 frames at 12 a second (0.67 s), 64x64" in err
    code, out, _ = train("--dry-run", "--json")
    told = json.loads(out[0])
    assert (told["dry_run"], told["plan"]["hours"]) == (True, 1.0)
    assert told["survey"]["files"]["videos"] == 10
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused(tmp_path, train):
    plan(tmp_path / "run")
    with lock(tmp_path / "run", "in use"):
        code, _, err = train()
    assert (code, err[-1]) == (
        8, "flowwarp: run: another process trains this run; wait for it, or name another run"
    )  # fmt: skip


def test_broken_and_double_clips_are_reported_and_none_is_an_error(tmp_path, train, clips):
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "broken.txt").write_text("a red square")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "empty.txt").write_text("a red square")
    code, out, err = train("--dry-run", source=folder)
    assert (code, out) == (3, [])
    assert err[-1].startswith(f"flowwarp: {folder}: no video is of use; the first fault:")
    for name in ("0", "1"):
        for kind in ("mp4", "txt"):
            shutil.copy(clips / f"{name}.{kind}", folder)
    shutil.copy(clips / "0.mp4", folder / "twice.mp4")
    shutil.copy(clips / "0.txt", folder / "twice.txt")
    code, _, err = train("--dry-run", source=folder)
    assert code == 0
    table = "\n".join(err)
    for name in ("broken", "empty", "twice"):
        assert f"{folder / name}.mp4:" in table
    assert train("--dry-run", source=tmp_path / "nothing")[0] == 3


def test_without_captions_pictures_are_continued(tmp_path, train, clips):
    folder = tmp_path / "clips"
    folder.mkdir()
    for video in clips.glob("*.mp4"):
        shutil.copy(video, folder)
    plan(tmp_path / "run")
    assert train(source=folder)[0] == 3
    code, _, err = train("--captions", "none", source=folder)
    assert code == 0, err
    model = load_video_model("run")
    assert model.config.words == ()
    assert model.generate("").shape == (8, 3, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--hours", "0"], 2, "--hours"),
        (["--export", "model.pt"], 2, "must end in .safetensors"),
        (["--layers", "folder"], 3, "sprites could use it"),
        (["--mirror"], 2, "--mirror: captions have the word 'left'"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, train, arguments, code, words):
    found, out, err = train(*arguments)
    assert (found, out) == (code, [])
    assert words in err[-1]
    assert list(tmp_path.iterdir()) == []


def test_worlds_have_their_own_captions(train):
    code, _, err = train("--dry-run", "--captions", "mine.csv", source="digits")
    assert (code, err[-1]) == (
        2, "flowwarp: --captions FILE: the captions of digits are made; see 'flowwarp "
        "train-video --help'"
    )  # fmt: skip
    code, _, err = train("--dry-run", source="digits")
    assert code == 0
    assert "clips       made as they are needed, without end" in err


def test_a_check_shows_clips_and_begins_no_run(tmp_path, train, monkeypatch):
    check = partial(video_check.check_clips, seconds=0.5)
    monkeypatch.setattr(video_check, "check_clips", check)
    code, out, err = train("--check")
    assert (code, out) == (0, ["run/check.html"])
    assert err[-1].endswith("of 8 samples are most like the clip of their caption")
    assert "a red square moves right" in (tmp_path / "run" / "check.html").read_text("utf-8")
    assert train("--dry-run")[0] == 0  # the folder holds no run


@pytest.mark.parametrize(
    ("fault", "code"), [(Stopped("run/dvae", 15), 143), (KeyboardInterrupt(), 130)]
)
def test_an_interrupted_run_has_a_report(tmp_path, train, monkeypatch, fault, code):
    def stopped(*_):
        raise fault

    plan(tmp_path / "run")
    monkeypatch.setattr(video_run, "train_video", stopped)
    assert train()[0] == code
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "there is no model yet" in page
    assert "10 clips that share no frame" in page
    # What a whole model made is not replaced.
    (tmp_path / "run" / "model.safetensors").touch()
    (tmp_path / "run" / "report.html").write_text("samples")
    assert train("--resume", "auto")[0] == code
    assert (tmp_path / "run" / "report.html").read_text() == "samples"
