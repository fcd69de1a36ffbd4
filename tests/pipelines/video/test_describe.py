"""Descriptions: words, windows of long videos, and clips unlike the training."""

import pytest
import torch

from flowwarp.models.sampling import log_likelihood
from flowwarp.pipelines.video import describe as module
from flowwarp.pipelines.video.describe import (
    TYPICAL_NATS,
    TYPICAL_PSNR,
    Description,
    describe,
    measure_clips,
    typical_notes,
    unlike_training,
)
from tiny_model import CONFIG, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def clips(count, frames=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, frames, 3, 48, 48), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("frames", "windows"), [(1, 1), (8, 1), (9, 2), (24, 3), (100, 4)])
def test_any_length_and_size(model, frames, windows):
    found = describe(model, torch.rand(frames, 3, 20, 50))
    assert found.windows == windows
    assert set(found.text.split()) <= set(CONFIG.words)
    assert found.psnr > 0
    assert found.nats > 0


def test_windows_spread_over_a_video(model):
    numbers = torch.arange(22).view(22, 1, 1, 1).expand(22, 3, 4, 4)
    windows = module._cut_windows(model, numbers)
    assert windows[:, 0, 0, 0, 0].tolist() == [0, 7, 14]
    assert windows[:, -1, 0, 0, 0].tolist() == [7, 14, 21]
    (short,) = module._cut_windows(model, numbers[:3])
    assert short[:, 0, 0, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2]


def test_the_words_fit_all_parts_best(model):
    video = torch.rand(40, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    found = describe(model, video)
    windows = module._cut_windows(model, (video * 255).round().byte())
    _, patches, _ = measure_clips(model, windows)
    texts = {describe(model, window.float() / 255).text for window in windows}
    assert found.text in texts

    def likelihood(text):
        words = torch.tensor([model.words.encode(text)])[..., None]
        segments = [("video", patches), ("text", words.expand(len(patches), -1, -1))]
        return float(log_likelihood(model.gpt, segments).sum())

    assert likelihood(found.text) == pytest.approx(max(map(likelihood, texts)), rel=1e-2)


def test_each_clip_is_measured_by_itself(model):
    several = measure_clips(model, clips(3))
    for index in range(3):
        alone = measure_clips(model, clips(3)[index : index + 1])
        for one, all_ in zip(alone, several, strict=True):
            torch.testing.assert_close(one[0], all_[index], rtol=2e-2, atol=2e-2)


def test_typical_figures_are_mean_and_deviation(model, monkeypatch):
    values = iter([20.0, 22.0, 27.0])

    def measured(model, clip):
        value = next(values)
        return torch.tensor([value]), None, torch.tensor([value / 10])

    monkeypatch.setattr(module, "measure_clips", measured)
    notes = typical_notes(model, list(clips(3)))
    assert notes == {TYPICAL_PSNR: "23 2.944", TYPICAL_NATS: "2.3 0.2944"}


@pytest.mark.parametrize(
    ("psnr", "nats", "said"),
    [
        (23.0, 1.0, None),
        (40.0, 0.1, None),  # better and likelier is not unlike
        (17.1, 1.29, None),
        (16.9, 1.0, "its reconstruction has 16.9 dB, theirs 23.0"),
        (23.0, 1.4, "it has 1.40 nats a digit, they 1.00"),
        (1.0, 3.0, "its reconstruction has 1.0 dB, theirs 23.0, and it has 3.00 nats a digit, they"
                   " 1.00"),
    ],
)  # fmt: skip
def test_unlike(psnr, nats, said):
    notes = {TYPICAL_PSNR: "23 2", TYPICAL_NATS: "1 0.01"}
    described = Description("a ball", psnr, nats, 1)
    assert unlike_training(notes, described) == said
    assert unlike_training({}, described) is None
    assert unlike_training({TYPICAL_PSNR: "nan nan", TYPICAL_NATS: "?"}, described) is None
