"""Measures ``train-video`` on generated worlds: writes clips, and grades what a model makes.

    python tools/world.py make emblems clips/ --count 400 --seed 1
    flowwarp train-video clips/ --hours 1 --run runs/emblems
    python tools/world.py grade emblems runs/emblems --prompts 60 --clips clips/
    python tools/world.py sheet emblems runs/emblems sheet.png

The worlds are in ``worlds/``: shapes, emblems, plates; and signs, which is held back for the last
test of what was chosen by the others. Some colours of each shape are never shown together with it
in training clips: captions of these are the unseen combinations. ``grade`` reads pixels, and
compares outlines with templates. It prints the shares of attributes that are right in percent: of
videos as decoded, of the same at their full size, and of copies of the training clips whose
captions are most like the prompts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from torch import Tensor
from torch.nn.functional import pad

from flowwarp.io.images import write_image
from flowwarp.models.sampling import SamplingConfig
from flowwarp.pipelines.video.load import load_video_model
from flowwarp.viz.overlay import side_by_side
from flowwarp.viz.sheets import captioned_sheet
from worlds import emblems, plates, shapes, signs
from worlds.clips import make_clip
from worlds.grading import score
from worlds.samples import copy_nearest, to_pixels, write_clips, write_samples
from worlds.scene import Scene, World

WORLDS = {
    "shapes": shapes.WORLD,
    "emblems": emblems.WORLD,
    "plates": plates.WORLD,
    "signs": signs.WORLD,
}
KINDS = {"seen": False, "unseen": True}  # combinations, and whether they are held out

# Gives a video of each prompt, decoded and at its full size, (T, 3, H, W) in [0, 1] both.
Draw: TypeAlias = Callable[[Sequence[str]], Iterator[tuple[Tensor, Tensor]]]

_COLUMNS = 3  # of a sheet
_LETTERS = 20  # in a line of a caption on a sheet
_EVERY = 5  # frames from one on a sheet to the next


def main() -> None:
    """Run a command."""
    given = _parse()
    world = WORLDS[given.world]
    if given.command == "make":
        write_clips(world, given.folder, given.count, given.seed)
        return
    draw = partial(
        write_samples,
        load_video_model(given.model),
        seed=given.seed,
        sampling=SamplingConfig(temperature=given.temperature, guidance=given.guidance),
        candidates=given.candidates,
    )
    if given.command == "sheet":
        write_image(given.picture, draw_sheet(world, draw, given.prompts, given.seed))
        return
    for name, shares in grade_samples(world, draw, given.prompts, given.seed, given.clips):
        print(name, json.dumps({key: round(100 * share) for key, share in shares.items()}))


def grade_samples(
    world: World, draw: Draw, count: int, seed: int, clips: Path | None = None
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the shares of attributes that are right, of so many prompts of each kind.

    Args:
        world: of the prompts.
        draw: makes videos.
        count: of prompts.
        seed: of prompts.
        clips: folder of the training clips; None if their copies are not graded.
    """
    for kind, held_out in KINDS.items():
        prompts, scenes = list_prompts(world, count, seed, held_out=held_out)
        videos = [(to_pixels(decoded), to_pixels(full)) for decoded, full in draw(prompts)]
        yield f"{kind}, decoded", score(world, [decoded for decoded, _ in videos], scenes)
        yield kind, score(world, [full for _, full in videos], scenes)
        if clips is not None:
            yield f"{kind}, copies", score(world, list(copy_nearest(clips, prompts)), scenes)


def draw_sheet(world: World, draw: Draw, count: int, seed: int) -> Tensor:
    """Return samples with their prompts, (3, H, W); the later half are unseen combinations."""
    rows = []
    for held_out, number in zip(KINDS.values(), (count - count // 2, count // 2), strict=True):
        prompts, _ = list_prompts(world, number, seed, held_out=held_out)
        marks = "unseen: " if held_out else ""
        rows += [
            (marks + prompt, full) for prompt, (_, full) in zip(prompts, draw(prompts), strict=True)
        ]
    high = -(-count // _COLUMNS)
    columns = [
        captioned_sheet(rows[first : first + high], every=_EVERY, columns=_LETTERS)[None]
        for first in range(0, count, high)
    ]
    tallest = max(column.shape[2] for column in columns)
    padded = [pad(column, (0, 0, 0, tallest - column.shape[2]), value=1) for column in columns]
    return side_by_side(padded)[0]


def list_prompts(
    world: World, count: int, seed: int, *, held_out: bool
) -> tuple[list[str], list[Scene]]:
    """Return the captions and the scenes of clips."""
    clips = [make_clip(world, seed, index, held_out=held_out) for index in range(count)]
    return [caption for _, caption, _ in clips], [scene for _, _, scene in clips]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write clips with captions")
    grading = commands.add_parser("grade", help="grade what a model makes of prompts")
    sheet = commands.add_parser("sheet", help="draw a sheet of samples with their prompts")
    for command in (making, grading, sheet):
        command.add_argument("world", choices=WORLDS)
    making.add_argument("folder", type=Path)
    making.add_argument("--count", type=int, default=400)
    making.add_argument("--seed", type=int, default=1)
    for command, prompts in ((grading, 60), (sheet, 30)):
        command.add_argument("model", type=Path)
        command.add_argument("--prompts", type=int, default=prompts, help=f"{prompts} if not given")
        command.add_argument("--seed", type=int, default=9, help="of prompts, and of videos")
        command.add_argument("--guidance", type=float, default=SamplingConfig.guidance)
        command.add_argument("--temperature", type=float, default=SamplingConfig.temperature)
        command.add_argument("--candidates", type=int, default=1, help="of which the best is kept")
    grading.add_argument("--clips", type=Path, help="training clips, whose copies are graded, too")
    sheet.add_argument("picture", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
