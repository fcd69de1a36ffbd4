"""The census transform, its distance, and both in torch's machinery."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from flowwarp.ops import native
from flowwarp.ops.census import (
    census,
    census_distance,
    census_distance_reference,
    census_reference,
)

# torch's own, when forward AD loads its decompositions
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)

TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def levels(*shape, seed=0, dtype=torch.float64):
    """Images of whole multiples of 1/256, which every dtype here holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.randint(100, 120, shape, generator=generator)
    return (smooth / 256).to(dtype)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def relative(got, wanted, floor):
    # Signs near each other cancel: what is far below the usual size is not known as exactly.
    return float((got.double() - wanted).norm() / wanted.norm().clamp_min(floor))


def with_gradients(operator, images, grad, radius):
    images = [image.detach().requires_grad_() for image in images]
    out = operator(*images, radius)
    return out.detach(), *torch.autograd.grad(out, images, grad)


def soft_sign(difference):
    return difference / math.sqrt(0.81 + difference**2)


def test_transform_by_hand():
    image = torch.tensor([[0, 1, 3]], dtype=torch.float64).view(1, 1, 1, 3) / 255
    out = census(image, 1)
    assert out.shape == (1, 8, 1, 3)
    left, right = out[0, 3, 0].tolist(), out[0, 4, 0].tolist()
    assert left == pytest.approx([0, soft_sign(-1), soft_sign(-2)])
    assert right == pytest.approx([soft_sign(1), soft_sign(2), 0])
    assert not out[0, [0, 1, 2, 5, 6, 7]].any()


def test_order_of_neighbours():
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 0, 2] = 1  # upper right of the centre
    assert census(image, 1)[0, :, 1, 1].round().tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_colours_are_weighted():
    image = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    image[0, :, 0, 1] = torch.tensor([1, 2, 3]) / 255
    wanted = soft_sign(0.2989 + 2 * 0.5870 + 3 * 0.1140)
    assert census(image, 1)[0, 4, 0, 0].item() == pytest.approx(wanted)


def test_distance_by_hand():
    image1 = torch.tensor([0, 2], dtype=torch.float64).view(1, 1, 1, 2) / 255
    image2 = torch.tensor([5, 4], dtype=torch.float64).view(1, 1, 1, 2) / 255
    z = soft_sign(2) - soft_sign(-1)
    wanted = z**2 / (0.1 + z**2) / 8
    out = census_distance(image1, image2, 1)
    assert out.shape == (1, 1, 1, 2)
    assert out.flatten().tolist() == pytest.approx([wanted, wanted])


def test_distance_of_an_image_to_itself_is_exactly_zero():
    image = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    assert not census_distance(image, image).any()


def test_distance_does_not_see_brightness():
    image = levels(1, 3, 20, 30)
    assert census_distance(image, image + 0.25).max() < 1e-12
    assert census_distance(image, 1 - image).mean() > 0.5


def layouts(image, kind):
    if kind == "last":
        return image.contiguous(memory_format=torch.channels_last)
    if kind == "turned":
        return image.transpose(2, 3).contiguous().transpose(2, 3)
    return image


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.tuples(
        st.integers(1, 3), st.integers(1, 24), st.sampled_from([1, 2, 3, 7, 16, 33, 70])
    ),
    channels=st.sampled_from([1, 3]),
    radius=st.integers(1, 5),
    dtype=st.sampled_from(list(TOLERANCE)),
    kinds=st.tuples(*[st.sampled_from(["plain", "last", "turned"])] * 2),
)
def test_against_reference(size, channels, radius, dtype, kinds):
    shape = (size[0], channels, *size[1:])
    images = [layouts(levels(*shape, seed=k, dtype=dtype), kinds[k]) for k in range(2)]
    grad = randn(size[0], 1, *size[1:], dtype=dtype)
    # fp32 rounds the sum of three colours to 1e-5 grey levels, which a difference keeps.
    slack = 1 if channels == 1 or dtype == torch.float64 else 20

    got = with_gradients(census_distance, images, grad, radius)
    exact = [image.double() for image in images]
    wanted = with_gradients(census_distance_reference, exact, grad.double(), radius)
    floors = (0.1, 10 * float(grad.norm()), 10 * float(grad.norm()))
    for mine, theirs, factor, floor in zip(got, wanted, (1, 10, 10), floors, strict=True):
        assert mine.dtype == dtype
        assert relative(mine, theirs, floor) <= slack * factor * TOLERANCE[dtype]

    grad = randn(size[0], (2 * radius + 1) ** 2 - 1, *size[1:], dtype=dtype)
    got = with_gradients(census, images[:1], grad, radius)
    wanted = with_gradients(census_reference, exact[:1], grad.double(), radius)
    for mine, theirs, factor in zip(got, wanted, (1, 10), strict=True):
        assert mine.dtype == dtype
        assert relative(mine, theirs, 1e-30) <= slack * factor * TOLERANCE[dtype]


def test_root_is_exact_over_its_range():
    difference = torch.logspace(-6, 4, 4001, dtype=torch.float64)
    images = torch.stack([torch.zeros_like(difference), difference / 255], dim=1)
    images = images.float().view(-1, 1, 1, 2)
    got = census(images, 1)[:, 4, 0, 0].double()
    difference = 255 * images[:, 0, 0, 1].double()
    wanted = difference / (0.81 + difference**2).sqrt()
    assert ((got - wanted) / wanted).abs().max() < 4e-7


def everything(images, grad1, grad2, radius=3):
    return (
        *with_gradients(census_distance, images, grad1, radius),
        *with_gradients(census, images[:1], grad2, radius),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bit_equal_however_cut(dtype):
    images = [levels(3, 3, 41, 37, seed=k, dtype=dtype) for k in range(2)]
    grads = [randn(3, planes, 41, 37, dtype=dtype) for planes in (1, 48)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, again = (everything(images, *grads) for _ in range(2))
        torch.set_num_threads(2)
        two = everything(images, *grads)
    finally:
        torch.set_num_threads(threads)
    parts = [
        everything([image[k : k + 1] for image in images], *(grad[k : k + 1] for grad in grads))
        for k in range(3)
    ]
    for k in range(len(one)):
        assert torch.equal(one[k], again[k])
        assert torch.equal(one[k], two[k])
        assert torch.equal(one[k], torch.cat([part[k] for part in parts]))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_bit_equal_for_every_instruction_set(each_level, dtype):
    for width in (1, 7, 64, 75):
        images = [levels(2, 3, 13, width, seed=k, dtype=dtype) for k in range(2)]
        grads = [randn(2, planes, 13, width, dtype=dtype) for planes in (1, 48)]
        first, *others = each_level(everything, images, *grads)
        for other in others:
            assert all(map(torch.equal, first, other))


def test_symmetric_bit_for_bit():
    images = [levels(1, 3, 9, 21, seed=k, dtype=torch.float32) for k in range(2)]
    assert torch.equal(census_distance(*images), census_distance(*images[::-1]))


def test_nan_reaches_only_its_neighbours():
    image = levels(1, 1, 12, 40, dtype=torch.float32)
    image[0, 0, 5, 20] = float("nan")
    other = levels(1, 1, 12, 40, seed=1, dtype=torch.float32).requires_grad_()
    out = census_distance(image, other, 2)
    bad = torch.zeros_like(image, dtype=torch.bool)
    bad[0, 0, 3:8, 18:23] = True
    assert torch.equal(out.isnan(), bad)
    (grad,) = torch.autograd.grad(out.sum(), other)
    assert torch.equal(grad.isnan(), bad)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5), (2, 1, 4, 0)])
def test_empty(shape):
    image = torch.ones(shape, requires_grad=True)
    assert census(image, 1).shape == (shape[0], 8, *shape[2:])
    out = census_distance(image, torch.ones(shape))
    assert out.shape == (shape[0], 1, *shape[2:])
    out.sum().backward()
    assert image.grad.shape == shape


IMAGE = torch.ones(1, 3, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], IMAGE), TypeError, "image1 must be a torch.Tensor"),
        ((IMAGE, IMAGE.int()), TypeError, "image2 must be fp64"),
        ((IMAGE[0], IMAGE), ValueError, r"image1 must be \(B, C, H, W\)"),
        ((IMAGE[:, :2], IMAGE), ValueError, "image1 must have 1 or 3 channels"),
        ((IMAGE, IMAGE[..., 1:]), ValueError, r"image2 must be \(1, 3, 4, 5\)"),
        ((IMAGE, IMAGE.half()), ValueError, "image2 must be .* torch.float32"),
        ((IMAGE, IMAGE.to("meta")), ValueError, "image2 must be .* on cpu"),
        ((IMAGE, IMAGE, 0), ValueError, "radius must be 1 to 127"),
        ((IMAGE, IMAGE, 128), ValueError, "radius must be 1 to 127"),
        ((IMAGE, IMAGE, 3.0), TypeError, "radius must be an integer"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        census_distance(*arguments)


def test_wrong_image():
    with pytest.raises(ValueError, match="image must have 1 or 3 channels"):
        census(IMAGE[:, :2])


# ------------------------------------------------------------------ torch


def small(seed=0, channels=1):
    # A few grey levels apart: with more, the transform is flat and finite differences see nothing.
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, channels, 3, 4, generator=generator, dtype=torch.float64)
    return (image * 6 / 255).requires_grad_()


@pytest.mark.parametrize("channels", [1, 3])
def test_gradcheck_twice(channels):
    def scaled(operator):
        # In units of grey levels, so that differences of 1e-6 are small against the softness.
        return lambda *images: operator(*(image / 255 for image in images), 1)

    pair = [(255 * small(k, channels)).detach().requires_grad_() for k in range(2)]
    assert torch.autograd.gradcheck(scaled(census_distance), pair)
    assert torch.autograd.gradgradcheck(scaled(census_distance), pair)
    assert torch.autograd.gradcheck(scaled(census), pair[:1])
    assert torch.autograd.gradgradcheck(scaled(census), pair[:1])


def test_opcheck():
    operators = torch.ops.flowwarp
    pair = [small(0, 3), small(1, 3).detach().contiguous(memory_format=torch.channels_last)]
    pair[1].requires_grad_()
    torch.library.opcheck(operators.census.default, (pair[0], 1))
    torch.library.opcheck(operators.census_distance.default, (*pair, 1))
    grad = randn(1, 1, 3, 4).requires_grad_()
    # Without the traced second derivative, which takes 5 s: gradgradcheck is on it.
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        operators.census_distance_gradient.default, (grad, *pair, 1), test_utils=quick
    )
    grad = randn(1, 8, 3, 4).requires_grad_()
    torch.library.opcheck(operators.census_gradient.default, (grad, pair[0], 1))


def test_compile_fullgraph():
    def loss(image1, image2):
        return census_distance(image1, image2, 1).mean() + census(image1, 1).square().mean()

    pair = small(0), small(1)
    wanted = torch.autograd.grad(loss(*pair), pair)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, torch.autograd.grad(compiled(*pair), pair), wanted))


def test_vmap():
    image1, image2 = levels(4, 2, 3, 6, 7), levels(2, 3, 6, 7, seed=1)
    got = torch.func.vmap(lambda image: census_distance(image, image2))(image1)
    wanted = torch.stack([census_distance(image, image2) for image in image1])
    assert torch.equal(got, wanted)


def test_forward_mode():
    pair = small(0).detach(), small(1).detach()
    tangent = randn(1, 1, 3, 4)

    def call(image):
        return census_distance(image, pair[1], 1)

    _, got = torch.func.jvp(call, pair[:1], (tangent,))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(call(forward_ad.make_dual(pair[0], tangent))).tangent
    step = 1e-7
    wanted = (call(pair[0] + step * tangent) - call(pair[0] - step * tangent)) / (2 * step)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dual, got)


def test_transforms_of_func():
    image = small(1).detach()
    leaf = small(0)
    (wanted,) = torch.autograd.grad(census_distance(leaf, image, 1).sum(), leaf)
    got = torch.func.grad(lambda i: census_distance(i, image, 1).sum())(leaf.detach())
    torch.testing.assert_close(got, wanted)


def test_reference_serves_without_the_library(monkeypatch):
    images = [levels(1, 3, 6, 7, seed=k) for k in range(2)]
    grads = randn(1, 1, 6, 7), randn(1, 48, 6, 7)
    ours = everything(images, *grads)
    monkeypatch.setattr(native, "library_for", lambda *tensors: None)
    for mine, theirs in zip(everything(images, *grads), ours, strict=True):
        torch.testing.assert_close(mine, theirs)
