"""Interpolation against scenes whose frames at any time are known by a formula."""

import math

import pytest
import torch

from flowwarp.pipelines.flow.interpolate import (
    HOLE_COST,
    OCCLUSION_COST,
    _blend,
    _move,
    _visibility_and_log_weight,
    _weights,
    interpolate,
    interpolate_video,
)

HEIGHT, WIDTH = 40, 48
SHIFT = (5.0, -3.0)  # px a frame
INSIDE = (..., slice(8, -8), slice(8, -8))  # where no border is met


def wave(u=0.0, v=0.0):
    """Return a smooth texture moved by (u, v), (1, 3, H, W)."""
    y = torch.arange(HEIGHT, dtype=torch.float64)[:, None] - v
    x = torch.arange(WIDTH, dtype=torch.float64) - u
    planes = [
        0.5 + 0.2 * torch.sin(0.5 * x + 0.2 * y + k) + 0.2 * torch.sin(0.3 * y - 0.4 * x + 2 * k)
        for k in range(3)
    ]
    return torch.stack(planes)[None].float()


def constant(u, v):
    return (
        torch.tensor([u, v], dtype=torch.float32)
        .view(1, 2, 1, 1)
        .expand(1, 2, HEIGHT, WIDTH)
        .clone()
    )


def translation():
    flow = constant(*SHIFT)
    return wave(), wave(*SHIFT), flow, -flow


def square(left, background):
    image = background.clone()
    image[..., 14:26, left : left + 12] = torch.tensor([0.9, 0.1, 0.5]).view(3, 1, 1)
    return image


def moving_square():
    """Return a square that moves by 8 px over a brightening ground, and flow in both directions."""
    ground1, ground2 = 0.8 * wave(), 0.8 * wave() + 0.06
    flow_12, flow_21 = constant(0, 0), constant(0, 0)
    flow_12[:, 0, 14:26, 14:26] = 8
    flow_21[:, 0, 14:26, 22:34] = -8
    return square(14, ground1), square(22, ground2), flow_12, flow_21


@pytest.mark.parametrize("times", [[0.5], [1 / 3, 2 / 3], [k / 8 for k in range(1, 8)]])
def test_a_moving_texture_is_at_the_right_place(times):
    made = list(interpolate(*translation(), iter(times)))
    assert len(made) == len(times)
    for time, frame in zip(times, made, strict=True):
        expected = wave(time * SHIFT[0], time * SHIFT[1])
        torch.testing.assert_close(frame[INSIDE], expected[INSIDE], atol=0.01, rtol=0)


def test_pixels_that_leave_come_from_the_frame_that_shows_them():
    (half,) = interpolate(*translation(), [0.5])
    expected = wave(SHIFT[0] / 2, SHIFT[1] / 2)
    # The two columns that frame 2 lost on the right; on the left frame 1 has nothing yet.
    torch.testing.assert_close(half[..., 8:-8, -2:], expected[..., 8:-8, -2:], atol=0.02, rtol=0)
    torch.testing.assert_close(half[..., 8:-8, 3:8], expected[..., 8:-8, 3:8], atol=0.02, rtol=0)


def test_each_rim_comes_from_the_frame_that_shows_it():
    """A camera pans by 8 px: half way, each rim is in one of the frames only."""
    flow = constant(-8, 0)
    (half,) = interpolate(wave(), wave(-8), flow, -flow, [0.5])
    error = (half - wave(-4)).abs().mean((0, 1, 2))
    assert error[:4].mean() < 0.01
    assert error[-4:].mean() < 0.01


def test_wrong_flow_is_replaced_by_flow_around():
    image1, image2, flow_12, flow_21 = translation()
    wrong = torch.tensor([0.0, 6.0]).view(2, 1, 1)
    flow_12[..., 16:22, 16:22] = wrong
    flow_21[..., 13:19, 21:27] = -wrong  # where that should lead
    (half,) = interpolate(image1, image2, flow_12, flow_21, [0.5])
    error = (half - wave(SHIFT[0] / 2, SHIFT[1] / 2)).abs()
    assert error[..., 14:20, 18:24].mean() < 0.035


def test_the_ends_are_the_frames():
    image1, image2, *flows = moving_square()
    start, end, early, late = interpolate(image1, image2, *flows, [0, 1, 1e-4, 1 - 1e-4])
    assert torch.equal(start, image1)
    assert torch.equal(end, image2)
    torch.testing.assert_close(early, image1, atol=0.002, rtol=0)
    torch.testing.assert_close(late, image2, atol=0.002, rtol=0)


def test_equal_frames_without_motion_stay_bit_for_bit():
    image = torch.rand(2, 3, 17, 23, generator=torch.Generator().manual_seed(0))
    still = torch.zeros(2, 2, 17, 23)
    for frame in interpolate(image, image, still, still, [0.1, 1 / 3, 0.5, 0.9]):
        assert torch.equal(frame, image)


def test_without_motion_a_fade_is_a_mixture():
    image = wave()
    still = constant(0, 0)
    (frame,) = interpolate(image, 0.5 * image, still, still, [0.25])
    torch.testing.assert_close(frame, 0.875 * image)


def test_motion_through_a_fade_is_followed():
    image1, image2, *flows = translation()
    (half,) = interpolate(image1, 0.4 * image2 + 0.3, *flows, [0.5])
    expected = 0.7 * wave(SHIFT[0] / 2, SHIFT[1] / 2) + 0.15
    torch.testing.assert_close(half[INSIDE], expected[INSIDE], atol=0.01, rtol=0)


def test_a_pixel_hidden_in_one_frame_comes_from_the_other():
    image1, image2, *flows = moving_square()
    (half,) = interpolate(image1, image2, *flows, [0.5])
    ground1, ground2 = 0.8 * wave(), 0.8 * wave() + 0.06
    rows = slice(17, 23)
    # Behind the square, the ground that frame 1 hides; before it, the ground that frame 2 hides.
    behind, before = slice(15, 17), slice(31, 33)
    for columns, right, wrong in ((behind, ground2, image1), (before, ground1, image2)):
        got = half[..., rows, columns]
        assert (got - right[..., rows, columns]).abs().mean() < 0.025
        assert (got - wrong[..., rows, columns]).abs().mean() > 0.1
    # The ground that both show is in between, and the square is half way.
    torch.testing.assert_close(
        half[..., :8, :], (ground1 + ground2)[..., :8, :] / 2, atol=0.01, rtol=0
    )
    there = square(18, ground1)[..., rows, 20:28]
    torch.testing.assert_close(half[..., rows, 20:28], there, atol=0.02, rtol=0)


def test_an_object_that_appears_is_not_mixed_in():
    """It enters from outside: half way, only the ground is there, which frame 1 shows."""
    ground, still = 0.3 * wave(), constant(0, 0)
    image2, flow_21 = ground.clone(), still.clone()
    image2[..., 14:26, 14:26], flow_21[:, 0, 14:26, 14:26] = 1, 40
    (half,) = interpolate(ground, image2, still, flow_21, [0.5])
    inner = (..., slice(17, 23), slice(17, 23))
    torch.testing.assert_close(half[inner], ground[inner], atol=0.01, rtol=0)


def test_noise_is_averaged_where_motion_is_slow():
    generator = torch.Generator().manual_seed(0)
    noise1, noise2 = 0.02 * torch.rand(2, 1, 3, HEIGHT, WIDTH, generator=generator)
    image1, image2 = wave() + noise1, wave(0.3) + noise2
    flow = constant(0.3, 0)
    (half,) = interpolate(image1, image2, flow, -flow, [0.5])
    plain = (image1 + image2) / 2
    torch.testing.assert_close(half[INSIDE], plain[INSIDE], atol=1e-5, rtol=0)


def test_where_flows_meet_the_larger_weight_wins():
    """The left one of two pixels moves onto the right one, which stands still."""
    flow = torch.tensor([1.0, 0, 0, 0]).view(1, 2, 1, 2)
    weight = torch.tensor([0.0, -20]).view(1, 1, 1, 2)
    sent, _, _ = _move(flow, 1.0, weight, torch.ones_like(weight))
    torch.testing.assert_close(sent[0, :, 0, 1], torch.tensor([1.0, 0.0]))


def test_both_directions_are_treated_alike():
    image1, image2, flow_12, flow_21 = moving_square()
    (frame,) = interpolate(image1, image2, flow_12, flow_21, [0.25])
    (mirrored,) = interpolate(image2, image1, flow_21, flow_12, [0.75])
    torch.testing.assert_close(frame, mirrored, atol=1e-5, rtol=0)


def test_an_example_does_not_depend_on_its_batch():
    scenes = (translation(), moving_square())
    together = interpolate(*map(torch.cat, zip(*scenes, strict=True)), [0.3, 0.5])
    alone = [list(interpolate(*scene, [0.3, 0.5])) for scene in scenes]
    for k, frames in enumerate(together):
        for example, expected in zip(frames, alone, strict=True):
            assert torch.equal(example[None], expected[k])


def test_unknown_flow_counts_as_zero():
    image1, image2, flow_12, flow_21 = translation()
    flow_12[..., 10:20, 10:20] = math.nan
    flow_21[..., 30:, :] = math.inf
    (frame,) = interpolate(image1, image2, flow_12, flow_21, [0.5])
    assert frame.isfinite().all()
    for nothing in (constant(math.nan, math.nan), constant(math.nan, 8.0)):
        (frame,) = interpolate(image1, image2, nothing, nothing, [0.5])
        torch.testing.assert_close(frame, (image1 + image2) / 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_tiny_frames_of_any_precision(size, dtype):
    image = torch.full((1, 3, *size), 0.25, dtype=dtype)
    flow = torch.full((1, 2, *size), 7.0)
    (frame,) = interpolate(image, image, flow, -flow, [0.5])
    assert frame.dtype == dtype
    torch.testing.assert_close(frame, image)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"times": [1.5]}, ValueError, r"times must be in \[0, 1\], got 1.5"),
        ({"times": [math.nan]}, ValueError, "times must be in"),
        ({"image1": torch.zeros(3, 4, 4)}, ValueError, r"image1 must be \(B, C, H, W\)"),
        ({"image1": torch.zeros(1, 3, 0, 4)}, ValueError, "image1 must have pixels"),
        ({"image2": torch.zeros(1, 3, 4, 5)}, ValueError, r"image2 must be \(1, 3, 4, 4\)"),
        ({"flow_12": torch.zeros(1, 3, 4, 4)}, ValueError, r"flow_12 must be \(B, 2, H, W\)"),
        ({"flow_21": torch.zeros(1, 2, 4, 5)}, ValueError, "flow_21 must have batch, height"),
        ({"flow_21": torch.zeros(1, 2, 4, 4).int()}, TypeError, "flow_21 must be fp64"),
    ],
)
def test_errors_are_raised_at_once(change, error, words):
    image, flow = torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4)
    arguments = {"image1": image, "image2": image, "flow_12": flow, "flow_21": flow, "times": [0.5]}
    with pytest.raises(error, match=words):
        interpolate(**(arguments | change))


# ------------------------------------------------------------------ by hand


def test_changing_or_inconsistent_pixels_have_less_weight():
    """The second of three pixels is lighter in frame 2; the third returns 2 px beside its start."""
    flow, change = torch.zeros(1, 2, 1, 3), torch.tensor([0, 0.1, 0]).view(1, 1, 1, 3)
    back = torch.tensor([[0.0, 0, 2], [0, 0, 0]]).view(1, 2, 1, 3)
    visible, log_weight = _visibility_and_log_weight(change, flow, back)
    assert log_weight.flatten().tolist() == pytest.approx([0, -2, -2])
    assert visible.flatten().tolist() == pytest.approx([1, 1, math.exp(-4)])


@pytest.mark.parametrize(
    ("shown", "known", "cost"),
    [
        (1, True, 0.5),
        (1, False, 0.5 + HOLE_COST),
        (0, True, OCCLUSION_COST),
        (0.5, True, 0.25 + OCCLUSION_COST / 2),
    ],
)
def test_cost_of_a_blend(shown, known, cost):
    """Frames that differ by 0.5."""
    image, one = torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    level = (torch.tensor(1.0), torch.tensor(1.0), torch.tensor(0.0))
    is_known = torch.full((1, 1, 4, 4), known)
    flow = torch.zeros(1, 2, 4, 4)
    _, found = _blend(image, image + 0.5, flow, 0.5, (one, shown * one), is_known, level)
    torch.testing.assert_close(found, cost * one)


def test_the_last_of_equal_costs_is_favoured():
    weights = _weights(torch.zeros(1, 3, 1, 1), torch.full((1, 1, 1, 1), math.log(2)))
    assert weights.flatten().tolist() == pytest.approx([0.25, 0.25, 0.5])


# ------------------------------------------------------------------ videos


def known_motion(one, two):
    return constant(*SHIFT), -constant(*SHIFT)


def test_a_video_has_its_frames_and_new_ones_between():
    clip = [wave(k * SHIFT[0], k * SHIFT[1])[0] for k in range(3)]
    made = list(interpolate_video(clip, 3, known_motion))
    assert len(made) == 3 * (len(clip) - 1) + 1
    for frame, own in zip(made[::3], clip, strict=True):
        assert torch.equal(frame, own)
    expected = wave(SHIFT[0] * 4 / 3, SHIFT[1] * 4 / 3)
    torch.testing.assert_close(made[4][None][INSIDE], expected[INSIDE], atol=0.01, rtol=0)
    assert all(frame.min() >= 0 and frame.max() <= 1 for frame in made)


def test_cuts_and_repeats_are_not_mixed():
    dark, light = 0.2 * wave()[0], 0.6 + 0.4 * wave()[0]
    reports = []

    def estimate(one, two):
        raise AssertionError("nothing moves here")

    made = list(interpolate_video([dark, dark, light], 4, estimate, report=reports.append))
    assert reports == ["repeat", "cut"]
    assert len(made) == 9
    assert all(torch.equal(frame, dark) for frame in made[:8])
    assert torch.equal(made[8], light)


def test_frames_are_requested_one_by_one():
    requested = 0

    def clip():
        nonlocal requested
        for k in range(5):
            requested += 1
            yield wave(k * SHIFT[0], k * SHIFT[1])[0]

    made = interpolate_video(clip(), 2, known_motion)
    for count, frame in enumerate(made):
        assert frame.shape == (3, HEIGHT, WIDTH)
        assert requested <= 2 + count // 2
    assert (requested, count) == (5, 8)


def test_transparent_colours_are_not_mixed_in():
    frames = [torch.cat([wave()[0], torch.ones(1, HEIGHT, WIDTH)]) for _ in range(2)]
    frames[1][:3, :, :10] = 0  # black that nobody sees
    frames[1][3, :, :10] = 0
    still = constant(0, 0)
    _, middle, _ = interpolate_video(frames, 2, lambda one, two: (still, still))
    opaque = middle[3] > 0.1
    torch.testing.assert_close(middle[:3, opaque], wave()[0][:, opaque])
    assert middle[3, :, :8].max() < 1


def test_a_factor_below_two():
    with pytest.raises(ValueError, match="factor must be at least 2, got 1"):
        next(interpolate_video([wave()[0]], 1, known_motion))
