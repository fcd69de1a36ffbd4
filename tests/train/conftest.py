import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

collect_ignore = ["forked.py", "tiny.py"]  # no tests: what they share


@pytest.fixture(scope="session")
def forked():
    """Return what runs a scenario of forked.py in a folder."""
    if not hasattr(os, "fork"):
        pytest.skip("no processes are copied here")

    def run(scenario, folder, timeout=120):
        script = Path(__file__).with_name("forked.py")
        done = subprocess.run(
            [sys.executable, script, scenario, folder],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
