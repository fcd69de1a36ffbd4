"""The tools that make the full set of sprite layers out of the sheets, and the small one of it."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import make_sprites
import sprite_layers
from flowwarp.data.sprite_world.layers import load_layers

ROOT = Path(__file__).parents[1]
SMALL = ROOT / "datasets" / "sprites"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run it on those sheets of the small set that were not recoloured."""
    table = json.loads(sprite_layers.INDEX.read_text("utf-8"))
    small = {
        layer["file"] for layer in json.loads((SMALL / "attributes.json").read_text())["layers"]
    }
    table["layers"] = [
        layer for layer in table["layers"] if layer["file"] in small and "derived" not in layer
    ]
    for layer in table["layers"]:
        source = tmp_path / "up" / layer["source"]["path"]
        source.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SMALL / layer["file"], source)
    (tmp_path / "index.json").write_text(json.dumps(table), "utf-8")
    monkeypatch.setattr(sprite_layers, "INDEX", tmp_path / "index.json")
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "up"), "-o", str(tmp_path / "LPC")])
    return sprite_layers.main, table["layers"]


def test_layers_are_made_that_can_be_read(run, tmp_path, capsys):
    main, layers = run
    main()
    assert len(layers) > 20
    assert capsys.readouterr().out == f"{len(layers)} layers in {tmp_path / 'LPC'}\n"
    read = load_layers(tmp_path / "LPC").layers
    assert {layer["id"] for layer in layers} <= {layer.id for layer in read}


def test_another_sheet_is_noticed(run, tmp_path):
    main, layers = run
    source = tmp_path / "up" / layers[3]["source"]["path"]
    pixels = np.array(Image.open(source).convert("RGBA"))
    pixels[700:710, 20:30] = 255
    Image.fromarray(pixels).save(source)
    with pytest.raises(SystemExit, match=f"{re.escape(str(source))}: is not the sheet"):
        main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "up"]


def test_a_part_of_a_checkout_is_noticed(run, tmp_path):
    main, layers = run
    source = tmp_path / "up" / layers[0]["source"]["path"]
    source.unlink()
    with pytest.raises(SystemExit, match=f"{re.escape(str(source))}: no such file"):
        main()


def test_what_is_there_is_not_written_over(run, tmp_path):
    (tmp_path / "LPC").mkdir()
    with pytest.raises(SystemExit, match=f"{re.escape(str(tmp_path / 'LPC'))}: exists already"):
        run[0]()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Return what makes a small set of a full one, which here is a copy of the small one."""
    full = shutil.copytree(SMALL, tmp_path / "full")

    def make(output):
        monkeypatch.setattr(sys, "argv", ["", str(full), "--output", str(output)])
        make_sprites.main()

    return make, full


def test_a_small_set_takes_the_place_of_another(small, tmp_path):
    make, full = small
    old = tmp_path / "old"
    (old / "layers").mkdir(parents=True)
    for name in ("layers/gone.png", "README.md", "words.toml"):
        (old / name).write_text("own")
    make(old)
    names = {path.relative_to(full) for path in full.rglob("*")}
    assert {path.relative_to(old) for path in old.rglob("*")} == names
    assert (old / "README.md").read_text() == "own"
    assert len(load_layers(old).layers) == len(load_layers(full).layers)


@pytest.mark.parametrize("output", [".", "..", "inside"])
def test_a_set_is_not_made_over_its_source(small, output):
    make, full = small
    before = sorted(full.rglob("*"))
    with pytest.raises(SystemExit, match="give another --output"):
        make(full / output)
    assert sorted(full.rglob("*")) == before


def test_a_source_without_a_layer_changes_nothing(small, tmp_path):
    make, full = small
    next((full / "layers").iterdir()).unlink()
    old = shutil.copytree(SMALL, tmp_path / "old")
    with pytest.raises(FileNotFoundError):
        make(old)
    assert {p.relative_to(old) for p in old.rglob("*")} == {
        p.relative_to(SMALL) for p in SMALL.rglob("*")
    }


def test_the_small_set_is_of_the_sheets_in_the_list():
    listed = {
        layer["id"]: layer for layer in json.loads(sprite_layers.INDEX.read_text("utf-8"))["layers"]
    }
    assert len(listed) == 559
    layers = json.loads((SMALL / "attributes.json").read_text("utf-8"))["layers"]
    assert any("derived" in layer for layer in layers)
    for layer in layers:
        own = listed[layer["id"]]
        assert sprite_layers.digest(sprite_layers.read(SMALL / layer["file"])) == own.pop("pixels")
        assert own == layer


def test_a_white_sheet_in_red():
    sheet = np.zeros((10, 10, 4), np.uint8)
    sheet[:9] = (200, 200, 200, 255)
    sheet[0] = (100, 100, 100, 128)
    sheet[9, 0] = (255, 255, 255, 255)  # more than 1.08 times as light as nearly all
    red = sprite_layers.recolor(sheet, (205, 45, 46))
    assert red[1, 1].tolist() == [205, 45, 46, 255]
    assert red[0, 0].tolist() == [102, 22, 23, 128]
    assert red[9, 0].tolist() == [221, 48, 49, 255]
    assert red[9, 1].tolist() == [0, 0, 0, 0]
