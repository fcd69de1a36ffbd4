"""Training the upsampler: examples by number, losses by hand, and a run that learns."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from flowwarp.data.clip import Source, clip_without_flow
from flowwarp.models import flownet
from flowwarp.models.flownet import FlowNet
from flowwarp.models.upsampler import TINY, Upsampler, coarse
from flowwarp.pipelines.video.decoded import decode_clip
from flowwarp.train import loop, seeding
from flowwarp.train.upsampler import (
    PreviousConfig,
    UpsamplerDataConfig,
    draw_example,
    roll_out,
    stack,
    upsampler_losses,
    upsampler_task,
)

SIZE, FRAMES = 32, 6
DATA = UpsamplerDataConfig(clips=3, frames=3, group=2, validation=2)


def draw(seed, index):
    """Return a clip of a square that moves to the right by a pixel a frame."""
    generator = seeding.generator(seed, index)
    y, x, color = (int(torch.randint(2, 12, (), generator=generator)) for _ in range(3))
    video = torch.full((FRAMES, 3, SIZE, SIZE), 40, dtype=torch.uint8)
    for t in range(FRAMES):
        video[t, :, y : y + 12, x + t : x + t + 12] = 20 * color
    return clip_without_flow(video, f"color {color}")


def decode(clip, generator):
    """Halve a video, and darken it by what the generator says."""
    low = F.avg_pool2d(clip.video.float() / 255, 2)
    return low if generator is None else low - 0.05 * torch.rand((), generator=generator)


def words(caption):
    return torch.tensor([int(caption.split()[1]), 0])


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return FlowNet(flownet.TINY).eval()


@pytest.fixture
def decoded(net):
    return decode_clip(draw(0, 0), decode, net, 2)


def configs(**changes):
    training = loop.LoopConfig(
        steps=6, batch_size=2, learning_rate=2e-3, warmup=1, ema=0.5, validate_every=0, threads=1
    )
    return {
        "loop": replace(training, **changes),
        "model": replace(TINY, vocabulary=16),
        "data": DATA,
        "previous": PreviousConfig(own_from=0.5, own_steps=1),
    }


def example(decoded, seed=0, **changes):
    return draw_example(decoded, DATA, PreviousConfig(**changes), seeding.generator(seed))


# ------------------------------------------------------------------ examples


def test_an_example_is_frames_in_a_row(decoded):
    firsts = set()
    for seed in range(20):
        drawn = example(decoded, seed, dropout=0.0)
        video = decoded.clip.video
        first = next(
            t for t in range(FRAMES - 2) if torch.equal(drawn["video"][1:], video[t : t + 3])
        )
        firsts.add(first)
        assert torch.equal(drawn["video"][0], video[max(first - 1, 0)])
        assert torch.equal(drawn["decode"], decoded.decode[first : first + 3])
        later = slice(1, None) if first == 0 else slice(None)
        known = slice(max(first - 1, 0), first + 2)
        torch.testing.assert_close(
            drawn["flow"][later],
            2 * F.interpolate(decoded.flow[known], scale_factor=2, mode="bilinear"),
        )
        assert first or not drawn["visible"][0].any()
    assert firsts == {0, 1, 2, 3}


def test_an_example_is_a_function_of_its_number(decoded):
    one, two, other = (example(decoded, seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["noise"], other["noise"])


def test_dropout_hides_the_frame_before(decoded):
    assert not example(decoded, dropout=1.0)["visible"].any()


# ------------------------------------------------------------------ loss


class Known(Upsampler):
    """Predicts a residual of zero, and notes the frames before."""

    def __init__(self):
        super().__init__(TINY)
        self.calls = []

    def forward(self, noisy, time, enlarged, previous=None, visible=None, words=None):
        self.calls.append((noisy, time, previous, visible))
        return torch.zeros_like(noisy)


def test_the_loss_of_each_example_is_its_own(decoded):
    examples = stack([example(decoded, seed) for seed in range(3)])
    net, config = Upsampler(TINY), PreviousConfig()
    for progress in (0.0, 1.0):
        together = upsampler_losses(net, examples, progress, config)["loss"]
        assert together.shape == (3,)
        for number in range(3):
            alone = {name: tensor[number : number + 1] for name, tensor in examples.items()}
            one = upsampler_losses(net, alone, progress, config)["loss"]
            torch.testing.assert_close(one[0], together[number])


def test_the_loss_of_the_bicubic_frame_by_hand(decoded):
    drawn = stack([example(decoded)])
    drawn["time"] = torch.tensor([[0.0, 0.0, 0.5]])
    original = drawn["video"][0, 1:].float() / 255
    bicubic = F.interpolate(drawn["decode"][0], scale_factor=2, mode="bicubic")
    means = ((coarse(original - bicubic)) / TINY.residual).square().mean((1, 2, 3))
    whole = original - bicubic
    details = ((whole - coarse(whole)) / TINY.detail).square().mean((1, 2, 3))
    expected = (means.sum() + details[0] + details[1] + 4 * details[2]) / 3
    loss = upsampler_losses(Known(), drawn, 0.0, PreviousConfig())["loss"]
    torch.testing.assert_close(loss, expected[None])


def test_early_the_frame_before_is_the_true_one_with_noise(decoded):
    drawn = stack([example(decoded, dropout=0.0, noise=0.06)])
    drawn["flow"] = torch.zeros_like(drawn["flow"])
    net = Known()
    upsampler_losses(net, drawn, 0.0, PreviousConfig())
    ((_, _, previous, _),) = net.calls
    error = previous - drawn["video"][0, :-1].float() / 255
    expected = drawn["deviation"][0][:, None, None, None] * drawn["other"][0]
    torch.testing.assert_close(error, expected, atol=1e-5, rtol=0)


def test_late_the_frame_before_is_the_network_s_own(decoded):
    drawn = stack([example(decoded, dropout=0.0, noise=0.0)])
    drawn["flow"] = torch.zeros_like(drawn["flow"])
    net = Known()
    upsampler_losses(net, drawn, 0.5, PreviousConfig(own_from=0.5, own_steps=1))
    previous = net.calls[-1][2]
    bicubic = F.interpolate(drawn["decode"][0], scale_factor=2, mode="bicubic")
    torch.testing.assert_close(previous[0], drawn["video"][0, 0].float() / 255)
    torch.testing.assert_close(previous[1:], bicubic[:-1].clamp(0, 1), atol=1e-5, rtol=0)


def test_a_roll_out_carries_noise_along(decoded):
    drawn = stack([example(decoded, dropout=0.0)])
    drawn["flow"] = torch.zeros_like(drawn["flow"])
    drawn["visible"] = torch.ones_like(drawn["visible"])
    enlarged = torch.zeros_like(drawn["noise"])
    _, noises = roll_out(Known(), drawn, enlarged, torch.zeros(1, 3, SIZE, SIZE), 1)
    assert torch.equal(noises[:, 0], drawn["noise"][:, 0])
    together = torch.stack([noises[0, 0].flatten(), noises[0, 1].flatten()]).corrcoef()
    assert float(together[0, 1]) == pytest.approx(math.sqrt(0.91), abs=0.05)


# ------------------------------------------------------------------ the run


def test_training_is_exact_and_learns(net, tmp_path):
    source = Source(draw, count=3)

    def task(settings):
        return upsampler_task(source, decode, settings, source, net, words)

    one, two = task(configs()), task(configs())
    first, second = one.batch(range(2)), two.batch(range(1, 2))
    assert all(torch.equal(first[name][1:], second[name]) for name in first)
    assert first["words"].shape == (2, 2)
    settings = configs(steps=40)
    result = loop.train(task(settings), settings["loop"], tmp_path / "run")
    figures = result.figures
    with torch.no_grad():
        start = one.validate(one.model.eval())
    assert start["psnr_single"] == pytest.approx(start["psnr_bicubic"], abs=1e-3)
    assert figures["loss"] < start["loss"]
    assert figures["detail_original"] == pytest.approx(1)
    assert math.isfinite(figures["warping_single"])
    assert list((tmp_path / "run" / "samples").glob("*"))


@pytest.mark.parametrize("change", [{"clips": 0}, {"frames": 0}, {"group": 0}])
def test_settings_are_checked(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(DATA, **change)
    with pytest.raises(ValueError, match="dropout"):
        PreviousConfig(dropout=1.5)
