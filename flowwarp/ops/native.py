"""Loads the CPU library by ctypes and gives it torch's thread pool.

The library is built once for each instruction set (``_cpu_avx512.so``, ``_cpu_avx2.so``,
``_cpu_baseline.so``); the one that torch itself would choose on this CPU is loaded. The environment
variable ``FLOWWARP_NATIVE`` forces one of them, or ``off`` for the torch reference.
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ABI_VERSION = 4  # fw_abi_version in cuda/cpu.cpp
LEVELS = ("avx512", "avx2", "baseline")
# enum DType in cuda/platform.h
DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


@dataclass(frozen=True)
class Native:
    """The CPU library with its instruction set, or the reason why it is missing."""

    library: ctypes.CDLL | None
    level: str
    threads: str
    reason: str = ""


@functools.cache
def native() -> Native:
    """Load the library once; never raises, the reason is in the result."""
    wanted = os.environ.get("FLOWWARP_NATIVE", "").lower()
    if wanted == "off":
        return Native(None, "off", "", "FLOWWARP_NATIVE=off")
    if wanted and wanted not in LEVELS:
        return Native(
            None, "off", "", f"FLOWWARP_NATIVE={wanted} is none of {', '.join(LEVELS)}, off"
        )
    if wanted and wanted not in supported_levels():  # an illegal instruction would end the process
        return Native(None, "off", "", f"FLOWWARP_NATIVE={wanted}: this CPU has no {wanted}")
    reasons = []
    for level in [wanted] if wanted else supported_levels():
        path = Path(__file__).with_name(f"_cpu_{level}.so")
        if not path.exists():
            why = "no C++ compiler at install time, or one older than GCC 12"
            reasons.append(f"{path.name} was not built ({why})")
            continue
        try:
            library = ctypes.CDLL(str(path))
            version = library.fw_abi_version()
        except (OSError, AttributeError) as error:
            reasons.append(f"{path.name} does not load ({error})")
            continue
        if version != ABI_VERSION:
            reasons.append(f"{path.name} is of another version; reinstall flowwarp")
            continue
        return Native(library, level, _share_thread_pool(library))
    return Native(None, "off", "", reasons[0])


def library_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """Return the library if it can serve these tensors: all on the CPU, and it was loaded."""
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return None
    return native().library


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Return the address of a tensor's first element for ctypes; None is a null pointer."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def sizes(*values: int) -> list[ctypes.c_int64]:
    """Wrap sizes for ctypes, which would pass plain ints as 32 bits."""
    return [ctypes.c_int64(value) for value in values]


def supported_levels() -> tuple[str, ...]:
    """Return the levels of instructions that this processor has, best first."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512":
        return LEVELS
    return LEVELS[1:] if capability == "AVX2" else LEVELS[2:]


def _share_thread_pool(library: ctypes.CDLL) -> str:
    """Give the library torch's own pool, so that both together do not oversubscribe the cores."""
    folder = Path(torch.__file__).with_name("lib")
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            # Already in the process: this only looks the symbol up.
            pool: Any = ctypes.CDLL(str(folder / name)).torch_parallel_for
        except (OSError, AttributeError):
            continue
        library.fw_set_parallel_for(ctypes.cast(pool, ctypes.c_void_p))
        return "torch's pool"
    return "one thread (this torch exports no torch_parallel_for; 2.10 and newer do)"
