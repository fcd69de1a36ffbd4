"""The world of sprites as a source of clips: its interface to the rest of ``data``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from flowwarp.data.clip import Source, WorldFiles
from flowwarp.data.sprite_world.layers import load_layers
from flowwarp.data.sprite_world.world import check_held_out, compose_clip
from flowwarp.data.synthesis import find_photos, load_photos
from flowwarp.errors import InputError


def open_sprites(
    size: int, frames: int, *, world_files: WorldFiles, held_out: bool | None, rewordings: int
) -> Source:
    """Open the world of sprites; arguments as in :func:`flowwarp.data.sources.open_source`.

    Raises:
        InputError: a folder is missing or broken, or ``held_out`` is True and the layers have no
            combination that is held out.
    """
    layers = load_layers(world_files.layers)
    photos = [] if world_files.photos is None else load_photos(world_files.photos)
    if held_out:
        check_held_out(layers, world_files.layers, photos=bool(photos))
    draw = partial(compose_clip, layers, size=size, frames=frames, photos=photos)
    draw = partial(draw, held_out=held_out, rewordings=rewordings)
    return Source(draw, fingerprint=(layers.digest, digest_photos(photos)))


def check_sprites(world_files: WorldFiles) -> None:
    """Check the files that :func:`open_sprites` would read; no photo is decoded.

    Raises:
        InputError: a folder is missing, broken or empty.
    """
    if world_files.layers is not None:
        load_layers(world_files.layers)
    if world_files.photos is not None and not any(find_photos(Path(world_files.photos))):
        raise InputError(world_files.photos, "holds no picture")


def digest_photos(photos: Sequence[Tensor]) -> str:
    """Return a hash of photos (3, H, W) uint8 and their order."""
    digest = hashlib.blake2b(digest_size=10)
    for photo in photos:
        digest.update(repr(photo.shape).encode())
        digest.update(photo.contiguous().numpy().data)
    return digest.hexdigest()
