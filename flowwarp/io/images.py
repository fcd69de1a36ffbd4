"""Pictures in and out: RGB in [0, 1], whatever the file holds."""

from __future__ import annotations

import io
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from flowwarp.errors import InputError, OutputError
from flowwarp.io import _png
from flowwarp.io.atomic import atomic_output
from flowwarp.io.file_types import IMAGE_EXTENSIONS, list_folder
from flowwarp.io.files import open_input
from flowwarp.io.limits import MAX_PIXELS, check_pixels

# Pillow's name of a format by extension, and how it is asked for the least loss.
_SAVE: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {"compress_level": 4}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".ppm": ("PPM", {}),
    ".pgm": ("PPM", {}),
}
# What Pillow may try: no format that starts another program (EPS) or reads over the network.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
# Pillow's pixel modes, and what each is turned into.
_MODES = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "LAB": "RGB",
}
_LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
_OPAQUE = (".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
# Bytes of JPEG or WebP: as many as the largest picture has when it is not packed, in 16 bits.
_MOST_PACKED = 8 * MAX_PIXELS
_MOST_SCANS = 100  # as libtiff takes of a JPEG
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # not 255 in a scan, and not a restart
_MAX_PROFILE = 2**22  # bytes; a camera's or a screen's has some kB, a printer's up to 3 MB


@dataclass(frozen=True)
class ImageFormat:
    """What a file holds beyond RGB: enough to write a result like the image it came from.

    Args:
        bits: 8 or 16 per channel.
        gray: one colour channel in the file.
        alpha: a transparency channel.
        icc: the ICC profile, which says what the colours look like: of RGB, or of grey if ``gray``.
            None if the file has none, or one that is broken, beyond 4 MiB, or of other colours
            than were read (CMYK becomes RGB).
    """

    bits: int = 8
    gray: bool = False
    alpha: bool = False
    icc: bytes | None = field(default=None, repr=False)


def read_image(path: str | Path, *, alpha: bool = False, most: int = MAX_PIXELS) -> Tensor:
    """Read a picture as RGB, upright (EXIF), the first frame if it is animated.

    Grey becomes three equal channels; palette and CMYK become RGB; 16-bit PNG and 16-bit grey keep
    their precision.

    Args:
        path: PNG, JPEG, WebP, BMP, TIFF, PPM or GIF; the content decides, not the name.
        alpha: also return transparency, 1 where the file has none. Otherwise it is dropped.
        most: pixels; a picture of more is refused before it is decoded.

    Returns:
        (3, H, W), with alpha (4, H, W); float32 in [0, 1].

    Raises:
        InputError: missing, unreadable, cut off, corrupt, too large or not a picture.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_image(f"{folder}/gray.png", torch.full((1, 3, 4), 0.2))
    ...     image = read_image(f"{folder}/gray.png")
    >>> image.shape, image[:, 0, 0]  # image[None] is a batch of one
    (torch.Size([3, 3, 4]), tensor([0.2000, 0.2000, 0.2000]))
    """
    image, format = read_image_with_format(path, most=most)
    if not alpha:
        return image[:3]
    return image if format.alpha else torch.cat([image, torch.ones_like(image[:1])])


def read_image_with_format(
    path: str | Path, *, most: int = MAX_PIXELS
) -> tuple[Tensor, ImageFormat]:
    """Read a picture with all that it holds, and say what that was.

    Args:
        path: as for ``read_image``.
        most: likewise.

    Returns:
        (3, H, W), or (4, H, W) if the file has alpha; float32 in [0, 1]; and its format.

    Raises:
        InputError: as ``read_image``.
    """
    with open_input(path) as (file, size):
        head = file.read(_png.HEADER_BYTES)
        file.seek(0)
        if head.startswith(_png.SIGNATURE):
            pixels, icc = _decode_png(path, file, size, most)
        else:
            _check_packed(path, file, head, size)
            pixels, icc = _decode(path, file, size, most)
    channels = pixels.shape[2]
    format = ImageFormat(
        8 * pixels.itemsize, channels < 3, channels in (2, 4), _fitting(icc, gray=channels < 3)
    )
    planes = np.array(pixels.transpose(2, 0, 1), np.float32, order="C")
    planes /= np.float32(np.iinfo(pixels.dtype).max)
    image = torch.from_numpy(planes)
    if format.gray:
        image = torch.cat([image[:1].expand(3, -1, -1), image[1:]])
    return image, format


def read_sheet(path: str | Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read an 8-bit PNG of which the size is known, such as a sheet of sprites.

    Args:
        path: a PNG file.
        size: (height, width) that it must have; a header that says otherwise is refused before
            anything is decoded.

    Returns:
        (H, W, 4) RGBA, opaque where the file has no transparency.

    Raises:
        InputError: missing, unreadable, cut off, corrupt, of another kind or size.
    """
    with open_input(path) as (file, bytes_):
        header = _png.read_header(path, file.read(_png.HEADER_BYTES))
        if (header.height, header.width) != tuple(size):
            raise InputError(
                path, f"is {header.width}x{header.height}, it must be {size[1]}x{size[0]}"
            )
        if header.bits == 16:
            raise InputError(path, f"is a {header.kind} picture", "save it with 8 bits")
        file.seek(0)
        data = _png.read_whole(path, file, bytes_)
        _png.check_png(path, data)
        pixels, _ = _decode(path, io.BytesIO(data), bytes_, wanted="RGBA")
        return pixels


def write_image(path: str | Path, image: Tensor, format: ImageFormat | None = None) -> None:
    """Write a picture; its extension says the format. The file appears whole or not at all.

    Values are clamped to [0, 1] (NaN becomes 0) and rounded to the nearest step. JPEG is written
    at quality 95, WebP without loss.

    Args:
        path: a name ending in .png, .jpg, .jpeg, .webp, .bmp, .tif, .tiff, .ppm or .pgm.
        image: (1, H, W) grey, (3, H, W) RGB or (4, H, W) RGBA, floating point.
        format: what the file shall hold, as ``read_image_with_format`` returns it. 16 bits are
            kept by PNG only; ``gray`` keeps the first of three channels; ``icc`` is kept by PNG,
            JPEG, WebP and TIFF, where it is of what is written, RGB or grey. Left out: 8 bits, no
            profile, and grey or alpha by the number of channels.

    Raises:
        TypeError: image is not a floating-point tensor.
        ValueError: a wrong shape or an unknown extension.
        OutputError: the file cannot be written, or its format holds no transparency, no colour or
            no picture of that size.

    >>> import tempfile
    >>> image = torch.tensor([1.0, 0.4, 0.0]).view(3, 1, 1).expand(3, 2, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_image(f"{folder}/orange.png", image)
    ...     torch.equal(read_image(f"{folder}/orange.png"), image)
    True
    """
    kind = Path(path).suffix.lower()
    if kind not in _SAVE:
        raise ValueError(f"path must end in {', '.join(_SAVE)}, got {str(path)!r}")
    if not isinstance(image, Tensor) or not image.is_floating_point():
        got = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(f"image must be a floating-point torch.Tensor, got {got}")
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4) or image.numel() == 0:
        raise ValueError(f"image must be (1|3|4, H, W), got shape {tuple(image.shape)}")
    format = format or ImageFormat()
    check_kind(path, replace(format, gray=format.gray or len(image) == 1, alpha=len(image) == 4))
    longest = max(image.shape[1:])
    if longest > _LONGEST_SIDE.get(kind, longest):
        raise OutputError(path, f"a {kind} file holds no side of {longest} px", "write .png")
    if format.gray and image.shape[0] > 1:
        image = torch.cat([image[:1], image[3:]])
    data = _encode(kind, image, 16 if format.bits == 16 and kind == ".png" else 8, format.icc)
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def check_kind(path: str | Path, format: ImageFormat) -> None:
    """Refuse what a file of this name cannot hold.

    Raises:
        OutputError: transparency or colour in a file without.
    """
    kind = Path(path).suffix.lower()
    if format.alpha and kind in _OPAQUE:
        raise OutputError(path, f"a {kind} file holds no transparency", "write .png or .webp")
    if not format.gray and kind == ".pgm":
        raise OutputError(path, f"a {kind} file holds no colour", "write .ppm or .png")


def list_frames(folder: str | Path) -> list[Path]:
    """List the pictures in a folder, ``frame2`` before ``frame10``; hidden files are left out.

    Raises:
        InputError: not a readable folder.
    """
    return list_folder(folder, IMAGE_EXTENSIONS)


def _decode_png(
    path: str | Path, file: BinaryIO, size: int, most: int
) -> tuple[NDArray[Any], object]:
    """Decode a PNG, of 16 bits by OpenCV; return what `_decode` does."""
    data = _png.read_whole(path, file, size)
    header = _png.read_header(path, data[: _png.HEADER_BYTES])
    check_pixels(path, header.width, header.height, most=most)
    if header.bits == 16:
        exif = _png.find_chunk(path, data, b"eXIf")
        pixels = _turn(path, _png.decode_png16(path, data), exif)
        return pixels, _split_profile(path, data)[1]
    _png.check_png(path, data)
    data, icc = _split_profile(path, data)
    return _decode(path, io.BytesIO(data), len(data))[0], icc


def _check_packed(path: str | Path, file: BinaryIO, head: bytes, size: int) -> None:
    """Refuse a JPEG or WebP, which are read whole, that is no picture for its size or its scans.

    A progressive JPEG has some ten scans, each of which passes over all pixels, and may have any
    number. Source: ITU-T T.81, B.1.1.

    Raises:
        InputError: so it is.
    """
    if not head.startswith((b"\xff\xd8", b"RIFF")):
        return
    if size > _MOST_PACKED:
        raise InputError(path, f"has {size} bytes, more than its pixels can need")
    if head.startswith(b"RIFF"):
        return
    data = file.read()
    file.seek(0)
    at = scans = 0
    while (marker := _MARKER.search(data, at)) and marker[0] != b"\xff\xd9":  # the end
        at = marker.end()
        if marker[0] not in (b"\xff\xd8", b"\xff\x01"):  # which have no length
            at += int.from_bytes(data[at : at + 2], "big")
        scans += marker[0] == b"\xff\xda"
        if scans > _MOST_SCANS:
            raise InputError(path, f"has more than {_MOST_SCANS} scans", "save it anew")


def _decode(
    path: str | Path,
    file: BinaryIO,
    size: int,
    most: int = MAX_PIXELS,
    *,
    wanted: str | None = None,
) -> tuple[NDArray[Any], object]:
    """Decode by Pillow, which, unlike OpenCV, refuses a cut-off JPEG.

    ``wanted`` is a mode of Pillow's; left out, the nearest one to the file's own.

    Returns:
        (H, W, C), and what stands where the ICC profile should: TIFF may hold anything there.
    """
    try:
        # Its warnings (broken EXIF, a large size) would add lines to our one.
        with warnings.catch_warnings(), _quiet_tiff(file):
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as picture:
                check_pixels(path, *picture.size, size, most)
                icc = picture.info.get("icc_profile")
                mode = picture.mode
                if mode == "I" and picture.format == "PPM":  # of 16 bits; in TIFF "I" means 32
                    mode = "I;16"
                if mode not in _MODES and not mode.startswith("I;16"):
                    raise InputError(path, f"holds {mode!r} pixels", "use 8- or 16-bit colour")
                target = _MODES.get(mode, mode)
                if "transparency" in picture.info:
                    target = "LA" if target == "L" else "RGBA"
                target = wanted or target
                upright = ImageOps.exif_transpose(picture)
                pixels = np.asarray(upright if target == upright.mode else upright.convert(target))
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as fault:
        raise InputError(path, "is not a picture of a known kind") from fault
    except Exception as fault:  # Pillow's decoders raise whatever they trip over
        raise InputError(path, f"is a broken picture ({fault})") from fault
    return pixels.reshape(*pixels.shape[:2], -1).astype(pixels.dtype.newbyteorder("=")), icc


def _split_profile(path: str | Path, data: bytes) -> tuple[bytes, bytes | None]:
    """Take the ICC profile out of a PNG: Pillow refuses the picture for a large one.

    Returns:
        The file without it, and the profile; None if there is none that can be unpacked.
    """
    chunk = _png.find_chunk(path, data, b"iCCP")
    if chunk is None:
        return data, None
    start = data.index(b"iCCP" + chunk) - 4  # its length stands before, its checksum after it
    data = data[:start] + data[start + 12 + len(chunk) :]
    packed = chunk.partition(b"\0")[2][1:]  # after a name and the number of the method
    try:
        return data, zlib.decompressobj().decompress(packed, _MAX_PROFILE + 1)
    except zlib.error:
        return data, None


def _fitting(icc: object, *, gray: bool) -> bytes | None:
    """Return an ICC profile if it is whole, not too large, and of grey or else of RGB.

    Source: ICC.1:2022, 7.2, "Profile header".
    """
    if not isinstance(icc, bytes) or not 128 <= len(icc) <= _MAX_PROFILE:
        return None
    whole = int.from_bytes(icc[:4], "big") <= len(icc) and icc[36:40] == b"acsp"
    return icc if whole and icc[16:20] == (b"GRAY" if gray else b"RGB ") else None


def _turn(path: str | Path, pixels: NDArray[Any], exif: bytes | None) -> NDArray[Any]:
    """Turn (H, W, C) upright, as `_decode` does by Pillow, which holds no 16-bit colour."""
    if exif is None:
        return pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = Image.Exif()
            tags.load(exif)
            orientation = tags.get(ExifTags.Base.Orientation)
    except Exception as fault:  # Pillow's decoders raise whatever they trip over
        raise InputError(path, f"is a broken picture ({fault})") from fault
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


@contextmanager
def _quiet_tiff(file: BinaryIO) -> Iterator[None]:
    """Keep libtiff, which prints every oddity to stderr from C, from doing so."""
    is_tiff = file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    file.seek(0)
    if not is_tiff:
        yield
        return
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(null)
        os.close(stderr)


def _encode(kind: str, image: Tensor, bits: int, icc: bytes | None) -> bytes:
    top = 2**bits - 1
    steps = torch.nan_to_num(image.detach().float(), nan=0.0).clamp(0, 1).mul(top).round()
    pixels = steps.permute(1, 2, 0).cpu().numpy()
    if bits == 16:
        if pixels.shape[2] == 2:  # OpenCV writes no grey with alpha
            pixels = pixels[..., [0, 0, 0, 1]]
        data = _png.encode_png16(pixels.astype(np.uint16))
        return _add_profile(data, _fitting(icc, gray=pixels.shape[2] == 1))
    name, options = _SAVE[kind]
    pixels = pixels.astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    gray = pixels.shape[2] < 3 and kind != ".webp"  # which holds grey as RGB
    # Formats that have no place for a profile leave it out.
    picture.save(buffer, name, icc_profile=_fitting(icc, gray=gray), **options)
    return buffer.getvalue()


def _add_profile(data: bytes, icc: bytes | None) -> bytes:
    """Put an ICC profile into a PNG, behind the header: OpenCV writes none."""
    if icc is None:
        return data
    chunk = _png.make_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    return data[: _png.HEADER_BYTES] + chunk + data[_png.HEADER_BYTES :]
