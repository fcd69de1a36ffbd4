"""Camera motion in prompts."""

import pytest

from flowwarp.data.sprite_world.camera import forms, take_camera


@pytest.mark.parametrize(
    ("verb", "wanted"),
    [
        ("walk", ["walk", "walks", "walked", "walking"]),
        ("strike", ["strike", "strikes", "striked", "striking"]),
        ("carry", ["carry", "carries", "carried", "carrying"]),
        ("die", ["die", "dies", "died", "dying"]),
        ("push in", ["push in", "pushes in", "pushed in", "pushing in"]),
    ],
)
def test_forms_of_a_verb(verb, wanted):
    assert list(forms(verb)) == wanted


@pytest.mark.parametrize(
    ("prompt", "camera", "unused"),
    [
        ("a man walks left", "", ()),
        ("the camera pans up", "pan up", ()),
        ("we zoom out", "zoom out", ()),
        ("static shot of an orc", "still", ()),
        ("an orc falls as the camera follows and zooms in", "zoom in", ("camera follows",)),
    ],
)
def test_motion_and_what_is_left_of_it(prompt, camera, unused):
    rest, found, other = take_camera(prompt)
    assert (found, other) == (camera, unused)
    assert (rest == prompt) == (not camera)


def test_a_view_of_the_actor_is_no_motion_of_the_camera():
    assert take_camera("an orc facing the camera") == ("an orc at us", "", ())
    assert take_camera("a man turns away from the camera") == ("a man turns away from us", "", ())
