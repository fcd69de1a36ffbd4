"""The loss by what captioners see."""

import pytest
import torch

from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.train.perceptual import check_eyes, seen_loss

SIZE, FRAMES = 16, 8


def eye(seed=0, **changes):
    torch.manual_seed(seed)
    return Captioner(CaptionerConfig(9, **{"size": SIZE, "widths": (16, 16)} | changes))


def test_what_captioners_see_by_hand():
    net = eye(pooled=8)
    original = torch.rand(3, FRAMES, 3, SIZE, SIZE)
    made = original.clone()
    made[1, :, 0, 4:8, 4:8] = 1 - made[1, :, 0, 4:8, 4:8]
    made[2] = original[0]
    seen = seen_loss(made, original, [net])
    assert seen[0] < 1e-5
    assert 0.01 < seen[1] < seen[2]
    wanted, found = net.features(original), net.features(made)
    shares = [(f - w)[1].norm() / w[1].norm() for f, w in zip(found, wanted, strict=True)]
    assert torch.allclose(seen[1], shares[0] + shares[1])
    assert torch.allclose(seen_loss(made[1:2], original[1:2], [net]), seen[1:2], rtol=1e-4)
    other = eye(seed=1, kinds=4)  # whose sketch pools nothing
    both = (seen + seen_loss(made, original, [other])) / 2
    assert torch.allclose(seen_loss(made, original, [net, other]), both)
    assert seen_loss(made, original, []).tolist() == [0, 0, 0]


def test_videos_that_captioners_are_not_for_are_refused():
    check_eyes([eye(), eye(apart=7)], SIZE, FRAMES)
    for wrong in (eye(size=32), eye(apart=8)):
        with pytest.raises(ValueError, match=r"captioner looks at more than \d frames of"):
            check_eyes([eye(), wrong], SIZE, FRAMES)
