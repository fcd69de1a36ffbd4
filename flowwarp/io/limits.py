"""Limits on what the header of a file may state, so that a broken or hostile file wastes little."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from flowwarp.errors import InputError

# Of a video that is read or written; a header with a value outside is broken.
MIN_FPS = Fraction(1, 1001)
MAX_FPS = 1_000_000  # muxers store the rate as a fraction of small integers
MAX_PIXEL_ASPECT = Fraction(1001)  # width of a pixel by its height, or the reverse

# 16384 x 8192: more than a 100-megapixel camera has. Pillow's own limit is 179 million.
MAX_PIXELS = 2**27
# A frame of a video: 8K DCI in whole macroblocks. The frame, the reference frames that the decoder
# keeps and the float32 picture then take less than 1 GiB together.
MAX_FRAME_PIXELS = 8192 * 4352
# A JPEG of one colour has about 170 pixels a byte, a GIF 2,700. A WebP can have any number, so
# sizes up to 4K are accepted without this check.
_PIXELS_PER_BYTE, _SMALL_PIXELS = 2**14, 2**23

# The largest expansion of a deflate stream, that of one repeated byte.
_DEFLATE_LIMIT = 1032
# Above this size, a file that expands a hundredfold counts as a decompression bomb. An 8K flow
# field is smaller, however well it compresses, and so is a picture of 89 megapixels.
_BOMB_BYTES, _BOMB_RATIO = 2**28, 100


def check_pixels(
    path: str | Path,
    width: int,
    height: int,
    file_bytes: int | None = None,
    most: int = MAX_PIXELS,
) -> None:
    """Check the size of a picture that a header states.

    Args:
        path: names the file in messages.
        width: in pixels.
        height: in pixels.
        file_bytes: size of the file if its format is compressed, to compare with.
        most: number of pixels that is allowed.

    Raises:
        InputError: not positive, more than ``most`` pixels, or a decompression bomb.
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
        _refuse_bomb(path, file_bytes, 3 * width * height)  # as if 8-bit RGB


def check_expansion(path: str | Path, packed: int, unpacked: int) -> None:
    """Check that deflate can expand ``packed`` bytes to ``unpacked`` bytes.

    Raises:
        InputError: it cannot (the file is cut off, or its header wrong), or a decompression bomb.
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
