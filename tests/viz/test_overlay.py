"""Arrows, error colours and comparisons, pixel by pixel."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowwarp.viz.overlay import arrows, error_legend, error_map, flicker, side_by_side
from flowwarp.viz.text import text_mask

YELLOW = torch.tensor([1.0, 0.9, 0.0])


def constant_flow(u, v, height=40, width=40):
    return torch.tensor([u, v], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, height, width)


def test_an_arrow_by_hand():
    # One arrow, from (20, 20) to (30, 20), 1.5 px thick with a rim of 1 px.
    picture = arrows(constant_flow(10, 0), step=40, scale=1)[0]
    column = picture[:, 17:24, 23].T  # above, on and below its shaft
    gray = torch.tensor([1.0, 0.75, 0, 0, 0, 0.75, 1])[:, None].expand(7, 3).clone()
    gray[2], gray[3], gray[4] = YELLOW / 4, YELLOW, YELLOW / 4
    torch.testing.assert_close(column, gray)
    torch.testing.assert_close(picture[:, 20, 30], YELLOW)  # the tip
    assert (picture[:, 20, 34] == 1).all()
    assert (picture[:, 20, 16] == 1).all()
    torch.testing.assert_close(picture[:, 20, 18], torch.full((3,), 0.75))  # 2 px behind the tail


def test_the_head_is_at_the_tip_and_symmetric():
    picture = arrows(constant_flow(12, 0, 41, 41), step=41, scale=1)[0]
    torch.testing.assert_close(picture, picture.flip(1))  # about row 20
    ink = (picture < 1).any(0).sum(0)  # inked pixels of each column
    assert ink[28] > ink[24] == ink[22]  # columns 20 to 32 hold the arrow


def test_arrows_rotate_with_the_flow():
    right = arrows(constant_flow(9, 0, 41, 41), step=41, scale=1)
    down = arrows(constant_flow(0, 9, 41, 41), step=41, scale=1)
    left = arrows(constant_flow(-9, 0, 41, 41), step=41, scale=1)
    torch.testing.assert_close(down, right.transpose(2, 3))
    torch.testing.assert_close(left, right.flip(3))


def test_default_scale_fits_the_grid():
    small, large = constant_flow(0.01, 0), constant_flow(500, 0)
    torch.testing.assert_close(arrows(small), arrows(large))
    torch.testing.assert_close(arrows(small), arrows(constant_flow(24, 0), scale=1))


def test_no_arrow_where_flow_is_unknown_or_zero():
    flow = constant_flow(5, 0).clone()
    flow[0, 0, 20, 20] = math.nan
    assert (arrows(flow, step=40) == 1).all()
    valid = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    assert (arrows(constant_flow(5, 0), valid=valid) == 1).all()
    assert (arrows(constant_flow(0, 0)) == 1).all()
    assert (arrows(constant_flow(0.4, 0), scale=1) == 1).all()


def test_arrows_keep_the_image_elsewhere():
    image = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    picture = arrows(constant_flow(10, 0), image, step=40, scale=1)
    assert torch.equal(image, before)
    assert torch.equal(picture[:, :, :15], image[:, :, :15])
    assert not torch.equal(picture, image)
    gray = arrows(constant_flow(10, 0), image[:, :1], step=40, scale=1)
    assert gray.shape == (1, 3, 40, 40)


@pytest.mark.parametrize("u", [1e9, 3e5, -1e8])
def test_very_long_arrows_are_cut(u):
    picture = arrows(constant_flow(u, u), scale=1)
    assert picture.isfinite().all()
    assert picture.min() < 1


@pytest.mark.parametrize("shape", [(0, 2, 9, 9), (2, 2, 1, 1), (1, 2, 0, 7), (3, 2, 30, 70)])
def test_arrows_take_any_size(shape):
    picture = arrows(torch.ones(shape), scale=1)
    assert picture.shape == (shape[0], 3, *shape[2:])
    assert (picture.numel() == 0) or (picture.min() < 1)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(out) if isinstance(each, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


def test_the_cost_of_arrows_that_leave_the_image_is_that_of_their_visible_part():
    flow = 40 * torch.randn(1, 2, 60, 90, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.pad(flow, [12 * 20] * 4)  # no arrow leaves this one
    visible = arrows(wide, step=12, scale=1)[:, :, 240:300, 240:330]
    torch.testing.assert_close(arrows(flow, step=12, scale=1), visible, atol=1e-4, rtol=0)
    with Largest() as largest:
        arrows(flow, step=2, scale=1e6)
    assert largest.elements < 2**21


def test_each_example_has_its_own_arrows():
    flow = torch.cat([constant_flow(3, 1), constant_flow(-50, 2)])
    alone = torch.cat([arrows(flow[:1]), arrows(flow[1:])])
    torch.testing.assert_close(arrows(flow), alone)


@pytest.mark.parametrize("name", ["step", "scale", "width"])
def test_wrong_arguments_of_arrows_are_errors(name):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        arrows(constant_flow(1, 0), **{name: 0})
    with pytest.raises(ValueError, match="image must have batch, height and width"):
        arrows(constant_flow(1, 0), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="image must have 1 or 3 channels"):
        arrows(constant_flow(1, 0), torch.zeros(1, 4, 40, 40))


@pytest.mark.parametrize(
    ("error", "length", "rgb"),
    [
        (0, 0, (49, 54, 149)),
        (3 / 16, 0, (49, 54, 149)),  # 1/16 of 3 px
        (0.19, 0, (69, 117, 180)),
        (1, 0, (171, 217, 233)),
        (3, 0, (224, 243, 248)),  # not yet an outlier
        (3.01, 0, (254, 224, 144)),
        (3.01, 100, (224, 243, 248)),  # 3 % of 100
        (5.1, 100, (254, 224, 144)),
        (40, 0, (215, 48, 39)),
        (49, 0, (165, 0, 38)),
        (math.nan, 0, (165, 0, 38)),
        (math.inf, 0, (165, 0, 38)),
    ],
)
def test_error_colors_by_hand(error, length, rgb):
    target = constant_flow(0, length, 1, 1)
    picture = error_map(target + constant_flow(error, 0, 1, 1), target)
    assert (255 * picture).round().flatten().tolist() == list(rgb)


@pytest.mark.parametrize(("u", "v", "error"), [(4.2, 5.6, 7), (2, 2.1, 2.9)])
def test_errors_and_lengths_are_euclidean(u, v, error):
    still = constant_flow(0, 0, 1, 1)
    slanted, level = (error_map(constant_flow(*way, 1, 1), still) for way in ((u, v), (error, 0)))
    assert torch.equal(slanted, level)
    far = constant_flow(60, 80, 1, 1)  # 100 px, so that 5 px is the threshold
    inlier, outlier = (error_map(far + constant_flow(d, 0, 1, 1), far) for d in (4.5, 5.5))
    assert torch.equal(inlier, error_map(constant_flow(2.9, 0, 1, 1), still))
    assert torch.equal(outlier, error_map(constant_flow(3.1, 0, 1, 1), still))


def test_unknown_truth_is_black():
    target = torch.zeros(2, 2, 3, 4)
    target[0, 0, 0, 0], target[0, 1, 0, 1] = math.nan, 1e10
    valid = torch.ones(2, 1, 3, 4, dtype=torch.bool)
    valid[1, 0, 2, 3] = False
    black = (error_map(torch.ones(2, 2, 3, 4), target, valid=valid) == 0).all(1)
    assert black.nonzero().tolist() == [[0, 0, 0], [0, 0, 1], [1, 2, 3]]
    assert error_map(target[:0], target[:0]).shape == (0, 3, 3, 4)
    with pytest.raises(ValueError, match="target must have batch"):
        error_map(target, target[:1])


def test_error_legend_has_every_color_once():
    picture = error_legend()
    assert picture.shape == (3, 120, 80)
    swatches = (255 * picture[:, 6::12, 4]).round().int().T.tolist()
    flow = torch.tensor([0, 0.2, 0.5, 1, 2, 4, 8, 16, 32, 64]).view(1, 1, 1, 10).expand(1, 2, 1, 10)
    zero = torch.zeros(1, 2, 1, 10)
    errors = error_map(torch.cat((flow[:, :1], zero[:, :1]), 1), zero)
    assert swatches == (255 * errors[0, :, 0]).round().int().T.tolist()
    rows = picture[0, :, 28:].view(10, 12, 52)
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 10  # ten different numbers
    assert torch.equal(rows[5, 2:9, :24], 1 - text_mask("3 px"))  # the first outliers


def test_side_by_side_is_aligned_at_the_top_on_white():
    row = side_by_side([torch.zeros(1, 3, 2, 3), torch.full((1, 3, 4, 1), 0.5)], gap=2)
    expected = torch.tensor([[0, 0, 0, 1, 1, 0.5]] * 2 + [[1, 1, 1, 1, 1, 0.5]] * 2)
    assert torch.equal(row, expected.expand(1, 3, 4, 6))
    assert torch.equal(side_by_side([row]), row)
    with pytest.raises(ValueError, match="at least one"):
        side_by_side([])
    with pytest.raises(ValueError, match=r"images\[1\] must have batch and channels"):
        side_by_side([row, row[:, :1]])


def test_flicker_is_a_video_of_both():
    first, second = torch.rand(2, 1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    video = flicker(first, second)
    assert video.shape == (1, 2, 3, 4, 5)
    assert torch.equal(video[:, 0], first)
    assert torch.equal(video[:, 1], second)
    with pytest.raises(ValueError, match="image2 must have batch"):
        flicker(first, second[..., :4])
    with pytest.raises(ValueError, match="image2 must have 3 channels"):
        flicker(first, second[:, :1])
