"""``warp`` under autograd, ``torch.func`` and ``torch.compile``; its ``out`` and its errors."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from comparisons import assert_same_gradients
from flowwarp.ops import native
from flowwarp.ops.padding import PADDINGS
from flowwarp.ops.warping import MODES, warp, warp_flow_gradient, warp_image_gradient
from warp_cases import gradients, random_flow, random_image, seeded, uniform_flow


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_gradcheck_and_gradgradcheck(mode, padding):
    image = random_image(2, 1, 3, 4, dtype=torch.float64).requires_grad_()
    # Away from whole and half pixels, where the derivative jumps.
    flow = (torch.rand(2, 2, 3, 4, generator=seeded(3), dtype=torch.float64) * 0.3 + 0.1).round(
        decimals=3
    )
    flow = (flow + torch.randint(-3, 3, flow.shape, generator=seeded(4))).requires_grad_()

    def run(image, flow):
        return warp(image, flow, mode=mode, padding=padding)

    assert torch.autograd.gradcheck(run, (image, flow))
    assert torch.autograd.gradgradcheck(run, (image, flow))


@pytest.mark.skipif(native.native().library is None, reason="operators need their kernels")
@pytest.mark.parametrize(("mode", "mask"), [("bilinear", False), ("bicubic", True)])
def test_opcheck(mode, mask):
    image = random_image(1, 2, 4, 5).requires_grad_()
    flow = random_flow(1, 4, 5).requires_grad_()
    grad = random_image(1, 2, 4, 5, seed=9).requires_grad_()
    torch.library.opcheck(torch.ops.flowwarp.warp, (image, flow, mode, "border", mask))
    torch.library.opcheck(warp_image_gradient, (grad, flow, mode, "zeros"))
    # Without the traced second derivative where it takes 8 s: gradgradcheck is on it.
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    tests = {"test_utils": quick} if mode == "bicubic" else {}
    torch.library.opcheck(warp_flow_gradient, (grad, image, flow, mode, "border"), **tests)
    out = torch.empty_like(image)
    arguments = (image.detach(), flow.detach(), mode, "border", mask, out)
    torch.library.opcheck(torch.ops.flowwarp.warp_out, arguments)


@pytest.mark.parametrize("in_dims", [(0, 0), (1, None), (None, 0)])
def test_vmap(in_dims):
    image, flow = random_image(2, 2, 3, 6, 7), random_flow(4, 6, 7).view(2, 2, 2, 6, 7)
    image = image if in_dims[0] is not None else image[0]
    flow = flow if in_dims[1] is not None else flow[0]
    mapped, mask = torch.vmap(lambda i, f: warp(i, f, mask=True), in_dims)(image, flow)
    for index in range(2):
        one = image if in_dims[0] is None else image.select(in_dims[0], index)
        other = flow if in_dims[1] is None else flow.select(in_dims[1], index)
        expected, expected_mask = warp(one, other, mask=True)
        assert torch.equal(mapped[index], expected)
        assert torch.equal(mask[index], expected_mask)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("in_dims", [(1, None), (None, 0)])
def test_vmap_over_nothing(in_dims, mask):
    image, flow = torch.rand(2, 3, 6, 7, requires_grad=True), random_flow(2, 6, 7)
    image = image if in_dims[0] is None else image[:, None][:, :0]
    flow = flow if in_dims[1] is None else flow[None][:0]
    mapped = torch.vmap(lambda i, f: warp(i, f, mask=mask), in_dims)(image, flow)
    out = mapped[0] if mask else mapped
    assert out.shape == (0, 2, 3, 6, 7)
    assert not mask or mapped[1].shape == (0, 2, 1, 6, 7)
    assert torch.autograd.grad(out.sum(), image)[0].shape == image.shape


def test_forward_mode_is_right_not_zero():
    image, flow = random_image(1, 2, 6, 7).double(), random_flow(1, 6, 7).double()
    direction = torch.randn(flow.shape, generator=seeded(2), dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda f: warp(image, f), (flow,), (direction,))
    step = 1e-6
    numeric = (warp(image, flow + step * direction) - warp(image, flow - step * direction)) / (
        2 * step
    )
    assert tangent.abs().max() > 0.1
    assert torch.allclose(tangent, numeric, atol=1e-6)


def test_forward_mode_over_backward():
    image = random_image(1, 2, 6, 7).double().requires_grad_()
    flow = random_flow(1, 6, 7).double().requires_grad_()
    out, grad = warp(image, flow), torch.ones(1, 2, 6, 7, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(grad, 2 * grad)
        grads = torch.autograd.grad(out, (image, flow), dual)
        tangents = [torch.autograd.forward_ad.unpack_dual(g).tangent for g in grads]
    for tangent, once in zip(tangents, gradients(image, flow, grad), strict=True):
        assert torch.allclose(tangent, 2 * once)


def test_per_sample_gradients():
    image, flow = random_image(3, 1, 2, 6, 7), random_flow(3, 6, 7)[:, None]

    def loss(flow, image):
        return warp(image, flow).square().sum()

    grads = torch.vmap(torch.func.grad(loss))(flow, image)
    for index in range(3):
        one = flow[index].clone().requires_grad_()
        loss(one, image[index]).backward()
        assert torch.allclose(grads[index], one.grad, atol=1e-5)


def test_compile_fullgraph():
    image, flow = random_image(1, 3, 8, 9).requires_grad_(), random_flow(1, 8, 9).requires_grad_()

    def run(image, flow):
        out, mask = warp(image * 2, flow + 1, mask=True)
        return out * mask

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    eager = run(image, flow)
    result = compiled(image, flow)
    assert torch.equal(result, eager)
    assert_same_gradients(result, eager, (image, flow))


def test_autocast_leaves_flow_alone():
    image, flow = random_image(1, 3, 8, 900), uniform_flow(0.123456, 0.0, 8, 900)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = warp(image, flow)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, warp(image, flow))


def test_out_is_written_and_returned():
    image, flow = random_image(1, 3, 8, 9), random_flow(1, 8, 9)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        out = torch.full_like(image, 7, memory_format=memory_format)
        returned, mask = warp(image, flow, out=out, mask=True)
        assert returned is out
        assert torch.equal(out, warp(image, flow))
        assert torch.equal(mask, warp(image, flow, mask=True)[1])


def test_layout_is_kept():
    image = random_image(2, 3, 8, 9).contiguous(memory_format=torch.channels_last)
    out = warp(image, random_flow(2, 8, 9))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_out_beside_the_image_in_one_buffer():
    buffer, flow = random_image(4, 3, 8, 9), random_flow(2, 8, 9)
    wanted = warp(buffer[2:], flow)
    assert torch.equal(warp(buffer[2:], flow, out=buffer[:2]), wanted)


def test_out_without_memory():
    image, flow = torch.rand(1, 3, 8, 9, device="meta"), torch.rand(1, 2, 8, 9, device="meta")
    out = torch.empty_like(image)
    assert warp(image, flow, out=out) is out
    with FakeTensorMode():
        image, flow, out = torch.rand(1, 3, 8, 9), torch.rand(1, 2, 8, 9), torch.rand(1, 3, 8, 9)
        assert warp(image, flow, out=out) is out


@pytest.mark.parametrize(
    "transform", [torch.vmap, lambda run: lambda flow: torch.func.jvp(run, (flow[0],), (flow[0],))]
)
def test_out_under_a_transform_is_refused(transform):
    image, flow = random_image(1, 3, 8, 9), random_flow(2, 8, 9)[:, None]
    out = torch.empty_like(image)
    with pytest.raises(ValueError, match="out cannot be used under vmap, grad or jvp"):
        transform(lambda f: warp(image, f, out=out))(flow)


def test_out_of_nothing():
    image, flow, out = torch.rand(0, 3, 4, 5), torch.rand(0, 2, 4, 5), torch.rand(0, 3, 4, 5)
    assert warp(image, flow, out=out) is out


IMAGE, FLOW = torch.rand(2, 3, 4, 5), torch.zeros(2, 2, 4, 5)
THREE = torch.rand(3, 3, 4, 5)


@pytest.mark.parametrize(
    ("error", "words", "arguments", "options"),
    [
        (TypeError, "image must be a torch.Tensor", (IMAGE.numpy(), FLOW), {}),
        (TypeError, "image must be fp64", (IMAGE.int(), FLOW), {}),
        (ValueError, "image must be (B, C, H, W)", (IMAGE[0], FLOW), {}),
        (TypeError, "flow must be a torch.Tensor", (IMAGE, None), {}),
        (ValueError, "flow must be (B, 2, H, W)", (IMAGE, FLOW[:, :1]), {}),
        (ValueError, "flow must have batch", (IMAGE, FLOW[:1]), {}),
        (ValueError, "flow must have batch", (IMAGE, FLOW[..., :-1]), {}),
        (ValueError, "flow must be on cpu", (IMAGE, FLOW.to("meta")), {}),
        (ValueError, "padding must be one of", (IMAGE, FLOW), {"padding": "circular"}),
        (ValueError, "mode must be one of", (IMAGE, FLOW), {"mode": "linear"}),
        (ValueError, "out must be (2, 3, 4, 5)", (IMAGE, FLOW), {"out": IMAGE[:1].clone()}),
        (ValueError, "out must be", (IMAGE, FLOW), {"out": IMAGE.double()}),
        (ValueError, "out must not share memory", (IMAGE, FLOW), {"out": IMAGE}),
        (ValueError, "out must not share memory", (THREE[:2], FLOW), {"out": THREE[1:]}),
        (ValueError, "out must not share memory", (IMAGE[:, :2] + 0, FLOW), {"out": FLOW}),
        (
            ValueError,
            "out cannot be used",
            (IMAGE, FLOW.clone().requires_grad_()),
            {"out": IMAGE * 1},
        ),
    ],
)
def test_wrong_arguments_name_themselves(error, words, arguments, options):
    with pytest.raises(error) as caught:
        warp(*arguments, **options)
    assert str(caught.value).startswith(words)
