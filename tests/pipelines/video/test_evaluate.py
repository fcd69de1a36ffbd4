"""Figures that need no judge: what they are of perfect, copied and wrong samples."""

import json

import pytest
import torch

from flowwarp.data.clip import Source, clip_without_flow
from flowwarp.pipelines.video import evaluate as module
from flowwarp.pipelines.video.evaluate import Sample, draw_samples, evaluate, measure_ways
from tiny_model import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def draw(seed, index):
    generator = torch.Generator().manual_seed(seed + 3 * (index % 5) + 1)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (48, 48), mode="bicubic").clamp(0, 1)
    video = (image * 255).byte().expand(8, 3, 48, 48)
    return clip_without_flow(video, ("A red ball", "a ball falls")[index % 2])


SOURCE = Source(draw, 5)


@pytest.fixture(scope="module")
def found(model):
    return evaluate(model, SOURCE, draw, 2, series=100)


def test_the_figures_can_be_written_as_json(found):
    assert json.loads(json.dumps(found)) == found
    assert found["clips"] == 2
    assert set(found["video"]) == {"bicubic", "single", "temporal", "original"}
    assert found["video"]["original"]["detail"] == 1
    assert found["video"]["original"]["warping"] == pytest.approx(0, abs=0.02)  # it stands still
    assert found["samples"]["distance"] == pytest.approx(
        sum(sorted(row["distance"] for row in found["nearest"])[:1])
    )
    assert [row["prompt"] for row in found["nearest"]] == ["a red ball", "a ball falls"]
    assert set(found["gpt"]) == {"nats_per_digit", "nats_without_words"}
    assert found["gpt"]["nats_per_digit"] > 0


def test_the_seed_decides(model, found):
    again = evaluate(model, SOURCE, draw, 2, series=100)
    assert again == found
    other = evaluate(model, SOURCE, draw, 2, series=100, seed=1)
    assert other["dvae"] == found["dvae"]
    assert other["nearest"] != found["nearest"]


def test_a_perfect_vae_has_all_detail(model, monkeypatch):
    video = torch.rand(1, 8, 3, 32, 32)
    monkeypatch.setattr(module, "_at_base", lambda model, clip: video)
    monkeypatch.setattr(module, "decode", lambda model, codes, caption: video[0] + 0.1)
    figures = module.measure_dvae(model, [draw(0, 0)])
    assert figures["psnr"] == pytest.approx(20, abs=0.01)
    assert figures["detail"] == pytest.approx(1, abs=0.01)


def test_self_consistency_is_equality_of_words(model, monkeypatch):
    told = iter(["a red ball", "a red ball"])
    monkeypatch.setattr(module, "describe_patches", lambda model, patches: next(told))
    assert evaluate(model, SOURCE, draw, 2, series=100)["samples"]["self_consistency"] == 0.5


def test_a_copy_is_found(model, monkeypatch):
    copy = module._at_base(model, draw(0, 3))[0]
    other = torch.rand(8, 3, 32, 32)
    samples = [Sample("", "", copy), Sample("", "", other)]
    monkeypatch.setattr(module, "draw_samples", lambda model, prompts, seed: samples)
    found = evaluate(model, SOURCE, draw, 2, series=100)
    assert found["samples"]["copy_candidates"] >= 0.5
    assert found["nearest"][0]["distance"] < 0.2
    assert found["nearest"][0]["caption"] == "a ball falls"
    assert found["samples"]["distance_held_out"] > 10


def test_a_model_without_upsampler_has_one_way():
    model = tiny_model(upsampler=None)
    samples = draw_samples(model, ["a ball"], 0)
    assert set(measure_ways(model, samples, [draw(0, 0)], 0)) == {"bicubic", "original"}


def test_flicker_raises_the_warping_error(model, monkeypatch):
    still = torch.rand(1, 3, 32, 32).expand(8, -1, -1, -1)

    def enlarge_frames(model, decodes, request, noise):
        sharp = torch.rand(8, 3, 48, 48)
        return iter(sharp.split(1) if not request.temporal else sharp[:1].split(1) * 8)

    monkeypatch.setattr(module, "enlarge_frames", enlarge_frames)
    ways = measure_ways(model, [Sample("", "", still)], [draw(0, 0)], 0)
    assert ways["single"]["warping"] > 3 * ways["temporal"]["warping"]
    assert ways["single"]["detail"] > 1
