"""Pairs with fitted flow: the fit, the cache, resuming it, and crops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flowwarp.data.augment import crop_flow, random_geometry
from flowwarp.data.pairs import prepare_pairs
from flowwarp.data.synthesis import synthesize_pair
from flowwarp.errors import OutputError
from flowwarp.io.images import write_image
from flowwarp.losses.unsupervised import crop_margin, flow_losses, velocity_term
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.train import flow
from flowwarp.train.fitted_pairs import FittedPairs, disk_space, fit, fit_pairs

SIZE = (64, 80)


@pytest.fixture(scope="module")
def photos():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 40, 50, generator=generator)
    return [torch.nn.functional.interpolate(coarse, (160, 200), mode="bicubic")[0].clamp(0, 1)]


@pytest.fixture(scope="module")
def draw(photos):
    def drawn(number):
        pair = synthesize_pair(photos, 1, number, SIZE)
        return pair.image1[None], pair.image2[None]

    return drawn


def test_fit_finds_a_shift_and_drops_inconsistent_flow(photos):
    image = photos[0][None, :, 20:140]
    image1, image2 = image[..., 10:170], image[..., 4:164]  # moves 6 px right
    flows = fit(image1, image2)
    assert flows.shape == (2, 2, 60, 80)
    known = flows.isfinite().all(1)
    assert 0.7 < known.float().mean() < 1
    assert not known[0, :, -2:].any()  # left the frame
    assert not known[1, :, :2].any()  # and what had not come
    assert known[1, :, -5:].float().mean() > 0.9
    error = flows - torch.tensor([[3.0, 0.0], [-3.0, 0.0]]).view(2, 2, 1, 1)
    error = error.norm(dim=1)[known]
    assert error.median() < 0.1
    assert error.mean() < 0.3


def test_a_second_call_reads_the_cache(draw, tmp_path):
    calls = []
    made = fit_pairs(draw, "a", 3, SIZE, cache=tmp_path, progress=lambda *n: calls.append(n))
    assert calls == [(0, 3), (3, 3)]

    def never(number):
        raise AssertionError(number)

    again = fit_pairs(never, "a", 3, SIZE, cache=tmp_path)
    assert len(made) == len(again) == 3
    for index in range(3):
        for a, b in zip(made[index], again[index], strict=True):
            assert torch.equal(a.nan_to_num(9), b.nan_to_num(9))
    arrays = [np.load(path) for path in tmp_path.glob("*/f*.npy")]
    assert disk_space(3, SIZE) == sum(array.nbytes for array in arrays)
    frames, flows = made[1]
    assert frames.dtype == torch.uint8
    assert frames.shape == (2, 3, *SIZE)
    assert flows.shape == (2, 2, 32, 40)
    assert torch.equal(frames[0], (draw(1)[0][0] * 255).round().byte())
    with pytest.raises(AssertionError):  # another key is other data
        fit_pairs(never, "b", 3, SIZE, cache=tmp_path)


def test_a_stopped_fit_resumes(draw, tmp_path, monkeypatch):
    monkeypatch.setattr("flowwarp.train.arrays._CHUNK", 1)
    whole = fit_pairs(draw, "a", 3, SIZE, cache=tmp_path / "whole")

    def stops(number):
        if number == 1:
            raise KeyboardInterrupt
        return draw(number)

    with pytest.raises(KeyboardInterrupt):
        fit_pairs(stops, "a", 3, SIZE, cache=tmp_path / "parts")
    drawn = []

    def noted(number):
        drawn.append(number)
        return draw(number)

    parts = fit_pairs(noted, "a", 3, SIZE, cache=tmp_path / "parts")
    assert drawn == [1, 2]
    for index in range(3):
        assert torch.equal(parts[index][0], whole[index][0])
        assert torch.equal(parts[index][1].nan_to_num(9), whole[index][1].nan_to_num(9))


def test_a_cache_that_cannot_be_written(draw, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        fit_pairs(draw, "a", 1, SIZE, cache=tmp_path / "file")


# ------------------------------------------------------------------ what the trainer makes of them


@pytest.fixture
def constant(tmp_path):
    """A store of one pair whose flow is (3, -2) at half size but for one unknown corner."""
    flows = np.zeros((1, 2, 2, 48, 56), np.float16)
    flows[0, 0, 0], flows[0, 0, 1] = 3, -2
    flows[0, 1] = -flows[0, 0]
    flows[..., :4, :4] = math.nan
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (1, 2, 3, 96, 112), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    np.save(tmp_path / "flows.npy", flows)
    return FittedPairs(tmp_path)


def test_crops_of_half_size_flow_have_full_size(constant):
    config = flow.FlowDataConfig(height=64, width=64, margin=0, fitted_pairs=1, fitted_share=1)
    lengths = set()
    for number in range(6):
        example = flow.draw_batch(flow.Material(None, [], constant), 0, [number], config)
        there, back = example["flow_12"], example["flow_21"]
        assert there.shape == (1, 2, 64, 64)
        known = there.isfinite().all(1)
        assert known.float().mean() > 0.9
        length = there.norm(dim=1)[known]  # turned, mirrored and zoomed, but the same everywhere
        assert torch.allclose(length, length[0], atol=1e-3)
        assert 0.9 * 2 * 13**0.5 - 1e-3 < float(length[0]) < 1.4 * 2 * 13**0.5 + 1e-3
        assert torch.allclose(there, -back, equal_nan=True)
        lengths.add(round(float(length[0]), 3))
    assert len(lengths) == 6


def test_fitted_flow_keeps_its_direction_in_time():
    frames = torch.zeros(2, 3, 40, 56, dtype=torch.uint8)
    flows = torch.stack([torch.full((2, 20, 28), 4.0), torch.full((2, 20, 28), -1.0)])
    config = flow.FlowDataConfig(height=32, width=48, margin=0, fitted_share=1)
    batch = flow.draw_batch(flow.Material(None, [], [(frames, flows)]), 0, range(4), config)
    there, back = (batch[name].norm(dim=1).nanmean((1, 2)) for name in ("flow_12", "flow_21"))
    torch.testing.assert_close(there, 4 * back)


def test_half_size_flow_is_sampled_at_the_right_positions():
    """Each pixel's flow is its own x: at half the size that of the middle of two."""
    whole = torch.arange(56.0).expand(1, 2, 40, 56)
    half = F.avg_pool2d(whole, 2) / 2  # in pixels of its own
    plain = random_geometry(1, (40, 56), (40, 56), torch.Generator())
    read = crop_flow(half, flow._at_half_size(plain, 1))
    torch.testing.assert_close(read[..., 1:-1], whole[..., 1:-1])


def test_fitted_flow_joins_the_loss_and_has_a_gradient(constant):
    config = flow.FlowDataConfig(height=64, width=64, margin=8, fitted_pairs=1, fitted_share=1)
    batch = flow.draw_batch(flow.Material(None, [], constant), 0, range(2), config)
    torch.manual_seed(0)
    net = FlowNet(TINY)
    weights = {"census": 1.0, "smoothness": 0.3, "fitted": 1.0}
    images = {name: batch[name] for name in ("image1", "image2")}
    for skip in (1, 0):  # without and with the finest level
        terms = flow_losses(net, batch, weights, margin=8, skip=skip)
        plain = flow_losses(net, images, weights, margin=8, skip=skip)
        assert torch.allclose(terms["loss"], plain["loss"] + terms["fitted"])
        terms["fitted"].sum().backward()
        used = net.upsampling[0].weight.grad is not None
        assert used == (skip == 0)
    assert all(p.grad is not None for p in net.parameters())


def test_skipping_the_finest_level_returns_the_coarser_flow():
    torch.manual_seed(0)
    net = FlowNet(TINY)
    images = torch.rand(2, 1, 3, 64, 64)
    whole, _ = net(*images)
    coarse, _ = net(*images, skip=1)
    assert len(coarse.levels) == len(whole.levels) - 1
    for a, b in zip(coarse.levels, whole.levels, strict=False):
        assert torch.equal(a, b)
    assert coarse.flow.shape == whole.flow.shape
    assert torch.allclose(coarse.flow.mean(), 8 * coarse.levels[-1].mean(), rtol=0.05, atol=1e-4)


# ------------------------------------------------------------------ three frames


def test_the_frame_before_teaches_what_the_next_one_hides(tmp_path):
    """Photos have no frame before them; of footage only what the next frame hides pays."""
    generator = np.random.default_rng(0)
    photo = torch.from_numpy(generator.random((3, 96, 200), dtype=np.float32))
    for number in range(4):  # it moves left by 8 px a frame
        write_image(tmp_path / f"frame{number}.png", photo[..., 8 * number : 8 * number + 112])
    pairs = prepare_pairs([tmp_path], cache=tmp_path / "cache")
    material = flow.Material(pairs.windows(3), [photo])
    config = flow.FlowDataConfig(height=64, width=64, margin=8, moving_photos=0.5)
    batch = flow.draw_batch(material, 0, range(12), config)
    known = batch["image0"].isfinite().flatten(1).all(1)
    assert 0 < int(known.sum()) < 12
    assert batch["image0"][~known].isnan().all()
    assert "image0" not in flow.draw_batch(replace(material, pairs=pairs), 0, [0], config)

    torch.manual_seed(0)
    net = FlowNet(TINY)
    weights = {"census": 1.0, "smoothness": 0.3, "velocity": 2.0}
    images = {name: batch[name] for name in ("image1", "image2")}
    terms = flow_losses(net, batch, weights, margin=8, occlusion="consistency")
    plain = flow_losses(net, images, weights, margin=8, occlusion="consistency")
    assert torch.allclose(terms["loss"], plain["loss"] + 2 * terms["velocity"])
    assert (terms["velocity"][~known] == 0).all()
    assert (terms["velocity"][known] > 0).any()
    crops = [crop_margin(batch[f"image{number}"], 8) for number in range(3)]
    forward, _ = net(*crops[1:])
    for visible in (True, False):
        mask = torch.full((12, 1, 64, 64), visible)
        loss = velocity_term(net, *crops[:2], forward, mask)
        assert (loss > 0).any() == (not visible)


def test_three_frames_need_footage():
    configs = flow.presets("tiny")
    configs["losses"] = replace(configs["losses"], velocity=1.0)
    photo = torch.zeros(3, 300, 300)
    with pytest.raises(ValueError, match="three frames in a row"):
        flow.flow_task(flow.Material(None, [photo]), configs)
