"""Textures, and pairs of images whose motion is known."""

import torch
import torch.nn.functional as F

from flowwarp.ops.fields import coordinate_grid
from flowwarp.ops.warping import warp

STILL = torch.zeros(1, 2, 32, 32)


def texture(height, width, channels=3, seed=0):
    """A smooth random picture with detail at several scales."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, channels, height, width)
    for cell in (4, 8, 16):
        size = (height // cell + 4, width // cell + 4)
        noise = torch.rand(1, channels, *size, generator=generator)
        image += F.interpolate(noise, (height, width), mode="bicubic", align_corners=False) / 3
    return image.clamp(0, 1)


def noise(*seeds, side=32):
    """Return images of independent noise, one for each seed."""
    return [
        torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]


def affine(height, width):
    """Flow of rotation, scaling and translation, about 3 px at the border."""
    grid = coordinate_grid(height, width)
    x, y = grid[:, :1] - width / 2, grid[:, 1:] - height / 2
    return torch.cat([0.02 * x - 0.01 * y + 0.7, 0.01 * x + 0.015 * y - 0.4], dim=1)


def moved(flow, channels=3):
    """A pair with known flow: frame 1 is frame 2 warped by it."""
    image2 = texture(*flow.shape[-2:], channels)
    return warp(image2, flow, mode="bicubic"), image2


def error(flow, target, margin=8):
    inner = (..., slice(margin, -margin), slice(margin, -margin))
    return float((flow - target)[inner].norm(dim=1).mean())
