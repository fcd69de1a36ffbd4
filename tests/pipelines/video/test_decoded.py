"""Clips with their decodes: figures by hand, and flow that is known or estimated."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from flowwarp.data.clip import clip_without_flow
from flowwarp.models import flownet
from flowwarp.models.flownet import FlowNet
from flowwarp.models.upsampler import TINY, Upsampler
from flowwarp.pipelines.video.decoded import (
    compare,
    decode_clip,
    measure,
    true_flow,
    upsample_decoded,
)

SIZE, FRAMES = 32, 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def moving_square():
    """Return a clip of a square that moves to the right by a pixel a frame."""
    video = torch.full((FRAMES, 3, SIZE, SIZE), 40, dtype=torch.uint8)
    for t in range(FRAMES):
        video[t, :, 8:20, 4 + t : 16 + t] = 200
    return clip_without_flow(video, "a square")


def decode(clip, generator):
    """Halve a video, and darken it by what the generator says."""
    low = F.avg_pool2d(clip.video.float() / 255, 2)
    return low if generator is None else low - 0.05 * torch.rand((), generator=generator)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return FlowNet(flownet.TINY).eval()


@pytest.fixture
def decoded(net):
    return decode_clip(moving_square(), decode, net, 2)


def test_a_decoded_clip_has_flow_of_the_decode_s_size(decoded):
    assert decoded.size == (SIZE, SIZE)
    assert decoded.decode.shape == (FRAMES, 3, SIZE // 2, SIZE // 2)
    assert decoded.flow.shape == (FRAMES - 1, 2, SIZE // 2, SIZE // 2)
    assert decoded.words is None


def test_words_are_those_of_the_caption(net):
    known = decode_clip(moving_square(), decode, net, 2, lambda text: torch.tensor([len(text)]))
    assert known.words.tolist() == [8]


def test_codes_are_corrupted_by_the_generator(net):
    plain, one, two = (
        decode_clip(moving_square(), decode, net, 2, None, generator).decode
        for generator in (None, seeded(1), seeded(1))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, plain)


def test_flow_is_the_known_one_or_estimated(net):
    clip = moving_square()
    flow, valid = true_flow(clip, net)
    assert flow.shape == (FRAMES - 1, 2, SIZE, SIZE)
    assert flow.any()
    assert valid.dtype == torch.bool
    known = torch.ones_like(clip.valid_21)
    exact = replace(clip, flow_21=clip.flow_21 + 1, valid_21=known, visible_21=known)
    assert true_flow(exact, net)[0] is exact.flow_21


def test_figures_by_hand(decoded):
    flow = torch.zeros(FRAMES - 1, 2, SIZE, SIZE)
    visible = torch.ones(FRAMES - 1, 1, SIZE, SIZE, dtype=torch.bool)
    original = decoded.original
    still = original[:1].expand_as(original)
    assert measure(decoded, flow, visible, still)["warping"] == 0
    figures = measure(decoded, flow, visible, original + 0.1)
    assert figures["psnr"] == pytest.approx(20, abs=1e-3)
    assert figures["detail"] == pytest.approx(1, abs=1e-3)


def test_a_network_that_knows_nothing_is_bicubic(net, decoded):
    upsampler = Upsampler(TINY)
    drawn = upsample_decoded(upsampler, decoded, seeded(), temporal=False)
    torch.testing.assert_close(drawn, decoded.bicubic)
    figures = compare(upsampler, [decoded, decoded], net, 0)
    ways, names = ("single", "temporal", "bicubic", "original"), ("psnr", "detail", "warping")
    assert set(figures) == {f"{name}_{way}" for name in names for way in ways}
    assert figures["psnr_single"] == pytest.approx(figures["psnr_bicubic"], abs=1e-3)
    assert figures["detail_bicubic"] < figures["detail_original"] == pytest.approx(1)
