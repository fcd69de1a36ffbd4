"""``flowwarp datasets``: list, info and make."""

import csv
import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from flowwarp.bundled import bundled
from flowwarp.cli import datasets as command
from flowwarp.data.captioned import load_captioned
from flowwarp.data.recipes import load_recipe, pairs_of, read_pair, recipe_names
from flowwarp.data.sources import open_source
from flowwarp.data.sprite_world import layers
from flowwarp.data.sprite_world.cast import is_held_out
from flowwarp.io.images import list_frames, write_image
from flowwarp.io.video_reader import read_video
from flowwarp.ops.warping import warp

SPRITES = str(bundled("datasets") / "sprites")
pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def datasets(call):
    return partial(call, "datasets")


# ------------------------------------------------------------------ list and info


def test_list_names_recipes_and_worlds(datasets):
    code, out, err = datasets("list")
    assert (code, err) == (0, [])
    names = {line.split()[0] for line in out}
    assert names == set(recipe_names()) | {"sprites", "digits", "captioned"}
    assert "MPI Sintel" in next(line for line in out if line.startswith("sintel"))


def test_list_does_not_import_torch(datasets):
    """It reads only a few small files."""
    import subprocess

    code = "import sys; from flowwarp.cli import main\ntry: main(['datasets', 'info', 'digits'])\n"
    code += "except SystemExit: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "moving digits" in done.stdout


def test_list_as_json(datasets):
    code, (line,), _ = datasets("list", "--json")
    assert code == 0
    assert json.loads(line)["datasets"]["kitti2015"] == "KITTI 2015 scene flow"


@pytest.mark.parametrize("world", ["sprites", "digits"])
def test_info_shows_captions_of_the_first_clips(datasets, world):
    shown = json.loads(datasets("info", world, "--json")[1][0])["captions"]
    source = open_source(world, 16, 2)
    assert shown == [source(0, number).caption for number in range(len(shown))]
    assert datasets("info", world)[1][-len(shown) :] == [f"  {caption}" for caption in shown]


def test_info_prints_licence_origin_and_layout(datasets):
    code, out, err = datasets("info", "kitti2015")
    assert (code, err) == (0, [])
    text = "\n".join(out)
    for part in ("KITTI 2015 scene flow", "CC BY-NC-SA 3.0", "cvlibs.net", "{scene}_10.png"):
        assert part in text
    masks = [line.strip() for line in datasets("info", "pairs")[1] if "optional" in line]
    assert masks == [
        "{*pair}/occ.png (all, occluded; optional)",
        "{*pair}/invalid.png (all, invalid; optional)",
        "{*pair}/flow_noc.png (all, flow visible; optional)",
    ]
    text = "\n".join(datasets("info", "sprites")[1])
    assert "CC-BY-SA 3.0 or GPL 3.0" in text
    assert "attributes.json" in text
    assert "every second pixel" in datasets("info", "spring")[1][-1]
    assert "every second pixel" in json.loads(datasets("info", "spring", "--json")[1][0])["note"]
    about = json.loads(datasets("info", "captioned", "--json")[1][0])
    assert about["name"] == "captioned"
    assert any("captions.csv" in line for line in about["layout"])


def test_info_of_a_user_recipe(datasets):
    Path("mine.toml").write_text('title = "Mine"\nfootage = ["*.mp4"]\n')
    code, out, _ = datasets("info", "mine.toml")
    assert code == 0
    assert out[0] == "mine.toml: Mine"
    assert out[1] == "licence: not stated"


def test_info_of_an_unknown_name(datasets):
    code, out, (line,) = datasets("info", "sintle")
    assert (code, out) == (3, [])
    assert line.startswith("flowwarp: sintle: is not known")
    assert datasets("info", "")[2][0].startswith("flowwarp: '': is not known")
    assert "sprites, digits, captioned, " in line
    assert "sintel" in line


# ------------------------------------------------------------------ make


def test_make_writes_clips_and_captions(datasets):
    code, out, err = datasets("make", "digits", "-o", "out", "--count", 3, "--size", 32)
    assert (code, err) == (0, [])
    names = ["000000.mp4", "000001.mp4", "000002.mp4"]
    assert out == [f"out/{name}" for name in [*names, "captions.csv"]]
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == [*names, "captions.csv"]
    with Path("out/captions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == names
    assert all(re.search("mov|glid|slid|stand|rest|stay", row["caption"]) for row in rows)
    frames = list(read_video("out/000000.mp4"))
    assert len(frames) == 16
    assert frames[0].shape == (3, 32, 32)


def test_made_clips_can_be_read_as_captioned_videos(datasets):
    datasets("make", "digits", "-o", "out", "--count", 2, "--size", 32)
    store = load_captioned("out", 32, 16, cache="cache")
    assert len(store) == 2
    with Path("out/captions.csv").open(encoding="utf-8") as file:
        assert store[1].caption == list(csv.DictReader(file))[1]["caption"]


def test_sprites_with_flow(datasets):
    code, out, _ = datasets(
        "make", "sprites", "-o", "out", "--count", 2, "--size", 64, "--frames", 4, "--flow"
    )
    assert code == 0
    assert out == ["out/000000.mp4", "out/000001.mp4", "out/captions.csv"]
    assert "Redshrike" in Path("out/AUTHORS.txt").read_text("utf-8")
    pairs = pairs_of(load_recipe("made"), "out")
    assert len(pairs) == 6
    truths = [read_pair(pair) for pair in pairs]
    assert not all(truth.valid.all() for truth in truths)
    for truth in truths:
        assert truth.visible is not None
        known = truth.valid & truth.visible
        error = (warp(truth.image2, truth.flow_12.nan_to_num(0)) - truth.image1).abs()
        assert (error.mean(1, keepdim=True) * known).sum() / known.sum() < 0.02
        assert known.float().mean() > 0.5


def test_clips_depend_on_the_seed_only(datasets):
    def make(*options):
        code, (line,), _ = datasets(
            *("make", "sprites", "-o", "x", "--size", "16", "--count", 3, "--dry-run", "--json"),
            *options,
        )
        assert code == 0
        return json.loads(line)["clips"]

    made = make()
    assert made == make("--layers", SPRITES) != make("--seed", 1)
    assert not any(is_held_out(clip["attributes"]) for clip in made)
    assert all(is_held_out(clip["attributes"]) for clip in make("--held-out"))
    assert not Path("x").exists()


def test_layers_without_held_out_combinations_are_refused(datasets, monkeypatch):
    names = ("body_light_light_female", "torso_tunic_white_female")
    few = [layer for layer in layers.bundled_layers().layers if layer.id in names]
    monkeypatch.setattr(layers, "load_layers", lambda folder: layers.Layers(tuple(few)))
    options = ("make", "sprites", "-o", "x", "--size", "16", "--count", 2, "--layers", "few")
    assert datasets(*options, "--dry-run")[0] == 0
    code, out, err = datasets(*options, "--held-out")
    assert (code, out) == (3, [])
    assert err == ["flowwarp: few: hold no combination that is held out; add some more of them"]
    assert not Path("x").exists()


def test_dry_run_lists_files(datasets):
    options = ("make", "digits", "-o", "x", "--size", "16", "--count", 2)
    assert datasets(*options, "--dry-run")[:2] == (0, datasets(*options)[1])


def test_interrupted_make_leaves_no_table(datasets, monkeypatch):
    """A folder with a table is complete: interrupted while replacing clips, there is none."""
    options = ("make", "digits", "-o", "x", "--size", "16", "--count", 3)
    assert datasets(*options)[0] == 0
    write = command._write

    def stopped(clip, folder, name, with_flow):
        if name == "000001":
            raise KeyboardInterrupt
        write(clip, folder, name, with_flow)

    monkeypatch.setattr(command, "_write", stopped)
    assert datasets(*options, "--overwrite", "--seed", 1)[0] == 130
    assert not Path("x/captions.csv").exists()


def test_second_process_in_one_folder_is_refused(datasets):
    from flowwarp.io.locks import lock

    Path("x").mkdir()
    with lock("x", "held"):
        code, _, (line,) = datasets("make", "digits", "-o", "x", "--size", "16")
    assert (code, line) == (8, "flowwarp: x: another process makes clips here; wait for it")


def test_existing_credits_are_not_replaced(datasets):
    Path("x").mkdir()
    Path("x/AUTHORS.txt").write_text("me\n")
    options = ("make", "sprites", "-o", "x", "--size", "16", "--count", 1)
    assert datasets(*options)[0] == 4
    assert Path("x/AUTHORS.txt").read_text() == "me\n"


def test_photos_as_background(datasets):
    Path("photos").mkdir()
    write_image("photos/a.png", torch.rand(3, 40, 50))
    options = ("--photos", "photos", "--size", "16", "--frames", "2", "--count", "12")
    code, (line,), _ = datasets("make", "sprites", "-o", "x", "--dry-run", "--json", *options)
    assert code == 0
    assert "photo" in {clip["attributes"]["ground"] for clip in json.loads(line)["clips"]}


@pytest.mark.parametrize("folder", ["000000", "000001"])
def test_input_photos_are_never_replaced_or_removed(datasets, folder):
    photo = Path("out", folder, "000000.png")
    photo.parent.mkdir(parents=True)
    write_image(photo, torch.zeros(3, 64, 64))
    before = photo.read_bytes()
    options = ["-o", "out", "--count", 1, "--photos", photo.parent, "--overwrite"]
    line = f"flowwarp: {photo}: is the input {photo}; name another file to write"
    assert datasets("make", "sprites", *options) == (4, [], [line])
    assert photo.read_bytes() == before


def test_existing_files_need_overwrite(datasets):
    arguments = ("make", "digits", "-o", "out", "--count", 1, "--size", 16)
    assert datasets(*arguments)[0] == 0
    before = Path("out/captions.csv").read_text()
    code, out, err = datasets(*arguments, "--seed", 5)
    assert (code, out) == (4, [])
    assert err == ["flowwarp: out/captions.csv: exists; use --overwrite to replace it"]
    assert Path("out/captions.csv").read_text() == before
    assert datasets(*arguments, "--seed", 5, "--overwrite")[0] == 0
    assert Path("out/captions.csv").read_text() != before


def test_overwrite_removes_files_of_a_longer_clip(datasets):
    options = ("make", "digits", "-o", "out", "--count", 1, "--size", 16, "--flow")
    for frames in (5, 3):
        assert datasets(*options, "--frames", frames, "--overwrite")[0] == 0
    Path("out/000000/notes.txt").write_text("mine")
    Path("out/captions.csv").unlink()
    Path("out/000000.mp4").unlink()
    for path in Path("out/000000").rglob("*00000[01]*"):
        path.unlink()
    code, _, err = datasets(*options, "--frames", 2)  # the longer clip needs --overwrite, too
    assert (code, err) == (
        4, ["flowwarp: out/000000/000002.png: exists; use --overwrite to replace it"]
    )  # fmt: skip
    assert datasets(*options, "--frames", 2, "--overwrite")[0] == 0
    assert sorted(path.name for path in Path("out/000000").iterdir()) == [
        "000000.flo", "000000.png", "000001.png", "hidden", "notes.txt"
    ]  # fmt: skip
    assert [path.name for path in Path("out/000000/hidden").iterdir()] == ["000000.png"]


def test_overwrite_removes_masks_of_an_older_version(datasets):
    options = ("make", "digits", "-o", "out", "--count", 1, "--size", 16, "--flow")
    folder = Path("out/000000")
    old = [folder / "hidden_000007.png", folder / "hidden/000007.png"]
    mine = [folder / "hidden/mine.png", folder / "hidden/000007.flo"]
    mine[0].parent.mkdir(parents=True)
    for path in old:
        path.write_text("made before")
        line = f"flowwarp: {path}: exists; use --overwrite to replace it"
        assert datasets(*options) == (4, [], [line])
        path.unlink()
    for path in old + mine:
        path.write_text("here before")
    assert datasets(*options, "--frames", 3, "--overwrite")[0] == 0
    assert list_frames(folder) == [folder / f"00000{number}.png" for number in range(3)]
    masks = [folder / f"hidden/00000{number}.png" for number in range(2)]
    assert set(folder.glob("hidden/*")) == {*masks, *mine}


def test_overwrite_removes_flow_of_other_clips(datasets):
    """A new clip beside the flow of an older one would be evaluated with it."""
    options = ("make", "digits", "-o", "out", "--count", 1, "--size", 16, "--frames", 2)
    assert datasets(*options, "--flow")[0] == 0
    for name in ("captions.csv", "000000.mp4"):
        Path("out", name).unlink()
    code, _, err = datasets(*options, "--seed", 1)
    assert (code, err) == (
        4, ["flowwarp: out/000000/000000.flo: exists; use --overwrite to replace it"]
    )  # fmt: skip
    Path("out/000000/notes.txt").write_text("mine")
    assert datasets(*options, "--seed", 1, "--overwrite", "--dry-run")[0] == 0
    assert len(list(Path("out/000000").iterdir())) == 5
    assert datasets(*options, "--seed", 1, "--overwrite")[0] == 0
    assert [path.name for path in Path("out/000000").iterdir()] == ["notes.txt"]
    Path("out/000000/notes.txt").unlink()
    for more in (["--flow"], []):
        assert datasets(*options, "--overwrite", *more)[0] == 0
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == ["000000.mp4", "captions.csv"]


def test_overwrite_removes_clips_of_a_larger_set(datasets):
    """Clips beyond the new count are removed, but no other file."""
    options = ("make", "digits", "-o", "out", "--size", 16, "--frames", 2, "--flow", "--count")
    assert datasets(*options, 5)[0] == 0
    mine = ("000003/notes.txt", "000004x.mp4", "000009.mp4", "240131.mp4")
    for name in mine:
        Path("out", name).write_text("mine")
    before = sorted(Path("out").rglob("[!.]*"))
    assert datasets(*options, 2, "--overwrite", "--dry-run")[0] == 0
    assert sorted(Path("out").rglob("[!.]*")) == before
    assert command._find_clips_beyond(Path("out"), 2) == ["000004", "000003", "000002"]
    assert datasets(*options, 2, "--overwrite")[0] == 0
    new = [f"{clip}/{file}" for clip in ("000000", "000001") for file in (
        "000000.flo", "000000.png", "000001.png", "hidden/000000.png"
    )]  # fmt: skip
    files = [path for path in Path("out").rglob("[!.]*") if path.is_file()]
    assert sorted(path.relative_to("out").as_posix() for path in files) == sorted(
        [*mine, *new, "000000.mp4", "000001.mp4", "captions.csv"]
    )
    assert not Path("out/000002").exists()
    assert len(pairs_of(load_recipe("made"), "out")) == 2


def test_larger_set_is_not_removed_without_overwrite(datasets):
    options = ("make", "digits", "-o", "out", "--size", 16, "--frames", 2, "--count")
    assert datasets(*options, 3)[0] == 0
    for name in ("captions.csv", "000000.mp4"):
        Path("out", name).unlink()
    code, out, err = datasets(*options, 1)
    assert (code, out) == (4, [])
    assert err == [
        "flowwarp: out/000001.mp4: belongs to a larger set; use --overwrite to remove it"
    ]
    assert datasets(*options, 1, "--overwrite")[0] == 0
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == ["000000.mp4", "captions.csv"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing", "-o", "x"], 2, "nothing"),
        (["digits"], 2, "--output"),
        (["digits", "-o", "x", "--size", "100"], 2, "--size"),
        (["digits", "-o", "x", "--count", "0"], 2, "--count"),
        (["digits", "-o", "x", "--layers", "y"], 2, "go with sprites"),
        (["sprites", "-o", "x", "--photos", "missing"], 2, "is not a folder"),
        (["sprites", "-o", "x", "--layers", "missing"], 3, "no such file"),
        (["digits", "-o", "file"], 4, "is not a folder"),
        (["sprites", "-o", "x", "--photos", "empty"], 3, "holds no picture"),
    ],
)
def test_errors_are_one_line(datasets, arguments, code, message):
    Path("file").write_text("x")
    Path("empty").mkdir()
    found, out, err = datasets("make", *arguments)
    assert (found, out) == (code, [])
    assert len(err) == 1
    assert message in err[0]
    assert not Path("x").exists()
