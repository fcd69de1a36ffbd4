import io
import math
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import tiny
from flowwarp.errors import InputError, Locked, OutputError
from flowwarp.io.atomic import atomic_output
from flowwarp.io.checkpoints import load_tensors, save_tensors
from flowwarp.selftest.fault_injection import FullDisk
from flowwarp.train import runs
from flowwarp.train.loop import train
from flowwarp.train.runs import State, check_settings, open_run
from tiny import run


def test_disk_full_at_every_write_loses_nothing(tmp_path):
    config = tiny.config(steps=4, save_every=2, validate_every=3)
    train(tiny.make(), config, tmp_path / "whole", stream=io.StringIO())
    wanted = load_tensors(tmp_path / "whole" / "state-00000004.safetensors")[0]
    messages = []
    for failing in range(1, 1000):
        folder = tmp_path / str(failing)
        with FullDisk(failing) as disk:
            try:
                train(tiny.make(), config, folder, stream=io.StringIO())
            except OutputError as fault:
                messages.append(str(fault))
        states = [load_tensors(path)[1]["step"] for path in folder.glob("state-*")]
        assert not list(folder.glob("**/.flowwarp-*"))
        assert states or disk.count < 12
        train(tiny.make(), config, folder, resume="auto", stream=io.StringIO())
        tensors = load_tensors(folder / "state-00000004.safetensors")[0]
        assert all(torch.equal(tensors[key], wanted[key]) for key in wanted)
        assert (folder / "metrics.jsonl").read_bytes() == (
            tmp_path / "whole" / "metrics.jsonl"
        ).read_bytes()
        if disk.count < failing:
            break
    assert len(messages) > 20
    assert all("no space left on device" in line for line in messages)
    assert OutputError.exit_code == 4


@pytest.mark.posix
def test_metrics_are_on_the_disk_before_a_state(tmp_path, monkeypatch):
    """Or a run could go on after a power cut whose lines are lost."""
    flushed = []

    def fsync(descriptor):
        flushed.append(os.fstat(descriptor).st_ino)

    with open_run(tmp_path, {}) as run:
        run.log({"step": 1})
        monkeypatch.setattr(os, "fsync", fsync)
        run.save_state(State(1, {"a": torch.zeros(1)}, {}))
    files = (tmp_path / name for name in ("metrics.jsonl", "state-00000001.safetensors", "."))
    assert flushed == [path.stat().st_ino for path in files]


def test_metrics_on_a_full_disk(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open_run(tmp_path, {}) as run:
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(OutputError, match=r"metrics\.jsonl: no space"):
            run.log({"step": 1})


@pytest.mark.posix
@pytest.mark.parametrize("name", ["metrics.jsonl", "config.toml"])
def test_a_pipe_is_refused_without_blocking(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(OutputError, match=f"{name}: is not a regular file"), open_run(tmp_path, {}):
        pass


@pytest.mark.parametrize(
    "name",
    [
        *(".lock", "config.toml", "metrics.jsonl", "last.safetensors", "best.safetensors"),
        *("samples", "samples/00000001-a.png"),
    ],
)
def test_a_link_out_of_the_run_is_refused(tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "victim")
    message = rf"{name}: is a link that leads out of the run"
    with pytest.raises(OutputError, match=message), open_run(tmp_path / "run", {}, resume="auto"):
        pass
    assert not (tmp_path / "victim").exists()


def test_a_run_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to("real")
    (tmp_path / "real" / "metrics.jsonl").symlink_to("log")
    with open_run(tmp_path / "run", {}) as run:
        run.log({"step": 1})
    assert (tmp_path / "real" / "log").exists()


def test_lock_within_one_process(tmp_path):
    with open_run(tmp_path, {}), pytest.raises(Locked) as fault, open_run(tmp_path, {}):
        pass
    assert fault.value.exit_code == 8
    with open_run(tmp_path, {}):
        pass


def test_files_that_another_command_is_writing_stay(tmp_path):
    """What a killed process has left goes."""
    (tmp_path / ".flowwarp-left.png").touch()
    with atomic_output(tmp_path / "clip.mp4") as temporary, open_run(tmp_path, {}):
        assert [path.name for path in tmp_path.glob(".flowwarp-*")] == [temporary.name]
    assert (tmp_path / "clip.mp4").exists()


def test_figures_that_are_not_finite_are_null(tmp_path):
    with open_run(tmp_path, {}) as run:
        run.log({"step": 1, "split": "val", "epe": math.nan, "loss": -math.inf, "error": 0.5})
        run.rewind_metrics(2)
    line = '{"step": 1, "split": "val", "epe": null, "loss": null, "error": 0.5}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == line


@dataclass(frozen=True)
class Data:
    data: tuple[str, ...]
    val: str


def test_a_path_that_is_not_utf8(tmp_path):
    """It differs from other paths, and is recognised on resuming."""
    configs = {"sources": Data((os.fsdecode(b"a\xff"), os.fsdecode(b"\xc3\xa4")), "b\\")}
    with open_run(tmp_path, configs) as run:
        run.write_config(configs)
        run.save_state(State(1, {"a": torch.tensor(1)}, {}))
    written = tomllib.loads((tmp_path / "config.toml").read_text("utf-8"))
    assert written == {"sources": {"data": ["a\\udcff", "ä"], "val": "b\\"}}
    with open_run(tmp_path, configs, resume="auto"):
        pass
    other = {"sources": Data((os.fsdecode(b"a\xfe"), "ä"), "b\\")}
    with (
        pytest.raises(InputError, match=r"sources\.data is .*udcff"),
        open_run(tmp_path, other, resume="auto"),
    ):
        pass


@dataclass(frozen=True)
class More(Data):
    eyes: tuple[str, ...] = ()


def test_a_run_older_than_a_list_setting_resumes(tmp_path):
    before = {"sources": Data(("clips",), "")}
    with open_run(tmp_path, before) as run:
        run.write_config(before)
        run.save_state(State(1, {"a": torch.tensor(1)}, {}))
    with open_run(tmp_path, {"sources": More(("clips",), "")}, resume="auto"):
        pass
    with (
        pytest.raises(InputError, match=r"sources\.eyes is None in this run, not \['one'\]"),
        open_run(tmp_path, {"sources": More(("clips",), "", ("one",))}, resume="auto"),
    ):
        pass


def test_settings_can_be_checked_before_a_run_is_opened(tmp_path):
    """Nothing is written, and nothing waited for."""
    before, other = ({"sources": Data(("clips",), val)} for val in ("", "more"))
    check_settings(tmp_path, other, frozenset(), "auto")
    with open_run(tmp_path, before) as run:
        run.write_config(before)
        run.save_state(State(1, {"a": torch.tensor(1)}, {}))
    files = sorted(tmp_path.iterdir())
    check_settings(tmp_path, before, frozenset(), "auto")
    check_settings(tmp_path, other, frozenset({"sources.val"}), "auto")
    check_settings(tmp_path, other, frozenset(), "changed")
    with pytest.raises(InputError, match=r"sources\.val is '' in this run, not 'more'"):
        check_settings(tmp_path, other, frozenset(), "auto")
    assert sorted(tmp_path.iterdir()) == files
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "last.safetensors").touch()
    with pytest.raises(InputError, match="has weights, but no state"):
        check_settings(tmp_path / "broken", before, frozenset(), "auto")


@pytest.mark.posix
def test_settings_that_are_a_pipe_are_refused_without_blocking(tmp_path):
    with open_run(tmp_path, {}) as run:
        run.save_state(State(1, {"a": torch.tensor(1)}, {}))
    os.mkfifo(tmp_path / "config.toml")
    with pytest.raises(OutputError, match="is not a regular file"):
        check_settings(tmp_path, {}, frozenset(), "auto")


@pytest.mark.parametrize("before", [0, 99_999_990])  # whose names become longer
def test_keeps_the_newest_states(tmp_path, before):
    with open_run(tmp_path, {}, keep=3) as run:
        for step in (1, 2, 10, 11):
            run.save_state(State(before + step, {"a": torch.tensor(step)}, {}))
        assert run.newest_state(print).tensors["a"] == 11
    assert {path.name for path in tmp_path.glob("state-*")} == {
        f"state-{before + step:08d}.safetensors" for step in (2, 10, 11)
    }


def test_metrics_are_rewound_to_a_state(tmp_path):
    lines = [
        '{"step": 2, "split": "train"}',
        '{"step": 2, "split": "val"}',
        '{"step": 4, "split": "train"}',
        '{"step": 4, "split": "val"}',
        '{"step": 6, "split": "tra',
    ]
    path = tmp_path / "metrics.jsonl"
    with open_run(tmp_path, {}) as run:
        for step, count in ((5, 4), (4, 3), (3, 2), (1, 0)):
            path.write_text("\n".join(lines))
            run.rewind_metrics(step)
            assert path.read_text().splitlines() == lines[:count]


def test_metrics_too_deep_to_read_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with open_run(tmp_path, {}) as run:
        path.write_text('{"step": 2, "split": "train"}\n' + "[" * 200_000 + "\n")
        run.rewind_metrics(5)
        assert path.read_text() == '{"step": 2, "split": "train"}\n'


def test_a_file_for_a_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(OutputError, match="is a file"), open_run(tmp_path / "run", {}):
        pass


def test_a_configuration_without_a_section_is_refused(tmp_path):
    run(tiny.make(), tiny.config(), tmp_path)
    path = tmp_path / "config.toml"
    loop, *_ = path.read_text().split("[model]")
    path.write_text(loop)
    with pytest.raises(InputError, match=r"model.width is None in this run"):
        run(tiny.make(), tiny.config(), tmp_path, resume="auto")


def test_another_configuration_is_refused_by_key(tmp_path):
    run(tiny.make(), tiny.config(steps=4), tmp_path)
    with pytest.raises(InputError, match=r"loop\.clip is 1\.0 in this run, not 2\.0"):
        run(tiny.make(), tiny.config(steps=4, clip=2.0), tmp_path, resume="auto")
    with pytest.raises(InputError, match=r"model\.width is 8 in this run, not 9"):
        run(tiny.make(width=9), tiny.config(steps=4), tmp_path, resume="auto")
    run(tiny.make(), tiny.config(steps=4, save_every=1, workers=1), tmp_path, resume="auto")
    longer = run(tiny.make(), tiny.config(steps=6), tmp_path, resume="changed")
    assert longer.step == 6


def test_a_run_is_not_overwritten(tmp_path):
    run(tiny.make(), tiny.config(steps=2), tmp_path)
    with pytest.raises(OutputError, match="holds a run already"):
        run(tiny.make(), tiny.config(steps=2), tmp_path)
    (tmp_path / "state-00000002.safetensors").unlink()
    with pytest.raises(OutputError, match="holds a run already"):  # its weights are still there
        run(tiny.make(), tiny.config(steps=2), tmp_path)


def test_a_refused_change_leaves_the_configuration(tmp_path):
    run(tiny.make(), tiny.config(steps=2), tmp_path)
    before = (tmp_path / "config.toml").read_bytes()
    with pytest.raises(InputError, match="first"):
        run(tiny.make(width=9), tiny.config(steps=3), tmp_path, resume="changed")
    assert (tmp_path / "config.toml").read_bytes() == before
    assert run(tiny.make(), tiny.config(steps=2), tmp_path, resume="auto").step == 2


def test_weights_without_a_state_are_not_overwritten(tmp_path):
    run(tiny.make(), tiny.config(), tmp_path)
    for state in tmp_path.glob("state-*"):
        state.unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for resume in ("auto", "changed"):
        with pytest.raises(InputError, match="no state to resume from"):
            run(tiny.make(), tiny.config(), tmp_path, resume=resume)
    (tmp_path / "state-00000004.broken").touch()
    with pytest.raises(InputError, match="no state to resume from"):
        run(tiny.make(), tiny.config(), tmp_path, resume="auto")
    (tmp_path / "state-00000004.broken").unlink()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl"])
def test_files_of_other_programs_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("[tool]\nmine = 1\n")
    for resume in ("never", "auto", "changed"):
        with pytest.raises(OutputError, match="was not written by a training run"):
            run(tiny.make(), tiny.config(steps=2), tmp_path, resume=resume)
    assert (tmp_path / name).read_text() == "[tool]\nmine = 1\n"


def test_temporary_files_of_a_nested_run_stay(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.flowwarp-0123.safetensors").touch()
    (tmp_path / ".flowwarp-0123.safetensors").touch()
    run(tiny.make(), tiny.config(steps=2), tmp_path)
    assert [path.parent.name for path in tmp_path.rglob(".flowwarp-*")] == ["other"]


def test_a_state_with_a_negative_step_is_refused(tmp_path):
    run(tiny.make(), tiny.config(), tmp_path)
    newest = max(tmp_path.glob("state-*.safetensors"))
    tensors, metadata = load_tensors(newest)
    save_tensors(newest, tensors, metadata | {"step": "-1"})
    with pytest.raises(InputError, match="step -1"):
        runs._read_state(newest)


def test_second_process_is_locked_out_until_the_first_dies(tmp_path, forked):
    out = forked("lock", tmp_path / "run").stdout
    assert "another process trains this run" in out
    assert out.count("exit 8") == 1
    assert out.count("exit 0") == 1
