"""Makers of broken and misleading files.

A function that returns a ``Prepare`` writes its file into the folder of a case; the others return
the content of a file, or a change of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from flowwarp.data.media import VOCABULARY
from flowwarp.io.checkpoints import load_tensors, save_tensors
from hostile_cases.case import EXECUTED, HEIGHT, WIDTH, Prepare


def put(name: str, data: bytes | str) -> Prepare:
    """Write a file."""

    def prepare(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return prepare


def copied(source: str, target: str) -> Prepare:
    """Copy a file, or a folder."""

    def prepare(folder: Path) -> None:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (folder / source).is_dir() else shutil.copy
        copy(folder / source, folder / target)

    return prepare


def changed(name: str, change: Callable[[bytes], bytes], source: str | None = None) -> Prepare:
    """Write a valid file with a change."""
    return lambda folder: put(name, change((folder / (source or name)).read_bytes()))(folder)


def instead(name: str) -> Prepare:
    """Put a folder in place of a file."""

    def prepare(folder: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
        (folder / name).mkdir()

    return prepare


def pipe(name: str) -> Prepare:
    """Put a named pipe that nothing writes to in place of a file."""

    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)

    return prepare


def both(*steps: Prepare) -> Prepare:
    """Run several steps in order."""

    def prepare(folder: Path) -> None:
        for step in steps:
            step(folder)

    return prepare


def at(place: int, new: bytes) -> Callable[[bytes], bytes]:
    """Return a change that overwrites bytes from ``place`` on."""
    return lambda data: data[:place] + new + data[place + len(new) :]


def cut(share: float) -> Callable[[bytes], bytes]:
    """Return a change that keeps this share of the file, from its beginning."""
    return lambda data: data[: int(share * len(data))]


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (EXECUTED,)


def flo(width: int, height: int, data: bytes = b"", magic: bytes = b"PIEH") -> bytes:
    """Return a .flo file whose header need not fit its data."""
    return magic + struct.pack("<ii", width, height) + data


def png(width: int, height: int, packed: bytes) -> bytes:
    """Return a PNG of 8-bit RGB whose header need not fit its data."""

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
    """Write an MPEG stream whose frame size changes: streams of each size, one after the other."""
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
    """Write an MP4 that has sound but no picture."""
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("aac", 48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def weights(name: str, source: str = "net.safetensors", **changes: Any) -> Prepare:
    """Write a network's weights with a changed card or changed tensors.

    Args:
        name: of the file to write.
        source: the valid weights.
        changes: ``card`` updates the configuration, ``text`` any text of the card, ``words`` is
            called with the vocabulary; ``drop`` removes a tensor, ``add`` adds one and ``every`` is
            called with each tensor.
    """

    def prepare(folder: Path) -> None:
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

    return prepare


def pickled(name: str, protocol: int | None = None) -> Prepare:
    """Write a pickle with code in it: by torch.save, or of a protocol."""

    def prepare(folder: Path) -> None:
        if protocol is None:
            torch.save({"weight": Evil()}, folder / name)
        else:
            (folder / name).write_bytes(pickle.dumps({"weight": Evil()}, protocol))

    return prepare


def tar(name: str, members: Mapping[str, bytes | str], link: str | None = None) -> Prepare:
    """Write a tar file; a text as content is the name of a file in the folder."""

    def prepare(folder: Path) -> None:
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

    return prepare


def zipped(name: str, members: Mapping[str, bytes]) -> Prepare:
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
