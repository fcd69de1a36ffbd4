"""A clip with its caption and flow, and sources of clips: the types that all of ``data`` shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Clip:
    """A captioned video with the flow between its frames.

    Args:
        video: (T, 3, H, W) uint8 RGB.
        flow_12: (T-1, 2, H, W) float32 in pixels; ``flow_12[t]`` goes from frame t to t + 1:
            ``warp(frame[t+1], flow_12[t])`` looks like ``frame[t]``.
        flow_21: (T-1, 2, H, W) float32 in pixels; ``flow_21[t]`` goes from frame t + 1 to t.
        valid_12: (T-1, 1, H, W) bool, True where ``flow_12`` is exact. In synthetic clips it is
            False on rims, where two things share a pixel, under a moving shadow, and where an actor
            changes its pose: there ``flow_12`` is the motion of the actor as a whole.
        valid_21: (T-1, 1, H, W) bool, True where ``flow_21`` is exact.
        visible_12: (T-1, 1, H, W) bool, True where the next frame shows the same point: it is
            neither occluded nor out of the frame.
        visible_21: (T-1, 1, H, W) bool, likewise in the frame before.
        caption: what the clip shows, in English.
        attributes: what it shows, as JSON-like data of the source's own; empty where unknown.
        rewordings: further captions of the same clip.
        labels: one word for each attribute of a clip with a single actor, such as "none" for the
            weapon of an unarmed one; empty otherwise.
        media: further tensors by name, such as audio, where a source has any.
    """

    video: Tensor
    flow_12: Tensor
    flow_21: Tensor
    valid_12: Tensor
    valid_21: Tensor
    visible_12: Tensor
    visible_21: Tensor
    caption: str
    attributes: Attributes
    rewordings: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    media: Mapping[str, Tensor] = field(default_factory=dict)


def clip_without_flow(video: Tensor, caption: str) -> Clip:
    """Return a clip without known flow: flow is 0; valid and visible are False everywhere.

    Args:
        video: (T, 3, H, W) uint8.
        caption: what the clip shows.
    """
    pairs, size = len(video) - 1, video.shape[-2:]
    flow = torch.zeros(pairs, 2, *size)
    nowhere = torch.zeros(pairs, 1, *size, dtype=torch.bool)
    return Clip(video, flow, flow, nowhere, nowhere, nowhere, nowhere, caption, {})


Draw = Callable[[int, int], Clip]  # (seed, index): the same numbers give the same clip


@final
@dataclass(frozen=True)
class Source:
    """Clips by seed and index: the same numbers give the same clip. Thread-safe.

    It can be pickled for the workers of a DataLoader if ``draw`` can.

    Args:
        draw: makes a clip.
        count: number of clips in a series before they repeat; None if the series is endless.
        fingerprint: hashes of the files that clips are read or made from, captions included; empty
            if there are none.
        captions: of all clips, each once; empty if the series is endless.
    """

    draw: Draw
    count: int | None = None
    fingerprint: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()

    def __call__(self, seed: int, index: int) -> Clip:
        """Return a clip of a series."""
        return self.draw(seed, index)


def fingerprint_of(draw: Draw) -> str:
    """Return the fingerprint of a source in one line; empty for any other function."""
    return " ".join(draw.fingerprint) if isinstance(draw, Source) else ""


@dataclass(frozen=True)
class WorldFiles:
    """Files that the clips of a synthetic world are made of.

    Args:
        layers: a folder of sprite layers; None for the small set in the package.
        photos: a folder of pictures that serve as backgrounds; None for painted ones alone.
    """

    layers: str | Path | None = None
    photos: str | Path | None = None
