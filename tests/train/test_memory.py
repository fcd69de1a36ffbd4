"""Freed memory stays allocated during a training, and is returned afterwards."""

import subprocess
import sys

import pytest

BLOCK = 2**28
SCRIPT = f"""
import resource
import torch
from pathlib import Path
from flowwarp.train.memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones({BLOCK}, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def used():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

before = faults(), used()
with freed_memory_kept():
    with freed_memory_kept():  # as where a training prepares its data
        torch.ones({BLOCK}, dtype=torch.uint8)
    within = faults(), used()
print(*before, *within, faults(), used())
"""


def run(**environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True, text=True
    )
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="of the C library on Linux")
def test_freed_memory_stays_allocated_until_the_end():
    before, small, within, large, after, last = run()
    if large - small < BLOCK // 2:
        pytest.skip("this C library is not glibc")
    assert within < before / 10  # no block is requested twice
    assert after > within + before / 10
    assert last < small + BLOCK // 2
