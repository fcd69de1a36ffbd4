"""Layers of the Liberated Pixel Cup's character sheets: reads them, and paints an outfit.

A folder holds ``layers/*.png``, all with the same grid of cells (a row for each animation and
direction), and ``attributes.json`` with the category, order of painting and caption words of each
layer. Layers of the same gender fit over each other cell by cell.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowwarp.bundled import bundled
from flowwarp.errors import InputError
from flowwarp.io.files import open_input
from flowwarp.io.images import read_sheet

CELL = 64  # px
COLUMNS, ROWS = 13, 21
DIRECTIONS = ("up", "left", "down", "right")
# First row and number of cells. "hurt" has a single row, all others one for each direction.
ANIMATIONS = {
    "spellcast": (0, 7),
    "thrust": (4, 8),
    "walk": (8, 9),
    "slash": (12, 6),
    "shoot": (16, 13),
    "hurt": (20, 6),
}
_GENDERS = ("male", "female", "either")
_SUIT = {("over", "plate armor"), ("shoulders", "plate arms"), ("legs", "metal pants")}
# Plate armor is dyed in these colours, as the sheets show bare metal only: RGB in [0, 1].
DYES = {
    "black": (0.16, 0.16, 0.2),
    "blue": (0.18, 0.3, 0.85),
    "green": (0.15, 0.6, 0.2),
    "purple": (0.55, 0.2, 0.72),
    "red": (0.85, 0.13, 0.12),
}
_METAL = 0.7  # lightness of undyed metal that takes exactly the colour of the dye
_LARGEST_JSON = 2**24  # bytes; the full set's is 0.4 MB
_MOST_LAYERS = 5000
_LONGEST_WORD = 80


@dataclass(frozen=True)
class Layer:
    """One layer of a character sheet.

    Args:
        id: unique among all layers.
        category: body, eyes, hair, torso, legs, feet, weapon, ...
        name: of the item, without its colour.
        color: in words.
        gender: of the bodies it fits: male, female or either.
        z: order of painting; higher is in front.
        words: caption phrases by the word that precedes them: noun, adjective, with, in.
        rows: for each row of the sheet that is not empty, (n,) uint16 positions of the opaque
            pixels in the row, and (n, 4) uint8 their RGBA.
        dyed: True for a dyed copy of a metal layer, which belongs to a suit of one colour.
    """

    id: str
    category: str
    name: str
    color: str
    gender: str
    z: int
    words: Mapping[str, str]
    rows: Mapping[int, tuple[NDArray[np.uint16], NDArray[np.uint8]]]
    dyed: bool = False

    @property
    def phrase(self) -> str:
        """The phrase for it in captions; empty if captions do not mention it."""
        return " and ".join(text for link, text in self.words.items() if link in ("with", "in"))

    def shows(self, animation: str, direction: str) -> bool:
        """Return whether the layer has any pixel in an animation and direction."""
        return row_of(animation, direction) in self.rows


@dataclass(frozen=True)
class Layers:
    """All layers of a folder."""

    layers: tuple[Layer, ...]

    def of(self, category: str, gender: str) -> Sequence[Layer]:
        """Return the layers of a category that fit a gender."""
        return self._table.get((category, gender), ())

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the content of all layers, independent of the folder's name."""
        digest = hashlib.blake2b(digest_size=10)
        for layer in self.layers:
            digest.update(repr(replace(layer, rows={})).encode())
            for row, (positions, colors) in sorted(layer.rows.items()):
                digest.update(repr((row, len(positions))).encode())
                digest.update(np.ascontiguousarray(positions).data)
                digest.update(np.ascontiguousarray(colors).data)
        return digest.hexdigest()

    @functools.cached_property
    def _table(self) -> dict[tuple[str, str], list[Layer]]:
        table: dict[tuple[str, str], list[Layer]] = {}
        for layer in self.layers:
            fits = ("male", "female") if layer.gender == "either" else (layer.gender,)
            for gender in fits:
                table.setdefault((layer.category, gender), []).append(layer)
        return table


def row_of(animation: str, direction: str) -> int:
    """Return the row of the sheet that shows an animation in a direction."""
    first = ANIMATIONS[animation][0]
    return first if animation == "hurt" else first + DIRECTIONS.index(direction)


@functools.cache
def bundled_layers() -> Layers:
    """Return the small set of layers that ships with the package."""
    return load_layers(bundled("datasets") / "sprites")


def load_layers(folder: str | Path | None = None) -> Layers:
    """Read a folder of layers, and add dyed copies of plate armor.

    The full set (about 560 layers and 30 dyed ones) takes 5 s and 200 MB of memory.

    Args:
        folder: holds ``layers/`` and ``attributes.json``; by default the set in the package.

    Raises:
        InputError: a file is missing, broken, of the wrong size, or outside of the folder; or no
            layer is a body.
    """
    if folder is None:
        return bundled_layers()
    path = Path(folder) / "attributes.json"
    with open_input(path) as (file, size):
        if size > _LARGEST_JSON:
            raise InputError(path, f"has {size} bytes", "it should have less than a megabyte")
        text = file.read()
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise InputError(path, f"is not valid JSON ({fault})") from fault
    entries = table.get("layers") if isinstance(table, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(path, "holds no list called layers")
    if len(entries) > _MOST_LAYERS:
        raise InputError(path, f"names {len(entries)} layers", f"at most {_MOST_LAYERS} are read")
    layers = tuple(_read_layer(path, entry) for entry in entries)
    twice = [name for name, count in Counter(layer.id for layer in layers).items() if count > 1]
    if twice:
        raise InputError(path, f"has two layers called {twice[0]!r}")
    if not any(layer.category == "body" for layer in layers):
        raise InputError(path, "has no layer of the category body")
    suit = [layer for layer in layers if (layer.category, layer.name) in _SUIT]
    return Layers((*layers, *(_dye(layer, color) for layer in suit for color in DYES)))


def _dye(layer: Layer, color: str) -> Layer:
    """Return a layer of bare metal dyed: shadows darken the colour, highlights stay white."""
    dye = np.array(DYES[color], np.float32)

    def paint(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        light = pixels[:, :3].mean(1, dtype=np.float32)[:, None] / (255 * _METAL)
        dyed = dye * light.clip(max=1)
        gloss = (light - 1).clip(min=0) * _METAL / (1 - _METAL)
        shown = 255 * (dyed + (1 - dyed) * 0.6 * gloss)
        return np.concatenate([shown.round().astype(np.uint8), pixels[:, 3:]], 1)

    words = {link: f"{color} {thing}" for link, thing in layer.words.items()}
    rows = {number: (where, paint(pixels)) for number, (where, pixels) in layer.rows.items()}
    return replace(
        layer, id=f"{layer.id}_dyed_{color}", color=color, words=words, rows=rows, dyed=True
    )


def _read_layer(path: Path, entry: Any) -> Layer:
    def get(key: str) -> str:
        value = entry.get(key) if isinstance(entry, dict) else None
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_WORD:
            raise InputError(path, f"layer {_called(entry)}: {key} must be a short text")
        return value

    name, file = get("id"), get("file")
    z, words, gender = entry.get("z"), entry.get("caption", {}), get("gender")
    if not isinstance(z, int):
        raise InputError(path, f"layer {name!r}: z must be a whole number, got {z!r}")
    if gender not in _GENDERS:
        raise InputError(path, f"layer {name!r}: gender must be one of {', '.join(_GENDERS)}")
    if not isinstance(words, dict) or not all(
        isinstance(part, str) and len(part) <= _LONGEST_WORD and part.isprintable()
        for item in words.items()
        for part in item
    ):
        raise InputError(path, f"layer {name!r}: caption must be a table of short texts")
    parts = file.split("/")
    # Exactly layers/NAME.png: nothing that leads out of the folder, on any system.
    if len(parts) != 2 or parts[0] != "layers" or "\\" in file or not file.endswith(".png"):
        raise InputError(path, f"layer {name!r}: {file!r} is not a file layers/NAME.png")
    sheet = read_sheet(path.parent / file, (ROWS * CELL, COLUMNS * CELL))
    return Layer(name, get("category"), get("name"), get("color"), gender, z, words, _rows(sheet))


def _called(entry: Any) -> str:
    return repr(entry.get("id")) if isinstance(entry, dict) else repr(entry)[:40]


def _rows(sheet: NDArray[np.uint8]) -> dict[int, tuple[NDArray[np.uint16], NDArray[np.uint8]]]:
    """Return the opaque pixels of each row of a sheet (H, W, 4); about 5 % of all."""
    rows = {}
    for number, row in enumerate(sheet.reshape(ROWS, -1, 4)):
        painted = np.flatnonzero(row[:, 3])
        if len(painted):
            rows[number] = (painted.astype(np.uint16), row[painted])
    return rows


def visible_areas(outfit: Sequence[Layer], animation: str, direction: str) -> dict[str, float]:
    """Return by id the visible area of each layer: pixels in a cell, averaged over the cells.

    Args:
        outfit: the layers of one character, in any order.
        animation: a key of ``ANIMATIONS``.
        direction: where the character faces; ignored for "hurt".
    """
    row, cells = row_of(animation, direction), ANIMATIONS[animation][1]
    uppermost = np.full(CELL * COLUMNS * CELL, -1)  # number of the front layer at each pixel
    for number in sorted(range(len(outfit)), key=lambda number: outfit[number].z):
        if row in outfit[number].rows:
            where, pixels = outfit[number].rows[row]
            uppermost[where[pixels[:, 3] > 127]] = number
    return {
        layer.id: np.count_nonzero(uppermost == number) / cells
        for number, layer in enumerate(outfit)
    }


def paint_outfit(outfit: Sequence[Layer], animation: str, direction: str) -> NDArray[np.float32]:
    """Paint the layers of an outfit over each other.

    Args:
        outfit: the layers of one character, in any order.
        animation: a key of ``ANIMATIONS``.
        direction: where the character faces; ignored for "hurt".

    Returns:
        (N, 64, 64, 4) float32 in [0, 1], a cell for each frame of the animation; RGB is
        premultiplied by alpha.
    """
    row, cells = row_of(animation, direction), ANIMATIONS[animation][1]
    canvas = np.zeros((CELL * COLUMNS * CELL, 4), np.uint8)
    for layer in sorted(outfit, key=lambda layer: layer.z):
        if row not in layer.rows:
            continue
        where, pixels = layer.rows[row]
        alpha = pixels[:, 3:]
        if alpha.min() < 255:
            # The "over" operator of Porter and Duff on colours with straight alpha.
            below = canvas[where].astype(np.float32)
            share, under = alpha / np.float32(255), below[:, 3:] / np.float32(255)
            opaque = share + under * (1 - share)
            color = (pixels[:, :3] * share + below[:, :3] * under * (1 - share)) / opaque
            pixels = np.concatenate([color, 255 * opaque], 1).round().astype(np.uint8)
        canvas[where] = pixels
    sheet = canvas.reshape(CELL, COLUMNS, CELL, 4)[:, :cells].transpose(1, 0, 2, 3)
    painted = sheet * np.float32(1 / 255)
    painted[..., :3] *= painted[..., 3:]
    return painted
