"""Warping error and high frequencies: values worked by hand, and what must not change them."""

import math

import pytest
import torch

from flowwarp.metrics.temporal import fine_energy, fine_ratio, warping_error


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_motion_by_whole_pixels_has_no_error_where_it_is_visible():
    wide = rand(1, 3, 12, 20)
    video = torch.stack([wide[..., t : t + 14] for t in range(4)], 1)  # moves left by 1
    flow = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1, 1).expand(1, 3, 2, 12, 14)
    assert warping_error(video, flow).tolist() == [0.0]  # the last column leads outside
    assert float(warping_error(video, -flow)) > 0.2


def test_error_by_hand():
    video = torch.zeros(2, 3, 3, 2, 2)
    video[0, 1] = 0.3  # frames differ by 0.3 twice
    video[1, 2, 0] = 0.6  # one channel of three, in one pair of two
    flow = torch.zeros(2, 2, 2, 2, 2)
    expected = [0.3, math.sqrt(0.36 / 6)]
    assert warping_error(video, flow).tolist() == pytest.approx(expected)


def test_frames_are_warped_bicubically():
    before = torch.tensor([0.0, 0, 1, 0, 0, 0])
    now = torch.tensor([-3.0, 19, 19, -3, 0, 9]) / 32  # a = -3/4, half-way; the last leads outside
    video = torch.stack((before, now)).view(1, 2, 1, 1, 6).expand(1, 2, 1, 5, 6)
    flow = torch.tensor([0.5, 0]).view(1, 1, 2, 1, 1).expand(1, 1, 2, 5, 6)
    assert float(warping_error(video, flow)) == pytest.approx(0, abs=1e-6)


def test_an_empty_batch():
    assert warping_error(torch.zeros(0, 3, 3, 4, 4), torch.zeros(0, 2, 2, 4, 4)).shape == (0,)
    assert fine_energy(torch.zeros(0, 3, 4, 4)).shape == (0,)
    assert fine_ratio(torch.zeros(0, 2, 3, 4, 4), torch.zeros(0, 2, 3, 4, 4)).shape == (0,)


def test_the_default_dtype_changes_nothing():
    image = rand(1, 3, 8, 9)
    expected = fine_energy(image)
    torch.set_default_dtype(torch.float64)
    try:
        energy = fine_energy(image)
    finally:
        torch.set_default_dtype(torch.float32)
    assert energy.dtype == torch.float32
    assert torch.equal(energy, expected)


def test_only_visible_pixels_with_known_flow_count():
    video = torch.zeros(1, 2, 1, 1, 4)
    video[0, 1, 0, 0] = torch.tensor([0.5, 9.0, 9.0, 0.0])
    visible = torch.tensor([True, False, True, True]).view(1, 1, 1, 1, 4)
    flow = torch.zeros(1, 1, 2, 1, 4)
    flow[..., 2] = math.nan
    assert warping_error(video, flow, visible).tolist() == pytest.approx([math.sqrt(0.25 / 2)])
    assert warping_error(video, flow, torch.zeros_like(visible)).isnan().all()


def test_examples_do_not_depend_on_their_batch():
    video, flow = rand(3, 4, 3, 9, 8), 4 * rand(3, 3, 2, 9, 8, seed=1) - 2
    together = warping_error(video, flow)
    alone = [float(warping_error(video[k : k + 1], flow[k : k + 1])) for k in range(3)]
    assert together.tolist() == pytest.approx(alone)
    ratios = fine_ratio(video, rand(3, 4, 3, 9, 8, seed=2))
    assert float(ratios[1]) == pytest.approx(
        float(fine_ratio(video[1:2], rand(3, 4, 3, 9, 8, seed=2)[1:2]))
    )


def test_energy_is_that_of_frequencies_above_the_limit():
    x = torch.arange(64.0)
    for frequency, fine in ((4, False), (12, False), (20, True), (29, True)):
        wave = 0.2 * torch.sin(2 * math.pi * frequency / 64 * x)
        image = wave.expand(1, 3, 64, 64)
        energy = [float(fine_energy(image)), float(fine_energy(image.mT))]
        assert energy == pytest.approx([0.02 if fine else 0] * 2, abs=1e-4)


def test_the_ratio_is_of_amplitudes_and_ignores_brightness():
    image = rand(2, 3, 32, 32)
    assert fine_ratio(image, image).tolist() == pytest.approx([1, 1])
    assert fine_ratio(0.5 * image + 0.3, image).tolist() == pytest.approx([0.5, 0.5], rel=1e-4)
    assert fine_ratio(image[:, None], image[:, None]).tolist() == pytest.approx([1, 1])
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    assert float(fine_ratio(blurred, image).max()) < 0.5


@pytest.mark.parametrize("light", [0.003, 0.3, 0.7, 200.0])
def test_rounding_has_no_energy(light):
    x = torch.arange(64.0)
    flat = torch.full((1, 3, 64, 64), light)
    smooth = (light * (1 + 0.5 * torch.sin(2 * math.pi * 4 / 64 * x))).expand(1, 3, 64, 64)
    speck = flat.clone()
    speck[..., 32, 32] *= 1.004  # one level of 8 bits
    assert fine_energy(torch.cat((flat, smooth))).tolist() == [0, 0]
    assert fine_ratio(flat, flat).isnan().all()
    assert fine_ratio(speck, flat).tolist() == [math.inf]
    assert fine_ratio(flat, speck).tolist() == [0]


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match="video must"):
        warping_error(torch.zeros(1, 3, 3, 4, 4), torch.zeros(1, 3, 2, 4, 4))
    with pytest.raises(ValueError, match="visible"):
        warping_error(
            torch.zeros(1, 3, 3, 4, 4), torch.zeros(1, 2, 2, 4, 4), torch.ones(1, 3, 1, 4, 4)
        )
    with pytest.raises(ValueError, match="image must have pixels"):
        fine_energy(torch.zeros(1, 3, 0, 4))
    with pytest.raises(ValueError, match="one shape"):
        fine_ratio(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    image, video = torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 3, 4, 4)
    with pytest.raises(TypeError, match=r"image must be a torch\.Tensor, got ndarray"):
        fine_ratio(image.numpy(), image)
    with pytest.raises(TypeError, match=r"original must be .* got torch\.uint8"):
        fine_ratio(image, image.byte())
    with pytest.raises(TypeError, match=r"video must be a torch\.Tensor, got ndarray"):
        warping_error(video.numpy(), torch.zeros(1, 1, 2, 4, 4))
    with pytest.raises(TypeError, match=r"flow_21 must be .* got torch\.int64"):
        warping_error(video, torch.zeros(1, 1, 2, 4, 4).long())
