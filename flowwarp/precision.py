"""The floating-point types in which networks run for inference."""

from __future__ import annotations

import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on devices that multiply it faster than float32, else float32."""
    fast = False
    if device.type == "cuda":
        # The query is about the current device, which must be set; -1 leaves it unchanged.
        with torch.cuda.device(-1 if device.index is None else device.index):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Without AVX-512 instructions for it, bf16 takes several times as long.
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32


def matrix_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which to store matrices that are multiplied with a few rows at a time.

    See :class:`legacy.models.gpt.Decoder`. With few rows, most time goes into reading the matrix.
    On a CPU without bfloat16, FBGEMM reads float16, half the bytes: it takes a quarter of the time
    of a float32 product for 4 rows, and nine tenths for 32.
    """
    half = fast_dtype(device)
    if half == torch.float32 and device.type == "cpu":
        return torch.float16 if "fbgemm" in torch.backends.quantized.supported_engines else half
    return half


def fast_autocast(device: torch.device) -> torch.autocast:
    """Return a context of autocast to bfloat16, enabled where :func:`fast_dtype` is bfloat16."""
    half = fast_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=half)
