"""Optical flow and video warping for PyTorch: exact, differentiable, on every machine.

Public names are loaded on first use, so that ``import flowwarp`` costs nothing.

>>> import torch, flowwarp
>>> image = torch.rand(1, 3, 4, 5)
>>> torch.equal(flowwarp.warp(image, torch.zeros(1, 2, 4, 5)), image)
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flowwarp.io.flow_files import read_flow as read_flow
    from flowwarp.io.flow_files import write_flow as write_flow
    from flowwarp.io.images import read_image as read_image
    from flowwarp.io.images import write_image as write_image
    from flowwarp.ops.warping import warp as warp
    from flowwarp.viz.colors import flow_to_image as flow_to_image

_HOME = {
    "flow_to_image": "flowwarp.viz.colors",
    "read_flow": "flowwarp.io.flow_files",
    "read_image": "flowwarp.io.images",
    "warp": "flowwarp.ops.warping",
    "write_flow": "flowwarp.io.flow_files",
    "write_image": "flowwarp.io.images",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flowwarp' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
