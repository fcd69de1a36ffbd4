from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flowwarp.ops import nvrtc

SOURCE = nvrtc.wrap("warping", "warp<float, 2, 0>", "WarpingCall")


@pytest.fixture
def library() -> nvrtc.Nvrtc:
    found = nvrtc.nvrtc()
    if found.library is None:
        pytest.skip(found.reason)
    return found


# ------------------------------------------------------------------ compile


def test_every_kernel_compiles_without_a_gpu(library: nvrtc.Nvrtc, kernels: list[str]) -> None:
    for kernel in kernels:
        binary = nvrtc.compile_source(kernel, "sm_90")
        assert binary.startswith(b"\x7fELF")
        assert b"\0kernel\0" in binary  # what cuModuleGetFunction asks for


@pytest.mark.usefixtures("library")
def test_ptx_for_a_gpu_that_nvrtc_does_not_know() -> None:
    ptx = nvrtc.compile_source(SOURCE, "compute_90")
    assert b".visible .entry kernel(" in ptx
    # The bits of the CPU library: neither contracted nor flushed.
    assert b"fma.rn.f32" not in ptx
    assert b".ftz" not in ptx


@pytest.mark.usefixtures("library")
def test_an_error_carries_the_log_and_the_source() -> None:
    broken = nvrtc.wrap("warping", "warp<float, 3, 0>", "WarpingCall")
    with pytest.raises(RuntimeError, match="NVRTC") as error:
        nvrtc.compile_source(broken, "sm_90")
    assert "TapsOf<3, 0, float>" in str(error.value)
    assert "warp<float, 3, 0>(call)" in str(error.value)
    assert "FLOWWARP_NATIVE=off" in str(error.value)


def test_the_architecture_is_the_gpus_own_or_else_ptx() -> None:
    assert nvrtc.architecture_for((8, 6), (75, 80, 86, 90)) == "sm_86"
    assert nvrtc.architecture_for((12, 1), (75, 80, 90)) == "compute_90"
    assert nvrtc.architecture_for((7, 0), (75, 80, 90)) is None
    assert nvrtc.architecture_for((7, 0), (50, 60, 61, 70)) == "sm_70"
    assert nvrtc.architecture_for((6, 1), (50, 60, 61, 70)) is None  # no __grid_constant__


def test_the_probe_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(["/nowhere/libnvrtc.so.13"]))
    nvrtc.nvrtc.cache_clear()
    try:
        found = nvrtc.nvrtc()
        assert found.library is None
        assert "install the extra 'cuda'" in found.reason
        with pytest.raises(RuntimeError, match="libnvrtc was not found"):
            nvrtc.compile_source(SOURCE, "sm_90")
    finally:
        nvrtc.nvrtc.cache_clear()


class Library:
    """Stands in for NVRTC where what matters is which one is taken."""

    def __init__(self, path: str) -> None:
        self.version = path.partition(".so.")[2].split(".")

    def nvrtcVersion(self, major: Any, minor: Any) -> None:
        major._obj.value, minor._obj.value = int(self.version[0]), 0

    def nvrtcGetNumSupportedArchs(self, count: Any) -> None:
        count._obj.value = 1

    def nvrtcGetSupportedArchs(self, supported: Any) -> None:
        supported[0] = 90


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Lists what is loaded, by file name, where torch's folder is empty and CUDA's is ours."""
    names: list[str] = []

    def load(path: str) -> Library:
        if not Path(path).is_file():
            raise OSError(path)
        names.append(Path(path).name)
        return Library(path)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(nvrtc.sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    (tmp_path / "cuda" / "lib64").mkdir(parents=True)
    knows(monkeypatch, 99)
    nvrtc.nvrtc.cache_clear()
    yield names
    nvrtc.nvrtc.cache_clear()


def knows(monkeypatch: pytest.MonkeyPatch, major: int) -> None:
    """Put a driver in place that knows CUDA up to a major version."""

    def version(to: Any) -> None:
        to._obj.value = 1000 * major + 80

    monkeypatch.setattr(nvrtc, "_driver", lambda: SimpleNamespace(cuDriverGetVersion=version))


def test_the_builtins_are_loaded_before_nvrtc(loaded: list[str], tmp_path: Path) -> None:
    for name in ("libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libnvrtc-builtins.alt.so.13.0"):
        (tmp_path / "cuda" / "lib64" / name).touch()
    assert nvrtc.nvrtc().version == (13, 0)
    assert loaded == ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"]


@pytest.mark.parametrize(
    ("built_with", "wanted"),
    [("11.8", "libnvrtc.so.11.2"), ("12.8", "libnvrtc.so.12"), ("13.0", "libnvrtc.so.13")],
)
def test_the_nvrtc_that_torch_was_built_with_comes_first(
    built_with: str, wanted: str, loaded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built_with)
    for name in ("libnvrtc.so.1", "libnvrtc.so.11.2", "libnvrtc.so.12", "libnvrtc.so.13"):
        (tmp_path / "cuda" / "lib64" / name).touch()
    assert Path(nvrtc.nvrtc().path).name == wanted
    assert loaded == [wanted]


@pytest.mark.usefixtures("loaded")
def test_nvrtc_in_torchs_own_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "torch" / "lib" / "libnvrtc.so.12").touch()
    assert nvrtc.nvrtc().path == str(tmp_path / "torch" / "lib" / "libnvrtc.so.12")


@pytest.mark.usefixtures("loaded")
def test_no_nvrtc_is_newer_than_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knows(monkeypatch, 12)
    (tmp_path / "cuda" / "lib64" / "libnvrtc.so.13").touch()
    assert nvrtc.nvrtc().library is None
    assert "13.0" in nvrtc.nvrtc().reason
    assert "the driver knows CUDA 12" in nvrtc.nvrtc().reason
    nvrtc.nvrtc.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", "13.0")  # so that 13 is tried first
    (tmp_path / "cuda" / "lib64" / "libnvrtc.so.12").touch()
    assert nvrtc.nvrtc().version == (12, 0)


def test_tensors_elsewhere_are_not_served() -> None:
    assert not nvrtc.serves(torch.ones(1))
    assert not nvrtc.serves(torch.ones(1, device="meta"))


# ------------------------------------------------------------------ keep on disk


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Replaces NVRTC by a stub that lists the architectures it compiles for."""
    compiled: list[str] = []

    def compile_source(source: str, architecture: str) -> bytes:
        compiled.append(architecture)
        return f"{architecture} {source}".encode()

    monkeypatch.setattr(nvrtc, "compile_source", compile_source)
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(tmp_path / "cache"))
    return compiled


def test_a_kernel_is_compiled_once(compiled: list[str], tmp_path: Path) -> None:
    first = nvrtc.cached(SOURCE, "sm_90")
    assert nvrtc.cached(SOURCE, "sm_90") == first
    assert compiled == ["sm_90"]
    assert len(list((tmp_path / "cache").iterdir())) == 1  # no temporary file is left


def test_whatever_decides_the_binary_is_in_the_key(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvrtc.cached(SOURCE, "sm_90")
    nvrtc.cached(SOURCE, "sm_80")
    nvrtc.cached(SOURCE + "\n", "sm_80")
    monkeypatch.setattr(nvrtc, "OPTIONS", ("-std=c++17",))
    nvrtc.cached(SOURCE, "sm_80")
    changed = {**nvrtc._sources(), "warping.h": b"changed"}
    monkeypatch.setattr(nvrtc, "_sources", lambda: changed)
    nvrtc.cached(SOURCE, "sm_80")
    monkeypatch.setattr(nvrtc, "nvrtc", lambda: nvrtc.Nvrtc(None, "", (99, 0), ()))
    nvrtc.cached(SOURCE, "sm_80")
    assert len(compiled) == 6


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 100])
def test_a_damaged_file_is_replaced(compiled: list[str], tmp_path: Path, damage: bytes) -> None:
    wanted = nvrtc.cached(SOURCE, "sm_90")
    (file,) = (tmp_path / "cache").iterdir()
    intact = file.read_bytes()
    for content in (damage, intact[:-1], intact + b"\0"):
        file.write_bytes(content)
        assert nvrtc.cached(SOURCE, "sm_90") == wanted
        assert file.read_bytes() == intact
    assert len(compiled) == 4


def test_an_unwritable_folder_is_ignored(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")  # unlike a mode of 0, this stops root too
    monkeypatch.setenv("FLOWWARP_CACHE_DIR", str(occupied / "cache"))
    assert nvrtc.cached(SOURCE, "sm_90") == nvrtc.cached(SOURCE, "sm_90")
    assert len(compiled) == 2


def test_without_a_home_nothing_is_kept(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvrtc, "cache_folder", lambda: None)
    nvrtc.cached(SOURCE, "sm_90")
    assert compiled == ["sm_90"]


# ------------------------------------------------------------------ launch

DRIVER = """
#include <string.h>
typedef unsigned long long word;  // as wide as a pointer, so that a truncated one shows
struct Record { word module, function, stream, image, pushed, popped; unsigned size[7]; int fail; };
static Record call;
extern "C" {
Record* record() { return &call; }
int cuDriverGetVersion(int* version) { *version = 99000; return 0; }
int cuDeviceGet(int* handle, int ordinal) { *handle = ordinal + 10; return 0; }
int cuDevicePrimaryCtxRetain(word* context, int handle) {
    *context = 0xc0ffee00000000 + handle;
    return 0;
}
int cuCtxPushCurrent_v2(word context) { call.pushed = context; return 0; }
int cuCtxPopCurrent_v2(word* context) { *context = call.popped = call.pushed; return 0; }
int cuModuleLoadData(word* module, const char* binary) {
    *module = 0xaaaa00000001;
    return strncmp(binary, "sm_90 #include", 14) != 0;
}
int cuModuleGetFunction(word* function, word module, const char* name) {
    call.module = module;
    *function = 0xbbbb00000002;
    return strcmp(name, "kernel") != 0;
}
int cuLaunchKernel(word function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, word stream, void** parameters, void** extra) {
    const unsigned size[7] = {gx, gy, gz, bx, by, bz, shared};
    memcpy(call.size, size, sizeof size);
    call.function = function;
    call.stream = stream;
    memcpy(&call.image, parameters[0], sizeof call.image);  // the first member of the call
    return extra != nullptr ? 1 : call.fail;
}
int cuGetErrorName(int, const char** name) { *name = "CUDA_ERROR_OUT_OF_LUCK"; return 0; }
}
"""


class Record(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("module", "function", "stream", "image")),
        *((name, ctypes.c_uint64) for name in ("pushed", "popped")),
        ("size", ctypes.c_uint * 7),
        ("fail", ctypes.c_int),
    ]


@pytest.fixture
def driver(
    build: Callable[[str, Path], ctypes.CDLL],
    compiled: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Record]:
    """A driver in C that notes what it is called with."""
    library = build(DRIVER, tmp_path)
    library.record.restype = ctypes.POINTER(Record)
    monkeypatch.setattr(nvrtc, "_driver", lambda: library)
    monkeypatch.setattr(nvrtc, "_architecture", lambda _device: "sm_90")
    stream = SimpleNamespace(cuda_stream=0xDDDD00000004)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: stream)
    caches = (nvrtc._function, nvrtc._primary_context)
    for cache in caches:
        cache.cache_clear()
    yield library.record().contents
    for cache in caches:
        cache.cache_clear()


def test_launch_speaks_the_drivers_language(driver: Record, compiled: list[str]) -> None:
    device = torch.device("cuda", 3)
    call = nvrtc.WarpingCall(image=0xEEEE00000005)
    for _ in range(2):
        nvrtc.launch("warping", "finish<float>", call, (5, 6, 7), (8, 9, 1), device)
    assert compiled == ["sm_90"]
    assert driver.module == 0xAAAA00000001
    assert driver.function == 0xBBBB00000002
    assert driver.stream == 0xDDDD00000004
    assert driver.image == 0xEEEE00000005
    assert list(driver.size) == [5, 6, 7, 8, 9, 1, 0]
    assert driver.pushed == driver.popped == 0xC0FFEE00000000 + 13


def test_a_refused_launch_raises(driver: Record) -> None:
    driver.fail = 700
    with pytest.raises(RuntimeError, match=r"launching finish<float>.*OUT_OF_LUCK \(700\)"):
        nvrtc.launch(
            "warping", "finish<float>", nvrtc.WarpingCall(), (1, 1, 1), (1, 1, 1),
            torch.device("cuda", 0),
        )  # fmt: skip
    assert driver.popped == driver.pushed


def test_nothing_to_do_is_not_launched(driver: Record) -> None:
    device = torch.device("cuda", 0)
    nvrtc.launch("warping", "finish<float>", nvrtc.WarpingCall(), (0, 1, 1), (1, 1, 1), device)
    assert driver.function == 0
