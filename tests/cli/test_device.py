"""What a command sets before torch is imported."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("given", "policy", "spins"), [(None, "PASSIVE", "5000"), ("active", "active", "None")]
)
def test_threads_that_wait_leave_their_core_to_others(given, policy, spins):
    """Unless asked otherwise; torch reads it when it is loaded."""
    program = """
import os, sys
from flowwarp.cli import main
sys.argv = ["flowwarp", "warp"]
try:
    main()
except SystemExit as stop:
    names = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
    print(stop.code, *map(os.environ.get, names), "torch" in sys.modules)
"""
    ours = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
    own = {name: value for name, value in os.environ.items() if name not in ours}
    if given:
        own["OMP_WAIT_POLICY"] = given
    done = subprocess.run(
        [sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", policy, spins, "False"]
