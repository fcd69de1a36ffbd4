"""The removal of flicker, on clips whose motion and flicker are known."""

import weakref
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from flowwarp.metrics.temporal import fine_ratio
from flowwarp.pipelines.flow.steady import (
    LOCAL_REACH,
    TONE_REACH,
    _windows,
    steady,
)

HEIGHT, WIDTH, SPEED = 64, 96, 2  # px; px a frame, to the right


def texture(seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 40, 240, generator=generator)
    return 0.2 + 0.6 * F.interpolate(coarse, (HEIGHT, 4 * WIDTH), mode="bicubic")[0].clamp(0, 1)


def clip(count=16, seed=0, channels=3):
    wide = texture(seed, channels)
    left = 2 * WIDTH
    return [wide[..., left - SPEED * k : left - SPEED * k + WIDTH] for k in range(count)]


def known_flow(one, two):
    flow = torch.zeros(1, 2, *one.shape[2:])
    flow[:, 0] = SPEED
    return flow, -flow


def still(one, two):
    return torch.zeros(1, 2, *one.shape[2:]), torch.zeros(1, 2, *one.shape[2:])


def error(made, frames):
    """Return the RMS difference of two clips away from the border."""
    inside = (..., slice(8, -8), slice(16, -16))
    return (torch.stack(made) - torch.stack(frames))[inside].square().mean().sqrt().item()


def flicker(frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    gains = torch.exp(0.1 * torch.randn(len(frames), 3, 1, 1, generator=generator))
    gammas = torch.exp(0.15 * torch.randn(len(frames), generator=generator))
    return [
        (gain * frame**gamma).clamp(0, 1)
        for frame, gain, gamma in zip(frames, gains, gammas, strict=True)
    ]


def noisy(frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = 0.04 * torch.randn(len(frames), *frames[0].shape, generator=generator)
    return [(frame + grain).clamp(0, 1) for frame, grain in zip(frames, noise, strict=True)]


@pytest.mark.parametrize("guided", [False, True])
def test_tone_flicker_is_removed(guided):
    frames = clip()
    processed = flicker(frames)
    made = list(steady(processed, frames if guided else None, estimate=known_flow))
    changes = [error(clips[1:], clips[:-1]) for clips in (made, processed, frames)]
    assert error(made, frames) < 0.6 * error(processed, frames)
    assert changes[0] - changes[2] < 0.2 * (changes[1] - changes[2])


def test_the_shipped_network_is_the_default():
    frames = clip()
    processed = flicker(frames)
    assert error(list(steady(processed)), frames) < 0.6 * error(processed, frames)


def test_noise_is_removed_and_detail_stays():
    frames = clip()
    processed = noisy(frames)
    made = list(steady(processed, estimate=known_flow))
    assert error(made, frames) < 0.55 * error(processed, frames)
    detail, grain = (
        fine_ratio(torch.stack(video)[None], torch.stack(frames)[None]).item()
        for video in (made, processed)
    )
    assert 0.97 < detail < 1 + 0.3 * (grain - 1)


def test_a_clip_without_flicker_stays():
    frames = clip()
    made = list(steady(frames, estimate=known_flow))
    assert error(made, frames) < 0.003  # above 50 dB


def test_a_fade_stays():
    frames = [frame * (0.5 + 0.02 * k) for k, frame in enumerate(clip(20))]
    made = list(steady(frames, estimate=known_flow))
    assert error(made[TONE_REACH:-TONE_REACH], frames[TONE_REACH:-TONE_REACH]) < 0.006


def test_strength_0_changes_nothing():
    processed = flicker(clip(5))
    made = list(steady(processed, strength=0, estimate=known_flow))
    assert all(torch.equal(one, other) for one, other in zip(made, processed, strict=True))


def test_a_cut_begins_anew():
    """What is behind a cut does not change what is before it."""
    before, after = clip(6), [frame.clone() for frame in clip(6, seed=5)]
    for frame in after:
        frame[:, 20:40] = 1 - frame[:, 20:40] / 4

    def flow(one, two):
        cut = one[:, :, 20:40].mean() < 0.7 < two[:, :, 20:40].mean()
        forth, back = known_flow(one, two)
        return forth, 9 * back if cut else back

    shots = []
    made = list(steady(before + after, estimate=flow, report=shots.append))
    alone = list(steady(before, estimate=flow)) + list(steady(after, estimate=flow))
    assert shots == [6]
    assert all(torch.equal(one, other) for one, other in zip(made, alone, strict=True))


def test_strong_flicker_is_no_cut():
    frames = [frame * (0.45 if k % 2 else 1) for k, frame in enumerate(clip(6))]
    shots = []
    list(steady(frames, estimate=known_flow, report=shots.append))
    assert not shots


@pytest.mark.parametrize("change", ["grey", "hue", "half the size"])
def test_the_guide_gives_no_colours(change):
    frames = clip(8)
    processed = flicker(frames)
    guides = {
        "grey": [frame.mean(0, keepdim=True) for frame in frames],
        "hue": [frame.roll(1, 0) for frame in frames],
        "half the size": [frame[..., ::2, ::2] for frame in frames],
    }
    one, other = (list(steady(processed, guide, estimate=known_flow)) for guide in
                  (frames, guides[change]))  # fmt: skip
    assert error(one, other) < 1e-6


def test_grey_video():
    frames = clip(8, channels=1)
    made = list(steady(noisy(frames), estimate=known_flow))
    assert made[0].shape == (1, HEIGHT, WIDTH)
    assert error(made, frames) < 0.03


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 13), (33, 50)])
def test_any_size(size):
    frames = list(torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(0)))
    made = list(steady(frames, estimate=still))
    assert [frame.shape for frame in made] == [(3, *size)] * 4
    assert all(frame.min() >= 0 and frame.max() <= 1 for frame in made)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_short_videos(count):
    frames = clip(count) if count else []
    made = list(steady(frames, estimate=known_flow))
    assert len(made) == count
    if count == 1:
        assert torch.equal(made[0], frames[0])


def test_it_yields_as_it_goes_and_forgets():
    """A frame comes out after a fixed number of others; memory does not grow."""
    alive, held, read = weakref.WeakSet(), [], 0

    def source():
        nonlocal read
        for frame in clip(40):
            copy = frame.clone()
            alive.add(copy)
            held.append(len(alive))
            read += 1
            yield copy
            del copy

    made = steady(source(), estimate=known_flow)
    next(made)
    assert read == TONE_REACH + LOCAL_REACH + 1
    list(islice(made, 20))
    assert max(held) <= TONE_REACH + 2 * LOCAL_REACH + 2


@pytest.mark.parametrize(
    ("frames", "guide", "match"),
    [
        (clip(3), clip(2), "as many frames as frames, got only 2"),
        (clip(3), clip(4), "got more"),
        ([*clip(2), torch.rand(3, 8, 8)], None, "size of the first"),
        ([torch.rand(2, 8, 8)], None, "frames must be"),
        ([torch.rand(3, 8, 0)], None, "frames must be"),
        (clip(2), [torch.rand(8, 8)] * 2, "guide must be"),
    ],
)
def test_wrong_frames(frames, guide, match):
    with pytest.raises(ValueError, match=match):
        list(steady(frames, guide, estimate=still))


@pytest.mark.parametrize("strength", [-1, 11, float("nan"), "1"])
def test_wrong_strength(strength):
    with pytest.raises(ValueError, match="strength"):
        list(steady(clip(1), strength=strength))


def test_windows_end_with_the_items():
    assert list(_windows("abcd", 1)) == [
        (["a", "b"], 0),
        (["a", "b", "c"], 1),
        (["b", "c", "d"], 1),
        (["c", "d"], 1),
    ]
