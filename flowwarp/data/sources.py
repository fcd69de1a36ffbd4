"""Where clips come from: the two worlds that are made up, and folders of captioned videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from flowwarp.data.sprites import Layers, bundled_layers, load_layers
from flowwarp.data.synthesis import load_photos
from flowwarp.data.world import Clip, compose_clip
from flowwarp.errors import InputError

Source = Callable[[int, int], Clip]  # (seed, index): the same numbers, the same clip

SPRITES = "sprites"


def open_source(
    name: str | Path,
    size: int,
    frames: int,
    *,
    layers: str | Path | None = None,
    photos: str | Path | None = None,
    held_out: bool | None = False,
) -> Source:
    """Open a source of clips.

    Args:
        name: ``sprites``.
        size: of the frames, pixels.
        frames: of each clip.
        layers: for sprites: a folder of layers instead of the small set in the package.
        photos: for sprites: a folder of pictures to stand before.
        held_out: for sprites: False leaves out the combinations of attributes that are kept for
            tests, True gives only these, None all.

    Returns:
        A pure function of (seed, index) that returns a clip; threads may call it.

    Raises:
        InputError: a folder is missing or broken.
        ValueError: a size or length that the world does not have.
    """
    if str(name) == SPRITES:
        drawn = bundled_layers() if layers is None else load_layers(layers)
        pictures = [] if photos is None else load_photos(photos)
        return _sprites(drawn, pictures, size, frames, held_out)
    raise InputError(name, "is no source of clips", f"there is {SPRITES}")


def _sprites(
    layers: Layers, photos: Sequence[Tensor], size: int, frames: int, held_out: bool | None
) -> Source:
    def draw(seed: int, index: int) -> Clip:
        return compose_clip(layers, seed, index, size, frames, photos=photos, held_out=held_out)

    return draw
