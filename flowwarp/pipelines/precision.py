"""In which precision networks are run where nothing is learned."""

from __future__ import annotations

import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where products with it take less time, float32 elsewhere."""
    fast = False
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Torch's own probe; without such instructions bf16 takes a multiple of the time.
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32


def fast_autocast(device: torch.device) -> torch.autocast:
    """Return autocast to bfloat16, switched on where :func:`fast_dtype` is that."""
    half = fast_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=half)
