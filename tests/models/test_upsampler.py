"""The upsampler: values by hand, sampling with an oracle, and what a frame must not depend on."""

import math
from dataclasses import replace

import pytest
import torch

from flowwarp.models.upsampler import (
    TINY,
    Upsampler,
    UpsamplerConfig,
    coarse,
    enlarge,
    flow_matching_error,
    noisy_detail,
    sample,
)
from flowwarp.nn import check_batch_invariance


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(config=TINY):
    """Return a network whose zero-initialised layers are not zero, so that all of it matters."""
    torch.manual_seed(0)
    net = Upsampler(config).eval()
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return net


class Oracle(Upsampler):
    """Knows the residual, and notes when it is asked."""

    def __init__(self, residual):
        super().__init__(TINY)
        self.known, self.times, self.points = residual, [], []

    def forward(self, noisy, time, enlarged, previous=None, visible=None, words=None):
        self.times.append(time.tolist())
        self.points.append(noisy)
        return self.known


def inputs(height=32, width=48, batch=1):
    """Return noisy, time, enlarged, previous and visible."""
    return (
        randn(batch, 3, height, width),
        rand(batch),
        rand(batch, 3, height, width, seed=1),
        rand(batch, 3, height, width, seed=2),
        rand(batch, 1, height, width, seed=3) > 0.5,
    )


def test_the_default_network_is_small():
    assert sum(p.numel() for p in Upsampler().parameters()) < 2e6


@pytest.mark.parametrize("size", [(4, 4), (32, 48), (30, 42)])
def test_any_size(size):
    made = network()(*inputs(*size, batch=2))
    assert made.shape == (2, 3, *size)
    assert made.isfinite().all()


def test_the_untrained_network_draws_the_bicubic_frame():
    noisy, _, enlarged, previous, visible = inputs()
    for steps in (1, 3):
        torch.testing.assert_close(sample(Upsampler(TINY), noisy, enlarged, steps=steps), enlarged)
    held = sample(Upsampler(TINY), noisy, enlarged, previous, visible, hold=0.0)
    torch.testing.assert_close(held, enlarged)


def test_a_place_depends_on_each_input():
    net, given = network(), inputs()
    made = net(*given)
    for index in range(4):
        changed = [x + 0.1 if i == index else x for i, x in enumerate(given)]
        assert not torch.allclose(net(*changed), made)
    assert not torch.allclose(net(*given[:4], ~given[4]), made)


def test_no_previous_frame_is_one_that_is_nowhere_visible():
    net, (noisy, time, enlarged, previous, visible) = network(), inputs()
    nowhere = net(noisy, time, enlarged, previous, torch.zeros_like(visible))
    assert torch.equal(net(noisy, time, enlarged), nowhere)


def test_the_previous_frame_does_not_matter_where_it_is_not_visible():
    net, (noisy, time, enlarged, previous, visible) = network(), inputs()
    hidden = torch.where(visible, previous, math.nan)
    made = net(noisy, time, enlarged, previous, visible)
    assert torch.equal(net(noisy, time, enlarged, hidden, visible), made)


def test_words_are_a_set_and_zero_is_padding():
    net = network(replace(TINY, vocabulary=7))
    given = inputs()

    def made(*words):
        return net(*given, torch.tensor([words]))

    torch.testing.assert_close(made(2, 5, 0, 0), made(5, 0, 2, 0))
    torch.testing.assert_close(made(2, 5, 0, 0), made(2, 2, 5, 5))
    torch.testing.assert_close(made(0, 0), net(*given))
    assert not torch.allclose(made(2, 5), made(2, 6))


def test_each_frame_depends_on_itself_alone():
    words = torch.tensor([[2, 5, 0]])
    example = dict(
        zip(("noisy", "time", "enlarged", "previous", "visible"), inputs(), strict=True),
        words=words,
    )
    check_batch_invariance(network(replace(TINY, vocabulary=7)), example, tolerance=1e-5)


def test_residual_and_image_are_each_other_s_reverse():
    net = Upsampler(replace(TINY, residual=0.1, detail=0.02))
    image, enlarged = rand(1, 3, 8, 8), rand(1, 3, 8, 8, seed=1)
    torch.testing.assert_close(net.image(net.residual(image, enlarged), enlarged), image)
    half = torch.full((1, 3, 8, 8), 0.5)
    torch.testing.assert_close(net.residual(half + 0.2, half), torch.full_like(half, 2.0))
    torch.testing.assert_close(net.residual(half + 0.1 * checks(), half), 5 * checks())
    assert float(net.image(half + 9, half).amax()) == 1.0


def checks():
    """Return single pixels of 1 and -1, (1, 3, 8, 8): detail alone."""
    row, column = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    return (1.0 - 2 * ((row + column) % 2)).expand(1, 3, 8, 8)


def test_coarse_by_hand():
    image = torch.tensor([[0.0, 4.0, 1.0, 1.0], [8.0, 0.0, 1.0, 3.0]])[None, None]
    mean = torch.tensor([[3.0, 3.0, 1.5, 1.5], [3.0, 3.0, 1.5, 1.5]])[None, None]
    assert torch.equal(coarse(image), mean)


@pytest.mark.parametrize("size", [(8, 8), (12, 9), (16, 16)])
def test_enlarging_keeps_constants_and_slopes(size):
    assert torch.allclose(enlarge(torch.full((1, 3, 8, 8), 0.25), size), torch.tensor(0.25))
    slope = torch.arange(8.0).expand(1, 3, 8, 8)
    position = (torch.arange(size[1]) + 0.5) * 8 / size[1] - 0.5  # of pixel centres
    inside = slice(size[1] // 3, size[1] - size[1] // 3)
    made = enlarge(slope, size)[0, 0, 0]
    # Cubic convolution with a = -0.75 keeps slopes but roughly.
    torch.testing.assert_close(made[inside], position[inside], atol=0.05, rtol=0)


def test_the_errors_by_hand():
    """Detail that is off by 0.5 is reached in half the time with a velocity off by 1; what is
    coarse has no velocity.
    """
    residual, time = torch.zeros(3, 3, 8, 8), torch.tensor([0.0, 0.5, 1.0])
    error = flow_matching_error(residual + 0.5 * checks(), residual, time)
    torch.testing.assert_close(error, torch.tensor([0.25, 1.0, 4.0]))
    error = flow_matching_error(residual + 0.5 * checks() + 2, residual, time)
    torch.testing.assert_close(error, torch.tensor([4.25, 5.0, 8.0]))


def test_points_between_noise_and_detail():
    point = noisy_detail(4 * checks() + 7, 3 - 2 * checks(), torch.tensor([0.25]))
    torch.testing.assert_close(point, (0.75 * 4 - 0.25 * 2) * checks())


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_sampling_reaches_the_residual_in_equal_steps(steps):
    enlarged, image = rand(2, 3, 8, 8), rand(2, 3, 8, 8, seed=1)
    oracle = Oracle(Upsampler(TINY).residual(image, enlarged))
    made = sample(oracle, randn(2, 3, 8, 8), enlarged, steps=steps)
    torch.testing.assert_close(made, image, atol=1e-5, rtol=0)
    assert [round(time[0], 4) for time in oracle.times] == [
        round(step / steps, 4) for step in range(steps)
    ]


def test_sampling_passes_on_the_line_from_noise_to_the_detail():
    noise, residual = randn(1, 3, 8, 8), randn(1, 3, 8, 8, seed=1)
    oracle = Oracle(residual)
    sample(oracle, noise, rand(1, 3, 8, 8), steps=4)
    for step, x in enumerate(oracle.points):
        torch.testing.assert_close(x, noisy_detail(noise, residual, torch.tensor([step / 4])))


def test_all_steps_but_the_last_are_held_to_the_previous_frame():
    """Of four steps three lead half-way to it: 3/8 of its coarse part, and none of its detail."""
    noise, enlarged = randn(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    visible = torch.zeros(1, 1, 8, 8)
    visible[..., :4] = 1
    previous = (enlarged + 0.1 + 0.01 * checks()).where(visible > 0, torch.tensor(math.nan))
    made = sample(Oracle(torch.zeros(1, 3, 8, 8)), noise, enlarged, previous, visible, steps=4)
    torch.testing.assert_close(made[..., :4], enlarged[..., :4] + 0.1 * 3 / 8)
    torch.testing.assert_close(made[..., 4:], enlarged[..., 4:])
    free = sample(
        Oracle(torch.zeros(1, 3, 8, 8)), noise, enlarged, previous, visible, steps=4, hold=0.0
    )
    torch.testing.assert_close(free[..., :4], enlarged[..., :4])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"widths": (32,)}, "one entry"),
        ({"blocks": (0, 1)}, "blocks"),
        ({"patch": 0}, "patch"),
        ({"vocabulary": -1}, "vocabulary"),
        ({"residual": 0.0}, "residual"),
        ({"detail": 2.0}, "detail"),
    ],
)
def test_settings_are_checked(change, match):
    with pytest.raises(ValueError, match=match):
        replace(TINY, **change)


@pytest.mark.parametrize(
    ("index", "value", "match"),
    [
        (0, randn(1, 1, 32, 48), "noisy"),
        (0, randn(1, 3, 31, 48), "enlarged"),
        (1, rand(2), "time"),
        (2, rand(1, 3, 16, 24), "enlarged"),
        (3, None, "together"),
        (3, rand(1, 3, 16, 24), "previous"),
        (4, rand(1, 3, 32, 48) > 0, "visible"),
    ],
)
def test_inputs_are_checked(index, value, match):
    given = list(inputs())
    given[index] = value
    with pytest.raises(ValueError, match=match):
        Upsampler(TINY)(*given)


def test_sides_are_even():
    odd = [x[..., :-1] if x.ndim == 4 else x for x in inputs()]
    with pytest.raises(ValueError, match="even"):
        Upsampler(TINY)(*odd)


def test_a_network_without_words_takes_none():
    with pytest.raises(ValueError, match="vocabulary"):
        Upsampler(TINY)(*inputs(), torch.tensor([[1]]))
    with pytest.raises(ValueError, match="steps"):
        sample(Upsampler(TINY), randn(1, 3, 8, 8), rand(1, 3, 8, 8), steps=0)


def test_stride():
    assert (TINY.stride, UpsamplerConfig().stride) == (8, 16)
