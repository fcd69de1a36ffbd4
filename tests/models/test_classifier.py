"""The judge: shapes, what it refuses, and that a clip is judged by itself."""

import pytest
import torch

from flowwarp.models.classifier import Classifier, ClassifierConfig

ATTRIBUTES = (("action", ("walk", "stand", "fall")), ("ground", ("sand", "snow")))


def make(**changes):
    torch.manual_seed(0)
    config = ClassifierConfig(ATTRIBUTES, **{"frames": 4, "size": 16} | changes)
    net = Classifier(config)
    for head in net.heads:  # they begin at zero, where nothing could be seen
        torch.nn.init.normal_(head.weight, std=0.1)
    return net.eval()


def test_scores_of_each_attribute():
    net = make()
    scores = net(torch.rand(3, 4, 3, 16, 16))
    assert {name: tuple(value.shape) for name, value in scores.items()} == {
        "action": (3, 3),
        "ground": (3, 2),
    }
    assert all(value.dtype == torch.float32 for value in scores.values())
    untrained = Classifier(ClassifierConfig(ATTRIBUTES, frames=4, size=16))
    assert not any(value.any() for value in untrained(torch.rand(1, 4, 3, 16, 16)).values())


@pytest.mark.parametrize("norm", ["group", "none"])
def test_a_clip_is_judged_by_itself(norm):
    net = make(norm=norm)
    videos = torch.rand(4, 4, 3, 16, 16)
    with torch.no_grad():
        together = net(videos)
        for row in range(4):
            alone = net(videos[row : row + 1])
            changed = net(torch.cat([videos[row : row + 1], torch.rand(2, 4, 3, 16, 16)]))
            for name, value in together.items():
                assert torch.allclose(alone[name][0], value[row], atol=1e-5)
                assert torch.allclose(changed[name][0], value[row], atol=1e-5)


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (3, 2, 1, 0)])
def test_order_in_time_matters(order):
    net = make()
    video = torch.rand(1, 4, 3, 16, 16)
    with torch.no_grad():
        assert not torch.allclose(net(video)["action"], net(video[:, list(order)])["action"])


def test_it_is_small():
    values = tuple(map(str, range(12)))
    net = Classifier(ClassifierConfig(tuple((name, values) for name in "abcdefghi")))
    assert sum(parameter.numel() for parameter in net.parameters()) < 750_000


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"attributes": ()}, "two values"),
        ({"attributes": (("a", ("x",)),)}, "two values"),
        ({"attributes": (("a", ("x", "y")), ("a", ("x", "y")))}, "different names"),
        ({"size": 20}, "multiples"),
        ({"frames": 6}, "multiples"),
        ({"heads": 3}, "must divide"),
        ({"norm": "batch"}, "norm must be"),
        ({"widths": (24, 40)}, "widths"),
    ],
)
def test_layouts_that_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        Classifier(ClassifierConfig(**{"attributes": ATTRIBUTES} | changes))


@pytest.mark.parametrize(
    "shape", [(1, 4, 3, 16, 8), (1, 3, 3, 16, 16), (1, 4, 1, 16, 16), (4, 3, 16, 16)]
)
def test_clips_that_are_refused(shape):
    with pytest.raises(ValueError, match="video"):
        make()(torch.rand(shape))
