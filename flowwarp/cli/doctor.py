"""``flowwarp doctor``: what is installed, what serves, and whether it computes rightly.

A broken installation is what it is for: nothing but click is imported here, and every check that
fails, by whatever exception, becomes a line.
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
# What is imported, and the distribution that brings it (OpenCV has several).
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
# Largest errors allowed, some ten times what is seen: of values in [0, 1], of sums of several
# such values, and of a function of grey levels from 0 to 255.
VALUE, SUM, GREY = 2e-6, 5e-6, 2e-4
TIMED_SHAPE = (1, 32, 256, 256)


@dataclass(frozen=True)
class Line:
    """One thing looked at: ``ok``, ``note`` (something is slower or absent) or ``FAIL``."""

    part: str
    name: str
    state: str
    text: str


@click.command()
@click.option("--full", is_flag=True, help="Measure what is promised too; takes some minutes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
@click.pass_context
def command(ctx: click.Context, full: bool, as_json: bool) -> None:
    """Say what is installed and what is missing, and test that the operators compute rightly.

    Each operator is compared with its reference in float64, on the CPU and on a GPU if there is
    one; that takes some seconds. With --full networks and trainers are measured as well, small ones
    on the CPU: that an example does not depend on its batch, nor a gradient on how a step is split,
    nor a run on being interrupted or killed. The exit code is 1 if anything is wrong: a test fails,
    a package is missing or too old, or a library was built but does not load. What is merely
    absent, such as a compiler or a GPU, is a note.
    """
    lines = []
    for line in _examine(full):
        lines.append(line)
        if not as_json:
            click.echo(f"{line.state:<5} {line.part:<9} {line.name:<33} {line.text}")
    wrong = sum(line.state == FAIL for line in lines)
    if as_json:
        click.echo(json.dumps({"ok": not wrong, "checks": [asdict(line) for line in lines]}))
    else:
        click.echo(f"{wrong} of {len(lines)} checks failed" if wrong else "all is well")
    if wrong:
        ctx.exit(1)


def _examine(full: bool) -> Iterator[Line]:
    yield from _packages()
    yield from _section("cpu", _cpu)
    yield from _section("cuda", _cuda)
    yield from _section("cache", _cache)
    yield from _section("self-test", _self_tests)
    if full:
        yield from _section("promise", _promises)


def _section(part: str, look: Callable[[], Iterator[tuple[str, str, str]]]) -> Iterator[Line]:
    """Yield a section's lines; an exception ends it with one more."""
    try:
        for name, state, text in look():
            yield Line(part, name, state, text)
    except Exception as fault:  # noqa: BLE001 - whatever is broken here is what we report
        yield Line(part, part, FAIL, _describe(fault))


def _describe(fault: Exception) -> str:
    return " ".join(f"{type(fault).__name__}: {fault}".split())


# ------------------------------------------------------------------ what is there


def _packages() -> Iterator[Line]:
    from flowwarp import __file__ as place
    from flowwarp import __version__

    version = f"{__version__} in {Path(place).parent}"
    yield Line("package", "flowwarp", OK, version)
    yield Line("package", "python", OK, f"{platform.python_version()} on {platform.platform()}")
    wanted = _requirements()
    for module, distribution in MODULES.items():
        try:
            version = _version(module, distribution)
        except Exception as fault:  # noqa: BLE001 - a library may raise anything on import
            remedy = f"pip install --force-reinstall {distribution}"
            yield Line("package", module, FAIL, f"{_describe(fault)}; {remedy}")
            continue
        least = wanted.get(distribution, "0")
        if _numbers(version) < _numbers(least):
            yield Line("package", module, FAIL, f"{version} is too old; at least {least} is needed")
        else:
            yield Line("package", module, OK, version)


def _requirements() -> dict[str, str]:
    """Return the least version of each required distribution, as flowwarp's metadata states it."""
    try:
        stated = metadata.requires("flowwarp") or []
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return {}
    found = (re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)$", entry) for entry in stated)
    return {match[1]: match[2] for match in found if match}


def _version(module: str, distribution: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # also from click, about being asked its version
        imported = importlib.import_module(module)
        return str(getattr(imported, "__version__", None) or metadata.version(distribution))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _cpu() -> Iterator[tuple[str, str, str]]:
    import torch

    from flowwarp.ops import native

    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    yield "processor", OK, f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    for level in native._supported_levels():
        # The loader goes on to the next level in silence; a file that is there must load.
        path = Path(native.__file__).with_name(f"_cpu_{level}.so")
        if path.exists():
            try:
                version = ctypes.CDLL(str(path)).fw_abi_version()
            except (OSError, AttributeError) as fault:
                yield f"library {level}", FAIL, f"does not load ({fault}); reinstall flowwarp"
                continue
            if version != native.ABI_VERSION:
                yield f"library {level}", FAIL, f"{path} is of another version; reinstall flowwarp"
    library = native.native()
    if library.library is not None:
        yield "operators", OK, f"native, {library.level}"
        shared = library.threads.startswith("torch")
        yield "threads", OK if shared else NOTE, f"{threads}, {library.threads}"
    else:
        wrong_setting = "none of" in library.reason
        text = f"torch reference, slower: {library.reason}"
        yield "operators", FAIL if wrong_setting else NOTE, text
        yield "threads", OK, threads


def _cuda() -> Iterator[tuple[str, str, str]]:
    import torch

    from flowwarp.ops import nvrtc

    if torch.version.cuda is None:
        yield "GPU", NOTE, "none used: this torch is built without CUDA"
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        reasons = " ".join(" ".join(str(warning.message).split()) for warning in said)
        yield "GPU", NOTE, f"none found by torch for CUDA {torch.version.cuda}. {reasons}".rstrip()
        return
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        yield f"GPU {index}", OK, f"{torch.cuda.get_device_name(index)}, {major}.{minor}"
    found = nvrtc.nvrtc()
    if found.library is None:
        yield "NVRTC", NOTE, f"torch reference on the GPU, slower: {found.reason}"
    elif not nvrtc.serves(torch.empty(1, device="cuda")):
        off = os.environ.get("FLOWWARP_NATIVE", "").lower() == "off"
        why = "FLOWWARP_NATIVE=off" if off else "the GPU is too old"
        yield "NVRTC", NOTE, f"torch reference on the GPU, slower: {why}"
    else:
        yield "NVRTC", OK, f"{found.version[0]}.{found.version[1]}, {found.path}"


def _cache() -> Iterator[tuple[str, str, str]]:
    from flowwarp.bundled import cache_folder
    from flowwarp.io.files import is_writable, nearest

    folder = cache_folder()
    if folder is None:
        yield "folder", NOTE, "none; set FLOWWARP_CACHE_DIR"
        return
    writable = is_writable(nearest(folder))
    text = f"{folder}" if writable else f"{folder} is not writable; set FLOWWARP_CACHE_DIR"
    yield "folder", OK if writable else NOTE, text


# ------------------------------------------------------------------ does it compute


def _self_tests() -> Iterator[tuple[str, str, str]]:
    import torch

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        suffix = "" if device == "cpu" else f" on {device}"
        for name, allowed, test in _tests(device):
            yield f"{name}{suffix}", *_judge(test, allowed, "largest error {}")
    yield "speed", OK, _compare_speed()


def _judge(measure: Callable[[], float], allowed: float, text: str) -> tuple[str, str]:
    """Measure something; return whether that is allowed, and say the figure."""
    try:
        figure = measure()
    except Exception as fault:  # noqa: BLE001 - as in _section
        return FAIL, _describe(fault)
    state = OK if figure <= allowed else FAIL  # NaN is not right either
    return state, f"{text.format(f'{figure:.2g}')}, allowed {allowed:g}"


def _tests(device: str) -> Iterator[tuple[str, float, Callable[[], float]]]:
    """Name each test, the error it allows, and what measures the error."""
    from flowwarp.ops.warping import MODES, PADDINGS

    for mode in MODES:
        for padding in PADDINGS:
            test = functools.partial(_test_warp, device, mode, padding)
            yield f"warp {mode} {padding}", VALUE, test
            yield f"warp {mode} {padding} gradient", SUM, functools.partial(test, gradients=True)
    yield "warp by zero flow", 0, functools.partial(_test_zero_flow, device)
    yield "splat", SUM, functools.partial(_test_splat, device)
    yield "correlation", VALUE, functools.partial(_test_correlation, device)
    yield "census", GREY, functools.partial(_test_census, device)


def _random(device: str, *shape: int, seed: int = 0) -> Tensor:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator).to(device)


def _scene(device: str) -> tuple[Tensor, Tensor]:
    """Return images in [0, 1] and flows of up to 8 px, some out of the image, one unknown."""
    image = _random(device, 2, 3, 29, 37)
    flow = 16 * _random(device, 2, 2, 29, 37, seed=1) - 8
    flow[0, 0, 3, 4] = float("nan")
    return image, flow


def _distance(got: Any, wanted: Any) -> float:
    """Return the largest difference of tensors, or of tuples of them; NaN if any is NaN."""
    import torch

    if not isinstance(got, torch.Tensor):
        return float(
            torch.tensor([_distance(*pair) for pair in zip(got, wanted, strict=True)]).max()
        )
    return float((got.double() - wanted.double()).abs().max())


def _test_warp(device: str, mode: Any, padding: Any, gradients: bool = False) -> float:
    import torch

    from flowwarp.ops.warping import warp, warp_reference

    image, flow = (tensor.requires_grad_(gradients) for tensor in _scene(device))
    exact = [tensor.detach().double().requires_grad_(gradients) for tensor in (image, flow)]
    got = warp(image, flow, mode=mode, padding=padding, mask=True)
    wanted = warp_reference(*exact, mode=mode, padding=padding)
    if not gradients:
        return _distance(got, wanted)
    weight = _random(device, *image.shape, seed=2)
    return _distance(
        torch.autograd.grad(got[0], (image, flow), weight, materialize_grads=True),
        torch.autograd.grad(wanted[0], exact, weight.double(), materialize_grads=True),
    )


def _test_zero_flow(device: str) -> float:
    import torch

    from flowwarp.ops.warping import Mode, Padding, warp

    image, flow = _scene(device)
    still = torch.zeros_like(flow)
    return max(
        _distance(warp(image, still, mode=mode, padding=padding), image)
        for mode in get_args(Mode)
        for padding in get_args(Padding)
    )


def _test_splat(device: str) -> float:
    from flowwarp.ops.splatting import splat, splat_reference

    image, flow = _scene(device)
    return _distance(splat(image, flow), splat_reference(image.double(), flow.double()))


def _test_correlation(device: str) -> float:
    from flowwarp.ops.correlation import correlation, correlation_reference

    a, b = _random(device, 2, 16, 21, 26), _random(device, 2, 16, 21, 26, seed=1)
    return _distance(correlation(a, b), correlation_reference(a.double(), b.double()))


def _test_census(device: str) -> float:
    from flowwarp.ops import census as ops

    images = _random(device, 2, 3, 21, 26), _random(device, 2, 3, 21, 26, seed=1)
    exact = [image.double() for image in images]
    return _distance(
        (ops.census(images[0]), ops.census_distance(*images)),
        (ops.census_reference(exact[0]), ops.census_distance_reference(exact[0], exact[1])),
    )


def _promises() -> Iterator[tuple[str, str, str]]:
    from tempfile import TemporaryDirectory

    from flowwarp.selftest.guarantees import promises

    # Windows does not remove what is open, as prepared data is until this process ends.
    with TemporaryDirectory(prefix="flowwarp-", ignore_cleanup_errors=True) as folder:
        for promise in promises(Path(folder)):
            yield promise.name, *_judge(promise.measure, promise.allowed, promise.text)


def _compare_speed() -> str:
    """Time ``warp`` beside torch's ``grid_sample``, whose grid is made beforehand."""
    import torch
    import torch.nn.functional as F

    from flowwarp.ops.fields import coordinate_grid
    from flowwarp.ops.warping import warp

    batch, _, height, width = TIMED_SHAPE
    image = _random("cpu", *TIMED_SHAPE)
    flow = 8 * _random("cpu", batch, 2, height, width, seed=1) - 4
    span = image.new_tensor([width - 1, height - 1]).view(2, 1, 1)
    grid = ((coordinate_grid(height, width) + flow) / span * 2 - 1).permute(0, 2, 3, 1).contiguous()
    sides: dict[str, Callable[[], Tensor]] = {
        "warp": lambda: warp(image, flow),
        "grid_sample": lambda: F.grid_sample(
            image, grid, padding_mode="border", align_corners=True
        ),
    }
    fastest = dict.fromkeys(sides, math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a busy core makes a pool wait for its slowest thread
    try:
        for _ in range(9):  # in turn, so that a busy moment meets both
            for name, call in sides.items():
                start = time.perf_counter()
                call()
                fastest[name] = min(fastest[name], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    ours, theirs = fastest.values()
    size = "x".join(map(str, TIMED_SHAPE))
    return (
        f"warp of {size} takes {1e3 * ours:.1f} ms on one thread, "
        f"grid_sample {theirs / ours:.1f} times as long"
    )
