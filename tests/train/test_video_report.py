"""The report of train-video: what is on the page."""

import re
import time
from dataclasses import replace

import pytest
import torch

from flowwarp.data.clip import Source, clip_without_flow
from flowwarp.data.tokens import Words
from flowwarp.io.images import write_image
from flowwarp.pipelines.video.learned import words_note
from flowwarp.train import video_report
from flowwarp.train.video_plan import Plan
from flowwarp.train.video_report import write_report, write_samples
from flowwarp.train.video_run import VideoData, VideoRun
from squares import CAPTIONS, FRAMES, SOURCE, WORDS, draw
from tiny_model import tiny_model

SIZE = (32, 32)
DATA = VideoData(SOURCE, SOURCE, WORDS, SIZE, SIZE, FRAMES, 8.0, {})
PLAN = Plan(2.0, 5, gpt=(64, 2), steps={"dvae": 40, "gpt": 70}, seconds={"dvae": 12.25})
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def run(tmp_path):
    return VideoRun(tmp_path, replace(PLAN), torch.device("cpu"), time.monotonic())


@pytest.fixture(scope="module")
def model():
    return tiny_model(words=WORDS.words, text_length=WORDS.length, size=SIZE, upsampler=None)


def page_of(run, *arguments):
    path = write_report(run, *arguments)
    assert path == run.folder / "report.html"
    return path.read_text("utf-8")


def log(folder, *lines):
    (folder / "samples").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    for step in (20, 40):
        write_image(folder / "samples" / f"{step:08d}-clips.png", torch.zeros(3, 4, 4))


def test_an_unfinished_run_has_curves_sheets_survey_and_plan(run):
    log(
        run.folder / "dvae",
        '{"step": 20, "split": "train", "loss": 8.0, "learning_rate": 1}',
        '{"step": 40, "split": "train", "loss": 0.5, "color": 3}',
        '{"step": 40, "split": "val", "psnr": 24.5, "negative_psnr": -24.5, "codes_used": null}',
        "7",
        '{"step": 60, "spl',  # cut short
    )
    page = page_of(run, f"videos  3\nwords   {HOSTILE}")
    assert "there is no model yet" in page
    assert re.findall(r">((?:train|val) [^<]*)<", page) == [
        "train loss: 0.5, logarithmic",
        "val psnr: 24.5",
    ]
    assert page.count("data:image/png") == 1  # the newest
    assert "Step 40." in page
    assert "videos  3\nwords   &lt;script&gt;" in page
    assert "<td>gpt</td><td>(64, 2)</td>" in page
    assert "<td>steps of gpt</td><td>70</td>" in page
    assert "<td>seconds of dvae</td><td>12.25</td>" in page
    assert "Samples" not in page


def test_samples_stand_beside_the_nearest_training_clips(run, model):
    page = page_of(run, "", (model, DATA))
    captions = re.findall("<figcaption>([^<]*)</figcaption>", page)
    prompts, nearest = captions[::2], captions[1::2]
    assert prompts[:4] == list(CAPTIONS[:4])
    assert len(prompts) == len(nearest) == 4  # all combinations are captions
    assert "None: the captions give none." in page
    for caption in nearest:
        distance, found = re.fullmatch(r"nearest, ([0-9.]+) away: (.*)", caption).groups()
        assert float(distance) > 0
        assert found in CAPTIONS
    assert page.count("data:image/webp") == 8
    assert "Held-out clips are 0.0 away (median of 8)" in page  # they are the training clips
    assert "Figures" not in page  # the transformer is not finished


def test_words_that_make_no_difference_are_named(run, model, monkeypatch):
    assert "Words</h2>" not in page_of(run, "", (model, DATA))
    gains = {"red": [1.0, 2.0, 1.0, 1.0, -1.0], "blue": [-1.0, 1.0] * 4}
    monkeypatch.setattr(model, "notes", words_note(gains))
    page = page_of(run, "", (model, DATA))
    assert "These words make no difference: blue." in page
    rows = "<td>blue</td><td>8</td><td>50%</td><td>0.00</td>", "<td>red</td><td>5</td><td>80%</td>"
    assert 0 < page.index(rows[0]) < page.index(rows[1])
    monkeypatch.setattr(model, "notes", words_note({"red": gains["red"]}))
    assert "All words that were compared make a difference." in page_of(run, "", (model, DATA))


@pytest.mark.parametrize(("last", "memorises"), [(0.505, False), (0.506, True)])
def test_a_loss_of_held_out_clips_that_rises_is_named(run, last, memorises):
    losses = {20: 0.6, 40: 0.5, 60: last}
    lines = (f'{{"step": {step}, "split": "val", "loss": {x}}}' for step, x in losses.items())
    log(run.folder / "gpt", *lines)
    page = page_of(run, "")
    assert ("It memorises: the loss of held-out clips rose after step 40." in page) == memorises


def test_new_combinations_are_shown(run, model):
    fewer = replace(SOURCE, captions=CAPTIONS[:3] + CAPTIONS[5:])
    page = page_of(run, "", (model, replace(DATA, source=fewer)))
    new = page[page.index("New combinations") :]
    captions = re.findall("<figcaption>([^<]*)</figcaption>", new)[::2]
    assert sorted(captions) == sorted(CAPTIONS[3:5])


def test_figures_are_given_as_far_as_there_is_time(run, model, monkeypatch):
    monkeypatch.setattr(video_report, "_MEASURED", 2)
    run.plan.seconds = {"dvae": 1.0, "gpt": 2.0}
    page = page_of(run, "", (model, DATA))
    assert "Of 2 held-out clips" in page
    for name in ("dvae: psnr", "gpt: nats_per_digit", "samples: copy_candidates",
                 "video, bicubic: detail", "video, original: warping"):  # fmt: skip
        assert re.search(rf"<td>{name}</td><td>[-0-9.e+]+</td>", page), name
    late = replace(run, started=time.monotonic() - 7200)
    assert "Figures" not in page_of(late, "", (model, DATA))


def test_without_words_pictures_are_continued(run):
    model = tiny_model(words=(), text_length=1, size=SIZE, upsampler=None)

    def silent(seed, index):
        return clip_without_flow(draw(seed, index).video, "")

    source = Source(silent, 8, ("squares",), ("",))
    data = VideoData(source, source, Words((), 1), SIZE, SIZE, FRAMES, 8.0, {})
    page = page_of(run, "", (model, data))
    captions = re.findall("<figcaption>([^<]*)</figcaption>", page)
    assert captions[::2] == [f"held-out picture {number}" for number in (1, 2, 3, 4)]
    assert all(re.fullmatch(r"nearest, [0-9.]+ away", caption) for caption in captions[1::2])


def test_a_hostile_caption_is_text(run):
    words = Words.of_captions([HOSTILE])
    model = tiny_model(words=words.words, text_length=words.length, size=SIZE, upsampler=None)

    def hostile(seed, index):
        return clip_without_flow(draw(seed, index).video, HOSTILE)

    source = Source(hostile, 8, ("squares",), (HOSTILE,))
    page = page_of(run, HOSTILE, (model, VideoData(source, source, words, *DATA_SHAPE, {})))
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3  # prompt, nearest, survey


DATA_SHAPE = (SIZE, SIZE, FRAMES, 8.0)


def test_samples_have_the_full_size_and_follow_from_the_seed():
    model = tiny_model()
    prompts = ["a red ball", "a ball falls"]
    videos = write_samples(model, prompts)
    assert [tuple(video.shape) for video in videos] == [(8, 3, 48, 48)] * 2
    again, other = write_samples(model, prompts), write_samples(model, prompts, seed=1)
    assert all(torch.equal(*pair) for pair in zip(videos, again, strict=True))
    assert not torch.equal(videos[0], other[0])
