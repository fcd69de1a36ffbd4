"""The public operators on a GPU, against the same operators on the CPU.

Skipped without a GPU; with FLOWWARP_REQUIRE_GPU=1 a missing GPU is a failure instead.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from flowwarp.ops import nvrtc, splatting
from flowwarp.ops.census import census, census_distance
from flowwarp.ops.correlation import correlation
from flowwarp.ops.padding import PADDINGS
from flowwarp.ops.splatting import splat
from flowwarp.ops.warping import MODES, compute_dtype, warp, warp_reference

DEVICE = "cuda"
DTYPES = list(nvrtc.STORAGE)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lists the kernels that a test launched, to fail if only a fallback ran."""
    if not torch.cuda.is_available():
        if os.environ.get("FLOWWARP_REQUIRE_GPU") == "1":
            pytest.fail("FLOWWARP_REQUIRE_GPU=1, but torch sees no GPU")
        pytest.skip("no GPU")
    assert nvrtc.nvrtc().library is not None, nvrtc.nvrtc().reason
    bodies: list[str] = []
    launch = nvrtc.launch

    def noted(family: str, body: str, *rest: Any) -> None:
        bodies.append(body)
        launch(family, body, *rest)

    monkeypatch.setattr(nvrtc, "launch", noted)
    yield bodies
    assert bodies


def sample(dtype: torch.dtype, *, last: bool = False, batch: int = 2) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    image = torch.rand((batch, 5, 129, 151), generator=random).to(dtype)
    flow = torch.randn((batch, 2, 129, 151), generator=random).to(compute_dtype(image)) * 6
    flow[..., ::3] = flow[..., ::3].round()
    flow[0, 0, 5, 7], flow[-1, 1, 8, 9] = torch.nan, torch.inf
    layout = torch.channels_last if last else torch.contiguous_format
    return image.contiguous(memory_format=layout), flow


for_both_layouts = pytest.mark.parametrize("last", [False, True], ids=["planes", "channels_last"])


def for_all_warps(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test for each dtype, mode, padding and memory layout."""
    cases = list(itertools.product(DTYPES, MODES, PADDINGS))
    return for_both_layouts(pytest.mark.parametrize(("dtype", "mode", "padding"), cases)(test))


def leaf(tensor: Tensor, device: str) -> Tensor:
    return tensor.to(device).requires_grad_()


@for_all_warps
def test_warp_has_the_bits_of_the_cpu(
    dtype: torch.dtype, mode: Any, padding: Any, last: bool
) -> None:
    image, flow = sample(dtype, last=last)
    out, valid = warp(image.to(DEVICE), flow.to(DEVICE), mode=mode, padding=padding, mask=True)
    wanted, wanted_valid = warp(image, flow, mode=mode, padding=padding, mask=True)
    assert torch.equal(valid.cpu(), wanted_valid)
    assert torch.equal(out.cpu(), wanted)
    reference, _ = warp_reference(image.to(DEVICE), flow.to(DEVICE), mode=mode, padding=padding)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out, reference, rtol=tolerance, atol=tolerance)


@for_all_warps
def test_gradients_agree_with_the_cpu(
    dtype: torch.dtype, mode: Any, padding: Any, last: bool
) -> None:
    image, flow = sample(dtype, last=last)
    weight = torch.rand_like(image)
    grads = []
    for device in (DEVICE, "cpu"):
        inputs = leaf(image, device), leaf(flow, device)
        out = warp(*inputs, mode=mode, padding=padding)
        grads.append(torch.autograd.grad(out, inputs, weight.to(device)))
    tolerance = TOLERANCE[dtype]
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got.cpu(), wanted, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_flow_is_the_identity_both_ways(dtype: torch.dtype) -> None:
    image, flow = sample(dtype)
    flow = torch.zeros_like(flow, device=DEVICE)
    image = leaf(image, DEVICE)
    out = warp(image, flow)
    assert torch.equal(out, image)
    (grad,) = torch.autograd.grad(out, image, image.detach())
    torch.testing.assert_close(grad, image.detach(), rtol=0, atol=2**-60)


def test_crowded_gradients_repeat_bit_for_bit() -> None:
    """A million values go to a few pixels: atomics arrive in another order each time."""
    random = torch.Generator(DEVICE).manual_seed(0)
    image = torch.zeros((1, 4, 512, 512), device=DEVICE, requires_grad=True)
    flow = torch.randn((1, 2, 512, 512), device=DEVICE, generator=random) * 2
    rows, columns = torch.meshgrid(*2 * [torch.arange(512, device=DEVICE)], indexing="ij")
    flow = flow + 256 - torch.stack([columns, rows])
    weight = torch.randn((1, 4, 512, 512), device=DEVICE, generator=random)
    grads = [torch.autograd.grad(warp(image, flow), image, weight)[0] for _ in range(10)]
    assert all(torch.equal(grad, grads[0]) for grad in grads)
    exact = torch.autograd.grad(warp(image.double(), flow.double()), image, weight.double())[0]
    torch.testing.assert_close(grads[0], exact.float(), rtol=1e-4, atol=1e-2)


@for_both_layouts
@pytest.mark.parametrize(("dtype", "mode"), list(itertools.product(DTYPES, splatting.MODES)))
def test_splat_agrees_with_its_reference(
    dtype: torch.dtype, mode: Any, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, flow = sample(dtype, last=last)
    # Mostly in place, so that no quotient of what hardly landed blows up rounding.
    inputs = image, flow / 60, 4 * image[:, :1]
    results = []
    for needed in (False, True):
        monkeypatch.setattr(splatting, "needs_reference", lambda *_tensors, needed=needed: needed)
        leaves = [leaf(tensor, DEVICE) for tensor in inputs]
        if mode in ("sum", "average"):
            leaves.pop()
        out = splat(*leaves[:2], mode, *leaves[2:])
        results.append((out, *torch.autograd.grad(out, leaves, out.detach() - 0.25)))
    tolerance = TOLERANCE[dtype]
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("below", [30.0, 80.0])
def test_softmax_keeps_weights_far_below_the_largest(below: float) -> None:
    image, flow = (tensor.to(DEVICE) for tensor in sample(torch.float32))
    flow = torch.full_like(flow, 0.25)
    weight = torch.zeros_like(image[:, :1])
    weight[..., 70:] = -below
    out = splat(image, flow, "softmax", weight)
    wanted = splat(image[..., 70:], flow[..., 70:], "average")
    torch.testing.assert_close(out[..., 71:], wanted[..., 1:], rtol=2e-5, atol=2e-5)
    assert torch.equal(splat(image, flow, "softmax", weight), out)


def test_double_backward() -> None:
    random = torch.Generator().manual_seed(0)
    image = torch.rand((1, 2, 5, 6), generator=random, dtype=torch.float64)
    flow = torch.rand((1, 2, 5, 6), generator=random, dtype=torch.float64) * 0.8 + 0.1
    inputs = leaf(image, DEVICE), leaf(flow, DEVICE)
    torch.autograd.gradcheck(warp, inputs)
    torch.autograd.gradgradcheck(warp, inputs)


def test_kernels_run_on_the_current_stream() -> None:
    image, flow = (tensor.to(DEVICE) for tensor in sample(torch.float32))
    wanted = warp(image, flow)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the input is ready only after it
        late = image * 1
        out = warp(late, flow)
    stream.synchronize()
    assert torch.equal(out, wanted)


def test_a_large_image_and_batch_need_no_more_grid_than_there_is() -> None:
    image = torch.rand((70_000, 1, 2, 3), device=DEVICE)
    assert torch.equal(warp(image, torch.zeros((70_000, 2, 2, 3), device=DEVICE)), image)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("radius", "dilation"), [(1, 1), (4, 1), (2, 3)])
def test_correlation_agrees_with_the_cpu(dtype: torch.dtype, radius: int, dilation: int) -> None:
    a, _ = sample(dtype)
    a = a[..., :40, :33]
    b = a.roll((1, 2), (2, 3)).contiguous(memory_format=torch.channels_last)
    results = []
    for device in (DEVICE, "cpu"):
        inputs = leaf(a, device), leaf(b, device)
        volume = correlation(*inputs, radius, dilation)
        gradient = torch.autograd.grad(volume, inputs, volume.detach() - 0.25)
        results.append((volume, *gradient))
    for got, wanted in zip(*results, strict=True):
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(got.cpu(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_census_agrees_with_the_cpu(dtype: torch.dtype, channels: int) -> None:
    image1, _ = sample(dtype)
    image1 = image1[:, :channels, :40, :33]
    image2 = image1.roll((1, 2), (2, 3)).contiguous(memory_format=torch.channels_last)
    results = []
    for device in (DEVICE, "cpu"):
        inputs = leaf(image1, device), leaf(image2, device)
        planes, distance = census(inputs[0], 3), census_distance(*inputs, 3)
        gradient = torch.autograd.grad(planes, inputs[0], planes.detach() - 0.25)
        gradients = torch.autograd.grad(distance, inputs, distance.detach() + 1)
        results.append((planes, distance, *gradient, *gradients))
    tolerance = TOLERANCE[dtype]
    for got, wanted in zip(*results, strict=True):
        # A grey value has 255 steps and a slope of its own: rounding shows as much more.
        torch.testing.assert_close(got.cpu(), wanted, rtol=10 * tolerance, atol=1000 * tolerance)
