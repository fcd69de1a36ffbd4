"""The colour wheel: values worked by hand, then parity with torchvision."""

import math

import pytest
import torch

from flowwarp.viz.colors import color_wheel, flow_to_image, legend, robust_maximum


def one_pixel(u, v):
    return torch.tensor([u, v], dtype=torch.float32).view(1, 2, 1, 1)


@pytest.fixture
def flow():
    return torch.randn(2, 2, 13, 17, generator=torch.Generator().manual_seed(0))


# Position on the wheel of 55 colours = (angle of (-u, -v) / pi + 1) / 2 * 54.
@pytest.mark.parametrize(
    ("u", "v", "rgb"),
    [
        (0, 0, (255, 255, 255)),
        (1, 0, (255, 0, 0)),  # 0: the first colour
        (0, 1, (255, 229.5, 0)),  # 13.5: between (255, 221, 0) and (255, 238, 0)
        (-1, 0, (0, 209, 255)),  # 27: the third from cyan to blue, 255 - 46
        (0, -1, (88, 0, 255)),  # 40.5: between 78 and 98 of blue to magenta
        (0.5, 0, (255, 127.5, 127.5)),  # half the speed is half way to white
        (2, 0, (191.25, 0, 0)),  # faster than the maximum: 75 %
        (0, -200, (66, 0, 191.25)),
        (1, -1e-30, (255, 0, 43)),  # 54: the last color, at the seam
        (1.0000001, 0, (255, 0, 0)),  # a rounding, not faster
    ],
)
def test_hand_worked_colors(u, v, rgb):
    image = flow_to_image(one_pixel(u, v), max_flow=1.0)
    torch.testing.assert_close(255 * image.flatten(), torch.tensor(rgb).float(), atol=1e-3, rtol=0)


def test_the_wheel_is_the_published_one():
    wheel = 255 * color_wheel()
    assert wheel.shape == (55, 3)
    corners = [(0, "ff0000"), (15, "ffff00"), (21, "00ff00"), (25, "00ffff"), (36, "0000ff")]
    for index, code in [*corners, (49, "ff00ff"), (1, "ff1100"), (54, "ff002b")]:
        assert bytes(wheel[index].round().byte().tolist()).hex() == code


def test_matches_torchvision_at_its_normalisation(flow):
    utils = pytest.importorskip("torchvision.utils")
    longest = torch.linalg.vector_norm(flow, dim=1).max().item()
    ours = (255 * flow_to_image(flow, max_flow=longest)).floor()
    # torchvision truncates to integers, so a rounding can change a value by one.
    assert (ours - utils.flow_to_image(flow).float()).abs().max() <= 1


def test_negative_zero_is_zero():
    right = one_pixel(1, 0.0)
    assert torch.equal(
        flow_to_image(right, max_flow=1), flow_to_image(one_pixel(1, -0.0), max_flow=1)
    )


def test_unknown_pixels_are_black_and_do_not_change_the_others(flow):
    bad = flow.clone()
    for x, value in enumerate([math.nan, math.inf, -math.inf, 1.5e9, 1e30]):
        bad[0, x % 2, 0, x] = value
    valid = torch.ones(2, 1, 13, 17, dtype=torch.bool)
    valid[1, 0, 5, 6] = False
    image = flow_to_image(bad, max_flow=2.0, valid=valid)
    black = (image == 0).all(1)
    assert black[0, 0, :5].all()
    assert black[1, 5, 6]
    assert black.sum() == 6
    assert image.isfinite().all()
    expected = flow_to_image(flow, max_flow=2.0)
    assert torch.equal(image.permute(0, 2, 3, 1)[~black], expected.permute(0, 2, 3, 1)[~black])


def test_robust_maximum_is_the_99th_percentile_of_what_moves():
    flow = torch.zeros(3, 2, 20, 20)
    flow[0, 0].view(-1)[:200] = torch.arange(1.0, 201)  # 200 of 400 move: rank 198
    flow[1, 1, 0, 0] = -3.0
    assert robust_maximum(flow).tolist() == [198.0, 3.0, 1.0]
    valid = torch.ones(3, 1, 20, 20, dtype=torch.bool)
    valid[0].view(-1)[100:] = False
    valid[1, 0, 0, 0] = False
    assert robust_maximum(flow, valid=valid).tolist() == [99.0, 1.0, 1.0]


def test_default_scale_is_per_example(flow):
    flow[1] *= 50
    alone = torch.cat([flow_to_image(flow[:1]), flow_to_image(flow[1:])])
    torch.testing.assert_close(flow_to_image(flow), alone)
    given = flow_to_image(flow, max_flow=robust_maximum(flow))
    torch.testing.assert_close(given, alone)


def test_all_unknown_and_all_zero():
    assert (flow_to_image(torch.full((1, 2, 3, 4), math.nan)) == 0).all()
    assert (flow_to_image(torch.zeros(1, 2, 3, 4)) == 1).all()


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (1, 2, 0, 5), (2, 2, 1, 1), (2, 3, 4), (2, 1, 1)])
def test_shapes(shape):
    image = flow_to_image(torch.ones(shape))
    assert image.shape == (*shape[:-3], 3, *shape[-2:])
    assert image.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(flow, dtype):
    exact = flow.to(dtype)
    image = flow_to_image(exact, max_flow=4)
    assert image.dtype == torch.float32
    assert torch.equal(image, flow_to_image(exact.float(), max_flow=4))


def test_unbatched_valid_and_layout(flow):
    valid = torch.rand(1, 13, 17, generator=torch.Generator().manual_seed(1)) > 0.5
    image = flow_to_image(flow[0], valid=valid)
    assert torch.equal(image, flow_to_image(flow[:1], valid=valid[None])[0])
    strided = flow.to(memory_format=torch.channels_last)
    assert torch.equal(flow_to_image(strided), flow_to_image(flow))
    assert not flow_to_image(flow.requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_flow": 0}, "max_flow must be positive"),
        ({"max_flow": math.nan}, "max_flow must be positive"),
        ({"max_flow": math.inf}, "max_flow must be positive"),
        ({"max_flow": torch.ones(3)}, r"max_flow must be one number or \(2,\)"),
        ({"max_flow": torch.ones(2, 1)}, r"max_flow must be one number or \(2,\)"),
        ({"valid": torch.ones(2, 1, 3, 3)}, "valid must have batch, height and width"),
        ({"valid": torch.ones(2, 2, 13, 17)}, r"valid must be \(B, 1, H, W\)"),
    ],
)
def test_errors_name_the_argument(flow, arguments, message):
    with pytest.raises(ValueError, match=message):
        flow_to_image(flow, **arguments)


def test_errors_name_the_flow():
    with pytest.raises(ValueError, match=r"flow must be \(B, 2, H, W\)"):
        flow_to_image(torch.ones(3, 4, 4))
    with pytest.raises(TypeError, match="flow must be"):
        flow_to_image(torch.ones(2, 4, 4, dtype=torch.int32))


def test_legend_shows_the_wheel_and_its_scale():
    picture = legend(7.25, size=81)
    assert picture.shape == (3, 97, 81)
    assert (picture[:, 40, 40] == 1).all()  # no motion in the middle
    torch.testing.assert_close(  # 39 of 40 pixels to the right of it
        picture[:, 40, 79], torch.tensor([1, 1 / 40, 1 / 40])
    )
    assert (picture[:, :2, :2] == 1).all()  # white around it
    ink = 1 - picture[0, 82:]
    assert set(ink.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(picture[:, 81:], legend(7.26, size=81)[:, 81:])
    assert torch.equal(picture[:, :81], legend(0.5, size=81)[:, :81])


@pytest.mark.parametrize("max_flow", [1e-30, 0.000123456, 999.9, 123456, 1e9])
def test_legend_fits_every_scale(max_flow):
    assert (legend(max_flow, size=80)[0, 81:] == 0).any()


@pytest.mark.parametrize(("max_flow", "size"), [(1, 79), (0, 80), (math.nan, 80), (2e9, 80)])
def test_wrong_arguments_of_legend_are_errors(max_flow, size):
    with pytest.raises(ValueError, match="must be"):
        legend(max_flow, size)
