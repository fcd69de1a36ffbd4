"""What the package never calls, so that nothing a user gives can be run."""

import ast
import re
from pathlib import Path

import pytest

import flowwarp

# By their whole names, however they were imported; a dot at the end stands for all of a module.
FORBIDDEN = (
    *("eval", "exec", "compile", "__import__", "builtins.", "runpy.", "code."),
    *("os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "pty."),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("pickle.", "_pickle.", "cPickle.", "dill.", "cloudpickle.", "joblib.", "shelve.", "marshal."),
    *("torch.load", "torch.jit.", "torch.hub.", "torch.package.", "yaml.", "numpy.lib.npyio."),
    *("shutil.unpack_archive", "tarfile.TarFile.extractall"),
)
METHODS = {"extract", "extractall"}  # of archives: members are read one by one
OPTIONS = {"shell", "allow_pickle", "trust_remote_code"}
SHELLS = {"sh", "bash", "zsh", "cmd", "cmd.exe", "powershell", "/bin/sh", "/bin/bash"}


def is_forbidden(name):
    """Whether a whole name is of one of those: an ``exec`` of the system has many endings."""
    begun = ("os.exec", "os.spawn", "os.posix_spawn")
    return any(
        name.startswith(one) if one.endswith(".") or one in begun else name == one
        for one in FORBIDDEN
    )


def imported(tree):
    """Return the whole names of what is imported, by the names that it has here."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def faults(source):
    """Return the lines that might run, or unpack, what they are given."""
    tree = ast.parse(source)
    names, found = imported(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            if any(map(is_forbidden, whole)):
                found.append(f"{node.lineno}: {ast.unparse(node)[:60]}")
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = ast.unparse(node.func).partition(".")
        name = names.get(first, first) + dot + rest
        true = {
            word.arg
            for word in node.keywords
            if not (isinstance(word.value, ast.Constant) and not word.value.value)
        }
        started = node.args[0] if node.args else None
        words = started.elts if isinstance(started, ast.List | ast.Tuple) else []
        shell = any(isinstance(word, ast.Constant) and word.value in SHELLS for word in words[:1])
        runs = name.startswith("subprocess.") and shell
        if is_forbidden(name) or rest.split(".")[-1] in METHODS or true & OPTIONS or runs:
            found.append(f"{node.lineno}: {ast.unparse(node)[:60]}")
    return found


@pytest.mark.parametrize(
    "path", sorted(Path(flowwarp.__file__).parent.rglob("*.py")), ids=lambda path: path.name
)
def test_no_input_is_executed(path):
    assert faults(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "os.system('ls')",
        "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=flag)",
        "torch.load(path, weights_only=True)",
        "numpy.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
        "from pickle import loads",
        "import pickle as p; p.Unpickler(file)",
        "import subprocess as s; s.getoutput(x)",
        "import subprocess; subprocess.run(['sh', '-c', x])",
        "import os; os.execvp(x, y)",
        "from os import system",
        "import torch; torch.jit.load(path)",
        "__import__(x)",
        "import shutil; shutil.unpack_archive(path)",
    ],
)
def test_a_call_that_executes_something_is_found(line):
    assert len(faults(line)) == 1
    assert faults("model.eval(); re.sub(a, b, c); numpy.load(a, allow_pickle=False)") == []


def test_build_requirements_are_pinned():
    """An action by its commit, a package by its hash: neither can be exchanged unseen."""
    root = Path(flowwarp.__file__).parents[1]
    text = (root / "tools" / "build-requirements.txt").read_text().replace("\\\n", "")
    pins = [line for line in text.splitlines() if not line.startswith("#")]
    assert {"build", "setuptools"} <= {pin.split("==")[0] for pin in pins}
    for pin in pins:
        assert re.fullmatch(r"[\w-]+==[\d.]+(?:\s+--hash=sha256:[0-9a-f]{64})+", pin), pin
    for workflow in (root / ".github" / "workflows").glob("*.yml"):
        for action in re.findall(r"uses: (.*)", workflow.read_text()):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), action
    built = (root / ".github" / "workflows" / "wheels.yml").read_text()
    assert "pip install --require-hashes -r tools/build-requirements.txt" in built
    assert "python -m build --no-isolation" in built
