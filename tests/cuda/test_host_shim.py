"""The bodies of the CUDA kernels, run on the CPU thread by thread by way of cuda/host_shim.h.

``nvrtc.launch`` is replaced; everything above it is what a GPU is given: the grid, the struct of
arguments, the chunks of the scratch memory, and the text of the kernels.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowwarp.bundled import bundled
from flowwarp.ops import native, nvrtc, splatting
from flowwarp.ops.census import census_distance_gradient, census_gradient
from flowwarp.ops.correlation import correlation_gradient
from flowwarp.ops.padding import PADDINGS
from flowwarp.ops.splatting import splat, splat_reference
from flowwarp.ops.warping import (
    MODES,
    compute_dtype,
    warp_flow_gradient,
    warp_image_gradient,
    warp_reference,
)

CASES = list(itertools.product(nvrtc.STORAGE, MODES, PADDINGS))
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

Build = Callable[[str, Path], ctypes.CDLL]
Launch = Callable[..., None]

PROGRAM = """
#include <string.h>
#include "census.cu"
#include "correlation.cu"
#include "warping.cu"
#define BODY(Call, ...) \\
    if (strcmp(body, #__VA_ARGS__) == 0) { \\
        launch(__VA_ARGS__, grid, block, *static_cast<const Call*>(call)); return 1; }
using namespace flowwarp;
extern "C" int run(const char* body, Dim3 grid, Dim3 block, const void* call) {
%s
    return 0;
}
"""


def bodies() -> Iterator[str]:
    for storage in nvrtc.STORAGE.values():
        yield f"WarpingCall, finish<{storage}>"
        yield f"CorrelationCall, correlation<{storage}>"
        for name in ("grey", "census", "census_gradient", "census_distance"):
            yield f"CensusCall, {name}<{storage}>"
        yield f"CensusCall, census_distance_gradient<{storage}>"
        for side in (0, 1):
            yield f"CorrelationCall, correlation_gradient<{storage}, {side}>"
    for dtype, mode, padding in CASES:
        for name in ("warp", "flow_gradient", "measure", "scatter", "spoil"):
            arguments = f"{nvrtc.STORAGE[dtype]}, {MODES[mode]}, {PADDINGS[padding]}"
            yield f"WarpingCall, {name}<{arguments}>"


class Dim3(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


@pytest.fixture(scope="module")
def library(build: Build, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if native.native().library is None:
        pytest.skip(f"nothing to compare with: {native.native().reason}")
    calls = "\n".join(f"    BODY({body})" for body in bodies())
    return build(PROGRAM % calls, tmp_path_factory.mktemp("shim"))


@pytest.fixture
def launch(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Launch:
    def launch(
        _family: str, body: str, call: ctypes.Structure, grid: tuple[int, ...],
        block: tuple[int, ...], _device: torch.device,
    ) -> None:  # fmt: skip
        assert library.run(body.encode(), Dim3(*grid), Dim3(*block), ctypes.byref(call)), body

    monkeypatch.setattr(nvrtc, "launch", launch)
    return launch


@pytest.fixture
def splat_by_kernel(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `splat` run on the kernels' bodies, as it does on a GPU."""
    monkeypatch.setattr(native, "library_for", lambda *_tensors: None)


@pytest.fixture
def one_thread(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Switch to a grid of one thread: additions then come in another order."""

    def switch() -> None:
        def alone(family: str, body: str, call: ctypes.Structure, *rest: object) -> None:
            launch(family, body, call, (1, 1, 1), (1, 1, 1), rest[-1])

        monkeypatch.setattr(nvrtc, "launch", alone)

    return switch


def sample(
    shape: tuple[int, int, int, int], dtype: torch.dtype, *, last: bool = False, reach: float = 4.0
) -> tuple[Tensor, Tensor]:
    """An image and a flow that also leaves the image, is whole in places, and is NaN in one."""
    random = torch.Generator().manual_seed(sum(shape))
    image = torch.randn(shape, generator=random).to(dtype)
    batch, _, height, width = shape
    flow = torch.randn((batch, 2, height, width), generator=random, dtype=compute_dtype(image))
    flow = flow * reach
    flow[..., ::3] = flow[..., ::3].round()
    flow[0, 1, height // 2, width // 2] = torch.nan
    flow[-1, 0, 0, 0] = torch.inf
    layout = torch.channels_last if last else torch.contiguous_format
    return image.contiguous(memory_format=layout), flow


def shim_warp(image: Tensor, flow: Tensor, mode: str, padding: str) -> tuple[Tensor, Tensor]:
    out = torch.full_like(image, torch.nan)
    valid = torch.zeros((len(image), 1, *image.shape[2:]), dtype=torch.bool)
    nvrtc.warp(image, flow, MODES[mode], PADDINGS[padding], out, valid)
    return out, valid


def shim_image_gradient(grad_out: Tensor, flow: Tensor, mode: str, padding: str) -> Tensor:
    grad_image = torch.full_like(grad_out, torch.nan)
    nvrtc.image_gradient(grad_out, flow, MODES[mode], PADDINGS[padding], grad_image)
    return grad_image


def assert_same_bits(got: Tensor, wanted: Tensor) -> None:
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[got.element_size()]
    torch.testing.assert_close(
        got.contiguous().view(integer), wanted.contiguous().view(integer), rtol=0, atol=0
    )


for_both_layouts = pytest.mark.parametrize("last", [False, True], ids=["planes", "channels_last"])


def for_all_warps(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test through `launch` for each dtype, mode, padding and memory layout."""
    cases = pytest.mark.parametrize(("dtype", "mode", "padding"), CASES)
    return pytest.mark.usefixtures("launch")(for_both_layouts(cases(test)))


SHAPES = [(2, 3, 9, 13), (1, 1, 1, 1), (1, 2, 1, 7), (2, 37, 5, 3), (1, 5, 17, 33)]


@for_all_warps
def test_warp_has_the_bits_of_the_cpu(
    dtype: torch.dtype, mode: str, padding: str, last: bool
) -> None:
    for shape in SHAPES:
        image, flow = sample(shape, dtype, last=last)
        out, valid = shim_warp(image, flow, mode, padding)
        wanted, wanted_valid = warp_reference(image, flow, mode=mode, padding=padding)
        torch.testing.assert_close(out, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        assert torch.equal(valid, wanted_valid)
        native, _ = torch.ops.flowwarp.warp(image, flow, mode, padding, True)
        assert_same_bits(out, native)


@for_all_warps
def test_gradients_agree_with_the_cpu(
    dtype: torch.dtype, mode: str, padding: str, last: bool
) -> None:
    tolerance = 4 * TOLERANCE[dtype]
    for shape in SHAPES:
        image, flow = sample(shape, dtype, last=last)
        grad_out = (image * 3 - 1).contiguous(
            memory_format=torch.channels_last if last else torch.contiguous_format
        )
        grad_flow = torch.full_like(flow, torch.nan)
        nvrtc.flow_gradient(image, flow, grad_out, MODES[mode], PADDINGS[padding], grad_flow)
        wanted = warp_flow_gradient(grad_out, image, flow, mode, padding)
        sums = max(tolerance, 2e-5 if dtype != torch.float64 else 0)  # both sides sum in fp32
        torch.testing.assert_close(grad_flow, wanted, rtol=sums, atol=10 * sums)

        grad_image = shim_image_gradient(grad_out, flow, mode, padding)
        wanted = warp_image_gradient(grad_out, flow, mode, padding)
        torch.testing.assert_close(grad_image, wanted, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", list(nvrtc.STORAGE))
@pytest.mark.usefixtures("launch")
def test_zero_flow_is_the_identity_both_ways(dtype: torch.dtype) -> None:
    image, flow = sample((2, 3, 5, 7), dtype)
    image[0, 0, 0, :3] = torch.tensor([-0.0, torch.inf, -torch.inf])
    flow.zero_()
    assert_same_bits(shim_warp(image, flow, "bilinear", "border")[0], image)
    finite = image.nan_to_num(0, 0, 0)
    torch.testing.assert_close(
        shim_image_gradient(finite, flow, "bilinear", "border"), finite, rtol=0, atol=0
    )


@for_both_layouts
def test_image_gradient_does_not_depend_on_order_or_chunks(
    last: bool, one_thread: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    grad_out, flow = sample((3, 5, 9, 13), torch.float32, last=last)
    grad_out[..., ::2] *= 1e-20  # beside the others in further parts of the sums
    whole = shim_image_gradient(grad_out, flow, "bilinear", "border")
    for scratch in (9 * 13 * 3 * 2, 9 * 13, 1):
        monkeypatch.setattr(nvrtc, "SCRATCH", scratch)
        assert_same_bits(shim_image_gradient(grad_out, flow, "bilinear", "border"), whole)
    one_thread()
    assert_same_bits(shim_image_gradient(grad_out, flow, "bilinear", "border"), whole)
    alone = shim_image_gradient(grad_out[1:2], flow[1:2], "bilinear", "border")
    assert_same_bits(alone, whole[1:2])


@pytest.mark.parametrize("scale", [1e-38, 1.0, 1e36])
@pytest.mark.usefixtures("launch")
def test_image_gradient_cannot_overflow(scale: float) -> None:
    """Every pixel hits the same one: the largest sum there is."""
    grad_out = torch.full((1, 1, 12, 20), scale)
    flow = torch.full((1, 2, 12, 20), -100.0)
    grad_image = shim_image_gradient(grad_out, flow, "bilinear", "border")
    assert grad_image[0, 0, 0, 0].item() == pytest.approx(240 * scale, rel=1e-6)
    assert grad_image.count_nonzero() == 1


@pytest.mark.parametrize("scale", [1e-300, 1e-280, 1e300])
@pytest.mark.usefixtures("launch")
def test_image_gradient_at_the_ends_of_fp64(scale: float) -> None:
    grad_out = torch.full((1, 1, 4, 4), scale, dtype=torch.float64)
    flow = torch.zeros((1, 2, 4, 4), dtype=torch.float64)
    grad_image = shim_image_gradient(grad_out, flow, "bilinear", "border")
    torch.testing.assert_close(grad_image, grad_out, rtol=1e-13, atol=1e-308)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.usefixtures("launch")
def test_a_gradient_that_is_not_finite_spoils_only_what_it_touches(bad: float) -> None:
    grad_out, flow = sample((2, 2, 6, 8), torch.float32)
    flow.zero_()
    flow[0, 0, 3, 3] = 0.5  # reads pixels 3 and 4 of its row
    clean = shim_image_gradient(grad_out, flow, "bilinear", "border")
    grad_out[0, 1, 3, 3] = bad
    spoiled = shim_image_gradient(grad_out, flow, "bilinear", "border")
    touched = torch.zeros_like(clean, dtype=torch.bool)
    touched[0, 1, 3, 3:5] = True
    assert torch.equal(spoiled.isnan(), touched)
    torch.testing.assert_close(spoiled[~touched], clean[~touched], rtol=1e-6, atol=0)
    assert_same_bits(spoiled[1], clean[1])


def test_both_sides_keep_sums_in_as_many_parts() -> None:
    source = (bundled("cuda") / "warping.cu").read_text()
    assert f"constexpr int PARTS = {nvrtc.PARTS};" in source


@pytest.mark.parametrize("mode", splatting.MODES)
@pytest.mark.parametrize("dtype", list(nvrtc.STORAGE))
@pytest.mark.usefixtures("splat_by_kernel")
def test_splat_agrees_with_its_reference(
    dtype: torch.dtype, mode: splatting.SplatMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, flow = sample((2, 3, 9, 13), dtype)
    weight = image[:, :1].abs() if mode in ("linear", "softmax") else None
    out = splat(image, flow, mode, weight)
    monkeypatch.setattr(splatting, "needs_reference", lambda *_tensors: True)
    wanted = splat(image, flow, mode, weight)
    tolerance = 4 * TOLERANCE[dtype]
    torch.testing.assert_close(out, wanted, rtol=tolerance, atol=tolerance)


@for_both_layouts
@pytest.mark.parametrize("nowhere", [torch.nan, 1e6])
@pytest.mark.usefixtures("splat_by_kernel")
def test_what_lands_nowhere_does_not_set_the_scale(nowhere: float, last: bool) -> None:
    image, flow = sample((1, 5, 8, 12), torch.float32, last=last)
    flow[0, 0, 2, 3] = nowhere
    image[0, :, 2, 3] = 1e20
    torch.testing.assert_close(splat(image, flow), splat_reference(image, flow))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("below", [30.0, 45.0, 60.0, 80.0])
@pytest.mark.usefixtures("splat_by_kernel")
def test_softmax_keeps_weights_far_below_the_largest(below: float, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    image = torch.rand((1, 2, 8, 12), generator=random, dtype=dtype)
    flow = torch.full((1, 2, 8, 12), 0.25, dtype=dtype)
    weight = torch.zeros((1, 1, 8, 12), dtype=dtype)
    weight[..., 6:] = -below
    out = splat(image, flow, "softmax", weight)
    tolerance = 4 * TOLERANCE[dtype]
    # Right of column 6 nothing of the left half lands: there the far weights decide alone.
    wanted = splat(image[..., 6:], flow[..., 6:], "average")
    torch.testing.assert_close(out[..., 7:], wanted[..., 1:], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("launch")
def test_an_infinite_gradient_of_unknown_flow_is_none(mode: str) -> None:
    image, flow = sample((1, 2, 6, 8), torch.float32)
    flow[0, 0, 3, 3] = torch.nan
    grad_out = torch.ones_like(image)
    grad_out[0, 1, 3, 3] = torch.inf
    grad_flow = torch.full_like(flow, torch.nan)
    nvrtc.flow_gradient(image, flow, grad_out, MODES[mode], PADDINGS["zeros"], grad_flow)
    assert grad_flow.isfinite().all()
    assert not grad_flow[0, :, 3, 3].any()


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
@pytest.mark.usefixtures("launch")
def test_empty(shape: tuple[int, int, int, int]) -> None:
    image = torch.ones(shape)
    flow = torch.zeros((shape[0], 2, *shape[2:]))
    out, valid = shim_warp(image, flow, "bilinear", "border")
    assert out.shape == shape
    assert valid.all()
    shim_image_gradient(image, flow, "bilinear", "border")
    grad_flow = torch.full_like(flow, torch.nan)
    nvrtc.flow_gradient(image, flow, image, 2, 0, grad_flow)
    assert not grad_flow.any()


@pytest.mark.parametrize("dtype", list(nvrtc.STORAGE))
@pytest.mark.parametrize(
    ("shape", "radius", "dilation"),
    [((2, 3, 9, 13), 2, 1), ((1, 33, 5, 7), 3, 2), ((1, 1, 1, 1), 1, 1), ((2, 4, 17, 6), 4, 3)],
)
@pytest.mark.parametrize("layout", ["planes", "channels_last", "view"])
@pytest.mark.usefixtures("launch")
def test_correlation_has_the_bits_of_the_cpu(
    shape: tuple[int, int, int, int], radius: int, dilation: int, dtype: torch.dtype, layout: str
) -> None:
    a, _ = sample(shape, dtype, last=layout == "channels_last")
    b, other = a.roll(1, 2) * 2 - 1, a * 0.3 + 1
    if layout == "view":  # rows and columns change places, and every second column is left out
        b = b.mT.contiguous().mT
        other = other.repeat_interleave(2, 3)[..., ::2]
    planes = (2 * radius + 1) ** 2
    out = torch.full((shape[0], planes, *shape[2:]), torch.nan, dtype=dtype)
    nvrtc.correlation(a, b, radius, dilation, out)
    assert_same_bits(out, torch.ops.flowwarp.correlation(a, b, radius, dilation))
    for side in (0, 1):
        gradient = torch.full_like(other, torch.nan)
        nvrtc.correlation_gradient(out, other, side, radius, dilation, gradient)
        assert_same_bits(gradient, correlation_gradient(out, other, radius, dilation, side))


@pytest.mark.parametrize("dtype", list(nvrtc.STORAGE))
@pytest.mark.parametrize("shape", [(2, 3, 9, 13), (1, 1, 17, 6), (1, 3, 1, 1), (2, 1, 2, 33)])
@pytest.mark.parametrize("radius", [1, 3])
@for_both_layouts
@pytest.mark.usefixtures("launch")
def test_census_agrees_with_the_cpu(
    shape: tuple[int, int, int, int], radius: int, dtype: torch.dtype, last: bool
) -> None:
    image1, _ = sample(shape, dtype, last=last)
    image1 = image1 * 0.1 + 0.5
    image2 = image1.roll(1, 3).mT.contiguous().mT * 0.9
    out = torch.full((shape[0], (2 * radius + 1) ** 2 - 1, *shape[2:]), torch.nan, dtype=dtype)
    nvrtc.census(image1, radius, out)
    assert_same_bits(out, torch.ops.flowwarp.census(image1, radius))
    gradient = torch.full_like(image1, torch.nan)
    nvrtc.census_gradient(out, image1, radius, gradient)
    assert_same_bits(gradient, census_gradient(out, image1, radius))

    # The CPU visits a pair once, for both of its pixels, so its sums are ordered otherwise.
    distance = torch.full((shape[0], 1, *shape[2:]), torch.nan, dtype=dtype)
    nvrtc.census_distance(image1, image2, radius, distance)
    tolerance = 4 * TOLERANCE[dtype]
    wanted = torch.ops.flowwarp.census_distance(image1, image2, radius)
    torch.testing.assert_close(distance, wanted, rtol=tolerance, atol=tolerance)
    gradients = torch.full_like(image1, torch.nan), torch.full_like(image2, torch.nan)
    nvrtc.census_distance_gradient(distance + 1, image1, image2, radius, *gradients)
    wanted = census_distance_gradient(distance + 1, image1, image2, radius)
    for got, expected in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=100 * tolerance)
