"""Compare two ways to build a flow network: a pyramid with cost volumes, and warping alone.

Usage: python tools/bench/networks.py PAIRS --photos FOLDER [--minutes 10] [--threads 1]

The package's network against one in the spirit of WAFT (Wang and Deng, "WAFT: Warping-Alone Field
Transforms for Optical Flow", ICLR 2026): no cost volume; a recurrent update sees the features of
frame 1, those of frame 2 warped by the flow so far, and a hidden state, at one high resolution.
(WAFT's update is a vision transformer; this one is convolutions that reach as far, for a CPU.)
Both have about as many parameters, learn from the same examples by the same losses for the same
time on the same threads, taking turns, and are judged on PAIRS (see eval-flow).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import _measure
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.data.recipes import GroundTruth, load_recipe, pairs_of, read_pair
from flowwarp.data.synthesis import load_photos
from flowwarp.losses.unsupervised import flow_losses
from flowwarp.metrics.flow import epe, fl_all
from flowwarp.models.flownet import (
    SLOPE,
    FlowNet,
    FlowNetConfig,
    FlowPyramid,
    convex_upsample,
    convolution,
)
from flowwarp.ops.warping import warp
from flowwarp.train import flow

ITERATIONS = 6
SCALE = 8  # of the resolution that flow is updated at


class WarpingNet(nn.Module):
    """Recurrent updates from warped features alone; called as the package's network is."""

    def __init__(self, features: int = 96, hidden: int = 96) -> None:
        super().__init__()
        widths = (32, 64, features)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise((3, *widths)):
            layers += [convolution(inputs, outputs, size=4, stride=2), nn.LeakyReLU(SLOPE)]
            layers += [convolution(outputs, outputs), nn.LeakyReLU(SLOPE)]
        self.encoder = nn.Sequential(*layers, convolution(features, features))
        self.begin = convolution(features, hidden)
        self.join = convolution(2 * features + 2 + hidden, hidden)
        self.update = nn.ModuleList(
            convolution(hidden, hidden, dilation=d) for d in (1, 2, 4, 8, 16, 1)
        )
        self.head = convolution(hidden, 2)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
        self.upsampling = nn.Sequential(
            convolution(hidden, 64), nn.LeakyReLU(SLOPE), convolution(64, 9 * SCALE**2, size=1)
        )

    def forward(
        self, image1: Tensor, image2: Tensor, *, skip: int = 0
    ) -> tuple[FlowPyramid, FlowPyramid]:
        """Return flow both ways; ``levels`` are the iterations. ``skip`` is for pyramids."""
        batch, _, height, width = image1.shape
        images = torch.cat([image1, image2])
        images = F.pad(images, (0, -width % SCALE, 0, -height % SCALE), mode="replicate")
        own = self.encoder(2 * images - 1)
        other = own.roll(batch, 0)
        hidden = self.begin(own)
        flow = own.new_zeros(2 * batch, 2, *own.shape[-2:], dtype=torch.float32)
        levels = []
        for _ in range(ITERATIONS):
            flow = flow.detach()  # as RAFT does: an update answers for itself
            features = torch.cat([own, warp(other, flow), flow.to(own.dtype), hidden], 1)
            x = F.leaky_relu(self.join(features), SLOPE)
            for layer in self.update:
                x = x + 0.5 * F.leaky_relu(layer(x), SLOPE)
            hidden = torch.tanh(x)
            flow = flow + self.head(x).float()
            levels.append(flow)
        full = convex_upsample(flow, self.upsampling(x).float())[..., :height, :width]
        return (
            FlowPyramid(full[:batch], tuple(level[:batch] for level in levels)),
            FlowPyramid(full[batch:], tuple(level[batch:] for level in levels)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", metavar="PAIRS")
    parser.add_argument("--photos", required=True)
    parser.add_argument("--fitted", type=int, default=1000, help="pairs to fit flow to")
    parser.add_argument("--minutes", type=float, default=10, help="of training, each")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    truths = [
        (pair.group, read_pair(pair)) for pair in pairs_of(load_recipe("pairs"), arguments.pairs)
    ]
    data = flow.FlowDataConfig(fitted_pairs=arguments.fitted)
    material = flow.fit_material(flow.Material(None, load_photos(arguments.photos)), 0, data)
    print(json.dumps({"environment": _measure.describe_machine(), **vars(arguments)}))
    nets: dict[str, Callable[[], nn.Module]] = {
        "pyramid": lambda: FlowNet(FlowNetConfig()),
        "warping alone": WarpingNet,
    }
    trainings = {name: Training(make, material, data) for name, make in nets.items()}
    for minute in range(1, 1 + round(arguments.minutes)):
        for name, training in trainings.items():
            training.run(60)
            figures = training.judge(truths) if minute % 5 == 0 else {}
            count = sum(p.numel() for p in training.net.parameters())
            print(json.dumps({"net": name, "parameters": count, "minutes": minute,
                              "steps": training.step, **figures}), flush=True)  # fmt: skip


class Training:
    """A network in training; it runs for a time, then waits for the other."""

    def __init__(
        self, make: Callable[[], nn.Module], material: flow.Material, data: flow.FlowDataConfig
    ) -> None:
        torch.manual_seed(0)
        self.net, self.material, self.data = make(), material, data
        self.losses = replace(flow.presets("base")["losses"], coarse_until=0.0)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), 4e-4)
        self.step = 0

    def run(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        self.net.train()
        while time.perf_counter() < until:
            for group in self.optimizer.param_groups:
                group["lr"] = 4e-4 * min(1, (self.step + 1) / 100)
            numbers = range(4 * self.step, 4 * self.step + 4)
            batch = flow.draw_batch(self.material, 0, numbers, self.data)
            with torch.autocast("cpu", torch.bfloat16):
                terms = flow_losses(
                    self.net, batch, self.losses.weights(0.5), margin=self.data.margin,
                    occlusion=self.losses.occlusion(0.5),
                )  # fmt: skip
            self.optimizer.zero_grad()
            torch.autograd.backward(terms["loss"].float().mean())
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1

    @torch.no_grad()
    def judge(self, truths: list[tuple[str, GroundTruth]]) -> dict[str, Any]:
        self.net.eval()
        errors: dict[str, list[float]] = {}
        for group, truth in truths:
            with torch.autocast("cpu", torch.bfloat16):
                found = self.net(truth.image1, truth.image2)[0].flow.float()
            measure = fl_all if group.startswith("kitti") else epe
            error = float(measure(found, truth.flow_12, valid=truth.valid))
            errors.setdefault(group, []).append(error)
        return {group: round(statistics.mean(values), 3) for group, values in errors.items()}


if __name__ == "__main__":
    main()
