"""What a step of training frees, the next one needs again, and so it is with clips that are made.

By default glibc gives large blocks back to the system as soon as they are free, and gets them anew
for the next step, page by page, each cleared by the kernel: a twelfth of a step's time of the
discrete VAE, a tenth of the transformer's, and a third of that of composing a clip. Peak memory is
hardly larger if they are kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar

_WITHIN = ContextVar("within", default=False)  # a block already
# Of glibc's malloc.h, and what they are by default.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_TRIMMED_FROM, _MAPPED = 128 * 2**10, 65536


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the C library keep what is freed in this block, and give it back afterwards.

    Does nothing within such a block, where that is not glibc, or where its settings are given by
    the environment.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    given = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if _WITHIN.get() or given or libc is None or not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    outside = _WITHIN.set(True)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        _WITHIN.reset(outside)
        libc.mallopt(_MMAP_MAX, _MAPPED)
        libc.mallopt(_TRIM_THRESHOLD, _TRIMMED_FROM)
        libc.malloc_trim(0)
