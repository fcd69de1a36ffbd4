"""The reviser: it changes nothing at first, knows no future, and hears what it is told."""

from dataclasses import replace

import pytest
import torch

from flowwarp.legacy.models.reviser import Reviser, ReviserConfig, deepened
from flowwarp.models._attributes import attributes_from_card

ATTRIBUTES = (("hair_color", ("blue", "red")), ("weapon", ("a bow", "a spear", "none")))
CONFIG = ReviserConfig(ATTRIBUTES, widths=(8, 16), blocks=(1, 1), embedding=8)


def make(config=CONFIG):
    """Return a network that has learned something, as it were."""
    torch.manual_seed(0)
    net = Reviser(config).eval()
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net


def random_video(batch=2, frames=12, size=16):
    return torch.rand(batch, frames, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_a_new_network_changes_nothing():
    video = random_video()
    net = Reviser(CONFIG)
    assert torch.equal(net(video, net.tell([{"weapon": "a bow"}, {}])), video)


def test_what_is_told_becomes_numbers():
    told = Reviser(CONFIG).tell(
        [{"weapon": "a spear", "hair_color": "blue"}, {"hair_color": "red"}]
    )
    assert told.tolist() == [[1, 2], [2, 0]]
    # A value that it does not know, and an attribute, are left open.
    assert Reviser(CONFIG).tell([{"weapon": "a sword", "hat": "a crown"}]).tolist() == [[0, 0]]


def test_it_hears_what_it_is_told():
    net, video = make(), random_video()
    plain, red = (net(video, net.tell([{}, told])) for told in ({}, {"hair_color": "red"}))
    assert torch.equal(plain[0], red[0])
    assert (plain[1] - red[1]).abs().mean() > 1e-3


@torch.no_grad()
def test_a_stream_is_revised_as_the_whole():
    net, video = make(), random_video()
    told = net.tell([{"weapon": "a bow"}, {"hair_color": "red"}])
    whole = net(video, told).clamp(0, 1)
    stream = list(net.revise(iter(video.split(4, 1)), told))
    assert [tuple(group.shape) for group in stream] == [(2, 4, 3, 16, 16)] * 3
    torch.testing.assert_close(torch.cat(stream, 1), whole, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_group_hangs_on_those_before_it_and_on_none_to_come():
    net, video = make(), random_video()
    told = net.tell([{}, {}])
    before, changed = net(video, told), video.clone()
    changed[:, 4:8] = 1 - changed[:, 4:8]
    after = net(changed, told)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 8:] - after[:, 8:]).abs().max() > 1e-4


@torch.no_grad()
def test_an_example_hangs_on_no_other():
    net, video = make(), random_video()
    told = net.tell([{"weapon": "a bow"}, {"hair_color": "red"}])
    both = net(video, told)
    for row in range(2):
        own = slice(row, row + 1)
        torch.testing.assert_close(net(video[own], told[own]), both[own], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (8, 12)}, "widths must be up to 8 multiples of 8"),
        ({"widths": (8,) * 9, "blocks": (1,) * 9}, "widths must be up to 8 multiples of 8"),
        ({"blocks": (1,)}, "blocks must have one entry for each of 2 widths"),
        ({"frames": 0}, "frames"),
        ({"embedding": 0}, "embedding"),
        ({"norm": "batch"}, "norm"),
        ({"attributes": (("hair", ("red", "red")),)}, "values of hair must be different texts"),
        ({"attributes": (("a", ("x",)), ("a", ("y",)))}, "attributes must have different names"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change, message):
    settings = {"attributes": ATTRIBUTES, "widths": (8, 16), "blocks": (1, 1)} | change
    with pytest.raises(ValueError, match=message):
        ReviserConfig(**settings)


@torch.no_grad()
def test_deeper_it_does_the_same_until_it_learns():
    net, video = make(), random_video()
    told = net.tell([{"weapon": "a bow"}, {"hair_color": "red"}])
    config = replace(CONFIG, blocks=(2, 3))
    deep = deepened(net, config)
    torch.rand(1)  # whatever was drawn before
    again = deepened(net, config)
    assert deep.config == config
    torch.testing.assert_close(deep(video, told), net(video, told))
    assert all(map(torch.equal, deep.parameters(), again.parameters()))
    with torch.enable_grad():
        deep(video, told).square().mean().backward()
    for block in (deep.down[0][1], deep.down[1][2], deep.up[0][1]):
        assert block.second.weight.grad.any()


@pytest.mark.parametrize(
    "change",
    [{"blocks": (1, 0)}, {"blocks": (1, 2), "widths": (16, 16)}, {"norm": "none"}, {"frames": 8}],
)
def test_only_deeper_can_it_become(change):
    with pytest.raises(ValueError, match="only blocks can differ, and no level can have fewer"):
        deepened(make(), replace(CONFIG, **change))


def test_attributes_of_a_card():
    assert attributes_from_card([["hair", ["red", "blue"]], ["hat", []]]) == (
        ("hair", ("red", "blue")),
        ("hat", ()),
    )
    for odd in (3, ["hair"], [["hair"]], [["hair", ["red"], 3]], [3], None):
        with pytest.raises(ValueError, match="attributes must be names, each with its values"):
            attributes_from_card(odd)


def test_a_network_that_could_be_told_nothing_is_refused():
    with pytest.raises(ValueError, match="attributes must be one or more"):
        Reviser(ReviserConfig(()))


@pytest.mark.parametrize(
    ("video", "told", "message"),
    [
        (torch.rand(1, 6, 3, 16, 16), 1, "a multiple of 4 frames, got 6"),
        (torch.rand(1, 4, 3, 16, 14), 1, "multiples of 4"),
        (torch.rand(1, 4, 1, 16, 16), 1, "must be"),
        (torch.rand(1, 4, 3, 16, 16), 2, r"told must be \(1, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(video, told, message):
    net = Reviser(CONFIG)
    with pytest.raises(ValueError, match=message):
        net(video, net.tell([{}] * told))
