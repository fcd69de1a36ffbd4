"""PSNR and code use: values worked by hand."""

import math

import pytest
import torch

from flowwarp.metrics.video import code_use, psnr


def test_psnr_by_hand():
    target = torch.full((2, 2, 3, 2, 2), 0.5)
    video = target.clone()
    video[0, 0] += 0.1  # mean square 0.01 in one frame, 0.005 in both
    video[1] += 0.2
    assert psnr(video, target).tolist() == pytest.approx([23.0103, 13.9794], abs=1e-3)
    assert psnr(video[:, 1:], target[:, 1:]).tolist() == pytest.approx([math.inf, 13.9794])
    assert psnr(video.bfloat16(), target).dtype == torch.float32


def test_psnr_of_an_example_does_not_depend_on_its_batch():
    video, target = torch.rand(2, 3, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(psnr(video, target)[1:2], psnr(video[1:2], target[1:2]))
    assert torch.equal(psnr(video, target), psnr(target, video))


@pytest.mark.parametrize("other", [torch.zeros(1, 2, 3, 4, 5), torch.zeros(1, 3, 4, 4)])
def test_wrong_shapes_are_errors(other):
    with pytest.raises(ValueError, match="target must"):
        psnr(torch.zeros(1, 2, 3, 4, 4), other)


def test_code_use_by_hand():
    # Levels (2, 3): codes 0, 0, 4, 4 are the digits (0, 0) twice and (1, 1) twice.
    use = code_use(torch.tensor([[0, 0], [4, 4]]), (2, 3))
    assert use.used == pytest.approx(2 / 6)
    assert use.effective == pytest.approx(2 / 6)
    assert use.dimensions == pytest.approx((1, 2 / 3))
    uneven = code_use(torch.tensor([0, 0, 0, 1]), (4,))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert uneven.effective == pytest.approx(math.exp(entropy) / 4)
    assert uneven.dimensions == (uneven.effective,)
    everything = code_use(torch.arange(1000), (8, 5, 5, 5))
    assert everything.used == 1
    assert everything.dimensions == pytest.approx((1, 1, 1, 1))


@pytest.mark.parametrize("codes", [torch.tensor([6]), torch.tensor([-1]), torch.zeros(0)])
def test_codes_out_of_range_are_errors(codes):
    with pytest.raises(ValueError, match="codes must be one or more integers from 0 to 5"):
        code_use(codes, (2, 3))


def test_digits_are_counted_separately():
    # To base 2: the digits are (0, 0), (0, 1), (0, 0), (0, 1); the first is always 0.
    use = code_use(torch.tensor([0, 1, 0, 1]), (2,), groups=2)
    assert use.used == pytest.approx((0.5 + 1) / 2)
    assert use.effective == pytest.approx((0.5 + 1) / 2)
    assert use.dimensions == pytest.approx((0.5, 1))
    with pytest.raises(ValueError, match="from 0 to 3"):
        code_use(torch.tensor([4]), (2,), groups=2)
