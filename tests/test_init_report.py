"""The report on initialisation: by hand, and that depth changes neither signal nor gradient."""

import sys

import pytest
import torch
from torch import nn

import batch_norm_leak as leak
import init_report


def test_a_network_by_hand():
    """Signals 1 and 3, then as they are, then doubled: gradients are doubled on the way back."""

    class Double(nn.LeakyReLU):
        def forward(self, x):
            return 2 * x

    net = nn.Sequential(nn.LeakyReLU(), Double(), Double())
    x = torch.tensor([[1.0, 3.0]], requires_grad=True)
    points = init_report.look(net, lambda net: net(x))
    assert [point.mean for point in points] == [2, 4, 8]
    assert [point.variance for point in points] == [2, 8, 32]
    gradients = [point.gradient_variance for point in points]
    assert gradients == pytest.approx([4, 1, 0.25])
    assert points[0].gradient_mean == pytest.approx(4 * points[2].gradient_mean)


@pytest.mark.parametrize("norm", ["first", "none"])
@pytest.mark.parametrize("model", ["gpt", "upsampler", "reviser"])
def test_depth_changes_neither_signal_nor_gradient(model, norm):
    build, run, norms = init_report.MODELS[model]
    found = []
    for factor in (1, 2):
        torch.manual_seed(0)
        found.append(init_report.look(build(norms[0] if norm == "first" else norm, factor), run))
    for points in found:
        assert min(point.variance for point in points) > 0.4  # each of two sources has a half
        assert max(point.variance for point in points) < 2.8  # e
    for place in (0, -1):
        once, twice = (points[place] for points in found)
        assert twice.variance == pytest.approx(once.variance, rel=0.2)
        assert twice.gradient_variance == pytest.approx(once.gradient_variance, rel=0.2)
    assert len(found[1]) > 1.5 * len(found[0])


@pytest.mark.parametrize("model", ["captioner", "classifier"])
def test_depth_changes_nothing_before_features_are_joined(model):
    build, run, norms = init_report.MODELS[model]
    for norm in norms:
        found = []
        for factor in (1, 4):
            torch.manual_seed(0)
            found.append(init_report.look(build(norm, factor), run)[:-1])
        assert len(found[1]) == 4 * len(found[0])
        for points in found:
            assert min(point.variance for point in points) > 0.9
            assert max(point.variance for point in points) < 4
            assert max(point.gradient_variance for point in points) < 2


def test_an_unknown_norm_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["init_report.py", "flow", "--norm", "group"])
    with pytest.raises(SystemExit) as stop:
        init_report.main()
    assert stop.value.code == 2
    assert "flow can have norm none" in capsys.readouterr().err


def test_only_batch_norm_leaks():
    images = torch.rand(40, 3, leak.SIZE, leak.SIZE, generator=torch.Generator().manual_seed(0))
    for norm in leak.NORMS:
        torch.manual_seed(0)
        curve = leak.growing(leak.discriminator(norm), images)
        assert (len(set(curve)) > 1) == (norm == "batch")
    plain, flawed = leak.batch_of(images, 3, 0.0), leak.batch_of(images, 3, 1.0)
    assert torch.equal(plain[:-1], flawed[:-1])
    changed = (plain[-1] != flawed[-1]).any(0)
    assert int(changed.sum()) == leak.FLAW**2
