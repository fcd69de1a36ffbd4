"""What the package never calls, so that nothing a user gives can be run."""

import ast
from pathlib import Path

import pytest

import flowwarp

FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "joblib.load",
    "yaml.load",
    "marshal.loads",
    "tarfile.TarFile.extractall",
}
METHODS = {"extract", "extractall"}  # of archives: members are read one by one
OPTIONS = {"shell", "allow_pickle", "trust_remote_code"}


def faults(source):
    """Return the lines of calls that might run, or unpack, what they are given."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        true = {
            word.arg
            for word in node.keywords
            if not (isinstance(word.value, ast.Constant) and not word.value.value)
        }
        if name in FORBIDDEN or name.split(".")[-1] in METHODS or true & OPTIONS:
            found.append(f"{node.lineno}: {ast.unparse(node)[:60]}")
    return found


@pytest.mark.parametrize(
    "path", sorted(Path(flowwarp.__file__).parent.rglob("*.py")), ids=lambda path: path.name
)
def test_nothing_given_is_run(path):
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
    ],
)
def test_a_call_that_runs_something_is_seen(line):
    assert len(faults(line)) == 1
    assert faults("model.eval(); re.sub(a, b, c); numpy.load(a, allow_pickle=False)") == []
