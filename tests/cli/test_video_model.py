"""``generate-video --weights RUN`` through the real command line, with a model of no training."""

import json

import pytest
import torch

from flowwarp.io.images import write_image
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from flowwarp.pipelines.video import generate as pipeline
from flowwarp.pipelines.video.learned import words_note
from flowwarp.pipelines.video.load import MODEL, save_video_model
from tiny_model import tiny_model

PROMPT = "a red ball"
pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_video_model(folder / MODEL, tiny_model(), {})
    return folder


@pytest.fixture
def generate(call, run_folder):
    def run(*arguments):
        return call("generate-video", *arguments, "--weights", run_folder)

    return run


@pytest.fixture
def requests(monkeypatch):
    """Return the requests that are generated, as a list that grows."""
    seen = []

    def spy(model, request, seed):
        seen.append((request, seed))
        return iter(torch.zeros(request.frames, 3, 48, 48))

    monkeypatch.setattr(pipeline, "generate_frames", spy)
    return seen


def frames_of(path):
    return torch.stack(list(read_video(path)))


def test_size_length_and_rate_are_those_of_the_clips(generate):
    assert generate(PROMPT) == (0, ["a_red_ball.mp4"], [])
    info = video_info("a_red_ball.mp4")
    assert (info.width, info.height, info.fps, info.frames) == (48, 48, 10, 8)
    assert generate(PROMPT)[0] == 4
    assert generate(PROMPT, "--overwrite", "--fps", 25, "--frames", 3) == (
        0, ["a_red_ball.mp4"], []
    )  # fmt: skip
    assert video_info("a_red_ball.mp4").fps == 25
    assert len(frames_of("a_red_ball.mp4")) == 3


def test_a_file_is_as_good_as_its_folder(call, run_folder):
    for name, weights in (("a", run_folder), ("b", run_folder / MODEL)):
        assert call("generate-video", PROMPT, "-o", name, "--weights", weights)[0] == 0
    assert torch.equal(frames_of("a"), frames_of("b"))


def test_options_reach_the_request(generate, requests):
    assert generate(PROMPT, "-o", "a")[0] == 0
    given = ["--seed", 3, "--frames", 5, "--best-of", 2, "--steps", 7, "--temperature", 0.5]
    given += ["--top-p", 0.9, "--guidance", 3, "--no-upsampler", "--no-temporal"]
    assert generate(PROMPT, "-o", "b", *given)[0] == 0
    (plain, seed), (request, other_seed) = requests
    assert plain == pipeline.Request(PROMPT, 8)
    assert (seed, other_seed) == (0, 3)
    assert (request.frames, request.candidates, request.steps) == (5, 2, 7)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.guidance) == (0.5, 0.9, 3)
    assert not request.upsample
    assert not request.temporal


def test_a_picture_and_a_clip_to_go_on_from(generate, requests):
    write_image("first.png", torch.rand(3, 20, 33))
    clip = torch.linspace(0, 1, 31).view(31, 1, 1, 1).expand(31, 3, 40, 60)
    write_video("clip.mp4", clip, 20)  # the model has 10 frames a second
    assert generate(PROMPT, "-o", "a", "--image", "first.png")[0] == 0
    assert generate(PROMPT, "-o", "b", "--continue-from", "clip.mp4")[0] == 0
    (with_image, _), (with_clip, _) = requests
    assert with_image.image.shape == (3, 20, 33)
    assert with_clip.before.shape == (8, 3, 48, 48)
    assert with_clip.before.mean((1, 2, 3)).tolist() == pytest.approx(
        [number / 30 for number in range(16, 31, 2)], abs=0.02
    )
    code, _, err = generate(PROMPT, "--image", "first.png", "--continue-from", "clip.mp4")
    assert code == 2
    assert "exclude each other" in err[0]
    assert generate(PROMPT, "--continue-from", "none.mp4")[0] == 3


def test_unknown_words_are_named(generate, tmp_path):
    code, out, err = generate("a green ball falls up")
    assert (code, out) == (0, ["a_green_ball_falls_up.mp4"])
    assert err == [
        "flowwarp: 'a green ball falls up': left out, as no training caption has it: 'green', 'up'"
    ]
    code, out, err = generate("zebra")
    assert (code, out) == (2, [])
    assert err[0].startswith(
        "flowwarp: PROMPT: none of the words of 'zebra' is known; known: a, ball, falls, red"
    )
    assert not (tmp_path / "zebra.mp4").exists()


def test_words_that_were_not_learned_are_named(call, tmp_path):
    notes = words_note({"ball": [1.0, -1.0] * 3, "falls": [1.0] * 5})
    save_video_model(tmp_path / "other.safetensors", tiny_model(), notes)
    code, _, err = call(
        "generate-video", "a ball falls", "--weights", tmp_path / "other.safetensors", "--dry-run"
    )
    assert code == 0
    assert err == [
        "flowwarp: 'a ball falls': makes no difference, as training did not learn it: 'ball'"
    ]


def test_several_prompts(generate, tmp_path):
    (tmp_path / "list.txt").write_text("a ball\nzebra\na red ball\n")
    code, out, err = generate("--prompts", "list.txt", "-o", "videos", "--json", "--frames", 2)
    assert code == 5
    assert err[-1] == "flowwarp: 1 of 3 failed"
    told = json.loads(out[0])
    assert [result["output"] for result in told["results"]] == [
        "videos/a_ball.mp4", "videos/a_red_ball.mp4"
    ]  # fmt: skip
    assert told["results"][0] | {"seconds": 0} == {
        "prompt": "a ball", "output": "videos/a_ball.mp4", "unknown": [], "not_learned": [],
        "seed": 0, "frames": 2, "width": 48, "height": 48, "fps": 10, "best_of": 1, "seconds": 0,
    }  # fmt: skip
    assert [record["prompt"] for record in told["failed"]] == ["zebra"]
    code, out, _ = generate("a ball", "a red", "-o", "videos", "--skip-existing")
    assert (code, out) == (0, ["videos/a_red.mp4"])


def test_dry_run_writes_nothing(generate, tmp_path):
    code, out, _ = generate(PROMPT, "--dry-run", "--json")
    assert code == 0
    assert json.loads(out[0])["dry_run"]
    assert list(tmp_path.iterdir()) == []
    assert generate("zebra", "--dry-run")[0] == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--top-k", 3], "--top-k"),
        (["--gpt", "base", "--candidates", 80], "--candidates, --gpt"),
        (["--plausible", 0.1], "--plausible"),
    ],
)
def test_options_of_other_weights_are_refused(generate, options, named):
    code, out, err = generate(PROMPT, *options)
    assert (code, out) == (2, [])
    assert err[0].startswith(f"flowwarp: {named}: not with --weights")


def test_what_else_is_wrong(call, generate, tmp_path):
    assert generate()[0] == 2
    assert generate(PROMPT, "--temperature", "nan")[0] == 2
    assert generate(PROMPT, "-o", "a.gif", "--fps", 60)[0] == 2
    code, _, err = call("generate-video", PROMPT, "--weights", tmp_path)
    assert code == 3
    assert "has no model yet" in err[0]
    code, _, err = call("generate-video", PROMPT, "--continue-from", "clip.mp4")
    assert code == 2
    assert "needs --weights" in err[0]


# ------------------------------------------------------------------ describe-video


def test_a_video_is_described(call, run_folder):
    write_video("clip.mp4", torch.rand(20, 3, 40, 60), 20)
    code, out, err = call("describe-video", "clip.mp4", "--weights", run_folder)
    assert (code, len(out), err) == (0, 1, [])
    assert set(out[0].split()) <= {"a", "ball", "falls", "red"}
    told = json.loads(call("describe-video", "clip.mp4", "--weights", run_folder, "--json")[1][0])
    (result,) = told["results"]
    assert result["text"] == out[0]
    assert (result["frames"], result["windows"]) == (10, 2)  # the model has half the rate
    assert result["unlike_training"] is None
    assert told["failed"] == []


def test_a_clip_unlike_the_training_is_told(call, tmp_path):
    notes = {"typical_psnr": "90 1", "typical_nats": "0.5 0.1"}
    save_video_model(tmp_path / MODEL, tiny_model(notes), notes)
    write_video("clip.mp4", torch.rand(8, 3, 48, 48), 10)
    code, out, err = call("describe-video", "clip.mp4", "--weights", ".")
    assert (code, len(out), len(err)) == (0, 1, 1)
    assert err[0].startswith("flowwarp: clip.mp4: is unlike the training clips (its reconstruction")


def test_videos_that_cannot_be_read(call, run_folder, tmp_path):
    write_video("clip.mp4", torch.rand(8, 3, 48, 48), 10)
    (tmp_path / "empty.mp4").touch()
    describe = ("describe-video", "--weights", run_folder)
    code, out, err = call(*describe, "clip.mp4", "empty.mp4")
    assert code == 5
    assert out[0].startswith("clip.mp4: ")
    assert err == ["flowwarp: empty.mp4: is empty", "flowwarp: 1 of 2 failed"]
    assert call(*describe, "empty.mp4")[0] == 3
    assert call(*describe, "clip.mp4", "--dry-run") == (0, ["clip.mp4"], [])
    code, _, err = call(*describe, "clip.mp4", "--best-of", 2)
    assert code == 2
    assert err[0].startswith("flowwarp: --best-of: not with --weights")


def test_a_model_without_words(call, tmp_path):
    save_video_model(tmp_path / MODEL, tiny_model(words=(), text_length=1, upsampler=None), {})
    write_image("first.png", torch.rand(3, 20, 33))
    generate = ("generate-video", "--weights", ".", "--image", "first.png")
    assert call(*generate) == (0, ["video.mp4"], [])
    code, _, err = call(*generate, PROMPT)
    assert (code, err) == (
        2, ["flowwarp: this model was trained without words; leave PROMPT out; see"
            " 'flowwarp generate-video --help'"]
    )  # fmt: skip
    assert call("describe-video", "video.mp4", "--weights", ".")[0] == 2
