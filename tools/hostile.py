"""Give every command what it must refuse, or what looks wrong and is not, and watch how it does.

    python tools/hostile.py                 all cases, as a table
    python tools/hostile.py --only weights  those with a word in their name

Each case runs in a folder of its own that holds good files of every kind (`lay_out`) and the bad
one. What must hold: the exit code; one line on stderr, which begins with "flowwarp: "; no
traceback; no file more, fewer or other than before, also where the output is there already and may
be overwritten; less than ten seconds of CPU and than 1.5 GiB. The last line printed is JSON; the
exit code is 1 if something did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowwarp.cli import main as flowwarp
from flowwarp.data.media import VOCABULARY
from flowwarp.data.tokens import Medium, Vocabulary, train_pairs
from flowwarp.io.checkpoints import Card, load_tensors, save_tensors, save_weights
from flowwarp.io.flow_files import read_flow, write_flow
from flowwarp.io.images import read_image, read_image_with_format, write_image
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from flowwarp.models import captioner, classifier, dvae, flownet, gpt, reviser, upsampler

SECONDS, BYTES = 10.0, 3 * 2**29
HEIGHT, WIDTH = 24, 32
EXECUTED = "executed"  # the folder that hostile code would make

Make = Callable[[Path], object]  # lays a case's files into its folder


@dataclass(frozen=True)
class Case:
    """One call of a command.

    Args:
        name: kind of fault, then the fault.
        call: the arguments, or all in one text; ``-o`` with a file name means a second run that
            may overwrite it.
        make: what there is besides the good files.
        code: how it must end.
        check: of a call that succeeds, whether what it wrote is right.
        writes: patterns of names that it may write although it fails.
        says: what its last line on stderr must hold, so that it fails of what it is to fail of.
    """

    name: str
    call: str | Sequence[str]
    make: Make = lambda folder: None
    code: int = 3
    check: Callable[[Path, str], bool] | None = None
    writes: Sequence[str] = ()
    says: str = ""

    @property
    def words(self) -> list[str]:
        """The arguments."""
        return self.call.split() if isinstance(self.call, str) else list(self.call)


# ------------------------------------------------------------------ good files


def lay_out(folder: Path) -> None:
    """Write good files of every kind."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(3, HEIGHT, WIDTH + 8, generator=generator)
    frames = [picture[:, :, i : i + WIDTH] for i in range(8)]
    for name, frame in (("a", frames[0]), ("b", frames[1])):
        write_image(folder / f"{name}.png", frame)
    write_flow(folder / "flow.flo", torch.full((2, HEIGHT, WIDTH), 0.5))
    write_flow(folder / "zero.flo", torch.zeros(2, HEIGHT, WIDTH))
    write_video(folder / "clip.mp4", frames)
    (folder / "frames").mkdir()
    for number, frame in enumerate(frames[:4]):
        write_image(folder / "frames" / f"{number}.png", frame)
    pair = folder / "pairs" / "set" / "one"
    pair.mkdir(parents=True)
    for name, frame in (("frame1", frames[0]), ("frame2", frames[1])):
        write_image(pair / f"{name}.png", frame)
    write_flow(pair / "flow.flo", torch.full((2, HEIGHT, WIDTH), 0.5))
    (folder / "captioned").mkdir()
    shutil.copy(folder / "clip.mp4", folder / "captioned" / "clip.mp4")
    (folder / "captioned" / "clip.txt").write_text("a dog runs")
    lay_out_networks(folder)


def lay_out_networks(folder: Path) -> None:
    """Write the weights of small networks of every kind, which learned nothing."""
    torch.manual_seed(0)
    save_network(folder / "net.safetensors", "flownet", flownet.FlowNet(flownet.TINY))
    config = dataclasses.replace(dvae.TINY, widths=(8, 16, 32), levels=(3, 3))
    vae = dvae.DVAE(config)
    save_network(folder / "dvae.safetensors", "dvae", vae)
    save_network(folder / "up.safetensors", "upsampler", upsampler.Upsampler(upsampler.TINY))
    pairs = train_pairs(["a dog runs", "a cat walks"], 20)
    media = (
        Medium("text", pairs.size),
        Medium("video", config.codes, (2, 4, 4)),
        Medium("frame", config.codes, (1, 4, 4), first=0, shares="video"),
    )
    words = Vocabulary(media, pairs, text_limit=8)
    net = gpt.GPT(dataclasses.replace(gpt.TINY, vocabulary=words.size, depth=1))
    save_network(folder / "gpt.safetensors", "gpt", net, **{VOCABULARY: words.to_json()})
    sizes = captioner.CaptionerConfig(pairs.size + 1, size=16, widths=(8, 8), hidden=8, joined=8)
    telling = captioner.Captioner(sizes)
    judge = classifier.Classifier(
        classifier.ClassifierConfig((("color", ("red", "blue")),), size=16, widths=(8, 8))
    )
    save_network(folder / "judge.safetensors", "classifier", judge)
    save_network(folder / "say.safetensors", "captioner", telling, **{VOCABULARY: words.to_json()})
    mending = reviser.ReviserConfig(
        (("hair_color", ("red", "blue")),), widths=(8, 16), blocks=(1, 1), embedding=8
    )
    save_network(folder / "mend.safetensors", "reviser", reviser.Reviser(mending))


def save_network(path: Path, name: str, net: Any, **notes: str) -> None:
    """Write weights whose card says all of the configuration."""
    save_weights(path, net, Card(name, dataclasses.asdict(net.config), notes=notes))


# ------------------------------------------------------------------ how to do harm


def put(name: str, data: bytes | str) -> Make:
    """Write a file."""

    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return make


def copied(source: str, target: str) -> Make:
    """Copy a file, or a folder."""

    def make(folder: Path) -> None:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (folder / source).is_dir() else shutil.copy
        copy(folder / source, folder / target)

    return make


def spoil(name: str, change: Callable[[bytes], bytes], source: str | None = None) -> Make:
    """Write a file that is a good one but for a change."""
    return lambda folder: put(name, change((folder / (source or name)).read_bytes()))(folder)


def instead(name: str) -> Make:
    """Put a folder where a file should be."""

    def make(folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
        (folder / name).mkdir()

    return make


def pipe(name: str) -> Make:
    """Put a pipe where a file should be, which nobody ever writes to."""

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)

    return make


def both(*makes: Make) -> Make:
    """Do one after the other."""

    def make(folder: Path) -> None:
        for step in makes:
            step(folder)

    return make


def at(place: int, new: bytes) -> Callable[[bytes], bytes]:
    """Overwrite some bytes."""
    return lambda data: data[:place] + new + data[place + len(new) :]


def cut(share: float) -> Callable[[bytes], bytes]:
    """Keep the beginning."""
    return lambda data: data[: int(share * len(data))]


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (EXECUTED,)


def flo(width: int, height: int, data: bytes = b"", magic: bytes = b"PIEH") -> bytes:
    """Return a .flo file that may lie."""
    return magic + struct.pack("<ii", width, height) + data


def png(width: int, height: int, packed: bytes) -> bytes:
    """Return a PNG of 8-bit RGB that may lie."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as Pillow writes it."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pillow(mode: str) -> Image.Image:
    """Return a picture of one of Pillow's modes."""
    ramp = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    if mode == "I;16":
        return Image.fromarray(ramp * 80)
    if mode == "F":
        return Image.fromarray(ramp.astype(np.float32))
    return Image.fromarray((ramp % 256).astype(np.uint8)).convert("RGB").convert(mode)


def film(path: Path, sizes: Sequence[tuple[int, int]], kind: str = "mpeg") -> None:
    """Write an MPEG stream whose size changes on the way: the parts are simply joined."""
    whole = b""
    for height, width in sizes:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=kind) as container:
            stream: Any = container.add_stream("mpeg2video", Fraction(25))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for level in range(5):
                pixels = np.full((height, width, 3), 40 * level, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode(None))
        whole += buffer.getvalue()
    path.write_bytes(whole)


def sound(path: Path) -> None:
    """Write an MP4 with nothing to see."""
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("aac", 48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def weights(name: str, source: str = "net.safetensors", **changes: Any) -> Make:
    """Write a network's weights with a card, or tensors, that do not fit.

    ``card`` changes its configuration, ``words`` its vocabulary, ``text`` any part of it; ``drop``,
    ``add`` and ``every`` change the tensors.
    """

    def make(folder: Path) -> None:
        tensors, metadata = load_tensors(folder / source)
        tensors = {key: tensor.clone() for key, tensor in tensors.items()}
        config = json.loads(metadata["config"]) | changes.get("card", {})
        metadata["config"] = json.dumps(config)
        if "words" in changes:
            vocabulary = json.loads(metadata[VOCABULARY])
            changes["words"](vocabulary)
            metadata[VOCABULARY] = json.dumps(vocabulary)
        metadata |= changes.get("text", {})
        if changes.get("drop"):
            del tensors[min(tensors)]
        if changes.get("add"):
            tensors["more"] = torch.zeros(3)
        if "every" in changes:
            tensors = {key: changes["every"](tensor) for key, tensor in tensors.items()}
        save_tensors(folder / name, tensors, metadata)

    return make


def pickled(name: str, protocol: int | None = None) -> Make:
    """Write a pickle with code in it; without a protocol, as torch.save does."""

    def make(folder: Path) -> None:
        if protocol is None:
            torch.save({"weight": Evil()}, folder / name)
        else:
            (folder / name).write_bytes(pickle.dumps({"weight": Evil()}, protocol))

    return make


def tar(name: str, members: Mapping[str, bytes | str], link: str | None = None) -> Make:
    """Write a tar file; names of files in the folder stand for their content."""

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / name, "w") as archive:
            for member, content in members.items():
                data = (
                    (folder / content).read_bytes() if isinstance(content, str) else bytes(content)
                )
                about = tarfile.TarInfo(member)
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
            if link is not None:
                about = tarfile.TarInfo("clip.mp4")
                about.type, about.linkname = tarfile.SYMTYPE, link
                archive.addfile(about)

    return make


def zipped(name: str, members: Mapping[str, bytes]) -> Make:
    """Write a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return put(name, buffer.getvalue())


def npy(array: Any, **options: Any) -> bytes:
    """Return what np.save writes."""
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


# ------------------------------------------------------------------ the corpus

NET = "--weights net.safetensors --quality fast"
EVAL_VIDEO = "eval-video --part upsampler --clips 1 --no-held-out"
VIDEO_NETS = "--gpt gpt.safetensors --dvae dvae.safetensors --no-upsampler"
DVAE = "--dvae dvae.safetensors"
WRITER = f"{DVAE} --gpt gpt.safetensors"
PAIR = "pairs/set/one"  # the good pair with known flow
HUGE = 2**31 - 1
NOTHING: Make = lambda folder: None  # noqa: E731


def cases() -> list[Case]:
    """Return the corpus."""
    makers = (
        _right, _flows, _pictures, _odd_pictures, _videos, _weights, _recipes, _settings, _numbers,
        _captions, _prompts, _lists, _folders, _names, _long_names, _runs, _layers,
    )  # fmt: skip
    found = [case for maker in makers for case in maker()]
    assert len({case.name for case in found}) == len(found), "a name stands twice"
    return found


def train(command: str, data: str, more: str = "") -> str:
    """Return a call that would train a very small network for one step."""
    sets = {
        "train-flow": "height=64 width=64 margin=8 student_margin=8 fitted_pairs=0",
        "train-dvae": "size=16 frames=4 validation=1 widths=8,16,32",
        "train-gpt": "clips=2 checked=1 data.size=16 data.frames=4",
        "train-captioner": "clips=2 checked=1 model.size=16 length=8",
        "train-upsampler": "data.size=32 length=4 frames=2",
        "train-reviser": "clips=2 checked=1 size=16 length=8 groups=1 model.widths=8,16",
    }[command]
    settings = " ".join(f"--set {item}" for item in f"{sets} batch_size=2".split())
    return f"{command} {data} --preset tiny --steps 1 --run runs/x {settings} {more}"


def _right() -> Iterator[Case]:
    """A call of each command that must succeed: what is refused elsewhere is so for its fault."""
    calls = {
        "warp": "warp a.png flow.flo -o out.png",
        "flow": f"flow a.png b.png {NET} -o out.flo",
        "show": "show flow.flo -o out.png",
        "convert": "convert flow.flo -o out.npy",
        "interpolate": f"interpolate a.png b.png {NET} -o out.png",
        "train-flow": train("train-flow", "frames"),
        "eval-flow": "eval-flow pairs --method zero",
        "datasets": "datasets make digits --count 1 --size 16 -o made",
        "train-dvae": train("train-dvae", "digits"),
        "train-gpt": train("train-gpt", "digits", DVAE),
        "train-captioner": train("train-captioner", "digits"),
        "train-upsampler": train("train-upsampler", "digits", DVAE),
        "train-reviser": train("train-reviser", "sprites", WRITER),
        "generate-video": f"generate-video dog {VIDEO_NETS} -o out.mp4",
        "describe-video": f"describe-video clip.mp4 --gpt gpt.safetensors {DVAE}",
        "eval-video": f"{EVAL_VIDEO} --upsampler up.safetensors {DVAE}",
    }
    for command, call in calls.items():
        yield Case(f"right: {command}", call, code=0)
    prompt = ["generate-video", "a man with red hair", *VIDEO_NETS.split(), "-o", "out.mp4"]
    prompt += ["--reviser", "mend.safetensors"]
    yield Case("right: generate-video --reviser", prompt, code=0)


def _flows() -> Iterator[Case]:
    harm: dict[str, tuple[str, Make]] = {
        "empty": ("x.flo", put("x.flo", b"")),
        "cut off": ("x.flo", spoil("x.flo", cut(0.5), "flow.flo")),
        "too long": ("x.flo", spoil("x.flo", lambda data: data + b"0", "flow.flo")),
        "wrong magic": ("x.flo", spoil("x.flo", at(0, b"HEIP"), "flow.flo")),
        "huge size": ("x.flo", put("x.flo", flo(HUGE, HUGE))),
        "negative size": ("x.flo", put("x.flo", flo(-3, 5, bytes(120)))),
        "lying size": ("x.flo", put("x.flo", flo(4000, 4000, bytes(80)))),
        "wrong extension": ("x.npy", copied("flow.flo", "x.npy")),
        "a picture": ("a.png", NOTHING),
        "pickle with code": ("x.npy", put("x.npy", npy(np.array([Evil()]), allow_pickle=True))),
        "zip out of its folder": ("x.npz", zipped("x.npz", {"../flow.npy": b"x" * 99})),
        "missing": ("x.flo", NOTHING),
        "pipe for a file": ("x.flo", pipe("x.flo")),
        "folder for a file": ("x.flo", put("x.flo/deep", "")),
    }
    for fault, (name, make) in harm.items():
        yield Case(f"flow {fault}: warp", f"warp a.png {name} -o out.png", make)
        yield Case(f"flow {fault}: show", f"show {name} -o out.png", make)
        if fault != "folder for a file":  # which is a list of files, of which there are none
            yield Case(f"flow {fault}: convert", f"convert {name} -o out.pfm", make)
    for fault in ("cut off", "huge size"):
        make = both(harm[fault][1], copied("x.flo", f"{PAIR}/flow.flo"))
        yield Case(f"flow {fault}: eval-flow", "eval-flow pairs --method zero", make)
    small: Make = lambda folder: write_flow(folder / "x.flo", torch.zeros(2, 3, 5))  # noqa: E731
    yield Case("flow of another size: warp", "warp a.png x.flo -o out.png", small)
    yield Case("flow of another size: show", "show x.flo --image a.png -o out.png", small)
    yield Case("flow of another size: show --error", "show flow.flo --error x.flo -o o.png", small)
    far: Make = lambda folder: write_flow(folder / "x.flo", torch.full((2, 4, 4), 600.0))  # noqa: E731
    yield Case("flow beyond KITTI's range: convert", "convert x.flo -o out.png", far)

    # Unknown everywhere, which is no fault.
    nan = put("x.flo", flo(WIDTH, HEIGHT, struct.pack("<f", float("nan")) * (2 * HEIGHT * WIDTH)))

    def black(folder: Path, out: str) -> bool:
        return not bool(read_image(folder / "out.png").any())

    def unknown(folder: Path, out: str) -> bool:
        return not bool(read_flow(folder / "out.npz")[1].any())

    def nothing_measured(folder: Path, out: str) -> bool:
        return json.loads(out)["sets"][0]["epe"] is None

    yield Case("flow of NaN: warp", "warp a.png x.flo -o out.png", nan, 0, black)
    yield Case("flow of NaN: convert", "convert x.flo -o out.npz", nan, 0, unknown)
    yield Case("flow of NaN: show", "show x.flo -o out.png --legend", nan, 0)
    truth = both(nan, copied("x.flo", f"{PAIR}/flow.flo"))
    call = "eval-flow pairs --method zero --json"
    yield Case("flow of NaN: eval-flow", call, truth, 0, nothing_measured)


def _pictures() -> Iterator[Case]:
    jpeg, webp = saved(pillow("RGB"), "JPEG"), saved(pillow("RGB"), "WEBP", lossless=True)
    tiff = saved(pillow("RGB"), "TIFF", compression="tiff_deflate")
    flip = lambda data: at(60, bytes([data[60] ^ 1]))(data)  # noqa: E731
    harm: dict[str, tuple[str, Make]] = {
        "empty": ("x.png", put("x.png", b"")),
        "text": ("x.png", put("x.png", "not a picture\n" * 9)),
        "cut off png": ("x.png", spoil("x.png", cut(0.6), "a.png")),
        "cut off jpg": ("x.jpg", put("x.jpg", cut(0.6)(jpeg))),
        "cut off webp": ("x.webp", put("x.webp", cut(0.6)(webp))),
        "cut off tif": ("x.tif", put("x.tif", cut(0.6)(tiff))),
        "bit flipped": ("x.png", spoil("x.png", flip, "a.png")),
        "huge size": ("x.png", put("x.png", png(HUGE, HUGE, zlib.compress(b"0")))),
        "lying size": ("x.png", put("x.png", png(9000, 9000, zlib.compress(bytes(999))))),
        "bomb": ("x.png", put("x.png", png(11000, 11000, zlib.compress(bytes(2**20)) * 400))),
        "no number": ("x.tif", put("x.tif", saved(pillow("F"), "TIFF"))),
        "missing": ("x.png", NOTHING),
    }
    for fault, (name, make) in harm.items():
        yield Case(f"picture {fault}: warp", f"warp {name} flow.flo -o out.png", make)
        yield Case(f"picture {fault}: flow", f"flow a.png {name} {NET} -o out.flo", make)
        call = f"interpolate a.png {name} {NET} -o out.png"
        yield Case(f"picture {fault}: interpolate", call, make)
        call = f"generate-video dog --image {name} {VIDEO_NETS} -o out.mp4"
        yield Case(f"picture {fault}: generate-video", call, make)
    folder = instead("x.png")
    yield Case("picture is a folder: warp", "warp x.png flow.flo -o new/", folder)
    yield Case("picture is a folder: flow", f"flow a.png x.png {NET} -o new/", folder)
    for fault in ("cut off png", "huge size"):
        make = both(harm[fault][1], copied("x.png", f"{PAIR}/frame2.png"))
        yield Case(f"picture {fault}: eval-flow", "eval-flow pairs --method zero", make)
        call = "show flow.flo --image x.png -o out.png"
        yield Case(f"picture {fault}: show", call, harm[fault][1])


def _odd_pictures() -> Iterator[Case]:
    """Pictures that are right, though not 8-bit RGB: zero flow must give them back."""
    odd = {
        "grey": saved(pillow("L"), "PNG"),
        "RGBA": saved(pillow("RGBA"), "PNG"),
        "palette": saved(pillow("P"), "PNG"),
        "one bit": saved(pillow("1"), "PNG"),
        "16-bit": saved(pillow("I;16"), "PNG"),
        "CMYK": saved(pillow("CMYK"), "JPEG", quality=95),
        "jpg called png": saved(pillow("RGB"), "JPEG"),
    }

    def unchanged(folder: Path, out: str) -> bool:
        one, form = read_image_with_format(folder / "x.png")
        two, other = read_image_with_format(folder / "out.png")
        return torch.equal(one, two) and form == other

    def all_known(folder: Path, out: str) -> bool:
        return bool(read_flow(folder / "out.flo")[1].all())

    for kind, data in odd.items():
        make = put("x.png", data)
        name = f"odd picture {kind}"
        yield Case(f"{name}: warp", "warp x.png zero.flo -o out.png", make, 0, unchanged)
        yield Case(f"{name}: flow", f"flow x.png x.png {NET} -o out.flo", make, 0, all_known)

    dot = both(put("x.png", png(1, 1, zlib.compress(b"\0abc"))), copied("x.png", "y.png"))
    still = both(dot, put("x.flo", flo(1, 1, bytes(8))))
    name = "odd picture of 1 pixel"
    for quality in ("fast", "balanced", "best"):
        call = f"flow x.png y.png --weights net.safetensors --quality {quality} -o out.flo"
        yield Case(f"{name}: flow {quality}", call, dot, 0, all_known)
    call = f"interpolate x.png y.png {NET} -o out.png"
    yield Case(f"{name}: interpolate", call, dot, 0, unchanged)
    yield Case(f"{name}: warp", "warp x.png x.flo -o out.png", still, 0, unchanged)
    yield Case(f"{name}: show", "show x.flo -o out.png", still, 0)
    pair = both(still, *(copied("x.png", f"{PAIR}/frame{number}.png") for number in (1, 2)),
                copied("x.flo", f"{PAIR}/flow.flo"))  # fmt: skip
    for method, code in (("zero", 0), ("dis", 3), ("farneback", 0)):
        call = f"eval-flow pairs --method {method}"
        yield Case(f"{name}: eval-flow {method}", call, pair, code)
    name = "odd picture of another size"
    yield Case(f"{name}: flow", f"flow a.png x.png {NET} -o out.flo", dot)
    yield Case(f"{name}: interpolate", f"interpolate a.png x.png {NET} -o out.png", dot)
    half = both(dot, copied("x.png", f"{PAIR}/frame2.png"))
    yield Case(f"{name}: eval-flow", "eval-flow pairs --method zero", half)


def _videos() -> Iterator[Case]:
    gif = saved(pillow("P"), "GIF")
    harm: dict[str, tuple[str, Make]] = {
        "empty": ("x.mp4", put("x.mp4", b"")),
        "text": ("x.mp4", put("x.mp4", "no video\n" * 30)),
        "header only": ("x.mp4", spoil("x.mp4", lambda data: data[:60], "clip.mp4")),
        "cut in its index": ("x.mp4", spoil("x.mp4", lambda data: data[: data.index(b"moov") + 20],
                                            "clip.mp4")),
        "nothing to see": ("x.mp4", lambda folder: sound(folder / "x.mp4")),
        "playlist": ("x.mp4", put("x.mp4", "#EXTM3U\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n")),
        "list of files": ("x.mp4", put("x.mp4", "ffconcat version 1.0\nfile clip.mp4\n")),
        "huge gif": ("x.gif", put("x.gif", at(6, b"\xff\xff\xff\xff")(gif))),
        "missing": ("x.mp4", NOTHING),
        "folder for a file": ("x.mp4", instead("x.mp4")),
    }  # fmt: skip
    for fault, (name, make) in harm.items():
        yield Case(f"video {fault}: warp", f"warp {name} flow.flo -o out.mp4", make)
        yield Case(f"video {fault}: flow", f"flow {name} {NET} -o flows", make)
        yield Case(f"video {fault}: interpolate", f"interpolate {name} {NET} -o out.mp4", make)
        yield Case(f"video {fault}: train-flow", train("train-flow", name), make)
        call = f"describe-video {name} --gpt gpt.safetensors --dvae dvae.safetensors"
        yield Case(f"video {fault}: describe-video", call, make)
    breaks = spoil("x.mp4", lambda data: data[: data.index(b"mdat") + 400], "clip.mp4")
    yield Case("video breaks off: warp", "warp x.mp4 flow.flo -o out.mp4", breaks)
    yield Case("video breaks off: interpolate", f"interpolate x.mp4 {NET} -o out.mp4", breaks)
    grows: Make = lambda folder: film(folder / "x.mpg", [(24, 32), (48, 64)])  # noqa: E731
    yield Case("video changes size: warp", "warp x.mpg flow.flo -o out.mp4", grows)
    yield Case("video changes size: interpolate", f"interpolate x.mpg {NET} -o out.mp4", grows)
    call = f"flow x.mpg {NET} -o flows"
    yield Case("video changes size: flow", call, grows, 5, writes=["flows/*"])
    single: Make = lambda folder: write_video(folder / "x.mp4", [torch.zeros(3, 24, 32)])  # noqa: E731
    yield Case("video of one frame: flow", f"flow x.mp4 {NET} -o flows", single)
    yield Case("video of one frame: interpolate", f"interpolate x.mp4 {NET} -o out.mp4", single)
    yield Case("video of one frame: train-flow", train("train-flow", "x.mp4"), single)
    two = {"save_all": True, "append_images": [pillow("P").rotate(180)]}
    yield Case("video odd gif: warp", "warp x.gif zero.flo -o out.gif",
               put("x.gif", saved(pillow("P"), "GIF", **two)), 0,
               lambda folder, out: len(list(read_video(folder / "out.gif"))) == 2)  # fmt: skip


def _weights() -> Iterator[Case]:
    safe = "x.safetensors"
    flip: Callable[[bytes], bytes] = lambda data: data[:-9] + b"\x55" + data[-8:]  # noqa: E731
    nan: Callable[[Tensor], Tensor] = lambda tensor: torch.full_like(tensor, torch.nan)  # noqa: E731
    harm: dict[str, tuple[str, Make]] = {
        "missing": (safe, NOTHING),
        "empty": (safe, put(safe, b"")),
        "text": (safe, put(safe, "hello\n" * 99)),
        "folder for a file": (safe, instead(safe)),
        "pipe for a file": (safe, pipe(safe)),
        "cut off": (safe, spoil(safe, cut(0.7), "net.safetensors")),
        "cut in header": (safe, spoil(safe, lambda data: data[:200], "net.safetensors")),
        "bit flipped": (safe, spoil(safe, flip, "net.safetensors")),
        "header of 8 EB": (safe, spoil(safe, at(0, b"\xff" * 7 + b"\x7f{"), "net.safetensors")),
        "pickle of torch.save": ("x.pt", pickled("x.pt")),
        "pickle called safetensors": (safe, pickled(safe)),
        "bare pickle": (safe, pickled(safe, 4)),
        "old pickle": ("x.pth", pickled("x.pth", 0)),
        "no card": (safe, lambda folder: save_tensors(folder / safe, {"a": torch.ones(2)}, {})),
        "of another network": ("dvae.safetensors", NOTHING),
        "broken card": (safe, weights(safe, text={"config": "{"})),
        "card is a list": (safe, weights(safe, text={"config": "[1]"})),
        "deep card": (safe, weights(safe, text={"config": "[" * 100_000})),
        "card of text": (safe, weights(safe, card={"radius": "four"})),
        "card with unknown key": (safe, weights(safe, card={"colour": 3})),
        "card says 0": (safe, weights(safe, card={"projected": 0})),
        "card says -1": (safe, weights(safe, card={"context": -1})),
        "card is huge": (safe, weights(safe, card={"decoder": [10**5, 10**5, 10**5]})),
        "card is long": (safe, weights(safe, card={"widths": [8] * 10**5})),
        "card of huge radius": (safe, weights(safe, card={"radius": 10**5})),
        "card says true": (safe, weights(safe, card={"radius": True})),
        "card says 3.0": (safe, weights(safe, card={"radius": 3.0})),
        "card of infinity": (safe, weights(safe, text={"config": '{"radius": Infinity}'})),
        "lacks a tensor": (safe, weights(safe, drop=True)),
        "a tensor too many": (safe, weights(safe, add=True)),
        "other shapes": (safe, weights(safe, every=lambda tensor: tensor[None])),
        "NaN": (safe, weights(safe, every=nan)),
        "of complex numbers": (safe, weights(safe, every=lambda t: t.to(torch.complex64))),
    }
    for fault, (name, make) in harm.items():
        yield Case(f"weights {fault}: flow", f"flow a.png b.png --weights {name} -o x.flo", make)
    calls = {
        "interpolate": "interpolate a.png b.png --weights {} -o out.png",
        "eval-flow": "eval-flow pairs --method fast --weights {}",
        "train-dvae": train("train-dvae", "captioned", "--flow {}"),
        "train-gpt": train("train-gpt", "digits", "--dvae {}"),
        "train-gpt --sketcher": train("train-gpt", "digits", f"{DVAE} --sketcher {{}}"),
        "generate-video captioner": f"generate-video dog {VIDEO_NETS} --captioner {{}} -o x.mp4",
        "generate-video sketcher": f"generate-video dog {VIDEO_NETS} --sketcher {{}} -o x.mp4",
        "train-upsampler": train("train-upsampler", "digits", "--dvae {}"),
        "train-upsampler --flow": train("train-upsampler", "captioned", f"{DVAE} --flow {{}}"),
        "train-upsampler --start": train("train-upsampler", "digits", f"{DVAE} --start {{}}"),
        "generate-video gpt": "generate-video dog --gpt {} --dvae dvae.safetensors -o x.mp4",
        "generate-video dvae": "generate-video dog --gpt gpt.safetensors --dvae {} -o x.mp4",
        "generate-video upsampler": "generate-video dog --gpt gpt.safetensors"
        " --dvae dvae.safetensors --upsampler {} -o x.mp4",
        "describe-video": "describe-video clip.mp4 --gpt {} --dvae dvae.safetensors",
        "describe-video captioner": "describe-video clip.mp4 --captioner {}",
        "train-captioner": train("train-captioner", "digits", "--start {}"),
        "train-reviser --dvae": train(
            "train-reviser", "sprites", "--gpt gpt.safetensors --dvae {}"
        ),
        "train-reviser --gpt": train("train-reviser", "sprites", f"{DVAE} --gpt {{}}"),
        "train-reviser --start": train("train-reviser", "sprites", f"{WRITER} --start {{}}"),
        "generate-video reviser": f"generate-video dog {VIDEO_NETS} --reviser {{}} -o x.mp4",
        "eval-video classifier": "eval-video --part classifier --classifier {}",
        "eval-video dvae": f"{EVAL_VIDEO} --upsampler up.safetensors --dvae {{}}",
        "eval-video upsampler": f"{EVAL_VIDEO} --dvae dvae.safetensors --upsampler {{}}",
    }
    said = {
        "cut off": "is not a whole safetensors file",
        "pickle of torch.save": "is a pickle",
        "no card": "does not say which network it is of",
    }
    for fault, line in said.items():
        name, make = harm[fault]
        for command, call in calls.items():
            yield Case(f"weights {fault}: {command}", call.format(name), make, says=line)
    files = {
        "interpolate": "net", "eval-flow": "net", "train-dvae": "net", "train-gpt": "dvae",
        "train-gpt --sketcher": "say", "generate-video captioner": "say",
        "generate-video sketcher": "say", "train-upsampler": "dvae",
        "train-upsampler --flow": "net", "train-upsampler --start": "up",
        "generate-video gpt": "gpt", "generate-video dvae": "dvae",
        "generate-video upsampler": "up", "describe-video": "gpt",
        "describe-video captioner": "say", "train-captioner": "say",
        "train-reviser --dvae": "dvae", "train-reviser --gpt": "gpt",
        "train-reviser --start": "mend", "generate-video reviser": "mend",
        "eval-video classifier": "judge", "eval-video dvae": "dvae", "eval-video upsampler": "up",
    }  # fmt: skip
    for command, call in calls.items():
        make = weights(safe, f"{files[command]}.safetensors", every=nan)
        line = "is not finite everywhere"
        yield Case(f"weights NaN: {command}", call.format(safe), make, says=line)
    for command in (
        "train-gpt", "train-upsampler", "train-captioner", "train-reviser --dvae",
        "train-reviser --gpt", "train-reviser --start", "generate-video reviser",
    ):  # fmt: skip
        line = "holds the weights of flownet, not of"
        yield Case(
            f"weights of another network: {command}",
            calls[command].format("net.safetensors"),
            says=line,
        )
    for command, file, card in (
        ("generate-video gpt", "gpt.safetensors", {"width": 2**20, "heads": 1, "kv_heads": 1}),
        ("generate-video gpt", "gpt.safetensors", {"depth": 2**20}),
        ("generate-video dvae", "dvae.safetensors", {"widths": [2**20, 2**21, 2**22]}),
        ("describe-video captioner", "say.safetensors", {"vocabulary": 2**20}),
        ("describe-video captioner", "say.safetensors", {"hidden": 2**20}),
        ("generate-video captioner", "say.safetensors", {"kinds": 10**9}),
        ("generate-video upsampler", "up.safetensors", {"widths": [2**20, 2**20]}),
        ("generate-video reviser", "mend.safetensors", {"widths": [2**20, 2**20]}),
        ("generate-video reviser", "mend.safetensors", {"blocks": [2**20, 2**20]}),
        ("generate-video reviser", "mend.safetensors", {"embedding": 2**16}),
        (
            "generate-video reviser",
            "mend.safetensors",
            {"attributes": [["hair_color", [str(number) for number in range(10**6)]]]},
        ),
    ):
        make = weights(safe, file, card=card)
        network = command.split()[1]
        call = calls[command].format(safe)
        yield Case(f"weights card of {min(card)} is huge: {network}", call, make)
    odd: dict[tuple[str, str], Sequence[object]] = {
        ("describe-video", "norm"): ("x", None, [], 3),
        ("describe-video captioner", "apart"): (1e999, 10**30, 2**31, 4.0),
        ("eval-video classifier", "apart"): (1e999, math.nan, 10**30, 2**31),
        ("generate-video dvae", "groups"): (2**31, 10**30, True),
        ("generate-video upsampler", "residual"): (1e999, 10**30, 1e-300, "x"),
        ("generate-video upsampler", "sharpness"): (1e999, 10**30),
        ("generate-video reviser", "frames"): (0, 1e999, 10**30, 4.0, True),
        ("generate-video reviser", "embedding"): (math.nan, 2**31, [8]),
        ("generate-video reviser", "norm"): ("batch", None),
    }
    for (command, name), values in odd.items():
        for value in values:
            make = weights(safe, f"{files[command]}.safetensors", card={name: value})
            yield Case(f"weights odd {name} {value}: {command}", calls[command].format(safe), make,
                       says=f"({name} must be ")  # fmt: skip
    words: dict[str, tuple[Callable[[Any], object], str]] = {
        "text of 10**9": (lambda w: w.update(text_limit=10**9), "text_limit"),
        "text without end": (lambda w: w.update(text_limit=1e999), "text_limit"),
        "size without end": (lambda w: w["media"][0].update(size=1e999), "size of text"),
        "text on a grid": (lambda w: w["media"][0].update(grid=[1, 1, 1]), "text"),
        "grid of 10**9": (lambda w: w["media"][1].update(grid=[10**3] * 3), "grid of video"),
        "first 10**30": (lambda w: w["media"][1].update(first=10**30), "first of video"),
        "first 2": (lambda w: w["media"][1].update(first=2), "video"),
    }
    for fault, (change, name) in words.items():
        for command in ("describe-video", "describe-video captioner", "generate-video gpt"):
            make = weights(safe, f"{files[command]}.safetensors", words=change)
            yield Case(f"weights odd {fault}: {command}", calls[command].format(safe), make,
                       says=f"its vocabulary is broken ({name} must ")  # fmt: skip
    yield Case(
        "weights of another network: describe-video captioner",
        calls["describe-video captioner"].format("gpt.safetensors"),
    )
    for command in ("classifier", "dvae", "upsampler"):
        call = calls[f"eval-video {command}"].format("gpt.safetensors")
        yield Case(f"weights of another network: eval-video {command}", call)
    pairs = "(attributes must be names, each with its values)"
    attributes: dict[str, tuple[object, str]] = {
        "none at all": ([], "(attributes must be one or more)"),
        "a number": (3, pairs),
        "text": ("hair", pairs),
        "of a number": ([["hair_color", 3]], pairs),
        "of numbers": ([["hair_color", [1, 2]]], "(values of hair_color must be different texts)"),
        "without values": ([["hair_color"]], pairs),
        "a mapping": ({"hair_color": ["red", "blue"]}, pairs),
        "the same twice": ([["hair", []]] * 2, "(attributes must have different names)"),
    }
    for fault, (value, line) in attributes.items():
        make = weights(safe, "mend.safetensors", card={"attributes": value})
        call = calls["generate-video reviser"].format(safe)
        yield Case(f"weights odd attributes, {fault}: generate-video reviser", call, make,
                   says=line)  # fmt: skip
    for command, sizes, line in (
        ("generate-video reviser", {"frames": 2}, "revises 2 frames at a time"),
        ("train-reviser --start", {"frames": 2}, "frames must be 4"),
        ("generate-video reviser", {"widths": (8,) * 5, "blocks": (0,) * 5}, "multiple of 32"),
    ):

        def unfit(folder: Path, sizes: Mapping[str, Any] = sizes) -> None:
            settings = {"widths": (8, 16), "blocks": (1, 1), **sizes}
            net = reviser.Reviser(reviser.ReviserConfig((("hair_color", ("red",)),), **settings))
            save_network(folder / safe, "reviser", net)

        call = calls[command].format(safe)
        yield Case(f"weights of other {min(sizes)}: {command}", call, unfit, says=line)
    swapped = "generate-video dog --gpt dvae.safetensors --dvae gpt.safetensors -o x.mp4"
    yield Case("weights swapped: generate-video", swapped)


def _recipes() -> Iterator[Case]:
    def of(frame1: str, frame2: str = "b", flow: str = "c") -> str:
        parts = {"frame1": frame1, "frame2": frame2, "flow": flow}
        lines = [f"{key} = {json.dumps(value)}" for key, value in parts.items()]
        return "\n".join(['title = "x"', "[sets.x]", *lines])

    harm: dict[str, bytes | str] = {
        "empty": b"",
        "broken": "[sets",
        "binary": bytes(range(256)),
        "not UTF-8": b'title = "\xff\xfe"\n',
        "deep": "a = " + "[" * 100_000,
        "of 2 MB": "# " + "x" * 2**21,
        "without title": of("{*pair}/a").replace("title", "home"),
        "unknown key": "colour = 3\n" + of("{*pair}/a"),
        "sets is text": 'title = "x"\nsets = "none"\n',
        "set is text": 'title = "x"\n[sets]\nx = 3\n',
        "set lacks flow": 'title = "x"\n[sets.x]\nframe1 = "a"\nframe2 = "b"\n',
        "pattern is a number": 'title = "x"\n[sets.x]\nframe1 = 1\nframe2 = 2\nflow = 3\n',
        "pattern twice": of("{a}/{a}"),
        "pattern absolute": of("/{a}"),
        "pattern empty": of("", "", ""),
        "pattern leads out": of("../{a}.png", "../b.png", "../flow.flo"),
        "pattern of stars": of("**x/{a}"),
        "pattern of a deep part": of("{*a}x/b"),
        "pattern of unknown parts": of("{a}", "{b}{c}.png"),
        "field of a digit": of("{1}", "{1}"),
        "field counts far": of("{n}.png", "{n+99999999999999999999}.png"),
        "field counts words": of("{a}.png", "{a+1}.png", "flow.flo"),
        "null in a pattern": of("{a}\0"),
    }
    for fault, text in harm.items():
        make = put("x.toml", text)
        call = "eval-flow . --method zero --recipe x.toml"
        yield Case(f"recipe {fault}: eval-flow", call, make)
        if fault.startswith(("broken", "binary", "deep", "without", "pattern t")):
            yield Case(f"recipe {fault}: datasets", "datasets info x.toml", make)
    yield Case("recipe unknown: datasets", "datasets info nothing")
    yield Case("recipe unknown: eval-flow", "eval-flow pairs --recipe nothing")


def _settings() -> Iterator[Case]:
    harm: dict[str, bytes | str] = {
        "broken": "[loop",
        "binary": bytes(range(256)),
        "deep": "a = " + "[" * 100_000,
        "of 2 MB": "# " + "x" * 2**21,
        "unknown section": "[nothing]\nx = 1\n",
        "unknown key": "[loop]\nspeed = 1\n",
        "text for a number": '[loop]\nsteps = "many"\n',
        "NaN": "[loop]\nlearning_rate = nan\n",
        "negative": "[loop]\nsteps = -5\n",
        "number of 400 digits": f"[loop]\nlearning_rate = {'9' * 400}\n",
        "huge batch": f"[loop]\nbatch_size = {10**15}\n",
    }
    call = "train-dvae digits --preset tiny --steps 1 --run runs/x --config x.toml"
    for fault, text in harm.items():
        yield Case(f"config {fault}: train-dvae", call, put("x.toml", text))
    huge = put("x.toml", "[model]\nwidths = [1000000, 2000000, 4000000]\n")
    yield Case("config huge network: train-dvae", call, huge, 6)
    values = ("steps=1e400", "steps=", "=3", "steps=1=2", "steps=[1", f"seed={10**30}",
              "learning_rate=inf", "precision=fp8")  # fmt: skip
    for value in values:
        call = train("train-dvae", "digits", f"--set {value}")
        yield Case(f"setting {value}: train-dvae", call, code=2 if value == "=3" else 3)
    codec = {"train-gpt": DVAE, "train-upsampler": DVAE, "train-reviser": WRITER}
    wrong = {
        "train-gpt": ("clips=0", "data.frames=3", "data.size=15", "text_limit=-1", "merges=many",
                      "depth=0", "width=33", "heads=0", "kinds=-1"),
        "train-captioner": ("clips=0", "length=0", "data.frames=0", "text_limit=0", "merges=-1",
                            "model.size=15", "blind=2", "widths=[]", "hidden=0", "norm=batch"),
        "train-upsampler": ("frames=9", "frames=0", "data.size=33", "spoilt=-1", "errors=2",
                            "widths=[]", "forget=nan", "own_steps=0", "norm=batch"),
        "train-reviser": ("clips=0", "checked=0", "data.size=32", "length=4", "groups=3",
                          "mixed=2", "redrawn=nan", "most=-1", "told=2", "mirrored=inf",
                          "gradient=-1", "actor=nan", "smooth=inf", "model.frames=2",
                          "widths=12,16", "widths=[]", "blocks=1", "embedding=0", "norm=batch"),
    }  # fmt: skip
    for command, own in wrong.items():
        for value in ("unheard=1", "learning_rate=nan", "batch_size=0", *own):
            data = "sprites" if command == "train-reviser" else "digits"
            call = train(command, data, f"{codec.get(command, '')} --set {value}")
            says = value.split("=")[0].split(".")[-1]
            code = 2 if says == "unheard" else 3
            yield Case(f"setting {value}: {command}", call, code=code, says=says)
    huge = put("x.toml", f"[model]\nembedding = {2**16}\n")
    call = train("train-reviser", "sprites", f"{WRITER} --config x.toml")
    yield Case("config huge network: train-reviser", call, huge, 6)
    call = train("train-reviser", "digits", WRITER)
    yield Case("setting of other clips: train-reviser", call, code=2, says="DATA must be sprites")


def _numbers() -> Iterator[Case]:
    """What is no number, or has no end, wherever a fraction is wanted."""
    sampled = ("temperature", "top-p", "guidance", "detail", "plausible")
    calls: dict[str, tuple[str, Sequence[str]]] = {
        "warp": ("warp a.png flow.flo -o out.png", ("scale",)),
        "show": ("show flow.flo -o out.png", ("max",)),
        "interpolate": (f"interpolate clip.mp4 {NET} -o out.mp4", ("fps",)),
        "generate-video": (f"generate-video dog {VIDEO_NETS} -o out.mp4", ("fps", *sampled)),
        "generate-video of a gif": (f"generate-video dog {VIDEO_NETS} -o out.gif", ("fps",)),
        "generate-video of frames": (f"generate-video dog {VIDEO_NETS} -o out/", ("fps",)),
        "eval-video": (f"{EVAL_VIDEO} --upsampler up.safetensors {DVAE}", sampled),
    }
    for command, (call, options) in calls.items():
        for option in options:
            for value in ("nan", "inf", "-inf", "1e999999999"):
                yield Case(f"number {value}: {command} --{option}", f"{call} --{option}={value}",
                           code=2, says=option.replace("-p", ""))  # fmt: skip


def _captions() -> Iterator[Case]:
    clip, table = "captioned/clip.mp4", "captioned/captions.csv"
    bare: Make = lambda folder: (folder / "captioned/clip.txt").unlink()  # noqa: E731

    def listed(text: bytes | str) -> tuple[str, Make]:
        return "captioned", both(bare, put(table, text))

    def packed(members: Mapping[str, bytes | str], *more: Make) -> tuple[str, Make]:
        return "x.tar", both(tar("x.tar", members), *more)

    good: dict[str, bytes | str] = {"clip.mp4": clip, "clip.txt": b"a dog"}
    harm: dict[str, tuple[str, Make]] = {
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
        "video broken": ("captioned", spoil(clip, lambda data: data[:99])),
        "video a tone": ("captioned", lambda folder: sound(folder / clip)),
        "tar empty": ("x.tar", put("x.tar", b"")),
        "tar of text": ("x.tar", put("x.tar", "no archive\n" * 99)),
        "tar compressed": ("x.tar.gz", put("x.tar.gz", b"\x1f\x8b" + bytes(99))),
        "tar cut off": packed(good, spoil("x.tar", lambda data: data[:1500])),
        "tar leads out": packed({"../clip.mp4": clip, "../clip.txt": b"a dog"}),
        "tar absolute": packed({"/tmp/clip.mp4": clip, "/tmp/clip.txt": b"dog"}),
        "tar with a link": ("x.tar", tar("x.tar", {"clip.txt": b"a dog"}, link="/etc/passwd")),
        "tar lies of lengths": packed(good, spoil("x.tar", at(124, b"77777777777\0"))),
        "tar without captions": packed({"clip.mp4": clip}),
        "tar of JSON that is none": packed({"clip.mp4": clip, "clip.json": b"[" * 60_000}),
        "folder missing": ("nothing", NOTHING),
        "a file for a folder": ("a.png", NOTHING),
    }
    for fault, (source, make) in harm.items():
        yield Case(f"captions {fault}: train-dvae", train("train-dvae", source), make)
        if fault in ("empty", "table leads out", "tar leads out"):
            for command in ("train-gpt", "train-upsampler", "train-captioner"):
                call = train(command, source, "" if command == "train-captioner" else DVAE)
                yield Case(f"captions {fault}: {command}", call, make, says=source)
    right: dict[str, bytes | str] = {
        "10 kB": "a dog runs " * 900,
        "another script": "一只狗在奔跑 كلب يجري 🐕",
    }
    call = train("train-gpt", "captioned", "--dvae dvae.safetensors")
    for kind, text in right.items():
        yield Case(f"captions {kind}: train-gpt", call, put("captioned/clip.txt", text), 0)


def _prompts() -> Iterator[Case]:
    nets = VIDEO_NETS.split()

    def lies_here(folder: Path, out: str) -> bool:
        (name,) = out.splitlines()
        return Path(name).name == name and (folder / name).is_file()

    right = {
        "of 10 kB": "a dog runs " * 900,
        "another script": "一只狗在奔跑 كلب يجري 🐕",
        "like a command": "$(mkdir executed);`mkdir executed`|mkdir executed",
        "like a path": "../../etc/passwd",
        "of control characters": "a\x1b[31m\ndog\t",
        "not UTF-8": os.fsdecode(b"a d\xf4g"),
    }
    for kind, prompt in right.items():
        call = ["generate-video", prompt, *nets, "-o", "out.mp4"]
        yield Case(f"prompt {kind}: generate-video", call, code=0)
        name = f"prompt {kind}, as a name: generate-video"
        yield Case(name, call[:-2], code=0, check=lies_here)
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


def _lists() -> Iterator[Case]:
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


def _folders() -> Iterator[Case]:
    def holds(name: str, count: int) -> Callable[[Path, str], bool]:
        return lambda folder, out: len(list(folder.glob(name))) == count

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
    half: Make = lambda folder: (folder / PAIR / "frame2.png").unlink()  # noqa: E731
    yield Case("folder with half a pair: eval-flow", call, half)
    photos = put("photos/a.png", "broken")
    call = train("train-flow", "frames", "--photos photos")
    yield Case("folder of bad photos: train-flow", call, photos)
    call = "datasets make sprites --count 1 --size 16 -o made --photos photos"
    yield Case("folder of bad photos: datasets", call, photos)
    call = train("train-reviser", "sprites", f"{WRITER} --photos photos")
    yield Case("folder of bad photos: train-reviser", call, photos)
    calls = {
        "flow": f"flow void {NET} -o flows",
        "warp": "warp void flow.flo -o new/",
        "show": "show void -o new/",
        "convert": "convert void --to npy -o new/",
        "interpolate": f"interpolate void {NET} -o out.mp4",
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
        make: Make = lambda folder: (folder / "void").mkdir()  # noqa: E731
        yield Case(f"folder empty: {command}", call, make, says="void")
    listing = "done/manifest.jsonl"
    manifests = {
        "a pipe": pipe(listing),
        "binary": put(listing, bytes(range(256)) * 20),
        "empty": put(listing, b""),
        "of another command": put(listing, b'{"job": "convert"}\n'),
        "deep": put(listing, b"[" * 100_000),
        "a list": put(listing, b"[1]\n[2]\n"),
    }
    for fault, make in manifests.items():
        for call in (f"flow frames {NET} -o done", "warp frames flow.flo -o done"):
            yield Case(f"manifest {fault}: {call.split()[0]}", call, make, 4,
                       writes=["done/.lock"], says="manifest.jsonl: is no")  # fmt: skip


def _names() -> Iterator[Case]:
    strange = {
        "not UTF-8": os.fsdecode(b"\xff\xfe"),
        "of control characters": "\x1b[31m\n\t",
        "like an option": "./-o",
        "like a pattern": "[ab]*?",
        "like a command": "$(mkdir executed);`mkdir executed`|mkdir executed&",
        "like a protocol": "concat:a",
        "of 200 characters": "x" * 200,
        "in another script": "一只狗 🐕",
    }
    net = NET.split()
    for kind, stem in strange.items():
        picture, video, weights_ = (f"{stem}{end}" for end in (".png", ".mp4", ".safetensors"))
        calls: dict[str, tuple[list[str], Make]] = {
            "warp": (["warp", picture, "zero.flo", "-o", "out.png"], copied("a.png", picture)),
            "warp, to": (["warp", "a.png", "zero.flo", "-o", picture], NOTHING),
            "flow": (["flow", picture, "b.png", *net, "-o", "x.flo", "--json"],
                     copied("a.png", picture)),
            "flow of a video": (["flow", video, *net, "-o", "flows"], copied("clip.mp4", video)),
            "interpolate, to": (["interpolate", "clip.mp4", *net, "-o", video], NOTHING),
            "eval-flow": (["eval-flow", "sets", "--method", "zero"],
                          copied("pairs/set", f"sets/{stem}")),
            "flow, weights": (["flow", "a.png", "b.png", "--weights", weights_, "-o", "x.flo"],
                              copied("net.safetensors", weights_)),
            "describe-video": (["describe-video", video, "--gpt", "gpt.safetensors", "--dvae",
                                "dvae.safetensors"], copied("clip.mp4", video)),
        }  # fmt: skip
        for what, (words, make) in calls.items():
            yield Case(f"name {kind}: {what}", words, make, 0)


def _long_names() -> Iterator[Case]:
    long = "x" * 300
    inputs = {
        "warp": f"warp {long}.png flow.flo -o out.png",
        "interpolate": f"interpolate {long} -o out.mp4",
        "train-flow": train("train-flow", long),
        "train-dvae": train("train-dvae", long),
        "eval-flow": f"eval-flow {long}",
        "describe-video": f"describe-video {long}.mp4 {VIDEO_NETS.replace('--no-upsampler', '')}",
        "train-gpt": train("train-gpt", long, DVAE),
        "train-captioner": train("train-captioner", long),
        "train-upsampler": train("train-upsampler", long, DVAE),
        "train-reviser": train("train-reviser", "sprites", f"{DVAE} --gpt {long}"),
    }
    outputs = {
        "warp": f"warp a.png flow.flo -o {long}.png",
        "show": f"show flow.flo -o {long}.png",
        "flow": f"flow clip.mp4 {NET} -o {long}",
        "interpolate": f"interpolate clip.mp4 {NET} -o {long}",
        "datasets": f"datasets make digits --count 1 -o {long}",
        "train-dvae": train("train-dvae", "digits", f"--run {long}"),
        "generate-video": f"generate-video dog {VIDEO_NETS} -o {long}.mp4",
    }
    blocked = {  # by a file where a folder should be
        "warp": "warp a.png flow.flo -o b.png/out.png",
        "flow": f"flow clip.mp4 {NET} -o b.png/x",
        "datasets": "datasets make digits --count 1 -o b.png",
        "train-dvae": train("train-dvae", "digits", "--run b.png"),
        "train-dvae below": train("train-dvae", "digits", "--run b.png/x"),
        "generate-video": f"generate-video dog {VIDEO_NETS} -o b.png/x.mp4",
    }
    for command, call in inputs.items():
        yield Case(f"name too long: {command}", call)
    for command, call in outputs.items():
        yield Case(f"name of the result too long: {command}", call, code=4)
    for command, call in blocked.items():
        yield Case(f"name of a file for a folder: {command}", call, code=4)


def _runs() -> Iterator[Case]:
    state = "runs/x/state-00000001.safetensors"
    begun = put("runs/x/metrics.jsonl", "")

    def saves(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Make:
        return both(begun, lambda folder: save_tensors(folder / state, tensors, metadata))

    form = {"format": "flowwarp-state-1"}
    changed = {
        "of broken states": put(state, "broken"),
        "of a pickle": both(begun, pickled(state)),
        "of another format": saves({}, {"format": "x"}),
        "without facts": saves({}, form),
        "of broken facts": saves({}, form | {"step": "1", "facts": "{"}),
        "of foreign weights": saves(
            {"model.a": torch.ones(2)}, form | {"step": "1", "facts": "{}"}
        ),
    }
    writes = ["runs/x/.lock", "runs/x/config.toml"]
    for fault, make in changed.items():
        call = train("train-dvae", "digits", "--resume changed")
        yield Case(f"run {fault}: train-dvae", call, make, writes=writes)
    for command, data in (
        ("train-gpt", f"digits {DVAE}"), ("train-captioner", "digits"),
        ("train-upsampler", f"digits {DVAE}"), ("train-reviser", f"sprites {WRITER}"),
    ):  # fmt: skip
        for fault in ("of broken states", "of a pickle", "of foreign weights"):
            call = train(command, f"{data} --resume changed")
            yield Case(f"run {fault}: {command}", call, changed[fault], writes=writes, says="state")
        call = train(command, data)
        yield Case(f"run that is there: {command}", call, put(state, "old"), 4, writes=writes,
                   says="holds a run")  # fmt: skip
    call = train("train-dvae", "digits", "--resume auto")
    whole = saves({}, form | {"step": "1", "facts": "{}"})
    yield Case("run without its config: train-dvae", call, whole, writes=writes)
    for name in ("metrics.jsonl", "config.toml"):
        yield Case(f"run with a pipe for {name}: train-dvae", call, pipe(f"runs/x/{name}"), 4,
                   writes=writes, says="is not a regular file")  # fmt: skip
    config = both(whole, put("runs/x/config.toml", "[loop"))
    yield Case("run with a broken config: train-dvae", call, config, writes=writes)
    there = put(state, "old")
    yield Case("run that is there: train-dvae", train("train-dvae", "digits"), there, 4,
               writes=writes)  # fmt: skip


def _layers() -> Iterator[Case]:
    layer = {"id": "a", "file": "layers/a.png", "category": "body", "name": "a", "color": "b",
             "gender": "male", "z": 1}  # fmt: skip

    def of(**changes: Any) -> str:
        return json.dumps({"layers": [layer | changes]})

    harm = {
        "empty": "",
        "broken": "{",
        "deep": "[" * 100_000,
        "a list": "[]",
        "without layers": '{"layers": []}',
        "of text": '{"layers": ["a"]}',
        "leads out": of(file="../a.png"),
        "leads out below": of(file="layers/../../a.png"),
        "of another size": of(),
        "z is text": of(z="front"),
        "of huge names": of(id="x" * 10**6),
    }
    call = "datasets make sprites --count 1 --size 16 -o made --layers lpc"
    judge = f"{EVAL_VIDEO} --upsampler up.safetensors --dvae dvae.safetensors"
    for fault, text in harm.items():
        make = both(put("lpc/attributes.json", text), copied("a.png", "lpc/layers/a.png"))
        yield Case(f"layers {fault}: datasets", call, make)
        if fault in ("empty", "leads out", "of another size"):
            yield Case(f"layers {fault}: eval-video", f"{judge} --layers lpc", make)
    yield Case("layers missing: datasets", call)
    yield Case("layers missing: eval-video", f"{judge} --layers lpc")
    yield Case("output is a file: eval-video", f"{judge} --gpt gpt.safetensors -o a.png", code=4)
    for command in ("train-dvae", "train-gpt", "train-captioner", "train-upsampler"):
        codec = DVAE if command in ("train-gpt", "train-upsampler") else ""
        call = train(command, "sprites", f"{codec} --layers lpc")
        yield Case(f"layers missing: {command}", call, says="lpc")
    call = train("train-reviser", "sprites", f"{WRITER} --layers lpc")
    yield Case("layers missing: train-reviser", call, says="lpc")
    for fault in ("empty", "leads out", "of another size"):
        make = both(put("lpc/attributes.json", harm[fault]), copied("a.png", "lpc/layers/a.png"))
        yield Case(f"layers {fault}: train-reviser", call, make)


# ------------------------------------------------------------------ running them


@dataclass
class Finding:
    """What a case came to.

    Args:
        code: the exit code.
        line: what was said last on stderr.
        faults: what did not hold.
        seconds: of both runs together.
    """

    code: int
    line: str
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def perform(case: Case, kit: Path, folder: Path) -> Finding:
    """Run a case in a new folder, which gets a copy of the good files in ``kit``."""
    started = time.perf_counter()
    shutil.copytree(kit, folder, dirs_exist_ok=True)
    with contextlib.chdir(folder), environment(folder.parent / f"{folder.name}-cache"):
        case.make(folder)
        finding = _run(case, case.words)
        target = _target(case)
        if not finding.faults and case.code in (3, 4) and target and not os.path.lexists(target):
            with contextlib.suppress(OSError, ValueError):  # a name that no file can have
                target.write_bytes(b"precious")
            again = _run(case, [*case.words, "--overwrite"])
            finding.faults += [f"{fault} (--overwrite)" for fault in again.faults]
    finding.seconds = time.perf_counter() - started
    return finding


def _target(case: Case) -> Path | None:
    """Return the file that a call would write, if it is one that could be there before."""
    if "-o" not in case.words:
        return None
    path = Path(case.words[case.words.index("-o") + 1])
    return path if path.suffix and path.parent.is_dir() else None


def _run(case: Case, call: Sequence[str]) -> Finding:
    before = _snapshot(case)
    code, out, err = capture(call)
    lines = err.splitlines()
    finding = Finding(code, lines[-1] if lines else "")
    told = [line for line in lines if line.startswith("flowwarp: ")]
    others = [line for line in lines if not line.startswith("flowwarp: ")]
    if code != case.code:
        finding.faults.append(f"exit {code}, not {case.code}")
    elif case.says not in finding.line:
        finding.faults.append(f"does not say {case.says!r}")
    if "Traceback" in err:
        finding.faults.append("traceback")
        finding.line = next((x for x in reversed(lines) if not x.startswith("flowwarp")), "")
    # What a prompt asks for that was never learned is told, and made all the same.
    if case.code == 0 and told and call[0] != "generate-video":
        finding.faults.append("complains")
    if case.code in (2, 3, 4, 6) and len(told) != 1:
        finding.faults.append(f"{len(told)} lines")
    if case.code == 5 and len(told) < 2:
        finding.faults.append("no list")
    # Training tells of what it skips and prepares; no other command says a word more.
    if others and not call[0].startswith(("train-", "datasets")) and case.code != 0:
        finding.faults.append(f"noise: {others[0][:60]}")
    after = _snapshot(case)
    if Path(EXECUTED).exists():
        finding.faults.append("executed code")
    if case.code and code == case.code and before != after:
        changed = sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        )
        finding.faults.append(f"changed {', '.join(changed)[:80]}")
    if code == case.code and case.check is not None and not case.check(Path.cwd(), out):
        finding.faults.append("wrong result")
    return finding


def _snapshot(case: Case) -> dict[str, str]:
    found = {}
    for path in sorted(Path().rglob("*")):
        if path.is_file() and not any(path.match(pattern) for pattern in case.writes):
            found[os.fspath(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def capture(call: Sequence[str]) -> tuple[int, str, str]:
    """Run the command line here; return its exit code, stdout and stderr, C's prints included."""
    kept = [os.dup(1), os.dup(2)]
    sys.stdout.flush()
    sys.stderr.flush()
    texts = [
        io.TextIOWrapper(tempfile.TemporaryFile(), "utf-8", errors, write_through=True)  # noqa: SIM115
        for errors in ("strict", "backslashreplace")  # as Python has them
    ]
    for number, text in enumerate(texts, start=1):
        os.dup2(text.fileno(), number)
    code: Any = 0
    before = signal.signal(signal.SIGPROF, _alarm)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
            flowwarp(call)
    except SystemExit as stop:
        code = stop.code
    except TooSlow:
        code = "too slow"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
    said = []
    for text in texts:
        text.flush()
        text.buffer.seek(0)
        said.append(text.buffer.read().decode("utf-8", "surrogateescape"))
        text.close()
    return code, said[0], said[1]


class TooSlow(BaseException):
    """Not an Exception, so that no command takes it for a fault of its input."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise TooSlow


@contextlib.contextmanager
def environment(cache: Path) -> Iterator[None]:
    """Keep prepared data out of the user's cache."""
    before = os.environ.get("FLOWWARP_CACHE_DIR")
    os.environ["FLOWWARP_CACHE_DIR"] = str(cache)
    try:
        yield
    finally:
        if before is None:
            del os.environ["FLOWWARP_CACHE_DIR"]
        else:
            os.environ["FLOWWARP_CACHE_DIR"] = before


def main() -> int:
    """Run the corpus and print what became of each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", metavar="WORD", help="Cases with it in their name.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    chosen = [case for case in cases() if options.only in case.name]
    bad = 0
    width = max((len(ascii(case.name)) for case in chosen), default=0)
    with tempfile.TemporaryDirectory() as work:
        kit = Path(work, "kit")
        kit.mkdir()
        lay_out(kit)
        for number, case in enumerate(chosen):
            finding = perform(case, kit, Path(work, str(number)))
            bad += bool(finding.faults)
            verdict = "; ".join(finding.faults) or "ok"
            line = finding.line.encode("ascii", "backslashreplace").decode()
            print(f"{case.name:{width}} {finding.code!s:>3} {verdict:8} {line[:150]}", flush=True)
            shutil.rmtree(Path(work, str(number)), ignore_errors=True)
    commands = {case.words[0] for case in chosen}
    print(json.dumps({"cases": len(chosen), "commands": len(commands), "faults": bad}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
