"""Make the sample in datasets/sample from its video: two frames, the flow between them, a clip.

    python tools/make_sample.py one-by-one-person-detection.mp4

The video and its licence are named in datasets/sample/README.md. There is no ground truth: the flow
is OpenCV's DIS at its finest, then fitted to the two frames by what this package is about, warping
frame 2 back and comparing it with frame 1.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import write_image
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from flowwarp.ops.occlusion import visible_by_range
from flowwarp.ops.warping import warp

FIRST_OF_CLIP, FIRST, CLIP_LENGTH = 1176, 1187, 16
LEFT, SIZE = 77, (240, 384)  # what is cut off; then (height, width)
STEPS, RATE, SMOOTHNESS = 400, 0.03, 0.06


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--output", type=Path, default=Path("datasets/sample"))
    arguments = parser.parse_args()

    frames = read_clip(arguments.video)
    image1, image2 = frames[FIRST - FIRST_OF_CLIP][None], frames[FIRST - FIRST_OF_CLIP + 1][None]
    backward = fit(image2, image1, dis(image2, image1))
    visible = visible_by_range(backward)
    flow = fit(image1, image2, dis(image1, image2), visible)
    for name, field in (("no flow", torch.zeros_like(flow)), ("flow", flow)):
        error = (warp(image2, field) - image1).abs() * 255
        visible_error = (error * visible).sum() / visible.sum() / 3
        print(f"{name}: mean error {error.mean():.2f}, where visible {visible_error:.2f} (of 255)")

    write_image(arguments.output / "frame1.png", image1[0])
    write_image(arguments.output / "frame2.png", image2[0])
    write_flow(arguments.output / "flow.flo", flow[0])
    write_video(arguments.output / "clip.mp4", frames, 10)


def read_clip(video: Path) -> Tensor:
    """Return the frames of the clip, (T, 3, H, W) in [0, 1], cut and made small."""
    chosen = itertools.islice(read_video(video), FIRST_OF_CLIP, FIRST_OF_CLIP + CLIP_LENGTH)
    small = [
        cv2.resize(
            frame.permute(1, 2, 0).numpy()[:, LEFT:], SIZE[::-1], interpolation=cv2.INTER_AREA
        )
        for frame in chosen
    ]
    # As the PNGs will hold them.
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).mul(255).round().div(255)


def dis(image1: Tensor, image2: Tensor) -> Tensor:
    """Estimate flow by OpenCV's DIS (Kroeger et al., ECCV 2016) at full resolution."""
    gray = [
        cv2.cvtColor((image[0].permute(1, 2, 0) * 255).byte().numpy(), cv2.COLOR_RGB2GRAY)
        for image in (image1, image2)
    ]
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    estimator.setFinestScale(0)
    estimator.setPatchStride(2)
    estimator.setGradientDescentIterations(50)
    estimator.setVariationalRefinementIterations(20)
    flow = estimator.calc(gray[0], gray[1], None)  # type: ignore[call-overload]
    return torch.from_numpy(flow).permute(2, 0, 1)[None]


def fit(image1: Tensor, image2: Tensor, flow: Tensor, visible: Tensor | None = None) -> Tensor:
    """Improve a flow by gradient descent on colours, their differences, and smoothness.

    Smoothness counts less across edges of frame 1, so that motion may change there; where frame 1
    is hidden in frame 2, it alone decides.
    """
    flow = flow.clone().requires_grad_()
    mask = torch.ones_like(image1[:, :1]) if visible is None else visible.float()
    target = features(image1)
    source = features(image2)
    weights = [torch.exp(-30 * step.abs().mean(1, keepdim=True)) for step in differences(image1)]
    optimizer = torch.optim.Adam([flow], RATE)
    for _ in range(STEPS):
        match = charbonnier(warp(source, flow) - target).mean(1, keepdim=True) * mask
        uneven = [
            (charbonnier(step) * weight).mean()
            for step, weight in zip(differences(flow), weights, strict=True)
        ]
        loss = match.mean() + SMOOTHNESS * torch.stack(uneven).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return flow.detach()


def features(image: Tensor) -> Tensor:
    """Return colours and their differences, which do not change with the light."""
    right, down = differences(image)
    pad = torch.nn.functional.pad
    return torch.cat([image, pad(right, (0, 1, 0, 0)), pad(down, (0, 0, 0, 1))], 1)


def differences(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return each pixel's difference to its right and to its lower neighbour."""
    return tensor[..., :, 1:] - tensor[..., :, :-1], tensor[..., 1:, :] - tensor[..., :-1, :]


def charbonnier(difference: Tensor) -> Tensor:
    """Return a smooth absolute value."""
    return torch.sqrt(difference**2 + 1e-4)


if __name__ == "__main__":
    main()
