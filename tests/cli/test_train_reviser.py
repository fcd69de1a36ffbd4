"""``train-reviser`` through the real command line, and a video made with what it learned."""

import json
import tomllib

import pytest
import torch

from flowwarp.cli import main
from flowwarp.io.checkpoints import load_weights
from flowwarp.io.images import write_image
from flowwarp.legacy.train import reviser

QUICK = ["--preset", "tiny", "--set", "clips=4", "--set", "checked=2", "--set", "size=16"]
QUICK += ["--set", "length=8", "--set", "batch_size=2", "--set", "threads=1", "--set", "groups=1"]
QUICK += ["--set", "model.widths=[8,16]"]


pytestmark = pytest.mark.usefixtures("few_grounds")


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture
def call(video_weights):
    makers = ("--dvae", video_weights["dvae"], "--gpt", video_weights["gpt"])
    return ["train-reviser", "sprites", *makers, *QUICK]


def test_trains_a_reviser(call, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(*call, "--run", folder, "--steps", 2, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["step"] == 2
    card = load_weights(told["weights"], "reviser")[1]
    assert [name for name, _ in card.config["attributes"]][:2] == ["action", "direction"]
    assert list((folder / "samples").glob("*.png"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"actor", "before", "held_out_actor"} <= set().union(*lines)
    # It goes on, and begins anew from what was learned.
    assert run(*call, "--run", folder, "--steps", 3, "--resume", "changed") == 0
    more = [*call, "--run", tmp_path / "more", "--steps", 1, "--start", told["weights"]]
    for other in ("[]", "3"):
        assert run(*more, "--set", f"attributes={other}") == 3
    assert run(*more) == 0


def test_a_start_can_get_more_blocks(call, tmp_path, capsys):
    assert run(*call, "--run", tmp_path / "run", "--steps", 1) == 0
    start = ["--start", tmp_path / "run" / "last.safetensors", "--steps", 1]
    folder = tmp_path / "deep"
    assert run(*call, *start, "--set", "model.blocks=[1,2]", "--run", folder) == 0
    assert load_weights(folder / "last.safetensors", "reviser")[1].config["blocks"] == [1, 2]
    capsys.readouterr()
    assert run(*call, *start, "--set", "model.blocks=[0,1]", "--run", tmp_path / "less") == 3
    assert "model.blocks: does not fit the weights of --start" in capsys.readouterr().err


def test_a_captioner_looks_at_what_is_revised(call, tmp_path, capsys):
    learn = ["--preset", "tiny", "--set", "clips=4", "--set", "checked=1", "--steps", 1]
    learn += ["--set", "model.size=16", "--set", "length=8", "--set", "batch_size=2"]
    assert run("train-captioner", "digits", *learn, "--run", tmp_path / "eye") == 0
    eye = tmp_path / "eye" / "last.safetensors"
    folder = tmp_path / "run"
    long = [*call, "--captioner", eye, "--run", folder, "--set", "log_every=1", "--steps", 1]
    assert run(*long, "--set", "groups=2") == 0
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["seen"] > 0
    named = tomllib.loads((folder / "config.toml").read_text())["sources"]["captioners"]
    assert [name.split(" sha256:")[0] for name in named] == [str(eye)]
    capsys.readouterr()
    assert run(*long, "--resume", "changed", "--set", "groups=1") == 3
    assert "looks at more than 4 frames" in capsys.readouterr().err


def test_what_a_run_has_written_sets_another(call, tmp_path):
    """Its attributes, which are of the clips, are passed over."""
    assert run(*call, "--run", tmp_path / "one", "--steps", 1) == 0
    settings = tmp_path / "one" / "config.toml"
    more = [*call[:6], "--run", tmp_path / "two", "--config", settings]
    assert run(*more) == 0
    one, two = (load_weights(tmp_path / n / "last.safetensors")[1] for n in ("one", "two"))
    assert one.config == two.config


def test_other_photos_make_other_clips(call, tmp_path, monkeypatch):
    """Even if the first clips, which are looked at, have none of them."""
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(reviser, "_PROBED", 0)
    (tmp_path / "photos").mkdir()
    made = []
    for number, shade in enumerate((0.2, 0.7)):
        write_image(tmp_path / "photos" / "a.png", torch.full((3, 96, 96), shade))
        more = ["--photos", tmp_path / "photos", "--run", tmp_path / f"{number}", "--steps", 1]
        assert run(*call, *more) == 0
        made.append(len(list((tmp_path / "cache").glob("revisions-*"))))
    assert made == [3, 6]


def test_other_clips_have_no_counterparts(call, tmp_path, capsys):
    call[1] = "digits"
    assert run(*call, "--run", tmp_path / "run") == 2
    assert "DATA must be sprites" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_makes_nothing(call, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))
    assert run(*call, "--run", tmp_path / "run", "--dry-run") == 0
    assert "gpt" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["size=32"], "size must be 16"),
        (["groups=3"], "groups must be at most 2"),
        (["model.frames=2"], "frames must be 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_once(call, tmp_path, capsys, settings, message):
    more = [part for setting in settings for part in ("--set", setting)]
    assert run(*call, "--run", tmp_path / "run", *more) == 3
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_vae_is_refused(call, tmp_path, capsys):
    call[call.index("--dvae") + 1] = "base"
    assert run(*call, "--run", tmp_path / "run") == 3
    assert "codes" in capsys.readouterr().err
