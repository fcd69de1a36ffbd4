"""The discrete VAE: shapes, and what a code and a pixel depend on."""

from dataclasses import replace

import pytest
import torch

from flowwarp.models.dvae import DVAE, SIDE, TIME, DVAEConfig, cut_blocks
from flowwarp.nn import check_batch_invariance

TINY = DVAEConfig((4, 3), encoder=24, encoder_blocks=1, widths=(12, 8, 6), blocks=(1, 1, 1))


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def net():
    """Return a network whose zero-initialised layers are not zero."""
    torch.manual_seed(0)
    net = DVAE(TINY).eval()
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(net.encoder[-1].weight)  # codes of many values
    return net


@pytest.mark.parametrize(("frames", "height", "width"), [(4, 4, 4), (8, 12, 20), (12, 20, 8)])
def test_shapes(net, frames, height, width):
    video = rand(2, frames, 3, height, width)
    codes = net.encode(video)
    assert codes.shape == (2, frames // 4, height // 4, width // 4, 2)
    assert codes.dtype == torch.int64
    assert net.decode(codes).shape == net(video).shape == video.shape


def test_a_block_holds_its_own_pixels():
    number = torch.arange(2 * 8 * 3 * 8 * 12.0).view(2, 8, 3, 8, 12)
    blocks = cut_blocks(number)
    assert blocks.shape == (2, 2, 2, 3, TIME * SIDE * SIDE * 3)
    block = number[1, 4:8, :, 4:8, 8:12]
    assert torch.equal(blocks[1, 1, 1, 2].sort().values, block.flatten().sort().values)


def test_codes_depend_on_the_pixels_of_their_own_block_alone(net):
    video = rand(1, 8, 3, 12, 16)
    codes = net.encode(video)
    for place in [(0, 0, 0), (3, 11, 15), (4, 4, 8), (6, 7, 3)]:
        changed = video.clone()
        t, y, x = place
        differs = torch.zeros(2, 3, 4, dtype=torch.bool)
        for value in (-50.0, 50.0):  # far outside, so that the code surely changes
            changed[0, t, :, y, x] = value
            differs |= (net.encode(changed) != codes).any(-1)[0]
        assert differs.nonzero().tolist() == [[t // 4, y // 4, x // 4]]


def test_frames_depend_on_the_codes_of_their_own_time_alone(net):
    codes = torch.zeros(1, 3, 4, 4, 2, dtype=torch.int64)
    video = net.decode(codes)
    codes[0, 1, 1, 1] = 2
    differs = (net.decode(codes) != video).flatten(2).any(-1)[0]
    assert differs.tolist() == [False] * 4 + [True] * 4 + [False] * 4


def test_pixels_depend_on_the_codes_around(net):
    codes = torch.zeros(1, 1, 5, 5, 2, dtype=torch.int64)
    video = net.decode(codes)
    codes[0, 0, 2, 2] = 2
    change = (net.decode(codes) - video).abs().sum((0, 1, 2))
    assert change[8:12, 8:12].all()
    assert change[8:12, 12:16].any()


def test_words_change_what_is_decoded_not_the_codes():
    torch.manual_seed(0)
    net = DVAE(replace(TINY, vocabulary=5))
    codes = torch.zeros(2, 1, 3, 3, 2, dtype=torch.int64)
    words = torch.tensor([[1, 3, 0], [3, 1, 0]])
    plain, worded = net.decode(codes), net.decode(codes, words)
    assert not torch.allclose(plain, worded)
    torch.testing.assert_close(worded[0], worded[1])  # a mean: their order does not matter
    padding = net.decode(codes, torch.zeros_like(words))
    assert torch.equal(padding, net.decode(codes, torch.zeros(2, 1, dtype=torch.int64)))
    assert torch.equal(net.decode(codes), plain)


def test_decoding_codes_is_the_forward_pass(net):
    video = rand(2, 8, 3, 8, 12)
    torch.testing.assert_close(net.decode(net.encode(video)), net(video))


def test_the_encoder_learns_through_the_rounding(net):
    net(rand(1, 4, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in net.parameters())


def test_each_example_depends_on_itself_alone(net):
    check_batch_invariance(net, rand(1, 4, 3, 8, 12), tolerance=1e-5)


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((1, 6, 3, 8, 8), "frames"),
        ((1, 4, 3, 10, 8), "multiples of 4"),
        ((1, 4, 3, 8, 6), "multiples of 4"),
        ((1, 4, 1, 8, 8), r"\(B, T, 3, H, W\)"),
        ((4, 3, 8, 8), "video"),
        ((1, 0, 3, 8, 8), "empty"),
    ],
)
def test_shapes_are_checked(net, shape, match):
    for function in (net, net.encode):
        with pytest.raises(ValueError, match=match):
            function(torch.zeros(shape))


@pytest.mark.parametrize(
    "change",
    [
        {"levels": ()},
        {"levels": (1, 8)},
        {"levels": (2000,)},
        {"levels": [8, 8]},
        {"encoder": 0},
        {"encoder_blocks": -1},
        {"widths": (8, 8)},
        {"widths": (8, 8, 0)},
        {"blocks": (1, 1, 1, 1)},
        {"blocks": (1, True, 1)},
    ],
)
def test_settings_are_checked(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        DVAEConfig(**change)
