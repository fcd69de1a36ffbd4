import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from flowwarp.errors import InputError
from flowwarp.io.checkpoints import load_tensors

if not Path("/proc/self/statm").exists():
    pytest.skip("it measures memory as Linux tells it", allow_module_level=True)

import fuzz

TOOLS = Path(__file__).parents[2] / "tools"


# Run the tool several times in one process: importing torch takes longer than many formats.
CALLS = """
import sys

_, tools, keep, *groups = sys.argv
sys.path.insert(0, tools)
import fuzz

for group in groups:
    formats, count = group.split("=")
    sys.argv = ["fuzz", "--format", formats, "--count", count, "--keep", keep]
    if fuzz.main():
        sys.exit(1)
"""


def test_mutated_files_are_refused_cleanly(tmp_path):
    counts = {"flow": 1000, "video": 25, "image": 200, "other": 80}
    groups = [f"{formats}={count}" for formats, count in counts.items()]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, TOOLS, tmp_path, *groups],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    for formats, count in counts.items():
        reports = [next(lines) for _ in fuzz.GROUPS[formats]]
        assert [report["format"] for report in reports] == fuzz.GROUPS[formats]
        assert next(lines) == {"formats": len(reports), "faults": 0}
        for report in reports:
            # Both must happen: files close to valid ones pass the first check.
            assert report["read"] > 0
            assert report["refused"] > 0
            assert report["read"] + report["refused"] == count
    assert not list(lines)


@pytest.mark.parametrize("kind", ["gpt", "captioner"])
def test_mutated_cards_reach_their_readers(tmp_path, kind):
    """Mutations change both texts of a card at any depth, and no tensor."""
    path = tmp_path / "a.safetensors"
    _, make, _ = fuzz.FORMATS[f"card_{kind}"]
    make(path)
    data, rng = path.read_bytes(), random.Random(0)
    whole, before = load_tensors(path)
    found = Counter()
    for _ in range(300):
        path.write_bytes(fuzz.case(f"card_{kind}", data, rng))
        tensors, card = load_tensors(path)
        assert tensors.keys() == whole.keys()
        found += Counter(name for name in before if card[name] != before[name])
        words = json.loads(card["vocabulary"])
        if isinstance(words, dict) and "Infinity" in json.dumps(words.get("media")):
            found["of a medium"] += 1
    assert set(found) == {"config", "vocabulary", "of a medium"}


def test_a_failing_file_is_shrunk():
    assert fuzz.shrink(bytes(1000) + b"XY" + bytes(77), lambda data: b"XY" in data) == b"XY"
    assert fuzz.shrink(b"abc", lambda data: data == b"abc") == b"abc"


@pytest.mark.parametrize(
    ("fault", "is_one"),
    [
        (None, False),
        (InputError("{folder}/a.flo", "is empty"), False),
        (InputError("somewhere", "is empty"), True),  # the file is not named
        (ValueError("{folder}/a.flo"), True),
        (RecursionError("{folder}/a.flo"), True),
    ],
)
def test_errors_are_reported(tmp_path, fault, is_one):
    if fault is not None:
        fault.args = (str(fault).format(folder=tmp_path),)
    assert fuzz.is_fault(fault, tmp_path) is is_one


def test_a_broken_reader_is_found(tmp_path, monkeypatch):
    """The tool reports faults and keeps the smallest file."""

    def check(path):
        data = path.read_bytes()
        if b"\xff" in data:
            raise ZeroDivisionError
        raise InputError(path, "is broken") if len(data) < 12 else InputError(path, "is bad")

    def good(path):
        return None if path.read_bytes() == bytes(12) else check(path)

    monkeypatch.setitem(
        fuzz.FORMATS, "test", (".x", lambda path: path.write_bytes(bytes(12)), good)
    )
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *limits: None)
    report = fuzz.fuzz("test", 300, 0, tmp_path, tmp_path)
    assert report["faults"] > 0
    assert report["read"] + report["refused"] + report["faults"] == 300
    assert (tmp_path / "fuzz_test_0.x").read_bytes() == b"\xff"
