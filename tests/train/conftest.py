import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

collect_ignore = ["forked.py", "tiny.py"]  # what tests share


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """Return a function that runs a scenario of forked.py and returns its stdout and stderr."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    script = Path(__file__).with_name("forked.py")
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:

        def run(scenario, folder, timeout=300):
            output = tmp_path_factory.mktemp(scenario)
            out, err = output / "out", output / "err"
            server.stdin.write(json.dumps([scenario, *map(str, (folder, out, err))]) + "\n")
            server.stdin.flush()
            if not select.select([server.stdout], [], [], timeout)[0]:
                os.killpg(server.pid, signal.SIGKILL)
            code = server.stdout.readline()
            assert code == "0\n", out.read_text() + err.read_text()
            return SimpleNamespace(stdout=out.read_text(), stderr=err.read_text())

        yield run
        server.stdin.close()


@pytest.fixture(autouse=True)
def _one_thread(one_torch_thread):
    """Run every test here with one thread."""
