"""The folder of train-video: refusals, the plan in it, its lock."""

import pytest

from flowwarp.errors import InputError, Locked, OutputError
from flowwarp.pipelines.video.load import MODEL
from flowwarp.train.video_folder import choose_plan, locked
from flowwarp.train.video_plan import PLAN, Plan


def test_a_new_run_has_the_defaults_and_nothing_is_written(tmp_path):
    assert choose_plan(tmp_path / "run", "never") == Plan(1.0, 0, "own")
    plan = choose_plan(tmp_path / "run", "never", hours=2.5, seed=7, preset="large")
    assert plan == Plan(2.5, 7, "large")
    assert not (tmp_path / "run").exists()


def test_a_plan_in_the_folder_is_followed(tmp_path):
    plan = Plan(3.0, 5, "own", (32, 1), {"dvae": 4})
    plan.write(tmp_path)
    assert choose_plan(tmp_path, "never") == plan
    assert choose_plan(tmp_path, "auto", hours=3.0, seed=5, preset="own") == plan


@pytest.mark.parametrize("asked", [{"hours": 1.0}, {"seed": 0}, {"preset": "large"}])
def test_another_plan_is_refused(tmp_path, asked):
    Plan(3.0, 5).write(tmp_path)
    with pytest.raises(InputError, match=f"{next(iter(asked))} is .* in this run, not"):
        choose_plan(tmp_path, "auto", **asked)


def test_a_broken_plan_is_refused(tmp_path):
    (tmp_path / PLAN).write_text("{}")
    with pytest.raises(InputError, match="is no plan"):
        choose_plan(tmp_path, "auto")


@pytest.mark.parametrize("begun", ["dvae", "gpt", "upsampler", MODEL, "last.safetensors"])
def test_a_folder_that_holds_a_run_is_refused_unless_resumed(tmp_path, begun):
    (tmp_path / begun).mkdir()
    with pytest.raises(OutputError, match=r"holds a run already; resume it"):
        choose_plan(tmp_path, "never")
    assert choose_plan(tmp_path, "auto") == Plan(1.0, 0)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        choose_plan(tmp_path / "run", "never")


def test_a_folder_is_locked(tmp_path):
    run, problem = tmp_path / "run", "another process trains this run"
    with locked(run), pytest.raises(Locked, match=problem), locked(run):
        pass
    with locked(run):
        pass


def test_only_the_first_process_locks(tmp_path, monkeypatch):
    with locked(tmp_path / "run"):
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path / "run"):
            pass
