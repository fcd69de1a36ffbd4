"""Noise carried along flow: exactly white, white by its statistics, and where it belongs."""

import math

import pytest
import torch
import torch.nn.functional as F

from flowwarp.ops.fields import coordinate_grid
from flowwarp.ops.noise import carry_noise, dither, mix_noise


def affine(matrix, shift, height, width):
    """Return the flow that reads at ``matrix @ (x - centre) + centre + shift``."""
    grid = coordinate_grid(height, width, dtype=torch.float64)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64).view(1, 2, 1, 1)
    matrix = torch.tensor(matrix, dtype=torch.float64) - torch.eye(2, dtype=torch.float64)
    flow = torch.einsum("ij,bjhw->bihw", matrix, grid - centre)
    return (flow + torch.tensor(shift, dtype=torch.float64).view(1, 2, 1, 1)).float()


def rotation(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[c, -s], [s, c]]


IDENTITY = [[1.0, 0.0], [0.0, 1.0]]
MOTIONS = {
    "still": (IDENTITY, (0.0, 0.0)),
    "whole pixels": (IDENTITY, (2.0, -1.0)),
    "parts of pixels": (IDENTITY, (0.37, -1.6)),
    "zoom in": ([[0.6, 0.0], [0.0, 0.6]], (0.2, 0.1)),
    "zoom out": ([[1.7, 0.0], [0.0, 1.7]], (0.2, 0.1)),
    "rotation": (rotation(25), (0.3, 0.0)),
    "shear": ([[1.0, 0.7], [-0.2, 1.0]], (0.0, 0.4)),
    "collapse": ([[0.0, 0.0], [0.0, 0.0]], (0.0, 0.0)),  # all read one pixel
}


@pytest.fixture(params=MOTIONS)
def motion(request):
    return MOTIONS[request.param]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def covariance(flow, **options):
    """Return the exact covariance of carried noise: it is linear, so unit vectors tell all."""
    height, width = flow.shape[-2:]
    size = height * width
    basis = torch.eye(2 * size, dtype=torch.float64).view(2 * size, 2, height, width)
    flows = flow.expand(2 * size, -1, -1, -1)
    columns = carry_noise(basis[:, :1], flows, basis[:, 1:], **options).flatten(1)  # (2 S, S)
    return columns.T @ columns


@pytest.mark.parametrize("offset", [0.5, 0.0, 0.93])
def test_is_exactly_white(motion, offset):
    flow = affine(*motion, 9, 7)
    torch.testing.assert_close(
        covariance(flow, dither=offset), torch.eye(63, dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_is_exactly_white_for_any_flow_at_all():
    flow = 4 * randn(1, 2, 8, 9)
    flow[0, 0, 2, 3], flow[0, 1, 4, 4] = math.nan, math.inf
    visible = randn(1, 1, 8, 9, seed=1) > -0.5
    found = covariance(flow, visible=visible.expand(144, -1, -1, -1))
    torch.testing.assert_close(found, torch.eye(72, dtype=torch.float64), atol=1e-12, rtol=0)


def test_statistics_stay_those_of_white_noise(motion):
    """Carried through six frames: moments, autocorrelation and spectrum within 5 sigma."""
    frames, channels, size = 6, 64, 48
    flow = affine(*motion, size, size)
    noise = randn(1, channels, size, size)
    for number in range(frames):
        fresh = randn(1, channels, size, size, seed=1 + number)
        noise = carry_noise(noise, flow, fresh, dither=dither(number))
    values = noise.numel()
    assert abs(float(noise.mean())) < 5 / math.sqrt(values)
    assert abs(float(noise.square().mean()) - 1) < 5 * math.sqrt(2 / values)
    assert abs(float(noise.pow(4).mean()) - 3) < 5 * math.sqrt(96 / values)  # var of z^4
    for dy, dx in [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (3, 1)]:
        product = noise * noise.roll((dy, dx), (2, 3))
        assert abs(float(product.mean())) < 5 / math.sqrt(values), (dy, dx)
    power = torch.fft.fft2(noise, norm="ortho").abs().square().mean((0, 1))  # (H, W)
    for band in F.avg_pool2d(power[None], size // 4).flatten():  # each the mean of 144 bins
        # Bins come in pairs, k and -k, with the same power.
        assert abs(float(band) - 1) < 5 * math.sqrt(2 / (channels * 144))


def test_whole_pixels_carry_it_bit_for_bit():
    noise, fresh = randn(1, 3, 6, 8), randn(1, 3, 6, 8, seed=1)
    flow = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 6, 8)
    for offset in (0.5, dither(3)):
        carried = carry_noise(noise, flow, fresh, dither=offset)
        assert torch.equal(carried[..., 1:, :-2], noise[..., :-1, 2:])
        assert torch.equal(carried[..., :1, :], fresh[..., :1, :])  # from outside
        assert torch.equal(carried[..., -2:], fresh[..., -2:])


def test_two_that_read_one_share_it_by_hand():
    noise = torch.tensor([[[[3.0, 5.0]]]])
    fresh = torch.tensor([[[[0.25, 0.75]]]])
    flow = torch.tensor([0.0, -1.0]).view(1, 1, 1, 2)
    flow = torch.cat([flow, torch.zeros_like(flow)], 1)  # both read the first
    carried = carry_noise(noise, flow, fresh)
    half = 3 / math.sqrt(2)
    torch.testing.assert_close(carried, torch.tensor([[[[half - 0.25, half + 0.25]]]]))
    assert float(carried.sum()) == pytest.approx(math.sqrt(2) * 3)


def test_what_nobody_reads_is_added_where_it_moves_by_hand():
    noise = torch.tensor([[[[1.0, 2.0, 4.0, 8.0]]]])
    fresh = torch.full_like(noise, 100.0)
    # A contraction by 2 about the first pixel: 0 reads 0, 1 reads 2, the others outside.
    flow = torch.tensor([0.0, 1.0, 2.0, 3.0])
    flow = torch.stack([flow, torch.zeros(4)]).view(1, 2, 1, 4)
    # Source 1 lies beside where nothing lands; source 3 too. With one in between it does:
    carried = carry_noise(noise, flow, fresh)
    torch.testing.assert_close(carried, torch.tensor([[[[1.0, 4.0, 100.0, 100.0]]]]))
    flow[:, 0, 0, 1] = 0.8  # 1 reads 1.8, which rounds to 2, so that source 1 has no reader;
    carried = carry_noise(noise, flow, fresh)  # 0.2 of pixel 1 landed there and says: 0.8 back
    first = (1 + 2) / math.sqrt(2)
    torch.testing.assert_close(carried, torch.tensor([[[[first, 4.0, 100.0, 100.0]]]]))
    hidden = torch.tensor([False, True, True, True]).view(1, 1, 1, 4)
    carried = carry_noise(noise, flow, fresh, visible=hidden)  # but nothing joins what is fresh
    torch.testing.assert_close(carried, torch.tensor([[[[100.0, 4.0, 100.0, 100.0]]]]))


def test_contraction_keeps_the_coarse_structure():
    """Adding up what nobody reads is what keeps the noise's low frequencies (compare: dropping)."""
    flow = affine([[1.5, 0.0], [0.0, 1.5]], (0.0, 0.0), 48, 48)
    noise, fresh = randn(1, 64, 48, 48), randn(1, 64, 48, 48, seed=1)
    carried = carry_noise(noise, flow, fresh)[..., 10:38, 10:38]
    wanted = F.interpolate(noise, scale_factor=1 / 1.5, mode="area")[..., 2:30, 2:30]
    a, b = (F.avg_pool2d(x, 7, 7) for x in (carried, wanted))
    similar = float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt())
    assert similar > 0.75  # 0.67 = 1 / 1.5 if dropped


def test_dither_follows_slow_motion():
    """Rounding would leave noise behind: by 9 px after 30 frames of 0.3 px."""
    for speed in (0.3, 0.07, 0.5, 0.81):
        carried = noise = torch.arange(60.0).view(1, 1, 1, 60)
        flow = torch.tensor([speed, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 60)
        for number in range(30):
            carried = carry_noise(carried, flow, torch.zeros_like(noise), dither=dither(number))
            moved = float(carried[0, 0, 0, 5]) - 5
            assert abs(moved - speed * (number + 1)) < 1.5
    assert all(0 <= dither(number) < 1 for number in range(100))


def test_an_example_does_not_hang_on_its_batch(motion):
    flow = torch.cat([affine(*motion, 8, 9), affine(IDENTITY, (0.4, 3.0), 8, 9)])
    noise, fresh = randn(2, 3, 8, 9), randn(2, 3, 8, 9, seed=1)
    together = carry_noise(noise, flow, fresh)
    for row in range(2):
        one = slice(row, row + 1)
        assert torch.equal(carry_noise(noise[one], flow[one], fresh[one]), together[one])


def test_invisible_pixels_are_fresh():
    noise, fresh = randn(1, 3, 4, 5), randn(1, 3, 4, 5, seed=1)
    visible = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    assert torch.equal(carry_noise(noise, torch.zeros(1, 2, 4, 5), fresh, visible=visible), fresh)


def test_mixing_keeps_the_variance():
    noise, fresh = torch.tensor([2.0]), torch.tensor([10.0])
    assert mix_noise(noise, fresh, 0.6).tolist() == pytest.approx([0.8 * 2 + 0.6 * 10])
    assert torch.equal(mix_noise(noise, fresh, 0), noise)
    assert torch.equal(mix_noise(noise, fresh, 1), fresh)
    with pytest.raises(ValueError, match="share"):
        mix_noise(noise, fresh, 1.5)


def test_shapes_are_checked():
    noise = torch.zeros(1, 3, 4, 5)
    with pytest.raises(ValueError, match="fresh must"):
        carry_noise(noise, torch.zeros(1, 2, 4, 5), torch.zeros(1, 2, 4, 5))
    with pytest.raises(ValueError, match="flow"):
        carry_noise(noise, torch.zeros(1, 2, 4, 6), noise)
    with pytest.raises(ValueError, match=r"visible must be \(B, 1, H, W\)"):
        carry_noise(noise, torch.zeros(1, 2, 4, 5), noise, visible=torch.ones(1, 2, 4, 5))
    with pytest.raises(ValueError, match=r"visible must be \(B, 1, H, W\), got shape \(1, 4, 5\)"):
        carry_noise(noise, torch.zeros(1, 2, 4, 5), noise, visible=torch.ones(1, 4, 5))
    with pytest.raises(TypeError, match=r"visible must be a torch\.Tensor, got bool"):
        carry_noise(noise, torch.zeros(1, 2, 4, 5), noise, visible=True)
    with pytest.raises(ValueError, match=r"fresh must be .* torch\.float32 as noise is"):
        carry_noise(noise, torch.zeros(1, 2, 4, 5), noise.double())
