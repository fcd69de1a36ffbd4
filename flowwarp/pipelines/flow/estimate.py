"""Flow between two frames: the network alone, or followed by a fit that starts from its result.

The network finds large motion that a fit cannot follow; the fit reaches an accuracy that a network
of this size does not have (:mod:`flowwarp.pipelines.flow.refine`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from flowwarp.defaults import QUALITIES, Quality
from flowwarp.io.checkpoints import build
from flowwarp.io.shipped import SHIPPED, find_weights
from flowwarp.models.flownet import FlowNet, FlowNetConfig
from flowwarp.ops.fields import resize_flow
from flowwarp.ops.filters import resize
from flowwarp.pipelines.flow.refine import Progress, part_of, refine
from flowwarp.precision import fast_autocast
from flowwarp.tensors import check_choice, check_pixels, check_range, check_same_grid

# The network compares features at a quarter of the resolution of its input. Enlarging the frames
# by this factor lowers the error on all sets of ground truth, by a fifth on Middlebury. A larger
# factor takes too long.
INPUT_SCALE = 1.25


def load_flownet(weights: str | Path = SHIPPED, device: str | torch.device = "cpu") -> FlowNet:
    """Load a flow network, in evaluation mode.

    Args:
        weights: ``"base"`` or ``"small"`` for those in the package, or a ``.safetensors`` file
            that ``train-flow`` has written.
        device: of the network.

    Raises:
        InputError: the file is missing, broken, or of another network.

    >>> net = load_flownet("small")
    >>> sum(parameter.numel() for parameter in net.parameters())
    517445
    """
    path = find_weights(weights, "flownet")
    net, _ = build(path, "flownet", lambda settings: FlowNet(FlowNetConfig(**settings)))
    return net.to(device).eval()


@torch.no_grad()
def estimate_flow(
    net: FlowNet,
    image1: Tensor,
    image2: Tensor,
    quality: Quality = "balanced",
    *,
    progress: Progress | None = None,
) -> Tensor:
    """Estimate the flow from frame 1 to frame 2, without gradients.

    Args:
        net: from :func:`load_flownet`.
        image1: (B, 3, H, W) in [0, 1].
        image2: (B, 3, H, W) in [0, 1], on the same device.
        quality: ``"fast"`` is the network alone, ``"balanced"`` adds a short fit to the pair,
            ``"best"`` fits until the flow settles, with at most eight warps at each pyramid level.
        progress: called during the fit with the share of it that is done, up to 1.

    Returns:
        (B, 2, H, W) float32, pixels.

    Raises:
        ValueError: shapes do not fit, images are in 0 … 255 or contain NaN, or an unknown quality.

    >>> _ = torch.manual_seed(0)
    >>> texture = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 68, 106), 5, 1)
    >>> image1, image2 = texture[..., 2:], texture[..., :-2]  # moves 2 px to the right
    >>> flow = estimate_flow(load_flownet(), image1, image2)
    >>> flow.median(-1).values.median(-1).values.round().long()
    tensor([[2, 0]])
    """
    check_choice(quality, "quality", QUALITIES)
    flow_12, _ = _check_and_run(net, image1, image2)
    if quality == "fast":
        return flow_12
    return refine(image1, image2, flow_12, quality=quality, progress=progress)


@torch.no_grad()
def estimate_both(
    net: FlowNet,
    image1: Tensor,
    image2: Tensor,
    quality: Quality = "balanced",
    *,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate the flow from frame 1 to frame 2 and from frame 2 to frame 1, without gradients.

    The network runs once for both, which takes less time than :func:`estimate_flow` twice.

    Args:
        net: from :func:`load_flownet`.
        image1: (B, 3, H, W) in [0, 1].
        image2: (B, 3, H, W) in [0, 1], on the same device.
        quality: as for :func:`estimate_flow`.
        progress: called during the fits with the share of both that is done, up to 1.

    Returns:
        ``flow_12`` and ``flow_21``, (B, 2, H, W) float32 each, pixels.

    Raises:
        ValueError: shapes do not fit, images are in 0 … 255 or contain NaN, or an unknown quality.

    >>> frames = torch.rand(2, 1, 3, 32, 48)
    >>> flow_12, flow_21 = estimate_both(load_flownet(), *frames, "fast")
    >>> flow_12.shape == flow_21.shape == (1, 2, 32, 48)
    True
    """
    check_choice(quality, "quality", QUALITIES)
    flow_12, flow_21 = _check_and_run(net, image1, image2)
    if quality == "fast":
        return flow_12, flow_21
    return (
        refine(image1, image2, flow_12, quality=quality, progress=part_of(progress, 0, 2)),
        refine(image2, image1, flow_21, quality=quality, progress=part_of(progress, 1, 2)),
    )


def _check_and_run(net: FlowNet, image1: Tensor, image2: Tensor) -> tuple[Tensor, Tensor]:
    """Check the images and run the network, in bfloat16 where that is faster."""
    check_pixels(image1, "image1")
    check_pixels(image2, "image2")
    check_same_grid(image2, "image2", image1)  # `run_network` would resize both to one size
    check_range(image1, "image1")
    check_range(image2, "image2")
    with fast_autocast(image1.device):
        return run_network(net, image1, image2)


def run_network(net: FlowNet, image1: Tensor, image2: Tensor) -> tuple[Tensor, Tensor]:
    """Run the network on enlarged frames, without checks; the ONNX export traces this function.

    Args:
        net: the flow network.
        image1: (B, 3, H, W) in [0, 1].
        image2: (B, 3, H, W) in [0, 1].

    Returns:
        ``flow_12`` and ``flow_21``, (B, 2, H, W) float32 each, pixels of the given size.
    """
    height, width = image1.shape[-2:]
    # Rounded up to a multiple of the stride, so that the network pads nothing: padded pixels do not
    # move, which disturbs the flow at the border.
    stride = net.config.stride
    input_height, input_width = (
        -(-round(INPUT_SCALE * side) // stride) * stride for side in (height, width)
    )
    # `resize` uses antialiasing, which does nothing when enlarging. But torch's kernel without it
    # rounds differently for different numbers of threads.
    frames = [resize(i.float(), (input_height, input_width)) for i in (image1, image2)]
    forward, backward = net(*frames)
    return (
        resize_flow(forward.flow.float(), (height, width)),
        resize_flow(backward.flow.float(), (height, width)),
    )
