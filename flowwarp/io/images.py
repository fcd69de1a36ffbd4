"""Reading and writing of pictures, as RGB in [0, 1]."""

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
from flowwarp.io import png
from flowwarp.io.atomic import atomic_output
from flowwarp.io.file_types import IMAGE_EXTENSIONS, list_folder
from flowwarp.io.files import open_input
from flowwarp.io.limits import MAX_PIXELS, check_pixels

# Pillow's name of a format by extension, and the options of least loss.
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
# Formats that Pillow may try: none that starts another program (EPS) or reads over the network.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
# Pillow's pixel modes, and the mode to which each is converted.
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
_MAX_BYTES = 8 * MAX_PIXELS  # of a JPEG or WebP file: the largest picture as 16-bit RGBA
_MAX_SCANS = 100  # of a JPEG, as in libtiff
# Of a JPEG; neither a stuffed 255 within a scan (ff 00) nor a restart marker (ff d0 to ff d7).
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MAX_PROFILE = 2**22  # bytes; profiles of cameras and screens have some kB, of printers up to 3 MB


@dataclass(frozen=True)
class ImageFormat:
    """Format of a picture file, used to write a result in the format of its source.

    Args:
        bits: 8 or 16 per channel.
        gray: whether the file has one colour channel.
        alpha: whether the file has a transparency channel.
        icc: the ICC colour profile, of RGB, or of grey if ``gray``. None if the file has none, or
            one that is broken, larger than 4 MiB, or of another colour space (CMYK becomes RGB).
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
        path: PNG, JPEG, WebP, BMP, TIFF, PPM or GIF, by content, whatever the extension.
        alpha: whether to return a channel of opacity, 1 if the file has none.
        most: number of pixels that is allowed; checked before the picture is decoded.

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
    """Read a picture and its format.

    Args:
        path: as for :func:`read_image`.
        most: number of pixels that is allowed; checked before the picture is decoded.

    Returns:
        (3, H, W), or (4, H, W) if the file has alpha, float32 in [0, 1]; and the format.

    Raises:
        InputError: as :func:`read_image`.
    """
    with open_input(path) as (file, size):
        head = file.read(png.HEADER_BYTES)
        file.seek(0)
        if head.startswith(png.SIGNATURE):
            pixels, icc = _decode_png(path, file, size, most)
        else:
            _check_jpeg_or_webp(path, file, head, size)
            pixels, icc = _decode(path, file, size, most)
    channels = pixels.shape[2]
    format = ImageFormat(
        8 * pixels.itemsize,
        channels < 3,
        channels in (2, 4),
        _valid_profile(icc, gray=channels < 3),
    )
    planes = np.array(pixels.transpose(2, 0, 1), np.float32, order="C")  # (C, H, W)
    planes /= np.float32(np.iinfo(pixels.dtype).max)
    image = torch.from_numpy(planes)
    if format.gray:
        image = torch.cat([image[:1].expand(3, -1, -1), image[1:]])
    return image, format


def read_sheet(path: str | Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read an 8-bit PNG of a given size, such as a sheet of sprites.

    Args:
        path: a PNG file.
        size: (height, width) that it must have; checked before the picture is decoded.

    Returns:
        (H, W, 4) uint8 RGBA, opaque if the file has no transparency.

    Raises:
        InputError: missing, unreadable, cut off, corrupt, or of another format or size.
    """
    with open_input(path) as (file, bytes_):
        header = png.read_header(path, file.read(png.HEADER_BYTES))
        if (header.height, header.width) != tuple(size):
            raise InputError(
                path, f"is {header.width}x{header.height}, it must be {size[1]}x{size[0]}"
            )
        if header.bits == 16:
            raise InputError(path, f"is a {header.kind} picture", "save it with 8 bits")
        file.seek(0)
        data = png.read_whole(path, file, bytes_)
        png.check_png(path, data)
        pixels, _ = _decode(path, io.BytesIO(data), bytes_, wanted="RGBA")
        return pixels


def write_image(path: str | Path, image: Tensor, format: ImageFormat | None = None) -> None:
    """Write a picture atomically; the extension selects the format.

    Values are clamped to [0, 1] (NaN becomes 0) and rounded to the nearest step. JPEG is written
    at quality 95, WebP without loss.

    Args:
        path: a name ending in .png, .jpg, .jpeg, .webp, .bmp, .tif, .tiff, .ppm or .pgm.
        image: (1, H, W) grey, (3, H, W) RGB or (4, H, W) RGBA, floating point.
        format: as :func:`read_image_with_format` returns it. Only PNG is written with 16 bits.
            ``gray`` writes the first of three channels. ``icc`` is written to PNG, JPEG, WebP and
            TIFF, if it is of the colour space of the file, RGB or grey. By default 8 bits, no
            profile, and grey or alpha by the number of channels.

    Raises:
        TypeError: image is not a floating-point tensor.
        ValueError: a wrong shape or an unknown extension.
        OutputError: the file cannot be written, or its format has no transparency, no colour, or a
            smaller largest size.

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
        raise OutputError(path, f"a {kind} file cannot have a side of {longest} px", "write .png")
    if format.gray and image.shape[0] > 1:
        image = torch.cat([image[:1], image[3:]])
    data = _encode(kind, image, 16 if format.bits == 16 and kind == ".png" else 8, format.icc)
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def check_kind(path: str | Path, format: ImageFormat) -> None:
    """Check that the format of a file name supports transparency and colour as ``format`` needs.

    Raises:
        OutputError: it does not.
    """
    kind = Path(path).suffix.lower()
    if format.alpha and kind in _OPAQUE:
        raise OutputError(path, f"a {kind} file has no transparency", "write .png or .webp")
    if not format.gray and kind == ".pgm":
        raise OutputError(path, f"a {kind} file has no colour", "write .ppm or .png")


def list_frames(folder: str | Path) -> list[Path]:
    """Return the pictures in a folder in natural order, ``frame2`` before ``frame10``.

    Hidden files are omitted.

    Raises:
        InputError: not a readable folder.
    """
    return list_folder(folder, IMAGE_EXTENSIONS)


def _decode_png(
    path: str | Path, file: BinaryIO, size: int, most: int
) -> tuple[NDArray[Any], object]:
    """Decode a PNG, with OpenCV if it has 16 bits; the result is that of `_decode`."""
    data = png.read_whole(path, file, size)
    header = png.read_header(path, data[: png.HEADER_BYTES])
    check_pixels(path, header.width, header.height, most=most)
    if header.bits == 16:
        exif = png.find_chunk(path, data, b"eXIf")
        pixels = _turn(path, png.decode_png16(path, data), exif)
        return pixels, _split_profile(path, data)[1]
    png.check_png(path, data)
    data, icc = _split_profile(path, data)
    return _decode(path, io.BytesIO(data), len(data))[0], icc


def _check_jpeg_or_webp(path: str | Path, file: BinaryIO, head: bytes, size: int) -> None:
    """Check the size of a JPEG or WebP file, and the number of scans of a JPEG.

    Pillow reads such a file completely. A progressive JPEG has about ten scans, and each passes
    over all pixels, but the number is not limited. Source: ITU-T T.81, B.1.1.

    Raises:
        InputError: too large, or too many scans.
    """
    if not head.startswith((b"\xff\xd8", b"RIFF")):
        return
    if size > _MAX_BYTES:
        raise InputError(path, f"has {size} bytes, more than its pixels can need")
    if head.startswith(b"RIFF"):
        return
    data = file.read()
    file.seek(0)
    at = scans = 0
    while (marker := _MARKER.search(data, at)) and marker[0] != b"\xff\xd9":  # end of image
        at = marker.end()
        if marker[0] not in (b"\xff\xd8", b"\xff\x01"):  # SOI and TEM have no length
            at += int.from_bytes(data[at : at + 2], "big")
        scans += marker[0] == b"\xff\xda"  # SOS
        if scans > _MAX_SCANS:
            raise InputError(path, f"has more than {_MAX_SCANS} scans", "save it again")


def _decode(
    path: str | Path,
    file: BinaryIO,
    size: int,
    most: int = MAX_PIXELS,
    *,
    wanted: str | None = None,
) -> tuple[NDArray[Any], object]:
    """Decode with Pillow, which refuses a JPEG that is cut off; OpenCV does not.

    ``wanted`` is a mode of Pillow; by default, the one nearest to that of the file.

    Returns:
        (H, W, C), and the ICC profile; in a TIFF file, that may be an object of any type.
    """
    try:
        # Pillow warns of broken EXIF and large sizes; errors must stay one line.
        with warnings.catch_warnings(), _quiet_tiff(file):
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as picture:
                check_pixels(path, *picture.size, size, most)
                icc = picture.info.get("icc_profile")
                mode = picture.mode
                if mode == "I" and picture.format == "PPM":  # has 16 bits; in TIFF, "I" has 32
                    mode = "I;16"
                if mode not in _MODES and not mode.startswith("I;16"):
                    raise InputError(path, f"has {mode!r} pixels", "use 8- or 16-bit colour")
                target = _MODES.get(mode, mode)
                if "transparency" in picture.info:
                    target = "LA" if target == "L" else "RGBA"
                target = wanted or target
                upright = ImageOps.exif_transpose(picture)
                pixels = np.asarray(upright if target == upright.mode else upright.convert(target))
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as fault:
        raise InputError(path, "is not a picture of a known type") from fault
    except Exception as fault:  # Pillow's decoders raise errors of any type
        raise InputError(path, f"is a broken picture ({fault})") from fault
    return pixels.reshape(*pixels.shape[:2], -1).astype(pixels.dtype.newbyteorder("=")), icc


def _split_profile(path: str | Path, data: bytes) -> tuple[bytes, bytes | None]:
    """Split the ICC profile from a PNG: Pillow refuses pictures with a large one.

    Returns:
        The file without the profile, and the profile; None if it is missing or cannot be unpacked.
    """
    chunk = png.find_chunk(path, data, b"iCCP")
    if chunk is None:
        return data, None
    start = data.index(b"iCCP" + chunk) - 4  # a chunk is its length, type, body and checksum
    data = data[:start] + data[start + 12 + len(chunk) :]
    packed = chunk.partition(b"\0")[2][1:]  # after the name and the compression method
    try:
        return data, zlib.decompressobj().decompress(packed, _MAX_PROFILE + 1)
    except zlib.error:
        return data, None


def _valid_profile(icc: object, *, gray: bool) -> bytes | None:
    """Return an ICC profile if it is complete, not too large, and of the right colour space.

    Source: ICC.1:2022, 7.2, "Profile header".
    """
    if not isinstance(icc, bytes) or not 128 <= len(icc) <= _MAX_PROFILE:
        return None
    whole = int.from_bytes(icc[:4], "big") <= len(icc) and icc[36:40] == b"acsp"
    return icc if whole and icc[16:20] == (b"GRAY" if gray else b"RGB ") else None


def _turn(path: str | Path, pixels: NDArray[Any], exif: bytes | None) -> NDArray[Any]:
    """Turn (H, W, C) upright by its EXIF; `_decode` uses Pillow, which has no 16-bit colour."""
    if exif is None:
        return pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = Image.Exif()
            tags.load(exif)
            orientation = tags.get(ExifTags.Base.Orientation)
    except Exception as fault:  # Pillow's decoders raise errors of any type
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
    """Discard stderr while a TIFF is decoded: libtiff prints warnings to it from C."""
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
    """Return (C, H, W) in [0, 1] as the bytes of a file."""
    top = 2**bits - 1
    steps = torch.nan_to_num(image.detach().float(), nan=0.0).clamp(0, 1).mul(top).round()
    pixels = steps.permute(1, 2, 0).cpu().numpy()
    if bits == 16:
        if pixels.shape[2] == 2:  # OpenCV cannot write grey with alpha
            pixels = pixels[..., [0, 0, 0, 1]]
        data = png.encode_png16(pixels.astype(np.uint16))
        return _add_profile(data, _valid_profile(icc, gray=pixels.shape[2] == 1))
    name, options = _SAVE[kind]
    pixels = pixels.astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    gray = pixels.shape[2] < 3 and kind != ".webp"  # WebP stores grey as RGB
    # Pillow ignores the profile for formats that have none.
    picture.save(buffer, name, icc_profile=_valid_profile(icc, gray=gray), **options)
    return buffer.getvalue()


def _add_profile(data: bytes, icc: bytes | None) -> bytes:
    """Insert an ICC profile into a PNG after its header, since OpenCV writes none."""
    if icc is None:
        return data
    chunk = png.make_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    return data[: png.HEADER_BYTES] + chunk + data[png.HEADER_BYTES :]
