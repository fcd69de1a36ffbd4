"""``eval-video --weights RUN DATA`` through the real command line."""

import json

import pytest
import torch

from flowwarp.cli._eval_model import format_figures
from flowwarp.io.video_writer import write_video
from flowwarp.pipelines.video.load import MODEL, save_video_model
from tiny_model import tiny_model

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def clips(tmp_path):
    """Return a folder of captioned clips, whose rate is twice that of the model."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(12):
        image = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(number))
        video = torch.nn.functional.interpolate(image, (50, 60)).expand(16, 3, 50, 60)
        write_video(folder / f"{number}.mp4", video, 20)
        (folder / f"{number}.txt").write_text(("a red ball", "a ball falls")[number % 2])
    return folder


@pytest.fixture
def evaluate(call, tmp_path):
    (tmp_path / "run").mkdir()
    save_video_model(tmp_path / "run" / MODEL, tiny_model(), {})
    return lambda *arguments: call("eval-video", "--weights", "run", *arguments)


def test_a_model_is_measured(evaluate, clips):
    code, out, _ = evaluate(clips, "--json")
    assert code == 0
    figures = json.loads(out[0])
    assert figures["clips"] == 1  # one video in ten is held out
    assert figures["dvae"]["psnr"] > 0
    assert set(figures["video"]) == {"bicubic", "single", "temporal", "original"}
    assert len(figures["nearest"]) == 1
    code, out, _ = evaluate(clips, "--dry-run")
    assert (code, out) == (0, [f"1 held-out clips of {clips}"])


def test_tables():
    figures = {
        "clips": 3,
        "dvae": {"psnr": 28.123456, "detail": 0.9},
        "gpt": {"nats_per_digit": 0.25, "nats_without_words": 0.5},
        "samples": {
            "self_consistency": None,
            "copy_candidates": 0.0,
            "distance": 20.5,
            "distance_held_out": 21.0,
        },
        "video": {"bicubic": {"warping": 0.02, "detail": 0.5}},
    }
    assert format_figures(figures).splitlines() == [
        "3 held-out clips                   ",
        "DVAE, PSNR (dB)               28.12",
        "DVAE, detail                    0.9",
        "transformer, nats a digit      0.25",
        "transformer, without words      0.5",
        "self-consistency                  -",
        "copy candidates                   0",
        "distance to the nearest clip   20.5",
        "the same of held-out clips       21",
        "",
        "video    E_warp  detail",
        "bicubic    0.02     0.5",
    ]


def test_what_is_wrong(call, evaluate, clips):
    assert evaluate()[0] == 2
    assert evaluate("none")[0] == 3
    code, _, err = evaluate(clips, "--part", "dvae", "--steps", 3)
    assert code == 2
    assert err[0].startswith("flowwarp: --part, --steps: not with --weights")
    assert call("eval-video", clips)[0] == 2
