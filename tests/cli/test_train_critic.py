"""``train-critic`` through the real command line, and what comes of it in ``generate-video``."""

import json

import pytest
import torch

from flowwarp.cli import main
from flowwarp.io.checkpoints import load_weights
from flowwarp.io.video import read_video

QUICK = ["--preset", "tiny", "--set", "clips=6", "--set", "checked=2", "--set", "data.size=16"]
QUICK += ["--set", "data.frames=8", "--set", "batch_size=2", "--set", "threads=1", "--steps", "3"]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_trains_a_critic_that_chooses(video_weights, tmp_path, capsys):
    networks = ["--dvae", video_weights["dvae"], "--gpt", video_weights["gpt"]]
    folder = tmp_path / "run"
    assert run("train-critic", "digits", *networks, *QUICK, "--run", folder, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["step"] == 3
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "wrong", "early_loss", "early_wrong"} <= set(records[-1])
    assert load_weights(told["weights"], "critic")[1].config["grid"] == [2, 4, 4]

    videos = {}
    options = ["--no-upsampler", "--seed", "3", "--json"]
    for name, more in {
        "none": [],
        "one": ["--critic", told["weights"], "--candidates", "1"],
        "many": ["--critic", told["weights"], "--candidates", "12"],
    }.items():
        out = tmp_path / f"{name}.mkv"
        assert run("generate-video", "a red knight", "-o", out, *networks, *options, *more) == 0
        result = json.loads(capsys.readouterr().out)["results"][0]
        assert result["candidates"] == (12 if name == "many" else 1)
        videos[name] = torch.stack(list(read_video(out)))
    assert torch.equal(videos["one"], videos["none"])
    assert not torch.equal(videos["many"], videos["none"])


def test_a_critic_of_another_vae_is_refused(video_weights, tmp_path, capsys):
    networks = ["--dvae", video_weights["dvae"], "--gpt", video_weights["gpt"]]
    folder = tmp_path / "run"
    assert run("train-critic", "digits", *networks, *QUICK, "--run", folder) == 0
    capsys.readouterr()
    critic = ["--critic", folder / "last.safetensors"]
    target = tmp_path / "a.mp4"
    assert run("generate-video", "left", "-o", target, *critic) == 3
    assert "reads words otherwise" in capsys.readouterr().err
    assert not target.exists()


def test_needs_the_other_networks(video_weights, capsys):
    assert run("train-critic", "digits", "--dvae", video_weights["dvae"]) == 2
    assert "--gpt" in capsys.readouterr().err
    wrong = ["--dvae", video_weights["dvae"], "--gpt", video_weights["dvae"]]
    assert run("train-critic", "digits", *wrong) == 3
