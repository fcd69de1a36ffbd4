"""The captioner: shapes, what it refuses, and what a word may hang on."""

import math

import pytest
import torch
import torch.nn.functional as F

from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.models._seeing import pair_frames


def make(**changes):
    torch.manual_seed(0)
    settings = {"size": 16, "apart": 2, "widths": (16, 32), "hidden": 24, "joined": 32} | changes
    net = Captioner(CaptionerConfig(11, **settings))
    torch.nn.init.normal_(net.head.weight, std=0.2)  # it begins at zero: nothing could be seen
    return net.eval()


def example(batch=3, frames=5):
    random = torch.Generator().manual_seed(1)
    video = torch.rand(batch, frames, 3, 16, 16, generator=random)
    return video, torch.randint(11, (batch, 7), generator=random)


@pytest.mark.parametrize("recalled", [0, 6])
@torch.no_grad()
def test_a_word_hangs_on_those_before_it_and_on_all_frames(recalled):
    net, (video, ids) = make(recalled=recalled), example()
    if recalled:
        torch.nn.init.normal_(net.recall.weight)
    logits = net(video, ids)
    assert (logits.shape, logits.dtype) == ((3, 7, 11), torch.float32)
    other = ids.clone()
    other[:, 4] = (other[:, 4] + 1) % 11
    changed = (net(video, other) - logits).abs().amax((0, 2))
    assert float(changed[:4].max()) == 0
    assert float(changed[4:].min()) > 1e-3
    for frame in range(5):
        blind = video.clone()
        blind[:, frame] = 0.5
        assert float((net(blind, ids) - logits).abs().max()) > 1e-3


@torch.no_grad()
def test_what_was_read_is_found_again():
    net, (_, ids) = make(recalled=6), example()
    seen = torch.zeros(3, 1, 32)
    begun = net.say(seen, ids)
    torch.testing.assert_close(begun, net.head(F.silu(net.tell(net.read(net.embedding(ids))[0]))))
    torch.nn.init.normal_(net.recall.weight)
    read, _ = net.read(net.embedding(ids))
    told = net.tell(read)
    for place in range(7):
        scores = net.key(read[:, : place + 1]) @ net.query(read[:, place])[..., None] / math.sqrt(6)
        told[:, place] += net.recall((scores.softmax(1) * read[:, : place + 1]).sum(1))
    torch.testing.assert_close(net.say(seen, ids), net.head(F.silu(told)))
    assert float((net.say(seen, ids) - begun).abs().max()) > 1e-2


@torch.no_grad()
def test_a_clip_is_the_mean_of_its_pairs():
    net, (video, ids) = make(), example()
    pairs = [net(video[:, first : first + 3], ids) for first in range(3)]
    assert torch.allclose(net(video, ids), torch.stack(pairs).mean(0), atol=1e-5)


@torch.no_grad()
def test_the_blind_say_the_same_of_anything():
    net, (video, ids) = make(), example()
    same = ids[:1].expand(3, -1)
    logits = net(video, same, torch.tensor([True, False, True]))
    assert torch.equal(logits[0], logits[2])
    assert float((logits[1] - logits[0]).abs().max()) > 1e-3
    assert torch.allclose(logits[1], net(video, same)[1], atol=1e-6)


@torch.no_grad()
def test_a_sketch_is_seen_place_by_place():
    net, (video, _) = make(kinds=6), example()
    sketch = net.sketch(video)
    assert (sketch.shape, sketch.dtype) == ((3, 3, 2, 2), torch.int64)
    assert 0 <= int(sketch.min()) < int(sketch.max()) < 6
    seen = net.look_at_sketch(sketch)
    assert float((seen - net.look(video)).abs().max()) > 1e-3  # which has more to go by
    other = sketch.clone()
    other[0, 1, 0, 1] = 6  # not known yet
    changed = (net.look_at_sketch(other) - seen).abs().amax(2) > 0
    assert changed.tolist() == [[False, True, False], [False] * 3, [False] * 3]


@torch.no_grad()
def test_what_is_pooled_is_seen_wherever_it_is():
    net, (video, _) = make(pooled=5), example()
    assert net.places(video).shape == (3, 3, 4, 16)
    features = F.silu(net.see(pair_frames(video, 16, 2)))[:, 16:].flatten(2)
    pooled = torch.cat([features.amax(2), features.mean(2)], 1).view(3, 3, 10)
    net.think.weight[:, : 16 * 4] = 0  # nothing of single places is left
    wanted = net.show(F.silu(F.linear(pooled, net.think.weight[:, 16 * 4 :], net.think.bias)))
    assert torch.allclose(net.look(video), wanted, atol=1e-5)
    assert float(wanted.std(0).min()) > 1e-4


@torch.no_grad()
def test_a_place_of_a_sketch_is_near_that_of_the_frame():
    net, (video, _) = make(), example(1)
    other = video.clone()
    other[:, :, :, 8:, 8:] = 1 - other[:, :, :, 8:, 8:]
    moved = (net.places(other) - net.places(video)).abs().mean((0, 1, 3)).view(2, 2)
    assert moved.argmax() == 3


@torch.no_grad()
def test_the_kind_of_a_place_is_the_nearest():
    net, (video, _) = make(kinds=5), example()
    places = net.places(video)
    nearest = torch.cdist(places, net.book).argmin(3)
    assert torch.equal(net.sketch(video).flatten(2), nearest)
    with torch.autocast("cpu", torch.bfloat16):  # of what is seen in bfloat16, but no worse
        nearest = torch.cdist(net.places(video), net.book).argmin(3)
        assert torch.equal(net.sketch(video).flatten(2), nearest)
    with pytest.raises(ValueError, match="no kinds"):
        make().sketch(video)


@pytest.mark.parametrize("shape", [(1, 2, 3, 16, 16), (1, 5, 3, 16, 8), (1, 5, 1, 16, 16)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="video must be"):
        make()(torch.rand(shape), torch.zeros(1, 3, dtype=torch.int64))


def test_refuses_integers():
    with pytest.raises(TypeError, match="video"):
        make()(torch.zeros(1, 5, 3, 16, 16, dtype=torch.uint8), torch.zeros(1, 3).long())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 0}, "vocabulary"),
        ({"hidden": 0}, "hidden"),
        ({"hidden": 8.0}, "hidden"),
        ({"joined": True}, "joined"),
        ({"embedded": 10**30}, "embedded"),
        ({"apart": 0}, "apart"),
        ({"apart": math.nan}, "apart must be a whole number"),
        ({"apart": math.inf}, "apart must be a whole number"),
        ({"apart": 1e30}, "apart must be a whole number"),
        ({"apart": 10**30}, "apart must be a whole number"),
        ({"apart": 65}, "apart must be a whole number"),
        ({"size": 20}, "size"),
        ({"numbers": 0}, "numbers"),
        ({"kinds": -1}, "kinds"),
        ({"kinds": 10**9}, "kinds"),
        ({"kinds": 1.5}, "kinds"),
        ({"pooled": -1}, "pooled"),
        ({"pooled": math.nan}, "pooled"),
        ({"pooled": 4, "kinds": 6}, "pooled"),
        ({"recalled": -1}, "recalled"),
        ({"recalled": 1.5}, "recalled"),
        ({"widths": (12, 16)}, "widths"),
        ({"norm": "batch"}, "norm"),
    ],
)
def test_refuses_sizes_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        CaptionerConfig(**{"vocabulary": 5} | changes)
