"""Upsampling frame by frame: what each frame is conditioned on, and that noise follows the flow."""

import itertools
import math

import pytest
import torch

from flowwarp.models.upsampler import TINY, Upsampler
from flowwarp.pipelines.video.upsample import (
    REFRESH,
    next_noise,
    upsample_clip,
    upsample_frames,
    warp_previous,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed))


class Recorder(Upsampler):
    """Notes what it is given, and draws noise as it is."""

    def __init__(self):
        super().__init__(TINY)
        self.calls = []

    def forward(self, noisy, time, enlarged, previous=None, visible=None, words=None):
        self.calls.append((noisy, previous, visible, words))
        return noisy


def clip(frames=4, size=(24, 32)):
    """Return decodes, flow of 2 px to the right and visibility of a clip."""
    flow = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(frames - 1, 2, *size)
    return rand(frames, 3, 16, 20), flow, rand(frames - 1, 1, *size, seed=5) > 0.2


def everywhere(flow):
    return torch.ones_like(flow[:, :1], dtype=torch.bool)


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Upsampler(TINY).eval()
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return net


@pytest.mark.parametrize("size", [(24, 32), (16, 20), (30, 38)])
def test_any_size_from_one_to_two_times(net, size):
    decode, _, _ = clip()
    flow = torch.zeros(3, 2, *size)
    video = upsample_clip(net, decode, size, (flow, everywhere(flow)), seeded(), steps=1)
    assert video.shape == (4, 3, *size)
    assert video.amin() >= 0
    assert video.amax() <= 1


def test_each_frame_sees_the_output_before_it_warped():
    net, (decode, flow, visible) = Recorder(), clip()
    video = upsample_clip(net, decode, (24, 32), (flow, visible), seeded(), steps=1)
    assert net.calls[0][1] is None
    for t, (_, previous, seen, _) in enumerate(net.calls[1:], 1):
        torch.testing.assert_close(previous[..., :-2], video[t - 1 : t, :, :, 2:])
        assert not seen[..., -2:].any()  # flow leads outside
        assert torch.equal(seen[..., :-2], visible[t - 1 : t, :, :, :-2])


def test_noise_follows_the_flow():
    net, (decode, flow, visible) = Recorder(), clip()
    upsample_clip(net, decode, (24, 32), (flow, everywhere(flow)), seeded(), steps=1)
    noises = [call[0] / math.sqrt(0.75) for call in net.calls]  # without the coarse quarter
    for one, two in itertools.pairwise(noises):
        moved = torch.stack([one[..., 2:].flatten(), two[..., :-2].flatten()])
        still = torch.stack([one.flatten(), two.flatten()])
        assert float(moved.corrcoef()[0, 1]) == pytest.approx(math.sqrt(1 - REFRESH**2), abs=0.03)
        assert abs(float(still.corrcoef()[0, 1])) < 0.1
        assert float(two.std()) == pytest.approx(1, abs=0.05)
    hidden = next_noise(noises[0], flow[:1], torch.zeros_like(visible[:1]), noises[1], noises[2], 1)
    expected = math.sqrt(1 - REFRESH**2) * noises[1] + REFRESH * noises[2]
    torch.testing.assert_close(hidden, expected)


def test_without_the_frame_before_each_is_drawn_by_itself():
    net, (decode, _, _) = Recorder(), clip()
    upsample_clip(net, decode, (24, 32), None, seeded(), steps=1)
    assert all(call[1] is None and call[2] is None for call in net.calls)
    noises = torch.stack([call[0].flatten() for call in net.calls])
    assert float((noises.corrcoef() - torch.eye(4)).abs().amax()) < 0.1


def test_words_reach_every_frame():
    net, (decode, flow, visible) = Recorder(), clip()
    words = torch.tensor([3, 1, 0])
    upsample_clip(net, decode, (24, 32), (flow, visible), seeded(), steps=2, words=words)
    assert len(net.calls) == 8
    assert all(torch.equal(call[3], words[None]) for call in net.calls)


def test_frames_come_one_by_one_and_do_not_depend_on_later_ones(net):
    decode, flow, visible = clip()
    whole = upsample_clip(net, decode, (24, 32), (flow, visible), seeded(), steps=1)
    taken = []

    def frames():
        for t in range(4):
            taken.append(t)
            before = t - 1
            yield (
                decode[t : t + 1],
                flow[before:t] if t else None,
                visible[before:t] if t else None,
            )

    drawn = upsample_frames(net, frames(), (24, 32), seeded(), steps=1)
    torch.testing.assert_close(next(drawn), whole[:1])
    assert taken == [0]
    torch.testing.assert_close(torch.cat(list(drawn)), whole[1:])


def test_the_seed_decides(net):
    decode, flow, visible = clip()

    def drawn(seed):
        return upsample_clip(net, decode, (24, 32), (flow, visible), seeded(seed), steps=1)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_unknown_flow_is_not_visible():
    flow = torch.zeros(1, 2, 8, 8)
    flow[0, 0, 3, 3] = math.nan
    _, seen = warp_previous(rand(1, 3, 8, 8), flow, None)
    assert not seen[0, 0, 3, 3]
    assert int(seen.sum()) == 63


def test_lengths_are_checked(net):
    decode, flow, visible = clip()
    with pytest.raises(ValueError, match="at least 1 frame"):
        upsample_clip(net, decode[:0], (24, 32), (flow, visible), seeded())
    with pytest.raises(ValueError, match="flow must have 3"):
        upsample_clip(net, decode, (24, 32), (flow[:2], visible), seeded())
    with pytest.raises(ValueError, match="visible must have 3"):
        upsample_clip(net, decode, (24, 32), (flow, visible[:2]), seeded())
