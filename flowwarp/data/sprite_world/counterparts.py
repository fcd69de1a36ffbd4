"""Clips of the sprites' world beside what they would be if their actor wore something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flowwarp.data.sprite_world.cast import exchange
from flowwarp.data.sprite_world.labels import NONE, label_clip
from flowwarp.data.sprite_world.layers import Layers
from flowwarp.data.sprite_world.world import set_up
from flowwarp.data.stage import STAGE, draw

_OTHER = 0.75  # of the clips have an actor who wears something else
# How often each part is other, where something is: what is small, and hidden by other things, most.
_SHARES = {"legs": 0.65, "weapon": 0.5, "torso": 0.3, "hair": 0.15}
_TRIES = 2**40  # between the clips of a series that are tried in turn


@dataclass(frozen=True)
class Counterparts:
    """A clip of one actor, and the same clip in other clothes.

    Args:
        video: (T, 3, S, S) uint8.
        other: likewise, with the same scene, ground, camera and movements.
        actor: (T, 1, S, S) bool, where the actor is seen in one of the two.
        labels: of ``video``, see :func:`flowwarp.data.sprite_world.labels.label_clip`.
        exchanged: the attributes by which the two may differ.
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
    """Make a clip of one actor, and one that differs from it in something that captions tell.

    In a quarter of them nothing differs. Arguments and errors are those of
    :func:`flowwarp.data.sprite_world.world.compose_clip`; the same arguments give the same.
    """
    while True:
        about: tuple[Any, ...] = size, frames, photos, held_out
        setting = set_up(layers, seed, index, *about)
        if len(setting.actors) == 1:
            break
        index += _TRIES
    labels = label_clip(setting.attributes)
    (actor,), random = setting.actors, setting.random
    parts = [part for part, share in _SHARES.items() if random.random() < share]
    parts = [part for part in parts if _is_told(part, labels)] if random.random() < _OTHER else []
    canvas, camera = setting.canvas, setting.scene.camera
    takes = [
        draw(canvas, camera, [setting.figure(0, worn)], size)
        for worn in (actor.worn, exchange(layers, actor, parts, random) if parts else actor.worn)
    ]
    (video, own), (other, others) = takes
    seen = (own[:, :1] > 0) | (others[:, :1] > 0)
    exchanged = frozenset(key for part in parts for key in labels if key.startswith(part))
    return Counterparts(video, other, seen, labels, exchanged)


def _is_told(part: str, labels: dict[str, str]) -> bool:
    """Return whether a caption can say of a part what it is."""
    return any(value != NONE for key, value in labels.items() if key.startswith(part))
