"""Optical flow and differentiable video warping for PyTorch.

The public functions are listed below by group. Each is imported on first use, so that ``import
flowwarp`` loads neither torch nor anything else.

>>> import torch, flowwarp
>>> image = torch.rand(1, 3, 4, 5)
>>> torch.equal(flowwarp.warp(image, torch.zeros(1, 2, 4, 5)), image)
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# By public name: the module that defines it.
_MODULES = {
    # Optical flow of images, by a network that is shipped or your own
    "estimate_flow": "flowwarp.pipelines.flow.estimate",
    "estimate_both": "flowwarp.pipelines.flow.estimate",
    "load_flownet": "flowwarp.pipelines.flow.estimate",
    "refine": "flowwarp.pipelines.flow.refine",
    "interpolate": "flowwarp.pipelines.flow.interpolate",
    "steady": "flowwarp.pipelines.flow.steady",
    # Video of a prompt, by a model of train-video
    "load_video_model": "flowwarp.pipelines.video.load",
    # Differentiable operators for models: warping
    "warp": "flowwarp.ops.warping",
    "splat": "flowwarp.ops.splatting",
    # … flow fields
    "compose": "flowwarp.ops.fields",
    "invert": "flowwarp.ops.fields",
    "resize_flow": "flowwarp.ops.fields",
    "coordinate_grid": "flowwarp.ops.fields",
    # … occlusion: masks of visible pixels
    "visible_by_consistency": "flowwarp.ops.occlusion",
    "visible_by_range": "flowwarp.ops.occlusion",
    "range_map": "flowwarp.ops.occlusion",
    # … matching costs
    "correlation": "flowwarp.ops.correlation",
    "census": "flowwarp.ops.census",
    "census_distance": "flowwarp.ops.census",
    # Metrics against ground truth
    "endpoint_error": "flowwarp.metrics.flow",
    "epe": "flowwarp.metrics.flow",
    "fl_all": "flowwarp.metrics.flow",
    "angular_error": "flowwarp.metrics.flow",
    # Visualisation
    "flow_to_image": "flowwarp.viz.colors",
    # Files
    "read_flow": "flowwarp.io.flow_files",
    "write_flow": "flowwarp.io.flow_files",
    "read_image": "flowwarp.io.images",
    "write_image": "flowwarp.io.images",
}
__all__ = sorted(_MODULES)

if TYPE_CHECKING:  # the same names, for type checkers and editors
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
    from flowwarp.pipelines.flow.steady import steady as steady
    from flowwarp.pipelines.video.load import load_video_model as load_video_model
    from flowwarp.viz.colors import flow_to_image as flow_to_image


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'flowwarp' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
