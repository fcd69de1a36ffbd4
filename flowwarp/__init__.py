"""Optical flow and differentiable video warping for PyTorch.

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
    from flowwarp.metrics.flow import angular_error as angular_error
    from flowwarp.metrics.flow import endpoint_error as endpoint_error
    from flowwarp.metrics.flow import epe as epe
    from flowwarp.metrics.flow import fl_all as fl_all
    from flowwarp.ops.census import census as census
    from flowwarp.ops.census import census_distance as census_distance
    from flowwarp.ops.correlation import correlation as correlation
    from flowwarp.ops.fields import compose as compose
    from flowwarp.ops.fields import coordinate_grid as coordinate_grid
    from flowwarp.ops.fields import invert as invert
    from flowwarp.ops.fields import resize_flow as resize_flow
    from flowwarp.ops.occlusion import range_map as range_map
    from flowwarp.ops.occlusion import visible_by_consistency as visible_by_consistency
    from flowwarp.ops.occlusion import visible_by_range as visible_by_range
    from flowwarp.ops.splatting import splat as splat
    from flowwarp.ops.warping import warp as warp
    from flowwarp.pipelines.flow.estimate import estimate_both as estimate_both
    from flowwarp.pipelines.flow.estimate import estimate_flow as estimate_flow
    from flowwarp.pipelines.flow.estimate import load_flownet as load_flownet
    from flowwarp.pipelines.flow.interpolate import interpolate as interpolate
    from flowwarp.pipelines.flow.refine import refine as refine
    from flowwarp.viz.colors import flow_to_image as flow_to_image

_HOME = {
    "angular_error": "flowwarp.metrics.flow",
    "census": "flowwarp.ops.census",
    "census_distance": "flowwarp.ops.census",
    "compose": "flowwarp.ops.fields",
    "coordinate_grid": "flowwarp.ops.fields",
    "correlation": "flowwarp.ops.correlation",
    "endpoint_error": "flowwarp.metrics.flow",
    "epe": "flowwarp.metrics.flow",
    "estimate_both": "flowwarp.pipelines.flow.estimate",
    "estimate_flow": "flowwarp.pipelines.flow.estimate",
    "fl_all": "flowwarp.metrics.flow",
    "flow_to_image": "flowwarp.viz.colors",
    "interpolate": "flowwarp.pipelines.flow.interpolate",
    "invert": "flowwarp.ops.fields",
    "load_flownet": "flowwarp.pipelines.flow.estimate",
    "range_map": "flowwarp.ops.occlusion",
    "read_flow": "flowwarp.io.flow_files",
    "read_image": "flowwarp.io.images",
    "refine": "flowwarp.pipelines.flow.refine",
    "resize_flow": "flowwarp.ops.fields",
    "splat": "flowwarp.ops.splatting",
    "visible_by_consistency": "flowwarp.ops.occlusion",
    "visible_by_range": "flowwarp.ops.occlusion",
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
