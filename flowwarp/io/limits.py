"""Limits on what a file may claim: pixels, frames a second, and how far it unpacks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from flowwarp.errors import InputError

MIN_FPS = Fraction(1, 1001)  # of a video that is written; slower is a broken header
MAX_FPS = 1_000_000  # a muxer wants small integers
MAX_PIXEL_ASPECT = Fraction(1001)  # width by height, or the reverse: beyond is a broken header

# 16384 x 8192. A 100-megapixel camera fits; Pillow refuses above 179 million on its own.
MAX_PIXELS = 2**27
# A frame of a video, 8K as cinemas have it, in whole macroblocks: what is decoded, its neighbours
# that the decoder keeps and the float32 picture then take less than 1 GiB together.
MAX_FRAME_PIXELS = 8192 * 4352
# A JPEG of one colour has some 170 pixels a byte, a GIF 2,700. A WebP can have any number, so up
# to 4K is taken at its word.
_PIXELS_PER_BYTE, _SMALL_PIXELS = 2**14, 2**23
# No deflate stream expands more than this (1032:1 is reached by one repeated byte).
_DEFLATE_LIMIT = 1032
# Above this size a file that expands a hundredfold is a bomb rather than a flow field or a picture:
# an 8K flow still fits under it, however well it packs, and so does a picture of 89 megapixels.
_BOMB_BYTES, _BOMB_RATIO = 2**28, 100


def check_pixels(
    path: str | Path,
    width: int,
    height: int,
    file_bytes: int | None = None,
    most: int = MAX_PIXELS,
) -> None:
    """Check a size that a header states, for a packed format against the size of the file too.

    Raises:
        InputError: zero, negative or absurd; more than ``most`` pixels; or it looks like a bomb.
    """
    if width < 1 or height < 1:
        raise InputError(path, f"its header says {width}x{height} pixels", "the file is broken")
    if width * height > most:
        limit = f"at most {most // 10**6} million pixels are read"
        raise InputError(path, f"its header says {width}x{height} pixels", limit)
    if file_bytes and width * height > max(_SMALL_PIXELS, _PIXELS_PER_BYTE * file_bytes):
        raise InputError(
            path, f"its header says {width}x{height} pixels in {file_bytes} bytes of file"
        )
    if file_bytes:
        _refuse_bomb(path, file_bytes, 3 * width * height)  # as RGB of 8 bits, whatever it holds


def check_expansion(path: str | Path, packed: int, unpacked: int) -> None:
    """Check that ``packed`` bytes of deflate can and should become ``unpacked`` bytes.

    Raises:
        InputError: they cannot (truncated, or a header that lies), or it looks like a bomb.
    """
    if unpacked > _DEFLATE_LIMIT * packed:
        raise InputError(
            path, f"holds {packed} bytes of data where its header needs {unpacked} unpacked"
        )
    _refuse_bomb(path, packed, unpacked)


def _refuse_bomb(path: str | Path, packed: int, unpacked: int) -> None:
    if unpacked > _BOMB_BYTES and unpacked > _BOMB_RATIO * packed:
        problem = f"would unpack from {packed} to {unpacked} bytes"
        raise InputError(path, problem, "refused as a decompression bomb")
