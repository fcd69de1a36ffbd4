"""Augmentation: flow stays true under every crop, and nothing depends on anything hidden."""

import math

import pytest
import torch
import torch.nn.functional as F

from flowwarp.data.augment import (
    Appearance,
    Geometry,
    change_appearance,
    crop_flow,
    crop_image,
    crop_mask,
    random_geometry,
)
from flowwarp.ops.warping import warp

SOURCE, SIZE = (60, 80), (36, 44)
ALL = {"zoom": (0.9, 1.6), "rotate": 20.0, "flip": (0.5, 0.5)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(*shape, seed=0):
    coarse = torch.rand(*shape[:2], 6, 8, generator=seeded(seed))
    return F.interpolate(coarse, shape[2:], mode="bicubic", align_corners=True)


# ------------------------------------------------------------------ geometry


def test_a_plain_crop_copies_whole_pixels():
    image = torch.rand(3, 3, *SOURCE, generator=seeded())
    geometry = random_geometry(3, SOURCE, SIZE, seeded(1))
    cropped = crop_image(image, geometry)
    for example in range(3):
        left, top = geometry.matrix[example, :, 2].int().tolist()
        wanted = image[example, :, top : top + SIZE[0], left : left + SIZE[1]]
        torch.testing.assert_close(cropped[example], wanted, atol=2e-5, rtol=0)


def test_crops_reach_every_place_and_stay_inside():
    matrix = random_geometry(300, (10, 12), (8, 8), seeded()).matrix
    assert set(matrix[:, 0, 2].tolist()) == {0, 1, 2, 3, 4}
    assert set(matrix[:, 1, 2].tolist()) == {0, 1, 2}
    zoomed = random_geometry(50, SOURCE, SIZE, seeded(), zoom=(1, 2), flip=(0.5, 0.5))
    assert crop_mask(torch.ones(50, 1, *SOURCE, dtype=torch.bool), zoomed).all()


def test_mirrored_by_hand():
    image = torch.arange(4.0).view(1, 1, 1, 4)
    flow = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    geometry = random_geometry(1, (1, 4), (1, 4), seeded(), flip=(1, 0))
    assert crop_image(image, geometry).flatten().tolist() == [3, 2, 1, 0]
    assert crop_flow(flow, geometry)[0, :, 0, 0].tolist() == [-1, 2]


def test_zoomed_and_turned_by_hand():
    flow = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 9, 9)
    twice = Geometry(torch.tensor([[[0.5, 0, 2], [0, 0.5, 2]]]), (4, 4))
    assert crop_flow(flow, twice)[0, :, 0, 0].tolist() == [2, 0]
    # A quarter turn: right in the source is up in the crop (0, -1).
    quarter = Geometry(torch.tensor([[[0.0, -1, 8], [1, 0, 0]]]), (4, 4))
    torch.testing.assert_close(crop_flow(flow, quarter)[0, :, 0, 0], torch.tensor([0.0, -1]))


def test_flow_moves_with_the_images():
    image2 = smooth(8, 3, *SOURCE)
    flow = 12 * smooth(8, 2, *SOURCE, seed=1) - 6
    image1, known = warp(image2, flow, mask=True)
    geometry = random_geometry(8, SOURCE, SIZE, seeded(2), **ALL)
    crop1, crop2, flow_crop = (
        crop_image(image1, geometry),
        crop_image(image2, geometry),
        crop_flow(flow, geometry),
    )
    warped, within = warp(crop2, flow_crop, mask=True)
    inner = within & crop_mask(known, geometry)
    assert inner.float().mean() > 0.6
    error = (warped - crop1).abs().amax(1, keepdim=True)[inner]
    assert error.max() < 0.02
    assert error.mean() < 0.1 * (crop2 - crop1).abs().amax(1, keepdim=True)[inner].mean()


def test_a_mask_is_false_beyond_the_border():
    aside = Geometry(torch.tensor([[[1.0, 0, -2], [0, 1, 0]]]), (2, 4))
    mask = torch.tensor([1, 0, 1, 1]).bool().view(1, 1, 1, 4).expand(1, 1, 2, 4)
    assert crop_mask(mask, aside)[0, 0].int().tolist() == [[0, 0, 1, 0]] * 2


def test_an_example_does_not_depend_on_its_neighbours():
    one = random_geometry(1, SOURCE, SIZE, seeded(3), **ALL)
    four = random_geometry(4, SOURCE, SIZE, seeded(3), **ALL)
    assert torch.equal(one.matrix[0], four.matrix[0])


def test_wrong_arguments():
    with pytest.raises(ValueError, match="at least"):
        random_geometry(1, (0, 4), SIZE, seeded())
    with pytest.raises(ValueError, match="zoom"):
        random_geometry(1, SOURCE, SIZE, seeded(), zoom=(2, 1))


# ------------------------------------------------------------------ appearance

NOTHING = Appearance(0, 0, 0, 0, 0, 0, 0, 0, 0)


def test_no_reach_changes_nothing():
    images = smooth(3, 3, 20, 24).clamp(0, 1), smooth(3, 3, 20, 24, seed=1).clamp(0, 1)
    for got, wanted in zip(change_appearance(images, seeded(), NOTHING), images, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_colours_change_alike_without_between():
    image = smooth(4, 3, 20, 24).clamp(0, 1)
    config = Appearance(noise=0, between=0)
    first, second = change_appearance([image, image], seeded(), config)
    assert torch.equal(first, second)
    assert ((first - image).abs().mean((1, 2, 3)) > 0.01).all()
    first, second = change_appearance([image, image], seeded(), Appearance(noise=0, between=0.5))
    assert not torch.equal(first, second)


def test_brightness_by_hand():
    image = torch.full((64, 3, 4, 4), 0.5)
    config = Appearance(0.2, 0, 0, 0, 0, 0, 0, 0, 0)
    first, _ = change_appearance([image, image], seeded(), config)
    shifts = first[:, 0, 0, 0] - 0.5
    assert shifts.min() < -0.1
    assert shifts.max() > 0.1
    assert shifts.abs().max() <= 0.2 + 1e-6


def test_hue_and_saturation_leave_grey_alone():
    grey = torch.rand(8, 1, 6, 6, generator=seeded()).expand(8, 3, 6, 6)
    config = Appearance(0, 0, 0.9, 0.5, 0, 0, 0, 0, 0)
    first, _ = change_appearance([grey, grey], seeded(), config)
    torch.testing.assert_close(first, grey, atol=1e-5, rtol=0)


def test_hue_turns_red_to_green_and_back():
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(200, 3, 1, 1)
    turned, _ = change_appearance([red, red], seeded(), Appearance(0, 0, 0, 1 / 3, 0, 0, 0, 0, 0))
    greenest, bluest = (turned[:, k].max() for k in (1, 2))
    assert greenest > 0.95
    assert bluest > 0.95
    torch.testing.assert_close(
        turned[turned[:, 1].flatten().argmax(), 0].max(), torch.tensor(0.0), atol=0.1, rtol=0
    )


def test_contrast_by_hand():
    image = torch.full((64, 3, 4, 4), 0.75)
    first, _ = change_appearance([image, image], seeded(), Appearance(0, 0.4, 0, 0, 0, 0, 0, 0, 0))
    factors = (first[:, 0, 0, 0] - 0.5) / 0.25
    assert 0.6 - 1e-5 <= factors.min() < 0.7
    assert 1.3 < factors.max() <= 1.4 + 1e-5


@pytest.mark.parametrize("between", [0, 0.5, 1])
def test_blur_is_drawn_for_a_share_of_the_examples(between):
    """However far frames differ, those of an example are blurred together."""
    image = torch.rand(2000, 3, 8, 8, generator=seeded())
    config = Appearance(0, 0, 0, 0, 0, blur=3, blur_share=0.2, noise=0, between=between)
    changed = torch.stack(change_appearance([image, image], seeded(), config)) - image
    first, second = changed.abs().amax((2, 3, 4)) > 1e-3
    # A blur of less than 0.3 px, one in ten, changes nothing that could be seen.
    assert 0.15 < first.float().mean() < 0.23
    assert 0.17 < (first | second).float().mean() < 0.23


@pytest.mark.parametrize(("share", "blurred"), [(0.0, False), (1.0, True)])
def test_nothing_or_all_is_blurred(share, blurred):
    image = torch.rand(64, 3, 8, 8, generator=seeded())
    config = Appearance(0, 0, 0, 0, 0, blur=3, blur_share=share, noise=0)
    first, _ = change_appearance([image, image], seeded(), config)
    assert ((first - image).abs().amax((1, 2, 3)) > 1e-6).float().mean() == pytest.approx(
        float(blurred), abs=0.05
    )


def test_noise_is_not_shared():
    image = torch.full((16, 3, 16, 16), 0.5)
    first, second = change_appearance(
        [image, image], seeded(), Appearance(0, 0, 0, 0, 0, 0, 0, 0.05)
    )
    assert 0.005 < (first - second).std() < 0.1


def test_the_same_generator_gives_the_same():
    image = smooth(2, 3, 20, 24).clamp(0, 1)
    a, b = (change_appearance([image, image], seeded(5)) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(a, b, strict=True))
    assert all(frame.min() >= 0 and frame.max() <= 1 for frame in a)


def test_wrong_images():
    with pytest.raises(ValueError, match="alike"):
        change_appearance([torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 5)], seeded())
    with pytest.raises(ValueError, match="alike"):
        change_appearance([torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4)], seeded())


def test_a_quarter_turn_rotates_the_picture():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    geometry = Geometry(torch.tensor([[[0.0, -1, 2], [1, 0, 0]]]), (3, 3))
    assert torch.allclose(crop_image(image, geometry)[0, 0], torch.rot90(image[0, 0]), atol=1e-5)
    assert math.isclose(torch.linalg.det(geometry.matrix[0, :, :2]).item(), 1)
