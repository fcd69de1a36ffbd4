"""The upsampler's examples, roll-outs and training, on a square that slides over a texture."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from flowwarp.data.clip import Clip
from flowwarp.legacy.models import dvae
from flowwarp.legacy.models.dvae import DVAE
from flowwarp.legacy.models.upsampler import (
    TINY,
    Upsampler,
    coarse,
    detail,
    enlarge,
    halve,
    sample,
    upsample_clip,
    warp_previous,
)
from flowwarp.legacy.pipelines.clip_motion import steady_clip_motion
from flowwarp.legacy.train.upsampler import (
    Codec,
    ConditionConfig,
    UpsamplerDataConfig,
    bend_flow,
    compare,
    corrupt_codes,
    draw_batch,
    dvae_codec,
    lossy,
    presets,
    roll_out,
    sheet,
    upsampler_losses,
    upsampler_task,
)
from flowwarp.models import flownet
from flowwarp.models.flownet import FlowNet
from flowwarp.ops.warping import warp
from flowwarp.train import seeding

SIZE, FRAMES = 32, 6


def texture(generator, size):
    coarse = torch.rand(1, 3, size // 2, size // 2, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def source(seed, index):
    """Return a clip of a square that moves right by 2 px a frame."""
    generator = seeding.generator(seed, index)
    ground, square = texture(generator, SIZE), texture(generator, 12)
    video, flow = ground.repeat(FRAMES, 1, 1, 1), torch.zeros(FRAMES - 1, 2, SIZE, SIZE)
    visible = torch.ones(FRAMES - 1, 1, SIZE, SIZE, dtype=torch.bool)
    for t in range(FRAMES):
        x = 2 + 2 * t
        video[t, :, 8:20, x : x + 12] = square
        if t:
            flow[t - 1, 0, 8:20, x : x + 12] = -2
            visible[t - 1, :, 8:20, x - 2 : x] = False  # uncovered
    valid = torch.ones_like(visible)
    valid[:, :, 7] = False  # as if flow were only roughly right there
    pixels = (video * 255).round().byte()
    return Clip(
        pixels, -flow, flow, valid, valid, visible, visible, caption="a square", attributes={}
    )


def encode(video):
    """Pool by 2 and round to 8 levels of each colour."""
    small = F.avg_pool2d(video.flatten(0, 1), 2)
    levels = (small * 7.999).long()
    return (levels * torch.tensor([64, 8, 1]).view(3, 1, 1)).sum(1).unflatten(0, video.shape[:2])


def decode(codes):
    levels = torch.stack([codes // 64, codes // 8 % 8, codes % 8], 2)
    small = ((levels + 0.5) / 8).flatten(0, 1)
    big = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    return big.unflatten(0, codes.shape[:2])


CODEC = Codec(encode, decode, 512, apart=2)
DATA = UpsamplerDataConfig(size=SIZE, length=FRAMES, frames=3)
CLEAR = dataclasses.replace(DATA, spoilt=0, bent=0, loose=0)
TOLD = ConditionConfig(forget=0, begin=0, haze=0, own_share=0)


def rand_video(frames, size):
    return torch.rand(frames, 3, size, size, generator=seeding.generator(0))


def network(seed=0):
    torch.manual_seed(seed)
    net = Upsampler(TINY).eval()
    torch.nn.init.normal_(net.head.weight, std=0.02)
    return net


# ------------------------------------------------------------------ examples


def test_the_stand_in_s_flow_is_right():
    clip = source(0, 0)
    video = clip.video.float() / 255
    warped = warp(video[:-1], clip.flow_21)
    error = (warped - video[1:]).abs() * clip.visible_21
    assert float(error.max()) < 1e-6


def test_codes_are_spoilt_by_share_and_kind():
    codes = torch.arange(4 * 16 * 16).view(1, 4, 16, 16)
    generator = seeding.generator(0)
    assert torch.equal(corrupt_codes(codes, 0.0, 10**6, generator), codes)
    spoilt = corrupt_codes(codes, 0.3, 10**6, generator)
    wrong = spoilt != codes
    assert float(wrong.float().mean()) == pytest.approx(0.3, abs=0.05)
    neighbours = [spoilt == codes.roll(1, axis) for axis in (-3, -2, -1)]
    copied = wrong & (neighbours[0] | neighbours[1] | neighbours[2])
    assert float(copied.sum() / wrong.sum()) == pytest.approx(0.5, abs=0.08)
    for kind in neighbours:  # a sixth each
        assert float((wrong & kind).sum() / wrong.sum()) == pytest.approx(1 / 6, abs=0.06)
    everything = corrupt_codes(torch.zeros(1, 4, 8, 8, dtype=torch.long), 1.0, 5, generator)
    assert everything.unique().tolist() == [0, 1, 2, 3, 4]


def test_flow_of_a_share_of_examples_is_estimated_between_decodes():
    torch.manual_seed(0)
    net = FlowNet(flownet.TINY).eval()
    data, numbers = dataclasses.replace(CLEAR, frames=FRAMES, estimated=0.5), range(12)
    batch = draw_batch(source, CODEC, 0, numbers, data, TOLD, net)
    exact = draw_batch(source, CODEC, 0, numbers, data, TOLD)
    estimated = 0
    for row in numbers:
        clip = source(0, row)
        assert torch.equal(batch["exact"][row, 1:], clip.flow_21)
        assert torch.equal(batch["same"][row, 1:], clip.visible_21 & clip.valid_21)
        if torch.equal(batch["flow"][row], exact["flow"][row]):
            assert torch.equal(batch["visible"][row], exact["visible"][row])
            continue
        estimated += 1
        large = enlarge(lossy(clip.video, CODEC)).clamp(0, 1)
        flow, visible = steady_clip_motion(net, large, 2)
        assert torch.equal(batch["flow"][row, 1:], flow)
        assert torch.equal(batch["visible"][row, 1:], visible)
        assert not batch["visible"][row, 0].any()
    assert 3 <= estimated <= 9
    never = dataclasses.replace(data, estimated=0)
    plain = draw_batch(source, CODEC, 0, numbers, never, TOLD, net)
    assert torch.equal(plain["flow"], exact["flow"])


def test_a_task_learns_from_such_flow_and_is_judged_by_it():
    torch.manual_seed(0)
    net = FlowNet(flownet.TINY).eval()
    settings = configs()
    settings["data"] = dataclasses.replace(settings["data"], estimated=1)
    task = upsampler_task(source, CODEC, settings, flownet=net)
    exact = upsampler_task(source, CODEC, settings)
    assert not torch.equal(task.batch(range(2))["flow"], exact.batch(range(2))["flow"])
    with torch.no_grad():
        figures, without = (one.validate(one.model.eval()) for one in (task, exact))
    assert figures["loss"] != without["loss"]
    assert figures["warping_held"] == without["warping_held"]
    assert set(figures) - set(without) >= {"psnr_estimated", "warping_estimated"}
    settings["data"] = dataclasses.replace(settings["data"], estimated=0)
    never = upsampler_task(source, CODEC, settings, flownet=net)
    with torch.no_grad():
        assert set(never.validate(never.model.eval())) == set(without)


def test_by_whatever_flow_what_is_held_on_to_is_what_exact_flow_leads_to():
    net = network()
    batch = draw_batch(source, CODEC, 0, range(2), CLEAR, TOLD)
    astray = {**batch, "flow": batch["flow"] + 3.0}
    told = {}

    class Holding(Upsampler):
        """Makes the frame before, by the exact flow, whatever it is told."""

        def forward(self, noisy, time, decode, previous=None, visible=None):
            told["previous"] = previous
            frames = batch["frames"].flatten(0, 1).float() / 255
            wanted = self.residual(frames, decode)
            return coarse(wanted) + detail(wanted - noisy) / (1 - time.view(-1, 1, 1, 1))

    right = upsampler_losses(Holding(TINY), batch, 0.0, TOLD)["change"]
    first = told["previous"]
    wrong = upsampler_losses(Holding(TINY), astray, 0.0, TOLD)["change"]
    assert not torch.equal(told["previous"], first)
    torch.testing.assert_close(right, torch.zeros(2), atol=1e-7, rtol=0)
    assert torch.equal(wrong, right)
    blind = {**batch, "same": torch.zeros_like(batch["same"])}
    assert not upsampler_losses(net, blind, 0.0, TOLD)["change"].any()


def test_bent_flow_is_smooth_and_of_the_size_asked_for():
    flow = torch.ones(3, 2, 64, 64)
    bent = bend_flow(flow, 0.5, seeding.generator(0)) - flow
    assert float(bent.std()) == pytest.approx(0.5, abs=0.12)
    assert float((bent[..., 1:] - bent[..., :-1]).std()) < 0.15
    assert bend_flow(flow, 0.0, seeding.generator(0)) is flow


def test_an_example_hangs_on_seed_and_number_alone():
    whole = draw_batch(source, CODEC, 3, range(5, 8), DATA, ConditionConfig())
    alone = draw_batch(source, CODEC, 3, [6], DATA, ConditionConfig())
    other = draw_batch(source, CODEC, 4, [6], DATA, ConditionConfig())
    for name, tensor in alone.items():
        assert torch.equal(tensor[0], whole[name][1])
    assert not torch.equal(other["noise"], alone["noise"])


def test_frames_flow_and_the_frame_before_belong_together():
    batch = draw_batch(source, CODEC, 0, range(12), CLEAR, TOLD)
    firsts = set()
    for row in range(12):
        clip = source(0, row)
        video, decoded = clip.video, lossy(clip.video, CODEC)
        frames = batch["frames"][row]
        first = next(t for t in range(FRAMES) if torch.equal(video[t], frames[0]))
        firsts.add(first)
        assert torch.equal(frames, video[first : first + 3])
        assert torch.equal(batch["decode"][row], decoded[first : first + 3])
        if not first:
            assert not batch["visible"][row, 0].any()  # nothing is before it
        else:
            assert torch.equal(batch["before"][row], video[first - 1])
        before = torch.cat([batch["before"][row][None], frames[:-1]]).float()
        off = (warp(before, batch["flow"][row]) - frames.float()).abs()
        assert float((off * batch["visible"][row]).max()) < 1e-3
        assert torch.equal(
            batch["visible"][row, 1:], (clip.visible_21 & clip.valid_21)[first : first + 2]
        )
    assert firsts == {0, 1, 2, 3}


def test_chances_are_what_the_settings_say():
    numbers = range(300)
    settings = ConditionConfig(forget=0.25, begin=0.3, haze=0.1)
    data = dataclasses.replace(DATA, loose=0.5, bent=0.5, bend=1.0, begun=0.3)
    batch = draw_batch(source, CODEC, 0, numbers, data, settings)
    told = batch["visible"].flatten(2).any(2).float()  # (B, F)
    assert float(told[:, 1:].mean()) == pytest.approx(0.75, abs=0.06)
    assert float(told[:, 0].mean()) == pytest.approx(0.75 * 0.75 * 0.7, abs=0.09)
    loose = batch["visible"][:, 1:, 0, 7].flatten(1).any(1)
    seen = told[:, 1:].any(1)
    assert float(loose[seen].float().mean()) == pytest.approx(0.5, abs=0.1)
    bent = (batch["flow"][:, 1:, 1].abs().amax((1, 2, 3)) > 0).float()
    assert float(bent.mean()) == pytest.approx(0.5, abs=0.1)
    begun = batch["time"] == 0
    assert float(begun.float().mean()) == pytest.approx(data.begun, abs=0.06)
    assert float(batch["time"][~begun].mean()) == pytest.approx(0.5, abs=0.05)
    for name, most in (("dice", 1.0), ("haze", 0.1)):
        assert float(batch[name].mean()) == pytest.approx(most / 2, abs=0.05 * most)
        assert 0 <= float(batch[name].min()) <= float(batch[name].max()) <= most
    both = batch["noise"] * batch["fresh"]
    assert abs(float(both.mean())) < 0.01


def test_too_long_an_example_is_refused():
    with pytest.raises(ValueError, match=r"frames must be from 1 to length \(6\)"):
        UpsamplerDataConfig(frames=7, length=6)
    with pytest.raises(ValueError, match="length must be at least 2"):
        UpsamplerDataConfig(frames=1, length=1)


def test_a_dvae_is_a_codec():
    net = DVAE(dvae.TINY).eval()
    video = (rand_video(6, 64) * 255).byte()
    codec = dvae_codec(net)
    codes = codec.encode(halve(video)[None])
    assert codec.entries == net.config.codes > int(codes.max())
    assert codec.apart == net.config.stride_time > 1
    made = lossy(video, codec)
    assert made.shape == (6, 3, 32, 32)
    whole = net.decode(net.encode(F.avg_pool2d(video.float() / 255, 2)[None]), 6)[0]
    assert torch.equal(made, whole)
    spoilt = lossy(video, codec, lambda codes: (codes + 1) % codec.entries)
    assert not torch.equal(spoilt, made)
    assert lossy(video, dvae_codec(net, half=True)).dtype == torch.float32


# ------------------------------------------------------------------ loss


def test_loss_of_a_network_that_says_nothing():
    """The loss is the mean square of the residual without the noise's detail."""

    class Silent(Upsampler):
        def forward(self, noisy, time, decode, previous=None, visible=None):
            return torch.zeros_like(noisy)

    net = Silent(TINY)
    batch = draw_batch(source, CODEC, 0, range(2), CLEAR, TOLD)
    losses = upsampler_losses(net, batch, 0.0, TOLD)
    for row in range(2):
        frames = batch["frames"][row].float() / 255
        residual = net.residual(frames, batch["decode"][row])
        wanted = (residual - detail(batch["noise"][row])).square().mean()
        assert float(losses["error"][row]) == pytest.approx(float(wanted), rel=1e-5)
    wanted = losses["error"] + TOLD.steady * losses["change"]
    torch.testing.assert_close(losses["loss"], wanted)


def test_what_changes_where_the_frame_before_may_be_trusted():
    class Holding(Upsampler):
        """Makes the frame before, or says nothing."""

        silent = False

        def forward(self, noisy, time, decode, previous=None, visible=None):
            if self.silent:
                return torch.zeros_like(noisy)
            wanted = self.residual(torch.where(visible, previous, 0.9), decode)
            left = 1 - time.view(-1, 1, 1, 1)
            return coarse(wanted) + detail(wanted - noisy) / left

    net = Holding(TINY)
    batch = draw_batch(source, CODEC, 0, range(2), CLEAR, TOLD)
    held = upsampler_losses(net, batch, 0.0, TOLD)["change"]
    torch.testing.assert_close(held, torch.zeros(2), atol=1e-7, rtol=0)
    net.silent = True
    batch["time"], batch["noise"] = torch.zeros(2, 3), torch.zeros_like(batch["noise"])
    found = upsampler_losses(net, batch, 0.0, TOLD)["change"]
    frames = batch["frames"].flatten(0, 1).float() / 255  # as flow is exact, those before, warped
    off = (enlarge(batch["decode"].flatten(0, 1)).clamp(0, 1) - frames) / net.config.residual
    _, trust = warp_previous(frames, batch["flow"].flatten(0, 1), batch["visible"].flatten(0, 1))
    wanted = (trust * off).square().unflatten(0, (2, 3)).mean((1, 2, 3, 4))
    assert bool(trust.any() and not trust.all())
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0)


def test_what_changes_is_of_what_is_shown():
    """Of the frame sharpened, as one step shows it."""
    torch.manual_seed(0)
    net = Upsampler(dataclasses.replace(TINY, sharpness=2.0)).eval()
    torch.nn.init.normal_(net.head.weight, std=0.02)
    batch = draw_batch(source, CODEC, 0, range(2), CLEAR, TOLD)
    batch["time"] = torch.zeros(2, 3)
    batch["exact"] = torch.zeros_like(batch["exact"])
    found = upsampler_losses(net, batch, 0.0, TOLD)["change"]
    before = torch.cat([batch["before"][:, None], batch["frames"][:, :-1]], 1).flatten(0, 1) / 255
    hint, trust = warp_previous(before, *(batch[k].flatten(0, 1) for k in ("flow", "visible")))
    noise, decoded = batch["noise"].flatten(0, 1), batch["decode"].flatten(0, 1)
    shown = sample(net, noise, decoded, hint, trust, steps=1)
    off = (shown - before) / net.config.residual * batch["same"].flatten(0, 1)
    wanted = off.square().unflatten(0, (2, 3)).mean((1, 2, 3, 4))
    torch.testing.assert_close(found, wanted)


def test_the_network_is_told_the_frame_before_warped():
    seen = {}

    class Spy(Upsampler):
        def forward(self, noisy, time, decode, previous=None, visible=None):
            seen.update(previous=previous, visible=visible, noisy=noisy, time=time)
            return torch.zeros_like(noisy)

    batch = draw_batch(source, CODEC, 0, range(2), CLEAR, TOLD)
    upsampler_losses(Spy(TINY), batch, 0.0, TOLD)
    frames = batch["frames"].flatten(0, 1).float() / 255
    off = ((seen["previous"] - frames) * seen["visible"]).abs()
    assert float(off.max()) < 1e-5
    assert float(seen["visible"].float().mean()) > 0.5
    hazy = {**batch, "haze": torch.full_like(batch["haze"], 0.1)}
    upsampler_losses(Spy(TINY), hazy, 0.0, TOLD)
    off = ((seen["previous"] - frames) * seen["visible"])[seen["visible"].expand_as(frames)]
    assert float(off.std()) == pytest.approx(0.1, abs=0.01)


def test_own_frames_come_in_when_their_time_has_come():
    net, settings = network(), ConditionConfig(own_share=0.5, own_from=0.3)
    batch = draw_batch(source, CODEC, 0, range(2), CLEAR, settings)
    batch["dice"] = torch.tensor([0.4, 0.6])
    batch["visible"][:, 1:] = True
    early, late = (
        upsampler_losses(net, batch, progress, settings)["loss"].tolist()
        for progress in (0.29, 0.3)
    )
    assert abs(early[0] - late[0]) > 1e-5
    assert early[1] == pytest.approx(late[1], rel=1e-4)


def test_own_frames_come_with_the_noise_they_were_drawn_from():
    net, settings, seen = network(), ConditionConfig(own_share=0.5, own_from=0.0), []
    batch = draw_batch(source, CODEC, 0, range(2), CLEAR, settings)
    batch["dice"] = torch.tensor([0.9, 0.1])
    batch["time"] = torch.zeros_like(batch["time"])  # where a point is its noise
    own = {name: tensor[1:] for name, tensor in batch.items()}
    previous, carried = roll_out(net, own, own["before"] / 255, settings.own_steps)
    hint, trust = warp_previous(previous[0], own["flow"][0], own["visible"][0])
    net.register_forward_hook(lambda _model, inputs, _out: seen.append(inputs))
    upsampler_losses(net, batch, 0.5, settings)
    noisy, _, _, told, trusted = seen[-1]
    assert torch.equal(noisy[:3], detail(batch["noise"][0]))
    assert torch.equal(noisy[3:], detail(carried[0]))
    assert not torch.equal(carried[0, 1:], batch["noise"][1, 1:])
    torch.testing.assert_close(told[3:], hint)
    assert torch.equal(trusted[3:], trust)


def test_a_roll_out_leaves_no_weight_without_a_gradient(gradients_under_old_autocast):
    net, settings = network(), ConditionConfig(own_share=1.0, own_from=0.0)
    batch = draw_batch(source, CODEC, 0, range(2), CLEAR, settings)
    found = gradients_under_old_autocast(
        net, lambda: upsampler_losses(net, batch, 0.5, settings)["loss"]
    )
    assert [name for name, gradient in found.items() if gradient is None] == []


def test_a_roll_out_is_what_generation_does(monkeypatch):
    """Given the same noise, frame after frame, it draws what the sampler draws."""
    net = network()
    clip = source(0, 1)
    flow_21 = 1.15 * clip.flow_21  # no whole pixels, so that noise is dithered
    shape = (FRAMES, 3, SIZE, SIZE)
    noise, fresh = (torch.randn(shape, generator=seeding.generator(k)) for k in range(2))
    nothing = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    examples = {
        "frames": clip.video,
        "decode": lossy(clip.video, CODEC),
        "flow": torch.cat([torch.zeros(1, 2, SIZE, SIZE), flow_21]),
        "visible": torch.cat([nothing, clip.visible_21]),
        "noise": noise,
        "fresh": fresh,
    }
    before = torch.zeros(1, 3, SIZE, SIZE)
    rows = {name: tensor[None] for name, tensor in examples.items()}
    previous, _ = roll_out(net, rows, before, steps=2)

    # The sampler asks for its noise in this order.
    wanted = itertools.chain([noise[0]], *zip(noise[1:], fresh[1:], strict=True))
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(wanted)[None])
    drawn = upsample_clip(
        net, examples["decode"], flow_21, clip.visible_21, seeding.generator(0), steps=2
    )
    torch.testing.assert_close(previous[0, 1:], drawn[:-1], atol=1e-5, rtol=0)
    assert torch.equal(previous[:, 0], before)


# ------------------------------------------------------------------ the run


def configs(**changes):
    found = presets("tiny")
    settings = {"steps": 6, "batch_size": 2, "warmup": 2, "validate_every": 3, "samples_every": 0}
    settings |= {"save_every": 2, "threads": 1, "log_every": 1}
    found["loop"] = dataclasses.replace(found["loop"], **(settings | changes))
    found["data"] = DATA
    found["condition"] = ConditionConfig(own_share=0.5, own_from=0.5)  # in the middle of the run
    return found


def test_presets_are_of_one_kind():
    for name in ("tiny", "small", "base"):
        assert list(presets(name)) == ["loop", "model", "data", "condition"]


@pytest.mark.parametrize("norm", ["group", "none"])
def test_learns_one_clip_better_than_bicubic(norm):
    """In seconds, with norms and without, and held still it is stiller than drawn one by one."""
    torch.manual_seed(0)
    net = Upsampler(dataclasses.replace(TINY, norm=norm))
    settings = ConditionConfig(own_share=0.5, own_from=0.4)
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3, betas=(0.9, 0.98))
    steps = 90
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1, (steps - step) / 65)
        numbers = range(4 * step, 4 * step + 4)
        batch = draw_batch(lambda *_: source(0, 0), CODEC, 0, numbers, DATA, settings)
        loss = upsampler_losses(net, batch, step / steps, settings)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    net.eval()
    clip = source(0, 0)
    decoded = lossy(clip.video, CODEC)
    drawn = {
        name: upsample_clip(
            net, decoded, clip.flow_21, clip.visible_21, seeding.generator(9), temporal=temporal
        )
        for name, temporal in (("held", True), ("free", False))
    }
    figures = compare(clip, decoded, drawn)
    assert figures["psnr_held"] > figures["psnr_bicubic"] + 2
    assert figures["psnr_free"] > figures["psnr_bicubic"] + 1
    assert figures["warping_held"] < 0.8 * figures["warping_free"]
    assert 0.8 < figures["fine_held"] < 1.2


def test_figures_of_the_truth_itself():
    clip = source(0, 0)
    truth = clip.video.float() / 255
    figures = compare(clip, lossy(clip.video, CODEC), {"held": truth, "free": truth + 0.1})
    assert figures["psnr_held"] == float("inf")
    assert figures["psnr_free"] == pytest.approx(20, abs=1e-3)
    assert figures["fine_held"] == pytest.approx(1)
    assert figures["warping_truth"] == figures["warping_held"] < 1e-3
    assert figures["psnr_bicubic"] < 40
    assert figures["fine_bicubic"] < 0.6


def test_sheets_show_all_four_and_time():
    clip = source(0, 0)
    truth = clip.video.float() / 255
    pictures = sheet(clip, lossy(clip.video, CODEC), truth, 0 * truth)
    assert pictures["clip"].shape == (3, 4 * SIZE + 6, FRAMES * SIZE + 5 * 2)
    assert torch.equal(pictures["clip"][:, -SIZE:, -SIZE:], truth[-1])
    assert pictures["slice"].shape == (3, 6 * FRAMES, 4 * SIZE + 3 * 4)
    assert torch.equal(pictures["slice"][:, 6, -SIZE:], truth[1, :, SIZE // 2])


def test_validation_examples_are_not_trained_on():
    asked = []

    def spy(seed, index):
        asked.append((seed, index))
        return source(seed, index)

    task = upsampler_task(spy, CODEC, configs())
    judging = set(asked)
    asked.clear()
    task.batch(range(4))
    assert len(judging) == len(asked) == 4
    assert judging.isdisjoint(asked)


def test_clips_of_another_source_judge():
    asked = []

    def other(seed, index):
        asked.append(index)
        return source(seed, index)

    upsampler_task(source, CODEC, configs(), other)
    assert set(asked) == {0, 1, 2, 3}


def test_losses_hang_on_the_step_and_examples_on_the_seed():
    one, two = (upsampler_task(source, CODEC, configs(seed=seed)) for seed in (0, 1))
    torch.nn.init.normal_(one.model.head.weight, std=0.02)
    batch = one.batch(range(2))
    assert not torch.equal(batch["frames"], two.batch(range(2))["frames"])
    batch["dice"] = torch.zeros(2)
    first, last = (one.loss(one.model, batch, step)["loss"] for step in (0, 5))
    assert (first != last).all()  # frames of its own come in


def test_what_is_drawn_one_by_one_is_judged_beside_what_is_held(monkeypatch):
    def draw(*known, temporal=True):
        return upsample_clip(*known, temporal=temporal) * temporal  # black

    monkeypatch.setattr("flowwarp.legacy.train.upsampler.upsample_clip", draw)
    task = upsampler_task(source, CODEC, configs())
    with torch.no_grad():
        figures = task.validate(task.model.eval())
        sheet = dict(task.samples(task.model))["clip0"]
    assert figures["psnr_held"] > 10 > figures["psnr_free"]
    _, free, held, _ = sheet[:, :, :SIZE].split([SIZE + 2, SIZE + 2, SIZE + 2, SIZE], 1)
    assert not free[:, :SIZE].any()
    assert held[:, :SIZE].any()


def test_samples_and_validation_of_a_task():
    task = upsampler_task(source, CODEC, configs())
    model = task.model.eval()
    with torch.no_grad():
        figures = task.validate(model)
        pictures = dict(task.samples(model))
        again = task.validate(model)
    assert set(pictures) == {"clip0", "slice0", "clip1", "slice1"}
    assert figures["loss"] > 0
    assert figures == again
    assert upsampler_task(source, CODEC, configs(), start=model).trained
    assert not task.trained
