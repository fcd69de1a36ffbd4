"""``train-dvae`` through the real command line, on moving digits."""

import json
import tomllib

import pytest
import torch
import torch.nn.functional as F

from flowwarp.cli import main
from flowwarp.data.digits import compose_digits
from flowwarp.data.sources import hold_out
from flowwarp.io.images import read_image
from flowwarp.io.video_writer import write_video
from flowwarp.legacy.pipelines.tokens import fingerprint, load_dvae, tokenize

QUICK = ["--preset", "tiny", "--set", "size=16", "--set", "frames=4", "--set", "validation=2"]
QUICK += ["--set", "batch_size=2", "--set", "widths=8,16,32"]


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_trains_resumes_and_writes_weights(tmp_path, capsys):
    folder = tmp_path / "run"
    code = run("train-dvae", "digits", *QUICK, "--steps", 2, "--run", folder, "--seed", 3, "--json")
    assert code == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2
    options = ["--steps", 3, "--run", folder, "--seed", 3, "--resume", "changed", "--json"]
    assert run("train-dvae", "digits", *QUICK, *options) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == 3
    net = load_dvae(result["weights"])
    assert net.config.widths == (8, 16, 32)
    codes = tokenize(net, compose_digits(0, 0, 16, 4).video)
    assert codes.shape == (1, 4, 4)
    assert codes.dtype == torch.int64
    assert list((folder / "samples").glob("*-clips.png"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--set", "size=18"], "size must be 128, 64, 32, 16 or 8"),
        (["--set", "levels=8,1"], "levels must be a whole number in [2, 16777216], got 1"),
        (["--set", "widths=8,24,48"], "widths[1] must be"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, capsys, settings, words):
    code = run("train-dvae", "digits", *QUICK, *settings, "--steps", 1, "--run", tmp_path / "run")
    error = capsys.readouterr().err
    assert code == 3
    assert words in error.splitlines()[-1]


def test_what_decides_no_weight_may_be_set_of_a_network_to_start_with(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "flowwarp.legacy.train.dvae._SORTED", 8
    )  # to compose 768 clips takes longest
    first = tmp_path / "first"
    books = ["--set", "quantiser=residual", "--set", "encoder=0", "--set", "entries=4"]
    assert run("train-dvae", "digits", *QUICK, *books, "--steps", 1, "--run", first) == 0
    start = ["--steps", 1, "--start", first / "last.safetensors", "--keep-codes", "--run"]
    plain = ["train-dvae", "digits", "--preset", "tiny", *QUICK[2:8], "--set", "batch_size=2"]
    assert run(*plain, *start, tmp_path / "second", "--set", "beams=4", "--set", "chroma=2") == 0
    before, after = (load_dvae(tmp_path / n / "last.safetensors") for n in ("first", "second"))
    assert (after.config.beams, after.config.chroma, after.config.entries) == (4, 2, 4)
    assert torch.equal(before.quantiser.books, after.quantiser.books)
    capsys.readouterr()
    assert run(*plain, *start, tmp_path / "third", "--set", "entries=5") == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "flowwarp: model.entries: does not fit the weights of --start; leave it out"
    assert not (tmp_path / "third").exists()


def test_codes_are_kept_if_that_is_asked_for(tmp_path):
    call = ["train-dvae", "digits", *QUICK, "--set", "warmup=0", "--steps", 2, "--run"]
    assert run(*call, tmp_path / "first") == 0
    start = ["--start", tmp_path / "first" / "last.safetensors"]
    assert run(*call, tmp_path / "kept", *start, "--keep-codes") == 0
    assert run(*call, tmp_path / "other", *start) == 0
    first, kept, other = (
        fingerprint(load_dvae(tmp_path / name / "last.safetensors"))
        for name in ("first", "kept", "other")
    )
    assert first == kept != other


def test_captioners_look_at_reconstructions(tmp_path, capsys):
    eyes = []
    for name, size in (("fits", 16), ("larger", 32)):
        learn = ["--preset", "tiny", "--set", "clips=4", "--set", "checked=1", "--steps", 1]
        learn += ["--set", f"model.size={size}", "--set", "length=8", "--set", "batch_size=2"]
        assert run("train-captioner", "digits", *learn, "--run", tmp_path / name) == 0
        eyes.append(tmp_path / name / "last.safetensors")
    long = [*QUICK, "--set", "frames=8", "--set", "log_every=1", "--steps", 2]
    call = ["train-dvae", "digits", *long, "--captioner", eyes[0], "--captioner", eyes[0]]
    folder = tmp_path / "run"
    assert run(*call, "--run", folder) == 0
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["seen"] > 0
    named = tomllib.loads((folder / "config.toml").read_text())["sources"]["captioners"]
    assert len(named) == 2
    assert all(name.startswith(f"{eyes[0]} sha256:") for name in named)
    more = [*call, "--run", folder, "--resume"]
    assert run(*more, "auto", "--captioner", eyes[0]) == 3
    assert "resume" in capsys.readouterr().err.splitlines()[-1]
    assert run(*more, "changed", "--steps", 3) == 0
    call = ["train-dvae", "digits", *QUICK, "--run", tmp_path / "other", "--captioner"]
    assert run(*call, eyes[1]) == 3
    assert "captioner looks at" in capsys.readouterr().err.splitlines()[-1]
    assert run(*call, tmp_path / "none.safetensors") == 3
    assert not (tmp_path / "other").exists()


def test_other_sources_are_another_run(tmp_path, capsys):
    folder = tmp_path / "run"
    call = [*QUICK, "--steps", 1, "--run", folder]
    assert run("train-dvae", "digits", *call) == 0
    assert run("train-dvae", "digits", *call) == 4
    assert "holds a run already" in capsys.readouterr().err
    assert run("train-dvae", "sprites", *call, "--resume", "auto") == 3
    assert "sources.data is ['digits'] in this run, not ['sprites']" in capsys.readouterr().err
    assert run("train-dvae", "digits", *call, "--resume", "auto") == 0
    # The configuration of a run is one for another, which has its own sources.
    call[-1] = tmp_path / "other"
    config = ["--config", folder / "config.toml"]
    assert run("train-dvae", "sprites", *config, "--steps", 1, *call[-2:]) == 0
    assert 'data = ["sprites"]' in (tmp_path / "other" / "config.toml").read_text()


def test_presets_train_in_a_fast_precision_and_runs_stay_in_theirs(tmp_path, capsys, monkeypatch):
    def precision(folder):
        return tomllib.loads((folder / "config.toml").read_text())["loop"]["precision"]

    call = ["train-dvae", "digits", *QUICK, "--preset", "small", "--steps", 1]
    call += ["--set", "loop.workers=0", "--run"]
    for fast, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast, raising=False
        )
        assert run(*call, tmp_path / wanted) == 0
        assert precision(tmp_path / wanted) == wanted
    capsys.readouterr()
    assert run(*call, tmp_path / "bf16", "--resume", "auto") == 0
    assert "slow here" in capsys.readouterr().err
    assert precision(tmp_path / "bf16") == "bf16"
    options = ["--resume", "changed", "--set", "precision=fp32"]
    assert run(*call, tmp_path / "bf16", *options) == 0
    assert "slow here" not in capsys.readouterr().err  # that is what was advised
    assert precision(tmp_path / "bf16") == "fp32"
    assert run(*call, tmp_path / "asked", "--set", "precision=bf16") == 0
    assert precision(tmp_path / "asked") == "bf16"


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "Expected one of"),
        ("meta", "is none of auto, cpu, cuda, mps"),
        ("cuda:99", "CUDA"),
        ("cpu:x", "Invalid device string"),
    ],
)
def test_a_device_that_is_not_there_is_refused_at_once(tmp_path, capsys, device, words):
    call = ["--device", device, "--run", tmp_path / "run"]
    assert run("train-dvae", tmp_path / "nothing", *call) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_flow_is_of_no_use_to_a_world_that_knows_its_own(tmp_path, capsys):
    assert run("train-dvae", "digits", *QUICK, "--flow", "base", "--run", tmp_path / "run") == 2
    assert "digits know how they move" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("options", "moves"), [([], True), (["--flow", "none"], False)])
def test_the_motion_of_a_folders_videos_is_found_unless_it_shall_not_be(tmp_path, options, moves):
    generator = torch.Generator().manual_seed(0)
    wide = F.interpolate(torch.rand(1, 3, 8, 12, generator=generator), scale_factor=4)[0]
    (tmp_path / "clips").mkdir()
    for number in range(2):  # one is kept aside
        video = torch.stack([wide[..., step : step + 32] for step in range(8)])
        write_video(tmp_path / f"clips/{number}.mp4", video)
        (tmp_path / f"clips/{number}.txt").write_text("squares move left")
    folder = tmp_path / "run"
    sizes = ["--set", "size=32", "--set", "frames=8", "--set", "validation=1"]
    assert (
        run(
            "train-dvae",
            tmp_path / "clips",
            *QUICK,
            *sizes,
            *options,
            "--steps",
            1,
            "--run",
            folder,
        )
        == 0
    )
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert (next(line["warp"] for line in lines if line["split"] == "train") > 0) == moves


def test_videos_that_are_kept_aside_judge(tmp_path):
    (tmp_path / "clips").mkdir()
    for number in range(2):
        write_video(tmp_path / f"clips/{number}.mp4", torch.full((4, 3, 16, 16), 0.8 * number))
        (tmp_path / f"clips/{number}.txt").write_text("all of one colour")
    (aside,) = hold_out({"0.mp4", "1.mp4"})
    options = ["--flow", "none", "--steps", 1, "--run", tmp_path / "run"]
    assert run("train-dvae", tmp_path / "clips", *QUICK, *options) == 0
    (sheet,) = (tmp_path / "run" / "samples").iterdir()
    shown = read_image(sheet)[:, :16, :16].mean()
    assert shown == pytest.approx(0.8 * int(aside[0]), abs=0.05)


def test_a_missing_folder_is_bad_input(tmp_path, capsys):
    assert run("train-dvae", tmp_path / "clips", *QUICK, "--run", tmp_path / "run") == 3
    assert "clips" in capsys.readouterr().err
    missing = tmp_path / "flow.safetensors"
    assert run("train-dvae", tmp_path, *QUICK, "--flow", missing, "--run", tmp_path / "run") == 3
    assert "flow.safetensors" in capsys.readouterr().err
