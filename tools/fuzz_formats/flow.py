"""Flow files: makers of valid ones, and checks of what a reader returns."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import torch

from flowwarp.data.recipes import GroundTruthPair, read_pair
from flowwarp.io.flow_files import read_flow, write_flow
from flowwarp.io.images import write_image

PAIR = ("frame1.png", "frame2.png")


def check_flow(path: Path) -> None:
    """Read a flow file and check types, shapes and values of flow and mask."""
    flow, valid = read_flow(path)
    assert flow.dtype == torch.float32
    assert valid.dtype == torch.bool
    assert flow.shape == (2, *valid.shape[1:])
    assert valid.shape[0] == 1
    assert flow.numel() > 0
    assert bool(flow.isfinite().all())
    assert not bool(flow[:, ~valid[0]].any())
    assert valid.numel() <= 2**27


def check_packed(path: Path) -> None:
    """Read an image pair whose flow is compressed by xz."""
    frame1, frame2 = (path.parent / name for name in PAIR)
    truth = read_pair(GroundTruthPair("set", "pair", frame1, frame2, path))
    assert truth.flow_12.shape == (1, 2, 3, 5)


def make_flow(extension: str) -> Callable[[Path], None]:
    """Return a maker of a small valid flow file."""

    def make(path: Path) -> None:
        flow = torch.arange(30, dtype=torch.float32).reshape(2, 3, 5)
        write_flow(path.with_suffix(extension), flow, flow[:1] != 4)

    return make


def make_packed(path: Path) -> None:
    """Make a valid flow file, compressed by xz, and its frames."""
    for name in PAIR:
        write_image(path.parent / name, torch.rand(3, 3, 5))
    plain = path.with_suffix("")
    write_flow(plain, torch.ones(2, 3, 5))
    path.write_bytes(lzma.compress(plain.read_bytes()))
