"""``train-gpt`` through the real command line, on moving digits and a VAE that learned nothing."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from flowwarp.cli import main
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.io.video_writer import write_video
from flowwarp.legacy.models.dvae import DVAE, TINY
from flowwarp.legacy.pipelines.sequences import Prompt, load_gpt, sample_video_tokens
from flowwarp.legacy.pipelines.tokens import load_dvae
from flowwarp.legacy.train import tokenized
from flowwarp.legacy.train.tokenized import tokenize_clips

QUICK = ["--preset", "tiny", "--set", "clips=2", "--set", "checked=1", "--set", "data.size=16"]
QUICK += ["--set", "data.frames=4", "--set", "batch_size=2", "--set", "threads=1", "--steps", "3"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "dvae.safetensors"
    torch.manual_seed(0)
    config = replace(TINY, widths=(8, 16, 32))
    save_weights(path, DVAE(config), Card("dvae", asdict(config)))
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.mark.parametrize("world", ["digits", "sprites"])
def test_trains_and_writes_weights(world, weights, tmp_path, capsys):
    folder = tmp_path / "run"
    code = run("train-gpt", world, "--dvae", weights, *QUICK, "--run", folder, "--json")
    told = capsys.readouterr()
    assert code == 0, told.err
    result = json.loads(told.out)
    assert result["step"] == 3
    gpt = load_gpt(result["weights"])
    assert sample_video_tokens(gpt, [Prompt("a red two")], [0]).shape == (1, 1, 4, 4)
    assert list((folder / "samples").glob("*.png"))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    keys = {"video_after_text", "text_after_video", "motion_after_video", "video_after_text_frame"}
    if world == "sprites":
        keys |= {"held_out_video_after_text"}
    assert keys <= set(records[-1])


def test_videos_by_way_of_sketches(weights, tmp_path, capsys):
    eye = [
        "train-captioner",
        "digits",
        "--preset",
        "tiny",
        "--set",
        "clips=4",
        "--set",
        "threads=1",
    ]
    eye += ["--set", "checked=2", "--set", "model.size=16", "--set", "length=8"]
    assert run(*eye, "--steps", "1", "--run", tmp_path / "eye") == 0
    seeing = tmp_path / "eye" / "last.safetensors"
    call = ["train-gpt", "digits", "--dvae", weights, *QUICK, "--sketcher", seeing]
    assert run(*call, "--run", tmp_path / "none") == 3
    assert "makes no sketches" in capsys.readouterr().err
    again = ["--start", seeing, "--kinds", "8", "--run", tmp_path / "sketcher"]
    assert run(*eye, "--steps", "1", *again) == 0
    sketcher = tmp_path / "sketcher" / "last.safetensors"
    call = ["train-gpt", "digits", "--dvae", weights, *QUICK, "--set", "data.frames=8"]
    call += ["--sketcher", sketcher, "--run", tmp_path / "run"]
    assert run(*call) == 0
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert "sketch_after_text" in json.loads(records[-1])
    gpt = tmp_path / "run" / "last.safetensors"
    networks = ["--gpt", gpt, "--dvae", weights, "--no-upsampler"]
    clip = ["generate-video", "a red two", *networks, "--json", "-o"]
    capsys.readouterr()
    assert run(*clip, tmp_path / "plain.mp4") == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["candidates"] == 1
    assert run(*clip, tmp_path / "sketched.mp4", "--sketcher", sketcher) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["candidates"] == 80
    assert (tmp_path / "plain.mp4").read_bytes() != (tmp_path / "sketched.mp4").read_bytes()
    both = ["--sketcher", sketcher, "--captioner", seeing]  # which needs no kinds
    assert run(*clip, tmp_path / "both.mp4", *both) == 0
    assert run(*clip, tmp_path / "none.mp4", "--sketcher", seeing) == 3
    assert "makes no sketches" in capsys.readouterr().err

    second = [*eye, "--seed", "1", "--steps", "1"]
    assert run(*second, "--run", tmp_path / "second") == 0
    again = ["--start", tmp_path / "second" / "last.safetensors", "--kinds", "8"]
    assert run(*second, *again, "--run", tmp_path / "other") == 0
    other = tmp_path / "other" / "last.safetensors"
    capsys.readouterr()
    assert run(*clip, tmp_path / "none.mp4", "--sketcher", other) == 3
    assert "sketches of another captioner" in capsys.readouterr().err
    call[call.index(sketcher)] = other
    assert run(*call, "--resume", "auto") == 3
    assert "sources.sketcher" in capsys.readouterr().err


def test_words_keep_their_ids_when_a_run_goes_on_with_other_clips(weights, tmp_path):
    call = ["train-gpt", "digits", "--dvae", weights, *QUICK, "--run", tmp_path / "run"]
    assert run(*call) == 0
    before = load_gpt(tmp_path / "run" / "last.safetensors").vocabulary
    more = ["--resume", "changed", "--set", "clips=40", "--steps", "4"]
    assert run(*call, *more) == 0
    after = load_gpt(tmp_path / "run" / "last.safetensors").vocabulary
    assert after.pairs.merges == before.pairs.merges
    call[-1] = tmp_path / "other"
    assert run(*call, *more[2:]) == 0
    anew = load_gpt(tmp_path / "other" / "last.safetensors").vocabulary
    assert anew.pairs.merges != before.pairs.merges


def test_another_vae_is_another_run(weights, tmp_path, capsys):
    call = ["train-gpt", "digits", *QUICK, "--run", tmp_path / "run", "--dvae"]
    assert run(*call, weights) == 0
    assert run(*call, weights, "--resume", "auto") == 0
    other = tmp_path / "dvae.safetensors"
    net = load_dvae(weights)
    with torch.no_grad():
        net.to_latent.weight.neg_()
    save_weights(other, net, Card("dvae", asdict(net.config)))
    capsys.readouterr()
    assert run(*call, other, "--resume", "auto") == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"sources.dvae is '{weights} sha256:" in line
    assert f"not '{other} sha256:" in line


def test_a_folder_is_encoded_once_and_anew_when_a_caption_changes(weights, tmp_path, monkeypatch):
    """Of three videos with two windows each one video is kept aside."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(3):
        frames = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(number))
        write_video(clips / f"{number}.mkv", frames)
        (clips / f"{number}.txt").write_text(f"a gray square, {number}")
    stores = []

    def spy(*arguments, **options):
        stores.append(tokenize_clips(*arguments, **options))
        return stores[-1]

    monkeypatch.setattr(tokenized, "tokenize_clips", spy)
    call = ["train-gpt", clips, "--dvae", weights, *QUICK, "--set", "clips=40", "--run"]
    assert run(*call, tmp_path / "one") == 0
    assert [len(store) for store in stores] == [4, 1]
    assert len(set(stores[0].captions())) == 2
    (clips / "2.txt").write_text("a grey square, 2")
    assert run(*call, tmp_path / "two") == 0
    assert "a grey square, 2" in set(stores[2].captions())


def test_needs_the_weights_of_a_vae(tmp_path, capsys):
    assert run("train-gpt", "digits", "--run", tmp_path / "run") == 2
    assert "--dvae" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    save_weights(other, torch.nn.Linear(1, 1), Card("flownet"))
    assert run("train-gpt", "digits", "--dvae", other, "--run", tmp_path / "run") == 3
    assert "flownet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--set", 'orders=["text sound 1"]'], "no medium 'sound'"),
        (["--set", 'orders=["text video"]'], "orders must be media and a share"),
        (["--set", "data.size=15"], "size must be 128, 64, 32, 16 or 8, got 15"),
        (["--set", "data.frames=6"], "frames must be a multiple of 4, got 6"),
        (["--set", "text_limit=257"], "text_limit must be a whole number in [1, 256], got 257"),
        (["--set", "data.size=1024"], "grid of video must be t, y, x of at most 32768 tokens"),
    ],
)
def test_wrong_settings_are_one_line(weights, tmp_path, capsys, settings, words):
    code = run("train-gpt", "digits", "--dvae", weights, *QUICK, *settings, "--run", tmp_path / "r")
    error = capsys.readouterr().err
    assert code == 3
    assert words in error.splitlines()[-1]
