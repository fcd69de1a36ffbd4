"""Backward warping against hand-worked values, a float64 reference, and its guarantees."""

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowwarp.ops import native, warping
from flowwarp.ops.padding import PADDINGS
from flowwarp.ops.warping import (
    MODES,
    warp,
    warp_flow_gradient,
    warp_image_gradient,
    warp_reference,
)
from warp_cases import (
    TOLERANCE,
    assert_relative,
    gradients,
    random_flow,
    random_image,
    reference_gradients,
    seeded,
    uniform_flow,
)


@dataclass(frozen=True)
class PaddingCase:
    """What a padding mode does.

    Attributes:
        rows: what bilinear warping makes of the row 10 20 30 40, by its flow u.
        in_grid_sample: torch's grid_sample has this mode.
        has_outside: far positions are outside, and the mask is False there.
    """

    rows: dict[float, list[float]]
    in_grid_sample: bool = True
    has_outside: bool = True


PADDING_CASES = {
    "border": PaddingCase(
        {
            1.0: [20, 30, 40, 40],
            -1.0: [10, 10, 20, 30],
            0.25: [12.5, 22.5, 32.5, 40],
            100.0: [40, 40, 40, 40],
        }
    ),
    "zeros": PaddingCase(
        {
            1.0: [20, 30, 40, 0],
            -1.0: [0, 10, 20, 30],
            0.25: [12.5, 22.5, 32.5, 30],
            -0.5: [5, 15, 25, 35],
            100.0: [0, 0, 0, 0],
        }
    ),
    "reflection": PaddingCase(
        {
            1.0: [20, 30, 40, 30],
            -1.0: [20, 10, 20, 30],
            0.25: [12.5, 22.5, 32.5, 37.5],
            -5.5: [15, 25, 35, 35],  # positions -5.5 -4.5 -3.5 -2.5 mirror to 0.5 1.5 2.5 2.5
        }
    ),
    "wrap": PaddingCase(
        {
            1.0: [20, 30, 40, 10],
            -1.0: [40, 10, 20, 30],
            0.25: [12.5, 22.5, 32.5, 32.5],
            -5.5: [35, 25, 15, 25],  # positions 2.5 3.5 0.5 1.5 of the period
            102.0: [30, 40, 10, 20],
        },
        in_grid_sample=False,
        has_outside=False,
    ),
}
SIZES = [(1, 1), (1, 7), (9, 1), (2, 2), (5, 129), (16, 16), (23, 300)]


# ------------------------------------------------------------------ worked by hand


def test_every_padding_is_in_the_table():
    assert set(PADDING_CASES) == set(PADDINGS)


@pytest.mark.skipif(native.native().library is None, reason=native.native().reason)
def test_an_unknown_padding_is_refused(monkeypatch):
    """The CPU library does not return another padding's result, nor memory it has not written."""
    monkeypatch.setitem(warping.PADDINGS, "unknown", len(PADDINGS))
    image, flow = random_image(1, 2, 8, 40), random_flow(1, 8, 40)
    for operator, arguments in [
        (torch.ops.flowwarp.warp, (image, flow, "bilinear", "unknown", False)),
        (warp_image_gradient, (image, flow, "nearest", "unknown")),
        (warp_flow_gradient, (image, image, flow, "bicubic", "unknown")),
    ]:
        with pytest.raises(RuntimeError, match=r"cannot warp with .* padding unknown"):
            operator(*arguments)


@pytest.mark.parametrize(
    ("padding", "u", "expected"),
    [(name, *row) for name, case in PADDING_CASES.items() for row in case.rows.items()],
)
def test_bilinear_row(padding, u, expected):
    image = torch.tensor([10.0, 20, 30, 40]).view(1, 1, 1, 4)
    row = warp(image, uniform_flow(u, 0.0, 1, 4), padding=padding)
    assert row.flatten().tolist() == expected
    column = warp(image.mT.contiguous(), uniform_flow(0.0, u, 4, 1), padding=padding)
    assert column.flatten().tolist() == expected


def test_x_is_right_and_y_is_down():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    assert warp(image, uniform_flow(1.0, 0.0, 3, 4))[0, 0, 0, 0] == 1
    assert warp(image, uniform_flow(0.0, 1.0, 3, 4))[0, 0, 0, 0] == 4


def test_nearest_sends_halves_up():
    image = torch.tensor([10.0, 20, 30, 40]).view(1, 1, 1, 4)
    for u, expected in [
        (0.5, [20, 30, 40, 40]),
        (0.49, [10, 20, 30, 40]),
        (-0.5, [10, 20, 30, 40]),
    ]:
        row = warp(image, uniform_flow(u, 0.0, 1, 4), mode="nearest")
        assert row.flatten().tolist() == expected


def test_bicubic_half_way():
    # Weights at t = 0.5 with a = -0.75: a/8, 1/2 - a/8, 1/2 - a/8, a/8.
    image = torch.tensor([0.0, 8, 16, 8]).view(1, 1, 1, 4)
    out = warp(image, uniform_flow(0.5, 0.0, 1, 4), mode="bicubic")
    assert out[0, 0, 0, 1].item() == pytest.approx(-0.09375 * (0 + 8) + 0.59375 * (8 + 16))


def test_gradients_by_hand():
    image = torch.tensor([10.0, 20, 40, 70]).view(1, 1, 1, 4)
    grad_image, grad_flow = gradients(image, uniform_flow(0.25, 0.0, 1, 4), torch.ones(1, 1, 1, 4))
    assert grad_image.flatten().tolist() == [0.75, 1.0, 1.0, 1.25]
    assert grad_flow[0, 0, 0].tolist() == [10.0, 20.0, 30.0, 0.0]  # clamped at the border
    assert grad_flow[0, 1].abs().max() == 0


def test_mask_is_true_inside_only():
    flow = torch.zeros(1, 2, 2, 3)
    flow[0, 0] = torch.tensor([[-0.1, 0.0, 0.1], [0.5, 1.0, 0.0]])
    _, mask = warp(torch.ones(1, 1, 2, 3), flow, mask=True)
    assert mask.dtype == torch.bool
    assert mask[0, 0].tolist() == [[False, True, False], [True, True, True]]


# ------------------------------------------------------------------ guarantees


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_zero_flow_returns_the_input_bit_for_bit(dtype, mode, padding, channels_last):
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for height, width in SIZES:
        image = random_image(2, 3, height, width, dtype=dtype) - 0.5
        image.flatten()[:2] = torch.tensor([math.inf, 1e-7], dtype=dtype)[: image.numel()]
        if native.native().library is not None:
            image.flatten()[-1] = -0.0
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        out = warp(image, torch.zeros(2, 2, height, width), mode=mode, padding=padding)
        assert torch.equal(out.contiguous().view(integers), image.contiguous().view(integers))


@pytest.mark.parametrize("padding", PADDINGS)
def test_whole_pixel_flow_moves_pixels_unchanged(padding):
    image = random_image(1, 3, 20, 300)
    out = warp(image, uniform_flow(5.0, -2.0, 20, 300), padding=padding)
    assert torch.equal(out[..., 2:, :-5], image[..., :-2, 5:])


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 20), st.integers(1, 300), st.integers(-400, 400), st.integers(-400, 400),
    st.sampled_from(sorted(MODES)), st.sampled_from(list(TOLERANCE)), st.booleans(),
)  # fmt: skip
def test_wrap_by_whole_pixels_is_roll(height, width, u, v, mode, dtype, channels_last):
    """Bit for bit, and so is the gradient: it is rolled back."""
    image = random_image(2, 3, height, width, dtype=dtype) - 0.5
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    image.requires_grad_()
    flow = uniform_flow(u, v, height, width).expand(2, -1, -1, -1)
    out, mask = warp(image, flow, mode=mode, padding="wrap", mask=True)
    assert torch.equal(out, image.roll((-v, -u), (2, 3)))
    assert mask.all()
    grad_out = random_image(2, 3, height, width, dtype=dtype, seed=7)
    (grad_image,) = torch.autograd.grad(out, image, grad_out)
    assert torch.equal(grad_image, grad_out.roll((v, u), (2, 3)))


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    batch, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 4, 7, 16, 19]))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    seed = draw(st.integers(0, 99))
    image = random_image(batch, channels, height, width, dtype=dtype, seed=seed)
    scale = draw(st.sampled_from([0.3, 3.0, 30.0]))
    flow = random_flow(batch, height, width, scale, dtype, seed + 1)
    if draw(st.booleans()):  # smooth: neighbours read neighbours
        flow = flow.mean((2, 3), keepdim=True) + 0.01 * flow
    layout = draw(st.sampled_from(["planes", "channels last", "cropped", "flipped strides"]))
    if layout == "channels last":
        image = image.contiguous(memory_format=torch.channels_last)
    elif layout == "cropped":
        image = F.pad(image, (1, 2, 3, 4))[..., 3:-4, 1:-2]
        flow = F.pad(flow, (2, 1))[..., 2:-1]
    elif layout == "flipped strides":
        image = image.mT.contiguous().mT
    return image, flow


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(cases(), st.sampled_from(sorted(MODES)), st.sampled_from(sorted(PADDINGS)))
def test_agrees_with_the_float64_reference(case, mode, padding):
    image, flow = case
    out, mask = warp(image, flow, mode=mode, padding=padding, mask=True)
    expected, expected_mask = warp_reference(
        image.double(), flow.double(), mode=mode, padding=padding
    )
    assert out.dtype == image.dtype
    assert torch.equal(mask, expected_mask)
    assert (out.double() - expected).abs().max() <= 1e-6
    grad_out = torch.randn(image.shape, generator=seeded(5), dtype=image.dtype)
    actual = gradients(image, flow, grad_out, mode=mode, padding=padding)
    wanted = reference_gradients(image, flow, grad_out, mode=mode, padding=padding)
    for a, w in zip(actual, wanted, strict=True):
        assert_relative(a, w, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_half_precision_sums_in_fp32(dtype, channels_last, mode):
    image = random_image(2, 5, 33, 140, dtype=dtype)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    flow = random_flow(2, 33, 140)
    flow[1] = 0.3 + flow[1] * 0.001
    out = warp(image, flow, mode=mode)
    expected, _ = warp_reference(image.double(), flow.double(), mode=mode)
    assert out.dtype == dtype
    # one rounding at the end: half a unit in the last place
    assert ((out.double() - expected).abs() <= TOLERANCE[dtype] / 1.9).all()
    grad_out = torch.randn(image.shape, generator=seeded(5)).to(dtype)
    actual = gradients(image, flow, grad_out, mode=mode)
    wanted = reference_gradients(image, flow, grad_out, mode=mode)
    assert actual[0].dtype == dtype
    assert actual[1].dtype == torch.float32
    assert_relative(actual[0], wanted[0], TOLERANCE[dtype])
    assert_relative(actual[1], wanted[1], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_all_half_precision_values_are_read_and_rounded_right(dtype, channels_last):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    values = torch.where(values.isnan(), 0, values)
    # In their order the mean of two neighbours is a tie between them.
    pixels = torch.stack([values, values[torch.randperm(2**16, generator=seeded(0))]])
    image = pixels.view(1, 2, 256, 256)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    exact = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(warp(image, uniform_flow(0.0, 0.0, 256, 256)), image, **exact)
    out = warp(image, uniform_flow(0.5, 0.0, 256, 256))[..., :-1]
    expected = 0.5 * image[..., :-1].float() + 0.5 * image[..., 1:].float()
    torch.testing.assert_close(out, expected.to(dtype), **exact)


def test_subnormal_halves_are_kept_where_a_thread_flushes_subnormals():
    image = torch.arange(1024, dtype=torch.int16).view(torch.float16).view(1, 1, 32, 32)
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU flushes nothing")
    try:
        out = warp(image, uniform_flow(0.0, 0.0, 32, 32))
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(out.view(torch.int16), image.view(torch.int16))


def test_wide_images_lose_no_precision():
    image = random_image(1, 1, 2, 5000)
    flow = uniform_flow(0.123456, 0.0, 2, 5000)
    expected, _ = warp_reference(image.double(), flow.double())
    assert (warp(image, flow).double() - expected).abs().max() < 2e-7


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "padding", [name for name, case in PADDING_CASES.items() if case.in_grid_sample]
)
def test_agrees_with_grid_sample(mode, padding):
    image = random_image(2, 3, 21, 34, dtype=torch.float64).requires_grad_()
    flow = random_flow(2, 21, 34, dtype=torch.float64).requires_grad_()
    x = torch.arange(34, dtype=torch.float64) + flow[:, 0]
    y = torch.arange(21, dtype=torch.float64)[:, None] + flow[:, 1]
    grid = torch.stack([2 * x / 33 - 1, 2 * y / 20 - 1], -1)
    theirs = F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=True)
    ours = warp(image, flow, mode=mode, padding=padding)
    assert torch.allclose(ours, theirs, atol=1e-10)
    grad_out = torch.randn(ours.shape, generator=seeded(5), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(ours, (image, flow), grad_out),
        torch.autograd.grad(theirs, (image, flow), grad_out),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-8)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("scale", [0.02, 5.0])
def test_bits_depend_on_neither_threads_nor_batch_nor_run(threads, dtype, channels_last, scale):
    image = random_image(3, 18, 90, 333, dtype=dtype)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    flow = random_flow(3, 90, 333, scale) + 0.7
    grad_out = torch.randn(image.shape, generator=seeded(5)).to(dtype)

    def run(part=slice(None)):
        grads = gradients(image[part], flow[part], grad_out[part])
        return warp(image[part], flow[part]), *grads

    threads(1)
    once = run()
    for count in (1, 2, 3, 8):
        threads(count)
        assert all(map(torch.equal, run(), once))
    for index in range(3):
        alone = run(slice(index, index + 1))
        assert all(torch.equal(a, b[index : index + 1]) for a, b in zip(alone, once, strict=True))


def everything(dtype, mode, channels_last=False):
    image, flow = random_image(2, 21, 40, 150, dtype=dtype), random_flow(2, 40, 150, 3.0)
    flow[1] = 0.3 + flow[1] * 0.01  # smooth: neighbours read neighbours
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    grad_out = image.flip(1)
    return warp(image, flow, mode=mode), *gradients(image, flow, grad_out, mode=mode)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_all_instruction_sets_give_the_same_bits(each_level, dtype, mode, channels_last):
    first, *others = each_level(everything, dtype, mode, channels_last)
    for other in others:
        assert all(map(torch.equal, first, other))


@pytest.mark.skipif(native.native().library is None, reason=native.native().reason)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_reference_serves_without_the_library(monkeypatch, dtype, mode):
    ours = everything(dtype, mode)
    monkeypatch.setattr(native, "native", lambda: native.Native(None, "off", ""))
    for mine, theirs in zip(everything(dtype, mode), ours, strict=True):
        # It rounds in another order.
        assert_relative(mine, theirs.double(), max(1e-5, 2 * TOLERANCE[theirs.dtype]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_unknown_flow_gives_zero_and_no_mask(bad, mode, channels_last):
    image = random_image(1, 3, 12, 40) + 1
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    flow = torch.zeros(1, 2, 12, 40)
    flow[0, 0, 3, 5] = bad
    flow[0, 1, 7, 39] = bad
    out, mask = warp(image, flow, mode=mode, mask=True)
    hit = torch.zeros(1, 1, 12, 40, dtype=torch.bool)
    hit[0, 0, 3, 5] = hit[0, 0, 7, 39] = True
    assert torch.equal(mask, ~hit)
    assert torch.equal(out, torch.where(hit, 0, image))
    grad_out = torch.ones_like(image)
    grad_out[0, :, 3, 5] = math.inf  # must reach nothing
    grad_image, grad_flow = gradients(image, flow, grad_out, mode=mode)
    assert torch.equal(grad_image, (~hit).expand_as(image).float())
    assert grad_flow.isfinite().all()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_flow_gradient_is_zero_beyond_the_border(mode, channels_last):
    """Even where the incoming gradient is infinite."""
    image, flow = random_image(1, 3, 12, 40), uniform_flow(1000.0, 0.0, 12, 40)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    _, grad_flow = gradients(image, flow, torch.full_like(image, math.inf), mode=mode)
    assert torch.equal(grad_flow[:, 0], torch.zeros(1, 12, 40))


@pytest.mark.parametrize("huge", [1e5, 1e9, 1e20, 3e38])
@pytest.mark.parametrize("padding", PADDINGS)
def test_huge_flow_reads_inside(huge, padding):
    image = random_image(1, 2, 8, 40)
    for sign in (1, -1):
        flow = uniform_flow(sign * huge, -sign * huge, 8, 40)
        out, mask = warp(image, flow, padding=padding, mask=True)
        expected, _ = warp_reference(image, flow, padding=padding)
        assert torch.equal(out, expected)
        assert mask.any() != PADDING_CASES[padding].has_outside


def test_infinite_pixels_stay_where_they_are():
    image = torch.zeros(1, 1, 4, 40)
    image[0, 0, 2, 20] = math.inf
    out = warp(image, uniform_flow(1.0, 0.0, 4, 40))
    assert torch.equal(out.isinf().nonzero(), torch.tensor([[0, 0, 2, 19]]))
    assert not out.isnan().any()


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_empty_images(shape):
    image = torch.rand(shape, requires_grad=True)
    flow = torch.zeros(shape[0], 2, *shape[2:], requires_grad=True)
    out, mask = warp(image, flow, mask=True)
    assert out.shape == image.shape
    assert mask.shape == (shape[0], 1, *shape[2:])
    out.sum().backward()
    assert flow.grad.shape == flow.shape
    assert not flow.grad.any()
