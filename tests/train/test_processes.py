"""One network shared out over two processes (gloo), against the same training in one."""

import json
import os
import re
import shutil
import signal
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from filelock import FileLock

import tiny
from flowwarp.errors import Diverged, InputError, OutputError, Stopped
from flowwarp.io.checkpoints import build, fill, load_tensors, load_weights
from flowwarp.legacy.models.gpt import GPT, GPTConfig
from flowwarp.legacy.models.upsampler import Upsampler, UpsamplerConfig
from flowwarp.legacy.pipelines.captions import load_captioner
from flowwarp.legacy.pipelines.load import load_reviser
from flowwarp.legacy.pipelines.sequences import load_gpt
from flowwarp.legacy.pipelines.tokens import load_dvae
from flowwarp.pipelines.flow.estimate import load_flownet
from flowwarp.train import loop
from flowwarp.train.processes import Process, joined, own_device
from flowwarp.train.runs import BEST, LAST, METRICS
from flowwarp.train.stopping import StopNow
from tiny import run

LAST_STATE = "state-00000008.safetensors"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, forked):
    """Output of the scenario, and the folder of its runs, which test workers share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared runs"
    output = folder / "output.txt"
    with FileLock(own.parent / "shared runs.lock"):
        if not output.exists():
            folder.mkdir()
            output.write_text(forked("shared", folder).stdout)
    return output.read_text(), folder


def assert_close(one, two):
    """Every tensor of two files is the same but for rounding.

    A step's gradient may be off by 1e-6 (tests/train/test_exactness.py); these are eight steps,
    each of which begins where the one before has ended.
    """
    a, b = load_tensors(one)[0], load_tensors(two)[0]
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.shape == b[name].shape
        difference = (tensor.double() - b[name].double()).norm()
        assert float(difference) <= 8e-6 * float(b[name].double().norm()) + 1e-9, name


def test_a_sharded_network_learns_the_same(runs):
    output, folder = runs
    shares = [float(share) for share in re.findall(r"has (\S+)", output)]
    assert len(shares) == 6  # two each: whole, gone on with, late
    assert min(shares) > 0.48
    assert max(shares) < 0.52
    run(tiny.make_gpt(), tiny.gpt_config(), folder / "one")
    for name in (LAST_STATE, LAST, BEST):
        assert_close(folder / "whole" / name, folder / "one" / name)
    one, whole = (
        [json.loads(line) for line in (folder / name / METRICS).read_text().splitlines()]
        for name in ("one", "whole")
    )
    assert len(one) > 3
    for a, b in zip(one, whole, strict=True):  # losses, and the gradient's norm before clipping
        assert a.pop("split") == b.pop("split")
        assert a == pytest.approx(b, rel=1e-5)


def test_a_sharded_run_resumes_bit_for_bit(runs):
    output, folder = runs
    assert output.count("exits 143 143") == 1  # the signal came to the second process only
    for name in (LAST_STATE, LAST, BEST):
        a, b = (load_tensors(folder / kind / name)[0] for kind in ("whole", "cut"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert (folder / "whole" / METRICS).read_bytes() == (folder / "cut" / METRICS).read_bytes()


def test_all_processes_save_when_one_is_overdue(runs):
    _, folder = runs
    states = sorted(path.name for path in (folder / "late").glob("state-*"))
    assert states == ["state-00000007.safetensors", LAST_STATE]


def test_one_process_resumes_a_sharded_run(runs):
    _, folder = runs
    alone = folder / "alone"
    assert not (alone / LAST_STATE).exists()
    result = run(tiny.make_gpt(), tiny.gpt_config(), alone, resume="auto")
    assert_close(alone / LAST_STATE, folder / "whole" / LAST_STATE)
    tensors, card = load_weights(result.weights, "gpt")
    fill(GPT(GPTConfig(**card.config)), tensors, "weights")


def test_an_error_of_one_process_ends_all(runs):
    output, folder = runs
    assert output.count("exits 0 0") == 3
    assert "data: is at fault" in output
    assert output.count("exits 1 3") == 1
    assert not list((folder / "fault").glob("state-00000003*"))


def test_a_nan_in_one_process_keeps_all_from_saving(runs):
    output, folder = runs
    assert output.count("head.weight is not finite after step 3") == 2
    assert output.count("exits 7 7") == 1
    assert not list((folder / "spoilt").glob("state-*"))


def test_all_processes_raise_an_error_of_the_first(tmp_path, forked):
    """With one line each: of a run that another process trains, that is there, or is another."""
    done = forked("refused", tmp_path)
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    codes = (8, 0, 4, 3, 0, 3)
    assert [line for line in lines if line.startswith("exits")] == [
        f"exits [{code}, {code}]" for code in codes
    ]
    for words in (
        "another process trains this run",
        "holds a run already",
        "loop.batch_size is 5 in this run, not 4",
        "all of its states are broken",
    ):
        assert sum(words in line for line in lines) == 2, words


def test_a_network_without_layers_cannot_be_sharded(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"loop.shard: cannot share a tiny"):
        run(tiny.make(), tiny.config(shard=True), tmp_path / "run")
    # Alone, a process has it all.
    run(tiny.make_gpt(), tiny.gpt_config(shard=True, steps=2), tmp_path / "alone")


def test_the_commands_train_on_two_processes(tmp_path, forked):
    output = forked("commands", tmp_path)
    names = "dvae", "gpt", "upsampler", "captioner", "reviser", "flow"
    weights = {name: str(tmp_path / name / BEST) for name in names}
    lines = [line for path in weights.values() for line in (path, "exits 0 0")]
    assert output.stdout.splitlines() == lines  # by the first process only
    assert output.stderr.count("turning clips into tokens, once: 24 of 24") == 1
    assert output.stderr.count("spoiling clips, once: 4 of 4") == 1
    assert output.stderr.count("fitting flow, once: 2 of 2") == 1
    load_dvae(weights["dvae"])
    load_gpt(weights["gpt"])
    build(weights["upsampler"], "upsampler", lambda card: Upsampler(UpsamplerConfig(**card)))
    load_captioner(weights["captioner"])
    load_reviser(weights["reviser"])
    load_flownet(weights["flow"])


def test_torchrun_parses_the_command_of_the_docs():
    """An option such as --run would be taken for torchrun's own, but for the two dashes."""
    from torch.distributed.run import get_args_parser

    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith("torchrun "))
    _, *words = f"{line} --run runs/gpt".split()
    found = get_args_parser().parse_args(words)
    assert (found.module, found.training_script, found.nproc_per_node) == (True, "flowwarp", "2")
    assert found.training_script_args == words[words.index("--") + 1 :]


def test_each_process_has_its_own_gpu(monkeypatch):
    assert own_device("cuda") == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("cuda") == torch.device("cuda:3")
    assert own_device("cuda:1") == torch.device("cuda:1")
    assert own_device("cpu") == torch.device("cpu")


@pytest.fixture
def groups(monkeypatch):
    """Return what becomes of process groups, none of which is made, in the first of two processes.

    Each is how it is begun, or "destroyed".
    """
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    done = []
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, timeout: done.append((backend, timeout))
    )
    monkeypatch.setattr(dist, "destroy_process_group", lambda: done.append("destroyed"))
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    return done


@pytest.mark.parametrize(
    ("fault", "together"),
    [
        (None, True),
        (Stopped("run", signal.SIGTERM), True),
        (Diverged("run", "is at fault"), True),
        (InputError("data", "is at fault"), False),
        (OutputError("run", "is at fault"), False),
        (StopNow(signal.SIGTERM), False),
    ],
)
def test_a_process_that_fails_alone_does_not_wait(groups, fault, together):
    with suppress(BaseException), joined(torch.device("cpu")):
        if fault is not None:
            raise fault
    assert groups[1:] == (["destroyed"] if together else [])


def test_the_timeout_is_hours(groups):
    with joined(torch.device("cpu")):
        pass
    (backend, timeout), _ = groups
    assert backend == "gloo"
    assert timeout >= timedelta(hours=6)


def test_objects_stay_on_the_cpu(groups, monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with joined(torch.device("cuda")) as (_, _, place):
        assert place == torch.device("cuda:0")
    assert groups[0][0] == "cpu:gloo,cuda:nccl"


def test_a_process_that_stops_at_once_does_not_wait(tmp_path, monkeypatch):
    raised = []

    @contextmanager
    def watched(device):
        try:
            yield Process(0, 1, device)
        except BaseException as fault:
            raised.append(type(fault))
            raise

    def stop():
        raise StopNow(signal.SIGTERM)

    monkeypatch.setattr(loop, "joined", watched)
    with pytest.raises(Stopped):
        run(replace(tiny.make(), prepare=stop), tiny.config(), tmp_path)
    assert raised == [StopNow]  # not Stopped, which all processes raise


def test_a_run_of_an_older_version_resumes(tmp_path):
    """Its state and config.toml were written when nothing could be shared."""
    before = Path(__file__).with_name("begun_run")
    shutil.copytree(before, tmp_path / "run")
    run(tiny.make(dropout=0.2), tiny.config(), tmp_path / "run", resume="auto")
    run(tiny.make(dropout=0.2), tiny.config(), tmp_path / "whole")
    name = "state-00000012.safetensors"
    assert_close(tmp_path / "run" / name, tmp_path / "whole" / name)


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"WORLD_SIZE": "2"}, "RANK: is not set, though WORLD_SIZE is 2; start it by torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR: is not set, though WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE: must be a number of processes, got 'many'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: must be a number of processes, got '0'"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE: must be a number of processes, got '9{40}'$"),
    ],
)
def test_an_incomplete_environment_is_refused(monkeypatch, environment, problem):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^{problem}"), joined(torch.device("cpu")):
        pass
