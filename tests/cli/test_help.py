"""Help and version, which import nothing heavy."""

import subprocess
import sys

import pytest

import flowwarp
from flowwarp.cli import COMMANDS, main

HEAVY = ("torch", "numpy", "cv2", "imageio", "av", "PIL", "kornia", "safetensors")
# Every --help in one process; fails if a heavy module is imported.
IMPORTS = f"""
import sys
from flowwarp.cli import COMMANDS, main
for arguments in ([], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
    try:
        main(arguments)
    except SystemExit as stop:
        assert stop.code == (0 if arguments else 2), arguments
    loaded = [name for name in {HEAVY} if name in sys.modules]
    assert not loaded, (arguments, loaded)
"""


@pytest.fixture
def say(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_help_imports_no_heavy_module():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_command(say):
    code, out, err = say("--help")
    assert (code, err) == (0, "")
    assert "Usage: flowwarp [OPTIONS] COMMAND [ARGS]..." in out
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in out
        assert line in " ".join(out.split())
    assert say("-h") == (code, out, err)
    assert say() == (2, "", out)


def test_group_without_command_prints_its_help(say):
    assert say("datasets") == (2, "", say("datasets", "--help")[1])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(say, name):
    code, out, err = say(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: flowwarp {name} [OPTIONS]")
    assert "--json" in out


def test_version(say):
    assert say("--version") == (0, f"flowwarp {flowwarp.__version__}\n", "")


def test_unknown_command(say):
    code, out, err = say("wrap", "a.png")
    assert (code, out) == (2, "")
    assert err.startswith("flowwarp: No such command 'wrap'")
    assert err.endswith("see 'flowwarp --help'\n")
    assert err.count("\n") == 1


def test_shell_completion(say, monkeypatch):
    monkeypatch.setenv("_FLOWWARP_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "flowwarp wa")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert say() == (0, "plain,warp\n", "")
