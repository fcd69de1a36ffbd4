"""The discrete VAE: quantisers by hand, layout, and what it promises about time and batch."""

import math
from dataclasses import replace

import pytest
import torch

from flowwarp.legacy.models import dvae
from flowwarp.legacy.models.dvae import (
    DVAE,
    FSQ,
    TINY,
    DVAEConfig,
    Gumbel,
    Residual,
    fold,
    initialise_latent,
    nearest,
    shift,
    unfold,
)

RESIDUAL = replace(TINY, encoder=0, quantiser="residual", entries=200)
CORRECTED = replace(RESIDUAL, correction=0.5)
WIDE = DVAEConfig(strides=(2, 2, 2), widths=(16, 32, 64), encoder=1, decoder=(1, 1, 1))


def random_video(batch, frames, height=16, width=24, seed=0):
    """Smooth colours that drift, so that the latent is not noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 4, height // 4, width // 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear")
    return fine.transpose(1, 2).contiguous()


def make(config=TINY, seed=0):
    torch.manual_seed(seed)
    net = DVAE(config).eval()
    initialise_latent(net, random_video(2, 2 * config.stride_time, seed=9))
    if isinstance(net.quantiser, Residual):
        net.quantiser.books.normal_(0, 0.5)
    return net


# Quantisers


def test_codes_and_values_are_one_to_one():
    fsq = FSQ((8, 5, 5, 5))
    codes = torch.arange(1000)
    values = fsq.values(codes)
    assert torch.equal(fsq.codes(values), codes)
    assert len({tuple(row) for row in values.tolist()}) == 1000
    assert values.abs().max() < 1


def test_values_by_hand():
    fsq = FSQ((8, 5, 5, 5))
    expected = (
        torch.tensor([[-7, -6.4, -6.4, -6.4], [-5, -6.4, -6.4, -3.2], [7, 6.4, 6.4, 6.4]]) / 8
    )
    assert torch.allclose(fsq.values(torch.tensor([0, 126, 999])), expected)
    # Parts of (-1, 1) of equal width; the ends, which rounding can reach, belong to the outer ones.
    places = torch.tensor([-1.0, -0.61, -0.59, -0.21, -0.19, 0.19, 0.21, 0.59, 0.61, 1.0])
    assert FSQ((5,)).codes(places[:, None]).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_unit_normal_latents_use_all_codes_about_equally():
    latent = torch.randn(40_000, 4, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(FSQ((8, 5, 5, 5))(latent, 1.0)[1], minlength=1000)
    assert counts.min() > 0.4 * counts.float().mean()
    assert counts.max() < 2 * counts.float().mean()


@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_gradient_passes_as_if_nothing_were_rounded(mix):
    latent = torch.tensor([[0.3, -1.2, 0.0, 2.0]], requires_grad=True)
    values, codes = FSQ((8, 5, 5, 5))(latent, mix)
    bounded = torch.tanh(0.8 * latent)
    rounded = FSQ((8, 5, 5, 5)).values(codes)
    assert torch.allclose(values, (1 - mix) * bounded + mix * rounded)
    (gradient,) = torch.autograd.grad(values.sum(), latent)
    assert torch.allclose(gradient, 0.8 * (1 - bounded.square()))


def test_penalty_of_mean_and_spread_by_hand():
    latent = torch.tensor([1.0, -1.0]).repeat(8).reshape(1, 1, 4, 4, 1)
    both = torch.cat([latent, 3 * latent + 2])  # mean 2, spread 3
    assert FSQ((5,)).penalty(both).tolist() == pytest.approx([0, 2**2 + 2**2], abs=1e-4)
    flat = torch.zeros(1, 1, 2, 2, 1, requires_grad=True)
    FSQ((5,)).penalty(flat).sum().backward()  # no spread at all has a gradient too
    assert flat.grad.isfinite().all()


def test_gumbel_penalty_by_hand():
    gumbel = Gumbel(4, 2)
    sure = torch.tensor([100.0, 0, 0, 0]).expand(1, 1, 2, 2, 4)
    both = torch.cat([torch.zeros(1, 1, 2, 2, 4), sure])
    assert gumbel.penalty(both).tolist() == pytest.approx([0, math.log(4)], abs=1e-5)


def test_gumbel_takes_the_likeliest_and_samples_in_training():
    gumbel = Gumbel(4, 3)
    logits = torch.tensor([[0.0, 3.0, 1.0, -1.0]]).expand(4000, 4)
    values, codes = gumbel.eval()(logits, 1.0)
    assert torch.equal(codes, torch.ones(4000, dtype=torch.long))
    assert torch.equal(values, gumbel.book[1].expand(4000, 3))
    torch.manual_seed(0)
    sampled, _ = gumbel.train()(logits, 1.0)
    nearest = torch.cdist(sampled, gumbel.book).argmin(1)
    shares = torch.bincount(nearest, minlength=4) / 4000
    assert torch.allclose(shares, logits[0].softmax(0), atol=0.03)


def test_gumbel_samples_by_the_seed_of_an_example_too():
    gumbel = Gumbel(3, 3).train()
    gumbel.book.data = torch.eye(3)
    shares = torch.tensor([0.7, 0.2, 0.1])
    logits = shares.log().expand(1, 20_000, 3)
    drawn = gumbel(logits, 1.0, torch.tensor([5]))[0].argmax(-1).flatten()
    found = torch.bincount(drawn, minlength=3) / 20_000
    assert torch.allclose(found, shares, atol=0.015)


def test_gumbel_is_sixteen_times_as_sure_at_the_end():
    gumbel = Gumbel(2, 2).train()
    gumbel.book.data = torch.eye(2)
    logits, seeds = torch.tensor([[[0.3, 0.0]]]), torch.tensor([7])
    first, last = (gumbel(logits, mix, seeds)[0].detach().logit()[..., 0] for mix in (0.0, 1.0))
    assert torch.allclose(last, 16 * first, rtol=1e-3)


def test_residual_takes_what_is_nearest_to_what_is_left():
    residual = Residual(3, 2, 2)
    residual.books[0] = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    residual.books[1] = torch.tensor([[1.0, 0.0], [0.0, -2.0], [0.0, 0.0]])
    latent = torch.tensor([[10.8, 0.1], [0.3, 7.9], [0.1, 0.2]], requires_grad=True)
    values, codes = residual(latent, 1.0)
    assert codes.tolist() == [1 * 3 + 0, 2 * 3 + 1, 0 * 3 + 2]
    assert values.tolist() == [[11, 0], [0, 8], [0, 0]]
    assert torch.equal(residual.values(codes), values)
    assert torch.allclose(residual(latent, 0.25)[0], 0.75 * latent + 0.25 * values)
    (gradient,) = torch.autograd.grad(values.sum(), latent)
    assert torch.equal(gradient, torch.ones(3, 2))


def test_residual_follows_several_sums():
    residual = Residual(2, 2, 1, beams=2)
    residual.books[0] = torch.tensor([[0.0], [10.0]])
    residual.books[1] = torch.tensor([[-6.0], [1.0]])
    latent = torch.tensor([[4.1], [0.8], [11.0]])
    assert residual(latent, 1.0)[0].tolist() == [[4], [1], [11]]  # 4 is 10 - 6
    residual.beams = 1
    assert residual(latent, 1.0)[0].tolist() == [[1], [1], [11]]  # nearer to 0 than to 10


def test_residual_finds_the_best_of_all_sums_if_it_follows_all(monkeypatch):
    residual = Residual(4, 3, 3, beams=16)
    residual.books.normal_()
    latent = torch.randn(40, 3)
    every = residual.values(torch.arange(4**3))
    best = torch.cdist(latent, every).argmin(1)
    assert torch.equal(residual.codes(latent), best)
    monkeypatch.setattr(dvae, "_SUMS_AT_ONCE", 300)  # in parts
    assert torch.equal(residual.codes(latent), best)


def test_chroma_is_what_colour_counts():
    red, gray = torch.tensor([0.3, 0.0, 0.0]), torch.full((3,), 0.4)
    residual = Residual(2, 1, 3)
    residual.books[0] = torch.stack(
        [red + 0.25, red.mean().expand(3)]
    )  # lighter, or without colour
    assert residual.codes(red[None]).tolist() == [1]
    residual.chroma = 3.0
    assert residual.codes(red[None]).tolist() == [0]
    weighed = dvae.weigh_colors(torch.cat([red, gray]), 2.0)
    assert torch.allclose(weighed, torch.tensor([0.5, -0.1, -0.1, 0.4, 0.4, 0.4]))
    assert torch.allclose(dvae.weigh_colors(weighed, 0.5), torch.cat([red, gray]))


@pytest.mark.parametrize(
    ("correction", "darker", "code"),
    [(0.0, 0.1, 0), (1.0, 0.1, 5), (0.5, 0.08, 2), (1.0, 0.065, 3), (1.0, 0.055, 0),
     (1.0, -0.1, 5), (0.5, -0.08, 2), (1.0, -0.055, 0)],
)  # fmt: skip
def test_correction_makes_up_for_what_decoding_does(correction, darker, code):
    """Vectors are grays of 0, 0.02, ... 0.1 each; the way out makes all of them darker.

    Or of 0, -0.02, ... -0.1, and lighter. Below an error of 0.06 a place keeps its code.
    """
    net = make(replace(RESIDUAL, groups=1, entries=6, decoder=(0, 0, 0), correction=correction))
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    grays = torch.linspace(0, math.copysign(0.1, darker), 6)
    net.quantiser.books[0] = grays[:, None].expand(6, 192)
    net.decoder.head.bias.data.fill_(-darker)
    gray = torch.full((1, 4, 3, 4, 8), 0.5)
    assert net.encode(gray).tolist() == [[[[code, code]]]]


def test_correction_brings_colours_nearer():
    video = random_video(4, 8)
    errors = []
    for config in (RESIDUAL, CORRECTED):
        net = make(config)
        error = fold((video - net.decode(net.encode(video))).flatten(0, 1), 4, 4)
        errors.append(error.unflatten(1, (-1, 3)).mean(1).square().mean())
    assert errors[1] < 0.9 * errors[0]


def test_residual_codes_are_digits_one_book_each():
    residual = Residual(5, 3, 4)
    residual.books.normal_()
    codes = torch.arange(125).view(1, 5, 5, 5)
    first, second, third = codes // 25, codes // 5 % 5, codes % 5
    books = residual.books
    assert torch.allclose(
        residual.values(codes), books[0][first] + books[1][second] + books[2][third]
    )
    latent = torch.randn(2, 3, 4, 4)
    assert residual.codes(latent).shape == (2, 3, 4)
    assert residual.penalty(latent).tolist() == [0, 0]


def test_nearest_is_nearest(monkeypatch):
    points, vectors = torch.randn(50, 3), torch.randn(7, 3)
    expected = torch.cdist(points, vectors).argmin(1)
    assert torch.equal(nearest(points, vectors), expected)
    monkeypatch.setattr(dvae, "_AT_ONCE", 8)  # in parts
    assert torch.equal(nearest(points, vectors), expected)


def test_sums_of_vectors_are_pictures_already():
    """Without what the way out adds, a block of pixels that is in the books comes back whole."""
    net = make(replace(RESIDUAL, groups=1))
    torch.nn.init.zeros_(net.decoder.head.weight)
    video = random_video(1, 4)
    blocks = fold(video.flatten(0, 1) * 2 - 1, 4, 4).permute(0, 2, 3, 1).flatten(0, 2)
    net.quantiser.books[0, :12] = blocks[:12]
    made = net.decode(net.encode(video))
    assert torch.allclose(made[..., :8, :], video[..., :8, :], atol=1e-6)


# Layout


def test_fold_by_hand_and_back():
    x = torch.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4).float()  # two frames of 2 x 4
    folded = fold(x, 2, 2)
    assert folded.shape == (1, 24, 1, 2)
    # Frame, row, column, channel: the first pixel of frame 0, then its right neighbour, ...
    first = [x[t, c, y, col] for t in (0, 1) for y in (0, 1) for col in (0, 1) for c in range(3)]
    assert folded[0, :, 0, 0].tolist() == [float(value) for value in first]
    assert torch.equal(unfold(folded, 2, 2), x)


def test_shift_by_hand():
    x = torch.arange(8.0).reshape(4, 2, 1, 1).repeat_interleave(4, 1)  # 2 examples of 2 frames
    moved, past = shift(x, 2, None)
    assert moved[:, :2].flatten(1).tolist() == [[0, 0], [0, 0], [4, 4], [4, 4]]
    assert torch.equal(moved[:, 2:], x[:, 2:])
    assert past.flatten(1).tolist() == [[2, 2], [6, 6]]
    later, _ = shift(x + 8, 2, past)
    assert later[:, :2].flatten(1).tolist() == [[2, 2], [8, 8], [6, 6], [12, 12]]


def test_steps_out_begin_as_copies(monkeypatch):
    monkeypatch.setattr(dvae, "BRANCH", 0.0)
    x = torch.rand(1, 6, 4, 4)
    up = dvae.Up(6, 3, 2, 2)(x)  # channels to time, pixels to squares
    assert torch.allclose(up, x.reshape(2, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(
    ("config", "grid", "count"),
    [
        (DVAEConfig(), (4, 16, 16), 1000**2),
        (WIDE, (4, 8, 8), 1000**2),
        (replace(WIDE, strides_time=(1, 2, 1)), (8, 8, 8), 1000**2),
        (replace(TINY, levels=(4, 4)), (4, 16, 16), 256),
        (replace(TINY, groups=1), (4, 16, 16), 1000),
        (replace(TINY, quantiser="gumbel", entries=50), (4, 16, 16), 50),
        (replace(TINY, quantiser="gumbel", entries=2**16), (4, 16, 16), 2**16),
        (RESIDUAL, (4, 16, 16), 200**2),
        (replace(TINY, strides=(4, 1, 1), norm="none"), (4, 16, 16), 1000**2),
    ],
)
def test_layouts(config, grid, count):
    net = DVAE(config).eval()
    codes = net.encode(torch.rand(1, 16, 3, 64, 64))
    assert codes.shape == (1, *grid)
    assert codes.dtype == torch.int64
    assert (codes.min() >= 0) & (codes.max() < count)
    assert config.codes == count
    video = net.decode(codes)
    assert video.shape == (1, 16, 3, 64, 64)
    assert (video.min() >= 0) & (video.max() <= 1)


def test_size_of_the_default():
    assert 2e6 < sum(p.numel() for p in DVAE().parameters()) < 3e6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder": (1, 1)}, "decoder must have one entry"),
        ({"encoder": -1}, "encoder must be a whole number"),
        ({"widths": (16, 32, 60)}, "multiples of 8"),
        ({"widths": (16, 40, 80)}, "times a divisor of 8"),
        ({"strides": (2, 0, 1)}, "strides must be a whole number"),
        ({"levels": (8, 1)}, "levels must be a whole number"),
        ({"levels": (2,) * 32}, "levels must be at most 31"),
        ({"groups": 0}, "groups must be a whole number"),
        ({"groups": 2**31}, "groups must be a whole number"),
        ({"groups": 10**30}, "groups must be a whole number"),
        ({"groups": math.nan}, "groups must be a whole number"),
        ({"groups": 4}, "at most 2147483648 codes"),
        ({"quantiser": "residual"}, "encoder must be 0"),
        ({"beams": 0}, "beams must be a whole number"),
        ({"beams": 65}, "beams must be a whole number"),
        ({"beams": 33, "entries": 32}, "at most entries"),
        ({"quantiser": "residual", "encoder": 0, "entries": 5000}, "entries must be at most 4096"),
        ({"entries": 1}, "entries must be a whole number"),
        ({"chroma": 0.0}, "chroma must be a number"),
        ({"chroma": 1e30}, "chroma must be a number"),
        ({"chroma": math.inf}, "chroma must be a number"),
        ({"correction": -0.1}, "correction must be a number"),
        ({"correction": math.nan}, "correction must be a number"),
        ({"correction": 0.5}, "correction must be 0"),
        ({"decoder": (1, -1, 1)}, "decoder must be a whole number"),
        ({"decoder": (1, 1.0, 1)}, "decoder must be a whole number"),
        ({"widths": 16}, "widths must be one whole number or more"),
        ({"quantiser": "magic"}, "quantiser must be one of fsq, gumbel, residual"),
        ({"norm": "batch"}, "norm must be one of group, none"),
        ({"norm": None}, "norm must be one of group, none"),
    ],
)
def test_configurations_that_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **changes)


# Signal


@pytest.mark.parametrize("norm", ["group", "none"])
def test_depth_keeps_the_scale_of_signal_and_gradient(norm):
    torch.manual_seed(0)
    deep = replace(TINY, encoder=24, decoder=(8, 8, 8), norm=norm)
    ratios = []
    for config in (replace(deep, encoder=0, decoder=(0, 0, 0)), deep):
        torch.manual_seed(0)
        net = DVAE(config)
        video = random_video(2, 8).requires_grad_()
        features = net.encoder(video)
        (gradient,) = torch.autograd.grad(features.square().sum(), video)
        frames, _ = net.decoder(torch.randn(4, config.widths[-1], 4, 6), 2, None)
        ratios.append(torch.stack([features.std(), gradient.std(), frames.std()]))
    growth = ratios[1] / ratios[0]
    assert (growth > 0.5).all()
    assert (growth < 3).all()


def test_latent_begins_as_principal_components():
    torch.manual_seed(0)
    net = DVAE(replace(TINY, groups=1))
    video = random_video(3, 8)
    initialise_latent(net, video)
    latent = net(video).latent.flatten(0, 3)
    assert torch.allclose(latent.mean(0), torch.zeros(4), atol=1e-3)
    assert torch.allclose(torch.cov(latent.T, correction=0), torch.eye(4), atol=1e-2)
    # No other four numbers tell more of the features.
    features = net.encoder(video).permute(0, 2, 3, 1).flatten(0, 2)
    features = features - features.mean(0)
    back = latent @ torch.linalg.lstsq(latent, features).solution
    untold = torch.linalg.svdvals(features)[4:].square().sum()
    assert torch.allclose((features - back).square().sum(), untold, rtol=1e-3)
    again = DVAE(net.config)
    again.load_state_dict(net.state_dict())
    initialise_latent(again, video)
    assert torch.equal(again.to_latent.weight, net.to_latent.weight)


def test_the_sign_of_principal_components_is_not_the_library_s(monkeypatch):
    eigh, layers = torch.linalg.eigh, []
    for sign in (1, -1):
        monkeypatch.setattr(torch.linalg, "eigh", lambda m, s=sign: (eigh(m)[0], s * eigh(m)[1]))
        layers.append(make(replace(TINY, groups=1)).to_latent)
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert torch.equal(layers[0].bias, layers[1].bias)


@pytest.mark.parametrize("config", [TINY, replace(TINY, quantiser="gumbel"), RESIDUAL])
def test_rounds_in_fp32_under_autocast(config):
    net = make(config).train()
    kinds = []
    net.quantiser.register_forward_hook(
        lambda module, given, made: kinds.extend([given[0].dtype, made[0].dtype])
    )
    with torch.autocast("cpu", torch.bfloat16):
        made = net(random_video(1, 4))
    assert kinds == [torch.float32] * 2
    assert made.latent.dtype == made.video.dtype == torch.float32


# Batch and time


@pytest.mark.parametrize("config", [TINY, replace(TINY, norm="none"), RESIDUAL, CORRECTED])
def test_an_example_does_not_depend_on_its_batch(config):
    net = make(config)
    video = random_video(3, 8)
    codes = net.encode(video)
    assert codes.unique().numel() > 20
    alone = net.encode(video[1:2])
    assert torch.equal(alone, codes[1:2])
    assert torch.allclose(net.decode(alone), net.decode(codes)[1:2], atol=1e-5)
    whole, single = net(video), net(video[1:2])
    assert torch.allclose(whole.video[1:2], single.video, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, RESIDUAL])
def test_training_pass_agrees_with_encode_and_decode(config):
    net = make(config)
    video = random_video(2, 12)
    made = net(video)
    codes = net.encode(video)
    assert torch.equal(made.codes, codes)
    assert torch.allclose(made.video.clamp(0, 1), net.decode(codes), atol=1e-5)


@pytest.mark.parametrize("config", [TINY, CORRECTED])
def test_nothing_looks_ahead(config):
    net = make(config)
    video = random_video(1, 12)
    codes = net.encode(video)
    assert torch.equal(net.encode(video[:, :8]), codes[:, :2])
    other = codes.clone()
    other[:, 2] = 0
    assert torch.equal(net.decode(codes)[:, :8], net.decode(other)[:, :8])
    assert not torch.equal(net.decode(codes)[:, 8:], net.decode(other)[:, 8:])


@pytest.mark.parametrize("config", [replace(TINY, encoder=3), RESIDUAL])
def test_a_code_tells_of_its_own_pixels_alone(config):
    net = make(config)
    video = random_video(1, 12)
    codes = net.encode(video)
    changed = 1 - video
    changed[:, 4:8, :, 8:12, 4:16] = video[:, 4:8, :, 8:12, 4:16]
    same = net.encode(changed) == codes
    assert same[:, 1, 2, 1:4].all()
    assert same.float().mean() < 0.2
    moved = net.encode(video.roll((4, 8), (1, 4)))  # a group of frames later, two cells further
    assert torch.equal(moved, codes.roll((1, 2), (1, 3)))


def test_what_came_before_counts():
    """Groups of frames are joined on the way out: otherwise streaming would be no feat."""
    net = make(replace(TINY, decoder=(1, 1, 1)))
    codes = net.encode(random_video(1, 8))
    other = torch.cat([codes[:, :1].flip(3), codes[:, 1:]], 1)
    assert not torch.equal(net.decode(codes)[:, 4:], net.decode(other)[:, 4:])


@pytest.mark.parametrize("config", [TINY, RESIDUAL])
def test_streamed_is_whole_bit_for_bit(config):
    net = make(config)
    codes = net.encode(random_video(2, 16))
    parts = list(net.decode_stream(codes[:, t : t + 1] for t in range(4)))
    assert [tuple(part.shape) for part in parts] == [(2, 4, 3, 16, 24)] * 4
    assert torch.equal(torch.cat(parts, 1), net.decode(codes))


def test_decodes_a_frame_of_tokens_before_it_asks_for_the_next():
    net = make()
    codes = net.encode(random_video(1, 8))
    asked = []

    def sampled():
        for t in range(2):
            asked.append(t)
            yield codes[:, t : t + 1]

    stream = net.decode_stream(sampled())
    next(stream)
    assert asked == [0]


@pytest.mark.parametrize("config", [TINY, CORRECTED])
def test_a_frame_alone_is_a_still_picture(config):
    net = make(config)
    frame = random_video(2, 1)
    codes = net.encode(frame)
    assert codes.shape == (2, 1, 4, 6)
    assert torch.equal(codes, net.encode(frame.expand(-1, 4, -1, -1, -1)))
    assert net.decode(codes, frames=1).shape == frame.shape


def test_the_last_group_is_filled_up():
    net = make()
    video = random_video(1, 8)
    video[:, 7] = video[:, 6]
    assert torch.equal(net.encode(video[:, :7]), net.encode(video))
    assert net.decode(net.encode(video[:, :7]), frames=7).shape[1] == 7


# Errors


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 4, 3, 15, 16), "multiples of 4"),
        ((1, 4, 1, 16, 16), "3, H, W"),
        ((4, 3, 16, 16), "B, T, C, H, W"),
        ((1, 0, 3, 16, 16), "not empty"),
    ],
)
def test_videos_that_are_refused(shape, words):
    with pytest.raises(ValueError, match=words):
        DVAE(TINY).encode(torch.zeros(shape))


def test_a_training_clip_has_whole_groups():
    with pytest.raises(ValueError, match="multiple of 4 frames, got 6"):
        DVAE(TINY)(torch.zeros(1, 6, 3, 16, 16))
    with pytest.raises(TypeError, match="video"):
        DVAE(TINY)(torch.zeros(1, 4, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize(
    "codes",
    [
        torch.full((1, 1, 4, 4), 1000**2),
        torch.full((1, 1, 4, 4), -1),
        torch.zeros(1, 1, 4, 4),
        torch.zeros(1, 4, 4, dtype=torch.long),
        torch.zeros(1, 0, 4, 4, dtype=torch.long),
    ],
)
def test_codes_that_are_refused(codes):
    with pytest.raises(ValueError, match="codes must be"):
        DVAE(TINY).decode(codes)


@pytest.mark.parametrize("frames", [0, -3, 1.5])
def test_a_video_of_no_frames_is_not_decoded(frames):
    with pytest.raises(ValueError, match="frames must be a whole number"):
        DVAE(TINY).decode(torch.zeros(1, 1, 2, 2, dtype=torch.int64), frames)
