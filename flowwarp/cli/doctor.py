"""``flowwarp doctor``: which packages and libraries are used, and whether they compute correctly.

It must work where the installation is broken. So this module imports nothing but click, and a check
that raises any exception is a line of the report.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import math
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

if TYPE_CHECKING:
    from torch import Tensor

OK, NOTE, FAIL = "ok", "note", "FAIL"
# By the name of a module: the distribution to install (OpenCV has several).
MODULES = {
    "torch": "torch",
    "numpy": "numpy",
    "cv2": "opencv-python",
    "PIL": "pillow",
    "imageio": "imageio",
    "av": "av",
    "kornia": "kornia",
    "safetensors": "safetensors",
    "click": "click",
    "rich": "rich",
}
# Largest errors allowed, about ten times the usual ones: of values in [0, 1], of sums of several
# such values, and of the census transform, which takes gray levels from 0 to 255.
VALUE_ERROR, SUM_ERROR, CENSUS_ERROR = 2e-6, 5e-6, 2e-4
TIMED_SHAPE = (1, 32, 256, 256)  # (B, C, H, W)


@dataclass(frozen=True)
class Line:
    """One line of the report.

    Args:
        part: section of the report.
        name: what was checked.
        state: ``ok``, ``note`` (something optional is absent or slower) or ``FAIL``.
        text: a version, a path, a figure or the reason.
    """

    part: str
    name: str
    state: str
    text: str


@click.command()
@click.option("--full", is_flag=True, help="Measure all guarantees, too; takes some minutes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.pass_context
def command(ctx: click.Context, full: bool, as_json: bool) -> None:
    """Check this installation, and test that the operators compute correctly.

    Each operator is compared with its reference in float64, on the CPU and on the GPU if there is
    one. That takes some seconds. With --full, small networks and trainers are measured on the CPU
    as well: an example must not depend on its batch, a gradient must not depend on how a step is
    split, and a run must end the same after it was interrupted or killed. The exit code is 1 if a
    test fails, a package is missing or too old, or a library was built but does not load. Something
    optional that is absent, such as a compiler or a GPU, is a note.
    """
    lines = []
    for line in _report(full):
        lines.append(line)
        if not as_json:
            click.echo(f"{line.state:<5} {line.part:<9} {line.name:<33} {line.text}")
    failed = sum(line.state == FAIL for line in lines)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [asdict(line) for line in lines]}))
    else:
        click.echo(f"{failed} of {len(lines)} checks failed" if failed else "all checks passed")
    if failed:
        ctx.exit(1)


def _report(full: bool) -> Iterator[Line]:
    yield from _packages()
    yield from _section("cpu", _cpu)
    yield from _section("cuda", _cuda)
    yield from _section("cache", _cache)
    yield from _section("self-test", _self_tests)
    if full:
        yield from _section("guarantee", _guarantees)


def _section(part: str, checks: Callable[[], Iterator[tuple[str, str, str]]]) -> Iterator[Line]:
    """Yield the lines of a section. An exception ends the section with a line of its own."""
    try:
        for name, state, text in checks():
            yield Line(part, name, state, text)
    except Exception as error:  # noqa: BLE001 - the report is about any kind of damage
        yield Line(part, part, FAIL, _describe(error))


def _describe(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


# ------------------------------------------------------------------ what is installed


def _packages() -> Iterator[Line]:
    from flowwarp import __file__ as place
    from flowwarp import __version__

    version = f"{__version__} in {Path(place).parent}"
    yield Line("package", "flowwarp", OK, version)
    yield Line("package", "python", OK, f"{platform.python_version()} on {platform.platform()}")
    required = _requirements()
    for module, distribution in MODULES.items():
        try:
            version = _version(module, distribution)
        except Exception as error:  # noqa: BLE001 - a library may raise anything on import
            remedy = f"pip install --force-reinstall {distribution}"
            yield Line("package", module, FAIL, f"{_describe(error)}; {remedy}")
            continue
        oldest = required.get(distribution, "0")
        if _numbers(version) < _numbers(oldest):
            text = f"{version} is too old; at least {oldest} is needed"
            yield Line("package", module, FAIL, text)
        else:
            yield Line("package", module, OK, version)


def _requirements() -> dict[str, str]:
    """Return the oldest version allowed of each distribution that flowwarp's metadata require."""
    try:
        requirements = metadata.requires("flowwarp") or []
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return {}
    # Extras end in a marker, "; extra == …", and do not match.
    matches = (re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)$", entry) for entry in requirements)
    return {match[1]: match[2] for match in matches if match}


def _version(module: str, distribution: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as click's, that __version__ is deprecated
        imported = importlib.import_module(module)
        return str(getattr(imported, "__version__", None) or metadata.version(distribution))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _cpu() -> Iterator[tuple[str, str, str]]:
    import torch

    from flowwarp.ops import native

    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    yield "processor", OK, f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    for level in native.supported_levels():
        # The loader goes on to the next level without a message; here a file that exists must load.
        path = Path(native.__file__).with_name(f"_cpu_{level}.so")
        if path.exists():
            try:
                version = ctypes.CDLL(str(path)).fw_abi_version()
            except (OSError, AttributeError) as error:
                yield f"library {level}", FAIL, f"does not load ({error}); reinstall flowwarp"
                continue
            if version != native.ABI_VERSION:
                yield f"library {level}", FAIL, f"{path} is of another version; reinstall flowwarp"
    library = native.native()
    if library.library is not None:
        yield "operators", OK, f"native, {library.level}"
        shared = library.threads.startswith("torch")
        yield "threads", OK if shared else NOTE, f"{threads}, {library.threads}"
    else:
        unknown_level = "none of" in library.reason  # by FLOWWARP_NATIVE
        text = f"torch reference, slower: {library.reason}"
        yield "operators", FAIL if unknown_level else NOTE, text
        yield "threads", OK, threads


def _cuda() -> Iterator[tuple[str, str, str]]:
    import torch

    from flowwarp.ops import nvrtc

    if torch.version.cuda is None:
        yield "GPU", NOTE, "none used: this torch is built without CUDA"
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        reasons = " ".join(" ".join(str(warning.message).split()) for warning in caught)
        yield "GPU", NOTE, f"none found by torch for CUDA {torch.version.cuda}. {reasons}".rstrip()
        return
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        yield f"GPU {index}", OK, f"{torch.cuda.get_device_name(index)}, {major}.{minor}"
    compiler = nvrtc.nvrtc()
    if compiler.library is None:
        yield "NVRTC", NOTE, f"torch reference on the GPU, slower: {compiler.reason}"
    elif not nvrtc.serves(torch.empty(1, device="cuda")):
        off = os.environ.get("FLOWWARP_NATIVE", "").lower() == "off"
        reason = "FLOWWARP_NATIVE=off" if off else "the GPU is too old"
        yield "NVRTC", NOTE, f"torch reference on the GPU, slower: {reason}"
    else:
        yield "NVRTC", OK, f"{compiler.version[0]}.{compiler.version[1]}, {compiler.path}"


def _cache() -> Iterator[tuple[str, str, str]]:
    from flowwarp.bundled import cache_folder
    from flowwarp.io.files import is_writable, nearest_existing

    folder = cache_folder()
    if folder is None:
        yield "folder", NOTE, "none; set FLOWWARP_CACHE_DIR"
        return
    writable = is_writable(nearest_existing(folder))
    text = f"{folder}" if writable else f"{folder} is not writable; set FLOWWARP_CACHE_DIR"
    yield "folder", OK if writable else NOTE, text


# ------------------------------------------------------------------ operators against references


def _self_tests() -> Iterator[tuple[str, str, str]]:
    import torch

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        suffix = "" if device == "cpu" else f" on {device}"
        for name, allowed, test in _tests(device):
            yield f"{name}{suffix}", *_compare(test, allowed, "largest error {}")
    yield "speed", OK, _measure_speed()


def _compare(measure: Callable[[], float], allowed: float, text: str) -> tuple[str, str]:
    """Measure a value and compare it with the largest one allowed; return a state and a text."""
    try:
        value = measure()
    except Exception as error:  # noqa: BLE001 - as in _section
        return FAIL, _describe(error)
    state = OK if value <= allowed else FAIL  # NaN fails
    return state, f"{text.format(f'{value:.2g}')}, allowed {allowed:g}"


def _tests(device: str) -> Iterator[tuple[str, float, Callable[[], float]]]:
    """Yield the name of each test, the largest error allowed, and a function that measures it."""
    from flowwarp.ops.padding import PADDINGS
    from flowwarp.ops.warping import MODES

    for mode in MODES:
        for padding in PADDINGS:
            test = functools.partial(_test_warp, device, mode, padding)
            yield f"warp {mode} {padding}", VALUE_ERROR, test
            yield (
                f"warp {mode} {padding} gradient",
                SUM_ERROR,
                functools.partial(test, gradients=True),
            )
    yield "warp by zero flow", 0, functools.partial(_test_zero_flow, device)
    yield "splat", SUM_ERROR, functools.partial(_test_splat, device)
    yield "correlation", VALUE_ERROR, functools.partial(_test_correlation, device)
    yield "census", CENSUS_ERROR, functools.partial(_test_census, device)


def _random(device: str, *shape: int, seed: int = 0) -> Tensor:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator).to(device)


def _scene(device: str) -> tuple[Tensor, Tensor]:
    """Return images (2, 3, H, W) in [0, 1] and flow (2, 2, H, W) of up to 8 px.

    Some vectors lead out of the image, and one is NaN.
    """
    image = _random(device, 2, 3, 29, 37)
    flow = 16 * _random(device, 2, 2, 29, 37, seed=1) - 8
    flow[0, 0, 3, 4] = float("nan")
    return image, flow


def _largest_error(result: Any, expected: Any) -> float:
    """Return the largest difference between tensors, or tuples of them; NaN if any is NaN."""
    import torch

    if not isinstance(result, torch.Tensor):
        errors = [_largest_error(*pair) for pair in zip(result, expected, strict=True)]
        return float(torch.tensor(errors).max())  # unlike Python's max, NaN if one is
    return float((result.double() - expected.double()).abs().max())


def _test_warp(device: str, mode: Any, padding: Any, gradients: bool = False) -> float:
    import torch

    from flowwarp.ops.warping import warp, warp_reference

    image, flow = (tensor.requires_grad_(gradients) for tensor in _scene(device))
    exact = [tensor.detach().double().requires_grad_(gradients) for tensor in (image, flow)]
    result = warp(image, flow, mode=mode, padding=padding, mask=True)  # and the mask
    expected = warp_reference(*exact, mode=mode, padding=padding)
    if not gradients:
        return _largest_error(result, expected)
    weight = _random(device, *image.shape, seed=2)
    return _largest_error(
        torch.autograd.grad(result[0], (image, flow), weight, materialize_grads=True),
        torch.autograd.grad(expected[0], exact, weight.double(), materialize_grads=True),
    )


def _test_zero_flow(device: str) -> float:
    import torch

    from flowwarp.ops.padding import Padding
    from flowwarp.ops.warping import Mode, warp

    image, flow = _scene(device)
    zero = torch.zeros_like(flow)
    return max(
        _largest_error(warp(image, zero, mode=mode, padding=padding), image)
        for mode in get_args(Mode)
        for padding in get_args(Padding)
    )


def _test_splat(device: str) -> float:
    from flowwarp.ops.splatting import splat, splat_reference

    image, flow = _scene(device)
    return _largest_error(splat(image, flow), splat_reference(image.double(), flow.double()))


def _test_correlation(device: str) -> float:
    from flowwarp.ops.correlation import correlation, correlation_reference

    a, b = _random(device, 2, 16, 21, 26), _random(device, 2, 16, 21, 26, seed=1)
    return _largest_error(correlation(a, b), correlation_reference(a.double(), b.double()))


def _test_census(device: str) -> float:
    from flowwarp.ops import census as ops

    images = _random(device, 2, 3, 21, 26), _random(device, 2, 3, 21, 26, seed=1)
    exact = [image.double() for image in images]
    return _largest_error(
        (ops.census(images[0]), ops.census_distance(*images)),
        (ops.census_reference(exact[0]), ops.census_distance_reference(exact[0], exact[1])),
    )


def _measure_speed() -> str:
    """Time ``warp`` and torch's ``grid_sample``, whose grid is computed before."""
    import torch
    import torch.nn.functional as F

    from flowwarp.ops.fields import coordinate_grid
    from flowwarp.ops.warping import warp

    batch, _, height, width = TIMED_SHAPE
    image = _random("cpu", *TIMED_SHAPE)
    flow = 8 * _random("cpu", batch, 2, height, width, seed=1) - 4
    span = image.new_tensor([width - 1, height - 1]).view(2, 1, 1)
    # Positions from -1 to 1, as grid_sample wants them: (B, H, W, 2).
    grid = ((coordinate_grid(height, width) + flow) / span * 2 - 1).permute(0, 2, 3, 1).contiguous()
    calls: dict[str, Callable[[], Tensor]] = {
        "warp": lambda: warp(image, flow),
        "grid_sample": lambda: F.grid_sample(
            image, grid, padding_mode="border", align_corners=True
        ),
    }
    fastest = dict.fromkeys(calls, math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for the one on the busiest core
    try:
        for _ in range(9):  # alternately, so that other programs disturb both
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                fastest[name] = min(fastest[name], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    warp_time, grid_sample_time = fastest.values()
    size = "x".join(map(str, TIMED_SHAPE))
    return (
        f"warp of {size} takes {1e3 * warp_time:.1f} ms on one thread, "
        f"grid_sample {grid_sample_time / warp_time:.1f} times as long"
    )


# ------------------------------------------------------------------ --full


def _guarantees() -> Iterator[tuple[str, str, str]]:
    from tempfile import TemporaryDirectory

    from flowwarp.selftest.guarantees import guarantees

    # Windows does not remove open files, and prepared data are open until this process ends.
    with TemporaryDirectory(prefix="flowwarp-", ignore_cleanup_errors=True) as folder:
        for guarantee in guarantees(Path(folder)):
            yield guarantee.name, *_compare(guarantee.measure, guarantee.allowed, guarantee.text)
