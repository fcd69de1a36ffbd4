from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flowwarp.bundled import bundled
from flowwarp.ops import nvrtc

Build = Callable[[str, Path], ctypes.CDLL]


@pytest.fixture(scope="session")
def build() -> Build:
    """Compiles C++ that may include cuda/ into a library, and loads it."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")

    def build(program: str, folder: Path) -> ctypes.CDLL:
        source, library = folder / "program.cpp", folder / "library.so"
        source.write_text(program)
        flags = ["-O0", "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-shared", "-fPIC"]
        built = subprocess.run(
            [compiler, *flags, f"-I{bundled('cuda')}", source, "-o", library],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert built.returncode == 0, built.stderr
        assert built.stderr == ""
        return ctypes.CDLL(str(library))

    return build


@pytest.fixture(scope="session")
def kernels() -> list[str]:
    """The source of every kernel, in the instantiations that differ most."""
    types = ["float, 2, 0", "double, 4, 2", "half_t, 1, 1"]
    bodies = {
        ("warping", "WarpingCall"): [
            *(f"{name}<{t}>" for t in types for name in ("warp", "flow_gradient", "scatter")),
            *(f"{name}<{types[0]}>" for name in ("measure", "spoil")),
            *(f"finish<{storage}>" for storage in nvrtc.STORAGE.values()),
        ],
        ("correlation", "CorrelationCall"): [
            *(f"correlation<{storage}>" for storage in nvrtc.STORAGE.values()),
            *(f"correlation_gradient<float, {side}>" for side in (0, 1)),
        ],
        ("census", "CensusCall"): [
            *(f"grey<{storage}>" for storage in nvrtc.STORAGE.values()),
            "census<float>",
            "census_gradient<half_t>",
            "census_distance<double>",
            *(f"census_distance_gradient<{storage}>" for storage in ("float", "double")),
        ],
    }
    return [
        nvrtc.wrap(family, body, call) for (family, call), names in bodies.items() for body in names
    ]
