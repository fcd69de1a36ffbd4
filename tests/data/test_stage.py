"""Pictures on a stage: flow and masks that can be worked out by hand."""

import numpy as np
import pytest
import torch

from flowwarp.data.stage import STAGE, Figure, Shadow, Track, check_take, film


def track(frames, x=0.0, y=0.0, scale=1.0):
    """Return a track; x and y are given for frame 0, or for each frame."""
    return Track(*(np.zeros(frames) + part for part in (scale, x, y)))


def square(path, shown=(0, 0), side=20, shadow=None):
    """Return a red square; its second picture is blue."""
    pictures = np.zeros((2, 32, 32, 4), np.float32)
    pictures[:, 6 : 6 + side, 6 : 6 + side, 3] = 1
    pictures[0, 6 : 6 + side, 6 : 6 + side, 0] = 1
    pictures[1, 6 : 6 + side, 6 : 6 + side, 2] = 1
    return Figure(pictures, np.array(shown), path, shadow)


@pytest.fixture
def canvas():
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((1, 3, 24, 24)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, (200, 200), mode="bicubic")[0].clamp(0, 1)


def test_a_square_over_a_ground_that_rests(canvas):
    moves = track(2, x=np.array([30.0, 34.0]), y=np.array([40.0, 38.0]))
    take = film(canvas, track(2), [square(moves)], STAGE)
    assert take.video.shape == (2, 3, STAGE, STAGE)
    assert take.video.dtype == torch.uint8
    assert take.video[0, :, 56, 46].tolist() == [255, 0, 0]  # 40 + 6 + 10, 30 + 6 + 10
    assert take.flow_12[0, :, 56, 46].tolist() == pytest.approx([4, -2])
    assert take.flow_21[0, :, 56, 46].tolist() == pytest.approx([-4, 2])
    assert take.valid_12[0, 0, 56, 46]
    assert take.visible_12[0, 0, 56, 46]
    # The ground rests; right of the square it is about to be hidden, left of it was hidden before.
    assert take.flow_12[0, :, 56, 58].tolist() == [0, 0]
    assert not take.visible_12[0, 0, 56, 58]
    assert take.visible_21[0, 0, 56, 62]
    assert not take.visible_21[0, 0, 56, 37]
    assert take.valid_12[0, 0, 100, 100]
    assert take.visible_12[0, 0, 100, 100]
    # On the rim two things share a pixel.
    assert not take.valid_12[0, 0, 56, 36]


def test_a_picture_that_changes_has_no_flow(canvas):
    take = film(canvas, track(2), [square(track(2, 30, 40), shown=(0, 1))], STAGE)
    assert not take.valid_12[0, 0, 56, 46]
    assert not take.valid_21[0, 0, 56, 46]
    assert take.valid_12[0, 0, 100, 100]


def test_what_rests_on_the_ground_has_no_rim(canvas):
    camera = track(2, x=np.array([-5.0, -8.5]))
    take = film(canvas, camera, [square(track(2, np.array([30.0, 26.5]), 40))], STAGE)
    assert take.valid_12.all()
    assert take.flow_12[0, 0].unique().tolist() == [-3.5]
    inside = take.visible_12[0, 0]
    assert not inside[:, :3].any()
    assert inside[:, 4:].all()


def test_ground_far_from_a_figure_may_go_behind_it(canvas):
    """The camera goes 12 px to the right along with the square: ground comes to it from afar."""
    camera = track(2, x=np.array([-5.0, -17.0]))
    take = film(canvas, camera, [square(track(2, 30, 40))], STAGE)
    assert take.flow_12[0, :, 56, 66].tolist() == [-12, 0]  # the square ends at 56
    assert not take.visible_12[0, 0, 56, 66]
    assert not take.visible_21[0, 0, 56, 26]
    assert take.visible_12[0, 0, 56, 70]
    assert take.flow_12[0, :, 56, 46].tolist() == [0, 0]


def test_zoom(canvas):
    """A point at distance r from the fixed point goes to 1.25 r."""
    take = film(canvas, track(2, scale=np.array([1.0, 1.25])), [], STAGE)
    assert take.flow_12[0, 0, 0].tolist() == pytest.approx([0.25 * (x + 0.5) for x in range(STAGE)])
    assert take.flow_21[0, 1, :, 7].tolist() == pytest.approx(
        [-0.2 * (y + 0.5) for y in range(STAGE)], abs=1e-5
    )
    assert take.visible_21[0, 0, 1:, 1:].all()  # the outer half pixel was out of view
    assert not take.visible_12[0, 0, -1, -1]


def test_half_the_size_has_half_the_flow(canvas):
    path = track(2, x=np.array([30.0, 34.0]), y=np.array([40.0, 38.0]))
    take = film(canvas, track(2), [square(path)], 64)
    assert take.flow_12[0, :, 28, 23].tolist() == pytest.approx([2, -1])
    assert take.valid_12[0, 0, 28, 23]


def test_a_shadow_that_moves_changes_the_ground(canvas):
    shadow = Shadow(16, 28, 10, 4, 0.5)
    moves = track(2, x=np.array([30.0, 38.0]), y=40.0)
    take = film(canvas, track(2), [square(moves, shadow=shadow)], STAGE)
    assert not take.valid_12[0, 0, 68, 40]  # below the square, in the shadow's left half
    assert take.valid_12[0, 0, 110, 40]
    rests = film(canvas, track(2), [square(track(2, 30, 40), shadow=shadow)], STAGE)
    assert rests.valid_12.all()


def test_a_figure_in_front_hides_one_behind(canvas):
    behind, front = square(track(2, 30, 40)), square(track(2, np.array([70.0, 40.0]), 40))
    take = film(canvas, track(2), [behind, front], STAGE)
    assert not take.visible_12[0, 0, 56, 50]
    assert take.flow_12[0, :, 56, 50].tolist() == [0, 0]
    assert take.flow_21[0, :, 56, 50].tolist() == [30, 0]


def test_partly_and_wholly_out_of_the_frame(canvas):
    away = track(2, x=np.array([-300.0, 400.0]), y=500.0)
    alone, with_it = film(canvas, track(2), [], 64), film(canvas, track(2), [square(away)], 64)
    assert torch.equal(alone.video, with_it.video)
    corner = film(canvas, track(2), [square(track(2, np.array([-20.0, 120.0]), -20.0))], STAGE)
    assert corner.video[0, :, 1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [0, 4, 48, 127, 256, 64.0, "64"])
def test_sizes_that_are_not_possible(size):
    with pytest.raises(ValueError, match="size must be"):
        check_take(size, 2)
