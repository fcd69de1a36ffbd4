"""``train-flow`` through the real command line, on frames that all move by one vector."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from flowwarp.cli import main
from flowwarp.io.checkpoints import Card, fill, load_weights, save_weights
from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import write_image
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.ops.warping import warp

SHIFT = (3.0, -1.0)
QUICK = ["--preset", "tiny", "--set", "data.height=64", "--set", "data.width=64"]
QUICK += ["--set", "margin=8", "--set", "student_margin=8", "--set", "batch_size=2"]
QUICK += ["--set", "fitted_pairs=3"]


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A folder of frames of a texture that moves by SHIFT from each to the next."""
    folder = tmp_path_factory.mktemp("frames")
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 30, 40, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, (120, 160), mode="bicubic").clamp(0, 1)
    for number in range(6):
        flow = torch.tensor(SHIFT).view(1, 2, 1, 1) * (-number)
        frame = warp(texture, flow.expand(1, 2, 120, 160), padding="reflection")
        write_image(folder / f"frame{number}.png", frame[0])
    return folder


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_trains_and_writes_weights(frames, tmp_path, capsys, monkeypatch):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(cache))
    code = run("train-flow", frames, *QUICK, "--steps", 4, "--run", folder, "--json")
    assert code == 0
    captured = capsys.readouterr()
    assert f"fitting flow, once: it takes 0.0 GB in {cache}\n" in captured.err
    result = json.loads(captured.out)
    assert result["step"] == 4
    tensors, card = load_weights(result["weights"], "flownet")
    assert card.config["radius"] == TINY.radius
    fill(FlowNet(TINY), tensors, "weights")
    assert list((folder / "samples").glob("*.png"))


def test_goes_on_from_a_trained_network(frames, tmp_path, capsys):
    torch.manual_seed(3)
    net = FlowNet(replace(TINY, projected=24))
    card = Card("flownet", asdict(net.config))
    save_weights(tmp_path / "start.safetensors", net, card)
    folder = tmp_path / "run"
    options = ["--start", tmp_path / "start.safetensors", "--set", "ema=0", "--set", "warmup=0"]
    # Steps so small that the weights are those that it began with.
    options += ["--set", "loop.learning_rate=1e-12", "--steps", 1, "--run", folder, "--json"]
    assert run("train-flow", frames, *QUICK, *options) == 0
    tensors, card = load_weights(json.loads(capsys.readouterr().out)["weights"], "flownet")
    assert card.config["projected"] == 24
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=1e-9)


def test_known_flow_judges_and_the_weights_can_be_measured(frames, tmp_path, capsys):
    pair = tmp_path / "truth" / "set" / "pair"
    pair.mkdir(parents=True)
    for number in (1, 2):
        (pair / f"frame{number}.png").write_bytes((frames / f"frame{number}.png").read_bytes())
    shift = torch.tensor(SHIFT).view(2, 1, 1).expand(2, 120, 160)
    write_flow(pair / "flow.flo", shift)
    truth, folder = tmp_path / "truth", tmp_path / "run"
    code = run(
        "train-flow", frames, "--val", truth, *QUICK, "--steps", 2, "--run", folder, "--json"
    )
    best = json.loads(capsys.readouterr().out)["best"]["value"]
    assert code == 0
    code = run(
        "eval-flow",
        truth,
        *("--method", "zero", "--method", "fast", "--json"),
        *("--weights", folder / "best.safetensors"),
    )
    table = json.loads(capsys.readouterr().out)["sets"]
    assert code == 0
    figures = {row["method"]: row["epe"] for row in table}
    assert figures["zero"] == pytest.approx(10**0.5, abs=1e-4)
    assert figures["fast"] == pytest.approx(best, abs=0.01)  # bf16


def test_weights_of_another_network_are_refused(tmp_path, frames, capsys):
    other = tmp_path / "other.safetensors"
    save_weights(other, torch.nn.Linear(1, 1), Card("dvae"))
    pair = tmp_path / "pair"
    pair.mkdir()
    for number in (1, 2):
        (pair / f"frame{number}.png").write_bytes((frames / f"frame{number}.png").read_bytes())
    write_flow(pair / "flow.flo", torch.zeros(2, 120, 160))
    assert run("eval-flow", tmp_path, "--method", "fast", "--weights", other) == 3
    assert "dvae" in capsys.readouterr().err


def test_needs_something_to_learn_from(capsys):
    assert run("train-flow") == 2
    assert "give some DATA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--set", "data.height=100"], "height must be a multiple of 32"),
        (["--set", "nonsense=1"], "unknown key"),
        (["--set", "student_margin=32"], "student_margin leaves nothing"),
    ],
)
def test_wrong_settings_are_one_line(frames, tmp_path, capsys, settings, words):
    code = run("train-flow", frames, *QUICK, *settings, "--steps", 1, "--run", tmp_path / "run")
    error = capsys.readouterr().err
    assert code == 3
    assert words in error.splitlines()[-1]


def test_a_missing_folder_is_bad_input(tmp_path, capsys):
    assert run("train-flow", tmp_path / "nothing", *QUICK, "--run", tmp_path / "run") == 3
    assert "nothing" in capsys.readouterr().err
