"""Command lines of the tools: a wrong argument is one line, not a traceback."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lpips_weights


@pytest.mark.parametrize(
    ("tool", "words", "message"),
    [
        (
            "ship_weights",
            ["run", "name", "--note", "foo"],
            "argument --note: 'foo' is not KEY=VALUE",
        ),
        ("soak", ["kill", "--network"], "argument --network: expected at least one argument"),
    ],
)
def test_a_wrong_argument_is_named(monkeypatch, capsys, tool, words, message):
    monkeypatch.setattr(sys, "argv", [tool, *words])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(tool).main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_weights_of_lpips_are_downloaded_by_their_hash():
    assert lpips_weights.ARCHIVE in lpips_weights.__doc__
    assert "--require-hashes" in lpips_weights.__doc__


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_an_environment_may_lie_anywhere(tmp_path):
    root = Path(__file__).parents[1]
    for place, found in ((tmp_path, tmp_path), (".venv", root / ".venv")):
        command = ["make", "-n", "test", f"VENV={place}", f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        assert f'PATH="{found}/bin:' in done.stdout
