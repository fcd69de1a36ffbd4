"""Make the full set of sprite layers (`LPC` in the documentation) from where they come from.

    git clone https://github.com/jrconway3/Universal-LPC-spritesheet
    python tools/sprite_layers.py Universal-LPC-spritesheet -o LPC

sprite_layers.json lists the layers: which sheet each is, what captions call it, who drew it, and a
digest of its pixels, by which it is checked that they are those that the weights in the package
learned from. Some are recoloured from a white sheet, as their entry says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

INDEX = Path(__file__).with_suffix(".json")
TEXTS = Path(__file__).parents[1] / "datasets" / "sprites"
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_WHITE = 98  # per cent of pixels that are no lighter than what becomes the tint itself
_LIGHTEST = 1.08  # times the tint

Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="of Universal-LPC-spritesheet")
    parser.add_argument("-o", "--output", type=Path, default=Path("LPC"))
    arguments = parser.parse_args()

    if arguments.output.exists():
        sys.exit(f"{arguments.output}: exists already; remove it or give another -o")
    table = json.loads(INDEX.read_text("utf-8"))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it is whole, so that a run that fails leaves nothing.
    with tempfile.TemporaryDirectory(dir=arguments.output.parent, prefix=".new-") as folder:
        made = Path(folder) / arguments.output.name
        make(table, arguments.checkout, made)
        made.rename(arguments.output)
    print(f"{len(table['layers'])} layers in {arguments.output}")


def make(table: dict[str, Any], checkout: Path, output: Path) -> None:
    """Make a folder of all layers of the table."""
    (output / "layers").mkdir(parents=True)
    for layer in table["layers"]:
        expected = layer.pop("pixels")
        source = checkout / layer["source"]["path"]
        if not source.is_file():
            sys.exit(f"{source}: no such file; is {checkout} a whole checkout?")
        target = output / layer["file"]
        pixels = read(source)
        if "derived" in layer:
            pixels = recolor(pixels, tint_of(layer))
            Image.fromarray(pixels).save(target, optimize=True)
        else:
            shutil.copyfile(source, target)
        if digest(pixels) != expected:
            commit = table["source"]["commit"]
            sys.exit(f"{source}: is not the sheet that was taken; check out {commit}")
    for name in ("AUTHORS.txt", "cc-by-sa-3.0.txt", "gpl-3.0.txt"):
        shutil.copyfile(TEXTS / name, output / name)
    text = json.dumps(table, indent=1, ensure_ascii=False)
    (output / "attributes.json").write_text(text + "\n", "utf-8")


def read(path: Path) -> Pixels:
    """Return a sheet's pixels, (H, W, 4), without colours where it is transparent."""
    pixels = np.array(Image.open(path).convert("RGBA"))
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def digest(pixels: Pixels) -> str:
    """Return what tells sheets apart."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


def tint_of(layer: dict[str, Any]) -> tuple[int, ...]:
    """Return the colour that the whites of a layer's sheet become.

    >>> tint_of({"derived": "recoloured from a.png (luminance x tint (205, 45, 45))"})
    (205, 45, 45)
    """
    found = re.search(r"tint \(([\d, ]+)\)", layer["derived"])
    assert found is not None, layer["id"]
    return tuple(map(int, found[1].split(",")))


def recolor(pixels: Pixels, tint: tuple[int, ...]) -> Pixels:
    """Return a white sheet in another colour, each pixel as light as it was."""
    luminance = pixels[..., :3] @ _LUMINANCE
    white = np.percentile(luminance[pixels[..., 3] > 0], _WHITE)
    shade = np.minimum(luminance / white, _LIGHTEST)[..., None]
    colors = np.minimum(shade * np.array(tint) + 1e-9, 255)  # else white itself might round down
    return np.concatenate([colors.astype(np.uint8), pixels[..., 3:]], -1)


if __name__ == "__main__":
    main()
