"""``flowwarp train-flow`` on frames that all move by one vector."""

import json
import shutil
import sys
import tomllib
from dataclasses import asdict, replace

import pytest
import torch

from flowwarp.cli import main, train_flow
from flowwarp.data import pairs
from flowwarp.io.checkpoints import Card, fill, load_weights, save_weights
from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import write_image
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.ops.warping import warp
from flowwarp.train import flow as trainer

SHIFT = (3.0, -1.0)
PLAIN = ["--preset", "tiny", "--set", "data.height=64", "--set", "data.width=64"]
PLAIN += ["--set", "margin=8", "--set", "student_margin=8", "--set", "batch_size=2"]
PLAIN += ["--set", "fitted_pairs=0"]
QUICK = [*PLAIN, "--set", "fitted_pairs=3"]


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Return a folder of frames of a texture that moves by SHIFT per frame."""
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
    assert f"fitting flow, once: needs 0.0 GB in {cache}\n" in captured.err
    result = json.loads(captured.out)
    assert result["step"] == 4
    tensors, card = load_weights(result["weights"], "flownet")
    assert card.config["radius"] == TINY.radius
    fill(FlowNet(TINY), tensors, "weights")
    assert list((folder / "samples").glob("*.png"))


def test_start_continues_from_a_trained_network(frames, tmp_path, capsys):
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
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["split"] == "val"] == [0, 1]
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=1e-9)


def test_val_chooses_the_weights_and_eval_flow_measures_them(frames, tmp_path, capsys):
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


def test_needs_data_or_photos(capsys):
    assert run("train-flow") == 2
    assert "give DATA or --photos" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--set", "data.height=100"], "height must be a multiple of 32"),
        (["--set", "student_margin=32"], "student_margin leaves nothing"),
        (["--set", "student_margin=-5"], "student_margin must be at least 0"),
        (["--set", "losses.smoothness=-1"], "smoothness must be at least 0"),
        (["--set", "coarse_until=7"], "coarse_until must be in [0, 1]"),
        (["--set", "self_supervision_from=-3"], "self_supervision_from must be in [0, 1]"),
        (["--set", "model.widths=[8]"], "widths must be 2 or more, got 1"),
        (["--set", "model.widths=8,8", "--set", "coarse_until=0.5"], "coarse_until needs 3"),
        (["--start", "small", "--set", "data.width=160"], "data.width must be a multiple of 64"),
        (["--tensorboard"], "install the extra 'log' as README.md says"),
    ],
)
def test_wrong_settings_are_one_line(frames, tmp_path, capsys, monkeypatch, settings, words):
    """The error comes before anything slow."""
    monkeypatch.setattr(pairs, "prepare_pairs", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code = run("train-flow", frames, *QUICK, *settings, "--steps", 1, "--run", tmp_path / "run")
    error = capsys.readouterr().err
    assert code == 3
    assert words in error.splitlines()[-1]


def test_missing_folder_is_bad_input(tmp_path, capsys):
    assert run("train-flow", tmp_path / "nothing", *QUICK, "--run", tmp_path / "run") == 3
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize(("start", "width"), [("small", 192), ("base", 192), (None, 160)])
def test_preset_takes_the_size_of_the_start_network(frames, tmp_path, capsys, start, width):
    """The tiny preset is 160 px wide, a multiple of 32; the shipped networks need one of 64."""
    options = ["--preset", "tiny", "--run", tmp_path / "run", "--dry-run", "--json"]
    options += ["--start", start] if start else []
    assert run("train-flow", frames, *options) == 0
    plan = json.loads(capsys.readouterr().out)["settings"]
    assert (plan["data"]["height"], plan["data"]["width"]) == (128, width)
    levels = 5 if start is None else 6
    assert len(plan["model"]["widths"]) == levels


def test_photos_alone(frames, tmp_path):
    folder = tmp_path / "run"
    assert run("train-flow", "--photos", frames, *PLAIN, "--steps", 1, "--run", folder) == 0
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert ["epe" in line for line in lines] == [False, True]


def test_loss_weights_can_be_set(frames, tmp_path, capsys):
    weights = ["ssim=0.3", "gradient=0.2", "charbonnier=0.1", "losses.smoothness_second=0.5"]
    settings = [part for weight in weights for part in ("--set", weight)]
    folder = tmp_path / "run"
    options = [*settings, "--set", "log_every=1", "--steps", 1, "--run", folder]
    assert run("train-flow", frames, *PLAIN, *options) == 0
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert line.keys() >= {"ssim", "gradient", "charbonnier", "smoothness_second"}


# ------------------------------------------------------------------ data sets


@pytest.fixture
def sintel(frames, tmp_path):
    """Return the folder of a data set that also contains images that are not footage."""
    root = tmp_path / "sintel"
    for kind in ("clean", "flow_viz", "occlusions"):
        folder = root / "training" / kind / "alley_1"
        folder.mkdir(parents=True)
        for number in range(3):
            data = (frames / f"frame{number}.png").read_bytes()
            (folder / f"frame_{number + 1:04}.png").write_bytes(data)
    flows = root / "training/flow/alley_1"
    flows.mkdir(parents=True)
    for number in (1, 2):
        write_flow(flows / f"frame_{number:04}.flo", torch.zeros(2, 120, 160))
    return root


def test_data_set_for_training_and_validation(sintel, tmp_path, capsys, monkeypatch):
    seen = []
    prepare = pairs.prepare_pairs

    def noted(sources, **options):
        seen.extend(sources)
        return prepare(sources, **options)

    monkeypatch.setattr(pairs, "prepare_pairs", noted)
    folder = tmp_path / "run"
    options = ["--recipe", "sintel", "--val", sintel, "--val-recipe", "sintel"]
    code = run("train-flow", sintel, *options, *PLAIN, "--steps", 1, "--run", folder, "--json")
    assert code == 0
    assert [clip.name for clip in seen] == [str(sintel / "training/clean/alley_1")]
    assert json.loads(capsys.readouterr().out)["best"]["step"] == 1
    sources = tomllib.loads((folder / "config.toml").read_text())["sources"]
    assert (sources["recipe"], sources["val_recipe"]) == ("sintel", "sintel")


def test_val_replaces_photos_for_validation(sintel, tmp_path, monkeypatch):
    judges = []
    make = trainer.flow_task

    def noted(material, configs, truths, **options):
        judges.extend(truths)
        return make(material, configs, truths, **options)

    monkeypatch.setattr(trainer, "flow_task", noted)
    options = ["--photos", sintel, "--val", sintel, "--val-recipe", "sintel"]
    assert run("train-flow", *options, *PLAIN, "--steps", 1, "--run", tmp_path / "run") == 0
    assert [truth.flow_12.shape for truth in judges] == [(1, 2, 120, 160)] * 2
    assert not any(truth.flow_12.any() for truth in judges)


def test_val_uses_at_most_100_pairs(sintel, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_flow, "_MAX_VAL_PAIRS", 1)
    options = ["--recipe", "sintel", "--val", sintel, "--val-recipe", "sintel"]
    assert run("train-flow", sintel, *options, *PLAIN, "--steps", 1, "--run", tmp_path / "run") == 0
    assert "validating on 1 of 2 pairs\n" in capsys.readouterr().err
    monkeypatch.setattr(train_flow, "_MAX_VAL_PAIRS", 4)
    assert train_flow._spread(range(9)) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (
            ["--recipe", "davis"],
            3,
            "holds no footage of DAVIS 2016 and 2017; looked for JPEGImages",
        ),
        (["--recipe", "nothing"], 3, "nothing: is not a recipe; known are davis"),
        (["--val", ".", "--val-recipe", "sintel"], 3, "read as MPI Sintel"),
    ],
)
def test_incomplete_data_set_is_an_error(
    frames, tmp_path, capsys, monkeypatch, options, code, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pairs, "prepare_pairs", None)
    assert run("train-flow", frames, *options, *PLAIN, "--run", tmp_path / "run") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_recipe_needs_a_folder(tmp_path, capsys):
    assert run("train-flow", "--photos", tmp_path, "--recipe", "sintel") == 2
    assert "--recipe needs DATA" in capsys.readouterr().err


# ------------------------------------------------------------------ room


def test_size_of_prepared_footage_can_be_set(frames, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    options = [*PLAIN, "--steps", 1, "--run", folder]
    size = 6 * 3 * 120 * 160
    assert run("train-flow", frames, *options, "--set", f"data.max_bytes={size - 1}") == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "--set max_bytes=..." in line
    assert not folder.exists()
    smaller = ["--set", "data.longest=80", "--set", f"data.max_bytes={size // 4}"]
    assert run("train-flow", frames, *options, *smaller) == 0


def test_more_fitted_pairs_than_fit_on_disk(frames, tmp_path, capsys):
    options = [*QUICK, "--set", "fitted_pairs=100000000000", "--run", tmp_path / "run"]
    assert run("train-flow", frames, *options) == 4
    line = capsys.readouterr().err.splitlines()[-1]
    assert "GB are free" in line
    assert "ask for fewer than 100000000000" in line


# ------------------------------------------------------------------ dry runs


def test_dry_run_counts_and_writes_nothing(sintel, tmp_path, capsys, monkeypatch):
    cache, folder = tmp_path / "cache", tmp_path / "run"
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(cache))
    options = ["--val", sintel, "--val-recipe", "sintel", "--photos", sintel]
    options += [*PLAIN, "--steps", 7, "--run", folder, "--dry-run"]
    assert run("train-flow", sintel, *options) == 0
    printed = capsys.readouterr().out
    assert "found: 3 clips, 9 photos, 2 pairs to judge by\n" in printed
    assert "training: 7 steps of 2 examples" in printed
    assert f"run: {folder}\n" in printed
    assert run("train-flow", sintel, "--recipe", "sintel", *options, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["dry_run"] is True
    assert plan["found"] == {"clips": 1, "photos": 9, "pairs to judge by": 2}
    assert plan["sources"]["recipe"] == "sintel"
    assert plan["settings"]["loop"]["steps"] == 7
    assert not cache.exists()
    assert not folder.exists()
    (tmp_path / "empty").mkdir()
    assert run("train-flow", tmp_path / "empty", *PLAIN, "--dry-run") == 3


def test_footage_may_be_a_glob(frames, tmp_path, capsys):
    for name in ("clip1", "clip2", "other"):
        shutil.copytree(frames, tmp_path / name)
    (tmp_path / "clip.txt").write_text("no clip, nor a list of pairs")
    assert run("train-flow", tmp_path / "clip*", *PLAIN, "--dry-run") == 0
    assert "found: 2 clips" in capsys.readouterr().out
    assert run("train-flow", tmp_path / "nothing*", *PLAIN, "--dry-run") == 3
    assert "nothing*: matches no file that can be read\n" in capsys.readouterr().err
