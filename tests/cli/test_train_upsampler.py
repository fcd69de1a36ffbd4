"""``train-upsampler`` through the real command line, on moving digits and an untrained DVAE."""

import json

import pytest
import torch

from flowwarp.cli import main
from flowwarp.data import sources
from flowwarp.io.checkpoints import Card, fill, load_weights, save_weights
from flowwarp.io.images import read_image
from flowwarp.legacy.models import dvae
from flowwarp.legacy.models.upsampler import TINY, Upsampler

QUICK = ["--preset", "tiny", "--set", "batch_size=2", "--set", "size=32", "--set", "length=4"]
QUICK += ["--set", "frames=2"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    net = dvae.DVAE(dvae.TINY)
    path = tmp_path_factory.mktemp("dvae") / "dvae.safetensors"
    save_weights(path, net, Card("dvae", vars(dvae.TINY)))
    return path


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_trains_resumes_and_writes_weights(weights, tmp_path, capsys):
    folder = tmp_path / "run"
    command = ["train-upsampler", "digits", "--dvae", weights, *QUICK, "--run", folder, "--json"]
    assert run(*command, "--steps", 2) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2
    assert run(*command, "--steps", 3, "--resume", "changed") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"] == 3
    tensors, card = load_weights(result["weights"], "upsampler")
    assert card.config["residual"] == TINY.residual
    fill(Upsampler(TINY), tensors, "weights")
    assert card.config["widths"] == list(TINY.widths)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in lines if line["split"] == "val"][-1]
    assert {"loss", "psnr_held", "psnr_free", "psnr_bicubic", "fine_held"} <= set(judged)
    assert {"warping_held", "warping_free", "warping_truth"} <= set(judged)
    names = {path.name.split("-")[1] for path in (folder / "samples").glob("00000003-*.png")}
    assert names == {"clip0.png", "clip1.png", "slice0.png", "slice1.png"}
    sheet = read_image(next((folder / "samples").glob("*-clip0.png")))
    assert sheet.shape == (3, 4 * 32 + 3 * 2, 4 * 32 + 3 * 2)


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        ([], None),  # in the tiny preset all flow is exact
        (["--set", "estimated=0.5"], "base"),
        (["--set", "estimated=0.5", "--flow", "small"], "small"),
        (["--set", "estimated=0.5", "--flow", "none"], "none"),
    ],
)
def test_motion_between_decodes_is_estimated_by_the_network_named(
    weights, tmp_path, capsys, options, noted
):
    command = ["train-upsampler", "digits", "--dvae", weights, *QUICK, *options]
    assert run(*command, "--run", tmp_path / "run", "--dry-run", "--json") == 0
    sources = json.loads(capsys.readouterr().out)["sources"]
    assert sources.get("flow") == noted
    assert run(*command, "--run", tmp_path / "run", "--steps", 1) == 0


def test_exact_flow_needs_no_network(weights, tmp_path, capsys):
    command = ["train-upsampler", "digits", "--dvae", weights, *QUICK, "--flow", "base"]
    assert run(*command, "--run", tmp_path / "run") == 2
    assert "know how they move" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--set", "data.frames=9"], "frames must be from 1 to length"),
        (["--set", "size=48"], "size must be 128, 64, 32, 16 or 8, got 48"),
    ],
)
def test_wrong_settings_are_one_line(weights, tmp_path, capsys, settings, words):
    arguments = ["--dvae", weights, *QUICK, *settings, "--run", tmp_path / "run"]
    assert run("train-upsampler", "digits", *arguments) == 3
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_size_that_does_not_fit_the_vae_is_said_before_data_is_read(
    weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sources, "open_split", None)
    arguments = ["--dvae", weights, *QUICK, "--set", "size=36", "--run", tmp_path / "run"]
    for more in ([], ["--dry-run"]):
        assert run("train-upsampler", "digits", *arguments, *more) == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(
            "flowwarp: --set: size 36 does not fit the VAE, which sees half of it"
        )
        assert "multiples of 4, got shape" in line
    assert not (tmp_path / "run").exists()


def test_needs_the_weights_of_a_dvae(weights, tmp_path, capsys):
    assert run("train-upsampler", "digits") == 2
    assert "--dvae" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    save_weights(other, torch.nn.Linear(1, 1), Card("gpt"))
    assert run("train-upsampler", "digits", "--dvae", other, *QUICK) == 3
    assert "gpt" in capsys.readouterr().err


def test_a_missing_folder_is_bad_input(weights, tmp_path, capsys):
    missing = tmp_path / "nothing"
    assert run("train-upsampler", missing, "--dvae", weights, *QUICK) == 3
    assert "nothing" in capsys.readouterr().err


def test_a_folder_is_a_pretrained_vae(tmp_path, capsys):
    diffusers = pytest.importorskip("diffusers", reason="the extra hf is not installed")
    folder = tmp_path / "vae"
    torch.manual_seed(0)
    diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(folder)
    arguments = ["--dvae", folder, *QUICK, "--steps", 1, "--run", tmp_path / "run"]
    assert run("train-upsampler", "digits", *arguments) == 0
    load_weights(tmp_path / "run" / "best.safetensors", "upsampler")
    capsys.readouterr()
    (folder / "config.json").write_text("{}")
    arguments[-1] = tmp_path / "other"
    assert run("train-upsampler", "digits", *arguments) == 3
    assert "config.json: is of a None, not AutoencoderKL" in capsys.readouterr().err
