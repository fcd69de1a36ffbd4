"""Making custom operators: Dynamo is loaded by whoever compiles, not by whoever calls one."""

import subprocess
import sys

SCRIPT = """
import sys
import warnings

import torch
from flowwarp import correlation, warp

warnings.simplefilter("ignore")
image, flow = torch.rand(1, 3, 5, 6), torch.rand(1, 2, 5, 6)
eager = warp(image, flow), correlation(image, image, 1), warp(image, flow, out=image.clone())
assert torch.equal(eager[0], eager[2])
assert "torch._dynamo" not in sys.modules, "an operator loaded Dynamo"

import torch._dynamo
for _ in range(2):  # now they step aside, for good
    assert torch.equal(warp(image, flow), eager[0])
    assert torch.equal(correlation(image, image, 1), eager[1])
wrappers = [
    getattr(kernel.__wrapped__, "__dynamo_disable", None)
    for operator in torch._library.custom_ops.OPDEFS.values()
    if operator._qualname in ("flowwarp::warp", "flowwarp::correlation")
    for kernel in operator._backend_fns.values()
]
assert len(wrappers) == 2 and all("flowwarp" not in w.__module__ for w in wrappers), wrappers
"""


def test_operators_do_not_load_dynamo():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
