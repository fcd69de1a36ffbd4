"""Pairs of clips that differ in the outfit of the actor alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowwarp.data.sprite_world.cast import exchange_parts
from flowwarp.data.sprite_world.labels import NONE, label_clip
from flowwarp.data.sprite_world.layers import Layers
from flowwarp.data.sprite_world.world import set_up
from flowwarp.data.stage import STAGE, draw

_EXCHANGED = 0.75  # share of the pairs that may differ
# Probability of each part in those: higher for parts that are small or often hidden.
_SHARES = {"legs": 0.65, "weapon": 0.5, "torso": 0.3, "hair": 0.15}
_NEXT_TRY = 2**40  # added to the index of a clip with two actors, to try another one


@dataclass(frozen=True)
class Counterparts:
    """A clip of one actor, and the same clip with another outfit.

    Args:
        video: (T, 3, S, S) uint8.
        other: (T, 3, S, S) uint8, with the same ground, camera and motion.
        actor: (T, 1, S, S) bool, True where the actor is visible in either of the two.
        labels: of ``video``, see :func:`flowwarp.data.sprite_world.labels.label_clip`.
        exchanged: names of the attributes in which the two may differ.
    """

    video: Tensor
    other: Tensor
    actor: Tensor
    labels: dict[str, str]
    exchanged: frozenset[str]


def compose_counterparts(
    layers: Layers,
    seed: int,
    index: int,
    size: int = STAGE,
    frames: int = 16,
    *,
    photos: Sequence[Tensor] = (),
    held_out: bool | None = False,
) -> Counterparts:
    """Compose a clip of one actor, and one that differs in attributes that captions name.

    A quarter of the pairs do not differ. Arguments and errors are those of
    :func:`flowwarp.data.sprite_world.world.compose_clip`; the same arguments give the same.
    """
    while True:
        about: tuple[Any, ...] = size, frames, photos, held_out
        setting = set_up(layers, seed, index, *about)
        if len(setting.actors) == 1:
            break
        index += _NEXT_TRY
    labels = label_clip(setting.attributes)
    (actor,), random = setting.actors, setting.random
    parts = [part for part, share in _SHARES.items() if random.random() < share]
    differs = random.random() < _EXCHANGED
    parts = [part for part in parts if differs and _has_label(part, labels)]
    outfit = exchange_parts(layers, actor, parts, random) if parts else actor.outfit
    canvas, camera = setting.canvas, setting.scene.camera
    # Frames (T, 3, S, S), and (T, 2, S, S): the share of the actor in each pixel, and its shadow.
    video, shares = draw(canvas, camera, [setting.figure(0, actor.outfit)], size)
    other, other_shares = draw(canvas, camera, [setting.figure(0, outfit)], size)
    visible = (shares[:, :1] > 0) | (other_shares[:, :1] > 0)
    exchanged = frozenset(key for part in parts for key in labels if key.startswith(part))
    return Counterparts(video, other, visible, labels, exchanged)


def _has_label(part: str, labels: dict[str, str]) -> bool:
    """Return whether a part of the outfit has a label other than "none"."""
    return any(value != NONE for key, value in labels.items() if key.startswith(part))
