"""Sketches: what they are made of, how they are told, made and chosen."""

import copy
import dataclasses
import itertools
from contextlib import nullcontext

import pytest
import torch

from flowwarp.errors import InputError
from flowwarp.legacy.data.tokens import PATCH, Medium, Vocabulary, train_pairs
from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.models.gpt import GPT, TINY, Resampling, Sampling
from flowwarp.legacy.pipelines import captions
from flowwarp.legacy.pipelines.captions import MediaCaptioner, caption_nats, look
from flowwarp.legacy.pipelines.sequences import (
    MediaGPT,
    Prompt,
    kinds_of,
    sample_sketches,
    sample_video_tokens,
    seeds_after,
)
from flowwarp.legacy.pipelines.sketches import (
    check_sketches,
    choose_sketches,
    eye_print,
    kinds,
    sketch,
    sketch_grid,
    sketch_nats,
    sketch_of_end,
)

PAIRS = train_pairs(["a red dog", "a red cat"] * 3, 20)
CAPTION = "a red dog"


def make_eye(seed=0, **changes):
    torch.manual_seed(seed)
    settings = {"size": 16, "apart": 2, "widths": (8, 8), "hidden": 16, "joined": 16, "kinds": 64}
    settings |= changes
    net = Captioner(CaptionerConfig(PAIRS.size + 1, **settings))
    torch.nn.init.normal_(net.head.weight, std=0.5)
    torch.nn.init.normal_(net.show.weight, std=1.0)
    return MediaCaptioner(net.eval(), Vocabulary((Medium("text", PAIRS.size),), PAIRS, 6))


@pytest.fixture(scope="module")
def eye():
    return make_eye()


@pytest.fixture(scope="module")
def gpt():
    """Return a transformer of videos of 4 x 8 x 8 codes after sketches of 2 x 4 x 4 places."""
    media = (
        Medium("text", PAIRS.size),
        Medium("video", 9, (4, 8, 8)),
        Medium("sketch", 64, (2, 4, 4)),
    )
    words = Vocabulary(media, PAIRS, text_limit=8)
    torch.manual_seed(0)
    # Numbers of any size need a norm.
    net = GPT(dataclasses.replace(TINY, vocabulary=words.size, depth=1, kinds=64, norm="rms"))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return MediaGPT(net.eval(), words)


@pytest.fixture(scope="module")
def video():
    return torch.randint(
        256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


@torch.no_grad()
def test_a_sketch_is_of_pairs_evenly_over_the_clip(eye, video):
    assert sketch_grid(eye, 4) == (2, 2, 2)
    assert sketch_grid(eye, 1) == (1, 2, 2)
    found = sketch(eye, video, 4)
    for row, first in zip(found, (0, 4), strict=True):
        pair = video[None, first : first + 3].float() / 255
        assert torch.equal(row, eye.net.sketch(pair)[0, 0])
    with pytest.raises(ValueError, match="more than 2 frames, got 2"):
        sketch(eye, video[:2], 1)


@torch.no_grad()
def test_captions_are_told_from_kinds_alone(eye, video, monkeypatch):
    """As likely as of a clip whose places are just the middles of their kinds."""
    monkeypatch.setattr(captions, "fast_autocast", lambda device: nullcontext())
    pair, codes = video[:3].float()[None] / 255, sketch(eye, video[:3], 1)[None]
    seen = eye.net.book[codes.flatten(2)], torch.zeros(1, 1, 0)  # nothing is pooled
    monkeypatch.setattr(eye.net, "features", lambda clip: seen)
    found = sketch_nats(eye, codes, [CAPTION])
    assert torch.allclose(found, caption_nats(eye, look(eye, pair), [CAPTION]), atol=1e-3)


def test_eyes_are_told_apart(eye, gpt):
    assert kinds(eye) == 64
    assert eye_print(eye) == eye_print(make_eye()) != eye_print(make_eye(1))
    shipped = make_eye()
    shipped.net.bfloat16().float()
    assert eye_print(shipped) == eye_print(eye)
    large = make_eye(size=32)
    check_sketches(gpt, large, "file")
    check_sketches(dataclasses.replace(gpt, sketches=eye_print(large)), large, "file")
    with pytest.raises(InputError, match="another captioner"):
        check_sketches(dataclasses.replace(gpt, sketches="other"), large, "file")
    with pytest.raises(InputError, match="makes no sketches"):
        check_sketches(gpt, make_eye(size=32, kinds=0), "file")
    for wrong in (eye, make_eye(size=32, kinds=16)):
        with pytest.raises(InputError, match="makes other sketches"):
            check_sketches(gpt, wrong, "file")
    for told in (0, 16):  # of other kinds than it writes
        config = dataclasses.replace(gpt.net.config, kinds=told)
        with pytest.raises(InputError, match="makes other sketches"):
            check_sketches(dataclasses.replace(gpt, net=GPT(config)), large, "file")


def test_each_patch_has_the_kind_of_its_place(gpt):
    words = gpt.vocabulary
    codes = torch.arange(2 * 4 * 4).view(2, 4, 4)
    places = words.places("video", 4 * 8 * 8)[::PATCH]
    # A patch is two squares of 2 x 2 codes, side by side; its first says where it is.
    t, y, x = (places[:, 1:] - 1).long().unbind(1)
    assert torch.equal(kinds_of(words, places, codes), codes[t // 2, y // 2, x // 2])
    assert set(kinds_of(words, places, None).tolist()) == {64}


def test_a_video_hangs_on_its_sketch_from_its_place_on(gpt):
    codes = torch.zeros(2, 4, 4, dtype=torch.int64)
    other = codes.clone()
    other[1, 2:] = 5
    greedy = Sampling(temperature=0)
    prompts = [Prompt(CAPTION, sketch=codes), Prompt(CAPTION, sketch=other), Prompt(CAPTION)]
    made = sample_video_tokens(gpt, prompts, [1, 1, 1], greedy)
    assert torch.equal(made[0, :2], made[1, :2])
    assert torch.equal(made[0, 2, :4], made[1, 2, :4])
    assert not torch.equal(made[0, 2, 4:], made[1, 2, 4:])
    assert not torch.equal(made[0], made[2])
    alone = sample_video_tokens(gpt, prompts[:1], [1], greedy)
    assert torch.equal(alone[0], made[0])


def test_the_best_described_sketch_is_chosen(gpt):
    judge, sampling, shown = make_eye(size=32), Sampling(guidance=2.0), []

    def go_on(sketches):  # of those that are begun the three that it describes best
        shown.append(sketches)
        rows = 2 * len(shown)
        there, rest = sketches.flatten(1, 2).split([rows, 8 - rows], 1)
        assert 0 <= int(there.min()) < int(there.max()) < 64
        assert bool((rest == 64).all())
        nats = sketch_nats(judge, sketches[:, : 1 if rows <= 4 else 2], [CAPTION] * 24)
        assert len(nats.unique()) > 1
        return nats.argsort(descending=True)[:3].repeat(8)

    seeds = seeds_after(3, 24)
    resampling = Resampling(2 * 4, go_on)  # two rows
    many = sample_sketches(gpt, [CAPTION] * 24, seeds, sampling, resampling=resampling)
    assert len(shown) == 3
    nats = sketch_nats(judge, many, [CAPTION] * 24)
    (found,) = choose_sketches(gpt, judge, CAPTION, 3, 24, sampling=sampling)
    assert torch.equal(found, many[nats.argmax()])
    (on,) = choose_sketches(gpt, judge, CAPTION, 3, 24, begin=found[:1], sampling=sampling)
    assert torch.equal(on[0], found[0])
    (whole,) = choose_sketches(gpt, judge, CAPTION, 3, 24, begin=found, sampling=sampling)
    assert torch.equal(whole, found)
    first = sample_sketches(gpt, [CAPTION], [3], sampling)
    assert torch.equal(choose_sketches(gpt, judge, CAPTION, 3, 1, sampling=sampling), first)


def test_each_sketch_is_chosen_among_its_own(gpt):
    judge, sampling = make_eye(size=32), Sampling(guidance=2.0)
    three = choose_sketches(gpt, judge, CAPTION, 3, 24, 3, sampling=sampling)
    assert three.shape == (3, 2, 4, 4)
    for one, other in itertools.combinations(three[:, 0, :2], 2):  # from the first rows on
        assert not torch.equal(one, other)
    nats = sketch_nats(judge, three, [CAPTION] * 3)
    plain = sample_sketches(gpt, [CAPTION] * 24, seeds_after(5, 24), sampling)
    assert float(nats.min()) > float(sketch_nats(judge, plain, [CAPTION] * 24).mean())
    # As many as are wanted, where there are fewer candidates.
    assert len(choose_sketches(gpt, judge, CAPTION, 3, 2, 3, sampling=sampling)) == 3


def test_a_sketch_goes_on_from_its_beginning(gpt):
    begin = torch.arange(16).view(1, 4, 4)
    made = sample_sketches(gpt, [CAPTION] * 2, [1, 2], Sampling(), begin=begin)
    assert made.shape == (2, 2, 4, 4)
    assert torch.equal(made[:, :1], begin.expand(2, 1, 4, 4))
    assert not torch.equal(made[0, 1], made[1, 1])
    other = sample_sketches(gpt, [CAPTION] * 2, [1, 2], Sampling(), begin=begin.flip(1))
    assert not torch.equal(other[:, 1], made[:, 1])


def test_the_likeliest_end_of_a_sketch_is_that_of_the_whole(gpt):
    net = copy.deepcopy(gpt.net)
    for block in net.blocks:
        block.out.weight.data.mul_(10)  # else it cares little what is where
    own, likeliest = dataclasses.replace(gpt, net=net), Sampling(temperature=0)

    def draw(begin):
        made = sample_sketches(own, [CAPTION], [1], likeliest, begin=begin, dtype=torch.float32)
        return made[0]

    whole = draw(None)
    assert torch.equal(draw(whole[:1]), whole)


@pytest.mark.parametrize(
    ("times", "sketched", "overlap", "told"),
    [(2, 1, 1, 1), (3, 2, 1, 1), (4, 2, 2, 1), (8, 4, 4, 2)],
)
def test_the_end_of_a_sketch_is_of_the_end_of_a_video(times, sketched, overlap, told):
    sketch = torch.arange(sketched)[:, None, None].expand(-1, 4, 4)
    assert torch.equal(sketch_of_end(sketch, overlap, times), sketch[-told:])
