"""``describe-video`` through the real command line, with networks that learned nothing."""

import json
import math
from pathlib import Path

import pytest
import torch

from flowwarp.io.images import write_image
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from flowwarp.legacy.pipelines import captions, generate, load
from flowwarp.legacy.pipelines.captions import caption_video, load_captioner
from flowwarp.legacy.pipelines.windows import Description

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def describe(call, video_weights):
    given = [part for name in ("gpt", "dvae") for part in (f"--{name}", video_weights[name])]
    return lambda *arguments: call("describe-video", *arguments, *given)


def save(name, count=5, height=20, width=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = [torch.rand(3, height, width, generator=generator) for _ in range(count)]
    if name.endswith("/"):
        for number, frame in enumerate(frames):
            write_image(f"{name}{number}.png", frame)
    else:
        write_video(name, frames)
    return frames


def test_one_video_is_one_line_of_words(describe, video_weights):
    save("clip.mp4")
    code, out, err = describe("clip.mp4")
    assert (code, len(out), err) == (0, 1, [])
    told = json.loads(describe("clip.mp4", "--json")[1][0])
    (result,) = told["results"]
    assert result.pop("seconds") > 0
    assert math.isfinite(result.pop("nats"))
    assert result == {"input": "clip.mp4", "text": out[0], "frames": 5, "windows": 1}
    assert told["failed"] == []


def test_a_dry_run_lists_the_videos(describe):
    for name in ("b.mp4", "a.mp4"):
        save(name)
    assert describe("*.mp4", "--dry-run") == (0, ["a.mp4", "b.mp4"], [])
    told = json.loads(describe("b.mp4", "--dry-run", "--json")[1][0])
    assert told == {"dry_run": True, "results": [{"input": "b.mp4"}], "failed": []}
    Path("empty.mp4").touch()
    code, out, err = describe("a.mp4", "empty.mp4", "--dry-run")
    assert (code, out) == (5, ["a.mp4"])
    assert err[0] == "flowwarp: empty.mp4: is empty"
    assert describe("none.mp4", "--dry-run")[0] == 3


def test_by_default_the_captioner_describes(call):
    save("clip.mp4", height=64, width=64)
    text = caption_video(load_captioner("base"), read_video("clip.mp4")).text
    assert call("describe-video", "clip.mp4") == (0, [text], [])


def test_any_size_and_length(describe):
    save("long.gif", count=70, height=9, width=40)
    save("one.webp", count=1, height=64, width=8)
    code, out, _ = describe("long.gif", "one.webp", "--json")
    long, one = json.loads(out[0])["results"]
    assert code == 0
    assert (long["frames"], long["windows"]) == (70, 3)  # the first, fifth and ninth
    assert (one["frames"], one["windows"]) == (1, 1)


def test_folders_and_globs(describe, tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "clips").mkdir()
    save("frames/", 3)
    save("clips/b.mp4", seed=1)
    save("clips/a.mp4", seed=2)
    code, out, _ = describe("frames", "clips", "c*/a.mp4")
    assert code == 0
    paths = [line.split(": ")[0] for line in out]
    assert paths == ["frames", "clips/a.mp4", "clips/b.mp4"]
    (tmp_path / "clips/captions.csv").write_text("file,caption\n")  # as datasets make leaves it
    code, out, _ = describe("clips/*")
    assert (code, [line.split(": ")[0] for line in out]) == (0, paths[1:])


def test_videos_are_told_from_frames(describe, tmp_path):
    """A WebP may be either, and a poster beside videos is neither."""
    for name in ("moving", "still", "mixed"):
        (tmp_path / name).mkdir()
    save("moving/a.webp", seed=1)
    save("moving/b.webp", seed=2)
    for number in range(2):
        write_image(f"still/{number}.webp", torch.rand(3, 20, 30))
    save("mixed/a.mp4")
    write_image("mixed/poster.png", torch.rand(3, 20, 30))
    code, out, _ = describe("moving", "still", "mixed")
    paths = [line.split(": ")[0] for line in out]
    assert (code, paths) == (0, ["moving/a.webp", "moving/b.webp", "still", "mixed/a.mp4"])
    write_image("mixed/second.png", torch.rand(3, 20, 30))
    assert [line.split(": ")[0] for line in describe("mixed")[1]] == ["mixed", "mixed/a.mp4"]


def test_more_tries_are_not_less_likely(describe):
    save("clip.mp4")
    tried = [
        json.loads(describe("clip.mp4", "--best-of", count, "--json")[1][0])["results"][0]["nats"]
        for count in (1, 4, 4)
    ]
    assert tried[1] == tried[2] >= tried[0]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--captioner", "own", "--best-of", "7"], ("own", {"beams": 7})),
        (["--gpt", "own", "--best-of", "7", "--seed", "3"], ("own", {"best": 7, "seed": 3})),
    ],
)
def test_networks_are_those_named_and_try_as_they_shall(call, monkeypatch, options, wanted):
    asked = []

    def tell(network, frames, **options):
        asked.append((network, options))
        return Description("a knight", 0.0, 1)

    for module, kind in ((captions, "caption"), (generate, "describe")):
        monkeypatch.setattr(module, f"{kind}_video", tell)
    monkeypatch.setattr(captions, "load_captioner", lambda name, *others: name)
    monkeypatch.setattr(load, "load_models", lambda name, *others: name)
    save("clip.mp4")
    code, _, _ = call("describe-video", "clip.mp4", *options)
    assert (code, asked) == (0, [wanted])


def test_one_bad_file_does_not_stop_the_rest(describe, tmp_path):
    save("good.mp4")
    whole = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("no video\n")
    code, out, err = describe("cut.mp4", "good.mp4", "text.mp4", "missing.mp4")
    assert code == 5
    assert [line.split(": ")[0] for line in out] == ["good.mp4"]
    assert [line.split(": ")[1] for line in err[:3]] == ["cut.mp4", "text.mp4", "missing.mp4"]
    assert err[3:] == ["flowwarp: 3 of 4 failed"]
    told = json.loads(describe("good.mp4", "text.mp4", "--json")[1][0])
    assert [fault["input"] for fault in told["failed"]] == ["text.mp4"]
    assert len(told["results"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "Missing argument"),
        (["text.mp4"], 3, "text.mp4: "),
        (["missing.mp4"], 3, "missing.mp4: no such file"),
        (["empty"], 3, "empty: no video is here"),
        (["*.avi"], 3, "*.avi: no video is here"),
        (["text.mp4", "--best-of", "0"], 2, "--best-of"),
    ],
)
def test_wrong_input_is_one_line(describe, tmp_path, arguments, code, words):
    (tmp_path / "text.mp4").write_text("no video\n")
    (tmp_path / "empty").mkdir()
    got, out, err = describe(*arguments)
    assert (got, out, len(err)) == (code, [], 1)
    assert words in err[0]


def test_a_terminal_is_not_steered(describe, monkeypatch):
    save("clip.mp4")
    monkeypatch.setattr(generate, "describe", lambda gpt, videos, *a, **n: ["a\x1b[2J\nb"])
    assert describe("clip.mp4")[:2] == (
        0,
        ["a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b"],
    )
