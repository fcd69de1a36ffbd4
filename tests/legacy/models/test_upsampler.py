"""The upsampler: targets by hand, sampling with an oracle, and what a frame must not depend on."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from flowwarp.legacy.models import upsampler
from flowwarp.legacy.models.upsampler import (
    SMALL,
    TINY,
    Upsampler,
    UpsamplerConfig,
    between,
    coarse,
    detail,
    enlarge,
    sample,
    upsample_clip,
    upsample_frames,
    warp_previous,
)
from flowwarp.ops.warping import warp


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(config=TINY, seed=0):
    """Return a network whose head is not zero, so that all of it matters."""
    torch.manual_seed(seed)
    net = Upsampler(config).eval()
    torch.nn.init.normal_(net.head.weight, std=0.05)
    for name, parameter in net.named_parameters():
        if ".time." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return net


class Oracle(Upsampler):
    """Knows the image, and the way from any point to it."""

    def __init__(self, target):
        super().__init__(TINY)
        self.target, self.calls = target, []

    def forward(self, noisy, time, decode, previous=None, visible=None):
        self.calls.append(float(time[0]))
        wanted = self.residual(self.target, decode)
        left = (1 - time.view(-1, 1, 1, 1)).clamp_min(1e-6)
        return coarse(wanted) + detail(wanted - noisy) / left


def clip(frames=4, size=32):
    """Return decodes, flow of 1.5 px and visibility of a clip."""
    flow = torch.tensor([1.5, -0.5]).view(1, 2, 1, 1).expand(frames - 1, 2, size, size)
    visible = rand(frames - 1, 1, size, size, seed=5) > 0.2
    return rand(frames, 3, size // 2, size // 2), flow, visible


# ------------------------------------------------------------------ flow matching


def test_coarse_and_detail_by_hand():
    image = torch.tensor([[0.0, 4.0, 1.0, 1.0], [8.0, 0.0, 1.0, 1.0]])[None, None]
    mean = torch.tensor([[3.0, 3.0, 1.0, 1.0], [3.0, 3.0, 1.0, 1.0]])[None, None]
    assert torch.equal(coarse(image), mean)
    assert torch.equal(detail(image), image - mean)


def test_points_and_targets_by_hand():
    """Of the noise only the checks count; the residual's mean, 5, is to be predicted as it is."""
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).expand(2, 3, 2, 2)
    point, wanted = between(4 * checks + 7, 5 - 2 * checks, torch.tensor([0.0, 0.25]))
    assert point[:, 0, 0, 0].tolist() == [4.0, 0.75 * 4 - 0.25 * 2]
    assert torch.equal(point, -point.flip(-1))
    assert torch.equal(wanted, 5 - 6 * checks)


def test_the_untrained_network_is_the_best_linear_guess():
    """Of detail E[r - e | x_t] of unit Gaussians: -x at 0, 0 half-way, x at 1, by regression; of
    what is coarse nothing.
    """
    torch.manual_seed(0)
    net = Upsampler(TINY)
    noise, residual = randn(1, 3, 64, 64), randn(1, 3, 64, 64, seed=1)
    decode = rand(1, 3, 32, 32)
    for t in (0.0, 0.3, 0.5, 0.8, 1.0):
        point, velocity = between(noise, residual, torch.tensor([t]))
        guess = net(point, torch.tensor([t]), decode)
        slope = (t - (1 - t)) / (t**2 + (1 - t) ** 2)
        torch.testing.assert_close(guess, slope * point)
        fitted = float((detail(velocity) * point).mean() / point.square().mean())
        assert slope == pytest.approx(fitted, abs=0.05)


def test_what_the_network_has_to_make_has_unit_variance():
    noise, residual = randn(1, 3, 64, 64), randn(1, 3, 64, 64, seed=1)
    for t in (0.0, 0.3, 0.5, 0.8, 1.0):
        point, wanted = between(noise, residual, torch.tensor([t]))
        variance = t**2 + (1 - t) ** 2
        made = (detail(wanted) - (2 * t - 1) / variance * point) * math.sqrt(variance)
        assert float((coarse(wanted) + made).var()) == pytest.approx(1, abs=0.05)


def test_what_is_coarse_of_the_noise_does_not_matter():
    net, decode, time = network(), rand(1, 3, 16, 16), torch.tensor([0.4])
    noisy, patches = randn(1, 3, 32, 32), coarse(randn(1, 3, 32, 32, seed=1))
    made = net(noisy, time, decode)
    torch.testing.assert_close(net(noisy + patches, time, decode), made, atol=1e-5, rtol=1e-5)
    assert (net(2 * noisy, time, decode) - made).abs().max() > 0.1


def test_sharpness_multiplies_what_is_finest():
    """A pattern of single pixels doubles; what a frame of half the size can hold stays."""
    row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    checks = (-1) ** (row + column) * torch.ones(1, 3, 1, 1)
    slope = 0.3 + 0.01 * column * torch.ones(1, 3, 1, 1)
    decode = torch.full((1, 3, 8, 8), 0.4)
    plain, sharp = (network(replace(TINY, sharpness=sharpness)) for sharpness in (1.0, 2.0))
    residual = plain.residual(slope + 0.1 * checks, decode)
    found = sharp.image(residual, decode, sharpen=True) - plain.image(residual, decode)
    inside = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(found[inside], 0.1 * checks[inside])


@pytest.mark.parametrize("steps", [1, 2])
def test_only_a_mean_is_sharpened(steps):
    plain, sharp = (network(replace(TINY, sharpness=sharpness)) for sharpness in (1.0, 1.5))
    noise, decode = randn(1, 3, 16, 16), rand(1, 3, 8, 8)
    made = [sample(net, noise, decode, steps=steps) for net in (plain, sharp)]
    assert torch.equal(*made) is not (steps == 1)


def test_residual_and_image_are_each_other_s_reverse():
    net, image, decode = Upsampler(TINY), rand(1, 3, 16, 16), rand(1, 3, 8, 8)
    torch.testing.assert_close(net.image(net.residual(image, decode), decode), image)
    constant = torch.full((1, 3, 8, 8), 0.25)
    torch.testing.assert_close(enlarge(constant), torch.full((1, 3, 16, 16), 0.25))
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(1, 3, 8, 8)
    residual = net.residual(0.33 + 0.01 * checks, constant)
    expected = (0.33 - 0.25) / TINY.residual + 0.01 / TINY.detail * checks
    torch.testing.assert_close(residual, expected)


# ------------------------------------------------------------------ the network


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("blocks", [1, 12])
def test_depth_keeps_the_variance(norm, blocks):
    torch.manual_seed(0)
    net = Upsampler(UpsamplerConfig(widths=(32, 32), blocks=(blocks, blocks), norm=norm))
    stem, head = [], []
    net.stem.register_forward_hook(lambda _m, _i, out: stem.append(out.std().item()))
    net.last.register_forward_hook(lambda _m, inputs, _o: head.append(inputs[0].std().item()))
    decode = rand(2, 3, 16, 16)
    previous = net.image(randn(2, 3, 32, 32, seed=1), decode)
    net(randn(2, 3, 32, 32), rand(2), decode, previous, torch.ones(2, 1, 32, 32))
    assert 0.7 < stem[0] < 1.5
    assert 0.7 < head[0] / stem[0] < 1.7


def test_presets_have_the_sizes_they_should():
    counts = [
        sum(p.numel() for p in Upsampler(config).parameters()) / 1e6
        for config in (TINY, SMALL, UpsamplerConfig())
    ]
    assert counts[0] < 0.3
    assert 1 < counts[1] < 2
    assert 2 < counts[2] < 5


@pytest.mark.parametrize("size", [(16, 16), (34, 50), (2, 6)])
def test_any_even_size(size):
    height, width = size
    net = network()
    out = net(randn(1, 3, *size), rand(1), rand(1, 3, height // 2, width // 2))
    assert out.shape == (1, 3, *size)
    assert out.isfinite().all()


def test_a_size_that_does_not_fit_is_filled_up_by_the_border():
    net, time, decode = network(), rand(1), rand(1, 3, 6, 10)
    out = net(torch.zeros(1, 3, 12, 20), time, decode)
    filled = torch.nn.ReplicationPad2d((0, 2, 0, 2))(decode)
    assert torch.equal(out, net(torch.zeros(1, 3, 16, 24), time, filled)[..., :12, :20])


def test_what_is_not_visible_does_not_matter_in_the_least():
    net = network()
    noisy, time, decode = randn(1, 3, 32, 32), rand(1), rand(1, 3, 16, 16)
    previous = rand(1, 3, 32, 32, seed=1)
    visible = rand(1, 1, 32, 32, seed=2) > 0.5
    seen = net(noisy, time, decode, previous, visible)
    spoilt = torch.where(visible, previous, math.nan)
    assert torch.equal(net(noisy, time, decode, spoilt, visible), seen)
    assert not torch.equal(net(noisy, time, decode, 1 - previous, visible), seen)
    nothing = torch.zeros_like(visible)
    without = net(noisy, time, decode)
    assert torch.equal(net(noisy, time, decode, spoilt, nothing), without)


def test_time_matters():
    net = network()
    noisy, decode = randn(1, 3, 32, 32), rand(1, 3, 16, 16)
    a, b = (net(noisy, torch.tensor([t]), decode) for t in (0.5, 0.5001))
    assert 0 < (a - b).abs().max().item() < 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decode": torch.zeros(1, 3, 8, 7)}, "decode must be half"),
        ({"noisy": torch.zeros(1, 3, 15, 16)}, "decode must be half"),
        ({"time": torch.zeros(2)}, "time must be"),
        ({"noisy": torch.zeros(1, 4, 16, 16)}, "noisy must have 3"),
        ({"noisy": torch.zeros(1, 3, 0, 16)}, "noisy must have pixels"),
        ({"visible": torch.zeros(1, 1, 8, 8), "previous": torch.zeros(1, 3, 16, 16)}, "visible"),
        ({"previous": torch.zeros(1, 3, 16, 16)}, "together"),
        ({"visible": torch.zeros(1, 1, 16, 16)}, "together"),
    ],
)
def test_shapes_are_checked(changes, words):
    arguments = {
        "noisy": torch.zeros(1, 3, 16, 16),
        "time": torch.zeros(1),
        "decode": torch.zeros(1, 3, 8, 8),
    }
    with pytest.raises(ValueError, match=words):
        Upsampler(TINY)(**(arguments | changes))


@pytest.mark.parametrize("name", ["residual", "detail", "sharpness"])
@pytest.mark.parametrize("value", [1e-300, 1e-5, 1e3, 10**30, math.inf, math.nan, True, "x"])
def test_units_that_would_overflow(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number in"):
        UpsamplerConfig(**{name: value})


def test_configurations_are_checked():
    for wrong in (
        {"widths": (12,), "blocks": (1,)}, {"widths": (8,)}, {"patch": 3}, {"residual": 0.0},
        {"detail": 0.0}, {"sharpness": 0.0}, {"blocks": (1, 1, 0)}, {"embedding": 0},
        {"embedding": 32.0}, {"patch": True}, {"patch": 10**30}, {"widths": 32},
        {"norm": "batch"}, {"norm": None}, {"norm": 3},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must"):
            UpsamplerConfig(**wrong)


# ------------------------------------------------------------------ sampling


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_an_oracle_is_followed_to_the_image(steps):
    target, decode = rand(1, 3, 16, 16), rand(1, 3, 8, 8)
    oracle = Oracle(target)
    found = sample(oracle, randn(1, 3, 16, 16), decode, steps=steps)
    torch.testing.assert_close(found, target, atol=1e-5, rtol=0)
    assert oracle.calls == pytest.approx([step / steps for step in range(steps)])


def test_each_step_goes_on_with_the_velocity_of_its_beginning():
    class Bend(Upsampler):
        def forward(self, noisy, time, decode, previous=None, visible=None):
            return checks * (2 * time.view(-1, 1, 1, 1))  # x = x_0 + t^2

    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(1, 3, 4, 4)
    net, decode = Bend(TINY), torch.full((1, 3, 4, 4), 0.5)
    noise = torch.zeros(1, 3, 8, 8)
    found = sample(net, noise, decode, steps=2)  # 0 and 1/2, of 2 t
    torch.testing.assert_close(found, net.image(0.5 * checks, decode))


def test_a_clip_is_reproducible_and_streams():
    net, (decode, flow, visible) = network(), clip()
    first = upsample_clip(net, decode, flow, visible, seeded(), steps=2)
    assert first.shape == (4, 3, 32, 32)
    assert torch.equal(first, upsample_clip(net, decode, flow, visible, seeded(), steps=2))
    assert not torch.equal(first, upsample_clip(net, decode, flow, visible, seeded(1), steps=2))
    beginning = upsample_clip(net, decode[:2], flow[:1], visible[:1], seeded(), steps=2)
    assert torch.equal(beginning, first[:2])


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_without_time_each_frame_stands_for_itself(steps):
    """Bit for bit whatever the flow, the mask and the frames before are."""
    net, (decode, flow, visible) = network(), clip()
    plain = upsample_clip(net, decode, flow, visible, seeded(), steps=steps, temporal=False)
    other = torch.cat([rand(3, 3, 16, 16, seed=9), decode[3:]])
    changed = upsample_clip(net, other, 0 * flow, ~visible, seeded(), steps=steps, temporal=False)
    assert torch.equal(changed[3], plain[3])
    held = upsample_clip(net, decode, flow, visible, seeded(), steps=steps)
    assert torch.equal(held[0], plain[0])
    assert not torch.equal(held[1], plain[1])


def test_the_previous_output_arrives_warped_and_noise_is_carried(monkeypatch):
    """A motion by whole pixels: hint and noise of a frame are those of the last one, moved."""
    net, (decode, _, _) = network(), clip()
    flow = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(3, 2, 32, 32)
    seen = []

    def spy(model, noise, decode, previous, visible, **options):
        out = sample(model, noise, decode, previous, visible, **options)
        seen.append((noise, previous, visible, out))
        return out

    monkeypatch.setattr(upsampler, "sample", spy)
    monkeypatch.setattr(upsampler, "REFRESH", 0.0)
    upsample_clip(net, decode, flow, None, seeded(), steps=1)
    for before, now in itertools.pairwise(seen):
        assert torch.equal(now[0][..., :-2], before[0][..., 2:])
        torch.testing.assert_close(now[1][..., :-2], before[3][..., 2:])
        assert now[2][..., :-2].all()
        assert not now[2][..., -2:].any()
    assert seen[0][1] is None


def test_the_frame_before_is_read_sharply():
    image, flow = rand(1, 3, 8, 8), torch.full((1, 2, 8, 8), 0.5)
    warped, _ = warp_previous(image, flow, None)
    assert torch.equal(warped, warp(image, flow, mode="bicubic"))
    assert not torch.allclose(warped, warp(image, flow, mode="bilinear"), atol=0.01)


def test_what_lies_outside_or_is_unknown_is_not_trusted_though_visible():
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 0, :, 0] = -3.0
    flow[:, :, 1, 1] = math.nan
    trusted = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    trusted[..., 0] = trusted[..., 1, 1] = False
    seen = torch.ones_like(trusted)
    for visible in (None, seen):
        assert torch.equal(warp_previous(rand(1, 3, 8, 8), flow, visible)[1] > 0, trusted)
    seen[..., 5, 5] = trusted[..., 5, 5] = False
    assert torch.equal(warp_previous(rand(1, 3, 8, 8), flow, seen)[1] > 0, trusted)


def test_noise_follows_slow_motion(monkeypatch):
    net, (decode, _, _) = network(), clip(12)
    flow = torch.tensor([0.0, 0.3]).view(1, 2, 1, 1).expand(11, 2, 32, 32)
    seen = []

    def spy(model, noise, decode, *rest, **options):
        seen.append(noise)
        return torch.zeros_like(noise)

    monkeypatch.setattr(upsampler, "sample", spy)
    monkeypatch.setattr(upsampler, "REFRESH", 0.0)
    upsample_clip(net, decode, flow, None, seeded())
    moved = [
        shift
        for before, now in itertools.pairwise(seen)
        for shift in (0, 1)
        # But at the edge, where what moves out may be added to what stays.
        if torch.equal(now[..., 1 : 32 - shift, :], before[..., 1 + shift :, :])
    ]
    assert len(moved) == 11
    assert sum(moved) in (3, 4)  # 3.3


def test_noise_is_white_and_partly_new(monkeypatch):
    net, (decode, flow, _) = network(), clip(6, 64)
    seen = []

    def spy(model, noise, decode, *rest, **options):
        seen.append(noise)
        return torch.zeros_like(noise)

    monkeypatch.setattr(upsampler, "sample", spy)
    monkeypatch.setattr(upsampler, "REFRESH", 0.6)
    upsample_clip(net, decode, 0 * flow, None, seeded())
    for before, now in itertools.pairwise(seen):
        assert float(now.square().mean()) == pytest.approx(1, abs=0.06)
        assert float((now * before).mean()) == pytest.approx(0.8, abs=0.06)


def test_the_first_frame_holds_on_to_what_is_known_of_it(monkeypatch):
    (decode, flow, visible), seen = clip(), []

    def spy(model, noise, decode, previous=None, trust=None, **named):
        seen.append((previous, trust))
        return sample(model, noise, decode, previous, trust, **named)

    monkeypatch.setattr(upsampler, "sample", spy)
    frames = [(decode[:1], None, None), (decode[1:2], flow[:1], visible[:1])]
    known = torch.rand(1, 3, *flow.shape[2:], generator=seeded(1))
    first, _ = upsample_frames(network(), frames, seeded(), begin=known)
    (previous, trust), (following, _) = seen
    assert torch.equal(previous, known)
    assert bool((trust == 1).all())
    assert torch.equal(following, upsampler.warp_previous(first, flow[:1], visible[:1])[0])
    list(upsample_frames(network(), frames, seeded(), begin=known, temporal=False))
    assert seen[2:] == [(None, None), (None, None)]
    with pytest.raises(ValueError, match=r"begin must be \(1, 3, 32, 32\), got shape"):
        list(upsample_frames(network(), frames, seeded(), begin=known[..., 1:]))


def test_a_stream_without_flow_begins_anew():
    net, (decode, flow, visible) = network(), clip()
    frames = [(decode[:1], None, None), (decode[1:2], flow[:1], visible[:1])]
    first = list(upsample_frames(net, frames, seeded()))
    again = list(upsample_frames(net, [*frames, frames[0]], seeded()))
    assert torch.equal(torch.cat(first), torch.cat(again[:2]))
    assert again[2].shape == (1, 3, 32, 32)


def test_half_precision_weights_sample_too():
    net, (decode, flow, visible) = network(), clip()
    wide = upsample_clip(net, decode, flow, visible, seeded())
    narrow = upsample_clip(net.bfloat16(), decode, flow, visible, seeded())
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, atol=0.02, rtol=0)


def test_of_no_images_none_are_made():
    images, decode = torch.zeros(0, 3, 16, 24), torch.zeros(0, 3, 8, 12)
    assert sample(network(), images, decode).shape == images.shape
    seen = images, torch.zeros(0, 1, 16, 24)
    assert sample(network(), images, decode, *seen, steps=2).shape == images.shape


def test_wrong_arguments_are_named():
    net, (decode, flow, visible) = network(), clip()
    with pytest.raises(ValueError, match="steps"):
        upsample_clip(net, decode, flow, visible, seeded(), steps=0)
    with pytest.raises(ValueError, match="flow must have 3"):
        upsample_clip(net, decode, flow[:2], visible, seeded())
    with pytest.raises(ValueError, match="flow"):
        upsample_clip(net, decode, flow[..., :16], None, seeded())
    with pytest.raises(ValueError, match="decode must have at least 1 frame, got 0"):
        upsample_clip(net, decode[:0], flow[:0], visible[:0], seeded())
