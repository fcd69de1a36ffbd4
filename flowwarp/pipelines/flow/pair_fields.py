"""A pair of frames: read it, estimate flow both ways and a visibility mask, write the results."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.defaults import Quality
from flowwarp.errors import InputError
from flowwarp.io.atomic import atomic_output
from flowwarp.io.flow_files import encode_flow
from flowwarp.io.images import read_image, write_image
from flowwarp.io.manifests import stamp
from flowwarp.models.flownet import FlowNet
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.pipelines.flow.estimate import estimate_both, estimate_flow
from flowwarp.pipelines.flow.refine import Progress

Frame = Path | NDArray[np.uint8]  # a picture file, or a decoded frame of a video (3, H, W)


@dataclass(frozen=True)
class Target:
    """The result files of a pair.

    Args:
        flow: flow from frame 1 to frame 2.
        backward: flow from frame 2 to frame 1; None if it is not wanted.
        occlusion: visibility mask as a picture; None if it is not wanted.
    """

    flow: Path
    backward: Path | None = None
    occlusion: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """The files that are wanted."""
        return [path for path in (self.flow, self.backward, self.occlusion) if path is not None]


@dataclass(frozen=True)
class Fields:
    """The results of a pair, on the CPU.

    Args:
        flow_12: (2, H, W), pixels.
        flow_21: (2, H, W), pixels.
        visible: (1, H, W) bool, True where frame 2 shows the pixel of frame 1.
    """

    flow_12: Tensor
    flow_21: Tensor | None = None
    visible: Tensor | None = None


@dataclass(frozen=True)
class Pair:
    """A pair of frames in a bulk job.

    Args:
        key: identifies the pair in its job: the name of its flow file without the extension.
        place: index of its clip, and of its first frame in that clip.
        frames: both frames.
        names: of both frames, for messages.
        stamp: changes when a source file changes.
        target: the result files.
    """

    key: str
    place: tuple[int, int]
    frames: tuple[Frame, Frame]
    names: tuple[str, str]
    stamp: Sequence[Any]
    target: Target


def read_pair(frames: Sequence[Frame], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Read two frames.

    Args:
        frames: both frames.
        names: of both frames, for messages.

    Returns:
        Two images (3, H, W) float32 in [0, 1].

    Raises:
        InputError: one cannot be read, or they differ in size.
    """
    image1, image2 = (_read(frame) for frame in frames)
    if image1.shape != image2.shape:
        size1, size2 = (f"{image.shape[2]}x{image.shape[1]}" for image in (image1, image2))
        raise InputError(
            names[1], f"is {size2}, but {names[0]} is {size1}", "a pair needs frames of one size"
        )
    return image1, image2


def estimate_fields(
    net: FlowNet,
    image1: Tensor,
    image2: Tensor,
    quality: Quality,
    *,
    backward: bool = False,
    visible: bool = False,
    progress: Progress | None = None,
) -> Fields:
    """Estimate the flow of a pair, on the device of the network.

    Args:
        net: the flow network.
        image1: (3, H, W) in [0, 1].
        image2: (3, H, W) in [0, 1].
        quality: as for :func:`flowwarp.pipelines.flow.estimate.estimate_flow`.
        backward: whether to return flow from image 2 to image 1.
        visible: whether to return the visibility mask.
        progress: called during the fit with the share that is done, in [0, 1].

    Returns:
        The requested fields, on the CPU.
    """
    device = next(net.parameters()).device
    images = image1[None].to(device), image2[None].to(device)  # (1, 3, H, W) each
    if not (backward or visible):
        return Fields(estimate_flow(net, *images, quality, progress=progress)[0].cpu())
    flow_12, flow_21 = estimate_both(net, *images, quality, progress=progress)
    mask = visible_by_consistency(flow_12, flow_21)[0].cpu() if visible else None
    return Fields(flow_12[0].cpu(), flow_21[0].cpu() if backward else None, mask)


def write_fields(fields: Fields, target: Target) -> None:
    """Write flow files and mask; the folders must exist.

    All flow is encoded before any file is written, so that a format that cannot hold it leaves no
    files. The forward flow is written last: where it exists, the other results do too.

    Raises:
        InputError: a format cannot hold the values (KITTI's PNG ends at 512 px).
        OutputError: a file cannot be written.
    """
    flows = [(target.flow, encode_flow(target.flow, fields.flow_12))]
    if target.backward is not None and fields.flow_21 is not None:
        flows.insert(0, (target.backward, encode_flow(target.backward, fields.flow_21)))
    if target.occlusion is not None and fields.visible is not None:
        write_image(target.occlusion, fields.visible.float())
    for path, data in flows:
        with atomic_output(path) as temporary:
            temporary.write_bytes(data)


def clear_frame_cache() -> None:
    """Free the pictures that `read_pair` keeps for the next pair."""
    _read_picture.cache_clear()


def _read(frame: Frame) -> Tensor:
    if isinstance(frame, Path):
        return _read_picture(frame, *(stamp(frame) or ()))
    return torch.tensor(frame).float() / 255


@functools.lru_cache(2)  # each frame of a clip belongs to two pairs
def _read_picture(path: Path, *stamp: int) -> Tensor:
    return read_image(path)
