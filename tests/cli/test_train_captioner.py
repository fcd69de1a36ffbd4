"""``train-captioner`` through the real command line, and what ``describe-video`` says by it."""

import json

import pytest
import torch

from flowwarp.cli import main
from flowwarp.io.checkpoints import load_weights
from flowwarp.io.video_writer import write_video
from flowwarp.legacy.pipelines.captions import load_captioner

QUICK = ["--preset", "tiny", "--set", "clips=6", "--set", "checked=2", "--set", "model.size=16"]
QUICK += ["--set", "length=8", "--set", "batch_size=2", "--set", "threads=1"]


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_trains_a_captioner_that_describes(tmp_path, capsys):
    folder = tmp_path / "run"
    call = ["train-captioner", "digits", *QUICK, "--run", folder, "--json"]
    assert run(*call, "--steps", "3") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["step"] == 3
    assert load_weights(told["weights"], "captioner")[1].config["size"] == 16
    words = load_captioner(folder / "last.safetensors").vocabulary
    # Captions of another seed would make other words of letters.
    assert run(*call, "--steps", "5", "--resume", "changed", "--seed", "5") == 0
    assert json.loads(capsys.readouterr().out)["step"] == 5
    again = load_captioner(folder / "last.safetensors").vocabulary
    assert again.pairs.merges == words.pairs.merges
    weights = told["weights"]
    assert run(*call[:-3], "--run", tmp_path / "more", "--start", weights, "--steps", "1") == 0
    capsys.readouterr()

    clip = tmp_path / "clip.mp4"
    write_video(clip, list(torch.rand(9, 3, 24, 40, generator=torch.Generator().manual_seed(0))))
    assert run("describe-video", clip, "--captioner", weights, "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert (result["frames"], result["windows"]) == (9, 1)
    assert result["nats"] < 0


def test_kinds_are_found_of_a_captioner_that_has_learned(tmp_path, capsys, monkeypatch):
    """Nor is that told only when clips have been composed."""
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))
    for more in ((), ("--dry-run",)):
        assert run("train-captioner", "digits", "--run", tmp_path / "run", "--kinds", 8, *more) == 2
        assert "--kinds needs --start" in capsys.readouterr().err
        call = ["train-captioner", "digits", "--run", tmp_path / "run", *more]
        assert run(*call, "--set", "kinds=8") == 2
        assert "kinds need --start" in capsys.readouterr().err
        assert run(*call, "--set", "frames=4") == 3
        assert "frames must be more than 4, got 4" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_settings_are_refused_before_clips_are_composed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))
    call = ["train-captioner", "digits", *QUICK, "--run", tmp_path / "run"]
    assert run(*call, "--steps", 1) == 0
    prepared = sorted((tmp_path / "cache").iterdir())
    more = [*call, "--resume", "auto"]
    for plan in ((), ("--dry-run",)):
        capsys.readouterr()
        assert run(*more, "--steps", 1, "--set", "clips=7", *plan) == 3
        assert "data.clips is 6 in this run, not 7" in capsys.readouterr().err
    assert sorted((tmp_path / "cache").iterdir()) == prepared
    assert run(*more, "--steps", 1, "--dry-run") == 0


def test_a_run_that_found_kinds_is_gone_on_with_by_its_configuration(tmp_path, capsys):
    """Its file says how many there are, which the weights that it began with do not know."""
    call = ["train-captioner", "digits", *QUICK, "--steps", 1, "--run"]
    assert run(*call, tmp_path / "eye") == 0
    call = ["train-captioner", "digits", "--start", tmp_path / "eye" / "last.safetensors"]
    folder = tmp_path / "run"
    assert run(*call, "--kinds", 8, *QUICK, "--steps", 1, "--run", folder) == 0
    call += ["--config", folder / "config.toml", "--run", folder, "--resume", "auto"]
    assert run(*call, "--kinds", 8) == 0
    assert "resuming exactly" in capsys.readouterr().err
    for setting in ("kinds=7", "vocabulary=9"):
        assert run(*call, "--kinds", 8, "--set", f"model.{setting}") == 3
        assert "does not fit the weights of --start" in capsys.readouterr().err


def test_other_weights_are_refused(video_weights, tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    write_video(clip, list(torch.rand(9, 3, 24, 40)))
    assert run("describe-video", clip, "--captioner", video_weights["dvae"]) == 3
    assert "captioner" in capsys.readouterr().err


def test_captions_have_an_end(tmp_path, capsys):
    call = ["train-captioner", "digits", *QUICK, "--run", tmp_path / "run"]
    assert run(*call, "--set", "text_limit=257") == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert "text_limit must be a whole number in [1, 256], got 257" in error
