"""Measure `steady`: flicker of six kinds put on clips whose original is known, and taken out.

Usage: python tools/bench/steadying.py [CLIP...] [--photos FOLDER] [--frames 16] [--threads 2]
    [--kinds tone noise ...] [--write]

Each clip is read at most 640 px wide. --photos makes one more clip of photos that move in layers,
with flow and visibility known exactly; the flow of real clips is estimated on the originals, by
quality balanced. Each frame is then processed alone:

    tone    gamma, contrast and the gain of each channel drawn for each frame
    colour  a smooth field of colour drawn for each frame, as a network that colours pictures leaves
    noise   Gaussian noise of standard deviation 10 of 255
    jpeg    JPEG of quality 12 to 25
    style   OpenCV's stylization with another tolerance for each frame
    mask    grey plus noise, blurred, against a threshold drawn for each frame

Methods: the processed clip as it is; libavfilter's deflicker; the median and the mean of five
frames in place; steady with the processed clip alone, with the original as guide, and with a grey
guide. Figures: warping error (RMS difference, in 1/255, of each frame to the one before along the
true flow, over what both show), that of the original beside it; PSNR to the original, processed
without flicker; fine_ratio, the amplitude of its high frequencies over that of the original; CPU
seconds a frame, flow included. The last line is JSON; --write writes docs/figures/steadying.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import _figures
import _measure
import av
import av.filter
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.data.resizing import shrink
from flowwarp.data.synthesis import load_photos
from flowwarp.io.video_reader import read_video
from flowwarp.metrics.temporal import fine_ratio, warping_error
from flowwarp.metrics.video import psnr
from flowwarp.ops.fields import coordinate_grid
from flowwarp.ops.filters import gaussian_blur
from flowwarp.ops.occlusion import visible_by_consistency
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow.estimate import estimate_both, load_flownet
from flowwarp.pipelines.flow.steady import steady

MEASURES = (
    "warping: RMS difference, in 1/255, of each frame to the one before, warped along the true "
    "flow; floor: that of the original. psnr: to the original, in dB. fine: amplitude of high "
    "frequencies over that of the original. seconds: of CPU a frame, flow included."
)
WIDEST = 640  # px
WINDOW = 5  # frames of the median and the mean


@dataclass(frozen=True)
class Clip:
    """A clip with its motion.

    Attributes:
        name: of the file.
        frames: (T, 3, H, W) in [0, 1].
        flow_21: (T - 1, 2, H, W), from each frame but the first to the one before.
        visible: (T - 1, 1, H, W) bool.
    """

    name: str
    frames: Tensor
    flow_21: Tensor
    visible: Tensor


# ------------------------------------------------------------------ clips


def read_clip(path: str, count: int) -> Clip:
    frames = torch.stack([shrink(f, WIDEST) for f in islice(read_video(path), count)])
    net = load_flownet()
    flows = [estimate_both(net, before[None], after[None]) for before, after in pairwise(frames)]
    visible = [visible_by_consistency(back, forth) for forth, back in flows]
    return Clip(Path(path).name, frames, torch.cat([back for _, back in flows]), torch.cat(visible))


def make_clip(folder: str, count: int, size: tuple[int, int] = (288, 512)) -> Clip:
    """Film three photos as layers, each under an affine motion of its own; flow is exact."""
    photos = load_photos(folder)
    random = np.random.default_rng(1)
    frames, flows, visible = [], [], []
    chosen = [photos[k].float() / 255 for k in random.permutation(len(photos))[:3]]
    layers = [_Layer(photo, random, size, front=k > 0) for k, photo in enumerate(chosen)]
    grid = coordinate_grid(*size)
    before: Tensor | None = None
    for t in range(count):
        frame, owner = torch.zeros(1, 3, *size), torch.zeros(1, 1, *size)
        back = torch.zeros(1, 2, *size)
        for k, layer in enumerate(layers):
            colours, inside = layer.draw(t, grid)
            frame, owner = torch.where(inside, colours, frame), torch.where(inside, k, owner)
            back = torch.where(inside, layer.move(grid, t, t - 1) - grid, back)
        frames.append(frame)
        if before is not None:
            seen, within = warp(before, back, mode="nearest", mask=True)
            flows.append(back)
            visible.append((seen == owner) & within)
        before = owner
    return Clip("photos in layers", *(torch.cat(parts) for parts in (frames, flows, visible)))


class _Layer:
    """A photo that pans, turns and zooms in time; in front, a blob cut from it."""

    def __init__(
        self, photo: Tensor, random: np.random.Generator, size: tuple[int, int], *, front: bool
    ) -> None:
        self.photo, self.front = photo[None], front
        self.middle = torch.tensor([size[1] - 1, size[0] - 1]) / 2
        self.turn, self.zoom = random.normal(0, 0.004), random.normal(0, 0.004)
        self.speed = torch.tensor(random.normal(0, 2.0, 2), dtype=torch.float32)
        self.start = torch.tensor(random.uniform(-0.5, 0.5, 2), dtype=torch.float32) * self.middle
        self.radius = random.uniform(0.2, 0.3) * size[0] if front else math.inf

    def matrix(self, t: float) -> Tensor:
        turn, zoom = self.turn * t, math.exp(self.zoom * t)
        return zoom * torch.tensor(
            [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
        )

    def to_photo(self, points: Tensor, t: float) -> Tensor:
        """Map points (1, 2, H, W) of frame t to offsets from the photo's middle."""
        shift = self.middle + self.speed * t + (self.start if self.front else 0)
        return torch.einsum("ij,bjhw->bihw", self.matrix(t), points - shift.view(1, 2, 1, 1))

    def move(self, points: Tensor, t: float, then: float) -> Tensor:
        """Return where points of frame t are in another frame."""
        shift = self.middle + self.speed * then + (self.start if self.front else 0)
        offset = self.to_photo(points, t)
        back = torch.linalg.inv(self.matrix(then))
        return torch.einsum("ij,bjhw->bihw", back, offset) + shift.view(1, 2, 1, 1)

    def draw(self, t: float, grid: Tensor) -> tuple[Tensor, Tensor]:
        offset = self.to_photo(grid, t)
        height, width = self.photo.shape[-2:]
        centre = torch.tensor([width - 1, height - 1]).view(1, 2, 1, 1) / 2
        inside = offset.norm(dim=1, keepdim=True) < self.radius
        return _read(self.photo, offset + centre), inside


def _read(photo: Tensor, points: Tensor) -> Tensor:
    """Read a photo at points (1, 2, H, W), bicubically; beyond its border it is reflected."""
    height, width = photo.shape[-2:]
    rows, columns = points.shape[-2:]
    canvas = F.pad(photo, (0, max(0, columns - width), 0, max(0, rows - height)), mode="replicate")
    place = points - coordinate_grid(*points.shape[-2:])
    full = F.pad(place, (0, canvas.shape[3] - columns, 0, canvas.shape[2] - rows))
    return warp(canvas, full, mode="bicubic", padding="reflection")[..., :rows, :columns].clamp(
        0, 1
    )


# ------------------------------------------------------------------ processing


def process(kind: str, frames: Tensor, flicker: bool) -> Tensor:
    """Process each frame alone, with flicker or without: (T, 3, H, W) in steps of 1/255."""
    random = np.random.default_rng(0)
    make = {
        "tone": _tone,
        "colour": _colour,
        "noise": _noise,
        "jpeg": _jpeg,
        "style": _style,
        "mask": _mask,
    }[kind]
    made = torch.cat([make(frame[None], random, flicker) for frame in frames])
    return (made.clamp(0, 1) * 255).round() / 255


def _tone(frame: Tensor, random: np.random.Generator, flicker: bool) -> Tensor:
    if not flicker:
        return frame
    gamma, contrast = np.exp(random.normal(0, (0.15, 0.1))).tolist()
    gains = torch.tensor(np.exp(random.normal(0, 0.06, 3)), dtype=torch.float32).view(1, 3, 1, 1)
    made: Tensor = ((frame**gamma - 0.5) * contrast + 0.5) * gains
    return made


def _colour(frame: Tensor, random: np.random.Generator, flicker: bool) -> Tensor:
    field = torch.tensor(random.normal(0, 0.08, (1, 3, 3, 5)), dtype=torch.float32)
    field = F.interpolate(field, frame.shape[-2:], mode="bicubic", align_corners=True)
    return frame + field if flicker else frame


def _noise(frame: Tensor, random: np.random.Generator, flicker: bool) -> Tensor:
    noise = torch.tensor(random.normal(0, 10 / 255, frame.shape), dtype=torch.float32)
    return frame + noise if flicker else frame


def _jpeg(frame: Tensor, random: np.random.Generator, flicker: bool) -> Tensor:
    quality = int(random.integers(12, 26))
    if not flicker:
        return frame
    _, data = cv2.imencode(".jpg", _pixels(frame), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _tensor(cv2.imdecode(data, cv2.IMREAD_COLOR))


def _style(frame: Tensor, random: np.random.Generator, flicker: bool) -> Tensor:
    tolerance = random.uniform(0.3, 0.6)
    tolerance = tolerance if flicker else 0.45
    return _tensor(cv2.stylization(_pixels(frame), sigma_s=40, sigma_r=tolerance))


def _mask(frame: Tensor, random: np.random.Generator, flicker: bool) -> Tensor:
    grey = gaussian_blur(frame.mean(1, keepdim=True), 2)
    noise = torch.tensor(random.normal(0, 0.2, grey.shape), dtype=torch.float32)
    shift = random.normal(0, 0.02)
    changed = grey + gaussian_blur(noise, 2) + shift if flicker else grey
    return (changed > 0.45).float().expand(1, 3, *grey.shape[2:])


def _pixels(frame: Tensor) -> Any:
    rgb = (frame[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(rgb[..., ::-1])


def _tensor(bgr: Any) -> Tensor:
    return torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


# ------------------------------------------------------------------ methods

Method = Callable[[Tensor, Tensor], Tensor]  # processed and original frames to steady ones


def deflicker(processed: Tensor, original: Tensor) -> Tensor:
    """Run libavfilter's deflicker, on luma; chroma is kept at full resolution."""
    count, _, height, width = processed.shape
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1, 25)
    )
    chain = [
        source,
        graph.add("format", "yuv444p"),
        graph.add("deflicker", "size=5:mode=am"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    for one, next_one in pairwise(chain):
        one.link_to(next_one)
    graph.configure()
    results: list[Tensor] = []
    for k, frame in enumerate([*processed, None]):
        if frame is not None:
            rows = np.ascontiguousarray((frame * 255).round().byte().permute(1, 2, 0).numpy())
            picture = av.VideoFrame.from_ndarray(rows, "rgb24")
            picture.pts, picture.time_base = k, Fraction(1, 25)
            graph.push(picture)
        else:
            graph.push(None)
        results += _pull(graph)
    if len(results) != count:
        raise RuntimeError(f"deflicker returned {len(results)} of {count} frames")
    return torch.stack(results)


def _pull(graph: Any) -> Iterator[Tensor]:
    while True:
        try:
            rows = graph.pull().to_ndarray()
        except (av.BlockingIOError, av.EOFError):
            return
        yield torch.from_numpy(rows).permute(2, 0, 1).float() / 255


def in_place(reduce: Callable[[Tensor], Tensor]) -> Method:
    def run(processed: Tensor, original: Tensor) -> Tensor:
        side = WINDOW // 2
        index = torch.arange(len(processed))
        around = [processed[(index + k).clamp(0, len(index) - 1)] for k in range(-side, side + 1)]
        return reduce(torch.stack(around))

    return run


def alone(processed: Tensor, original: Tensor) -> Tensor:
    return torch.stack(list(steady(processed)))


def guided(processed: Tensor, original: Tensor) -> Tensor:
    return torch.stack(list(steady(processed, original)))


def grey_guided(processed: Tensor, original: Tensor) -> Tensor:
    return torch.stack(list(steady(processed, original.mean(1, keepdim=True))))


METHODS: dict[str, Method] = {
    "input": lambda processed, original: processed,
    "deflicker": deflicker,
    "median": in_place(lambda frames: frames.median(0).values),
    "mean": in_place(lambda frames: frames.mean(0)),
    "steady": alone,
    "guide": guided,
    "grey guide": grey_guided,
}
KINDS = ("tone", "colour", "noise", "jpeg", "style", "mask")


# ------------------------------------------------------------------ measures


def measure(clip: Clip, kind: str, methods: Sequence[str]) -> list[dict[str, Any]]:
    truth, processed = (process(kind, clip.frames, flicker) for flicker in (False, True))
    rows = []
    floor = _warping(truth, clip)
    for name in methods:
        start = time.process_time()
        result = METHODS[name](processed, clip.frames)
        seconds = (time.process_time() - start) / len(processed)
        result = (result.clamp(0, 1) * 255).round() / 255
        rows.append(
            {
                "clip": clip.name,
                "kind": kind,
                "method": name,
                "warping": _warping(result, clip),
                "floor": floor,
                "psnr": float(psnr(result[None], truth[None])),
                "fine": float(fine_ratio(result[None], truth[None])),
                "seconds": seconds,
            }
        )
    return rows


def _warping(frames: Tensor, clip: Clip) -> float:
    return 255 * float(warping_error(frames[None], clip.flow_21[None], clip.visible[None]))


def show(rows: Sequence[dict[str, Any]]) -> None:
    base = next(row for row in rows if row["method"] == "input")
    for row in rows:
        less = 100 * (1 - row["warping"] / base["warping"])
        print(
            f"{row['clip'][:18]:18} {row['kind']:7} {row['method']:10} {row['warping']:7.2f} "
            f"({row['floor']:5.2f}) {less:6.1f} %  {row['psnr']:6.2f} dB {row['fine']:6.3f} "
            f"{row['seconds']:6.2f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*")
    parser.add_argument("--photos", metavar="FOLDER")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    environment = _measure.describe_machine() | {"opencv": cv2.__version__}
    print("  ".join(f"{key}={value}" for key, value in environment.items()))
    clips = [make_clip(options.photos, options.frames)] if options.photos else []
    clips += [read_clip(path, options.frames) for path in options.clips]
    rows: list[dict[str, Any]] = []
    for clip in clips:
        for kind in options.kinds:
            rows += measure(clip, kind, options.methods)
            show(rows[-len(options.methods) :])
    if options.write:
        words = _figures.options(options, {"clips": "CLIP...", "photos": "--photos FOLDER"})
        command = _figures.command("steadying", words)
        _figures.write_run("steadying", command, environment, rows, MEASURES)
    print(json.dumps({"environment": environment, "rows": rows}))


if __name__ == "__main__":
    main()
