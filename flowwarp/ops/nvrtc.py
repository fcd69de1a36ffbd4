"""Compiles the CUDA kernels of ``cuda/`` at first use, caches them on disk, and launches them.

Nothing is built at install time and no CUDA toolkit is needed: NVRTC comes with every CUDA build of
torch, the driver with the GPU. One instantiation is compiled for one kind of GPU when it is first
called (about 0.1 s) and cached in ``~/.cache/flowwarp`` (``FLOWWARP_CACHE_DIR``, else
``XDG_CACHE_HOME``). ``FLOWWARP_NATIVE=off`` turns the kernels off, as it does the CPU library.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flowwarp.bundled import bundled, cache_folder
from flowwarp.errors import install_extra

# -fmad=false: the CPU library is built with -ffp-contract=off, and both must give the same bits.
OPTIONS = ("-std=c++17", "-fmad=false")
ENTRY = "kernel"
BLOCK = 256  # threads
MOST_BLOCKS = 65535  # along y and z, CUDA's limit
ENOUGH_THREADS = 1 << 18  # fill a large GPU; with fewer pixels, their channels are split, too
PARTS = 3  # integers of a fixed-point sum, as in cuda/warping.cu
SCRATCH = 1 << 22  # fixed-point sums in memory at once: 96 MiB
OLDEST = 70  # compute capability that __grid_constant__ needs
STORAGE = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "half_t",
    torch.bfloat16: "bfloat_t",
}

Size3 = tuple[int, int, int]


# ------------------------------------------------------------------ compile


@dataclass(frozen=True)
class Nvrtc:
    """NVRTC with its version, or the reason why it is missing."""

    library: ctypes.CDLL | None
    path: str
    version: tuple[int, int]
    supported: tuple[int, ...]  # compute capabilities, 90 for 9.0
    reason: str = ""


@functools.cache
def nvrtc() -> Nvrtc:
    """Load NVRTC once; never raises, the reason is in the result."""
    reason = (
        "libnvrtc was not found (on Linux it comes with torch for CUDA, "
        f"or {install_extra('cuda')})"
    )
    newest = _newest_major()
    for path in _candidates():
        try:
            library = _load(path)
        except OSError:
            continue
        major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        if newest is not None and major.value > newest:
            found = f"NVRTC {major.value}.{minor.value} in {path}"
            reason = f"{found} is too new: the driver knows CUDA {newest}"
            continue
        library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        supported = (ctypes.c_int * count.value)()
        library.nvrtcGetSupportedArchs(supported)
        return Nvrtc(library, path, (major.value, minor.value), tuple(supported))
    return Nvrtc(None, "", (0, 0), (), reason)


def _load(path: str) -> ctypes.CDLL:
    if Path(path).is_absolute():  # a bare name is the loader's to find
        # NVRTC opens them by name when it first compiles, and some builds of it do not say where.
        for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so.[0-9]*")):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(builtins))
    return ctypes.CDLL(path)


def _newest_major() -> int | None:
    """Return the newest major version of CUDA that the driver supports, None without a driver."""
    version = ctypes.c_int()
    with contextlib.suppress(OSError):
        _driver().cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000 or None


def _candidates() -> Iterator[str]:
    """List paths of NVRTC to try; first those of the major version that torch was built with."""
    torch_major = (torch.version.cuda or "").partition(".")[0]
    nvidia = importlib.util.find_spec("nvidia")  # a namespace package: nothing is imported
    folders = [Path(torch.__file__).parent / "lib", Path(sys.prefix, "lib")]
    for root in (nvidia and nvidia.submodule_search_locations) or []:
        folders += sorted(Path(root).glob("*/lib"))
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if variable in os.environ:
            folders.append(Path(os.environ[variable], "lib64"))
    found = [str(path) for folder in folders for path in sorted(folder.glob("libnvrtc.so.[0-9]*"))]
    names = [*found, "libnvrtc.so.13", "libnvrtc.so.12"]
    yield from sorted(names, key=lambda name: f".so.{torch_major}." not in f"{name}.")


def wrap(family: str, body: str, call: str) -> str:
    """Return the source of one kernel: an instantiation of a body in ``cuda/<family>.cu``.

    Args:
        family: the file, ``"warping"``.
        body: the instantiation, ``"warp<float, 2, 0>"``.
        call: the struct of its arguments, ``"WarpingCall"``.
    """
    return (
        f'#include "{family}.cu"\n'
        f'namespace flowwarp {{\nextern "C" __global__ void __launch_bounds__({BLOCK})\n'
        f"{ENTRY}(const __grid_constant__ {call} call) {{ {body}(call); }}\n}}\n"
    )


@functools.cache
def _sources() -> dict[str, bytes]:
    files = sorted(bundled("cuda").iterdir())
    return {file.name: file.read_bytes() for file in files if file.suffix in (".h", ".cu")}


def compile_source(source: str, architecture: str) -> bytes:
    """Compile one kernel.

    Args:
        source: what :func:`wrap` returns.
        architecture: ``"sm_90"`` for machine code, ``"compute_90"`` for PTX.

    Raises:
        RuntimeError: NVRTC is missing, or it refused the source; the message holds its log.
    """
    library = nvrtc().library
    if library is None:
        raise RuntimeError(nvrtc().reason)
    headers = _sources()
    program = ctypes.c_void_p()
    status = library.nvrtcCreateProgram(
        ctypes.byref(program),
        source.encode(),
        b"kernel.cu",
        len(headers),
        (ctypes.c_char_p * len(headers))(*headers.values()),
        (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers)),
    )
    if status:
        raise RuntimeError(f"NVRTC: {_nvrtc_error(library, status)}")

    def text(what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw

    try:
        options = [*OPTIONS, f"--gpu-architecture={architecture}"]
        status = library.nvrtcCompileProgram(
            program,
            len(options),
            (ctypes.c_char_p * len(options))(*(option.encode() for option in options)),
        )
        if status:
            log = text("ProgramLog").rstrip(b"\0\n").decode(errors="replace")
            raise RuntimeError(
                f"NVRTC {nvrtc().version} for {architecture}: {_nvrtc_error(library, status)}\n"
                f"{log}\n{source}FLOWWARP_NATIVE=off runs the torch reference instead"
            )
        return text("PTX" if architecture.startswith("compute") else "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _nvrtc_error(library: ctypes.CDLL, status: int) -> str:
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return str(library.nvrtcGetErrorString(status).decode())


def architecture_for(capability: tuple[int, int], supported: Sequence[int]) -> str | None:
    """Return ``sm_*``, ``compute_*`` (PTX) for a GPU newer than NVRTC, or None for one too old."""
    wanted = 10 * capability[0] + capability[1]
    if wanted < OLDEST:
        return None
    if wanted in supported:
        return f"sm_{wanted}"
    older = [known for known in supported if known < wanted]
    return f"compute_{max(older)}" if older else None


# ------------------------------------------------------------------ cache on disk


def cached(source: str, architecture: str) -> bytes:
    """Return a compiled kernel from the cache on disk; compile and store it if it is not there.

    A damaged file is replaced, and a folder that cannot be written is ignored.
    """
    folder = cache_folder()
    if folder is None:
        return compile_source(source, architecture)
    key = hashlib.sha256(repr((nvrtc().version, OPTIONS, architecture, source)).encode())
    for name, text in _sources().items():
        key.update(b"\0" + name.encode() + b"\0" + text)
    path = folder / f"{key.hexdigest()}.bin"
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return content[32:]
    binary = compile_source(source, architecture)
    with contextlib.suppress(OSError):
        _write(path, hashlib.sha256(binary).digest() + binary)
    return binary


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)  # atomic: other processes see all of it or nothing
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


# ------------------------------------------------------------------ launch


def serves(*tensors: Tensor) -> bool:
    """Return whether the kernels can be run on these tensors: all on a GPU that NVRTC knows."""
    if any(tensor.device.type != "cuda" for tensor in tensors) or torch.version.cuda is None:
        return False
    if os.environ.get("FLOWWARP_NATIVE", "").lower() == "off" or nvrtc().library is None:
        return False
    return _architecture(tensors[0].device.index) is not None


@functools.cache
def _architecture(device: int) -> str | None:
    return architecture_for(torch.cuda.get_device_capability(device), nvrtc().supported)


def launch(
    family: str, body: str, call: ctypes.Structure, grid: Size3, block: Size3, device: torch.device
) -> None:
    """Run a kernel body on torch's current stream of ``device``.

    Args:
        family: the file in ``cuda/`` without ``.cu``.
        body: the instantiation of the body.
        call: its arguments; the class is named as the C struct.
        grid: blocks along x, y, z.
        block: threads along x, y, z.
        device: where the tensors in ``call`` are.
    """
    if 0 in grid:
        return
    driver = _driver()
    function = _function(family, body, type(call).__name__, device.index)
    stream = torch.cuda.current_stream(device).cuda_stream
    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(call))
    with _context(device.index):
        _check(
            driver.cuLaunchKernel(
                function,
                *map(ctypes.c_uint, (*grid, *block, 0)),
                ctypes.c_void_p(stream),
                parameters,
                None,
            ),
            f"launching {body}",
        )


@functools.cache
def _function(family: str, body: str, call: str, device: int) -> ctypes.c_void_p:
    architecture = _architecture(device)
    if architecture is None:
        raise RuntimeError(f"NVRTC {nvrtc().version} does not know GPU {device}")
    binary = cached(wrap(family, body, call), architecture)
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    driver = _driver()
    with _context(device):
        _check(driver.cuModuleLoadData(ctypes.byref(module), binary), f"loading {body}")
        _check(
            driver.cuModuleGetFunction(ctypes.byref(function), module, ENTRY.encode()),
            f"finding {body}",
        )
    return function


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


@functools.cache
def _primary_context(device: int) -> ctypes.c_void_p:
    """Return torch's own context of a device; autograd's threads may not have it current."""
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    _check(_driver().cuDeviceGet(ctypes.byref(handle), device), "finding the GPU")
    _check(_driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), "opening the GPU")
    return context


@contextlib.contextmanager
def _context(device: int) -> Iterator[None]:
    _check(_driver().cuCtxPushCurrent_v2(_primary_context(device)), "entering the GPU's context")
    try:
        yield
    finally:
        _check(_driver().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p())), "leaving it")


def _check(status: int, what: str) -> None:
    if status:
        name = ctypes.c_char_p()
        _driver().cuGetErrorName(status, ctypes.byref(name))
        raise RuntimeError(f"CUDA driver: {what}: {(name.value or b'error').decode()} ({status})")


# ------------------------------------------------------------------ warping


class WarpingCall(ctypes.Structure):
    """The struct of the same name in cuda/warping.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("image", "flow", "grad_out", "out", "mask")),
        *((name, ctypes.c_void_p) for name in ("sums", "ranges")),
        *((name, ctypes.c_longlong) for name in ("batch", "channels", "first", "count")),
        *((name, ctypes.c_int) for name in ("height", "width", "channels_last")),
    ]


def warp(image: Tensor, flow: Tensor, mode: int, padding: int, out: Tensor, valid: Tensor) -> None:
    """Warp ``image`` into ``out``.

    Args:
        image: (B, C, H, W), dense, planes or channels last.
        flow: (B, 2, H, W), contiguous, in the dtype of the sums.
        mode: ``enum Mode`` of cuda/warping.h.
        padding: ``enum Padding`` of cuda/warping.h.
        out: like ``image``.
        valid: (B, 1, H, W) bool, or empty where no mask is wanted.
    """
    mask = valid if valid.numel() else None
    call = _warping_call(image, image=image, flow=flow, out=out, mask=mask)
    grid, block = _pixels_and_channels(image, image.shape[1])
    launch("warping", _body("warp", image, mode, padding), call, grid, block, image.device)


def flow_gradient(
    image: Tensor, flow: Tensor, grad_out: Tensor, mode: int, padding: int, grad_flow: Tensor
) -> None:
    """Write the gradient of :func:`warp` for its flow; ``grad_out`` is laid out like ``image``."""
    call = _warping_call(image, image=image, flow=flow, grad_out=grad_out, out=grad_flow)
    batch, _, height, width = image.shape
    grid = (_ceil(height * width, BLOCK), 1, min(batch, MOST_BLOCKS))
    body = _body("flow_gradient", image, mode, padding)
    launch("warping", body, call, grid, (BLOCK, 1, 1), image.device)


def image_gradient(
    grad_out: Tensor, flow: Tensor, mode: int, padding: int, grad_image: Tensor
) -> None:
    """Write the gradient of :func:`warp` for its image, laid out like ``grad_out``.

    Sums are in fixed point (see cuda/warping.cu), for as many examples and channels at once as the
    scratch memory holds.
    """
    examples, _, height, width = grad_image.shape
    at_once = max(1, SCRATCH // max(1, height * width))
    for first in range(0, examples if grad_image.numel() else 0, at_once):
        part = slice(first, first + at_once)
        _image_gradient(grad_out[part], flow[part], mode, padding, grad_image[part])


def _image_gradient(
    grad_out: Tensor, flow: Tensor, mode: int, padding: int, grad_image: Tensor
) -> None:
    batch, channels, height, width = grad_out.shape
    at_once = min(channels, max(1, SCRATCH // (batch * height * width)))
    sums = grad_out.new_zeros(PARTS * batch * at_once * height * width, dtype=torch.int64)
    ranges = grad_out.new_zeros(batch, 3, dtype=torch.int64)  # struct Range
    call = _warping_call(
        grad_out, grad_out=grad_out, flow=flow, out=grad_image, sums=sums, ranges=ranges
    )

    def run(body: str, channels: int) -> None:
        grid, block = _pixels_and_channels(grad_out, channels)
        launch("warping", body, call, grid, block, grad_out.device)

    run(_body("measure", grad_out, mode, padding), channels)
    sums.zero_()
    for first in range(0, channels, at_once):
        call.first, call.count = first, min(at_once, channels - first)
        run(_body("scatter", grad_out, mode, padding), call.count)
        run(f"finish<{STORAGE[grad_out.dtype]}>", call.count)
    run(_body("spoil", grad_out, mode, padding), channels)


def _warping_call(like: Tensor, **tensors: Tensor | None) -> WarpingCall:
    pointers = {name: t.data_ptr() for name, t in tensors.items() if t is not None}
    batch, channels, height, width = like.shape
    return WarpingCall(
        **pointers,
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        channels_last=not like.is_contiguous(),
    )


def _body(name: str, image: Tensor, mode: int, padding: int) -> str:
    return f"{name}<{STORAGE[image.dtype]}, {mode}, {padding}>"


def _pixels_and_channels(image: Tensor, channels: int, share: int = 1) -> tuple[Size3, Size3]:
    """Return grid and block for a body that walks the pixels and some channels of an image.

    Any grid gives the same result, for the bodies loop; this one keeps neighbouring threads on
    neighbouring memory.

    Args:
        image: dense, planes or channels last.
        channels: how many are walked.
        share: threads that share out the channels of a pixel of planes, at least; more where there
            are few pixels. Channels last always has 32, or what is needed.
    """
    batch, _, height, width = image.shape
    plane = height * width
    depth = min(batch, MOST_BLOCKS)
    if image.is_contiguous():
        share = min(channels, MOST_BLOCKS, max(share, ENOUGH_THREADS // max(1, batch * plane)))
        return (_ceil(plane, BLOCK), max(1, share), depth), (BLOCK, 1, 1)
    lanes = min(32, 1 << (channels - 1).bit_length())
    rows = BLOCK // lanes
    return (1, min(_ceil(plane, rows), MOST_BLOCKS), depth), (lanes, rows, 1)


def _ceil(count: int, step: int) -> int:
    return (count + step - 1) // step


# ------------------------------------------------------------------ correlation


class Layout(ctypes.Structure):
    """Struct Layout in cuda/correlation.h, Strides in census.cu: in elements."""

    _fields_ = [(name, ctypes.c_longlong) for name in ("example", "channel", "row", "column")]


class Volume(ctypes.Structure):
    """The struct of the same name in cuda/correlation.h."""

    _fields_ = [
        (name, ctypes.c_int) for name in ("channels", "height", "width", "radius", "dilation")
    ]


class CorrelationCall(ctypes.Structure):
    """The struct of the same name in cuda/correlation.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("first", "second", "out")),
        *((name, Layout) for name in ("first_at", "second_at", "out_at")),
        ("batch", ctypes.c_longlong),
        ("volume", Volume),
        ("channels_last", ctypes.c_int),
    ]


def correlation(a: Tensor, b: Tensor, radius: int, dilation: int, out: Tensor) -> None:
    """Write the cost volume.

    Args:
        a: (B, C, H, W), any strides.
        b: like ``a``, any strides.
        radius: displacements to each side.
        dilation: pixels between them.
        out: (B, (2 radius + 1)^2, H, W), contiguous.
    """
    call = _correlation_call(a, b, out, a.shape[1], radius, dilation)
    grid, block = _pixels_and_channels(out, out.shape[1], share=out.shape[1])
    launch("correlation", f"correlation<{STORAGE[a.dtype]}>", call, grid, block, a.device)


def correlation_gradient(
    grad: Tensor, other: Tensor, side: int, radius: int, dilation: int, out: Tensor
) -> None:
    """Write the gradient of :func:`correlation` for ``a`` (side 0) or ``b`` (side 1).

    Args:
        grad: the volume's gradient, contiguous.
        other: the other image, any strides.
        side: for which image.
        radius: as in :func:`correlation`.
        dilation: as in :func:`correlation`.
        out: (B, C, H, W), dense, planes or channels last.
    """
    call = _correlation_call(grad, other, out, out.shape[1], radius, dilation)
    grid, block = _pixels_and_channels(out, out.shape[1], share=out.shape[1])
    body = f"correlation_gradient<{STORAGE[grad.dtype]}, {side}>"
    launch("correlation", body, call, grid, block, grad.device)


def _correlation_call(
    first: Tensor, second: Tensor, out: Tensor, channels: int, radius: int, dilation: int
) -> CorrelationCall:
    batch, _, height, width = out.shape
    return CorrelationCall(
        first=first.data_ptr(),
        second=second.data_ptr(),
        out=out.data_ptr(),
        first_at=Layout(*first.stride()),
        second_at=Layout(*second.stride()),
        out_at=Layout(*out.stride()),
        batch=batch,
        volume=Volume(channels, height, width, radius, dilation),
        channels_last=not out.is_contiguous(),
    )


# ------------------------------------------------------------------ census


class CensusCall(ctypes.Structure):
    """The struct of the same name in cuda/census.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("image", "grey1", "grey2", "grad", "out1", "out2")),
        *((name, Layout) for name in ("image_at", "out1_at", "out2_at")),
        ("batch", ctypes.c_longlong),
        *((name, ctypes.c_int) for name in ("channels", "height", "width", "radius")),
    ]


def census(image: Tensor, radius: int, out: Tensor) -> None:
    """Write the soft census transform.

    Args:
        image: (B, 1 or 3, H, W), any strides.
        radius: of the square of neighbours.
        out: (B, (2 radius + 1)^2 - 1, H, W), contiguous.
    """
    tensors = {"grey1": _grey(image), "out1": out}
    _census("census", image, radius, tensors, share=out.shape[1])


def census_gradient(grad: Tensor, image: Tensor, radius: int, out: Tensor) -> None:
    """Write the gradient of :func:`census`: ``grad`` contiguous, ``out`` like ``image``."""
    tensors = {"grad": grad, "grey1": _grey(image), "out1": out}
    _census("census_gradient", image, radius, tensors)


def census_distance(image1: Tensor, image2: Tensor, radius: int, out: Tensor) -> None:
    """Write the soft Hamming distance (B, 1, H, W), contiguous, of two images' transforms."""
    grey1, grey2 = _grey(image1), _grey(image2)
    _census("census_distance", image1, radius, {"grey1": grey1, "grey2": grey2, "out1": out})


def census_distance_gradient(
    grad: Tensor,
    image1: Tensor,
    image2: Tensor,
    radius: int,
    out1: Tensor,
    out2: Tensor,
) -> None:
    """Write the gradients of :func:`census_distance` for its images; ``grad`` is contiguous."""
    grey1, grey2 = _grey(image1), _grey(image2)
    tensors = {"grad": grad, "grey1": grey1, "grey2": grey2, "out1": out1, "out2": out2}
    _census("census_distance_gradient", image1, radius, tensors)


def _grey(image: Tensor) -> Tensor:
    dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    batch, _, height, width = image.shape
    grey = image.new_empty((batch, 1, height, width), dtype=dtype)
    _census("grey", image, 0, {"image": image, "grey1": grey})
    return grey


def _census(
    name: str, like: Tensor, radius: int, tensors: dict[str, Tensor], share: int = 1
) -> None:
    batch, channels, height, width = like.shape
    call = CensusCall(
        **{role: tensor.data_ptr() for role, tensor in tensors.items()},
        **{
            f"{role}_at": Layout(*tensor.stride())
            for role, tensor in tensors.items()
            if role in ("image", "out1", "out2")
        },
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        radius=radius,
    )
    grid = (_ceil(height * width, BLOCK), min(share, MOST_BLOCKS), min(batch, MOST_BLOCKS))
    launch("census", f"{name}<{STORAGE[like.dtype]}>", call, grid, (BLOCK, 1, 1), like.device)
