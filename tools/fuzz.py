"""Read many mutated files of one format; a clean refusal or a right answer, nothing else, is fine.

    python tools/fuzz.py --format flo --count 100000 --seed 0

A fault is any exception but InputError, an answer of a wrong shape or range, more than two seconds
of CPU, an allocation beyond 1 GiB, or a line on stderr. The first few are written to --keep. The
last line printed is JSON; the exit code is 1 if there was a fault. A seed always gives the same.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch

from flowwarp.errors import InputError
from flowwarp.io.flow_files import read_flow, write_flow
from flowwarp.io.images import ImageFormat, read_image_with_format, write_image
from flowwarp.io.video import read_video, write_video

SECONDS, BYTES = 2.0, 2**30
# What a header field is set to: signs, overflows, and products that overflow.
NUMBERS = (0, 1, 2, 3, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = (b"-1", b"0", b"99999999999999999999", b"1e999", b"nan", b"|O", b"<c8", b"<f8", b"True")


def check_flow(path: Path) -> None:
    """Read a flow file and check what every flow file must give."""
    flow, valid = read_flow(path)
    assert flow.dtype == torch.float32
    assert valid.dtype == torch.bool
    assert flow.shape == (2, *valid.shape[1:])
    assert valid.shape[0] == 1
    assert flow.numel() > 0
    assert bool(flow.isfinite().all())
    assert not bool(flow[:, ~valid[0]].any())
    assert valid.numel() <= 2**27


def check_image(path: Path) -> None:
    """Read a picture and check shape and range."""
    image, format = read_image_with_format(path)
    assert image.shape[0] == 3 + format.alpha
    check_range(image)


def check_video(path: Path) -> None:
    """Read a video to its end and check shape and range of each frame."""
    for frame in read_video(path):
        arm()  # a long video is no hang, a frame that takes so long is
        assert frame.shape[0] == 3
        check_range(frame)


def check_range(image: torch.Tensor) -> None:
    """Check for float32 in [0, 1]."""
    assert image.dtype == torch.float32
    assert image.ndim == 3
    assert image.numel() > 0
    assert bool(((image >= 0) & (image <= 1)).all())


def make_flow(extension: str) -> Callable[[Path], None]:
    """Return a maker of a small valid flow file."""

    def make(path: Path) -> None:
        flow = torch.arange(30, dtype=torch.float32).reshape(2, 3, 5)
        write_flow(path.with_suffix(extension), flow, flow[:1] != 4)

    return make


def make_image(extension: str, format: ImageFormat | None = None) -> Callable[[Path], None]:
    """Return a maker of a small valid picture."""

    def make(path: Path) -> None:
        image = torch.linspace(0, 1, 3 * 6 * 7).reshape(3, 6, 7)
        write_image(path.with_suffix(extension), image, format)

    return make


def make_gif(path: Path) -> None:
    """Make a small valid GIF."""
    write_video(path.with_suffix(".gif"), torch.rand(2, 3, 6, 7).unbind())


def make_video(extension: str) -> Callable[[Path], None]:
    """Return a maker of a small valid video."""

    def make(path: Path) -> None:
        frames = torch.linspace(0, 1, 4 * 3 * 16 * 16).reshape(4, 3, 16, 16)
        write_video(path.with_suffix(extension), frames.unbind())

    return make


# Each name with its extension, what makes a valid file, and what checks one.
FORMATS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], None]]] = {
    "flo": (".flo", make_flow(".flo"), check_flow),
    "kitti": (".png", make_flow(".png"), check_flow),
    "pfm": (".pfm", make_flow(".pfm"), check_flow),
    "npy": (".npy", make_flow(".npy"), check_flow),
    "npz": (".npz", make_flow(".npz"), check_flow),
    "png": (".png", make_image(".png"), check_image),
    "png16": (".png", make_image(".png", ImageFormat(16)), check_image),
    "jpg": (".jpg", make_image(".jpg"), check_image),
    "webp": (".webp", make_image(".webp"), check_image),
    "bmp": (".bmp", make_image(".bmp"), check_image),
    "tif": (".tif", make_image(".tif"), check_image),
    "ppm": (".ppm", make_image(".ppm"), check_image),
    "gif": (".gif", make_gif, check_image),
    "mp4": (".mp4", make_video(".mp4"), check_video),
    "mkv": (".mkv", make_video(".mkv"), check_video),
    "gifvideo": (".gif", make_video(".gif"), check_video),
    "webpvideo": (".webp", make_video(".webp"), check_video),
}

GROUPS = {
    "all": list(FORMATS),
    "flow": [name for name, parts in FORMATS.items() if parts[2] is check_flow],
    "image": [name for name, parts in FORMATS.items() if parts[2] is check_image],
    "video": [name for name, parts in FORMATS.items() if parts[2] is check_video],
}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a file in one to four places, mostly where its headers are."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        # Headers are in front; a zip, and an mp4 before it is rearranged, has one at the end.
        where = rng.choice((16, 64, 64, len(out), len(out)))
        at = rng.randrange(min(where, len(out)))
        if rng.random() < 0.15:
            at = len(out) - 1 - at
        kind = rng.randrange(8)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind in (2, 3):
            width, order = rng.choice((2, 4)), rng.choice("<>")
            value = rng.choice(NUMBERS) % 2 ** (8 * width)
            out[at : at + width] = struct.pack(order + {2: "H", 4: "I"}[width], value)
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            del out[at : at + rng.randint(1, 8)]
        elif kind == 6:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            numbers = list(re.finditer(rb"-?\d+(\.\d+)?|<f4|False", out[:128]))
            if numbers:
                found = rng.choice(numbers)
                out[found.start() : found.end()] = rng.choice(WORDS)
    return bytes(out)


def mend_png(data: bytes) -> bytes:
    """Set the checksums right, so that what lies behind them is reached as well."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        out += data[at : end - 4] + struct.pack(">I", zlib.crc32(data[at + 4 : end - 4]))
        at = end
    return out + data[at:]


def mutate_npz(data: bytes, rng: random.Random) -> bytes:
    """Mutate an array inside the archive, the archive itself being right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), mutate(old.read(name), rng))
    return buffer.getvalue()


def case(name: str, data: bytes, rng: random.Random) -> bytes:
    """Make one mutated file."""
    if name == "npz" and rng.random() < 0.5:
        return mutate_npz(data, rng)
    mutated = mutate(data, rng)
    mend = name in ("kitti", "png", "png16") and rng.random() < 0.7
    return mend_png(mutated) if mend else mutated


class TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for a broken file."""


def arm() -> None:
    """Give the reader its time."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)


def alarm(signum: int, frame: FrameType | None) -> None:
    """Break off a read that hangs."""
    raise TooSlow


def fuzz(name: str, count: int, seed: int, folder: Path, keep: Path) -> dict[str, object]:
    """Read ``count`` mutated files and count how that went."""
    extension, make, check = FORMATS[name]
    path = folder / f"case{extension}"
    make(path)
    data = path.read_bytes()
    signal.signal(signal.SIGPROF, alarm)
    check(path)  # imports and pools are made before memory is limited
    signal.setitimer(signal.ITIMER_PROF, 0)
    rng = random.Random(seed)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    counts: Counter[str] = Counter()
    heard = os.fstat(2).st_size
    slowest, started = 0.0, time.perf_counter()
    for number in range(count):
        mutated = case(name, data, rng)
        path.write_bytes(mutated)
        before = time.perf_counter()
        try:
            try:
                arm()
                check(path)
            finally:  # which may be too late: hence inside the other
                signal.setitimer(signal.ITIMER_PROF, 0)
            counts["read"] += 1
        except InputError as fault:
            counts["refused" if str(fault).startswith(str(path)) else "faults"] += 1
        except (Exception, TooSlow):  # noqa: BLE001 - to find whatever it is
            counts["faults"] += 1
            if counts["faults"] <= 5:
                (keep / f"fuzz_{name}_{seed}_{number}{extension}").write_bytes(mutated)
                traceback.print_exc(file=sys.stdout)
        noise = os.fstat(2).st_size
        if noise > heard:
            counts["noise"] += 1
            heard = noise
        slowest = max(slowest, time.perf_counter() - before)
    return {
        "format": name,
        "count": count,
        "seed": seed,
        "read": counts["read"],
        "refused": counts["refused"],
        "faults": counts["faults"],
        "noise": counts["noise"],
        "seconds": round(time.perf_counter() - started, 1),
        "slowest_ms": round(slowest * 1000, 1),
    }


def main() -> int:
    """Run one format, or a group of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--format", choices=[*FORMATS, *GROUPS], default="all")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = GROUPS.get(options.format, [options.format])
    reports = []
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as stderr:
        # A library that prints from C goes past sys.stderr; catch the descriptor itself.
        terminal = os.dup(2)
        os.dup2(stderr.fileno(), 2)
        try:
            for name in names:
                reports.append(fuzz(name, options.count, options.seed, Path(folder), options.keep))
                print(json.dumps(reports[-1]), flush=True)
        finally:
            os.dup2(terminal, 2)
        stderr.seek(0)
        noise = stderr.read().decode(errors="replace").splitlines()
    if noise:
        print(f"{len(noise)} lines on stderr, the first: {noise[0]}")
    faults = len(noise) + sum(int(str(report["faults"])) for report in reports)
    print(json.dumps({"formats": len(reports), "faults": faults}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
