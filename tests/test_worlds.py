"""The generated worlds: captions, held-out combinations, and a grader that reads pixels."""

import hashlib
import json
import sys
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch

import world as tool
from flowwarp.io.images import read_image
from flowwarp.models.sampling import SamplingConfig
from tiny_model import tiny_model
from world import WORLDS
from worlds import samples
from worlds.clips import draw, make_clip, random_scene, write_caption
from worlds.grading import grade, score
from worlds.grounds import paint
from worlds.paths import TIME, match_path, place_path, unit_path
from worlds.polygons import BLOBS
from worlds.samples import copy_nearest, to_pixels, write_clips, write_samples
from worlds.scene import FRAMES, Scene

# SHA-256 of the first clips: figures of models can be compared as long as clips are the same.
FIRST_CLIPS = {
    "shapes": "4d6c8cf7501ee16b765740eab6226be25907f1932168032cd44ebcc922facb7a",
    "emblems": "73653cb6b67f51bf43ba1d3ec928420b3036cb47ae3361a8d0cf2e8093430e66",
    "plates": "f21a31a6c327830e068ef113c013485b916f4625c3151129470cd54d84c21486",
    "signs": "6e2a409fcbb06d8359e709a58d76bbc0f08bed000a4f0273d22d2c16a6771cb0",
}
TEXTURED = [name for name in WORLDS if name != "shapes"]
KINDS = (False, True)  # combinations that are held out, or are not


@pytest.fixture(scope="module", params=WORLDS)
def clips(request):
    """Return a world and some of its clips."""
    world = WORLDS[request.param]
    return world, [make_clip(world, 3, i, held_out=kind) for kind in KINDS for i in range(10)]


def names_of(world):
    return (world.outlines, world.colors, world.motions, world.sizes, world.grounds)


def on_a_ground(world, ground):
    picture = np.round(paint(world.grounds[ground], world.frame, (0, 0))).astype(np.uint8)
    return np.stack([picture] * FRAMES)


# ------------------------------------------------------------------ clips


@pytest.mark.parametrize("name", WORLDS)
def test_clips_are_what_they_were(name):
    found = hashlib.sha256()
    for held_out in KINDS:
        for index in range(5):
            frames, caption, scene = make_clip(WORLDS[name], 1, index, held_out=held_out)
            assert frames.shape == (FRAMES, *WORLDS[name].frame, 3)
            found.update(frames.tobytes() + f"{caption} {scene}".encode())
    assert found.hexdigest() == FIRST_CLIPS[name]


def test_a_clip_is_a_function_of_its_number(clips):
    world, _ = clips
    first, second = make_clip(world, 1, 5), make_clip(world, 1, 5)
    assert np.array_equal(first[0], second[0])
    assert first[1:] == second[1:]
    assert make_clip(world, 2, 5)[1:] != first[1:]


@pytest.mark.parametrize("name", WORLDS)
def test_combinations_that_are_held_out_are_not_shown(name):
    world, rng = WORLDS[name], np.random.default_rng(0)
    shown = {kind: set() for kind in KINDS}
    for kind in KINDS:
        for _ in range(600):
            scene = random_scene(world, rng, held_out=kind)
            shown[kind].add((scene.shape, scene.color))
    assert shown[True] == world.held_out
    assert len(shown[False]) == len(world.outlines) * len(world.colors) - len(world.held_out)
    for shape in world.outlines:
        assert sum(shape == each for each, _ in world.held_out) == 2


@pytest.mark.parametrize("name", WORLDS)
def test_captions_use_all_wordings(name):
    world, rng = WORLDS[name], np.random.default_rng(0)
    scenes = [random_scene(world, rng, held_out=False) for _ in range(600)]
    captions = [write_caption(world, scene, rng) for scene in scenes]
    for names, field in zip(names_of(world), fields(Scene), strict=True):
        for value in names:
            wordings = world.words.get(value, (value,))
            found = [
                caption
                for caption, scene in zip(captions, scenes, strict=True)
                if getattr(scene, field.name) == value
            ]
            assert all(any(wording in caption for wording in wordings) for caption in found)
            assert all(any(wording in caption for caption in found) for wording in wordings)
    assert set(world.words) <= {value for names in names_of(world) for value in names}
    assert world.captions[-1][1] == 1


def test_worlds_have_other_words_than_each_other():
    for attribute in range(4):
        words = [
            word
            for world in WORLDS.values()
            for value in names_of(world)[attribute]
            for word in world.words.get(value, (value,))
        ]
        assert len(words) == len(set(words))


def test_colors_are_told_apart(clips):
    world, _ = clips
    colors = [*world.colors.values()]
    if world.look.other is not None:
        colors.append(world.look.other)
    for number, color in enumerate(colors):
        for other in colors[:number]:
            assert np.abs(np.subtract(color, other)).sum() > 80
        for ground in world.grounds.values():
            mixes = np.linspace(ground.first, ground.second or ground.first, 9)
            assert np.abs(mixes - color).sum(-1).min() > 80


@pytest.mark.parametrize("name", WORLDS)
def test_objects_have_about_the_same_size_and_stay_within_the_frame(name):
    world = WORLDS[name]
    for outline in world.outlines.values():
        extent = np.ptp(np.concatenate(outline), 0)
        assert extent.max() > 1.6
        assert extent.max() < 2.4
    for index in range(30):
        rng = np.random.default_rng(index)
        scene = random_scene(world, rng, held_out=False)
        radius = world.sizes[scene.size]
        path = world.draw_path(scene.motion, radius, world.frame, rng)
        reach = np.abs(np.concatenate(world.outlines[scene.shape])).max(0)
        assert (path[:, :2] - reach * radius * path[:, 2:] >= 0).all()
        assert (path[:, :2] + reach * radius * path[:, 2:] <= np.array(world.frame[::-1]) - 1).all()


# ------------------------------------------------------------------ grader


def test_the_grader_reads_originals(clips):
    world, listed = clips
    videos, _, scenes = zip(*listed, strict=True)
    assert set(score(world, videos, scenes).values()) == {1.0}


def test_the_grader_reads_clips_that_have_lost_detail(clips):
    world, listed = clips
    videos, _, scenes = zip(*listed[::2], strict=True)
    height, width = world.frame
    smaller = [
        [
            cv2.resize(frame, (width * 2 // 3, height * 2 // 3), interpolation=cv2.INTER_AREA)
            for frame in video
        ]
        for video in videos
    ]
    enlarged = [
        np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_CUBIC) for f in video])
        for video in smaller
    ]
    assert set(score(world, enlarged, scenes).values()) == {1.0}
    assert grade(world, np.stack(smaller[0])) == scenes[0]


def test_the_grader_tells_shapes_from_blobs(clips):
    world, listed = clips
    right = []
    for video, _, scene in listed[:6]:
        sigma = world.sizes[scene.size] / 2
        blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in video])
        right.append(grade(world, blurred).shape == scene.shape)
    assert sum(right) <= 1


@pytest.mark.parametrize("name", TEXTURED)
@pytest.mark.parametrize("blob", BLOBS)
def test_blobs_are_no_shapes(name, blob):
    world = WORLDS[name]
    _, _, scene = make_clip(world, 1, 0)
    scene = replace(scene, shape=blob)
    path = world.draw_path(scene.motion, 15, world.frame, np.random.default_rng(0))
    ground = paint(world.grounds[scene.ground], world.frame, (0, 0))
    video = draw(replace(world, outlines=BLOBS), scene, path, ground)
    assert grade(world, video) == replace(scene, shape="")


def test_the_grader_sees_nothing_on_an_empty_ground(clips):
    world, _ = clips
    for ground in world.grounds:
        assert grade(world, on_a_ground(world, ground)) == Scene("", "", "", "", ground)


@pytest.mark.parametrize("name", TEXTURED)
def test_grounds_without_their_texture_are_not_recognised(name):
    world = WORLDS[name]
    noise = np.random.default_rng(0).normal(0, 5, (FRAMES, *world.frame, 3))
    for ground in world.grounds:
        flat = on_a_ground(world, ground).mean((0, 1, 2))
        assert grade(world, (flat + 0 * noise).astype(np.uint8)).ground == ""
        assert grade(world, (flat + noise).astype(np.uint8)).ground == ""


def test_a_shape_must_be_seen_in_half_of_the_frames():
    world = WORLDS["emblems"]
    _, _, scene = make_clip(world, 1, 0)
    path = world.draw_path("northeast", 13, world.frame, np.random.default_rng(0))
    ground = paint(world.grounds[scene.ground], world.frame, (0, 0))
    shape = draw(world, scene, path, ground)
    disc = draw(replace(world, outlines=BLOBS), replace(scene, shape="disc"), path, ground)
    assert grade(world, np.concatenate([shape[:8], disc[8:]])).shape == scene.shape
    other = draw(world, replace(scene, shape="ring"), path, ground)
    assert scene.shape != "ring"
    mixed = np.concatenate([shape[:7], other[7:12], disc[12:]])
    assert grade(world, mixed).shape == ""
    empty = on_a_ground(world, scene.ground)
    assert grade(world, np.concatenate([shape[:12], empty[12:]])).shape == scene.shape
    nothing = Scene("", "", "", "", scene.ground)
    assert grade(world, np.concatenate([shape[:11], empty[11:]])) == nothing


def test_motions_are_read_wherever_they_are_and_nothing_else():
    paths = {
        "right": (unit_path(TIME),),
        "grows": (unit_path(swell=2 * TIME - 1),),
        "waits": (unit_path(),),
    }
    for motion in paths:
        track = place_path(paths, motion, 10.0, (96, 128), np.random.default_rng(0))
        track[:, 2] *= 10
        track[3] = np.nan  # not seen
        assert match_path(paths, track) == motion
    backwards = np.column_stack([60 - 30 * TIME, 0 * TIME + 50, 0 * TIME + 10])
    assert match_path(paths, backwards) == ""
    still = np.column_stack([0 * TIME + 60, 0 * TIME + 50, 0 * TIME + 10])
    assert match_path({"right": paths["right"]}, still) == ""


def test_the_score_is_the_share_that_is_right():
    world = WORLDS["shapes"]
    video, _, scene = make_clip(world, 1, 0)
    other = replace(scene, color="cyan", ground="")
    found = score(world, [video, video], [scene, other])
    assert found == {
        **{"shape": 1, "color": 0.5, "motion": 1, "size": 1, "ground": 0.5},
        **{"mean": 0.8, "shape and color": 0.5},
    }


# ------------------------------------------------------------------ models


@pytest.fixture(scope="module")
def model():
    words = ("a", "small", "large", "red", "circle", "moves", "left")
    return tiny_model(words=words, text_length=8, upsampler=None)


@pytest.fixture
def clip_folder(tmp_path):
    folder = tmp_path / "clips"
    write_clips(WORLDS["shapes"], folder, 3, 1)
    return folder


def test_clips_are_written_with_their_captions(clip_folder):
    names = [f"0000{number}.{kind}" for number in range(3) for kind in ("mp4", "txt")]
    assert sorted(path.name for path in clip_folder.iterdir()) == names
    caption = (clip_folder / "00001.txt").read_text("utf-8")
    assert caption == make_clip(WORLDS["shapes"], 1, 1)[1] + "\n"


def test_the_copy_is_of_the_clip_with_most_words_in_common(clip_folder):
    clips = [make_clip(WORLDS["shapes"], 1, number) for number in range(3)]
    prompts = [caption for _, caption, _ in clips]
    copies = list(copy_nearest(clip_folder, [*prompts[::-1], "none of their words"]))
    for copy, (frames, _, scene) in zip(copies, [*clips[::-1], clips[0]], strict=True):
        assert np.abs(copy.astype(int) - frames).mean() < 4  # compressed
        assert grade(WORLDS["shapes"], copy) == scene


def test_samples_have_both_sizes_and_depend_on_prompt_and_seed(model, monkeypatch):
    monkeypatch.setattr(samples, "_BATCH", 2)
    prompts = ["a small red circle", "a large circle moves left", "a small red circle"]
    made = list(write_samples(model, prompts, 0, SamplingConfig()))
    assert [decoded.shape for decoded, _ in made] == [(8, 3, 32, 32)] * 3
    assert [full.shape for _, full in made] == [(8, 3, 48, 48)] * 3
    again = list(write_samples(model, prompts, 0, SamplingConfig()))
    other = list(write_samples(model, prompts, 1, SamplingConfig()))
    for (_, full), (_, same), (_, another) in zip(made, again, other, strict=True):
        assert torch.equal(full, same)
        assert not torch.equal(full, another)
    likeliest = SamplingConfig(temperature=0)
    first, second, third = (video for video, _ in write_samples(model, prompts, 0, likeliest))
    assert torch.equal(first, third)  # of another batch
    assert not torch.equal(first, second)


def test_of_candidates_the_likeliest_is_kept(model, monkeypatch):
    asked = []

    def last(_, patches, words):
        asked.append(words[..., 0].tolist())
        return range(len(patches) - 1, -1, -1)

    prompts = ["a small red circle", "a large circle moves left"]
    monkeypatch.setattr(samples, "rank", last)
    written = []
    monkeypatch.setattr(
        samples,
        "sample",
        lambda *args: written.append(torch.randint(9, (6, 128, 3))) or written[-1],
    )
    monkeypatch.setattr(samples, "from_patches", lambda patches, _: patches)
    codes = samples._write_codes(model, prompts, SamplingConfig(), 3, torch.Generator())
    assert torch.equal(codes, written[0][[2, 5]])
    known = [model.words.encode(prompt) for prompt in prompts]
    assert asked == [[known[0]] * 3, [known[1]] * 3]


def test_pixels_and_videos_are_the_same(clips):
    _, listed = clips
    frames = listed[0][0]
    assert np.array_equal(to_pixels(samples.to_video(frames)), frames)


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["world.py", *map(str, words)])
    tool.main()


def test_commands_make_grade_and_draw(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "load_video_model", {tmp_path / "model": model}.__getitem__)
    call(monkeypatch, "make", "emblems", tmp_path / "clips", "--count", 2)
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2
    path, prompts = tmp_path / "model", ("--prompts", 3)
    call(monkeypatch, "grade", "emblems", path, *prompts, "--clips", tmp_path / "clips")
    lines = [line.split(" {") for line in capsys.readouterr().out.splitlines()]
    kinds = [
        f"{kind}{part}" for kind in ("seen", "unseen") for part in (", decoded", "", ", copies")
    ]
    assert [name for name, _ in lines] == kinds
    shares = json.loads("{" + lines[2][1])
    assert [*shares][-2:] == ["mean", "shape and color"]
    assert shares["mean"] > 0
    call(monkeypatch, "sheet", "emblems", path, tmp_path / "sheet.png", *prompts)
    frames, captions = 2 * 48 + 2, 20 * 6 + 8  # frames 0 and 5 of 8
    assert read_image(tmp_path / "sheet.png").shape == (3, 48, 3 * (frames + captions) + 2 * 4)
