"""Each term against a value worked by hand; per example first; empty masks give 0."""

import math

import pytest
import torch

from flowwarp.losses.photometric import (
    PHOTOMETRIC,
    census_loss,
    charbonnier,
    charbonnier_loss,
    gradient_loss,
    masked_mean,
    ssim_distance,
    warp_crop,
)
from flowwarp.ops.warping import warp

TERMS = PHOTOMETRIC.values()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def frames(batch=3, height=16, width=20):
    return torch.rand(2, batch, 3, height, width, generator=seeded()).unbind()


@pytest.mark.parametrize("term", TERMS)
def test_inputs_are_not_broadcast(term):
    image1, image2 = frames()
    for mask in (torch.ones(3, 16, 20), torch.ones(3, 1, 1, 1), torch.ones(1, 1, 16, 20)):
        with pytest.raises(ValueError, match="mask must"):
            term(image1, image2, mask)
    for wrong in (image2[:1], image2[:, :1], image2[..., :1]):
        with pytest.raises(ValueError, match="must"):
            term(image1, wrong)


@pytest.mark.parametrize("term", TERMS)
def test_errors_name_the_argument(term):
    image1, image2 = frames()
    with pytest.raises(ValueError, match=r"^warped2 must"):
        term(image1, image2[:1])
    with pytest.raises(TypeError, match=r"^warped2 must be .* got torch\.uint8"):
        term(image1, image2.byte())
    with pytest.raises(TypeError, match=r"^image1 must be .* got ndarray"):
        term(image1.numpy(), image2)


def test_masked_mean_divides_by_the_sum_of_the_mask():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 1, 2, 2)
    mask = torch.tensor([[True, False], [False, True]]).view(1, 1, 2, 2)
    assert masked_mean(values, mask).tolist() == [3.5]
    assert masked_mean(values).tolist() == [3.0]
    two_channels = torch.cat([values, 3 * values], 1)
    assert masked_mean(two_channels, mask).tolist() == [7.0]


def test_masked_mean_ignores_masked_out_values():
    values = torch.tensor([1.0, math.inf, math.nan, 3.0]).view(1, 1, 2, 2)
    mask = torch.tensor([[True, False], [False, True]]).view(1, 1, 2, 2)
    assert masked_mean(values, mask).tolist() == [2.0]


@pytest.mark.parametrize("weight", [1e-3, 1e-7, 1e-30])
def test_masked_mean_with_small_weights(weight):
    values = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 1, 2, 2)
    weights = weight * torch.tensor([1.0, 0.0, 0.0, 3.0]).view(1, 1, 2, 2)
    assert masked_mean(values, weights).tolist() == pytest.approx([4.75])


def test_masked_mean_of_many_fp16_values():
    values = torch.full((1, 1, 300, 300), 0.5, dtype=torch.float16)
    got = masked_mean(values, torch.ones(1, 1, 300, 300, dtype=torch.bool))
    assert (got.dtype, got.tolist()) == (torch.float16, [0.5])


def test_charbonnier_by_hand():
    assert charbonnier(torch.tensor(3.0), epsilon=4.0).item() == pytest.approx(5.0)
    assert charbonnier(torch.tensor(0.0), epsilon=0.01).item() == pytest.approx(0.01)


def test_charbonnier_loss_by_hand():
    image = torch.zeros(1, 1, 1, 2)
    other = torch.tensor([0.3, -0.5]).view(1, 1, 1, 2)
    assert charbonnier_loss(image, other).item() == pytest.approx(0.4, abs=1e-5)


@pytest.mark.parametrize("radius", [1, 3])
def test_census_loss_by_hand(radius):
    """Of a block as large as the image only the centre is compared with all its neighbours."""
    side = 2 * radius + 1
    image, other, corner = torch.zeros(3, 1, 1, side, side)
    other[..., radius, radius] = 2 / 255  # the centre is 2 grey levels above all neighbours
    squared = 4 / (0.81 + 4)  # of the soft sign of -2
    distance = squared / (0.1 + squared)
    loss = census_loss(image, other, radius=radius).item()
    assert loss == pytest.approx(math.sqrt(distance**2 + 1e-6), rel=1e-5)
    corner[..., 0, 0] = -1 / 255  # one of K neighbours is 1 grey level below
    squared = 1 / (0.81 + 1)
    distance = squared / (0.1 + squared) / (side**2 - 1)
    loss = census_loss(image, corner, radius=radius).item()
    assert loss == pytest.approx(math.sqrt(distance**2 + 1e-6), rel=1e-5)


def test_census_loss_depends_on_structure_not_on_light():
    image, other = frames(1)
    brighter = image * 0.9 + 0.05
    assert census_loss(image, image).item() == pytest.approx(1e-3)  # Charbonnier's epsilon
    assert census_loss(image, image + 0.2).item() < 2e-3
    assert census_loss(image, brighter).item() < 0.1 * census_loss(image, other).item()


def test_census_loss_leaves_out_the_border():
    image, _ = frames(1)
    other = image.clone()
    other[..., :3, :] = 0  # blocks within 3 pixels of the edge see it
    inner = torch.zeros(1, 1, 16, 20, dtype=torch.bool)
    inner[..., 6:-3, 3:-3] = True
    assert census_loss(image, other, inner).item() == pytest.approx(1e-3)
    assert census_loss(image, other).item() > 1e-2


def test_ssim_of_opposites_by_hand():
    # A checkerboard and its negative: equal means m, equal variances v, covariance -v.
    board = (torch.arange(6)[:, None] + torch.arange(6)) % 2
    image = board.float().view(1, 1, 6, 6)
    distance = ssim_distance(image, 1 - image)
    mean1, mean2 = 5 / 9, 4 / 9  # of a window centred on a one, and of its negative
    variance = 5 / 9 - (5 / 9) ** 2
    similarity = (2 * mean1 * mean2 + 1e-4) * (-2 * variance + 9e-4)
    similarity /= (mean1**2 + mean2**2 + 1e-4) * (2 * variance + 9e-4)
    assert distance[0, 0, 2, 3].item() == pytest.approx(min(1, (1 - similarity) / 2), abs=1e-4)
    assert ssim_distance(image, image).abs().max() < 1e-5


def test_gradient_loss_by_hand():
    image = torch.zeros(1, 1, 2, 3)
    other = torch.tensor([[0.0, 0.25, 0.5], [0.0, 0.25, 0.5]]).view(1, 1, 2, 3)
    slope, none = math.sqrt(0.25**2 + 1e-6), 1e-3  # Charbonnier of both
    # Along x: 0.25 twice a row, and 0 at its end; along y nothing changes.
    expected = (4 * slope + 2 * none) / 6 + none
    assert gradient_loss(image, other).item() == pytest.approx(expected, rel=1e-5)
    first = torch.zeros(1, 1, 2, 3, dtype=torch.bool)
    first[..., 0] = True
    assert gradient_loss(image, other, first).item() == pytest.approx(slope + none, rel=1e-5)
    turned = gradient_loss(image.transpose(2, 3), other.transpose(2, 3))
    assert turned.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_loss_is_blind_to_added_light():
    image, other = frames(1)
    assert gradient_loss(image, image + 0.3).item() == pytest.approx(2e-3, abs=1e-5)
    assert gradient_loss(image, other).item() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("term", TERMS)
def test_half_precision_is_as_exact_as_its_inputs(term, dtype):
    """Of variances, which are differences of squares, halves would leave next to nothing."""
    image = (0.8 + 0.1 * frames()[0]).to(dtype)
    other = (image + 0.02 * torch.randn(image.shape, generator=seeded())).clamp(0, 1).to(dtype)
    loss = term(image, other)
    assert loss.dtype == dtype
    torch.testing.assert_close(
        loss.double(), term(image.double(), other.double()), rtol=0.05, atol=0
    )


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_masked_out_values_have_no_gradient_even_if_infinite(value):
    image, other = frames()
    other[0, 0, 3, 4] = value
    other.requires_grad_()
    mask = torch.ones_like(image[:, :1], dtype=torch.bool)
    mask[0, 0, 3, 4] = False
    charbonnier_loss(image, other, mask).sum().backward()
    assert other.grad.isfinite().all()
    assert not other.grad[0, :, 3, 4].any()


@pytest.mark.parametrize("term", TERMS)
def test_terms_are_per_example(term):
    image, other = frames()
    mask = torch.rand(3, 1, 16, 20, generator=seeded(1)) > 0.5
    together = term(image, other, mask)
    assert together.shape == (3,)
    for index in range(3):
        part = slice(index, index + 1)
        alone = term(image[part], other[part], mask[part])
        assert torch.allclose(together[part], alone, rtol=1e-6)


@pytest.mark.parametrize("term", TERMS)
def test_an_empty_mask_gives_zero_and_no_gradient(term):
    image, other = frames(1)
    other.requires_grad_()
    loss = term(image, other, torch.zeros(1, 1, 16, 20, dtype=torch.bool))
    assert loss.item() == 0
    loss.sum().backward()
    assert not other.grad.any()


@pytest.mark.parametrize("term", TERMS)
def test_terms_pull_towards_the_image(term):
    image, other = frames(1)
    other.requires_grad_()
    term(image, other).sum().backward()
    step = 0.01 * other.grad.abs().max().reciprocal() * other.grad
    assert term(image, other - step).item() < term(image, other).item()


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (7, 7)])
def test_terms_take_tiny_images(term, size):
    image = torch.rand(1, 3, *size, generator=seeded())
    assert term(image, image * 0.5).isfinite().all()


def test_warp_crop_reads_beyond_the_crop():
    full = torch.rand(1, 3, 20, 24, generator=seeded())
    flow = torch.full((1, 2, 12, 16), 3.0)
    warped, valid = warp_crop(full, flow, margin=4)
    assert torch.equal(warped, full[..., 7:19, 7:23])
    assert valid.all()
    far = warp_crop(full, torch.full((1, 2, 12, 16), 5.0), margin=4)[1]
    assert not far[..., -1].any()  # 4 of margin, 5 of motion
    without, _ = warp_crop(full, torch.zeros(1, 2, 20, 24), margin=0)
    assert torch.equal(without, warp(full, torch.zeros(1, 2, 20, 24)))
