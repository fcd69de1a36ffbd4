import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "tools" / "fuzz.py"


@pytest.mark.parametrize(("formats", "count"), [("flow", 1000), ("image", 200), ("video", 30)])
def test_mutated_files_are_refused_cleanly(tmp_path, formats, count):
    done = subprocess.run(
        [sys.executable, FUZZ, "--format", formats, "--count", str(count), "--keep", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *reports, total = map(json.loads, done.stdout.splitlines())
    assert total == {"formats": len(reports), "faults": 0}
    for report in reports:
        # Both happen: the files are near enough to valid ones to get past the first check.
        assert report["read"] > 0
        assert report["refused"] > 0
        assert report["read"] + report["refused"] == count
