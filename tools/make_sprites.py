"""Make the small set of sprite layers in datasets/sprites from the full one.

    python tools/make_sprites.py FOLDER

FOLDER holds the layers of the Liberated Pixel Cup's character sheets: layers/*.png,
attributes.json, AUTHORS.txt and the licence texts. What is chosen here lets tests and first steps
run with bodies of both genders, every action, and a few clothes; training wants the full set. What
else lies in the output, such as its README, stays there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

COLORS = ("black", "blonde", "red")
CLOTHES = ("red", "blue", "white")
TEXTS = ("AUTHORS.txt", "cc-by-sa-3.0.txt", "gpl-3.0.txt")
# Of each category (name, colours); without colours all there are.
CHOSEN: dict[str, dict[str, Iterable[str]]] = {
    "body": {"light": (), "dark": (), "skeleton": (), "orc": ()},
    "eyes": {"eyes": ("blue", "brown")},
    "hair": {"long": COLORS, "plain": COLORS, "ponytail": COLORS},
    "facial": {"beard": ("black", "red")},
    "torso": {"longsleeve shirt": CLOTHES, "tunic": CLOTHES, "dress": CLOTHES, "chain mail": ()},
    "over": {"plate armor": ()},
    "legs": {"pants": ("black", "blue", "green"), "metal pants": ()},
    "feet": {"shoes": ("brown",), "metal boots": ()},
    "shoulders": {"plate arms": ()},
    "head": {"metal helmet": ()},
    "weapon": {"dagger": (), "spear": (), "bow": ()},
    "ammo": {"arrow": ()},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path("datasets/sprites"))
    arguments = parser.parse_args()

    check_apart(arguments.folder, arguments.output)
    table = json.loads((arguments.folder / "attributes.json").read_text("utf-8"))
    chosen = [layer for layer in table["layers"] if is_chosen(layer)]
    text = json.dumps({**table, "layers": chosen}, indent=1, ensure_ascii=False)
    arguments.output.mkdir(parents=True, exist_ok=True)
    # Whole before anything that is there goes.
    with tempfile.TemporaryDirectory(dir=arguments.output, prefix=".new-") as folder:
        new = Path(folder)
        (new / "layers").mkdir()
        for layer in chosen:
            shutil.copyfile(arguments.folder / layer["file"], new / layer["file"])
        for name in TEXTS:
            shutil.copyfile(arguments.folder / name, new / name)
        (new / "attributes.json").write_text(text + "\n", "utf-8")
        target = arguments.output / "layers"
        if target.exists():
            target.rename(new / "old")
        for path in (new / "layers", *(new / name for name in (*TEXTS, "attributes.json"))):
            path.replace(arguments.output / path.name)
    size = sum(path.stat().st_size for path in arguments.output.rglob("*") if path.is_file())
    print(f"{len(chosen)} layers, {size / 1e3:.0f} kB in {arguments.output}")


def check_apart(source: Path, output: Path) -> None:
    """Refuse to write where is read: the output's layers are deleted."""
    one, other = source.resolve(), output.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        sys.exit(f"{output}: is {source} itself, inside it, or around it; give another --output")


def is_chosen(layer: dict[str, str]) -> bool:
    colors = CHOSEN.get(layer["category"], {}).get(layer["name"])
    return colors is not None and (not colors or layer["color"] in colors)


if __name__ == "__main__":
    main()
