"""In which precision networks are run where nothing is learned."""

from __future__ import annotations

import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where products with it take less time, float32 elsewhere."""
    fast = False
    if device.type == "cuda":
        # Asked of the current device, which of several may be another; -1 leaves it as it is.
        with torch.cuda.device(-1 if device.index is None else device.index):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Torch's own probe; without such instructions bf16 takes a multiple of the time.
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32


def matrix_dtype(device: torch.device) -> torch.dtype:
    """Return in which type to keep matrices that a few rows at a time are multiplied by.

    :class:`flowwarp.models.gpt.Decoder` says what it makes of it. Of so few rows, time goes into
    reading the matrix. On a CPU without bfloat16 FBGEMM reads half the bytes, and takes a quarter
    of the time of a float32 product of 4 rows, and nine tenths of that of 32.
    """
    half = fast_dtype(device)
    if half == torch.float32 and device.type == "cpu":
        return torch.float16 if "fbgemm" in torch.backends.quantized.supported_engines else half
    return half


def fast_autocast(device: torch.device) -> torch.autocast:
    """Return autocast to bfloat16, switched on where :func:`fast_dtype` is that."""
    half = fast_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=half)
