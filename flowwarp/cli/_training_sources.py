"""Record which data and weights a training run uses, for its config.toml."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sources:
    """The data and weights that a run uses, as config.toml records them, by option name."""

    data: tuple[str, ...] = ()
    val: str = ""
    layers: str = ""
    photos: str = ""
    dvae: str = ""
    gpt: str = ""
    flow: str = ""
    sketcher: str = ""
    recipe: str = ""
    val_recipe: str = "pairs"  # the default; runs of older versions have no such option
    start: str = ""
    keep_codes: bool = False
    captioners: tuple[str, ...] = ()


def note_sources(
    data: Sequence[str], *, of_flow: bool = False, **given: str | bool | tuple[str, ...] | None
) -> Sources:
    """Return the sources of a run with absolute paths; weights also with their SHA-256.

    Another weights file is another run, even under the same name. Known names, such as ``base``,
    stay names even if the current folder contains a file of that name.

    Args:
        data: names of worlds, files, folders or globs.
        of_flow: whether a flow network is trained, for which ``data`` cannot name worlds.
        given: other options.
    """
    from flowwarp.data.recipes import recipe_names
    from flowwarp.data.sources import WORLDS
    from flowwarp.io.shipped import FLOWNETS, SHIPPED

    recipes = tuple(recipe_names())
    names = {
        "dvae": (SHIPPED,),
        "gpt": (SHIPPED,),
        "sketcher": (SHIPPED,),
        "captioners": (SHIPPED,),
        "start": FLOWNETS if of_flow else (SHIPPED,),
        "flow": (*FLOWNETS, "none"),
        "recipe": recipes,
        "val_recipe": recipes,
    }

    def record(value: str | bool | tuple[str, ...], known: Sequence[str]) -> Any:
        if isinstance(value, bool):
            return value
        if isinstance(value, str):
            return value if value in known else _absolute(value)
        return tuple(record(name, known) for name in value)

    sources = {
        name: record(value, names.get(name, ()))
        for name, value in given.items()
        if value is not None
    }
    return Sources(record(tuple(data), () if of_flow else WORLDS), **sources)


def _absolute(name: str) -> str:
    from flowwarp.compat.hugging_face import CONFIG, WEIGHTS

    path = Path(name)
    if not path.exists():  # for example a glob
        return name
    files = [path]
    if path.is_dir():  # a VAE in the format of diffusers, or data
        files = [path / CONFIG, path / WEIGHTS]
    if files[-1].suffix != ".safetensors" or not all(file.is_file() for file in files):
        return str(path.absolute())
    digest = hashlib.sha256()
    for part in files:
        with part.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # continues this digest
    return f"{path.absolute()} sha256:{digest.hexdigest()[:16]}"
