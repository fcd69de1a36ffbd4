"""Layers of sprites: reading and dyeing them, broken files, and painting an outfit."""

import io
import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from flowwarp.bundled import bundled
from flowwarp.data.sprite_world.layers import (
    CELL,
    DIRECTIONS,
    DYES,
    Layer,
    load_layers,
    paint_outfit,
    row_of,
    visible_areas,
)
from flowwarp.data.sprite_world.world import compose_clip
from flowwarp.errors import InputError

SPRITES = bundled("datasets") / "sprites"
pytestmark = pytest.mark.usefixtures("few_grounds")


@pytest.fixture
def folder(tmp_path):
    """Return a folder with one body, to be broken."""
    table = json.loads((SPRITES / "attributes.json").read_text("utf-8"))
    table["layers"] = [entry for entry in table["layers"] if entry["category"] == "body"][:1]
    (tmp_path / "layers").mkdir()
    shutil.copyfile(SPRITES / table["layers"][0]["file"], tmp_path / table["layers"][0]["file"])
    return tmp_path, table


def save(folder, table):
    (folder / "attributes.json").write_text(json.dumps(table), "utf-8")


def test_without_a_folder_they_are_those_in_the_package(layers):
    assert load_layers() is layers


def test_one_body_is_enough(folder):
    path, table = folder
    save(path, table)
    clip = compose_clip(load_layers(path), 0, 0, 32, 2, held_out=None)
    assert clip.caption


def test_a_body_without_words_is_called_by_its_name(folder):
    path, table = folder
    body = next(layer for layer in table["layers"] if layer["category"] == "body")
    body["caption"] = {"noun": "", "adjective": ""}
    save(path, table)
    clips = (compose_clip(load_layers(path), 0, n, 32, 2, held_out=None) for n in range(8))
    assert all(body["name"] in clip.caption for clip in clips)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "layers/../../secret.png"}, "is not a file layers/NAME.png"),
        ({"file": "/etc/passwd.png"}, "is not a file layers/NAME.png"),
        ({"file": "layers\\..\\x.png"}, "is not a file layers/NAME.png"),
        ({"file": "layers/..\\x.png"}, "is not a file layers/NAME.png"),
        ({"file": "layers/a\0.png"}, "null byte|null character"),
        ({"file": "layers/missing.png"}, "no such file"),
        ({"file": 7}, "file must be a short text"),
        ({"id": ""}, "id must be a short text"),
        ({"name": "x" * 1000}, "name must be a short text"),
        ({"z": "10"}, "z must be a whole number"),
        ({"gender": "other"}, "gender must be one of"),
        ({"caption": ["woman"]}, "caption must be a table"),
        ({"caption": {"noun": "a\nb"}}, "caption must be a table"),
        ({"category": "hair"}, "has no layer of the category body"),
    ],
)
def test_layers_that_are_not_as_they_should(folder, change, message):
    path, table = folder
    table["layers"][0].update(change)
    save(path, table)
    with pytest.raises(InputError, match=message):
        load_layers(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "holds no list called layers"),
        ('{"layers": {}}', "holds no list called layers"),
        ('{"layers": [1]}', "must be a short text"),
        ('{"layers": [[]]}', "must be a short text"),
        (json.dumps({"layers": [0] * 6000}), "at most"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    (tmp_path / "attributes.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_layers(tmp_path)


def test_a_folder_without_table(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_layers(tmp_path)


def test_two_layers_of_one_name(folder):
    path, table = folder
    table["layers"] *= 2
    save(path, table)
    with pytest.raises(InputError, match="two layers"):
        load_layers(path)


def png(width, height, data=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = b""
    for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + kind + body
        chunks += struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


def encoded(mode, size):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(100_000, 100_000), "100000x100000"),
        (png(832, 1344), "needs"),
        (png(832, 1344, zlib.compress(b"short")), "832|holds|needs|cut off|broken"),
        (encoded("RGBA", (64, 64)), "is 64x64, it must be 832x1344"),
        (encoded("I;16", (832, 1344)), "16-bit"),
        (b"GIF89a" + bytes(100), "is not a PNG"),
        (b"", "is empty"),
    ],
)
def test_sheets_that_lie(folder, data, message):
    path, table = folder
    save(path, table)
    (path / table["layers"][0]["file"]).write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_layers(path)


def test_a_sheet_without_transparency_is_read(folder):
    path, table = folder
    save(path, table)
    Image.new("P", (832, 1344)).save(path / table["layers"][0]["file"])
    (layer,) = load_layers(path).layers
    assert all(layer.shows("walk", direction) for direction in DIRECTIONS)


def test_all_bundled_files_are_named():
    table = json.loads((SPRITES / "attributes.json").read_text("utf-8"))
    named = {entry["file"].partition("/")[2] for entry in table["layers"]}
    assert named == {path.name for path in (SPRITES / "layers").iterdir()}
    assert all(entry["authors"] and entry["licence"] for entry in table["layers"])


def test_dyed_metal_has_its_colour_and_its_gloss(layers):
    pieces = {layer.id: layer for layer in layers.layers}
    dyed = [layer for layer in pieces.values() if layer.dyed]
    assert len(dyed) == 6 * len(DYES)
    for layer in dyed:
        bare = pieces[layer.id.removesuffix(f"_dyed_{layer.color}")]
        assert layer.words == {link: f"{layer.color} {word}" for link, word in bare.words.items()}
        assert list(layer.rows) == list(bare.rows)
        for number, (where, pixels) in layer.rows.items():
            assert np.array_equal(where, bare.rows[number][0])
            undyed = bare.rows[number][1]
            assert np.array_equal(pixels[:, 3], undyed[:, 3])
            # What is lighter stays lighter, in every channel.
            order = np.argsort(undyed[:, :3].mean(1, dtype=np.float32), kind="stable")
            assert (np.diff(pixels[order, :3].astype(int), axis=0) >= 0).all()
        row = layer.rows[row_of("walk", "down")][1][:, :3].astype(float)
        mean = row[row.sum(1) > 60].mean(0)
        if layer.color in ("red", "green", "blue"):
            assert mean.argmax() == ("red", "green", "blue").index(layer.color)
            assert mean.max() > 2 * np.sort(mean)[1]


def test_areas_are_what_is_left_uncovered():
    def layer(name, z, where, alpha=255):
        pixels = np.full((len(where), 4), alpha, np.uint8)
        return Layer(
            name, "body", "", "", "male", z, {}, {10: (np.array(where, np.uint16), pixels)}
        )

    worn = [layer("coat", 2, range(90, 180)), layer("legs", 1, range(117, 189)), layer("no", 1, [])]
    glass = layer("glass", 3, range(90, 189), alpha=100)
    # Nine pictures walk downwards.
    assert visible_areas([*worn, glass], "walk", "down") == {
        "coat": 10, "legs": 1, "no": 0, "glass": 0
    }  # fmt: skip


def test_layers_are_mixed_by_opacity():
    def layer(z, *pixel):
        rows = {10: (np.array([5], np.uint16), np.array([pixel], np.uint8))}
        return Layer(str(z), "body", "", "", "male", z, {}, rows)

    cells = paint_outfit([layer(2, 0, 0, 255, 51), layer(1, 255, 0, 0, 255)], "walk", "down")
    assert cells.shape == (9, CELL, CELL, 4)
    assert cells[0, 0, 5] == pytest.approx([0.8, 0, 0.2, 1], abs=0.005)
    alone = paint_outfit([layer(1, 255, 255, 0, 51)], "walk", "down")
    assert alone[0, 0, 5] == pytest.approx([0.2, 0.2, 0, 0.2], abs=0.005)
    assert alone.sum() == pytest.approx(0.6, abs=0.01)
