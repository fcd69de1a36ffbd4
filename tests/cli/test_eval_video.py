"""``eval-video`` through the real command line, with networks that learned nothing."""

import dataclasses
import errno
import itertools
import json
from pathlib import Path

import pytest
import torch

from flowwarp.cli import eval_video, main
from flowwarp.data.media import VOCABULARY
from flowwarp.data.sprite_world import layers as sprites
from flowwarp.data.sprite_world.labels import JUDGED, label_values
from flowwarp.data.sprite_world.layers import Layers, bundled_layers
from flowwarp.errors import InputError, OutputError
from flowwarp.io import checkpoints, images
from flowwarp.io.checkpoints import Card, load_tensors, save_tensors, save_weights
from flowwarp.io.images import read_image
from flowwarp.legacy.data.tokens import Medium, Vocabulary, train_pairs
from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.models.gpt import SAMPLING
from flowwarp.legacy.pipelines import evaluate as video_evaluation
from flowwarp.metrics.perceptual import LPIPS
from flowwarp.models.classifier import Classifier, ClassifierConfig

NETWORKS = ("gpt", "dvae", "upsampler", "flow")
TOLD = [*JUDGED, "colors", "mean"]


def save_judge(path, values, size=16, apart=4):
    torch.manual_seed(0)
    config = ClassifierConfig(tuple(values.items()), size=size, apart=apart, widths=(16, 32))
    net = Classifier(config)
    for head in net.heads:
        torch.nn.init.normal_(head.bias)
    save_weights(path, net, Card("classifier", dataclasses.asdict(config)))
    return path


@pytest.fixture(scope="module")
def layers():
    return bundled_layers()


@pytest.fixture(scope="module")
def judge(tmp_path_factory, layers):
    folder = tmp_path_factory.mktemp("judge")
    return save_judge(folder / "judge.safetensors", label_values(layers))


@pytest.fixture
def evaluate(capsys, video_weights, judge, layers, monkeypatch):
    """Run the command; return exit code, stdout and stderr."""

    monkeypatch.setattr(sprites, "bundled_layers", lambda: layers)  # read once

    def run(*arguments, networks=NETWORKS, classifier=judge):
        given = [part for name in networks for part in (f"--{name}", video_weights[name])]
        given += ["--classifier", classifier, "--prompts", 2, "--clips", 1]
        with pytest.raises(SystemExit) as stop:
            main(["eval-video", *map(str, (*given, *arguments))])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_all_parts(evaluate):
    code, out, err = evaluate("--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    parts = result["parts"]
    assert list(parts) == ["classifier", "dvae", "gpt", "upsampler", "temporal"]
    for part, columns in parts.items():
        assert list(columns) == ["seen", "held-out"], part
        assert columns["seen"] != columns["held-out"]
    assert set(parts["classifier"]["seen"]) == {f"{name} %" for name in TOLD}
    seen = parts["gpt"]["seen"]
    assert set(seen["action %"]) >= {"truth", "decoded", "drawn"}
    assert seen["bits a token"]["truth"] > 0
    assert set(parts["upsampler"]["seen"]["psnr"]) == {"bicubic", "free", "held", "estimated"}
    assert set(parts["temporal"]["seen"]) == {
        "psnr", "fine", "warping", "samples: warping", "samples: fine"
    }  # fmt: skip
    assert result["counts"] == {"classifier": 2, "dvae": 2, "gpt": 2, "upsampler": 1, "temporal": 1}
    assert (result["sampling"]["guidance"], result["sampling"]["plausible"]) == (2, 0.05)
    assert (result["candidates"], result["best_of"]) == (80, 4)
    assert len(result["confusions"]["seen"][0]) == 4


def test_a_dry_run_measures_and_draws_nothing(evaluate, monkeypatch, tmp_path):
    monkeypatch.setattr(eval_video, "_measure", None)
    monkeypatch.setattr(eval_video, "_draw", None)
    code, out, err = evaluate("--dry-run", "--part", "gpt", "--part", "temporal", "-o", tmp_path)
    assert (code, err) == (0, "")
    plan = ["gpt: 2 seen and 2 held-out", "temporal: 1 seen and 1 held-out"]
    assert out.splitlines() == [*plan, *(str(tmp_path / name) for name in eval_video.PICTURES)]
    code, out, _ = evaluate("--dry-run", "--part", "dvae", "--no-held-out", "--json")
    told = {"dry_run": True, "counts": {"dvae": 2}, "columns": ["seen"], "pictures": []}
    assert json.loads(out) == told
    assert evaluate("--dry-run", "--gpt", tmp_path / "none.safetensors")[0] == 3
    assert list(tmp_path.iterdir()) == []


def test_a_captioner_describes(evaluate, monkeypatch, tmp_path):
    pairs = train_pairs(["a dog walks on sand"] * 2, 30)
    words = Vocabulary((Medium("text", pairs.size),), pairs, 8)
    for size, code in ((16, 0), (32, 3)):
        config = CaptionerConfig(pairs.size + 1, size=size, widths=(8, 8), hidden=8, joined=8)
        card = Card("captioner", dataclasses.asdict(config), notes={VOCABULARY: words.to_json()})
        path = tmp_path / f"{size}.safetensors"
        save_weights(path, Captioner(config), card)
        seen = []
        monkeypatch.setattr(
            video_evaluation, "write_caption", lambda *a, seen=seen: seen.append(a) or "on sand"
        )
        done, out, err = evaluate("--part", "gpt", "--json", "--captioner", path)
        assert done == code
        if code:
            assert "sees frames of 32 px" in err
        else:
            assert len(seen) == 4  # two prompts, seen and held out
            described = json.loads(out)["parts"]["gpt"]["seen"]
            assert "described" in described["ground %"]
            assert "described" not in described.get("action %", {})


def test_a_part_reads_only_what_it_needs(evaluate):
    code, out, err = evaluate("--part", "classifier", "--no-held-out", networks=())
    assert (code, err) == (0, "")
    head, *rows = out.rstrip().splitlines()
    assert head.split() == ["classifier", "(2)", "seen", "truth"]
    assert [row.split()[0] for row in rows] == TOLD
    code, out, err = evaluate("--part", "dvae", "--no-held-out", networks=("dvae",))
    assert (code, err) == (0, "")
    head, first = out.splitlines()[:2]
    assert head.split() == ["dvae", "(2)", "seen", "decoded", "seen", "truth"]
    assert first.split()[:2] == ["psnr", "dB"]
    assert float(first.split()[2]) < 40
    assert first.split()[3] == "-"
    code, out, err = evaluate("--part", "upsampler", networks=("dvae", "upsampler"))
    assert (code, err) == (0, "")
    assert out.startswith("upsampler (1)")


def test_a_seed_is_a_result(evaluate):
    arguments = ("--part", "dvae", "--no-held-out", "--json")
    first = evaluate(*arguments)
    assert evaluate(*arguments) == first
    assert evaluate(*arguments, "--seed", 5)[1] != first[1]


def test_each_part_is_measured_as_is_asked_for(evaluate, monkeypatch):
    asked = {}
    for part in ("gpt", "upsampler", "samples"):

        def measure(*arguments, part=part, **options):
            asked[part] = options
            return {name: {} for name in video_evaluation.STEADY}

        monkeypatch.setattr(video_evaluation, f"evaluate_{part}", measure)
    options = {"--seed": 5, "--steps": 2, "--candidates": 9, "--best-of": 3, "--temperature": 0.5}
    parts = ("--part", "gpt", "--part", "upsampler", "--part", "temporal", "--no-held-out")
    assert evaluate(*parts, *itertools.chain(*options.items()))[0] == 0
    drawn = {
        "seed": 5,
        "candidates": 9,
        "best": 3,
        "sampling": dataclasses.replace(SAMPLING, temperature=0.5),
    }
    assert asked["gpt"] == drawn
    assert asked["samples"] == drawn | {"steps": 2}
    assert (asked["upsampler"]["seed"], asked["upsampler"]["steps"]) == (5, 2)


def test_pictures(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_video, "SHOWN", 3)
    monkeypatch.setattr(eval_video, "NEAREST", 2)
    folder = tmp_path / "deep" / "report"
    arguments = ("--part", "upsampler", "--no-held-out", "-o", folder, "--training-clips", 2)
    code, out, err = evaluate(*arguments)
    assert (code, err) == (0, "")
    paths = [folder / name for name in ("prompts.png", "slices.png", "nearest.png")]
    assert out.splitlines()[-3:] == list(map(str, paths))
    # A row has 8 frames of 32 px beside 28 signs; 2 px lie between frames and rows.
    assert read_image(paths[0]).shape == (3, 3 * 34 - 2, 28 * 6 + 8 + 8 * 34 - 2)
    assert read_image(paths[1]).shape == (3, 3 * (8 * 6 + 4), 2 * 32 + 4)
    assert read_image(paths[2]).shape == (3, 4 * 18 - 2, 28 * 6 + 8 + 8 * 18 - 2)
    code, out, err = evaluate(*arguments)
    assert (code, out) == (4, "")
    assert err == f"flowwarp: {paths[0]}: exists; use --overwrite to replace it\n"


def test_a_picture_that_came_meanwhile_is_not_replaced(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_video, "SHOWN", 2)
    late, search = tmp_path / "nearest.png", video_evaluation.nearest_clips

    def come(*arguments):
        late.write_text("mine")
        return search(*arguments)

    monkeypatch.setattr(video_evaluation, "nearest_clips", come)
    arguments = ("--part", "pictures", "--no-held-out", "-o", tmp_path, "--training-clips", 2)
    code, out, err = evaluate(*arguments)
    drawn = [f"{tmp_path}/prompts.png", f"{tmp_path}/slices.png"]
    assert (code, out.split()) == (4, drawn)
    assert err.endswith(f"flowwarp: {late}: exists; use --overwrite to replace it\n")
    assert late.read_text() == "mine"


def test_pictures_that_cannot_be_written_cost_no_measurements(evaluate, tmp_path, monkeypatch):
    monkeypatch.setattr(eval_video, "SHOWN", 1)

    def full(path, picture):
        raise OutputError(path, "no space left on device")

    monkeypatch.setattr(images, "write_image", full)
    code, out, err = evaluate("--part", "dvae", "--no-held-out", "--json", "-o", tmp_path)
    assert code == 4
    assert err.endswith(f"flowwarp: {tmp_path}/prompts.png: no space left on device\n")
    assert json.loads(out)["parts"]["dvae"]["seen"]


def test_a_folder_that_cannot_be_made_is_found_before_anything_is_measured(
    evaluate, tmp_path, monkeypatch
):
    def full(path, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    folder = tmp_path / "report"
    code, out, err = evaluate("--part", "dvae", "--no-held-out", "-o", folder)
    assert (code, out, err) == (4, "", f"flowwarp: {folder}: no space left on device\n")


def test_pictures_alone_need_no_judge(evaluate, tmp_path, monkeypatch):
    for name in ("SHOWN", "NEAREST", "_SLICED"):
        monkeypatch.setattr(eval_video, name, 1)
    arguments = ("--part", "pictures", "--classifier", tmp_path / "none", "--training-clips", 1)
    code, out, err = evaluate(*arguments, "-o", tmp_path / "report")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == len(list((tmp_path / "report").iterdir())) == 3
    code, out, err = evaluate(*arguments)
    assert (code, out) == (2, "")
    assert "--part pictures needs -o FOLDER" in err


@pytest.mark.parametrize(
    ("noted", "given", "searched"),
    [("71", (), 71), ("71", ("--training-seed", 3), 3), (None, (), 0), ("of old", (), 0)],
)
def test_the_clips_that_were_learned_from_are_searched(
    evaluate, tmp_path, video_weights, monkeypatch, noted, given, searched
):
    tensors, about = load_tensors(video_weights["gpt"])
    weights, seeds = tmp_path / "gpt.safetensors", []
    save_tensors(weights, tensors, about if noted is None else about | {"seed": noted})
    monkeypatch.setattr(eval_video, "_draw", lambda *given, **_: seeds.append(given[2]) or [])
    arguments = ("--part", "pictures", "-o", tmp_path / "report", "--gpt", weights)
    code, out, err = evaluate(*arguments, *given)
    assert (code, out, err) == (0, "", "")
    assert seeds == [searched]


# ------------------------------------------------------------------ what goes wrong


def test_a_package_without_a_judge(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "bundled", lambda folder: tmp_path)
    with pytest.raises(InputError, match=r"^classifier: .* no weights.*--classifier"):
        video_evaluation.load_classifier()


def test_a_judge_that_does_not_know_the_layers(evaluate, tmp_path, layers):
    values = label_values(layers)
    values["hair_color"] = tuple(value for value in values["hair_color"] if value != "blonde")
    path = save_judge(tmp_path / "other.safetensors", values)
    code, out, err = evaluate("--part", "dvae", classifier=path)
    assert (code, out) == (3, "")
    assert err == (
        "flowwarp: layers: hair_color 'blonde' is unknown to the classifier; "
        "train one with tools/train_classifier.py\n"
    )


def test_layers_that_hold_nothing_that_is_held_out(evaluate, layers, monkeypatch):
    """They are refused before a clip is made, unless only what is seen is measured."""
    names = ("body_light_light_female", "torso_tunic_white_female")
    few = Layers(tuple(layer for layer in layers.layers if layer.id in names))
    monkeypatch.setattr(sprites, "load_layers", lambda folder: few)
    arguments = ("--part", "classifier", "--layers", "few")
    assert evaluate(*arguments, "--no-held-out", networks=())[0] == 0
    monkeypatch.setattr(eval_video, "_measure", lambda *_: pytest.fail("it begins"))
    code, out, err = evaluate(*arguments, networks=())
    assert (code, out) == (3, "")
    assert err == (
        "flowwarp: few: hold no combination that is held out; "
        "add some more of them, or use --no-held-out\n"
    )


def test_a_judge_of_other_clips(evaluate, tmp_path, layers):
    path = save_judge(tmp_path / "other.safetensors", label_values(layers), size=32)
    code, out, err = evaluate("--part", "gpt", classifier=path)
    assert (code, out) == (3, "")
    assert err.startswith(f"flowwarp: {path}: reads frames of 32 px, the networks make 16 px;")


def test_a_judge_of_longer_clips(evaluate, tmp_path, layers):
    path = save_judge(tmp_path / "other.safetensors", label_values(layers), apart=8)
    code, out, err = evaluate("--part", "gpt", classifier=path)
    assert (code, out) == (3, "")
    assert err.startswith(f"flowwarp: {path}: compares frames 8 apart, the networks make 8;")


def test_how_different_frames_look(evaluate, tmp_path):
    """With weights of LPIPS there is a row more; other weights are refused before any work."""
    torch.manual_seed(0)
    save_weights(tmp_path / "lpips.safetensors", LPIPS(), Card("lpips"))
    part = ("--part", "upsampler", "--no-held-out", "--json")
    plain, measured = (
        json.loads(evaluate(*part, *more, networks=("dvae", "upsampler"))[1])["parts"]["upsampler"]
        for more in ((), ("--lpips", tmp_path / "lpips.safetensors"))
    )
    row = measured["seen"].pop("lpips")
    assert measured == plain
    assert set(row) == {"bicubic", "free", "held", "estimated"}
    assert min(row.values()) > 0
    save_weights(tmp_path / "lpips.safetensors", LPIPS(), Card("gpt"))
    code, _, err = evaluate(*part, "--lpips", tmp_path / "lpips.safetensors")
    assert code == 3
    assert "contains the weights of gpt, not of lpips" in err
    code, _, err = evaluate("--part", "dvae", "--lpips", tmp_path / "lpips.safetensors")
    assert code == 2
    assert "--lpips is of the part upsampler" in err


@pytest.mark.parametrize("part", ["classifier", "dvae", "gpt", "upsampler", "temporal"])
def test_weights_that_are_none(evaluate, tmp_path, video_weights, monkeypatch, part):
    wrong = video_weights["flow"]
    name = {"temporal": "gpt"}.get(part, part)
    code, out, err = evaluate("--part", part, f"--{name}", wrong)
    assert (code, out) == (3, "")
    assert err.startswith(f"flowwarp: {wrong}: contains the weights of flownet, not of {name}")
    code, out, err = evaluate("--part", part, f"--{name}", tmp_path / "none.safetensors")
    assert (code, out) == (3, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--part", "flow"), ("--prompts", 0), ("--clips", -1), ("--seed", -1), ("--top-p", 0),
        ("--temperature", "nan"), ("--steps", 0),
    ],
)  # fmt: skip
def test_usage(evaluate, arguments):
    code, out, err = evaluate(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_time_left_is_told(capsys, monkeypatch):
    clock = iter(range(0, 100, 10))
    monkeypatch.setattr(eval_video.time, "monotonic", lambda: float(next(clock)))
    assert list(eval_video._told(lambda number: number, 5, "gpt, seen")) == [0, 1, 2, 3, 4]
    # The first second is that of the beginning; clip 2 is asked for after 30 s, clip 4 after 50.
    assert capsys.readouterr().err.splitlines() == [
        "gpt, seen: 1 of 5, 1:20 left",
        "gpt, seen: 3 of 5, 0:27 left",
    ]
