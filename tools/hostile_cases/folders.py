"""Folders that are empty, of two sizes, or hold a broken file; broken manifests."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile_cases.case import DVAE, NET, PAIR, WRITER, Case, Prepare, train
from hostile_cases.harm import both, copied, flo, pipe, png, put


def cases() -> Iterator[Case]:
    """Yield all cases of folders."""
    yield from broken_members()
    yield from empty()
    yield from manifests()


def holds(name: str, count: int) -> Callable[[Path, str], bool]:
    """Return a check for the number of files of a pattern."""
    return lambda folder, out: len(list(folder.glob(name))) == count


def broken_members() -> Iterator[Case]:
    """Yield folders in which one file is broken or of another size."""
    bad = put("frames/1.png", "broken")
    call = f"flow frames {NET} -o flows"
    yield Case("folder with a bad frame: flow", call, bad, 5, holds("flows/*.flo", 1), ["flows/*"])
    call = "warp frames flow.flo -o warped/"
    done = holds("warped/*.png", 3)
    yield Case("folder with a bad frame: warp", call, bad, 5, done, ["warped/*"])
    call = f"interpolate frames {NET} -o out.mp4"
    yield Case("folder with a bad frame: interpolate", call, bad)
    dot = put("frames/2.png", png(2, 1, zlib.compress(b"\0abcdef")))
    yield Case("folder of two sizes: interpolate", call, dot)
    many = both(put("many/a.flo", b"PIEH"), copied("flow.flo", "many/b.flo"))
    call = "convert many --to npy -o new/"
    yield Case("folder with bad flow: convert", call, many, 5, holds("new/*", 1), ["new/*"])
    call = "show many -o new/"
    yield Case("folder with bad flow: show", call, many, 5, holds("new/*", 1), ["new/*"])
    yield Case("folder with bad flow: show as video", "show many -o out.mp4", many)
    sizes = both(copied("flow.flo", "many/a.flo"), put("many/b.flo", flo(1, 1, bytes(8))))
    yield Case("folder of two sizes: show as video", "show many -o out.mp4", sizes)
    clips = both(put("clips/a.mp4", "broken"), copied("clip.mp4", "clips/b.mp4"))
    call = "describe-video clips --gpt gpt.safetensors --dvae dvae.safetensors"
    yield Case("folder with a bad video: describe-video", call, clips, 5)
    call = "eval-flow pairs --method zero"
    two = both(copied(PAIR, "pairs/set/two"), put("pairs/set/two/frame1.png", b""))
    yield Case("folder with a bad pair: eval-flow", call, two, 5)
    half: Prepare = lambda folder: (folder / PAIR / "frame2.png").unlink()  # noqa: E731
    yield Case("folder with half a pair: eval-flow", call, half)
    photos = put("photos/a.png", "broken")
    call = train("train-flow", "frames", "--photos photos")
    yield Case("folder of bad photos: train-flow", call, photos)
    call = "datasets make sprites --count 1 --size 16 -o made --photos photos"
    yield Case("folder of bad photos: datasets", call, photos)
    call = train("train-reviser", "sprites", f"{WRITER} --photos photos")
    yield Case("folder of bad photos: train-reviser", call, photos)


def empty() -> Iterator[Case]:
    """Yield empty folders."""
    calls = {
        "flow": f"flow void {NET} -o flows",
        "warp": "warp void flow.flo -o new/",
        "show": "show void -o new/",
        "convert": "convert void --to npy -o new/",
        "interpolate": f"interpolate void {NET} -o out.mp4",
        "steady": f"steady void {NET} -o out.mp4",
        "eval-flow": "eval-flow void",
        "train-flow": train("train-flow", "void"),
        "train-flow --photos": train("train-flow", "frames", "--photos void"),
        "train-dvae": train("train-dvae", "void"),
        "describe-video": "describe-video void --gpt gpt.safetensors --dvae dvae.safetensors",
        "train-gpt": train("train-gpt", "void", DVAE),
        "train-captioner": train("train-captioner", "void"),
        "train-upsampler": train("train-upsampler", "void", DVAE),
        "train-upsampler --dvae": train("train-upsampler", "digits", "--dvae void"),
        "train-reviser --photos": train("train-reviser", "sprites", f"{WRITER} --photos void"),
        "train-reviser --layers": train("train-reviser", "sprites", f"{WRITER} --layers void"),
        "train-reviser --gpt": train("train-reviser", "sprites", f"{DVAE} --gpt void"),
    }
    for command, call in calls.items():
        prepare: Prepare = lambda folder: (folder / "void").mkdir()  # noqa: E731
        yield Case(f"folder empty: {command}", call, prepare, message="void")


def manifests() -> Iterator[Case]:
    """Yield broken manifests of bulk jobs."""
    listing = "done/manifest.jsonl"
    contents = {
        "a pipe": pipe(listing),
        "binary": put(listing, bytes(range(256)) * 20),
        "empty": put(listing, b""),
        "of another command": put(listing, b'{"job": "convert"}\n'),
        "deep": put(listing, b"[" * 100_000),
        "a list": put(listing, b"[1]\n[2]\n"),
    }
    for fault, prepare in contents.items():
        for call in (f"flow frames {NET} -o done", "warp frames flow.flo -o done"):
            yield Case(f"manifest {fault}: {call.split()[0]}", call, prepare, 4,
                       writes=["done/.lock"], message="manifest.jsonl: is no")  # fmt: skip
