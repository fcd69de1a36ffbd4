"""The judge: shapes, what it refuses, and that a clip is judged by itself."""

import math

import pytest
import torch

from flowwarp.models.classifier import Classifier, ClassifierConfig

ATTRIBUTES = (("action", ("walk", "stand", "fall")), ("ground", ("sand", "snow")))


def make(**changes):
    torch.manual_seed(0)
    config = ClassifierConfig(ATTRIBUTES, **{"size": 16, "apart": 2} | changes)
    net = Classifier(config)
    for head in net.heads:  # they begin at zero, where nothing could be seen
        torch.nn.init.normal_(head.weight, std=0.1)
    return net.eval()


def test_scores_of_each_attribute():
    scores = make()(torch.rand(3, 4, 3, 16, 16))
    assert {name: tuple(value.shape) for name, value in scores.items()} == {
        "action": (3, 3),
        "ground": (3, 2),
    }
    assert all(value.dtype == torch.float32 for value in scores.values())


def test_a_clip_is_the_mean_of_its_pairs():
    net, video = make(), torch.rand(2, 4, 3, 16, 16)
    with torch.no_grad():
        whole = net(video)
        pairs = [net(video[:, first : first + 3]) for first in range(2)]
        for name, value in whole.items():
            assert torch.allclose(value, torch.stack([p[name] for p in pairs]).mean(0), atol=1e-5)
        for frame in range(4):  # each is looked at, the first one too
            other = video.clone()
            other[:, frame] = 0.5
            assert not torch.allclose(net(other)["action"], whole["action"], atol=1e-3)
        backwards = net(video.flip(1))["action"]
    assert not torch.allclose(backwards, whole["action"], atol=1e-3)  # which is first matters


def test_signals_keep_their_size():
    net = make(size=64)
    sizes: list[float] = []
    for layer in net.see:
        layer.register_forward_hook(lambda layer, x, y: sizes.append(float(y.std())))
    with torch.no_grad():
        net(torch.rand(4, 3, 3, 64, 64))
    assert min(sizes) > 0.3
    assert max(sizes) < 3


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
        ({"size": 20}, "multiple"),
        ({"attributes": (("a", "xy"),)}, "names, each with its values"),
        ({"attributes": ((3, ("x", "y")),)}, "names, each with its values"),
        ({"attributes": (("a", ("x", 3)),)}, "values of a must be different texts"),
        ({"attributes": (("a", ("x", "x")),)}, "values of a must be different texts"),
        ({"size": 0}, "size must be a whole number"),
        ({"size": 16.0}, "size must be a whole number"),
        ({"size": 1024}, "size must be a whole number"),
        ({"apart": 0}, "apart"),
        ({"apart": math.nan}, "apart must be a whole number"),
        ({"apart": math.inf}, "apart must be a whole number"),
        ({"apart": 10**30}, "apart must be a whole number"),
        ({"apart": 65}, "apart must be a whole number"),
        ({"norm": []}, "norm must be"),
        ({"widths": 8}, "widths"),
        ({"widths": (8, 8.0)}, "widths"),
        ({"blocks": (True, 1)}, "blocks"),
        ({"norm": "batch"}, "norm must be"),
        ({"widths": (24, 36)}, "widths"),
        ({"widths": (8, 8, 8)}, "widths"),
        ({"blocks": (1,)}, "blocks"),
        ({"blocks": (-1, 1)}, "blocks"),
    ],
)
def test_layouts_that_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        Classifier(ClassifierConfig(**{"attributes": ATTRIBUTES} | changes))


@pytest.mark.parametrize(
    "shape", [(1, 4, 3, 16, 8), (1, 2, 3, 16, 16), (1, 4, 1, 16, 16), (4, 3, 16, 16)]
)
def test_clips_that_are_refused(shape):
    with pytest.raises(ValueError, match="video"):
        make()(torch.rand(shape))
