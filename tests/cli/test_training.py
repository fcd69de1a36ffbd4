"""Options that all training commands share, mostly in dry runs."""

import json

import pytest
import torch

from flowwarp.cli import main
from flowwarp.cli._training_sources import Sources, note_sources
from flowwarp.io.video_writer import write_video

DVAE = ["--dvae", "base"]
TRAINERS = {
    "train-dvae": [],
    "train-captioner": [],
    "train-gpt": DVAE,
    "train-upsampler": DVAE,
    "train-reviser": [*DVAE, "--gpt", "base"],
}
OF_FOLDERS = [name for name in TRAINERS if name != "train-reviser"]


def world(name):
    """Return arguments for training data that needs no files."""
    return "digits" if name in OF_FOLDERS else "sprites"


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.mark.parametrize("name", TRAINERS)
def test_dry_run_writes_nothing(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))
    options = [*TRAINERS[name], "--preset", "tiny", "--steps", 7, "--dry-run"]
    assert run(name, world(name), *options) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == [
        "sources", "found", "network", "training", "run",
    ]  # fmt: skip
    assert printed[1] == "found: endless videos"
    assert printed[3].startswith("training: 7 steps of ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TRAINERS)
def test_run_folder_that_is_a_file_is_refused_before_work(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "run").write_text("mine")
    for more in ((), ("--dry-run",)):
        assert run(name, world(name), *TRAINERS[name], "--run", tmp_path / "run", *more) == 4
        assert "is a file, not a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", OF_FOLDERS)
def test_dry_run_counts_videos(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "clips").mkdir()
    for number in range(3):
        write_video(tmp_path / f"clips/{number}.mp4", torch.rand(2, 3, 16, 16))
        (tmp_path / f"clips/{number}.txt").write_text("a square moves")
    options = [*TRAINERS[name], "--run", tmp_path / "run", "--dry-run", "--json"]
    assert run(name, tmp_path / "clips", *options) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["found"] == {"videos": 3}
    assert plan["sources"]["data"] == [str(tmp_path / "clips")]
    assert {path.name for path in tmp_path.iterdir()} == {"clips"}
    assert run(name, tmp_path / "gone", *options) == 3


@pytest.mark.parametrize("option", ["--start", "--layers", "--photos", "--flow"])
@pytest.mark.parametrize("name", TRAINERS)
def test_missing_files_are_refused_before_work(tmp_path, capsys, name, option):
    """In a dry run, and in a run before clips are prepared."""
    if (name, option) in (("train-captioner", "--flow"), ("train-reviser", "--flow")):
        pytest.skip("it has no such option")
    data = "sprites"
    if option == "--flow":
        data = tmp_path / "clips"
        data.mkdir()
        write_video(data / "a.mp4", torch.rand(2, 3, 16, 16))
        (data / "a.txt").write_text("a square moves")
    options = [*TRAINERS[name], "--run", tmp_path / "run", option, tmp_path / "gone.safetensors"]
    assert run(name, data, *options, "--dry-run") == 3
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert run(name, data, *options) == 3
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert "gone.safetensors" in err[0]


def test_dry_run_prints_the_start_network(tmp_path, capsys):
    options = ["--preset", "tiny", "--start", "base", "--run", tmp_path / "run", "--dry-run"]
    assert run("train-dvae", "digits", *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["model"]["quantiser"] == "residual"


def test_existing_run_is_refused_in_a_dry_run_too(tmp_path, capsys):
    (tmp_path / "last.safetensors").write_bytes(b"")
    assert run("train-dvae", "digits", "--run", tmp_path, "--dry-run") == 4
    assert "holds a run already" in capsys.readouterr().err


def test_known_names_are_not_taken_for_files(tmp_path, capsys, monkeypatch):
    """Otherwise an earlier run could not be resumed."""
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "base", "sintel"):
        (tmp_path / name).mkdir()
    assert run("train-gpt", "digits", *DVAE, "--preset", "tiny", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["sources"] == {"data": ["digits"], "dvae": "base"}
    noted = note_sources(
        ["digits"],
        of_flow=True,
        recipe="sintel",
        start="base",
        photos="base",
        captioners=("base",),
    )
    assert noted == Sources(
        (str(tmp_path / "digits"),),
        recipe="sintel",
        start="base",
        photos=str(tmp_path / "base"),
        captioners=("base",),
    )
    assert note_sources(["./digits"]).data == (str(tmp_path / "digits"),)


def test_replaced_vae_has_another_digest(tmp_path):
    """A folder of data has many files: only its path is recorded."""
    assert note_sources(["digits"], dvae=str(tmp_path)).dvae == str(tmp_path)
    files = [tmp_path / "config.json", tmp_path / "diffusion_pytorch_model.safetensors"]
    for path in files:
        path.write_bytes(b"a")
    noted = note_sources(["digits"], dvae=str(tmp_path)).dvae
    assert noted.startswith(f"{tmp_path} sha256:")
    assert note_sources(["digits"], dvae=str(tmp_path)).dvae == noted
    for path in files:
        path.write_bytes(b"b")
        assert note_sources(["digits"], dvae=str(tmp_path)).dvae != noted
        path.write_bytes(b"a")


def test_only_flow_networks_are_called_small(tmp_path, monkeypatch):
    """For any other network `small` is a file, a different one in each folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").write_bytes(b"")
    path = str(tmp_path / "small")
    given = {"dvae": "small", "sketcher": "small", "captioners": ("small",), "start": "small"}
    noted = note_sources(["digits"], flow="small", **given)
    assert noted == Sources(
        ("digits",), dvae=path, flow="small", sketcher=path, start=path, captioners=(path,)
    )
    assert note_sources(["clip.mp4"], of_flow=True, start="small").start == "small"


@pytest.mark.parametrize("name", [*TRAINERS, "train-flow"])
def test_unknown_setting_is_a_usage_error_and_in_a_file_bad_input(tmp_path, capsys, name):
    """The error comes before anything slow."""
    data = world(name)
    if name == "train-flow":
        data = tmp_path / "clip.mp4"
        write_video(data, torch.rand(2, 3, 64, 64))
    call = [name, data, *TRAINERS.get(name, []), "--run", tmp_path / "run"]
    assert run(*call, "--set", "loop.step=3") == 2
    (line,) = capsys.readouterr().err.splitlines()
    fault = "flowwarp: --set loop.step=3: unknown key 'loop.step'; did you mean loop.steps?"
    assert line == f"{fault}; see 'flowwarp {name} --help'"
    assert run(*call, "--set", "steps") == 2
    assert "--set steps: has no value; write key=value" in capsys.readouterr().err
    (tmp_path / "mine.toml").write_text("[loop]\nstep = 3\n")
    assert run(*call, "--config", tmp_path / "mine.toml") == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "mine.toml: unknown key 'loop.step'" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [*(n for n in TRAINERS if n != "train-gpt"), "train-flow"])
def test_dry_run_refuses_sharding_without_processes(tmp_path, capsys, name):
    data = world(name)
    if name == "train-flow":
        data = tmp_path / "clip.mp4"
        write_video(data, torch.rand(2, 3, 64, 64))
    options = [*TRAINERS.get(name, []), "--run", tmp_path / "run", "--set", "shard=true"]
    assert run(name, data, *options, "--dry-run") == 3
    assert "loop.shard: cannot share a" in capsys.readouterr().err


def test_dry_run_refuses_muon_without_matrices(tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", torch.rand(2, 3, 64, 64))
    options = ["--run", tmp_path / "run", "--set", "muon=0.35", "--dry-run"]
    assert run("train-flow", tmp_path / "clip.mp4", *options) == 3
    assert "loop.muon: a flownet has no matrices for Muon" in capsys.readouterr().err


def test_first_of_several_processes_prints_the_plan(tmp_path, capsys, monkeypatch):
    options = ["digits", "--preset", "tiny", "--run", tmp_path / "run", "--dry-run"]
    for rank, lines in (("1", 0), ("0", 5)):
        monkeypatch.setenv("RANK", rank)
        assert run("train-captioner", *options) == 0
        assert len(capsys.readouterr().out.splitlines()) == lines
