"""Words that a model has learned: by a transformer whose likelihoods are known."""

import json

import pytest
import torch

from flowwarp.data.clip import clip_without_flow
from flowwarp.models.sampling import log_likelihood
from flowwarp.pipelines.video import learned as module
from flowwarp.pipelines.video.encode import encode_prompts, encode_video
from flowwarp.pipelines.video.learned import (
    WordFigure,
    compare_words,
    not_learned,
    word_figures,
    words_note,
)
from tiny_model import tiny_model

CAPTIONS = ["a red ball falls", "a blue ball falls", "a red cube falls"]
WORDS = ("a", "ball", "blue", "cube", "falls", "red")


@pytest.fixture(scope="module")
def model():
    return tiny_model(words=WORDS, text_length=5, upsampler=None)


def clip(caption, seed=0):
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(256, (10, 3, 48, 48), generator=generator, dtype=torch.uint8)
    return clip_without_flow(video, caption)


def test_differences_are_those_of_log_likelihoods(model):
    made = clip("a red ball falls")
    found = compare_words(model, [made], CAPTIONS)
    assert set(found) == {"red", "ball"}  # nothing stands in the places of the others
    video = module.middle_crop(made.video[:8], (32, 32))[None]
    texts = encode_prompts(model, ["a red ball falls", "a blue ball falls", "a red cube falls"])
    patches = encode_video(model.dvae, video).expand(3, -1, -1)
    right, color, shape = log_likelihood(model.gpt, [("text", texts), ("video", patches)]).tolist()
    assert color != shape
    assert found["red"] == [pytest.approx(right - color, rel=0.05, abs=0.05)]
    assert found["ball"] == [pytest.approx(right - shape, rel=0.05, abs=0.05)]


def test_each_clip_counts_once_for_each_word(model, monkeypatch):
    """Two reds in a caption, and several replacements of each, are one difference."""

    def likelihoods(_, video, captions):
        return torch.tensor([float(10 * text.split().count("red")) for text in captions])

    monkeypatch.setattr(module, "_likelihoods", likelihoods)
    captions = ["red on red", "blue on blue", "cube on cube"]
    found = compare_words(model, [clip("red on red"), clip("blue on blue")], captions)
    assert found["red"] == [10.0]
    assert found["blue"][0] in (-10.0, -5.0, 0.0)


def test_many_captions_are_compared_in_parts(model, monkeypatch):
    made = [clip("a red ball falls")]
    whole = compare_words(model, made, CAPTIONS)
    monkeypatch.setattr(module, "_ROWS", 1)
    for word, gains in compare_words(model, made, CAPTIONS).items():
        assert gains == [pytest.approx(whole[word][0], rel=0.05, abs=0.05)]


def test_a_word_of_few_clips_is_not_judged():
    gains = {"red": [1.0, 2.0, -1.0, 4.0, 4.0], "ball": [-1.0, 1.0] * 3, "cube": [-1.0] * 4}
    figures = word_figures(words_note(gains))
    assert figures == {"ball": WordFigure(6, 0.5, 0.0), "red": WordFigure(5, 0.8, 2.0)}
    assert not_learned(figures) == ["ball"]


def test_notes_of_another_kind_say_nothing():
    assert word_figures({}) == {}
    deep = "[" * 100_000
    for text in ("", "3", "[]", "null", '{"a": 1}', '{"a": ["x", 1, 1]}', '{"a": [1]}', deep):
        assert word_figures({"words": text}) == {}, text[:20]
    assert word_figures({"words": json.dumps({"é": [5, 1, 2]})}) == {"é": WordFigure(5, 1.0, 2.0)}
