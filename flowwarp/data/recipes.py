"""Recipes: TOML files with the layout of known data sets, and ground truth read by them.

A recipe is a TOML file in ``datasets/``, or one of the user's own. Its patterns are paths below the
root of the data set: ``{scene}`` matches any part of a name, ``{n}`` a number, ``{n+1}`` the next
number with as many digits, and ``{*pair}`` any number of folders. ``frame1`` is searched for; its
fields are inserted into the patterns of the other files, where a new field matches anything. Links
to folders are followed; names that begin with a dot are ignored, as macOS adds ``._x`` to x::

    title = "..."                 # also: home (a URL), terms (licence)
    note = "..."                  # optional: necessary preparation of the files
    footage = ["test/clean/*"]    # folders and videos for training without flow; or pictures by
                                  # fields: those that differ in {n} alone are frames of one clip,
                                  # as long as {n} goes up by one
    complete = true               # all neighbouring frames have flow; false: some have none
    last_flow = false             # true: the last frame of a clip may have flow to a missing frame
    uniform = true                # all pairs of a set have the same masks; false: any may lack one

    [sets.clean]
    frame1 = "training/clean/{scene}/frame_{n}.png"
    frame2 = "training/clean/{scene}/frame_{n+1}.png"
    flow = "training/flow/{scene}/frame_{n}.flo"   # a .flo may be packed: .flo.xz
    occluded = "..."              # optional picture: not black where occluded in frame 2
    invalid = "..."               # optional picture: not black where the flow is invalid
    flow_visible = "..."          # optional flow file: valid where visible in frame 2 (KITTI's noc)

No data set is part of this package, and none is downloaded.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from flowwarp.bundled import bundled
from flowwarp.data.footage import Footage, find_footage, walk_folders
from flowwarp.errors import InputError
from flowwarp.io.file_types import FLOW_EXTENSIONS, IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, kind_of
from flowwarp.io.files import open_input
from flowwarp.io.flow_files import read_flow, read_packed_flow
from flowwarp.io.images import read_image

_FIELD = re.compile(r"\{(\*?)(\w+)(?:\+(\d+))?\}")
_LARGEST_RECIPE = 2**20  # bytes
# Optional files of a pair.
MASKS = ("occluded", "invalid", "flow_visible")


@dataclass(frozen=True)
class Layout:
    """The files of one set, as patterns; see the docstring of the module."""

    name: str
    frame1: str
    frame2: str
    flow: str
    occluded: str | None = None
    invalid: str | None = None
    flow_visible: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A data set: its title, terms, and the layout of its files."""

    name: str
    title: str
    home: str = ""
    terms: str = ""
    note: str = ""
    footage: tuple[str, ...] = ()
    complete: bool = True
    last_flow: bool = False
    uniform: bool = True
    sets: tuple[Layout, ...] = ()


@dataclass(frozen=True)
class GroundTruthPair:
    """The files of one pair with known flow.

    Args:
        group: name of the set, by which results are averaged.
        name: of the pair.
        frame1: a picture.
        frame2: a picture.
        flow: a flow file from frame 1 to frame 2; a .flo may be packed by xz.
        occluded: a picture, not black where the pixel is occluded in frame 2.
        invalid: a picture, not black where the flow is invalid.
        flow_visible: a flow file that is valid only where the pixel is visible in frame 2.
    """

    group: str
    name: str
    frame1: Path
    frame2: Path
    flow: Path
    occluded: Path | None = None
    invalid: Path | None = None
    flow_visible: Path | None = None


@dataclass(frozen=True)
class GroundTruth:
    """The content of the files of a pair, as a batch of one.

    Args:
        image1: (1, 3, H, W).
        image2: (1, 3, H, W).
        flow_12: (1, 2, H, W).
        valid: (1, 1, H, W) bool, True where the flow is known.
        visible: (1, 1, H, W) bool, True where the pixel is visible in frame 2; None if unknown.
    """

    image1: Tensor
    image2: Tensor
    flow_12: Tensor
    valid: Tensor
    visible: Tensor | None


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return sorted(path.stem for path in bundled("datasets").glob("*.toml"))


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        name: one of :func:`recipe_names`, or the path of a TOML file.

    Raises:
        InputError: no such recipe, or a broken one.
    """
    path = Path(name)
    if path.suffix.lower() != ".toml":
        path = bundled("datasets") / f"{name}.toml"
        if str(name) not in recipe_names():
            known = ", ".join(recipe_names())
            raise InputError(
                str(name) or "''", "is not a recipe", f"known are {known}, or a .toml file"
            )
    with open_input(path) as (file, size):
        if size > _LARGEST_RECIPE:
            raise InputError(path, f"has {size} bytes, too many for a recipe")
        try:
            table = tomllib.load(file)
        except (ValueError, RecursionError) as fault:
            raise InputError(path, f"is not valid TOML ({fault})") from fault
    sets = table.pop("sets", {})
    if not isinstance(sets, dict) or not all(isinstance(part, dict) for part in sets.values()):
        raise InputError(path, "its sets must be tables", "write [sets.NAME]")
    layouts = tuple(_checked(path, Layout, {"name": key, **part}) for key, part in sets.items())
    footage = table.pop("footage", [])
    if not isinstance(footage, list) or not all(isinstance(part, str) for part in footage):
        raise InputError(path, "footage must be a list of patterns")
    for pattern in footage:
        _check_pattern(path, pattern)
    for layout in layouts:
        for item in fields(layout)[1:]:
            if (pattern := getattr(layout, item.name)) is not None:
                _check_pattern(path, pattern)
    table |= {"name": path.stem, "footage": tuple(footage), "sets": layouts}
    recipe: Recipe = _checked(path, Recipe, table)
    shown = (recipe.title, recipe.home, recipe.terms, recipe.note, *sets)
    for text in shown:
        if not text.replace("\n", " ").isprintable():
            raise InputError(path, f"the text {text!r} holds characters that cannot be shown")
    return recipe


def _check_pattern(path: Path, pattern: str) -> None:
    """Check a pattern.

    Raises:
        InputError: it is malformed, or leads out of the folder of the data set.
    """
    parts = pattern.split("/")
    if not pattern or not pattern.isprintable() or pattern[0] == "/" or ".." in parts:
        raise InputError(
            path, f"the pattern {pattern!r} is not a path inside the data set's folder"
        )
    # Both wildcards that a pattern becomes: in `_search`, and in `_fill` without known fields.
    for stars in (_to_wildcard(pattern), _FIELD.sub("*", pattern)):
        if any("**" in part and part != "**" for part in stars.split("/")):
            raise InputError(path, f"in the pattern {pattern!r}, ** must stand alone")
    named = [(name, step) for _, name, step in _FIELD.findall(pattern)]
    if any(not name.isidentifier() or (step and name != "n") for name, step in named):
        raise InputError(path, f"the pattern {pattern!r} has an invalid field", "{n+1} counts")
    try:
        re.compile(_to_regex(pattern))
    except re.error as fault:  # one name twice
        raise InputError(path, f"the pattern {pattern!r} is broken ({fault})") from fault


def pairs_of(recipe: Recipe, root: str | Path) -> list[GroundTruthPair]:
    """List the pairs with known flow of a complete data set.

    Args:
        recipe: from :func:`load_recipe`.
        root: the folder of the data set.

    Returns:
        At least one pair, ordered by set and name.

    Raises:
        InputError: it is not that data set, or files are missing; the message says which.
    """
    pairs, lacking = find_pairs(recipe, root)
    # An average over half of a set would not be comparable with published results.
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        problem = f"{lacking[0]}{more} missing"
        raise InputError(root, problem, f"this is read as {recipe.title}")
    return pairs


def find_pairs(recipe: Recipe, root: str | Path) -> tuple[list[GroundTruthPair], list[str]]:
    """List the pairs with known flow of a data set, and the missing files of others.

    A set may be absent altogether (Sintel's clean without final).

    Args:
        recipe: from :func:`load_recipe`.
        root: the folder of the data set.

    Returns:
        The pairs that have all their files, ordered by set and name; and the files that are missing
        of others, below ``root``, with ``*`` for fields of unknown value. At least one of the two
        is not empty.

    Raises:
        InputError: it is not that data set.
    """
    root = Path(root)
    _check_folder(root)
    if not recipe.sets:
        raise InputError(root, f"{recipe.title} has no flow", "it is footage to learn from")
    pairs: list[GroundTruthPair] = []
    lacking: list[str] = []
    unlike: list[str] = []
    for layout in recipe.sets:
        found, missing, wanted = _pairs_of_set(recipe, layout, root)
        pairs += found
        lacking += missing
        unlike.append(wanted)
    if not (pairs or lacking):
        problem = f"no file is like {unlike[0]}"
        raise InputError(root, problem, f"this is read as {recipe.title}")
    return pairs, list(dict.fromkeys(lacking))  # frame 2 of one pair is frame 1 of another


def footage_of(recipe: Recipe, root: str | Path) -> list[Footage]:
    """List the footage of a data set for training without flow, for ``prepare_pairs``.

    Raises:
        InputError: none is there.
    """
    root = Path(root)
    _check_folder(root)
    found: list[Footage] = []
    for pattern in recipe.footage:
        if _FIELD.search(pattern):
            found += _scenes(root, pattern)
        else:
            # Other files may lie beside them: a licence, or those of a file manager.
            paths = _glob(root, pattern)
            found += [
                Footage("video", (path,))
                for path in paths
                if path.is_file() and kind_of(path) in VIDEO_EXTENSIONS
            ]
            found += find_footage([path for path in paths if path.is_dir()])
    if not found:
        wanted = ", ".join(recipe.footage) or "nothing"
        raise InputError(root, f"holds no footage of {recipe.title}", f"looked for {wanted}")
    return found


def read_pair(pair: GroundTruthPair) -> GroundTruth:
    """Read the files of a pair.

    Raises:
        InputError: one cannot be read, or their sizes differ.
    """
    flow, valid = _read_flow(pair.flow)
    size = tuple(flow.shape[-2:])
    image1, image2 = (_sized(path, read_image(path), size) for path in (pair.frame1, pair.frame2))
    if pair.invalid is not None:
        valid = valid & ~_mask(pair.invalid, size)
    visible = None
    if pair.occluded is not None:
        visible = ~_mask(pair.occluded, size)
    elif pair.flow_visible is not None:
        visible = _sized(pair.flow_visible, _read_flow(pair.flow_visible)[1], size)
    return GroundTruth(
        image1[None],
        image2[None],
        flow[None],
        valid[None],
        None if visible is None else visible[None],
    )


# ------------------------------------------------------------------ finding files


def _pairs_of_set(
    recipe: Recipe, layout: Layout, root: Path
) -> tuple[list[GroundTruthPair], list[str], str]:
    """Return pairs, missing files of others, and a pattern to name if there is neither."""
    matches = list(_search(root, layout.frame1, IMAGE_EXTENSIONS))
    flows = list(_search(root, layout.flow, FLOW_EXTENSIONS))
    if not matches:
        seconds = (_other(root, layout.frame2, found, IMAGE_EXTENSIONS) for _, found in flows)
        begun = any(seconds)
        lacking = list(_first_frames_lacking(layout, root, flows)) if begun else []
        return [], lacking, layout.frame1
    last = _last_numbers(matches) if recipe.last_flow and "{n+" in layout.frame2 else {}
    found_of: dict[GroundTruthPair, dict[str, str]] = {}
    lacking = []
    without_flow: list[str] = []
    used: set[Path] = set()
    for frame1, found in matches:
        frame2 = _other(root, layout.frame2, found, IMAGE_EXTENSIONS)
        flow = _other(root, layout.flow, found, FLOW_EXTENSIONS)
        if flow is not None:
            used.add(flow)
        if frame2 is not None and flow is not None:
            group, name = _names(recipe, layout, root, frame1)
            masks = _masks_of(layout, root, found)
            found_of[GroundTruthPair(group, name, frame1, frame2, flow, **masks)] = found
        elif frame2 is not None:
            without_flow.append(_fill(layout.flow, found))
        elif flow is not None and last.get(_clip_of(found)) != int(found.get("n", 0)):
            lacking.append(_fill(layout.frame2, found))
    pairs = list(found_of)
    _check_first_frames(pairs)
    lacking += _first_frames_lacking(layout, root, [each for each in flows if each[0] not in used])
    unmasked = _masks_lacking(layout, found_of) if recipe.uniform else {}
    lacking += [name for names in unmasked.values() for name in names]
    lacking += without_flow if recipe.complete or not pairs else []
    whole = [pair for pair in pairs if pair not in unmasked]
    return whole, lacking, f"{layout.frame2} or {layout.flow}"


def _last_numbers(matches: Iterable[tuple[Path, dict[str, str]]]) -> dict[tuple[str, ...], int]:
    """Return the number of each clip's last frame; by name, frame_9 would come after frame_10."""
    last: dict[tuple[str, ...], int] = {}
    for _, found in matches:
        clip = _clip_of(found)
        last[clip] = max(last.get(clip, 0), int(found.get("n", 0)))
    return last


def _masks_of(layout: Layout, root: Path, found: dict[str, str]) -> dict[str, Path | None]:
    return {
        key: _other(root, pattern, found, IMAGE_EXTENSIONS | FLOW_EXTENSIONS)
        for key in MASKS
        if (pattern := getattr(layout, key)) is not None
    }


def _first_frames_lacking(
    layout: Layout, root: Path, flows: Iterable[tuple[Path, dict[str, str]]]
) -> Iterator[str]:
    """Name the missing first frames of existing flow files."""
    step = next((int(step) for _, _, step in _FIELD.findall(layout.flow) if step), 0)
    for _, found in flows:
        first = dict(found)
        if step:
            first["n"] = f"{int(found['n']) - step:0{len(found['n'])}d}"
        if _other(root, layout.frame1, first, IMAGE_EXTENSIONS) is None:
            yield _fill(layout.frame1, first)


def _masks_lacking(
    layout: Layout, found_of: dict[GroundTruthPair, dict[str, str]]
) -> dict[GroundTruthPair, list[str]]:
    """Return the masks that a pair lacks while others have them.

    Results on visible pixels would otherwise be averages over a part of the pairs.
    """
    lacking: dict[GroundTruthPair, list[str]] = {}
    for key in MASKS:
        without = [pair for pair in found_of if getattr(pair, key) is None]
        if len(without) < len(found_of):
            for pair in without:
                name = _fill(getattr(layout, key), found_of[pair])
                lacking.setdefault(pair, []).append(name)
    return lacking


def _check_first_frames(pairs: Iterable[GroundTruthPair]) -> None:
    """Refuse two pictures for one frame 1, as frame1.png beside frame1.jpg.

    Raises:
        InputError: there are two; the pair would count twice.
    """
    known: dict[tuple[Path, Path], Path] = {}
    for pair in pairs:
        other = known.setdefault((pair.frame2, pair.flow), pair.frame1)
        if other != pair.frame1:
            raise InputError(pair.frame1, f"{other.name} is there, too, for one pair", "keep one")


def _scenes(root: Path, pattern: str) -> Iterator[Footage]:
    """Group the pictures that a pattern matches by all its fields but the number.

    A gap in the numbers begins a new clip, since frames are missing there.
    """
    scenes: dict[tuple[str, ...], list[tuple[int, Path]]] = {}
    for path, found in _search(root, pattern, IMAGE_EXTENSIONS):
        scenes.setdefault(_clip_of(found), []).append((int(found.get("n", 0)), path))
    for frames in scenes.values():
        frames.sort()
        steps = [after - before for (before, _), (after, _) in itertools.pairwise(frames)]
        usual = min(steps, default=1)
        starts = [k for k, step in enumerate(steps, 1) if step > usual]
        for start, stop in itertools.pairwise([0, *starts, len(frames)]):
            if stop - start > 1:
                yield Footage("frames", tuple(path for _, path in frames[start:stop]))


def _clip_of(found: dict[str, str]) -> tuple[str, ...]:
    return tuple(value for key, value in found.items() if key != "n")


def _names(recipe: Recipe, layout: Layout, root: Path, frame1: Path) -> tuple[str, str]:
    if "{*" in layout.frame1:  # a folder for each pair: the folder above names the set
        folder = Path(os.path.abspath(frame1)).parent  # noqa: PTH100 - without .., links as named
        return folder.parent.name, folder.name
    return f"{recipe.name}/{layout.name}", frame1.relative_to(root).with_suffix("").as_posix()


def _search(
    root: Path, pattern: str, extensions: frozenset[str]
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the files that a pattern matches, with the values of its fields.

    Raises:
        InputError: a folder where some could be cannot be read.
    """
    exact = re.compile(_to_regex(pattern), re.DOTALL)  # a name may hold a line break
    for path in _glob(root, _to_wildcard(pattern)):
        match = exact.fullmatch(path.relative_to(root).as_posix())
        if match and _extension(path) in extensions and path.is_file():
            yield path, {key: value or "" for key, value in match.groupdict().items()}


def _glob(root: Path, wildcard: str) -> list[Path]:
    """Like ``root.glob``, sorted; ``**`` enters links, ``*`` matches no leading dot.

    Raises:
        InputError: a folder cannot be read. ``root.glob`` would skip it silently, and the result
            would be a part of the set.
    """
    places = [root]
    for part in wildcard.split("/"):
        if part in ("", "."):
            continue
        folders = [place for place in places if place.is_dir()]
        for folder in folders:
            if not os.access(folder, os.R_OK | os.X_OK):
                raise InputError(folder, "permission denied")
        if part == "**":
            visited: set[Path] = set()
            places = [below for folder in folders for below in walk_folders(folder, visited)]
        else:
            found = (path for folder in folders for path in folder.glob(part))
            places = [path for path in found if path.name[0] != "." or part[0] == "."]
    return sorted(places)


def _to_wildcard(pattern: str) -> str:
    return _FIELD.sub(lambda field: "**" if field[1] else "*", pattern)


def _to_regex(pattern: str) -> str:
    parts, end = [], 0
    for field in _FIELD.finditer(pattern):
        parts.append(re.escape(pattern[end : field.start()]))
        deep, name, _ = field.groups()
        kind = r"\d+" if name == "n" else "[^/]+"
        parts.append(f"(?P<{name}>.*?)" if deep else f"(?P<{name}>{kind})")
        end = field.end()
    text = "".join([*parts, re.escape(pattern[end:])])
    return text.replace(".*?)/", ".*?)/?")  # no folder at all has no slash either


def _other(
    root: Path, pattern: str, found: dict[str, str], extensions: frozenset[str]
) -> Path | None:
    """Return the file of a pair that a pattern names, None if there is none."""
    if all(field[2] in found for field in _FIELD.finditer(pattern)):
        path = root / _fill(pattern, found)
        return path if path.is_file() else None
    matches = _glob(root, _fill(pattern, found, escape=True))
    known = (path for path in matches if _extension(path) in extensions and path.is_file())
    return next(known, None)


def _fill(pattern: str, found: dict[str, str], *, escape: bool = False) -> str:
    """Insert the values of fields into a pattern; a field without a value becomes ``*``."""

    def value(field: re.Match[str]) -> str:
        _, name, step = field.groups()
        if name not in found:
            return "*"
        text = found[name]
        text = f"{int(text) + int(step):0{len(text)}d}" if step else text
        return glob.escape(text) if escape else text

    return _FIELD.sub(value, pattern).lstrip("/")


def _extension(path: Path) -> str:
    extension = path.suffix.lower()
    return ".flo" if extension == ".xz" and path.stem.lower().endswith(".flo") else extension


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "no such file or directory"
        raise InputError(root, problem, "give the folder of the data set")


def _checked(path: Path, kind: Any, table: dict[str, Any]) -> Any:
    """Build a dataclass from a TOML table, its keys and types checked."""
    known = {field.name: field for field in fields(kind)}
    for key, value in table.items():
        if key not in known:
            raise InputError(path, f"has an unknown key {key!r}", f"known are {', '.join(known)}")
        wanted = bool if known[key].type == "bool" else str
        if key not in ("footage", "sets") and not isinstance(value, wanted):
            raise InputError(path, f"{key} must be {wanted.__name__}, got {value!r}")
    try:
        return kind(**table)
    except TypeError as fault:  # a required key is missing
        lacking = str(fault).partition("argument")[2].lstrip("s: ")
        raise InputError(path, f"lacks {lacking}") from fault


# ------------------------------------------------------------------ reading files


def _read_flow(path: Path) -> tuple[Tensor, Tensor]:
    return (read_packed_flow if path.suffix.lower() == ".xz" else read_flow)(path)


def _mask(path: Path, size: tuple[int, ...]) -> Tensor:
    return _sized(path, (read_image(path) > 0).any(0, keepdim=True), size)


def _sized(path: Path, tensor: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape[-2:]) != size:
        got = f"{tensor.shape[-1]}x{tensor.shape[-2]}"
        raise InputError(path, f"is {got}, the flow is {size[1]}x{size[0]}")
    return tensor
