"""Every command against the corpus of ``tools/hostile.py``."""

import contextlib
import sys
from pathlib import Path

import pytest

if not Path("/proc/self/statm").exists():
    pytest.skip("it measures memory as Linux tells it", allow_module_level=True)

import hostile

CASES = hostile.cases()
# All cases that fail before torch is used, and every sixth of the others.
QUICK = (
    "recipe",
    "weights no card: train-",
    "setting",
    "list",
    "name too long",
    "name of",
    "layers l",
    "manifest",
    "name not",
    "right",
    "number",
    "weights NaN",
    "weights odd",
    "run that is there",
    "run with a pipe",
    "flow pipe",
)
SUBSET = [c for number, c in enumerate(CASES) if number % 6 == 0 or c.name.startswith(QUICK)]


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """Return the folder with valid files of every kind."""
    folder = tmp_path_factory.mktemp("valid")
    hostile.write_valid_files(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread(one_torch_thread):
    """Run every test here with one thread."""


@pytest.mark.parametrize("case", SUBSET, ids=lambda case: ascii(case.name))
def test_case(case, valid, tmp_path):
    finding = hostile.perform(case, valid, tmp_path / "here")
    assert not finding.faults, finding


def test_corpus_covers_every_command():
    from flowwarp.cli import COMMANDS

    assert len(CASES) >= 120
    for corpus in (CASES, SUBSET):
        left = set(COMMANDS) - {case.words[0] for case in corpus}
        assert left <= {"doctor"}  # which reads no file of a user's
        valid_calls = {case.words[0] for case in corpus if case.name.startswith("right")}
        assert valid_calls == {case.words[0] for case in corpus}


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("raise SystemExit(0)", "exit 0, not 3"),
        ("print('flowwarp: x', file=sys.stderr); raise ValueError", "traceback"),
        ("pathlib.Path('new').touch(); raise InputError('x', 'is bad')", "changed new"),
        ("pathlib.Path('a.png').unlink(); raise InputError('x', 'is bad')", "changed a.png"),
        ("print('hm', file=sys.stderr); raise InputError('x', 'is bad')", "noise: hm"),
        ("os.write(2, b'from C'); raise InputError('x', 'is bad')", "0 lines"),
        ("os.mkdir('executed'); raise InputError('x', 'is bad')", "executed code"),
    ],
)
def test_violation_is_detected(script, fault, valid, tmp_path, monkeypatch):
    """The tool detects a command that behaves wrongly."""
    from flowwarp.cli.errors import run

    def command(call):
        import click

        names = {"InputError": hostile_error(), "sys": sys, "pathlib": __import__("pathlib")}
        run(click.command(lambda: exec(script, names | {"os": __import__("os")})), [])

    monkeypatch.setattr(hostile, "flowwarp", command)
    with contextlib.suppress(OSError):
        finding = hostile.perform(hostile.Case("x", ["warp"]), valid, tmp_path / "here")
    assert any(fault in found for found in finding.faults), finding


def hostile_error():
    from flowwarp.errors import InputError

    return InputError
