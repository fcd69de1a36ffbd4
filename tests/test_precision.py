from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from flowwarp.precision import fast_dtype, matrix_dtype


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_where_the_device_has_instructions_for_it(monkeypatch, fast):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    wanted = torch.bfloat16 if fast else torch.float32
    assert fast_dtype(torch.device("cpu")) == fast_dtype(torch.device("cuda")) == wanted
    assert fast_dtype(torch.device("mps")) == torch.float32


def test_the_given_gpu_is_queried(monkeypatch):
    queried = []
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext(queried.append(index)))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    for name in ("cuda:1", "cuda"):
        assert fast_dtype(torch.device(name)) == torch.bfloat16
    assert queried == [1, -1]


def test_a_torch_without_the_probe(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert fast_dtype(torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("engines", [["fbgemm", "x86"], ["qnnpack"]])
def test_matrices_are_in_half_precision_where_that_is_fast(monkeypatch, engines):
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(supported_engines=engines))
    for fast in (True, False):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast, raising=False
        )
        plain = torch.float16 if "fbgemm" in engines else torch.float32
        assert matrix_dtype(torch.device("cpu")) == (torch.bfloat16 if fast else plain)
    assert matrix_dtype(torch.device("mps")) == torch.float32
