"""Blurs against torch's convolution and pooling, which round otherwise and take longer."""

import pytest
import torch
import torch.nn.functional as F

from flowwarp.ops import filters
from flowwarp.ops.filters import box_blur, forward_differences, gaussian_blur, half_band, resize

SIZES = [(1, 1), (1, 9), (7, 2), (20, 13)]


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("radius", [1, 3])
def test_a_box_averages_what_lies_in_the_image(size, radius):
    image = rand(2, 3, *size)
    wanted = F.avg_pool2d(image, 2 * radius + 1, 1, radius, count_include_pad=False)
    torch.testing.assert_close(box_blur(image, radius), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [0.6, 3])
def test_a_gaussian_convolves_with_the_border_repeated(size, sigma):
    image, radius = rand(2, 3, *size).double(), max(1, round(3 * sigma))
    line = torch.tensor([-0.5 * (k / sigma) ** 2 for k in range(-radius, radius + 1)]).exp()
    kernel = (torch.outer(line, line) / line.sum() ** 2).double().expand(3, 1, -1, -1)
    padded = F.pad(image, [radius] * 4, mode="replicate")
    wanted = F.conv2d(padded, kernel, groups=3)
    torch.testing.assert_close(gaussian_blur(image, sigma), wanted, rtol=0, atol=1e-6)


def test_a_constant_stays_and_the_image_given_is_left_alone():
    image = torch.full((1, 1, 5, 6), 0.3)
    for blurred in (box_blur(image, 2), gaussian_blur(image, 1.0)):
        torch.testing.assert_close(blurred, image)
    assert bool((image == 0.3).all())


def test_same_bits_for_any_number_of_threads_and_any_batch():
    image, before = rand(2, 3, 90, 120), torch.get_num_threads()
    for blur in (lambda i: box_blur(i, 2), lambda i: gaussian_blur(i, 0.8)):
        try:
            torch.set_num_threads(1)
            one = blur(image)
            torch.set_num_threads(3)
            assert torch.equal(blur(image), one)
            assert torch.equal(blur(image[1:]), one[1:])
        finally:
            torch.set_num_threads(before)


def test_a_half_band_filter_passes_what_half_the_size_can_hold():
    at = torch.arange(64.0)
    for cycles, share in ((0, 1), (1 / 16, 1), (1 / 4, 0.5), (7 / 16, 0), (1 / 2, 0)):
        for axis in (2, 3):
            wave = torch.cos(2 * torch.pi * cycles * at).view(1, 1, -1, 1).expand(1, 1, 64, 64)
            wave = wave.transpose(2, axis)
            inside = (slice(None), slice(None), slice(3, -3), slice(3, -3))
            got = half_band(wave.contiguous())[inside]
            torch.testing.assert_close(got, share * wave[inside], rtol=0, atol=0.01)


def test_differences_are_to_the_next_pixel():
    ramp = torch.arange(12.0).view(1, 1, 3, 4)
    dx, dy = forward_differences(ramp)
    assert dx[0, 0].tolist() == [[1, 1, 1, 0]] * 3
    assert dy[0, 0].tolist() == [[4] * 4, [4] * 4, [0] * 4]


@pytest.mark.parametrize("size", [(24, 31), (5, 3), (2, 1), (40, 2), (300, 2)])
def test_what_a_gpu_resizes_twice_comes_out_almost_the_same(size):
    x = torch.arange(300.0) / 300
    wave = (0.5 + 0.4 * torch.sin(7 * x[:200, None] + 9 * x)).expand(1, 2, -1, -1)
    for image in (wave, rand(1, 2, 200, 300)):
        near = filters._shrink_first(image, size)
        assert all(a <= 32 * b for a, b in zip(near.shape[-2:], size, strict=True))
        torch.testing.assert_close(resize(near, size), resize(image, size), rtol=0, atol=2e-3)


def test_what_is_not_made_much_smaller_is_not_resized_twice():
    image = rand(1, 1, 64, 96)
    assert filters._shrink_first(image, (2, 3)) is image
    assert filters._shrink_first(image, (100, 3)) is image
