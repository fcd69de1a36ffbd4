"""Flow files: Middlebury ``.flo``, KITTI 16-bit PNG, PFM, NumPy ``.npy`` and ``.npz``.

=========  =================================================  ====================================
extension  holds                                              a pixel without a value
=========  =================================================  ====================================
``.flo``   float32, exact                                     1e10 (Middlebury: more than 1e9)
``.png``   steps of 1/64 px from -512 to 511.98 (KITTI)       third channel 0
``.pfm``   float32, exact; rows from the bottom up            NaN
``.npy``   float32, exact; (2, H, W), or (H, W, 2) when read  NaN
``.npz``   the same under ``flow``, with ``valid`` beside it  ``valid`` False
=========  =================================================  ====================================

An array of (2, W, 2) could be either, and is read as (2, H, W): channels first.

In every format, a value that is not finite or larger than 1e9 pixels is read as unknown, and flow
is 0 wherever ``valid`` is False.

Each reader compares the header with the size of the file before it allocates memory, and no reader
unpickles: a broken or hostile file raises ``InputError``.
"""

from __future__ import annotations

import io
import lzma
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.errors import InputError
from flowwarp.io import png
from flowwarp.io.atomic import atomic_output
from flowwarp.io.files import open_input
from flowwarp.io.limits import check_expansion, check_pixels

_XZ_MEMORY = 2**27  # bytes; the output of xz -9 needs 65 MiB to unpack
_XZ_PART = 2**16  # bytes read at a time

# px: the value that Middlebury's code writes for unknown flow, and above which it reads flow as
# unknown.
UNKNOWN, _UNKNOWN_ABOVE = 1e10, 1e9

_FLO_MAGIC = struct.pack("<f", 202021.25)  # b"PIEH"
_FLO_HEADER = 12  # bytes
_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK\x03\x04"

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


def read_flow(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read a flow file; the extension selects the format.

    Args:
        path: a ``.flo``, ``.png``, ``.pfm``, ``.npy`` or ``.npz`` file.

    Returns:
        flow (2, H, W) float32 in pixels, x first, 0 where unknown; and valid (1, H, W) bool.

    Raises:
        InputError: missing, unreadable, broken, or not a flow file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_flow(f"{folder}/a.flo", torch.tensor([[[1.5, torch.nan]], [[0.0, 0.0]]]))
    ...     flow, valid = read_flow(f"{folder}/a.flo")
    >>> flow[0], valid[0]  # flow[None] is a batch of one
    (tensor([[1.5000, 0.0000]]), tensor([[ True, False]]))
    """
    kind = Path(path).suffix.lower()
    if kind not in _FORMATS:
        raise InputError(
            path, "does not have the extension of a flow file", f"use one of {_extensions()}"
        )
    with open_input(path) as (file, size):
        _check_magic(path, kind, file.read(8))
        file.seek(0)
        flow, valid = _FORMATS[kind].read(path, file, size)
    return _to_tensors(flow, valid)


def read_packed_flow(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read a ``.flo`` file that is compressed with xz, unpacking no more than its header states.

    Args:
        path: a ``.flo.xz`` file.

    Returns:
        As :func:`read_flow`.

    Raises:
        InputError: missing, unreadable, broken, or not a packed ``.flo`` file.
    """
    if not str(path).lower().endswith(".flo.xz"):
        raise InputError(path, "does not have the extension of a packed flow file, .flo.xz")
    with open_input(path) as (file, packed_size):
        unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        try:
            head = _unpack(unpacker, file, _FLO_HEADER)
            _check_magic(path, ".flo", head)
            height, width = _read_flo_header(path, head, packed_size)
            # One byte more than the flow needs, to detect a file that is too long.
            body = _unpack(unpacker, file, 8 * height * width + 1)
        except (lzma.LZMAError, EOFError) as fault:
            raise InputError(path, f"is a broken xz file ({fault})") from fault
    rows = _read_block(path, io.BytesIO(body), len(body), np.dtype("<f4"), (height, width, 2))
    return _to_tensors(_channels_first(rows), None)


def _unpack(unpacker: lzma.LZMADecompressor, file: BinaryIO, count: int) -> bytes:
    """Return the next ``count`` bytes of a compressed file; fewer at its end.

    Raises:
        EOFError: it is cut off.
        lzma.LZMAError: it is broken, or needs too much memory.
    """
    data = bytearray()
    while len(data) < count and not unpacker.eof:
        packed = file.read(_XZ_PART) if unpacker.needs_input else b""
        if unpacker.needs_input and not packed:
            raise EOFError("it is cut off")
        data += unpacker.decompress(packed, count - len(data))
    return bytes(data)


def write_flow(path: str | Path, flow: Tensor, valid: Tensor | None = None) -> None:
    """Write a flow file atomically; the extension selects the format.

    Args:
        path: a name ending in ``.flo``, ``.png`` (KITTI), ``.pfm``, ``.npy`` or ``.npz``.
        flow: (2, H, W) in pixels, x first. Values that are not finite are written as unknown.
        valid: (1, H, W) bool, True where flow has a value; by default everywhere.

    Raises:
        TypeError: flow is not a floating-point tensor, or valid not a boolean one.
        ValueError: a wrong shape or an unknown extension.
        InputError: the format cannot hold these values or this size (KITTI PNG: flow below 512 px,
            sides up to 1,000,000 px).
        OutputError: the file cannot be written.

    >>> import tempfile
    >>> flow = torch.tensor([1.5, -2.0]).view(2, 1, 1).expand(2, 3, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_flow(f"{folder}/a.png", flow)
    ...     torch.equal(read_flow(f"{folder}/a.png")[0], flow)
    True
    """
    data = encode_flow(path, flow, valid)
    with atomic_output(path) as temporary:
        temporary.write_bytes(data)


def encode_flow(path: str | Path, flow: Tensor, valid: Tensor | None = None) -> bytes:
    """Return the content of a flow file as bytes, without writing it.

    Args:
        path: its extension selects the format.
        flow: (2, H, W) in pixels, x first.
        valid: (1, H, W) bool, True where flow has a value; by default everywhere.

    Raises:
        TypeError: flow is not a floating-point tensor, or valid not a boolean one.
        ValueError: a wrong shape or an unknown extension.
        InputError: the format cannot hold these values or this size.
    """
    kind = Path(path).suffix.lower()
    if kind not in _FORMATS:
        raise ValueError(f"path must end in {_extensions()}, got {str(path)!r}")
    return _FORMATS[kind].write(path, *_to_arrays(flow, valid))


def _to_tensors(flow: Array, valid: Mask | None) -> tuple[Tensor, Tensor]:
    """Return (2, H, W) and (1, H, W) tensors; flow is set to 0 where it is unknown."""
    known = np.asarray((np.abs(flow) <= _UNKNOWN_ABOVE).all(axis=0))  # (H, W), False for NaN
    if valid is not None:
        known &= valid
    flow[:, ~known] = 0
    return torch.from_numpy(flow), torch.from_numpy(known[None])


def _to_arrays(flow: Tensor, valid: Tensor | None) -> tuple[Array, Mask]:
    """Check (2, H, W) flow and (1, H, W) mask; return arrays (2, H, W) and (H, W)."""
    if not isinstance(flow, Tensor) or not flow.is_floating_point():
        got = flow.dtype if isinstance(flow, Tensor) else type(flow).__name__
        raise TypeError(f"flow must be a floating-point torch.Tensor, got {got}")
    if flow.ndim != 3 or flow.shape[0] != 2 or flow.numel() == 0:
        raise ValueError(f"flow must be (2, H, W) and not empty, got shape {tuple(flow.shape)}")
    array = flow.detach().to("cpu", torch.float32).numpy()
    mask = (np.abs(array) <= _UNKNOWN_ABOVE).all(axis=0)
    if valid is not None:
        if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
            got = valid.dtype if isinstance(valid, Tensor) else type(valid).__name__
            raise TypeError(f"valid must be a boolean torch.Tensor, got {got}")
        if valid.shape != (1, *flow.shape[1:]):
            wanted = (1, *flow.shape[1:])
            raise ValueError(f"valid must be {wanted}, got shape {tuple(valid.shape)}")
        mask = mask & valid[0].cpu().numpy()
    return array, mask


def _check_magic(path: str | Path, kind: str, head: bytes) -> None:
    if head.startswith(_FORMATS[kind].magic):
        return
    if kind == ".flo" and head[:4] == _FLO_MAGIC[::-1]:
        raise InputError(path, "is a big-endian .flo file", "write it little-endian")
    for other, form in _FORMATS.items():
        if head.startswith(form.magic):
            raise InputError(path, f"is a {other} file by its content", f"rename it to {other}")
    raise InputError(path, f"is not a {kind} file (wrong magic number)")


# Middlebury .flo: magic, int32 width, int32 height, then rows of (u, v); all little-endian.


def _read_flo(path: str | Path, file: BinaryIO, size: int) -> tuple[Array, None]:
    height, width = _read_flo_header(path, file.read(_FLO_HEADER))
    rows = _read_block(path, file, size - _FLO_HEADER, np.dtype("<f4"), (height, width, 2))
    return _channels_first(rows), None


def _read_flo_header(
    path: str | Path, header: bytes, packed_size: int | None = None
) -> tuple[int, int]:
    if len(header) < _FLO_HEADER:
        raise InputError(path, "is cut off in its header")
    width, height = struct.unpack("<ii", header[4:])
    check_pixels(path, width, height, packed_size)
    return height, width


def _write_flo(path: str | Path, flow: Array, valid: Mask) -> bytes:
    height, width = valid.shape
    rows = np.where(valid, flow, np.float32(UNKNOWN)).transpose(1, 2, 0)
    return _FLO_MAGIC + struct.pack("<ii", width, height) + rows.astype("<f4").tobytes()


# KITTI PNG, also HD1K and VIPER: 16-bit RGB, u = (R - 2^15) / 64, v = (G - 2^15) / 64, B = valid.


def _read_png(path: str | Path, file: BinaryIO, size: int) -> tuple[Array, Mask]:
    header = png.read_header(path, file.read(png.HEADER_BYTES))
    if not header.is_flow:
        raise InputError(path, f"is {header.kind} PNG, not flow", "flow PNGs are 16-bit RGB")
    file.seek(0)
    picture = png.decode_png16(path, png.read_whole(path, file, size))
    flow = (picture[..., :2].astype(np.float32) - 2**15) / 64
    return _channels_first(flow), picture[..., 2] > 0


def _write_png(path: str | Path, flow: Array, valid: Mask) -> bytes:
    remedy = "write .flo, .pfm or .npz"
    png.check_sides(path, valid.shape[1], valid.shape[0], remedy)
    steps = np.rint(np.where(valid, flow, 0).astype(np.float64) * 64) + 2**15
    if steps.min() < 0 or steps.max() > 2**16 - 1:
        worst = np.abs(flow[:, valid]).max()
        raise InputError(
            path,
            f"a flow of {worst:.6g} px does not fit a KITTI PNG (-512 to 511.98)",
            remedy,
        )
    return png.encode_png16(np.stack([*np.where(valid, steps, 0), valid], -1).astype(np.uint16))


# PFM as FlyingThings3D and VCN write it: three channels (u, v, unused), rows from the bottom up.

_PFM_HEADER = re.compile(
    rb"P(?P<channels>[Ff])\s+(?P<width>-?\d{1,10})\s+(?P<height>-?\d{1,10})\s+"
    rb"(?P<scale>[-+]?[\d.]{1,20}(?:[eE][-+]?\d{1,3})?)[ \t]*\r?\n"
)


def _read_pfm(path: str | Path, file: BinaryIO, size: int) -> tuple[Array, None]:
    header = _PFM_HEADER.match(file.read(128))
    if header is None:
        raise InputError(path, "has a broken PFM header")
    if header["channels"] == b"f":
        raise InputError(path, "is a grey PFM (disparity or depth?)", "flow PFMs have 3 channels")
    width, height = int(header["width"]), int(header["height"])
    check_pixels(path, width, height)
    try:
        scale = float(header["scale"])
    except ValueError:
        scale = 0.0
    # The sign states the byte order: negative is little-endian. Flow files do not use the value.
    if scale == 0 or not math.isfinite(scale):
        raise InputError(path, f"has a PFM scale of {header['scale'].decode()}")
    file.seek(header.end())
    dtype = np.dtype("<f4" if scale < 0 else ">f4")
    rows = _read_block(path, file, size - header.end(), dtype, (height, width, 3))
    return _channels_first(rows[::-1, :, :2]), None


def _write_pfm(path: str | Path, flow: Array, valid: Mask) -> bytes:
    height, width = valid.shape
    rows = np.zeros((height, width, 3), "<f4")
    rows[::-1, :, :2] = np.where(valid, flow, np.nan).transpose(1, 2, 0)
    return b"PF\n%d %d\n-1.0\n" % (width, height) + rows.tobytes()


# NumPy. The header is a Python dictionary. Three patterns find its three values, so that nothing is
# evaluated and a long header costs no memory.

_NPY_HEADER_LIMIT = 4096
_NPY_DESCR = re.compile(r"'descr'\s*:\s*'([^']{1,16})'")
_NPY_ORDER = re.compile(r"'fortran_order'\s*:\s*(True|False)")
_NPY_SHAPE = re.compile(r"'shape'\s*:\s*\(([\d\s,]{0,99})\)")
_FLOATS = re.compile(r"[<>=]f[248]")
_BOOLEANS = re.compile(r"[<>|=]?b1")


def _read_npy(path: str | Path, file: BinaryIO, size: int) -> tuple[Array, None]:
    array = _read_npy_array(path, file, size, "flow", _FLOATS)
    if array.ndim == 3 and array.shape[0] == 2:
        pass
    elif array.ndim == 3 and array.shape[2] == 2:
        array = array.transpose(2, 0, 1)
    else:
        raise InputError(path, f"contains flow of shape {array.shape}", "it must be (2, H, W)")
    check_pixels(path, array.shape[2], array.shape[1])
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf, hence unknown
        return np.array(array, np.float32, order="C"), None


def _read_npy_array(
    path: str | Path, file: BinaryIO, size: int, name: str, dtypes: re.Pattern[str]
) -> NDArray[Any]:
    """Read one array from a stream of ``size`` bytes; messages call it ``name``."""
    head = file.read(8)
    if len(head) < 8 or not head.startswith(_NPY_MAGIC) or head[6] not in (1, 2, 3):
        raise InputError(path, f"has a broken NumPy header ({name})")
    prefix = file.read(2 if head[6] == 1 else 4)
    length = int.from_bytes(prefix, "little")
    if length > _NPY_HEADER_LIMIT:
        raise InputError(path, f"has a NumPy header of {length} bytes ({name})")
    text = file.read(length).decode("latin1")
    descr, order, dims = (p.search(text) for p in (_NPY_DESCR, _NPY_ORDER, _NPY_SHAPE))
    if descr is None or order is None or dims is None or len(text) < length:
        raise InputError(path, f"has a broken NumPy header ({name})", "save it as one plain array")
    if not dtypes.fullmatch(descr[1]):
        wanted = "float32" if dtypes is _FLOATS else "bool"
        raise InputError(path, f"contains {name} as {descr[1]!r}", f"save it as {wanted}")
    shape = tuple(int(dim) for dim in re.findall(r"\d+", dims[1]))
    fortran = order[1] == "True"
    available = size - len(head) - len(prefix) - length
    stored = shape[::-1] if fortran else shape
    block = _read_block(path, file, available, np.dtype(descr[1]), stored)
    return block.T if fortran else block


# An .npz is a zip of .npy files. np.savez writes a few members and no comment.

_ZIP_END = struct.Struct("<4s4H2IH")
_ZIP_MEMBERS = 64


def _read_npz(path: str | Path, file: BinaryIO, size: int) -> tuple[Array, Mask | None]:
    # zipfile trusts the sizes in the end record and allocates by them, so they are checked first.
    file.seek(max(0, size - _ZIP_END.size))
    end = file.read(_ZIP_END.size)
    if len(end) < _ZIP_END.size or not end.startswith(b"PK\x05\x06"):
        raise InputError(path, "is cut off or not a plain .npz file")
    _, _, _, _, members, length, start, _ = _ZIP_END.unpack(end)
    if members > _ZIP_MEMBERS or start + length + _ZIP_END.size != size:
        raise InputError(path, "has a broken zip directory")
    try:
        with zipfile.ZipFile(file) as archive:
            flow, _ = _read_npz_member(path, archive, "flow", _read_npy)
            if "valid.npy" not in archive.namelist():
                return flow, None
            valid = _read_npz_member(path, archive, "valid", _read_valid)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as fault:
        if isinstance(fault, InputError):
            raise
        raise InputError(path, f"is a broken .npz file ({fault})") from fault
    if valid.shape != flow.shape[1:]:
        raise InputError(path, f"contains flow {flow.shape} but valid of shape {valid.shape}")
    return flow, valid


def _read_npz_member(path: str | Path, archive: zipfile.ZipFile, name: str, read: Any) -> Any:
    """Read one array of the archive after checking its sizes."""
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        found = ", ".join(sorted(archive.namelist())[:5]) or "nothing"
        raise InputError(
            path, f"has no array 'flow' (it contains {found})", "np.savez(path, flow=...)"
        ) from None
    if member.flag_bits & 1 or member.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        raise InputError(path, "is encrypted, or compressed in a way that NumPy does not use")
    check_expansion(path, member.compress_size, member.file_size)
    with archive.open(member) as stream:
        return read(path, stream, member.file_size)


def _read_valid(path: str | Path, file: BinaryIO, size: int) -> Mask:
    valid = _read_npy_array(path, file, size, "valid", _BOOLEANS)
    return valid.reshape(valid.shape[-2:]) if valid.shape[:-2] == (1,) else valid


def _write_npy(path: str | Path, flow: Array, valid: Mask) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.where(valid, flow, np.float32(np.nan)))
    return buffer.getvalue()


def _write_npz(path: str | Path, flow: Array, valid: Mask) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, flow=np.where(valid, flow, np.float32(0)), valid=valid[None])
    return buffer.getvalue()


def _read_block(
    path: str | Path, file: BinaryIO, available: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Read one array of ``shape``, which must be the rest of the file."""
    needed = math.prod(shape) * dtype.itemsize
    if needed != available:
        problem = "is cut off" if available < needed else "is longer than its header says"
        raise InputError(path, f"{problem} ({available} bytes of data, not {needed})")
    data = file.read(needed)
    if len(data) != needed:
        raise InputError(path, "is cut off")
    return np.frombuffer(data, dtype).reshape(shape)


def _channels_first(rows: NDArray[Any]) -> Array:  # (H, W, 2) -> (2, H, W), native float32
    return np.array(rows.transpose(2, 0, 1), np.float32, order="C")


def _extensions() -> str:
    return ", ".join(_FORMATS)


class _Format(NamedTuple):
    """A file format: what files begin with, a reader and a writer.

    ``read(path, file, size)`` returns (2, H, W) float32 and (H, W) bool or None; ``write(path,
    flow, valid)`` takes the same and returns the bytes of the file. ``path`` is for messages.
    """

    magic: tuple[bytes, ...]
    read: Callable[[str | Path, BinaryIO, int], tuple[Array, Mask | None]]
    write: Callable[[str | Path, Array, Mask], bytes]


# One entry per extension in `flowwarp.io.file_types.FLOW_FORMATS`.
_FORMATS = {
    ".flo": _Format((_FLO_MAGIC,), _read_flo, _write_flo),
    ".png": _Format((png.SIGNATURE,), _read_png, _write_png),
    ".pfm": _Format((b"PF", b"Pf"), _read_pfm, _write_pfm),
    ".npy": _Format((_NPY_MAGIC,), _read_npy, _write_npy),
    ".npz": _Format((_ZIP_MAGIC,), _read_npz, _write_npz),
}
