"""The estimator with the weights in the package."""

import pytest
import torch
import torch.nn.functional as F

from flowwarp.bundled import bundled
from flowwarp.errors import InputError
from flowwarp.io.images import read_image
from flowwarp.io.shipped import FLOWNETS
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow.estimate import estimate_both, estimate_flow, load_flownet
from flowwarp.viz.colors import flow_to_image

SHIFT = (6.0, -3.0)  # px


@pytest.fixture(scope="module")
def frame():
    return read_image(bundled("datasets") / "sample" / "frame1.png")[None]


@pytest.fixture(scope="module")
def shifted(frame):
    """Two crops of one picture, and the flow between them."""
    image1, image2 = frame[..., 20:212, 20:276], frame[..., 23:215, 14:270]
    truth = torch.tensor(SHIFT).view(1, 2, 1, 1).expand(1, 2, 192, 256)
    return image1, image2, truth


@pytest.mark.parametrize("seed", range(3))
def test_flat_pictures_are_enlarged_to_the_stride(seed):
    """Padding would repeat rows that do not move, and slow the motion of all others."""
    generator = torch.Generator().manual_seed(seed)
    texture = F.avg_pool2d(torch.rand(1, 3, 14, 260, generator=generator), 5, 1)
    image1, image2 = texture[..., 2:, :], texture[..., :-2, :]  # all moves down, by 2 px
    flow = estimate_flow(load_flownet(), image1, image2, "fast")
    truth = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    assert float((flow - truth).norm(dim=1).mean()) < 0.6


@pytest.mark.parametrize("name", FLOWNETS)
def test_the_network_alone_finds_a_shift(name, shifted):
    image1, image2, truth = shifted
    flow, back = estimate_both(load_flownet(name), image1, image2, "fast")
    for found, wanted in ((flow, truth), (back, -truth)):
        assert found.dtype == torch.float32
        error = (found - wanted).norm(dim=1)[:, 16:-16, 16:-16]
        # Mostly bare wall, of which the small network knows less; it errs by 1.4 to 1.6 px.
        assert error.mean() < {"base": 1.0, "small": 2.0}[name]
        assert error.median() < 0.7


def test_a_fit_makes_it_exact(shifted):
    image1, image2, truth = shifted
    net = load_flownet("base")
    flow = estimate_flow(net, image1, image2, "balanced")
    assert (flow - truth).norm(dim=1)[:, 16:-16, 16:-16].mean() < 0.05
    both = estimate_both(net, image1, image2, "balanced")
    assert torch.equal(both[0], flow)


def test_flow_warps_a_real_frame_back(frame):
    frame2 = read_image(bundled("datasets") / "sample" / "frame2.png")[None]
    flow = estimate_flow(load_flownet("base"), frame, frame2, "fast")
    before = (frame2 - frame).abs().mean()
    after = (warp(frame2, flow) - frame).abs().mean()
    assert after < 0.5 * before


def test_a_pair_does_not_depend_on_its_batch(shifted):
    image1, image2, _ = shifted
    net = load_flownet()
    alone = net(image1, image2)[0].flow
    batch = net(torch.cat([image2, image1]), torch.cat([image1, image2]))[0].flow
    assert torch.allclose(batch[1:], alone, atol=1e-4)


def test_wrong_calls(frame, tmp_path):
    net = load_flownet()
    with pytest.raises(ValueError, match="quality"):
        estimate_flow(net, frame, frame, "perfect")
    with pytest.raises(ValueError, match="image2 must have pixels"):
        estimate_flow(net, frame, frame[..., :0], "fast")
    for wrong in (frame[..., :-8, :], frame[..., :-8], torch.cat([frame, frame])):
        with pytest.raises(ValueError, match="image2 must have batch, height and width"):
            estimate_flow(net, frame, wrong, "fast")
    for quality in ("fast", "balanced"):
        with pytest.raises(ValueError, match=r"image1 must be in \[0, 1\], its largest value is 2"):
            estimate_both(net, 255 * frame, 255 * frame, quality)
    with pytest.raises(InputError):
        load_flownet(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match=r"large: no such file.*; the package has base and small"):
        load_flownet("large")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_other_types(shifted, dtype):
    image1, image2, truth = shifted
    flow = estimate_flow(load_flownet("small"), image1.to(dtype), image2.to(dtype), "fast")
    assert flow.dtype == torch.float32
    assert (flow - truth)[..., 32:-32, 32:-32].abs().median() < 1


def test_torchs_default_dtype_does_not_matter(shifted):
    image1, image2, _ = (tensor[..., :64, :96] for tensor in shifted)
    wanted = estimate_flow(load_flownet("small"), image1, image2, "fast")
    torch.set_default_dtype(torch.float64)
    try:
        flow = estimate_flow(load_flownet("small"), image1, image2, "fast")
        picture = flow_to_image(flow)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(flow, wanted)
    assert picture.dtype == torch.float32
