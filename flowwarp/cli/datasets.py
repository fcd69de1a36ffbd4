"""``flowwarp datasets``: list known data sets; make captioned clips of sprites and digits."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths
from flowwarp.cli._options import dry_run_option, json_option, output_option
from flowwarp.cli._report import print_path, print_text, progress_bar
from flowwarp.defaults import MAX_SEED
from flowwarp.errors import InputError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.data.clip import Clip

FPS = 12  # a walk cycle of 16 frames then takes 1.3 s
TABLE = "captions.csv"
CREDITS = "AUTHORS.txt"  # of the sprite layers; their licence requires it beside the clips
HIDDEN = "hidden"  # subfolder for masks: images in the clip's folder itself are frames

# Data sets that have no recipe file.
WORLDS = {
    "sprites": {
        "title": "Captioned clips of sprite characters, with known flow",
        "terms": "CC-BY-SA 3.0 or GPL 3.0, with the credits in AUTHORS.txt; so are the clips",
        "home": "https://github.com/jrconway3/Universal-LPC-spritesheet",
        "layout": [
            "made by this program: flowwarp datasets make sprites -o OUT",
            "a small set of layers is in the package; others by --layers FOLDER:",
            "FOLDER/attributes.json",
            "FOLDER/layers/NAME.png",
        ],
        "captions": [  # of the first clips of seed 0
            "a woman dressed in armor with a blonde ponytail walking towards the camera by a brick"
            " wall",
            "a green female orc in green armor and green metal trousers striding down over a sandy"
            " beach",
            "a skeleton dressed in a red shirt and blue pants with a metal helmet casting a spell"
            " turned away at night under a starry sky",
            "a dark-skinned person in chain mail and blue trousers with a black ponytail and a"
            " black beard strides rightwards",
            "a man in chain mail standing turned right on stone slabs",
            "before a brick wall, a woman in a white dress walks down",
        ],
    },
    "digits": {
        "title": "Captioned clips of moving digits, with known flow",
        "terms": "none: they are drawn by formulas",
        "home": "",
        "layout": ["made by this program: flowwarp datasets make digits -o OUT"],
        "captions": [
            "a red 0 sliding up on a black background",
            "a red 3 glides to the left on a black background",
            "on gray, a green 6 slides up and an orange 6 moves to the right",
            "a green six slides to the right while a blue 0 moves down on gray",
        ],
    },
    "captioned": {
        "title": "Your own captioned videos; flow is estimated",
        "terms": "your own",
        "home": "",
        "layout": [
            "FOLDER/captions.csv with the columns file and caption, and the videos",
            "or FOLDER/NAME.mp4 with FOLDER/NAME.txt",
            "or FOLDER/*.tar with members NAME.mp4 and NAME.txt or NAME.json (WebDataset)",
        ],
    },
}


@click.group(subcommand_metavar="COMMAND [ARGS]...", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List known data sets, and make captioned clips of sprites and digits.

    Nothing is downloaded: you give the folder of a data set. Each command has --json.

    \b
    flowwarp datasets list
    flowwarp datasets info sintel
    flowwarp datasets make sprites -o clips --count 100
    """  # noqa: D301 - click wants the character itself
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


# ------------------------------------------------------------------ list and info


@command.command("list")
@json_option("a table")
def list_command(as_json: bool) -> None:
    """List every data set with its title."""
    from flowwarp.data.recipes import load_recipe, recipe_names

    titles = {name: about["title"] for name, about in WORLDS.items()}
    titles |= {name: load_recipe(name).title for name in recipe_names()}
    if as_json:
        click.echo(json.dumps({"datasets": titles}))
        return
    width = max(map(len, titles))
    for name, title in titles.items():
        click.echo(f"{name:{width}}  {title}")


@command.command("info")
@click.argument("name", metavar="NAME")
@json_option("text")
def info_command(name: str, as_json: bool) -> None:
    """Print the title, licence, origin and file layout of NAME.

    NAME is from `flowwarp datasets list`, or a recipe of your own (a TOML file). For sprites and
    digits it also prints example captions, whose words prompts can use.
    """
    about = {"name": name, **(WORLDS.get(name) or _about_recipe(name))}
    if as_json:
        click.echo(json.dumps(about))
        return
    lines = [f"{about['name']}: {about['title']}", f"licence: {about['terms']}"]
    if about["home"]:
        lines.append(f"from: {about['home']}")
    lines += ["layout:", *(f"  {line}" for line in about["layout"])]
    if about.get("note"):
        lines.append(f"note: {about['note']}")
    if "captions" in about:
        lines += ["captions, for example:", *(f"  {line}" for line in about["captions"])]
    print_text("\n".join(lines))


def _about_recipe(name: str) -> dict[str, Any]:
    from flowwarp.data.recipes import MASKS, load_recipe, recipe_names

    known = [*WORLDS, *recipe_names()]
    if name not in known and Path(name).suffix.lower() != ".toml":
        listed = ", ".join(known)
        raise InputError(
            name or "''", "is not known", f"known are {listed}, or a recipe as a .toml file"
        )
    recipe = load_recipe(name)
    layout = [f"{pattern} (for training)" for pattern in recipe.footage]
    for part in recipe.sets:
        layout += [f"{part.frame1} with {part.flow} ({part.name}, known flow)"]
        masks = [(key.replace("_", " "), getattr(part, key)) for key in MASKS]
        layout += [f"{mask} ({part.name}, {key}; optional)" for key, mask in masks if mask]
    return {
        "title": recipe.title,
        "terms": recipe.terms or "not stated",
        "home": recipe.home,
        "layout": layout,
        "note": recipe.note,
    }


# ------------------------------------------------------------------ make


@command.command("make")
@click.argument("world", metavar="NAME", type=click.Choice(["sprites", "digits"]))
@output_option("Folder for the clips.", required=True)
@click.option(
    "--count",
    type=click.IntRange(1, 10**6),
    default=16,
    show_default=True,
    metavar="N",
    help="Number of clips.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=0,
    show_default=True,
    metavar="N",
    help="Random seed; the same seed gives the same clips.",
)
@click.option(
    "--size",
    type=click.Choice(["16", "32", "64", "128"]),
    default="128",
    show_default=True,
    help="Height and width of the frames in pixels.",
)
@click.option(
    "--frames",
    type=click.IntRange(2, 1000),
    default=16,
    show_default=True,
    metavar="N",
    help="Frames per clip.",
)
@click.option(
    "--layers", metavar="FOLDER", help="Sprite layers to use instead of the shipped ones."
)
@click.option("--photos", metavar="FOLDER", help="Images to use as background of some clips.")
@click.option(
    "--held-out",
    is_flag=True,
    help="Sprites: only combinations of hair, clothes and ground that are reserved for tests;"
    " without it only the others.",
)
@click.option(
    "--flow", "with_flow", is_flag=True, help="Also write frames, flow and occlusion masks."
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace files that exist; remove clips beyond --count, and flow of older clips.",
)
@json_option("paths")
@dry_run_option("Check everything, print what would be written.")
def make_command(
    world: str,
    output: str,
    count: int,
    seed: int,
    size: str,
    frames: int,
    layers: str | None,
    photos: str | None,
    held_out: bool,
    with_flow: bool,
    overwrite: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Make captioned clips. NAME is sprites or digits.

    Writes 000000.mp4, 000001.mp4, ... and captions.csv to OUT, in the layout that `train-dvae` and
    the other training commands read; for sprites also AUTHORS.txt, the credits that the licence of
    the layers requires.

    With --flow, each clip also has a folder: frames 000000.png, ...; flow to the next frame
    000000.flo, ..., unknown where there is none; and hidden/000000.png, ..., white where the pixel
    is occluded in the next frame. `eval-flow OUT --recipe made` reads it.

    \b
    flowwarp datasets make sprites -o clips --count 100 --layers LPC
    flowwarp datasets make digits -o digit_clips --size 64 --flow
    """  # noqa: D301 - click wants the character itself
    if world == "digits" and (layers or photos or held_out):
        raise click.UsageError("--layers, --photos and --held-out go with sprites")
    if photos and not Path(photos).is_dir():
        raise click.UsageError(f"--photos: {photos!r} is not a folder")
    folder = Path(output)
    names = [f"{number:06d}" for number in range(count)]
    targets = [folder / TABLE, *(folder / f"{name}.mp4" for name in names)]
    if world == "sprites":
        targets.append(folder / CREDITS)
    read = _paths.real_names(_list_photos(photos))
    check = partial(_paths.check_output, overwrite=overwrite, read=read)
    for path in targets:
        check(path)
    for name in names:
        wanted = _flow_files(folder / name, frames) if with_flow else []
        for path in (*wanted, *_find_clip_files(folder / name)):
            check(path)
    beyond = _find_clips_beyond(folder, count)
    if beyond and not overwrite:
        path = _files_of(folder, beyond[-1])[-1]
        raise OutputError(path, "belongs to a larger set", "use --overwrite to remove it")
    for name in beyond:
        for path in _files_of(folder, name):
            check(path)

    from flowwarp.train.memory import freed_memory_kept

    compose = _open_world(world, int(size), frames, layers, photos, held_out)
    clips: list[dict[str, Any]] = []
    locked = nullcontext() if dry_run else _locked_folder(folder)
    with locked, freed_memory_kept(), progress_bar(names, "make") as bar:
        for number, name in enumerate(bar):
            clip = compose(seed, number)
            if not dry_run:
                _write(clip, folder, name, with_flow)
            file = f"{name}.mp4"
            clips.append({"file": file, "caption": clip.caption, "attributes": clip.attributes})
            if not as_json:
                print_path(folder / file)
        if not dry_run:
            if world == "sprites":
                _copy_credits(layers, folder)
            if overwrite:
                _remove_beyond(folder, count)
            # Last: a folder with a table is complete.
            _write_table(folder / TABLE, clips)
    if not as_json:
        print_path(folder / TABLE)
    else:
        click.echo(json.dumps({"dry_run": dry_run, "output": str(folder), "clips": clips}))


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Create and lock a folder, and remove the table of earlier clips.

    Raises:
        Locked: another process makes clips there.
        OutputError: it cannot be written.
    """
    from flowwarp.io.files import reason
    from flowwarp.io.locks import lock

    _paths.make_folder(folder)
    with lock(folder, "another process makes clips here", "wait for it"):
        try:
            (folder / TABLE).unlink(missing_ok=True)
        except OSError as fault:
            raise OutputError(folder / TABLE, reason(fault)) from fault
        yield


def _open_world(
    world: str,
    size: int,
    frames: int,
    layers: str | None,
    photos: str | None,
    held_out: bool,
) -> Callable[[int, int], Clip]:
    if world == "digits":
        from flowwarp.data.digits import compose_digits

        return lambda seed, index: compose_digits(seed, index, size, frames)
    from flowwarp.data.sprite_world.layers import load_layers
    from flowwarp.data.sprite_world.world import check_held_out, compose_clip
    from flowwarp.data.synthesis import load_photos

    wardrobe = load_layers(layers or None)
    pictures = load_photos(photos, longest=512) if photos else []
    if held_out:
        check_held_out(wardrobe, layers, photos=bool(pictures))
    return lambda seed, index: compose_clip(
        wardrobe, seed, index, size, frames, photos=pictures, held_out=held_out
    )


def _list_photos(photos: str | None) -> list[Path]:
    from flowwarp.data.synthesis import find_photos

    return list(find_photos(Path(photos))) if photos else []


# File names of `_flow_files`, and of masks in older versions, which had no subfolder.
_CLIP_FILE = re.compile(rf"({HIDDEN}[/_])?\d{{6,}}\.png|\d{{6,}}\.flo")


def _flow_files(folder: Path, frames: int) -> list[Path]:
    """Return the file names of a clip: frames, flow and masks."""
    numbers = [f"{number:06d}" for number in range(frames)]
    return [
        *(folder / f"{number}.png" for number in numbers),
        *(folder / f"{number}.flo" for number in numbers[:-1]),
        *(folder / HIDDEN / f"{number}.png" for number in numbers[:-1]),
    ]


def _find_clip_files(folder: Path) -> list[Path]:
    """Return the files in a clip's folder that have names of `_flow_files`."""
    places = filter(_paths.is_folder, (folder, folder / HIDDEN))
    found = (path for place in places for path in place.iterdir())
    return sorted(
        path for path in found if _CLIP_FILE.fullmatch(path.relative_to(folder).as_posix())
    )


def _find_clips_beyond(folder: Path, count: int) -> list[str]:
    """Return the clips of an older, larger set beyond ``count``, the last one first.

    Sets are numbered without gaps: a file after a gap, such as 240131.mp4, is not part of one.
    """
    names = (f"{number:06d}" for number in itertools.count(count))
    return list(itertools.takewhile(lambda name: _files_of(folder, name), names))[::-1]


def _remove_beyond(folder: Path, count: int) -> None:
    """Remove the clips beyond ``count``, from the end, so that an interrupt leaves no gap.

    Raises:
        OutputError: a file cannot be removed.
    """
    for name in _find_clips_beyond(folder, count):
        _remove(_files_of(folder, name), folder / name)


def _remove(files: Iterable[Path], folder: Path) -> None:
    """Remove files of a clip, and its folders if they are empty then.

    Raises:
        OutputError: a file cannot be removed.
    """
    from flowwarp.io.files import reason

    for path in files:
        try:
            path.unlink()
        except OSError as fault:
            raise OutputError(path, reason(fault)) from fault
    for place in (folder / HIDDEN, folder):
        with suppress(OSError):  # it does not exist, or contains other files
            place.rmdir()


def _files_of(folder: Path, name: str) -> list[Path]:
    """Return the existing files of a clip, its video last."""
    video = folder / f"{name}.mp4"
    return [*_find_clip_files(folder / name), *[video] * video.is_file()]


def _write(clip: Clip, folder: Path, name: str, with_flow: bool) -> None:
    from flowwarp.io.video_writer import write_video

    _paths.make_folder(folder)
    if old := _find_clip_files(folder / name):  # frames of a longer clip, or flow of another one
        _remove(old, folder / name)
    frames: Tensor = clip.video.float() / 255
    write_video(folder / f"{name}.mp4", frames, FPS)
    if not with_flow:
        return
    from flowwarp.io.flow_files import write_flow
    from flowwarp.io.images import write_image

    _paths.make_folder(folder / name / HIDDEN)
    count = len(frames)
    files = _flow_files(folder / name, count)
    for path, frame in zip(files[:count], frames, strict=True):
        write_image(path, frame)
    for path, flow, valid in zip(
        files[count : 2 * count - 1], clip.flow_12, clip.valid_12, strict=True
    ):
        write_flow(path, flow, valid)
    for path, visible in zip(files[2 * count - 1 :], clip.visible_12, strict=True):
        write_image(path, 1 - visible.float())


def _copy_credits(layers: str | None, folder: Path) -> None:
    from flowwarp.bundled import bundled
    from flowwarp.io.atomic import atomic_output

    credits_ = (Path(layers) if layers else bundled("datasets") / "sprites") / CREDITS
    if credits_.is_file():
        with atomic_output(folder / CREDITS) as temporary:
            temporary.write_bytes(credits_.read_bytes())


def _write_table(path: Path, clips: list[dict[str, Any]]) -> None:
    from flowwarp.io.atomic import atomic_output

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "caption"])
    rows.writerows([clip["file"], clip["caption"]] for clip in clips)
    with atomic_output(path) as temporary:
        temporary.write_text(text.getvalue(), "utf-8")
