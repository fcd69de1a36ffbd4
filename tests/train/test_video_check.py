"""Overfitting few clips."""

import re
from dataclasses import replace

import pytest
import torch

from flowwarp.data.clip import Source, clip_without_flow
from flowwarp.data.tokens import Words
from flowwarp.train import loop, video_check
from flowwarp.train.video_check import check_clips, overfit
from flowwarp.train.video_run import VideoData
from squares import CAPTIONS, FRAMES, SOURCE, WORDS, draw

CPU = torch.device("cpu")
DATA = VideoData(SOURCE, SOURCE, WORDS, (32, 32), (32, 32), FRAMES, 8.0, {})


def test_the_page_shows_what_was_made_beside_what_should_be(tmp_path):
    lines = []
    checked = check_clips(DATA, tmp_path, "videos  8 <b>", CPU, 1.0, lines.append)
    assert [line.split(",")[0] for line in lines] == [
        "overfitting 8 clips: discrete VAE",
        "overfitting 8 clips: transformer",
    ]
    assert (checked.page, checked.clips) == (tmp_path / "check.html", 8)
    assert min(checked.steps) >= 1
    page = checked.page.read_text("utf-8")
    captions = re.findall("<figcaption>([^<]*)</figcaption>", page)
    assert captions[::3] == [f"clip: {caption}" for caption in CAPTIONS]
    assert captions[2::3] == [f"sample of: {caption}" for caption in CAPTIONS]
    assert page.count("data:image/webp") == 24
    assert "videos  8 &lt;b&gt;" in page
    assert f"{checked.right} of 8 samples are most like the clip" in page


def test_without_words_first_pictures_say_what_to_make(tmp_path):
    source = Source(lambda seed, index: clip_without_flow(draw(seed, index).video, ""), 3)
    data = replace(DATA, source=source, words=Words((), 1))
    checked = check_clips(data, tmp_path, "", CPU, 0.5)
    assert checked.clips == 3
    assert checked.page.read_text("utf-8").count("sample of: its first picture") == 3


def test_clips_of_different_captions_are_chosen_first():
    def repeated(seed, index):
        return replace(draw(seed, index), caption=CAPTIONS[0 if index < 6 else index - 5])

    chosen = video_check._choose_clips(Source(repeated, 10))
    assert [clip.caption for clip in chosen] == [*CAPTIONS[:5], *[CAPTIONS[0]] * 3]


def test_a_network_is_overfitted_for_a_time(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 1)
    x = torch.rand(16, 3)
    examples = {"x": x, "y": x.sum(1, keepdim=True)}

    def loss(model, batch, step):
        return {"loss": (model(batch["x"]) - batch["y"]).float().square().mean(1)}

    before = loss(net, examples, 0)["loss"].mean().item()
    task = loop.Task("line", net, batch=lambda _: examples, loss=loss)
    trained, steps = overfit(task, lambda _: examples, 0.05, CPU, 200.0)
    assert steps == 199
    assert loss(trained, examples, 0)["loss"].mean().item() < 0.05 * before
    assert not trained.training


@pytest.mark.parametrize("count", [1, 5])
def test_fewer_clips_are_enough(count):
    assert len(video_check._choose_clips(Source(draw, count))) == count
