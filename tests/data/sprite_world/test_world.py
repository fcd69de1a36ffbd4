"""The two worlds: flow is true, captions are true, and training sees nothing held out."""

import functools
import io
import itertools
import json
import math
import re
import shutil
import struct
import zlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from flowwarp.bundled import bundled
from flowwarp.data.digits import compose_digits
from flowwarp.data.sprite_world import captions, grounds, world
from flowwarp.data.sprite_world.captions import draw_caption, prompt_for
from flowwarp.data.sprite_world.cast import draw_actor, is_held_out
from flowwarp.data.sprite_world.layers import (
    CELL,
    COLUMNS,
    DIRECTIONS,
    DYES,
    ROWS,
    Layer,
    Layers,
    bundled_layers,
    load_layers,
    paint_outfit,
    row_of,
    visible_areas,
)
from flowwarp.data.sprite_world.world import compose_clip, holds_held_out
from flowwarp.errors import InputError
from flowwarp.ops.warping import warp

SPRITES = bundled("datasets") / "sprites"
FIELDS = ("video", "flow_12", "flow_21", "valid_12", "valid_21", "visible_12", "visible_21")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


pytestmark = pytest.mark.usefixtures("few_grounds")


@pytest.fixture(scope="module")
def layers():
    return bundled_layers()


@pytest.fixture(scope="module")
def photo():
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((1, 3, 20, 30)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, (300, 450), mode="bicubic")
    return fine[0].clamp(0, 1).mul(255).byte()


def draw_many(layers, count, seed=0):
    """Draw attributes of clips without drawing the clips."""
    random = np.random.default_rng(seed)
    for number in range(count):
        actors = [draw_actor(layers, random).attributes for _ in range(1 + (number % 7 == 0))]
        names = (*grounds.ground_names(), "photo")
        camera = ("still", "follow", "pan left", "zoom in", "pan up", "zoom out")[number % 6]
        yield {"actors": actors, "ground": names[number % len(names)], "camera": camera}


# ------------------------------------------------------------------ the clip


@pytest.mark.parametrize("compose", ["sprites", "digits"])
def test_a_clip_is_a_function_of_seed_and_index(layers, compose):
    make = compose_digits if compose == "digits" else functools.partial(compose_clip, layers)
    first, _, again = make(3, 5, 64), make(3, 6, 64), make(3, 5, 64)
    for name in FIELDS:
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert (first.caption, first.attributes) == (again.caption, again.attributes)
    for other in (make(3, 6, 64), make(4, 5, 64)):
        assert not torch.equal(first.video, other.video)


def test_shapes_and_types(layers):
    clip = compose_clip(layers, 0, 0, 32, 5)
    shapes = {name: tuple(getattr(clip, name).shape) for name in FIELDS}
    assert shapes == {
        "video": (5, 3, 32, 32),
        "flow_12": (4, 2, 32, 32),
        "flow_21": (4, 2, 32, 32),
        **dict.fromkeys(FIELDS[3:], (4, 1, 32, 32)),
    }
    types = [getattr(clip, name).dtype for name in FIELDS]
    assert types == [torch.uint8, *[torch.float32] * 2, *[torch.bool] * 4]
    assert json.loads(json.dumps(clip.attributes)) == clip.attributes
    still = compose_clip(layers, 0, 0, 32, 1)
    assert still.video.shape == (1, 3, 32, 32)
    assert still.flow_12.shape == (0, 2, 32, 32)
    long = compose_clip(layers, 0, 1, 16, 70)
    assert long.video.shape == (70, 3, 16, 16)


@pytest.mark.parametrize("size", [0, 63, 256])
def test_sizes_that_are_not_possible(layers, size):
    with pytest.raises(ValueError, match="size"):
        compose_clip(layers, 0, 0, size)
    with pytest.raises(ValueError, match="size"):
        compose_digits(0, 0, size)


def test_no_frames(layers):
    with pytest.raises(ValueError, match="frames"):
        compose_clip(layers, 0, 0, 64, 0)
    with pytest.raises(ValueError, match="frames"):
        compose_digits(0, 0, 64, 0)


def test_small_is_large_averaged(layers):
    for index in range(4):
        large = compose_clip(layers, 1, index, 128)
        small = compose_clip(layers, 1, index, 64)
        mean = torch.nn.functional.avg_pool2d(large.video.float(), 2)
        assert (mean - small.video.float()).abs().max() <= 1  # both were rounded
        assert (large.caption, large.attributes) == (small.caption, small.attributes)
        both = small.valid_12 & torch.nn.functional.avg_pool2d(large.valid_12.float(), 2).eq(1)
        halved = torch.nn.functional.avg_pool2d(large.flow_12, 2) / 2
        assert ((halved - small.flow_12).abs() * both).max() < 1e-3


def errors_and_shares(clip, scale=1.0):
    """Yield mean error of warping where it must hold, and the share of such pixels, both ways."""
    frames = clip.video.float() / 255
    for here, there, flow, valid, visible in (
        (frames[:-1], frames[1:], clip.flow_12, clip.valid_12, clip.visible_12),
        (frames[1:], frames[:-1], clip.flow_21, clip.valid_21, clip.visible_21),
    ):
        known = valid & visible
        error = (warp(there, scale * flow) - here).abs().mean(1, keepdim=True)
        yield (error * known).sum().item() / known.sum().item(), known.float().mean().item()


@pytest.mark.parametrize(("size", "count"), [(64, 40), (128, 8)])
def test_flow_is_true_in_the_world_of_sprites(layers, photo, monkeypatch, size, count):
    monkeypatch.setattr(world, "_PHOTO_SHARE", 0.1)
    errors, shares, without = [], [], []
    for index in range(count):
        clip = compose_clip(layers, 7, index, size, photos=[photo])
        for error, share in errors_and_shares(clip):
            errors.append(error)
            shares.append(share)
        without += [error for error, _ in errors_and_shares(clip, scale=0)]
    assert max(errors) < 0.015
    assert np.mean(errors) < 0.005
    assert np.mean(without) > 3 * np.mean(errors)
    assert np.mean(shares) > 0.8
    assert min(shares) > 0.5


def test_flow_is_true_in_the_world_of_digits():
    measured = [both for index in range(30) for both in errors_and_shares(compose_digits(1, index))]
    errors, shares = zip(*measured, strict=True)
    assert max(errors) < 0.005
    assert min(shares) > 0.75


def test_flow_of_the_sprite_itself_is_true(layers):
    """The ground alone would pass the test above: look where something moves over it."""
    found = 0
    for index in range(40):
        clip = compose_clip(layers, 11, index, 128)
        if clip.attributes["camera"] != "still" or len(clip.attributes["actors"]) > 1:
            continue
        if clip.attributes["actors"][0]["action"] != "walk":
            continue
        moves = clip.flow_12.norm(dim=1, keepdim=True) > 0.5
        known = moves & clip.valid_12 & clip.visible_12
        frames = clip.video.float() / 255
        here, there = frames[:-1], frames[1:]
        error = ((warp(there, clip.flow_12) - here).abs().mean(1, keepdim=True) * known).sum()
        still = ((there - here).abs().mean(1, keepdim=True) * known).sum()
        assert error < 0.5 * still
        u, v = (clip.flow_12[:, k : k + 1][known].mean().item() for k in (0, 1))
        ways = {"left": u < -1, "right": u > 1, "up": v < -0.5, "down": v > 0.5}
        assert ways[clip.attributes["actors"][0]["direction"]]
        found += 1
    assert found >= 3


def test_an_actor_fills_the_frame_and_stays_in_it(layers):
    """Tell the actor from the ground by comparing with the same clip's empty ground."""
    shares = []
    for index in range(40):
        clip = compose_clip(layers, 2, index, 128, frames=2)
        about = clip.attributes["actors"]
        if len(about) > 1 or about[0]["action"] not in ("stand", "walk") or about[0]["weapon"]:
            continue
        if clip.attributes["camera"] != "still" or about[0]["action"] == "stand":
            continue
        moves = (clip.flow_12[0].norm(dim=0) > 0.2).any(1).nonzero()
        height = moves.max().item() - moves.min().item() + 1
        shares.append(height / 128)
        assert moves.min() > 0
    assert shares
    assert min(shares) > 0.45
    assert max(shares) < 0.85


def test_things_move_by_whole_pixels_unless_the_camera_zooms(layers):
    zooms = 0
    for index in range(30):
        clip = compose_clip(layers, 6, index, 128)
        whole = torch.allclose(clip.flow_12, clip.flow_12.round(), atol=1e-4)
        assert whole != clip.attributes["camera"].startswith("zoom")
        zooms += not whole
    assert 0 < zooms < 15


def test_figures_stand_on_tiles(layers, monkeypatch):
    """A figure before black is made of the same squares of pixels wherever it stands."""
    monkeypatch.setattr(world, "paint_ground", lambda ground, random, crop: torch.zeros(
        3, crop.height, crop.width
    ))  # fmt: skip
    monkeypatch.setattr(world, "draw_actor", lambda layers, random: actor)
    random, places, squares = np.random.default_rng(0), set(), []
    actor = draw_actor(layers, random)
    while actor.attributes["action"] != "stand":
        actor = draw_actor(layers, random)
    for index in range(40):
        clip = compose_clip(layers, 7, index, 64, frames=1, held_out=None)
        if len(clip.attributes["actors"]) > 1 or clip.attributes["camera"] != "still":
            continue
        seen = clip.video[0].amax(0) > 0
        places.add((int(seen.any(0).nonzero()[0]), int(seen.any(1).nonzero()[0])))
        tiles = clip.video[0].unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).flatten(0, 1)
        squares.append({bytes(tile.flatten().tolist()) for tile in tiles})
    assert len(places) > 2
    assert {(x % 4, y % 4) for x, y in places} == {(min(places)[0] % 4, min(places)[1] % 4)}
    assert all(own == squares[0] for own in squares)


def test_who_stands_nearer_is_painted_last(layers, monkeypatch):
    film, nearness = world.film, []

    def spy(canvas, camera, figures, size):
        nearness.append([f.track.y[0] + world._FEET * f.track.scale[0] for f in figures])
        return film(canvas, camera, figures, size)

    monkeypatch.setattr(world, "film", spy)
    monkeypatch.setattr(world, "_TWO", 1)
    for index in range(20):
        compose_clip(layers, 3, index, 16, 1)
    assert all(feet == sorted(feet) for feet in nearness)
    assert sum(len(set(feet)) == 2 for feet in nearness) > 5


@pytest.mark.parametrize(
    ("camera", "way"),
    [
        ("still", [0, 0]),
        ("pan left", [1, 0]),
        ("pan right", [-1, 0]),
        ("pan up", [0, 1]),
        ("pan down", [0, -1]),
    ],
)
def test_what_is_seen_goes_against_the_camera(layers, monkeypatch, camera, way):
    monkeypatch.setattr(world, "_draw_camera", lambda *arguments: camera)
    for index in range(4):
        clip = compose_clip(layers, 0, index, 16, 2)
        assert clip.attributes["camera"] == camera
        ground = clip.flow_12[0, :, 0].median(1).values  # of the row at the top
        assert ground.sign().tolist() == way


@pytest.mark.parametrize(("camera", "grows"), [("zoom in", True), ("zoom out", False)])
def test_what_is_seen_grows_as_the_camera_zooms_in(layers, monkeypatch, camera, grows):
    monkeypatch.setattr(world, "_draw_camera", lambda *arguments: camera)
    for index in range(4):
        left, *_, right = compose_clip(layers, 0, index, 16, 2).flow_12[0, 0, 0]
        assert left.sign() == -right.sign() == (-1 if grows else 1)


def test_the_camera_follows_who_walks_and_pans_before_others(layers):
    random, moves = np.random.default_rng(0), Counter()
    for _ in range(400):
        about = world._cast(layers, random, None)[1]
        camera, backdrop = about["camera"], grounds.is_backdrop(about["ground"])
        ways = {a["direction"] if a["action"] == "walk" else "" for a in about["actors"]}
        climbs = bool(ways & {"up", "down"})
        if camera.startswith("pan"):
            assert ways == {""}
            assert not (backdrop and camera in ("pan up", "pan down"))
        if camera == "follow":
            assert len(ways) == 1
            assert ways != {""}
            assert not (backdrop and climbs)
        if camera.startswith("zoom"):
            assert not climbs
        moves[camera] += 1
    assert set(moves) == {
        "still", "follow", "zoom in", "zoom out", "pan left", "pan right", "pan up", "pan down"
    }  # fmt: skip


@pytest.mark.parametrize("way", ["left", "right"])
def test_half_way_who_walks_is_in_the_middle(layers, monkeypatch, way):
    random = np.random.default_rng(0)
    actor = draw_actor(layers, random)
    while (actor.attributes["action"], actor.attributes["direction"]) != ("walk", way):
        actor = draw_actor(layers, random)
    monkeypatch.setattr(world, "draw_actor", lambda layers, random: actor)
    monkeypatch.setattr(world, "_draw_camera", lambda *arguments: "still")
    monkeypatch.setattr(world, "_TWO", 0)
    for index in range(3):
        clip = compose_clip(layers, 0, index, 32, held_out=None)
        first, last = (
            (flow.norm(dim=0) > 0.1).nonzero()[:, 1].double().mean().item()
            for flow in (clip.flow_12[0], clip.flow_21[-1])
        )
        assert abs(last - first) > 6
        assert (first + last) / 2 == pytest.approx(15.5, abs=3)


def test_a_walk_is_a_cycle_of_16_frames_without_the_one_who_stands():
    cells = world._act("walk", 20)
    assert cells.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 1, 1, 2, 2]


def test_digits_move_as_they_are_said_to():
    seen = set()
    for index in range(60):
        clip = compose_digits(5, index, 32, 3)
        if len(clip.attributes["actors"]) > 1:
            continue
        u, v = clip.flow_12.sum((0, 2, 3)).tolist()  # the ground rests
        ways = {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up", (0, 0): "none"}
        way = ways[int(np.sign(round(u))), int(np.sign(round(v)))]
        assert way == clip.attributes["actors"][0]["direction"]
        seen.add(way)
    assert len(seen) == 5


def test_photos_are_the_share_that_was_asked_for(layers, photo, monkeypatch):
    monkeypatch.setattr(world, "_PHOTO_SHARE", 0.5)
    clips = [compose_clip(layers, 1, index, 16, 1, photos=[photo]) for index in range(40)]
    before = sum(clip.attributes["ground"] == "photo" for clip in clips)
    assert 8 < before < 32
    assert not any(
        compose_clip(layers, 1, index, 16, 1).attributes["ground"] == "photo" for index in range(20)
    )


# ------------------------------------------------------------------ captions

ACTIONS = {
    "walk": "walks walking strides striding strolls strolling",
    "stand": "stands standing waits waiting",
    "slash": "slashes slashing strikes striking swings swinging",
    "spellcast": "casts casting conjures conjuring works working",
    "thrust": "thrusts thrusting stabs stabbing lunges lunging",
    "shoot": "shoots shooting archer",
    "fall": "falls falling collapses collapsing",
}
WALKS = ACTIONS["walk"].split()
WAYS = {
    "left": "left leftwards",
    "right": "right rightwards",
    "up": "up away behind",
    "down": "down towards facing-the-camera us front",
}
GROUNDS = {
    "grass": "grass meadow",
    "sand": "sand sandy",
    "snow": "snow snowy",
    "stone floor": "stone",
    "water": "water",
    "wood planks": "wood wooden",
    "brick wall": "brick",
    "night sky": "night stars",
    "photo": "photo photograph",
}
CAMERAS = {
    "pan left": ("pans left", "moves left"),
    "pan right": ("pans right", "moves right"),
    "pan up": ("pans up", "moves up"),
    "pan down": ("pans down", "moves down"),
    "zoom in": ("zooms in", "comes closer"),
    "zoom out": ("zooms out", "draws back"),
    "follow": ("follows", "goes along"),
    "still": ("stands still",),
}


def parse(caption, layers):
    """Read a caption by tables of its own; return what it says as sets of values."""
    said = {"camera": set(), "things": set()}
    for name, forms in CAMERAS.items():
        if any(f"the camera {form}" in caption for form in forms):
            said["camera"].add(name)
            for form in forms:
                caption = caption.replace(f"the camera {form}", "")
    # What has a meaning of its own elsewhere.
    caption = re.sub(r"on the (left|right) |in front of", "", caption)
    caption = re.sub(r"facing the camera", "facing-the-camera", caption)
    caption = re.sub(r"(from|towards) the camera", r"\1", caption)
    caption = re.sub(r"falls down|falling down", "falls", caption)
    things = sorted(
        {
            text
            for layer in layers.layers
            for key, text in layer.words.items()
            if key in ("with", "in")
        },
        key=len,
        reverse=True,
    )
    for thing in things:
        if re.search(rf"\b{re.escape(thing)}\b", caption):
            said["things"].add(thing)
            caption = caption.replace(thing, "")
    said["hair_color"] = set(re.findall(r"(\S+)-haired", caption))
    words = set(re.findall(r"[\w-]+", caption))
    for key, table in (("action", ACTIONS), ("direction", WAYS), ("ground", GROUNDS)):
        said[key] = {value for value, forms in table.items() if words & set(forms.split())}
    for noun in ("woman", "man", "skeleton", "orc"):
        if noun in words:
            said.setdefault("body", set()).add(noun)
    return said


def check_truth(attributes, caption, layers):
    said = parse(caption, layers)
    actors = attributes["actors"]
    assert said["camera"] <= {attributes["camera"]}
    assert said["ground"] <= {attributes["ground"]}
    for key in ("action", "direction"):
        assert said[key] <= {actor[key] for actor in actors}, key
    worn = {value for actor in actors for value in actor.values()}
    assert said["things"] <= worn
    assert said["hair_color"] <= {actor["hair_color"].replace(" ", "-") for actor in actors}
    for noun in said.get("body", ()):
        assert any(noun in actor["body"].split() for actor in actors)
    return said


def test_captions_are_true(layers):
    captions = []
    for number, attributes in enumerate(draw_many(layers, 400)):
        random = np.random.default_rng(number)
        captions.append(draw_caption(attributes, random))
        check_truth(attributes, captions[-1], layers)
    assert len(set(captions)) > 390
    assert min(map(len, captions)) < 45
    assert max(map(len, captions)) > 120
    assert not [caption for caption in captions if "  " in caption or " ," in caption]
    assert not [c for c in captions if re.search(r"\ba [aeiou]|\ban [^aeiou]", c)]


def test_words_that_need_a_verb_have_one(layers, monkeypatch):
    """Nobody looks to the left across a floor, nor does anybody "while" another acts."""
    monkeypatch.setitem(captions._SHARES, "action", 0.6)
    verbs = {verb for forms in ACTIONS.values() for verb in forms.split()} - {"archer"}
    joined = crossed = 0
    for number, attributes in enumerate(draw_many(layers, 150)):
        random = np.random.default_rng(number)
        for caption in (draw_caption(attributes, random) for _ in range(20)):
            parts = re.split(r" while (?!the camera)", caption)
            if len(parts) > 1:
                joined += 1
                assert all(verbs & set(re.findall(r"\w+", part)) for part in parts), caption
            if re.search(r"\b(across|over) ", caption):
                crossed += 1
                walks = [word for word in re.findall(r"\w+", caption) if word in WALKS]
                assert len(walks) == len(attributes["actors"]), caption
    assert joined > 10
    assert crossed > 100


def test_a_prompt_names_everything(layers):
    for number, attributes in enumerate(draw_many(layers, 200, seed=1)):
        prompt = prompt_for(attributes, np.random.default_rng(number))
        said = check_truth(attributes, prompt, layers)
        actors = attributes["actors"]
        assert said["ground"] == {attributes["ground"]}
        if attributes["camera"] != "still":
            assert said["camera"] == {attributes["camera"]}
        for key in ("action", "direction"):
            assert said[key] == {actor[key] for actor in actors if actor[key]}, prompt
        for actor in actors:
            for key in ("skin", "hair", "hat", "beard", "torso", "legs", "cape", "weapon"):
                also = actor[key].replace("plate armor", "armor").replace("pants", "trousers")
                assert actor[key] in prompt or also in prompt


@pytest.mark.parametrize("compose", ["sprites", "digits"])
def test_a_clip_can_be_worded_in_several_ways(layers, compose):
    """And is the same without."""
    make = compose_digits if compose == "digits" else functools.partial(compose_clip, layers)
    said = set()
    for index in range(20):
        clip, plain = make(3, index, 16, 2, rewordings=5), make(3, index, 16, 2)
        assert torch.equal(clip.video, plain.video)
        assert (clip.caption, plain.rewordings) == (plain.caption, ())
        assert clip.rewordings == make(3, index, 16, 2, rewordings=5).rewordings
        assert len(clip.rewordings) == 5
        said |= {clip.caption, *clip.rewordings}
        if compose == "sprites":
            for caption in clip.rewordings:
                check_truth(clip.attributes, caption, layers)
            complete = clip.rewordings[::2]
            assert all(actor["skin"] in c for actor in clip.attributes["actors"] for c in complete)
    assert len(said) > 80


def test_a_single_actor_has_labels(layers):
    for make in (functools.partial(compose_clip, layers), compose_digits):
        clips = [make(3, index, 16, 2) for index in range(20)]
        alone = [clip for clip in clips if len(clip.attributes["actors"]) == 1]
        assert 2 < len(alone) < 20
        assert all(clip.labels["ground"] == clip.attributes["ground"] for clip in alone)
        assert not any(clip.labels for clip in clips if len(clip.attributes["actors"]) > 1)
    assert alone[0].labels.keys() == {"digit", "color", "direction", "ground"}


def test_captions_of_digits_are_true():
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for index in range(100):
        clip = compose_digits(9, index, 16, 2)
        for actor in clip.attributes["actors"]:
            digit, color = actor["digit"], actor["color"]
            (found,) = re.findall(
                rf"{color} (\w+) (\w+)(.*?)(?: and | while |, | on |$)", clip.caption
            )
            assert found[0] in (digit, names[int(digit)])
            ways = {way for way in ("left", "right", "up", "down") if way in found[2].split()}
            assert ways == {actor["direction"]} - {"none"}
        assert clip.attributes["ground"] in clip.caption


# ------------------------------------------------------------------ who is seen


def test_only_what_is_seen_is_named(layers):
    random = np.random.default_rng(0)
    for _ in range(300):
        about = draw_actor(layers, random).attributes
        if about["direction"] == "up":
            assert not about["beard"]
        if about["hat"]:
            assert not about["hair"]
        if about["torso_style"] == "dress":
            assert not about["legs"]
        if about["action"] == "shoot":
            assert "bow" in about["weapon"]
        assert (about["direction"] == "") == (about["action"] == "fall")


def test_from_behind_nobody_is_called_bald(layers):
    covers = ("hair", "head")
    bare = Layers(tuple(layer for layer in layers.layers if layer.category not in covers))
    random, ways = np.random.default_rng(0), set()
    for _ in range(60):
        about = draw_actor(bare, random).attributes
        if about["body"] != "skeleton":
            assert (about["hair_style"] == "bald") == (about["direction"] != "up")
            ways.add(about["direction"])
    assert "up" in ways


def test_what_is_worn_is_painted(layers):
    random = np.random.default_rng(1)
    for _ in range(60):
        actor = draw_actor(layers, random)
        about = actor.attributes
        animation = {"stand": "walk", "fall": "hurt"}.get(about["action"], about["action"])
        whole = paint_outfit(actor.outfit, animation, about["direction"])
        assert whole.shape[1:] == (CELL, CELL, 4)
        assert (whole[..., :3] <= whole[..., 3:] + 1e-6).all()
        for layer in actor.outfit:
            if layer.words and layer.category not in ("body", "eyes"):
                without = paint_outfit(
                    [w for w in actor.outfit if w is not layer], animation, about["direction"]
                )
                if layer.category in ("hair", "torso", "legs", "weapon", "head"):
                    covered = layer.category == "torso" and any(
                        w.category == "over" for w in actor.outfit
                    )
                    assert covered or (whole != without).any(), layer.id


def test_suits_are_of_one_colour(layers):
    """As nobody dyes a shoulder alone, a dyed piece is worn with the armor of its colour."""
    random, suits = np.random.default_rng(4), Counter()
    for _ in range(1500):
        actor = draw_actor(layers, random)
        dyed = {layer.category: layer.color for layer in actor.outfit if layer.dyed}
        if dyed:
            suits[dyed["over"]] += 1
            assert set(dyed.values()) == {dyed["over"]}
            assert actor.attributes["torso_style"] == "plate armor"
            assert actor.attributes["torso"] == f"{dyed['over']} plate armor"
            shoulders = {w.color for w in actor.outfit if w.category == "shoulders"}
            assert shoulders <= {dyed["over"]}
    assert set(suits) == set(DYES)
    assert 100 < sum(suits.values()) < 200
    assert min(suits.values()) > 15


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


def test_things_of_many_colours_are_worn_more_often(layers):
    """By the root of how many there are: each colour occurs, and so do things that have but one."""
    random, legs = np.random.default_rng(5), Counter()
    for _ in range(3000):
        actor = draw_actor(layers, random)
        if not any(layer.category == "over" for layer in actor.outfit):
            legs.update(layer.name for layer in actor.outfit if layer.category == "legs")
    assert set(legs) == {"pants", "metal pants"}
    assert legs["pants"] / legs["metal pants"] == pytest.approx(math.sqrt(3), rel=0.1)


def test_what_others_cover_is_not_named(layers):
    everywhere = np.arange(CELL * COLUMNS * CELL, dtype=np.uint16)
    cloth = np.full((len(everywhere), 4), 255, np.uint8)
    tents = dict.fromkeys(range(ROWS), (everywhere, cloth))
    tops = {"torso": 998, "over": 999}
    covered = Layers(
        tuple(
            replace(layer, rows=tents, z=tops[layer.category]) if layer.category in tops else layer
            for layer in layers.layers
        )
    )
    found = {"legs": 0, "feet": 0, "hair": 0, "torso": 0}
    random = np.random.default_rng(2)
    for _ in range(40):
        about = draw_actor(covered, random).attributes
        for key in found:
            found[key] += bool(about[key])
            assert bool(about.get(f"{key}_color")) <= bool(about[key])
    assert found == {"legs": 0, "feet": 0, "hair": 0, "torso": 40}


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


# ------------------------------------------------------------------ held-out combinations


def test_training_never_sees_what_is_held_out(layers):
    for index in range(60):
        assert not is_held_out(compose_clip(layers, 5, index, 16, 1).attributes)
    for index in range(15):
        assert is_held_out(compose_clip(layers, 5, index, 16, 1, held_out=True).attributes)
    mixed = [
        is_held_out(compose_clip(layers, 5, index, 16, 1, held_out=None).attributes)
        for index in range(120)
    ]
    assert 3 < sum(mixed) < 30


def test_a_tenth_is_held_out_and_every_value_is_trained_on(layers):
    combinations, everything, trained = {}, set(), set()
    for attributes in draw_many(layers, 3000):
        values = {("ground", attributes["ground"])}
        values |= {item for actor in attributes["actors"] for item in actor.items()}
        everything |= values
        held = is_held_out(attributes)
        if not held:
            trained |= values
        if len(attributes["actors"]) == 1:
            actor = attributes["actors"][0]
            keys = ("hair_color", "torso_style", "torso_color")
            combinations[(*(actor[k] for k in keys), attributes["ground"])] = held
    assert everything == trained
    assert 0.05 < np.mean(list(combinations.values())) < 0.16


def test_what_is_held_out_never_changes():
    """Weights were trained by this answer; another one would make their figures lies."""

    def held(hair, torso, color, ground):
        actor = {"hair_color": hair, "torso_style": torso, "torso_color": color}
        return is_held_out({"actors": [actor], "ground": ground})

    names = ("black", "blonde", "red", "brown")
    found = [
        (hair, color)
        for hair in names
        for color in ("red", "blue", "white", "green")
        if held(hair, "dress", color, "grass")
    ]
    assert found == [("black", "white"), ("blonde", "white"), ("red", "white")]


@pytest.fixture
def few(layers):
    """Return a body and its clothes, of which no combination is held out."""
    names = ("body_light_light_female", "torso_tunic_white_female")
    return Layers(tuple(layer for layer in layers.layers if layer.id in names))


def test_few_layers_may_hold_nothing_that_is_held_out(layers, few, monkeypatch):
    assert holds_held_out(layers)
    for photos in (False, True):
        assert not holds_held_out(few, photos=photos)
    monkeypatch.setattr(world, "_TRIES", 20)
    with pytest.raises(ValueError, match="no combination that is held out"):
        compose_clip(few, 0, 0, 16, 1, held_out=True)
    monkeypatch.setattr(world, "is_held_out", lambda attributes: True)
    with pytest.raises(ValueError, match="no combination that is not held out"):
        compose_clip(few, 0, 0, 16, 1)


def test_what_is_rare_is_found(few, monkeypatch):
    """A set that holds something in 2000 draws gives a clip whatever the index is."""
    draws = itertools.count()
    monkeypatch.setattr(world, "is_held_out", lambda attributes: next(draws) == 3000)
    assert compose_clip(few, 0, 0, 16, 1, held_out=True).caption


# ------------------------------------------------------------------ layers from anywhere


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
