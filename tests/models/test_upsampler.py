"""The upsampler: values by hand, sampling with an oracle, and what a frame must not depend on."""

import math
from dataclasses import replace

import pytest
import torch

from flowwarp.models.upsampler import (
    TINY,
    Upsampler,
    UpsamplerConfig,
    enlarge,
    sample,
    velocity_error,
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
        self.known, self.times = residual, []

    def forward(self, noisy, time, enlarged, previous=None, visible=None, words=None):
        self.times.append(time.tolist())
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


@pytest.mark.parametrize("size", [(4, 4), (32, 48), (30, 41)])
def test_any_size(size):
    made = network()(*inputs(*size, batch=2))
    assert made.shape == (2, 3, *size)
    assert made.isfinite().all()


def test_the_untrained_network_draws_the_bicubic_frame():
    noisy, _, enlarged, previous, visible = inputs()
    assert torch.equal(sample(Upsampler(TINY), noisy, enlarged, previous, visible), enlarged)


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
    net, image, enlarged = (
        Upsampler(replace(TINY, residual=0.1)),
        rand(1, 3, 8, 8),
        rand(1, 3, 8, 8),
    )
    torch.testing.assert_close(net.image(net.residual(image, enlarged), enlarged), image)
    half = torch.full((1, 3, 8, 8), 0.5)
    torch.testing.assert_close(net.residual(half + 0.2, half), torch.full_like(half, 2.0))
    assert float(net.image(half + 9, half).amax()) == 1.0


@pytest.mark.parametrize("size", [(8, 8), (12, 9), (16, 16)])
def test_enlarging_keeps_constants_and_slopes(size):
    assert torch.allclose(enlarge(torch.full((1, 3, 8, 8), 0.25), size), torch.tensor(0.25))
    slope = torch.arange(8.0).expand(1, 3, 8, 8)
    position = (torch.arange(size[1]) + 0.5) * 8 / size[1] - 0.5  # of pixel centres
    inside = slice(size[1] // 3, size[1] - size[1] // 3)
    made = enlarge(slope, size)[0, 0, 0]
    # Cubic convolution with a = -0.75 keeps slopes but roughly.
    torch.testing.assert_close(made[inside], position[inside], atol=0.05, rtol=0)


def test_the_error_of_the_velocity_by_hand():
    """A residual that is off by 0.5 is reached in half the time with a velocity off by 1."""
    residual = torch.zeros(3, 3, 2, 2)
    error = velocity_error(residual + 0.5, residual, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(error, torch.tensor([0.25, 1.0, 25.0]))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_sampling_reaches_the_residual_in_equal_steps(steps):
    enlarged, image = rand(2, 3, 8, 8), rand(2, 3, 8, 8, seed=1)
    oracle = Oracle((image - enlarged) / TINY.residual)
    made = sample(oracle, randn(2, 3, 8, 8), enlarged, steps=steps)
    torch.testing.assert_close(made, image, atol=1e-5, rtol=0)
    assert [round(time[0], 4) for time in oracle.times] == [
        round(step / steps, 4) for step in range(steps)
    ]


def test_sampling_passes_on_the_line_from_noise_to_the_residual():
    seen = []

    class Recorder(Oracle):
        def forward(self, noisy, *others):
            seen.append(noisy)
            return self.known

    noise, residual = randn(1, 3, 8, 8), randn(1, 3, 8, 8, seed=1)
    sample(Recorder(residual), noise, rand(1, 3, 8, 8), steps=4)
    for step, x in enumerate(seen):
        torch.testing.assert_close(x, torch.lerp(noise, residual, step / 4))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"widths": (32,)}, "one entry"),
        ({"blocks": (0, 1)}, "blocks"),
        ({"patch": 0}, "patch"),
        ({"vocabulary": -1}, "vocabulary"),
        ({"residual": 0.0}, "residual"),
    ],
)
def test_settings_are_checked(change, match):
    with pytest.raises(ValueError, match=match):
        replace(TINY, **change)


@pytest.mark.parametrize(
    ("index", "value", "match"),
    [
        (0, randn(1, 1, 32, 48), "noisy"),
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


def test_a_network_without_words_takes_none():
    with pytest.raises(ValueError, match="vocabulary"):
        Upsampler(TINY)(*inputs(), torch.tensor([[1]]))
    with pytest.raises(ValueError, match="steps"):
        sample(Upsampler(TINY), randn(1, 3, 8, 8), rand(1, 3, 8, 8), steps=0)


def test_stride():
    assert (TINY.stride, UpsamplerConfig().stride) == (8, 16)
