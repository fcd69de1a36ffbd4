"""Broken captions, prompts and lists of pairs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from hostile_cases.case import DVAE, NOTHING, VIDEO_NETS, Case, Prepare, train
from hostile_cases.harm import at, both, changed, instead, put, sound, tar


def captions() -> Iterator[Case]:
    """Yield broken folders and tar files of captioned videos, and unusual captions."""
    clip, table = "captioned/clip.mp4", "captioned/captions.csv"
    bare: Prepare = lambda folder: (folder / "captioned/clip.txt").unlink()  # noqa: E731

    def listed(text: bytes | str) -> tuple[str, Prepare]:
        return "captioned", both(bare, put(table, text))

    def packed(members: Mapping[str, bytes | str], *more: Prepare) -> tuple[str, Prepare]:
        return "x.tar", both(tar("x.tar", members), *more)

    good: dict[str, bytes | str] = {"clip.mp4": clip, "clip.txt": b"a dog"}
    harm: dict[str, tuple[str, Prepare]] = {
        "empty": ("captioned", put("captioned/clip.txt", b"")),
        "of spaces": ("captioned", put("captioned/clip.txt", " \n\t ")),
        "with a null byte": ("captioned", put("captioned/clip.txt", "a\0dog")),
        "not UTF-8": ("captioned", put("captioned/clip.txt", b"a d\xf4g")),
        "missing": ("captioned", bare),
        "in a folder": ("captioned", instead("captioned/clip.txt")),
        "table without columns": listed("a,b\nc,d\n"),
        "table not UTF-8": listed(b"file,caption\nclip.mp4,\xff\xfe\n"),
        "table of one huge field": listed('file,caption\nclip.mp4,"' + "x" * 200_000 + '"\n'),
        "table with an open quote": listed('file,caption\nclip.mp4,"a dog\nb.mp4,"a cat"\n'),
        "table leads out": listed("file,caption\n../clip.mp4,a dog\n/etc/passwd,b\n"),
        "table names nothing": listed("file,caption\nnone.mp4,a dog\n\0.mp4,b\n"),
        "video broken": ("captioned", changed(clip, lambda data: data[:99])),
        "video a tone": ("captioned", lambda folder: sound(folder / clip)),
        "tar empty": ("x.tar", put("x.tar", b"")),
        "tar of text": ("x.tar", put("x.tar", "no archive\n" * 99)),
        "tar compressed": ("x.tar.gz", put("x.tar.gz", b"\x1f\x8b" + bytes(99))),
        "tar cut off": packed(good, changed("x.tar", lambda data: data[:1500])),
        "tar leads out": packed({"../clip.mp4": clip, "../clip.txt": b"a dog"}),
        "tar absolute": packed({"/tmp/clip.mp4": clip, "/tmp/clip.txt": b"dog"}),
        "tar with a link": ("x.tar", tar("x.tar", {"clip.txt": b"a dog"}, link="/etc/passwd")),
        "tar lies of lengths": packed(good, changed("x.tar", at(124, b"77777777777\0"))),
        "tar without captions": packed({"clip.mp4": clip}),
        "tar of JSON that is none": packed({"clip.mp4": clip, "clip.json": b"[" * 60_000}),
        "folder missing": ("nothing", NOTHING),
        "a file for a folder": ("a.png", NOTHING),
    }
    for fault, (source, prepare) in harm.items():
        yield Case(f"captions {fault}: train-dvae", train("train-dvae", source), prepare)
        if fault in ("empty", "table leads out", "tar leads out"):
            for command in ("train-gpt", "train-upsampler", "train-captioner"):
                call = train(command, source, "" if command == "train-captioner" else DVAE)
                yield Case(f"captions {fault}: {command}", call, prepare, message=source)
    valid: dict[str, bytes | str] = {
        "10 kB": "a dog runs " * 900,
        "another script": "一只狗在奔跑 كلب يجري 🐕",
    }
    call = train("train-gpt", "captioned", "--dvae dvae.safetensors")
    for kind, text in valid.items():
        yield Case(f"captions {kind}: train-gpt", call, put("captioned/clip.txt", text), 0)


def prompts() -> Iterator[Case]:
    """Yield unusual prompts and broken files of prompts."""
    nets = VIDEO_NETS.split()

    def is_in_folder(folder: Path, out: str) -> bool:
        (name,) = out.splitlines()
        return Path(name).name == name and (folder / name).is_file()

    valid = {
        "of 10 kB": "a dog runs " * 900,
        "another script": "一只狗在奔跑 كلب يجري 🐕",
        "like a command": "$(mkdir executed);`mkdir executed`|mkdir executed",
        "like a path": "../../etc/passwd",
        "of control characters": "a\x1b[31m\ndog\t",
        "not UTF-8": os.fsdecode(b"a d\xf4g"),
    }
    for kind, prompt in valid.items():
        call = ["generate-video", prompt, *nets, "-o", "out.mp4"]
        yield Case(f"prompt {kind}: generate-video", call, code=0)
        name = f"prompt {kind}, as a name: generate-video"
        yield Case(name, call[:-2], code=0, check=is_in_folder)
    harm: dict[str, bytes | str] = {
        "empty": b"",
        "of blank lines": "\n \n\t\n",
        "not UTF-8": b"\xff\xfe\xfd\n",
    }
    for fault, text in harm.items():
        call = ["generate-video", "--prompts", "x.txt", *nets, "-o", "out/"]
        yield Case(f"prompts {fault}: generate-video", call, put("x.txt", text))
    yield Case("prompts missing: generate-video",
               ["generate-video", "--prompts", "x.txt", *nets, "-o", "out/"])  # fmt: skip


def lists() -> Iterator[Case]:
    """Yield broken lists of image pairs."""
    harm: dict[str, bytes | str] = {
        "empty": b"",
        "of comments": "# nothing\n",
        "one name a line": "a.png\nb.png\n",
        "three names a line": "a.png b.png a.png\n",
        "open quote": '"a.png b.png\n',
        "names nothing": "x.png y.png\n",
        "null byte": "a\0.png b.png\n",
        "long name": "x" * 5000 + ".png b.png\n",
        "not UTF-8": b"a\xff.png b.png\n",
        "binary": bytes(range(256)) * 9,
        "names a folder": "frames frames\n",
        "names a device": "/dev/zero /dev/zero\n",
    }
    for fault, text in harm.items():
        yield Case(f"list {fault}: train-flow", train("train-flow", "x.txt"), put("x.txt", text))
