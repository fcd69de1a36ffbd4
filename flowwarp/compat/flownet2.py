"""The functions of NVIDIA/flownet2-pytorch: a script written for it changes its imports only.

============================================  =====================================
module of flownet2-pytorch                    name in this module
============================================  =====================================
``networks.resample2d_package.resample2d``    ``Resample2d``
``utils.flow_utils``                          ``readFlow``, ``writeFlow``,
                                              ``visulize_flow_file``, ``flow2img``
============================================  =====================================

Differences, on purpose:

- ``Resample2d`` runs on the CPU, too, and its gradient is right for positions left of and above the
  image.
- A file that holds no flow raises ``InputError``; the original prints a line and returns None.
- ``readFlow`` and ``writeFlow`` support every format of ``flowwarp.read_flow``, by the extension.
- ``visulize_flow_file`` returns its image, and has an alias ``visualize_flow_file``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from flowwarp.io.flow_files import UNKNOWN, read_flow, write_flow
from flowwarp.io.images import write_image
from flowwarp.ops.warping import warp
from flowwarp.viz.colors import flow_to_image

_UNKNOWN_ABOVE = 1e7  # the original's threshold in flow2img; Middlebury's is 1e9


class Resample2d(nn.Module):
    """Backward warping by a flow field in pixels, with border padding.

    Args:
        kernel_size: must be 1. The original's larger kernels sum over neighbours and read outside
            the image.
        bilinear: interpolate bilinearly; False takes the nearest pixel.

    Raises:
        ValueError: ``kernel_size`` is not 1.
    """

    def __init__(self, kernel_size: int = 1, bilinear: bool = True) -> None:
        super().__init__()
        if kernel_size != 1:
            raise ValueError(f"kernel_size must be 1, got {kernel_size}")
        self.kernel_size = kernel_size
        self.bilinear = bilinear

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Return ``input1`` (B, C, H, W) warped by the flow ``input2`` (B, 2, H, W)."""
        mode: Literal["bilinear", "nearest"] = "bilinear" if self.bilinear else "nearest"
        warped: Tensor = warp(input1, input2, padding="border", mode=mode)
        return warped


def readFlow(fn: str | Path) -> NDArray[np.float32]:  # noqa: N802
    """Read a flow file as (H, W, 2) float32 in pixels, u (right) first; unknown pixels are 1e10.

    Raises:
        InputError: the file is missing, broken or no flow file.
    """
    flow, valid = read_flow(fn)
    return np.ascontiguousarray(flow.masked_fill(~valid, UNKNOWN).permute(1, 2, 0).numpy())


def writeFlow(filename: str | Path, uv: ArrayLike, v: ArrayLike | None = None) -> None:  # noqa: N802
    """Write a flow file.

    Args:
        filename: the file; its extension gives the format.
        uv: (H, W, 2) in pixels, u (right) first; or u alone, (H, W).
        v: (H, W) in pixels, down, if ``uv`` is u alone.

    Raises:
        ValueError: the shape or the extension is wrong.
        InputError: the format cannot hold these values or this size; see ``flowwarp.write_flow``.
        OutputError: the file cannot be written.
    """
    parts = uv if v is None else np.stack((_to_array(uv), _to_array(v)), axis=-1)
    write_flow(filename, _to_tensor(parts))


def flow2img(flow_data: ArrayLike) -> NDArray[np.uint8]:
    """Colour a flow field by the Middlebury wheel, fully saturated at its largest magnitude.

    Args:
        flow_data: (H, W, 2) in pixels, u (right) first. It is not changed, unlike in the original.
            Pixels that are NaN or beyond 1e7 are unknown, and black.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the shape is wrong.
    """
    flow = _to_tensor(flow_data)
    valid = (flow.abs() <= _UNKNOWN_ABOVE).all(0, keepdim=True)
    magnitude = torch.hypot(flow[0], flow[1])[valid[0]]
    largest = magnitude.max().item() if magnitude.numel() else 0.0
    image = flow_to_image(flow, max_flow=largest or 1.0, valid=valid)
    levels: NDArray[np.uint8] = (255 * image).byte().permute(1, 2, 0).numpy()
    return levels


def visualize_flow_file(
    flow_filename: str | Path, save_dir: str | Path | None = None
) -> NDArray[np.uint8]:
    """Colour a flow file; with ``save_dir``, also write the image there as ``NAME-vis.png``.

    Returns:
        (H, W, 3) uint8 RGB. It is not shown on the screen, which would need matplotlib.

    Raises:
        InputError: the flow file cannot be read.
        OutputError: the image cannot be written.
    """
    picture = flow2img(readFlow(flow_filename))
    if save_dir:
        target = Path(save_dir) / f"{Path(flow_filename).stem}-vis.png"
        write_image(target, torch.from_numpy(picture).permute(2, 0, 1) / 255)
    return picture


visulize_flow_file = visualize_flow_file  # the original's spelling


def _to_tensor(uv: Any) -> Tensor:
    """Convert (H, W, 2) of any number type and memory order to a (2, H, W) float32 tensor."""
    array = _to_array(uv)
    if array.ndim != 3 or array.shape[2] != 2:
        raise ValueError(f"flow must be (H, W, 2), got shape {array.shape}")
    return torch.from_numpy(array).permute(2, 0, 1).float()


def _to_array(values: Any) -> NDArray[np.float64]:
    if isinstance(values, Tensor):  # NumPy takes none with a gradient or on a GPU
        values = values.detach().to("cpu", torch.float64).numpy()
    return np.array(values, dtype=np.float64)
