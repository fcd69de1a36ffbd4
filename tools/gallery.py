"""Make the gallery of the documentation from the sample: docs/gallery.md and its pictures.

Usage: python tools/gallery.py [--only NAME ...]

Each picture is what the ``flowwarp`` commands below it write, side by side. All of them take about
five minutes of one core, of which ``train_flow`` takes four.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import flowwarp
from flowwarp.bundled import bundled
from flowwarp.viz.overlay import side_by_side

DOCS = Path(__file__).resolve().parent.parent / "docs"
IMAGES = DOCS / "images" / "gallery"


@dataclass(frozen=True)
class Picture:
    """A picture of the gallery: files that commands write, side by side."""

    name: str  # of the picture's file, without .jpg
    title: str
    text: str  # says what is seen, from left to right
    commands: tuple[str, ...]  # run in a copy of datasets/sample
    files: tuple[str, ...]


PICTURES = (
    Picture(
        "flow",
        "Flow of two frames",
        "Frame 1; the flow to frame 2 in colour (hue: direction, saturation: speed); as arrows.",
        (
            "flowwarp flow frame1.png frame2.png -o new.flo",
            "flowwarp show new.flo -o colour.png --no-legend",
            "flowwarp show new.flo --image frame1.png --arrows -o arrows.png",
        ),
        ("frame1.png", "colour.png", "arrows.png"),
    ),
    Picture(
        "qualities",
        "Three qualities",
        "`fast` (the network alone), `balanced` (with a short fit to the pair), `best`.",
        (
            "flowwarp flow frame1.png frame2.png --quality fast -o fast.flo",
            "flowwarp flow frame1.png frame2.png --quality balanced -o balanced.flo",
            "flowwarp flow frame1.png frame2.png --quality best -o best.flo",
            "flowwarp show fast.flo balanced.flo best.flo --max 16 --no-legend",
        ),
        ("fast_flow.png", "balanced_flow.png", "best_flow.png"),
    ),
    Picture(
        "occlusion",
        "What frame 2 hides",
        "Frame 1; frame 2; the mask: black where frame 2 does not show the pixel of frame 1.",
        ("flowwarp flow frame1.png frame2.png -o both.flo --occlusion visible.png",),
        ("frame1.png", "frame2.png", "visible.png"),
    ),
    Picture(
        "warp",
        "Backward and forward warping",
        "Frame 2 warped backward onto frame 1; frame 1 sent forward onto frame 2, with holes in"
        " black; frame 1 sent half of the way.",
        (
            "flowwarp warp frame2.png flow.flo -o backward.png",
            "flowwarp warp frame1.png flow.flo --forward -o forward.png",
            "flowwarp warp frame1.png flow.flo --forward --scale 0.5 -o halfway.png",
        ),
        ("backward.png", "forward.png", "halfway.png"),
    ),
    Picture(
        "interpolate",
        "A frame between two frames",
        "Frame 1; the interpolated frame; frame 2.",
        ("flowwarp interpolate frame1.png frame2.png -o middle.png",),
        ("frame1.png", "middle.png", "frame2.png"),
    ),
    Picture(
        "error",
        "Where two flows differ",
        "The flow of `fast`; the sample's flow; their difference in KITTI's colours: blue is right,"
        " red is more than 3 px and 5 % off.",
        (
            "flowwarp flow frame1.png frame2.png --quality fast -o net.flo",
            "flowwarp show net.flo --error flow.flo --side-by-side -o error.png",
        ),
        ("error.png",),
    ),
    Picture(
        "train_flow",
        "A network trained on one clip",
        "Frame 1; the flow after 400 steps of the smallest preset on the 16 frames of `clip.mp4`;"
        " the flow by the weights in the package.",
        (
            "flowwarp train-flow clip.mp4 --preset tiny --steps 400 --run runs/tiny",
            "flowwarp flow frame1.png frame2.png --quality fast"
            " --weights runs/tiny/best.safetensors -o mine.flo",
            "flowwarp flow frame1.png frame2.png --quality fast -o base.flo",
            "flowwarp show mine.flo base.flo --max 16 --no-legend",
        ),
        ("frame1.png", "mine_flow.png", "base_flow.png"),
    ),
    Picture(
        "generate",
        "A video of a prompt",
        "Every second frame. Another kind of CPU, or another number of threads, makes another"
        " video.",
        ('flowwarp generate-video "a knight in red armour walks left across grass" -o knight',),
        tuple(f"knight/{number:06}.png" for number in range(0, 16, 2)),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [picture.name for picture in PICTURES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these pictures")
    chosen = set(parser.parse_args().only)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        if picture.name in chosen:
            draw(picture)
    (DOCS / "gallery.md").write_text(page(), "utf-8")


def draw(picture: Picture) -> None:
    """Run a picture's commands in a copy of the sample and write its file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(bundled("datasets") / "sample", folder, dirs_exist_ok=True)
        for command in picture.commands:
            print(command, flush=True)
            words = shlex.split(command)[1:]
            subprocess.run([sys.executable, "-m", "flowwarp", *words], cwd=folder, check=True)
        images = [flowwarp.read_image(folder / file)[None] for file in picture.files]
        images = [image.expand(-1, 3, -1, -1) for image in images]  # a mask is grey
        flowwarp.write_image(IMAGES / f"{picture.name}.jpg", side_by_side(images)[0])


def page() -> str:
    """Return docs/gallery.md."""
    lines = [
        "# Gallery",
        "",
        "Pictures that flowwarp's commands make of `datasets/sample`, two frames and a clip of 16."
        " `python tools/gallery.py` makes this page and its pictures.",
    ]
    for picture in PICTURES:
        lines += [
            "",
            f"## {picture.title}",
            "",
            f"![{picture.title}](images/gallery/{picture.name}.jpg)",
            "",
            picture.text,
            "",
            "```",
            *picture.commands,
            "```",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
