"""The unsupervised loss: its terms by hand, their masks, and their weighted sum."""

import math

import pytest
import torch

from flowwarp.losses import photometric, smoothness
from flowwarp.losses.photometric import PHOTOMETRIC
from flowwarp.losses.smoothness import SMOOTHNESS
from flowwarp.losses.unsupervised import (
    flow_losses,
    known_flow_distance,
    level_census,
    self_supervision_term,
    velocity_term,
    visible_masks,
)
from flowwarp.models.flownet import TINY, FlowNet, FlowPyramid

PLAIN = {"census": 1.0, "smoothness": 0.3, "levels": 0.2}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def frames(height=32, width=48, seed=0):
    return torch.rand(2, 1, 3, height, width, generator=seeded(seed)).unbind()


def as_batch(images):
    return {"image1": images[0], "image2": images[1]}


@pytest.fixture(scope="module")
def images():
    return frames()


class Constant:
    """Stands for a network: the same flow everywhere; it notes what it is called with."""

    def __init__(self, there=(0.0, 0.0), back=(0.0, 0.0)):
        self.flows = there, back
        self.calls = []

    def __call__(self, image1, image2, *, skip=0):
        self.calls.append((image1, image2, skip))
        return tuple(self._pyramid(vector, image1) for vector in self.flows)

    def _pyramid(self, vector, image):
        height, width = image.shape[-2:]
        full = torch.tensor(vector).view(1, 2, 1, 1).expand(len(image), 2, height, width)
        return FlowPyramid(full, (full[..., ::4, ::4] / 4,))


def constant(x):
    """Return a flow of x pixels to the right, (1, 2, 8, 16)."""
    return torch.tensor([x, 0.0]).view(1, 2, 1, 1).expand(1, 2, 8, 16)


def pyramids(*vectors):
    return [FlowPyramid(constant(x).requires_grad_(), ()) for x in vectors]


# ------------------------------------------------------------------ the sum


OTHERS = [name for name in (*PHOTOMETRIC, *SMOOTHNESS) if name not in PLAIN]


@pytest.mark.parametrize("name", OTHERS)
def test_a_weight_adds_its_term_and_zero_costs_nothing(images, name, monkeypatch):
    torch.manual_seed(0)
    net, batch = FlowNet(TINY), as_batch(images)
    weighted = flow_losses(net, batch, PLAIN | {name: 0.3})

    def never(*arguments):
        raise AssertionError(name)

    monkeypatch.setitem(PHOTOMETRIC if name in PHOTOMETRIC else SMOOTHNESS, name, never)
    plain = flow_losses(net, batch, PLAIN | {name: 0.0})
    assert name not in plain
    assert weighted[name].item() > 0
    assert torch.allclose(weighted["loss"], plain["loss"] + 0.3 * weighted[name])


def test_terms_are_means_over_both_directions(images):
    """For a network that predicts no motion, each compares the frames as they are."""
    image1, image2 = images
    weights = PLAIN | dict.fromkeys(OTHERS, 1.0)
    terms = flow_losses(Constant(), as_batch(images), weights)
    for name, loss in PHOTOMETRIC.items():
        mean = 0.5 * (loss(image1, image2) + loss(image2, image1))
        assert torch.allclose(terms[name], mean), name
    still, grey = torch.zeros(1, 2, 8, 12), torch.zeros(1, 3, 8, 12)
    # Flow is 0, so both are Charbonnier's epsilon where the image has no edge, and less at one.
    for name in ("smoothness", "smoothness_second"):
        most = smoothness.smoothness_first(still, grey)
        assert 0 < terms[name].item() < most.item()


def test_occluded_pixels_are_left_out(images):
    image1, image2 = images
    # All pixels of frame 1 move to one column of frame 2: by range, all others are occluded.
    x = torch.arange(48.0).expand(1, 1, 32, 48)
    gather = torch.cat([20 - x, torch.zeros_like(x)], 1)

    def net(first, second, *, skip=0):
        level = gather[..., ::4, ::4] / 4
        return (FlowPyramid(gather, (level,)), FlowPyramid(gather, (level,)))

    none, by_range = (
        flow_losses(net, as_batch(images), PLAIN, occlusion=occlusion)
        for occlusion in ("none", "range")
    )
    visible = visible_masks(gather, gather, "range")[0]
    expected = [
        0.5
        * (
            photometric.census_loss(image1, photometric.warp_crop(image2, gather, 0)[0], mask)
            + photometric.census_loss(image2, photometric.warp_crop(image1, gather, 0)[0], mask)
        )
        for mask in (None, visible)
    ]
    assert torch.allclose(none["census"], expected[0])
    assert torch.allclose(by_range["census"], expected[1])
    assert not torch.allclose(none["census"], by_range["census"])


def test_finest_levels_are_skipped_by_the_network(images):
    net = Constant()
    flow_losses(net, as_batch(images), PLAIN, skip=1)
    assert [skip for *_, skip in net.calls] == [1]


# ------------------------------------------------------------------ levels


def test_coarser_levels_are_compared_both_ways(images):
    net = Constant(there=(4.0, 0.0), back=(0.0, 8.0))
    terms = flow_losses(net, as_batch(images), PLAIN)
    one, two = (torch.nn.functional.avg_pool2d(image, 4) for image in images)
    there, back = (pyramid.levels[0] for pyramid in net(*images))
    mean = 0.5 * (
        photometric.census_loss(one, *photometric.warp_crop(two, there, 0), radius=2)
        + photometric.census_loss(two, *photometric.warp_crop(one, back, 0), radius=2)
    )
    torch.testing.assert_close(terms["levels"], mean)


def test_a_level_too_small_for_census_does_not_count():
    images = frames(64, 64)
    small, large = (torch.zeros(1, 2, side, side) for side in (4, 16))
    assert torch.equal(level_census(*images, (small, large)), level_census(*images, (large,)))
    assert level_census(*images, (small,)) == 0


# ------------------------------------------------------------------ visible pixels


def test_pixels_that_leave_the_frame_are_occluded_by_range():
    there, back = visible_masks(constant(4.0), constant(-4.0), "range")
    assert there[0, 0, 3].tolist() == [True] * 12 + [False] * 4  # these leave to the right
    assert back[0, 0, 3].tolist() == [False] * 4 + [True] * 12


def test_by_consistency_only_contradictions_inside_the_frame_are_occluded():
    there, back = visible_masks(constant(4.0), constant(-4.0), "consistency")
    assert there.all()
    assert back.all()
    there, back = visible_masks(constant(4.0), constant(4.0), "consistency")
    assert there[0, 0, 3].tolist() == [False] * 12 + [True] * 4
    assert torch.equal(there, back)


# ------------------------------------------------------------------ known flow


def test_the_distance_to_known_flow_by_hand():
    target = torch.full((1, 2, 8, 8), 4.0)
    target[..., 1] = math.nan  # unknown: does not count
    target[..., 0] = math.nan
    full, level = torch.full((1, 2, 8, 8), 4.0), torch.full((1, 2, 4, 4), 2.0)
    equal = known_flow_distance(FlowPyramid(full, (level,)), target)
    assert equal == pytest.approx([0.02], abs=1e-6)
    # Off by a pixel in both components at full size, by half a pixel of its own at the level.
    off = known_flow_distance(FlowPyramid(full + 1, (level + 0.5,)), target)
    assert off == pytest.approx([(1 + 1e-4) ** 0.5 + (0.25 + 1e-4) ** 0.5], abs=1e-5)
    nothing = torch.full_like(target, math.nan)
    assert known_flow_distance(FlowPyramid(full, (level,)), nothing) == 0


# ------------------------------------------------------------------ three frames


@pytest.mark.parametrize(("again", "teaches"), [(-3.0, True), (3.0, False)])
def test_the_frame_before_teaches_where_its_flow_is_consistent(again, teaches):
    net = Constant(there=(3.0, 0.0), back=(again, 0.0))
    visible = torch.zeros(1, 1, 8, 16, dtype=torch.bool)
    assert (velocity_term(net, *frames(8, 16), *pyramids(1.0), visible).item() > 0) == teaches


# ------------------------------------------------------------------ self-supervision


def test_the_distance_of_a_student_by_hand():
    student = Constant(there=(1.3, 0.0), back=(-1.0, 0.0))
    views = frames(8, 16)
    loss = self_supervision_term(student, views, *pyramids(1.0, -1.0), 2)
    # Charbonnier's epsilon is 0.001; 0.3 px off in one of two components, one of two directions.
    assert loss.item() == pytest.approx(0.5 * ((0.3 + 0.001) / 2 + 0.001), abs=1e-5)
    for view, shown in zip(views, student.calls[0][:2], strict=True):
        assert torch.equal(shown, view[..., 2:-2, 2:-2])
    assert not loss.requires_grad  # a teacher does not learn from its student


def test_a_teacher_that_contradicts_itself_does_not_teach():
    student = Constant(there=(9.0, 0.0))
    assert self_supervision_term(student, frames(8, 16), *pyramids(3.0, 3.0), 2).item() == 0


def test_each_direction_has_its_own_mask():
    """Everything moves 4 px right, but in the left half the backward flow contradicts that.

    Backward flow of the left half is never trusted, though forward flow of a part of it is.
    """
    back = constant(-4.0).clone()
    back[..., :8] *= -1
    teachers = [FlowPyramid(constant(4.0), ()), FlowPyramid(back, ())]
    student = Constant(there=(4.0, 0.0), back=(-4.0, 0.0))
    views = frames(8, 16)
    assert self_supervision_term(student, views, *teachers, 2).item() == pytest.approx(1e-3)
    # And with both directions exchanged.
    student = Constant(there=(-4.0, 0.0), back=(4.0, 0.0))
    loss = self_supervision_term(student, views, *teachers[::-1], 2).item()
    assert loss == pytest.approx(1e-3)


def test_a_student_sees_another_appearance(images):
    views = frames(seed=1)
    batch = as_batch(images) | {"student1": views[0], "student2": views[1]}
    net = Constant()
    flow_losses(net, batch, PLAIN | {"self_supervision": 0.1}, student_margin=8)
    for image, view, (whole, student) in zip(
        images, views, zip(net.calls[0][:2], net.calls[1][:2], strict=True), strict=True
    ):
        assert torch.equal(whole, image)
        assert torch.equal(student, view[..., 8:-8, 8:-8])
