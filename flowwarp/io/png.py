"""PNG: a check of the whole file before it is decoded, and 16-bit PNG, which Pillow cuts to 8."""

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
_MAX_METADATA = 2**26  # bytes of a file besides its pixels
_MAX_SIDE = 1_000_000  # limit of the libpng in OpenCV
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
    """The fields of the IHDR chunk."""

    width: int
    height: int
    bits: int
    colour: int
    interlaced: bool

    @property
    def kind(self) -> str:
        """The format in words, such as ``8-bit palette``."""
        return f"{self.bits}-bit {_COLOURS[self.colour]}"

    @property
    def is_flow(self) -> bool:
        """Whether it has the format of KITTI's flow, 16-bit RGB."""
        return (self.bits, self.colour) == (16, 2)

    def scanlines(self) -> Iterator[tuple[int, int]]:
        """Yield (number of rows, bytes of a row with its filter byte) for each interlacing pass."""
        for x, y, step_x, step_y in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            columns = -(-(self.width - x) // step_x)
            rows = -(-(self.height - y) // step_y)
            if columns > 0 and rows > 0:
                yield rows, 1 + (columns * _CHANNELS[self.colour] * self.bits + 7) // 8


def read_header(path: str | Path, head: bytes) -> PngHeader:
    """Read the first ``HEADER_BYTES`` of a PNG.

    Raises:
        InputError: not a PNG, or an invalid header.
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
    """Return the content of a PNG file, up to the most bytes that its size can need.

    The rest of a larger file could be sparse: gigabytes of zeros.

    Args:
        path: names the file in messages.
        file: open for reading, at its beginning.
        size: of the file, in bytes.

    Raises:
        InputError: not a PNG, an invalid header, or no end within that limit.
    """
    head = file.read(HEADER_BYTES)
    scanlines = sum(rows * stride for rows, stride in read_header(path, head).scanlines())
    most = 2 * scanlines + _MAX_METADATA
    data = head + file.read(min(most, size))  # read allocates its argument
    if len(data) > most and b"IEND" not in data:
        raise InputError(path, f"has no end after {most} bytes, more than its pixels need")
    return data


def peek_header(path: str | Path) -> PngHeader | None:
    """Return the header of a PNG file, or None if it cannot be read."""
    try:
        with open_input(path) as (file, _):
            return read_header(path, file.read(HEADER_BYTES))
    except InputError:
        return None


def check_sides(path: str | Path, width: int, height: int, remedy: str | None = None) -> None:
    """Check the sides of a 16-bit PNG against the limit of OpenCV, which would print and fail.

    Raises:
        InputError: one is too long.
    """
    if max(width, height) > _MAX_SIDE:
        problem = f"is {width}x{height} px, and a 16-bit PNG has at most {_MAX_SIDE:,} px a side"
        raise InputError(path, problem, remedy)


def check_png(path: str | Path, data: bytes) -> tuple[PngHeader, bytes]:
    """Check the chunks of a PNG, their checksums, and that all pixels are there.

    Both decoders need it. Pillow pads a picture that ends early, and allocates the length that a
    chunk states; the libpng in OpenCV prints to stderr.

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

    # Stored again without compression, so that libpng finds nothing to warn of.
    body = make_chunk(b"IDAT", zlib.compress(scanlines, 0))
    plain = data[:HEADER_BYTES] + body + make_chunk(b"IEND", b"")
    picture = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.shape[:2] != (header.height, header.width):
        raise InputError(path, "cannot be decoded", "the file is broken")
    picture = picture.reshape(header.height, header.width, -1)
    return np.asarray(picture[..., _CV2_ORDER[picture.shape[2]]], np.uint16)


def find_chunk(path: str | Path, data: bytes, wanted: bytes) -> bytes | None:
    """Return the body of the first chunk of a type, or None.

    Raises:
        InputError: cut off or corrupt.
    """
    return next((body for kind, body in _chunks(path, data) if kind == wanted), None)


def encode_png16(picture: NDArray[np.uint16]) -> bytes:
    """Encode (H, W, C), C 1 (grey), 3 (RGB) or 4 (RGBA), as a 16-bit PNG."""
    import cv2

    picture = picture[..., _CV2_ORDER[picture.shape[2]]]
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture))
    assert done  # it fails for wrong shapes and types only
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
    if len(pixels) == size and not unpacker.eof:  # the checksum of the pixels is missing
        raise InputError(path, "is corrupt in its pixel data")
    if len(pixels) != size:
        relation = "fewer" if len(pixels) < size else "more"
        raise InputError(path, f"contains {relation} pixels than its header says")
    at = 0
    for rows, stride in header.scanlines():
        if max(pixels[at : at + rows * stride : stride]) > 4:  # filter types are 0 to 4
            raise InputError(path, "is corrupt in its pixel data")
        at += rows * stride
    return pixels


def make_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG: length, type, body and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
