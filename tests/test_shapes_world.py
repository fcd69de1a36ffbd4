"""The generated world of shapes: captions, held-out combinations, and a grader that reads it."""

import cv2
import numpy as np
import pytest

import shapes_world
from shapes_world import HELD_OUT, SHAPES, Scene, grade, make, make_clip, outline, score


@pytest.fixture(scope="module")
def clips():
    return [make_clip(3, i, held_out=held_out) for held_out in (False, True) for i in range(20)]


def test_the_grader_reads_originals(clips):
    videos, _, scenes = zip(*clips, strict=True)
    assert set(score(videos, scenes).values()) == {1.0}
    smaller = [
        np.stack([cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA) for frame in video])
        for video in videos
    ]
    assert set(score(smaller, scenes).values()) == {1.0}


def test_the_grader_tells_shapes_from_blobs(clips):
    video, _, scene = next(clip for clip in clips if clip[2].shape == "cross")
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 6) for frame in video])
    assert grade(blurred).shape != scene.shape
    assert grade(np.zeros_like(video)) == Scene("", "", "", "", "black")


def test_combinations_that_are_held_out_are_not_shown():
    for index in range(60):
        for held_out in (False, True):
            _, caption, scene = make_clip(1, index, held_out=held_out)
            assert ((scene.shape, scene.color) in HELD_OUT) == held_out
            assert f"{scene.color} {scene.shape}" in caption
    assert {shape for shape, _ in HELD_OUT} == set(SHAPES)


def test_a_clip_is_a_function_of_its_number():
    first, second = make_clip(1, 5), make_clip(1, 5)
    assert np.array_equal(first[0], second[0])
    assert first[1:] == second[1:]
    assert make_clip(2, 5)[1:] != first[1:]


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_have_about_the_same_size(shape):
    extent = np.ptp(outline(shape), 0)
    assert ((extent > 1.6) & (extent < 2.4)).all()


def test_clips_are_written_with_their_captions(tmp_path):
    make(tmp_path / "clips", 2, 1)
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names == ["00000.mp4", "00000.txt", "00001.mp4", "00001.txt"]
    caption = (tmp_path / "clips" / "00001.txt").read_text("utf-8").strip()
    assert caption == make_clip(1, 1)[1]
    assert shapes_world.SIDE == 96
