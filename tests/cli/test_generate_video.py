"""``generate-video`` through the real command line, with networks that learned nothing."""

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flowwarp.bundled import bundled
from flowwarp.cli._video_jobs import LONGEST_NAME, name_of, over_gray
from flowwarp.cli.generate_video import command
from flowwarp.data.media import VOCABULARY
from flowwarp.data.sprite_world.prompts import read_prompt
from flowwarp.defaults import MAX_SCALE
from flowwarp.errors import OutputError
from flowwarp.io import checkpoints
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.io.images import read_image, write_image
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from flowwarp.legacy.data.tokens import train_pairs
from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.models.gpt import MOST
from flowwarp.legacy.pipelines import choosing, hearing
from flowwarp.legacy.pipelines import generate as text_video
from flowwarp.legacy.pipelines import load as video_models
from flowwarp.legacy.pipelines.hearing import hear
from flowwarp.legacy.pipelines.sequences import load_gpt, sample_video_tokens, words_of
from flowwarp.legacy.train.captioner import text_vocabulary

PROMPT = "a red knight"
pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def generate(call, video_weights):
    def run(*arguments, weights=tuple(video_weights)):
        given = [part for name in weights for part in (f"--{name}", video_weights[name])]
        return call("generate-video", *arguments, *given)

    return run


def told_as(monkeypatch, change):
    """Let the command hear prompts in another way."""

    def told(gpt, prompt):
        text = change(prompt)
        return dataclasses.replace(hear(gpt, text), text=text, read=text)

    monkeypatch.setattr(hearing, "hear", told)


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_examples_are_understood():
    root = Path(__file__).parents[2]
    files = [root / name for name in ("README.md", "docs/video.md")]
    texts = [command.help, *(file.read_text("utf-8") for file in files)]
    # Those with --gpt are of weights of one's own.
    found = re.findall(r'generate-video "([^"]+)"(?! --(?:gpt|weights))', "".join(texts))
    assert len(found) >= 6
    known = load_gpt().known
    readings = [read_prompt(prompt, known) for prompt in found]
    for reading in readings:
        assert reading.caption
        assert set(words_of(reading.caption)) <= known
    assert {word for reading in readings for word in reading.left_out} == {"smiling"}  # as is told


# ------------------------------------------------------------------ one prompt


def test_the_video_is_named_after_its_prompt(generate, tmp_path):
    assert generate(PROMPT) == (0, ["a_red_knight.mp4"], [])
    info = video_info("a_red_knight.mp4")
    assert (info.width, info.height, info.fps, info.frames) == (32, 32, 12, 8)
    code, out, err = generate(PROMPT)
    assert (code, out) == (4, [])
    assert err == ["flowwarp: a_red_knight.mp4: exists; use --overwrite to replace it"]
    assert generate(PROMPT, "--overwrite", "--fps", 25)[0] == 0
    assert video_info("a_red_knight.mp4").fps == 25
    assert everything(tmp_path) == ["a_red_knight.mp4"]


@pytest.mark.parametrize(
    ("output", "frames"), [("v.gif", 3), ("v.webp", 11), ("deep/v.mkv", 3), ("v", 3), ("v.d/", 3)]
)
def test_what_out_says(generate, output, frames):
    assert generate(PROMPT, "-o", output, "--frames", frames)[:2] == (0, [output.rstrip("/")])
    assert len(list(read_video(output))) == frames


def test_the_same_seed_is_the_same_video(generate):
    for name, *options in (
        ("a",), ("b",), ("c", "--seed", 1), ("d", "--steps", 2), ("e", "--temperature", 0),
        ("f", "--top-k", 1), ("g", "--guidance", 1), ("h", "--top-p", 0.3), ("i", "--no-temporal"),
        ("j", "--plausible", 1),
    ):  # fmt: skip
        assert generate(PROMPT, "-o", f"{name}/", "--frames", 5, *options)[0] == 0
    first, second, *others = (torch.stack(list(read_video(name))) for name in "abcdefghij")
    assert torch.equal(first, second)
    assert [torch.equal(first, other) for other in others] == [False] * len(others)


def test_best_of_is_how_many_are_made(generate, monkeypatch):
    made = []

    def spy(*arguments, **named):
        made.append(len(arguments[1]))
        return sample_video_tokens(*arguments, **named)

    monkeypatch.setattr(choosing, "sample_video_tokens", spy)
    assert generate(PROMPT, "--best-of", 3, "--no-upsampler")[0] == 0
    assert made == [3]


def test_as_many_candidates_are_asked_for_as_are_wanted(generate, monkeypatch):
    asked = []

    def spy(*arguments, candidates, **named):
        asked.append(candidates)
        return iter([torch.zeros(3, 32, 32)])

    monkeypatch.setattr(text_video, "generate", spy)
    assert generate(PROMPT, "--candidates", 9)[0] == 0
    assert asked == [9]


def test_json_says_what_and_how_long(generate):
    code, out, err = generate(PROMPT, "-o", "v.mp4", "--seed", 7, "--json", "--best-of", 2)
    assert (code, len(out), err) == (0, 1, [])
    told = json.loads(out[0])
    (result,) = told.pop("results")
    seconds = result.pop("seconds")
    assert told.pop("load_seconds") >= 0
    assert told == {"dry_run": False, "failed": []}
    assert result == {
        "prompt": PROMPT, "read_as": PROMPT, "output": "v.mp4", "seed": 7, "frames": 8,
        "width": 32, "height": 32, "fps": 12.0, "candidates": 1, "best_of": 2,
    }  # fmt: skip
    assert set(seconds) == {"tokens", "decode", "revise", "flow", "upsample", "write"}
    # Networks of the tests are not revised, which takes next to nothing.
    assert min(value for stage, value in seconds.items() if stage != "revise") > 0


def test_no_upsampler_needs_none(generate):
    assert generate(PROMPT, "--no-upsampler", weights=("gpt", "dvae"))[0] == 0
    assert video_info("a_red_knight.mp4").width == 16
    code, out, _ = generate(PROMPT, "--no-upsampler", "--json", "-o", "v.gif")
    assert code == 0
    seconds = json.loads(out[0])["results"][0]["seconds"]
    assert seconds["flow"] == seconds["upsample"] == 0


def test_a_picture_to_begin_with(generate):
    write_image("first.png", torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0)))
    assert generate(PROMPT, "--image", "first.png", "-o", "a/")[0] == 0
    assert generate(PROMPT, "-o", "b/")[0] == 0
    one, two = (torch.stack(list(read_video(name))) for name in "ab")
    assert not torch.equal(one, two)


def test_the_picture_to_begin_with_is_not_replaced(generate):
    write_image("first.webp", torch.zeros(3, 32, 32))
    before = Path("first.webp").read_bytes()
    options = ("--image", "first.webp", "-o", "first.webp", "--overwrite")
    line = "flowwarp: first.webp: is the input first.webp; name another file to write"
    assert generate(PROMPT, *options) == (4, [], [line])
    assert Path("first.webp").read_bytes() == before


def test_a_folder_of_frames_has_no_rate_whatever_it_is_called(generate):
    assert generate(PROMPT, "--fps", 200, "-o", "v.gif/", "--dry-run") == (0, ["v.gif"], [])


def test_the_largest_numbers_that_its_help_names_are_taken(generate):
    assert MAX_SCALE == MOST
    extreme = [f"--{name}={MAX_SCALE}" for name in ("temperature", "detail", "guidance")]
    assert generate(PROMPT, "--fps", 0.001, *extreme, "--dry-run")[0] == 0


def test_dry_run_writes_nothing(generate, tmp_path):
    assert generate(PROMPT, "--dry-run", "-o", "sub/v.gif") == (0, ["sub/v.gif"], [])
    told = json.loads(generate(PROMPT, "left", "--dry-run", "--json")[1][0])
    assert told["dry_run"]
    assert [result["output"] for result in told["results"]] == ["a_red_knight.mp4", "left.mp4"]
    assert everything(tmp_path) == []


def test_a_pretrained_judge_chooses(generate, monkeypatch, tmp_path):
    told = []

    def clip_judge(folder, device):
        told.append((folder, device))
        return lambda videos, caption: torch.stack([video.mean() for video in videos])

    monkeypatch.setattr("flowwarp.compat.hugging_face.clip_judge", clip_judge)
    (tmp_path / "clip").mkdir()
    seen = {}
    for name, more in (("judged", ["--captioner", "clip"]), ("plain", [])):
        code, *_ = generate(PROMPT, "-o", f"{name}/", "--best-of", "8", "--no-upsampler", *more)
        assert code == 0
        pictures = sorted((tmp_path / name).glob("*.png"))
        seen[name] = float(torch.stack([read_image(path) for path in pictures]).float().mean())
    assert told == [("clip", "cpu")]
    assert seen["judged"] > seen["plain"]


def test_a_folder_that_is_no_judge_is_one_line(generate, tmp_path):
    (tmp_path / "clip").mkdir()
    code, out, err = generate(PROMPT, "--captioner", "clip")
    assert (code, out, len(err)) == (3, [], 1)
    assert err[0].startswith("flowwarp: clip/config.json: ")


# ------------------------------------------------------------------ several prompts


def test_several_prompts_go_into_a_folder(generate, tmp_path):
    # Sums in the upsampler may round differently from call to call, which this one, that has
    # learned nothing, makes much of.
    plain = "--no-upsampler"
    code, out, _ = generate(PROMPT, "A red: knight", "left", PROMPT, "-o", "out", plain)
    names = ["a_red_knight.mp4", "a_red_knight_2.mp4", "left.mp4"]
    assert (code, out) == (0, [f"out/{name}" for name in names])
    assert everything(tmp_path / "out") == names
    alone = generate("left", "-o", "alone.mp4", plain)
    assert alone[0] == 0
    assert (tmp_path / "alone.mp4").read_bytes() == (tmp_path / "out/left.mp4").read_bytes()


def test_prompts_from_a_file(generate, tmp_path, monkeypatch):
    # Signs such as a form feed end no line.
    text = "\ufeffleft\r\n\n  \na\u2028red  \x0cknight\x85\n"
    (tmp_path / "list.txt").write_bytes(text.encode())
    code, out, _ = generate("--prompts", "list.txt", "waves", "--no-upsampler")
    assert (code, out) == (0, ["waves.mp4", "left.mp4", "a_red_knight.mp4"])
    stdin = io.TextIOWrapper(io.BytesIO(b"walks\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    options = ["-o", "one", "--no-upsampler", "--format", "gif"]
    assert generate("--prompts", "-", *options)[:2] == (0, ["one/walks.gif"])
    assert video_info("one/walks.gif").frames == 8


def test_a_list_that_was_stopped_goes_on(generate, tmp_path):
    Path("out").mkdir()
    Path("out/a_red_knight.mp4").write_bytes(b"made before")
    call = [PROMPT, "a blue knight", "-o", "out"]
    assert generate(*call)[0] == 4
    made = generate(*call, "--skip-existing")
    assert made == (0, ["out/a_blue_knight.mp4"], ["flowwarp: 1 of 2 videos are there"])
    assert Path("out/a_red_knight.mp4").read_bytes() == b"made before"
    assert generate(*call, "--skip-existing")[:2] == (0, [])
    frames = [PROMPT, "-o", "frames", "--no-upsampler", "--skip-existing"]
    assert generate(*frames)[0] == 0
    assert generate(*frames)[:2] == (0, [])
    assert generate(*call, "--skip-existing", "--overwrite")[0] == 2


def test_one_that_cannot_be_written_does_not_stop_the_others(generate, monkeypatch):
    def write(path, *rest):
        if path.name == "walks.mp4":
            raise OutputError(path, "no space left on device")
        return write_video(path, *rest)

    monkeypatch.setattr("flowwarp.io.video_writer.write_video", write)
    fault = "out/walks.mp4: no space left on device"
    code, out, err = generate("left", "walks", PROMPT, "-o", "out", "--no-upsampler", "--json")
    assert (code, err) == (5, [f"flowwarp: {fault}", "flowwarp: 1 of 3 failed"])
    told = json.loads(out[0])
    made = ["out/left.mp4", "out/a_red_knight.mp4"]
    assert [result["output"] for result in told["results"]] == made
    assert told["failed"] == [{"prompt": "walks", "output": "out/walks.mp4", "error": fault}]
    assert [video_info(path).frames for path in made] == [8, 8]
    code, out, err = generate("walks", "-o", "out/walks.mp4", "--no-upsampler")
    assert (code, out, err) == (4, [], [f"flowwarp: {fault}"])


def test_one_of_which_nothing_can_be_read_does_not_stop_the_others(generate, monkeypatch):
    told_as(monkeypatch, lambda prompt: prompt.replace("?", ""))
    fault = "'???': holds nothing that can be read"
    for more in ((), ("--dry-run",)):
        code, out, err = generate("???", "--no-upsampler", *more)
        assert (code, out, err) == (3, [], [f"flowwarp: {fault}"])
    code, out, err = generate("???", PROMPT, "-o", "out", "--no-upsampler", "--json")
    assert (code, err) == (5, [f"flowwarp: {fault}", "flowwarp: 1 of 2 failed"])
    told = json.loads(out[0])
    assert [result["output"] for result in told["results"]] == ["out/a_red_knight.mp4"]
    assert told["failed"] == [{"prompt": "???", "output": "out/video_a03b221c.mp4", "error": fault}]


def test_names_that_collide_all_differ(generate):
    prompts = ["left", "left 2", "left!", "left?", "漢", "字", "left 2."]
    _, out, _ = generate(*prompts, "--dry-run")
    assert out[:4] == ["left.mp4", "left_2.mp4", "left_3.mp4", "left_4.mp4"]
    assert out[6:] == ["left_2_2.mp4"]
    assert len({*out}) == 7


def test_a_name_that_cannot_say_all_is_the_prompt_s_own(generate):
    """In whatever order: --skip-existing goes by names."""
    long = "a woman in a blue dress with long blonde hair and a golden tiara walks"
    prompts = [f"{long} left", f"{long} right", "漢", "字", "a 漢", "a", "Café!", "?"]

    def names(asked: list[str]) -> dict[str, str]:
        _, out, _ = generate(*asked, "--dry-run")
        return dict(zip(asked, out, strict=True))

    named = names(prompts)
    assert names(prompts[::-1]) == named
    assert (named["a"], named["Café!"]) == ("a.mp4", "cafe.mp4")
    assert len({*named.values()}) == len(prompts)
    assert all(len(name) <= LONGEST_NAME + 4 for name in named.values())
    assert all(re.fullmatch(r"[a-z0-9_]+\.mp4", name) for name in named.values())


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A knight, in RED armour!", "a_knight_in_red_armour"),
        ("../../etc/passwd", "etc_passwd"),
        ("Café à la crème", "cafe_a_la_creme"),
        ("骑士向左走", "video"),
        ("...", "video"),
        ("CON", "video_con"),
        ("lpt1", "video_lpt1"),
        ("\x1b[2J\0", "2j"),
    ],
)
def test_names_are_safe_everywhere(prompt, name):
    assert name_of(prompt) == name


def test_a_long_prompt_has_a_short_name():
    assert len(name_of("knight " * 1500)) <= LONGEST_NAME
    assert len(name_of("é" * 10**6)) <= LONGEST_NAME


# ------------------------------------------------------------------ what cannot be


def test_unknown_words_are_told_not_refused(generate):
    code, out, err = generate("a green knight", "a 龍", "left", "-o", "out", "--no-upsampler")
    assert (code, len(out)) == (0, 3)
    assert len(err) == 2
    assert err[0].startswith("flowwarp: 'a green knight': the network has never learned 'green'")
    assert "'龍'" in err[1]


def test_what_a_prompt_is_read_as_is_told(call):
    prompts = "Ginger lass in a green frock", "a knight walks left", "soldier by a zebra"
    code, out, err = call("generate-video", *prompts, "--dry-run", "-o", "out", "--json")
    assert code == 0
    read = [one["read_as"] for one in json.loads(out[0])["results"]]
    assert read == ["a red-haired woman in a green dress", "a knight walks left", "a knight"]
    assert err == [
        f"flowwarp: {prompts[0]!r}: read as {read[0]!r}",
        f"flowwarp: {prompts[2]!r}: read as {read[2]!r}",
        f"flowwarp: {prompts[2]!r}: left out: 'zebra'",
    ]


def test_prompts_that_are_hardly_meant_so_are_told(generate, monkeypatch):
    """Words without quotes, digits alone, and two that are read alike."""
    code, out, err = generate("a", "red", "knight", "-o", "out", "--dry-run")
    assert (code, len(out)) == (0, 3)
    assert err == ["flowwarp: a video for each of 3 words; put quotes around a prompt of several"]
    err = generate("1234 5", "--dry-run")[2]
    assert err == ["flowwarp: '1234 5': holds no word that the network knows; expect anything"]
    told_as(monkeypatch, lambda prompt: prompt.lower().replace("?", ""))
    err = generate("a red knight", "A red knight", "?", "??", "-o", "out", "--dry-run")[2]
    wanted = "flowwarp: 'A red knight': is read like 'a red knight', and gives the same video"
    refused = [f"flowwarp: {signs!r}: holds nothing that can be read" for signs in ("?", "??")]
    assert err == [wanted, *refused, "flowwarp: 2 of 4 failed"]


def test_what_nobody_could_see_of_a_picture_is_not_shown():
    picture = torch.rand(4, 3, 5)
    picture[3, 0], picture[3, 1:] = 0, 1
    laid = over_gray(picture)
    assert torch.equal(laid[:, 1:], picture[:3, 1:])
    assert (laid[:, 0] == 0.5).all()


def test_a_prompt_of_10_kb(generate):
    code, out, err = generate("a" + " knight" * 1500, "--no-upsampler")
    assert code == 0
    assert len(err) == 1
    assert len(err[0]) < 200
    assert "is too long; nothing after" in err[0]
    assert len(out[0]) <= LONGEST_NAME + 4


def test_a_spelling_made_shorter_is_not_too_long(generate, monkeypatch):
    told_as(monkeypatch, lambda prompt: prompt.replace("ghte", "ght"))
    assert generate("a red knighte", "--no-upsampler")[::2] == (0, [])


def test_a_terminal_is_not_steered(generate):
    code, out, err = generate("\x1b[31mred", "--no-upsampler")
    assert code == 0
    assert "\x1b" not in "".join(out + err)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "say what to show"),
        ([""], 3, "PROMPT: is empty"),
        (["left", " \t"], 3, "PROMPT: is empty"),
        (["--prompts", "nothing.txt"], 3, "nothing.txt: no such file"),
        (["--prompts", "blank.txt"], 3, "blank.txt: holds no prompt"),
        (["--prompts", "latin.txt"], 3, "latin.txt: is not a text file in UTF-8"),
        ([PROMPT, "-o", "out.avi"], 2, "OUT must end in"),
        ([PROMPT, "-o", "out.png"], 2, "many frames need a folder or a video"),
        ([PROMPT, "left", "-o", "out.mp4"], 2, "several prompts need a folder"),
        (["--prompts", "one.txt", "-o", "out.mp4"], 2, "a list of prompts needs a folder"),
        ([PROMPT, "-o", "-"], 2, "cannot go to stdout"),
        ([PROMPT, "-o", "a.gif", "--format", "gif"], 2, "of one, OUT says it"),
        ([PROMPT, "-o", "full"], 4, "full: exists and is not an empty folder"),
        ([PROMPT, "-o", "blank.txt/v.mp4"], 4, "blank.txt is not a folder"),
        ([PROMPT, "-o", "v.gif", "--fps", "51"], 2, "a GIF plays from 1/655 to 50"),
        ([PROMPT, "--fps", "0"], 2, "--fps"),
        ([PROMPT, "--fps", "nan"], 2, "--fps must be a number"),
        ([PROMPT, "-o", "out", "--fps", "nan"], 2, "--fps must be a number"),
        ([PROMPT, "--top-p", "nan"], 2, "top_p must"),
        ([PROMPT, "--fps", "0.0009"], 2, "0.001<=x<=1000"),
        ([PROMPT, "--frames", "0"], 2, "--frames"),
        ([PROMPT, "--frames", "10001"], 2, "1<=x<=10000"),
        ([PROMPT, "--temperature", "nan"], 2, "temperature must"),
        ([PROMPT, "--temperature", "10001"], 2, "0<=x<=10000"),
        ([PROMPT, "--guidance", "inf"], 2, "0<=x<=10000"),
        ([PROMPT, "--detail", "10001"], 2, "0<=x<=10000"),
        ([PROMPT, "--plausible", "nan"], 2, "plausible must"),
        ([PROMPT, "--plausible", "1.1"], 2, "0<=x<=1"),
        ([PROMPT, "--seed", "-1"], 2, "--seed"),
        ([PROMPT, "--image", "nothing.png"], 3, "nothing.png: no such file"),
        ([PROMPT, "--image", "latin.txt"], 3, "latin.txt: is not a picture"),
        ([PROMPT, "--dvae", "latin.txt"], 3, "latin.txt: is not a complete safetensors file"),
    ],
)
def test_one_line_and_nothing_written(generate, tmp_path, arguments, code, words):
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "one.txt").write_text(f"{PROMPT}\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n" * 9)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/keep.png").touch()
    before = everything(tmp_path)
    weights = ("gpt", "upsampler", "flow") if "--dvae" in arguments else ("gpt", "dvae")
    got, out, err = generate(*arguments, "--no-upsampler", weights=weights)
    assert (got, out, len(err)) == (code, [], 1)
    assert words in err[0]
    assert everything(tmp_path) == before


def test_a_package_without_weights(generate, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "bundled", lambda folder: tmp_path / folder)
    code, out, err = generate(PROMPT, weights=())
    assert (code, out) == (3, [])
    assert err[0].startswith("flowwarp: gpt_base: this package has no weights of it; train some")
    assert everything(tmp_path) == []


def test_a_transformer_that_learned_the_packages_sketches_has_them(tmp_path):
    """Such as one that goes on from the package's, wherever its file lies."""
    shutil.copy(bundled("weights") / "gpt_base.safetensors", tmp_path / "mine.safetensors")
    models = video_models.load_models(tmp_path / "mine.safetensors", upsampler=None, flow=None)
    assert models.uses_sketches
    assert models.captioner is not models.sketcher  # it describes; the other one sketches


def test_the_packages_captioner_comes_with_its_sketcher_alone(tmp_path):
    weights = bundled("weights")
    gpt = weights / "gpt_base.safetensors"
    own = shutil.copy(weights / "sketcher_base.safetensors", tmp_path / "own.safetensors")
    for network, sketcher, is_there in ((gpt, "base", True), ("base", own, False)):
        models = video_models.load_models(network, upsampler=None, flow=None, sketcher=sketcher)
        assert models.uses_sketches
        assert (models.captioner is not models.sketcher) == is_there


def test_a_sketcher_for_a_network_that_makes_no_sketches_is_noticed(generate, tmp_path):
    pairs = train_pairs([PROMPT], 60)
    sizes = {"size": 16, "apart": 2, "kinds": 8, "widths": (8, 8), "hidden": 8}
    eye = Captioner(CaptionerConfig(pairs.size + 1, **sizes))
    notes = {VOCABULARY: text_vocabulary(pairs, 8).to_json()}
    save_weights("eye.safetensors", eye, Card("captioner", vars(eye.config), notes=notes))
    code, _, err = generate(PROMPT, "--sketcher", "eye.safetensors", "--dry-run")
    assert code == 0
    assert "it makes no sketches; --candidates changes nothing" in err[0]


def test_longer_than_a_network_can_is_found_before_anything_is_made(generate, monkeypatch):
    monkeypatch.setattr(video_models.VideoModels, "goes_on", False)
    for more in ((), ("--dry-run",)):
        code, out, err = generate(PROMPT, "--frames", "9", "--no-upsampler", *more)
        assert (code, out) == (2, [])
        assert "--frames must be at most 8 with this --gpt" in err[-1]


def test_the_weights_in_the_package(generate):
    assert generate("a knight walks to the left", "-o", "v.mp4", weights=())[::2] == (0, [])
    info = video_info("v.mp4")
    assert (info.width, info.height, info.frames) == (128, 128, 16)


def test_loads_only_what_it_needs(video_weights):
    given = [part for name in video_weights for part in (f"--{name}", str(video_weights[name]))]
    code = (
        "import sys\n"
        "from flowwarp.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = ('kornia', 'rich', 'torch._dynamo', 'sympy', 'cv2', 'imageio', 'torchvision')\n"
        "loaded = [name for name in heavy if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    command = [sys.executable, "-c", code, "generate-video", PROMPT, *given]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
