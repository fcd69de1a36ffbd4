"""The critic: shapes, sums, what it refuses, and that nothing hangs on what is not there yet."""

import math

import pytest
import torch

from flowwarp.models.critic import Critic, CriticConfig, add_up, fit

GRID = (2, 4, 6)


def make(**changes):
    torch.manual_seed(0)
    options = {"phrases": 7, "references": 5, "longest": 3, "grid": GRID, "channels": 2}
    net = Critic(CriticConfig(**options | {"widths": (8, 16)} | changes))
    torch.nn.init.normal_(net.head.weight)
    return net.eval()


def draw(count):
    values = torch.rand(count, *GRID, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return values, torch.ones(count, *GRID, dtype=torch.bool)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_a_video_is_judged_by_itself(norm):
    net, (values, known) = make(norm=norm), draw(4)
    with torch.no_grad():
        together = net(values, known)
        assert together.shape == (4, 7)
        assert together.dtype == torch.float32
        for row in range(4):
            alone = net(values[row : row + 1], known[:1])
            assert torch.allclose(alone[0], together[row], atol=1e-5)
        assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_what_is_not_known_is_not_looked_at():
    net, (values, known) = make(), draw(1)
    known[:, 1, 2:] = False
    other = torch.where(known[..., None], values, -values)
    with torch.no_grad():
        scores = net(values, known)
        assert torch.equal(net(other, known), scores)
        assert not torch.allclose(net(values, torch.ones_like(known)), scores, atol=1e-3)
        known[:, 1, 1, 5] = False
        assert not torch.allclose(net(values, known), scores, atol=1e-4)


def test_that_a_cell_is_empty_is_seen():
    """A code whose values are all 0 differs from none."""
    net, (values, known) = make(), draw(1)
    values[:, 0, 1] = 0
    with torch.no_grad():
        scores = net(values, known)
        known[:, 0, 1] = False
        assert not torch.allclose(net(values, known), scores, atol=1e-4)


def test_sums_of_some_scores():
    scores = torch.tensor([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]])
    bags = torch.tensor([[[0, 2], [3, 3]], [[1, 3], [0, 1]]], dtype=torch.int32)
    assert add_up(scores, bags).tolist() == [[5.0, 0.0], [20.0, 30.0]]


def test_fit_is_against_what_captions_have_on_average():
    """A caption that is one of two others: log of its share, times two."""
    net = make(references=2)
    net.references.copy_(torch.tensor([[0, 1, 7], [2, 7, 7]]))
    scores = torch.tensor([[1.0, 0.5, 3.0, 0, 0, 0, 0]])
    found = fit(net, scores, torch.tensor([[0, 1, 7, 7]]))
    wanted = 1.5 - math.log((math.exp(1.5) + math.exp(3.0)) / 2)
    assert found.tolist() == [pytest.approx(wanted, abs=1e-6)]
    # What is true of all captions alike, such as that they are likelier with this video, is none.
    net.references.copy_(torch.tensor([[0, 1, 7], [2, 1, 7]]))
    for gain in (0.0, 5.0):
        scores[0, 1] = gain
        found = fit(net, scores, torch.tensor([[0, 1, 7]]))
        assert float(found) == pytest.approx(1 - math.log((math.e + math.exp(3)) / 2), abs=1e-5)


def test_signals_keep_their_size():
    net = make(grid=(4, 16, 16), channels=8, widths=(80, 128))
    sizes: list[float] = []
    for layer in net.see:
        layer.register_forward_hook(lambda layer, x, y: sizes.append(float(y.std())))
    with torch.no_grad():
        values = torch.rand(4, 4, 16, 16, 8) * 2 - 1
        net(values, torch.ones(4, 4, 16, 16, dtype=torch.bool))
    assert min(sizes) > 0.3
    assert max(sizes) < 3


def test_it_is_small():
    net = Critic(CriticConfig(phrases=3000))
    assert sum(parameter.numel() for parameter in net.parameters()) < 1_200_000


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"phrases": 0}, "phrases"),
        ({"references": 0}, "references"),
        ({"grid": (1, 3, 4)}, "even"),
        ({"grid": (4, 4)}, "grid"),
        ({"widths": (8, 9)}, "widths"),
        ({"blocks": (1,)}, "blocks"),
        ({"norm": "batch"}, "norm"),
    ],
)
def test_refuses_sizes(changes, match):
    with pytest.raises(ValueError, match=match):
        make(**changes)


def test_refuses_other_shapes():
    net, (values, known) = make(), draw(1)
    for wrong in (values[:, :1], values[..., :1]):
        with pytest.raises(ValueError, match="values"):
            net(wrong, known)
    with pytest.raises(ValueError, match="known"):
        net(values, known[:, :1])
