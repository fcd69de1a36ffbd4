"""Composed clips: flow is true, the camera moves as it should, held-out combinations stay apart."""

import functools
import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch

from flowwarp.data.digits import compose_digits
from flowwarp.data.sprite_world import grounds, world
from flowwarp.data.sprite_world.cast import draw_actor, is_held_out
from flowwarp.data.sprite_world.layers import Layers
from flowwarp.data.sprite_world.world import compose_clip, holds_held_out
from flowwarp.ops.warping import warp
from sprite_clips import FIELDS, check_truth, errors_and_shares

pytestmark = pytest.mark.usefixtures("few_grounds")


@pytest.fixture(scope="module")
def photo():
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((1, 3, 20, 30)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, (300, 450), mode="bicubic")
    return fine[0].clamp(0, 1).mul(255).byte()


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


def test_nearer_actors_are_painted_last(layers, monkeypatch):
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
def test_the_ground_moves_against_the_camera(layers, monkeypatch, camera, way):
    monkeypatch.setattr(world, "_draw_camera", lambda *arguments: camera)
    for index in range(4):
        clip = compose_clip(layers, 0, index, 16, 2)
        assert clip.attributes["camera"] == camera
        ground = clip.flow_12[0, :, 0].median(1).values  # of the row at the top
        assert ground.sign().tolist() == way


@pytest.mark.parametrize(("camera", "grows"), [("zoom in", True), ("zoom out", False)])
def test_the_ground_grows_as_the_camera_zooms_in(layers, monkeypatch, camera, grows):
    monkeypatch.setattr(world, "_draw_camera", lambda *arguments: camera)
    for index in range(4):
        left, *_, right = compose_clip(layers, 0, index, 16, 2).flow_12[0, 0, 0]
        assert left.sign() == -right.sign() == (-1 if grows else 1)


def test_the_camera_follows_walking_actors_and_pans_over_others(layers):
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
def test_a_walking_actor_is_in_the_middle_half_way(layers, monkeypatch, way):
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


def test_a_walk_is_a_cycle_of_16_frames_without_the_standing_cell():
    cells = world._act("walk", 20)
    assert cells.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 1, 1, 2, 2]


def test_photos_have_their_share(layers, photo, monkeypatch):
    monkeypatch.setattr(world, "_PHOTO_SHARE", 0.5)
    clips = [compose_clip(layers, 1, index, 16, 1, photos=[photo]) for index in range(40)]
    before = sum(clip.attributes["ground"] == "photo" for clip in clips)
    assert 8 < before < 32
    assert not any(
        compose_clip(layers, 1, index, 16, 1).attributes["ground"] == "photo" for index in range(20)
    )


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


def test_held_out_combinations_stay_out_of_training(layers):
    for index in range(60):
        assert not is_held_out(compose_clip(layers, 5, index, 16, 1).attributes)
    for index in range(15):
        assert is_held_out(compose_clip(layers, 5, index, 16, 1, held_out=True).attributes)
    mixed = [
        is_held_out(compose_clip(layers, 5, index, 16, 1, held_out=None).attributes)
        for index in range(120)
    ]
    assert 3 < sum(mixed) < 30


@pytest.fixture
def few(layers):
    """Return a body and its clothes without a held-out combination."""
    names = ("body_light_light_female", "torso_tunic_white_female")
    return Layers(tuple(layer for layer in layers.layers if layer.id in names))


def test_few_layers_may_have_no_held_out_combination(layers, few, monkeypatch):
    assert holds_held_out(layers)
    for photos in (False, True):
        assert not holds_held_out(few, photos=photos)
    monkeypatch.setattr(world, "_TRIES", 20)
    with pytest.raises(ValueError, match="no combination that is held out"):
        compose_clip(few, 0, 0, 16, 1, held_out=True)
    monkeypatch.setattr(world, "is_held_out", lambda attributes: True)
    with pytest.raises(ValueError, match="no combination that is not held out"):
        compose_clip(few, 0, 0, 16, 1)


def test_rare_combinations_are_found(few, monkeypatch):
    """A set that holds something in 2000 draws gives a clip whatever the index is."""
    draws = itertools.count()
    monkeypatch.setattr(world, "is_held_out", lambda attributes: next(draws) == 3000)
    assert compose_clip(few, 0, 0, 16, 1, held_out=True).caption
