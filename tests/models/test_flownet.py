"""The flow network: shapes, symmetry, independence of the batch, and that it can learn."""

import pytest
import torch

from flowwarp.losses.photometric import census_loss
from flowwarp.models.flownet import (
    MIN_NORM,
    SMALL,
    TINY,
    FlowNet,
    FlowNetConfig,
    _subtract_mean,
    _unit,
    convex_upsample,
)
from flowwarp.ops.warping import warp


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return FlowNet(TINY)


def frames(batch=1, height=64, width=96):
    return torch.rand(2, batch, 3, height, width, generator=seeded()).unbind()


def test_numbers_of_parameters():
    def millions(config):
        return sum(p.numel() for p in FlowNet(config).parameters()) / 1e6

    assert millions(FlowNetConfig()) < 3
    assert millions(SMALL) < 1


@pytest.mark.parametrize("size", [(1, 1), (33, 70), (64, 96), (65, 129)])
def test_any_size(net, size):
    forward, backward = net(*frames(2, *size))
    assert forward.flow.shape == backward.flow.shape == (2, 2, *size)
    assert forward.flow.isfinite().all()
    assert [level.shape[-1] for level in forward.levels] == [
        -(-size[1] // TINY.stride) * 2**k for k in range(4)
    ]


def test_frames_are_padded_by_their_border(net):
    images = frames(1, 40, 70)
    pad = torch.nn.ReplicationPad2d((0, 26, 0, 24))
    flow = net(*images)[0].flow
    assert torch.equal(flow, net(*map(pad, images))[0].flow[..., :40, :70])


def test_swapping_the_frames_swaps_the_flows(net):
    image1, image2 = frames()
    forward, backward = net(image1, image2)
    forward2, backward2 = net(image2, image1)
    assert torch.allclose(forward.flow, backward2.flow, atol=1e-5)
    assert torch.allclose(backward.flow, forward2.flow, atol=1e-5)


def test_torch_export(net):
    frames = torch.rand(2, 1, 3, 64, 96, generator=torch.Generator().manual_seed(0)).unbind()
    exported = torch.export.export(net, frames).module()
    assert torch.equal(exported(*frames)[0].flow, net(*frames)[0].flow)


def test_initial_flow_is_near_zero(net):
    assert net(*frames())[0].flow.abs().max() < 2


def test_convex_upsampling_keeps_a_constant_flow():
    flow = torch.tensor([1.5, -2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    full = convex_upsample(flow, torch.randn(1, 9 * 16, 3, 4, generator=seeded()))
    assert full.shape == (1, 2, 12, 16)
    assert torch.allclose(full, 4 * flow[..., :1, :1].expand_as(full), atol=1e-5)


def test_convex_upsampling_of_the_centre_repeats_vectors():
    flow = torch.arange(6.0).view(1, 1, 2, 3).expand(1, 2, 2, 3)
    logits = torch.full((1, 9, 2, 2, 2, 3), -100.0)
    logits[:, 4] = 100.0  # the centre of the nine
    full = convex_upsample(flow, logits.view(1, 36, 2, 3))
    expected = 2 * flow.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(full, expected)


def test_convex_upsampling_has_weights_of_each_fine_pixel():
    """The upper right of each 2 x 2 copies the vector to the right, the others the centre."""
    flow = torch.arange(6.0).view(1, 1, 2, 3).expand(1, 2, 2, 3)
    logits = torch.full((1, 9, 2, 2, 2, 3), -100.0)
    logits[:, 4] = 100.0
    logits[:, 4, 0, 1], logits[:, 5, 0, 1] = -100.0, 100.0
    full = convex_upsample(flow, logits.view(1, 36, 2, 3))
    expected = 2 * flow.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected[..., ::2, 1::2] = 2 * torch.tensor([[1.0, 2.0, 2.0], [4.0, 5.0, 5.0]])
    assert torch.allclose(full, expected)


def test_the_mean_of_both_frames_is_subtracted():
    features = torch.randn(4, 3, 4, 5, generator=seeded())  # frame 2 of each example comes last
    subtracted = features - _subtract_mean(features)
    mean = (features[:2].mean((2, 3)) + features[2:].mean((2, 3))) / 2
    expected = mean.repeat(2, 1)[..., None, None].expand_as(subtracted)
    torch.testing.assert_close(subtracted, expected)


def test_unit_features():
    features = torch.randn(2, 8, 3, 4, generator=seeded())
    features[0, :, 0, 0] = 0
    features[1, :, 1, 1] *= 1e-4
    features.requires_grad_()
    expected = torch.nn.functional.normalize(features, dim=1, eps=MIN_NORM)
    unit = _unit(features)
    assert torch.allclose(unit, expected, atol=1e-6)
    gradients = [torch.autograd.grad(x.sin().sum(), features)[0] for x in (unit, expected)]
    assert torch.allclose(*gradients, rtol=1e-4)


def test_learns_one_pair_without_labels(net):
    generator = seeded(3)
    coarse = torch.rand(1, 3, 20, 24, generator=generator)
    image2 = torch.nn.functional.interpolate(coarse, (80, 96), mode="bicubic").clamp(0, 1)
    truth = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 80, 96)
    image1 = warp(image2, truth)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(50):
        flow = net(image1, image2)[0].flow
        loss = census_loss(image1, warp(image2, flow)).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    error = (net(image1, image2)[0].flow - truth).norm(dim=1)[..., 8:-8, 8:-8].mean()
    assert error < 0.5


def test_errors_name_the_argument(net):
    image1, image2 = frames()
    with pytest.raises(ValueError, match="image2 must have batch"):
        net(image1, image2[..., 1:])
    with pytest.raises(ValueError, match="image1 must have 3 channels, got 1"):
        net(image1[:, :1], image2[:, :1])
    with pytest.raises(ValueError, match="image2 must have 3 channels, got 1"):
        net(image1, image2[:, :1])
    for empty in ((slice(0), slice(None)), (slice(None), slice(0))):
        with pytest.raises(ValueError, match="image1 must have pixels, got shape"):
            net(image1[..., *empty], image2[..., *empty])
    for skip in (-1, 4):
        with pytest.raises(ValueError, match=rf"skip must be in \[0, 3\], got {skip}"):
            net(image1, image2, skip=skip)


@pytest.mark.parametrize(
    "changes",
    [{"widths": (8, 0)}, {"decoder": ()}, {"decoder": 8}, {"projected": 8.0}, {"context": -1},
     {"radius": True}, {"radius": 10**30}, {"radius": float("nan")}],
)  # fmt: skip
def test_a_wrong_config_is_an_error(changes):
    with pytest.raises(ValueError, match=f"{min(changes)} must be"):
        FlowNetConfig(**changes)


def test_two_levels_are_the_minimum():
    with pytest.raises(ValueError, match="widths must be 2 or more, got 1"):
        FlowNetConfig(widths=(8,))
    net = FlowNet(FlowNetConfig(widths=(8, 8), projected=8, decoder=(8,), context=8, radius=1))
    assert net(*frames())[0].flow.isfinite().all()
