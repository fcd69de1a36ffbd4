"""From two frames to their flow, by a network's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowwarp.errors import InputError
from flowwarp.io.checkpoints import fill, load_weights
from flowwarp.models.flownet import FlowNet, FlowNetConfig


def load_flownet(weights: str | Path, device: str | torch.device = "cpu") -> FlowNet:
    """Make a flow network from a file of weights, such as ``train-flow`` writes.

    Args:
        weights: a ``.safetensors`` file with its card.
        device: where the network shall be.

    Raises:
        InputError: the file is broken, or of another network.
    """
    tensors, card = load_weights(weights, "flownet")
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in card.config.items()
    }
    try:
        net = FlowNet(FlowNetConfig(**settings))
    except (TypeError, ValueError, RuntimeError) as fault:
        raise InputError(weights, f"its card does not describe a flow network ({fault})") from fault
    fill(net, tensors, weights)
    return net.to(device).eval()


@torch.no_grad()
def estimate_flow(net: FlowNet, image1: Tensor, image2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow from frame 1 to frame 2 and back, (B, 2, H, W) each, in pixels.

    Args:
        net: from :func:`load_flownet`.
        image1: (B, 3, H, W) in [0, 1].
        image2: (B, 3, H, W) in [0, 1].
    """
    forward, backward = net(image1, image2)
    return forward.flow, backward.flow
