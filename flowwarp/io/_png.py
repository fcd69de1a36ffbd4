"""PNG checked in full before a decoder sees it; 16-bit PNG, which Pillow cuts to 8, by OpenCV."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from flowwarp.errors import InputError
from flowwarp.io.files import open_input
from flowwarp.io.limits import check_expansion, check_pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 33  # signature and IHDR
_BESIDES = 2**26  # bytes that a picture may hold besides its pixels
_MAX_SIDE = 1_000_000  # what libpng, inside OpenCV, takes
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type: channels
_BITS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_CV2_ORDER = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}  # RGB(A) to BGR(A), and back
# Adam7: first column, first row, column step, row step of each pass.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


@dataclass(frozen=True)
class PngHeader:
    """What IHDR says."""

    width: int
    height: int
    bits: int
    colour: int
    interlaced: bool

    @property
    def kind(self) -> str:
        """In words, for messages: ``8-bit palette``."""
        return f"{self.bits}-bit {_COLOURS[self.colour]}"

    @property
    def is_flow(self) -> bool:
        """Whether it can hold flow, as KITTI stores it: 16-bit RGB."""
        return (self.bits, self.colour) == (16, 2)

    def scanlines(self) -> Iterator[tuple[int, int]]:
        """Yield (rows, bytes a row with its filter byte) of each pass over the picture."""
        for x, y, step_x, step_y in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            columns = -(-(self.width - x) // step_x)
            rows = -(-(self.height - y) // step_y)
            if columns > 0 and rows > 0:
                yield rows, 1 + (columns * _CHANNELS[self.colour] * self.bits + 7) // 8


def read_header(path: str | Path, head: bytes) -> PngHeader:
    """Read the first ``HEADER_BYTES`` of a PNG.

    Raises:
        InputError: not a PNG, or a header that no PNG may have.
    """
    if not head.startswith(SIGNATURE):
        raise InputError(path, "is not a PNG file")
    if len(head) < HEADER_BYTES or head[8:16] != b"\0\0\0\x0dIHDR":
        raise InputError(path, "is cut off or broken in its PNG header")
    if zlib.crc32(head[12:29]) != int.from_bytes(head[29:33], "big"):
        raise InputError(path, "its PNG header is corrupt (wrong checksum)")
    width, height, bits, colour, method, filtering, interlace = struct.unpack(
        ">IIBBBBB", head[16:29]
    )
    if bits not in _BITS.get(colour, ()) or method or filtering or interlace > 1:
        raise InputError(path, "its PNG header is not valid")
    check_pixels(path, width, height)
    return PngHeader(width, height, bits, colour, bool(interlace))


def read_whole(path: str | Path, file: BinaryIO, size: int) -> bytes:
    """Return the bytes of a PNG, as many as it can need: behind them may be a hole of gigabytes.

    ``size`` is how many the file has.

    Raises:
        InputError: not a PNG, a header that no PNG may have, or no end within so many.
    """
    head = file.read(HEADER_BYTES)
    scanlines = sum(rows * stride for rows, stride in read_header(path, head).scanlines())
    most = 2 * scanlines + _BESIDES
    data = head + file.read(min(most, size))  # which takes as much memory as it is asked for
    if len(data) > most and b"IEND" not in data:
        raise InputError(path, f"has no end after {most} bytes, more than its pixels need")
    return data


def peek_header(path: str | Path) -> PngHeader | None:
    """Read the header of a file; None where there is none, or no PNG."""
    try:
        with open_input(path) as (file, _):
            return read_header(path, file.read(HEADER_BYTES))
    except InputError:
        return None


def check_sides(path: str | Path, width: int, height: int, remedy: str | None = None) -> None:
    """Check that a 16-bit PNG is not too long for OpenCV, which would print and fail.

    Raises:
        InputError: it is.
    """
    if max(width, height) > _MAX_SIDE:
        problem = f"is {width}x{height} px, and a 16-bit PNG has at most {_MAX_SIDE:,} px a side"
        raise InputError(path, problem, remedy)


def check_png(path: str | Path, data: bytes) -> tuple[PngHeader, bytes]:
    """Check a whole PNG: its chunks, their checksums, and that it holds the pixels it promises.

    Both decoders need it. Pillow fills up a picture that ends early, and allocates what a chunk
    claims for its length; libpng, inside OpenCV, prints to stderr by itself.

    Returns:
        The header and the unpacked scanlines.

    Raises:
        InputError: cut off or corrupt.
    """
    header = read_header(path, data[:HEADER_BYTES])
    packed = b"".join(body for kind, body in _chunks(path, data) if kind == b"IDAT")
    check_pixels(path, header.width, header.height, len(packed))
    size = sum(rows * stride for rows, stride in header.scanlines())
    check_expansion(path, len(packed), size)
    return header, _unpack(path, header, packed, size)


def decode_png16(path: str | Path, data: bytes) -> NDArray[np.uint16]:
    """Decode a 16-bit PNG.

    Returns:
        (H, W, C) with C 1 (grey), 3 (RGB) or 4 (RGBA).

    Raises:
        InputError: cut off, corrupt, too long, or not 16-bit.
    """
    header, scanlines = check_png(path, data)
    if header.bits != 16:
        raise InputError(path, f"is {header.kind} PNG, not 16-bit")
    check_sides(path, header.width, header.height)

    import cv2  # 0.1 s; a .flo needs none of it

    # Stored again without packing, so that no oddity of the stream is left to complain about.
    body = make_chunk(b"IDAT", zlib.compress(scanlines, 0))
    plain = data[:HEADER_BYTES] + body + make_chunk(b"IEND", b"")
    picture = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.shape[:2] != (header.height, header.width):
        raise InputError(path, "cannot be decoded", "the file is broken")
    picture = picture.reshape(header.height, header.width, -1)
    return np.asarray(picture[..., _CV2_ORDER[picture.shape[2]]], np.uint16)


def find_chunk(path: str | Path, data: bytes, wanted: bytes) -> bytes | None:
    """Return the body of the first chunk of a type, None if there is none.

    Raises:
        InputError: cut off or corrupt.
    """
    return next((body for kind, body in _chunks(path, data) if kind == wanted), None)


def encode_png16(picture: NDArray[np.uint16]) -> bytes:
    """Encode (H, W, C), C 1 (grey), 3 (RGB) or 4 (RGBA), as a 16-bit PNG."""
    import cv2

    picture = picture[..., _CV2_ORDER[picture.shape[2]]]
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture))
    assert done  # the shape and type are right by construction
    return data.tobytes()


def _chunks(path: str | Path, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and body of each chunk up to IEND, checksums verified."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        if end > len(data):
            break
        kind, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise InputError(path, f"is corrupt (wrong checksum at byte {at})")
        yield kind, body
        if kind == b"IEND":
            return
        at = end
    raise InputError(path, "is cut off", "copy it again")


def _unpack(path: str | Path, header: PngHeader, packed: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        pixels = unpacker.decompress(packed, size + 1)
    except zlib.error as fault:
        raise InputError(path, "is corrupt in its pixel data") from fault
    if len(pixels) == size and not unpacker.eof:  # without the checksum of the pixels
        raise InputError(path, "is corrupt in its pixel data")
    if len(pixels) != size:
        relation = "fewer" if len(pixels) < size else "more"
        raise InputError(path, f"holds {relation} pixels than its header says")
    at = 0
    for rows, stride in header.scanlines():
        if max(pixels[at : at + rows * stride : stride]) > 4:  # filter types are 0 to 4
            raise InputError(path, "is corrupt in its pixel data")
        at += rows * stride
    return pixels


def make_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG: its length, kind, body and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
