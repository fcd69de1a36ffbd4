"""Frames and file listings that the tests of ``flowwarp flow`` share."""

import json
from pathlib import Path

import torch

from flowwarp.io.images import write_image
from flowwarp.ops.warping import warp

HEIGHT, WIDTH = 48, 64


SHIFT = (1.5, -0.5)


def frame(index, height=HEIGHT, width=WIDTH):
    """Return a frame of a texture that moves by SHIFT from each frame to the next."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    texture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    motion = torch.tensor(SHIFT).view(1, 2, 1, 1) * -index
    return warp(texture, motion.expand(1, 2, height, width), padding="reflection")[0]


def save_frames(folder, count=4, first=8):
    """Write frame8, frame9, frame10, ..."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        write_image(f"{folder}/frame{first + index}.png", frame(index))


def files(folder):
    """Return what a user sees in a folder, and all that is in it, by name; without manifests."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(paths)
        if not path.name.startswith((".lock", "manifest"))
    }


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def flows(folder, *numbers):
    return [f"{folder}/frame{number}.flo" for number in numbers]
