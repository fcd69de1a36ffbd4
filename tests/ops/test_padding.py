"""The list of padding modes; tests/ops/test_warping.py has what each of them does."""

import re
import subprocess
import sys

import pytest
import torch

from flowwarp.bundled import bundled
from flowwarp.ops.padding import PADDINGS, pad_tap


def test_numbers_are_those_of_the_kernels():
    header = (bundled("cuda") / "warping.h").read_text()
    (names,) = re.findall(r"enum Padding \{ ([A-Z_, ]+), PADDING_COUNT \};", header)
    assert {name.lower(): number for number, name in enumerate(names.split(", "))} == PADDINGS


def test_the_list_is_read_without_torch():
    script = "import sys, flowwarp.ops.padding; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_reference_refuses_an_unknown_padding():
    with pytest.raises(ValueError, match="padding unknown is unknown"):
        pad_tap(torch.tensor([0]), torch.tensor([1.0]), 4, "unknown")
