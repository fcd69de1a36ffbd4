"""Captions by the captioner: how likely they are, the likeliest, and weights from a file."""

import itertools
import json
import math
import re
from dataclasses import asdict, replace

import pytest
import torch

from flowwarp.data.media import VOCABULARY
from flowwarp.data.resizing import middle_square
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.legacy.data.tokens import BytePairs, Medium, Vocabulary, train_pairs
from flowwarp.legacy.models.captioner import END, Captioner, CaptionerConfig
from flowwarp.legacy.pipelines import captions
from flowwarp.legacy.pipelines.captions import (
    MOST_THINGS,
    THINGS,
    MediaCaptioner,
    _encode,
    _token_nats,
    begin_statement,
    begin_words,
    caption_hits,
    caption_nats,
    caption_video,
    load_captioner,
    look,
    reply,
    statement_hits,
    things_to_json,
    to_ids,
    write_caption,
)


def make(pairs, limit=6, seed=0, **changes):
    torch.manual_seed(seed)
    settings = {"size": 16, "apart": 2, "widths": (8, 8), "hidden": 16, "joined": 16} | changes
    # Seeds are chosen by what an untrained network with a norm says.
    net = Captioner(CaptionerConfig(pairs.size + 1, norm="group", **settings))
    torch.nn.init.normal_(net.head.weight, std=0.5)
    return MediaCaptioner(net.eval(), Vocabulary((Medium("text", pairs.size),), pairs, limit))


@pytest.fixture(scope="module")
def captioner():
    return make(train_pairs(["a red dog", "a red cat"] * 3, 20))


def of_letters(limit):
    """Return a captioner of single letters that looks at nothing, and the scores of its ids."""
    captioner = make(BytePairs(), limit=limit)
    captioner.net.head.weight.data.zero_()
    scores = captioner.net.head.bias.data
    scores.fill_(-100)
    return captioner, scores


def seen(captioner, seed=0, frames=5):
    video = torch.rand(1, frames, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return look(captioner, video)


def test_captions_become_ids_and_end(captioner):
    words = captioner.vocabulary
    ids = to_ids(words, "a red dog")
    assert ids[-1] == END
    assert words.pairs.decode((ids[:-1] - 1).tolist()) == "a red dog"
    assert len(to_ids(words, "x" * 100)) == words.text_limit + 1
    assert to_ids(words, "").tolist() == [END]
    assert begin_words(ids[None])[0].tolist() == [END, *ids[:-1].tolist()]


def test_likelihoods_and_hits_are_sums_over_words(captioner):
    views = torch.cat([seen(captioner, 0), seen(captioner, 1)])
    captions = ["a red dog", "cat"]
    found, hits = caption_nats(captioner, views, captions), []
    for view, caption, nats in zip(views, captions, found, strict=True):
        ids = to_ids(captioner.vocabulary, caption)
        with torch.no_grad():
            both = torch.stack([view, torch.zeros_like(view)])
            logits = captioner.net.say(both, begin_words(ids.expand(2, -1))).log_softmax(2)
        wanted, blind = logits[:, torch.arange(len(ids)), ids].tolist()
        assert float(nats) == pytest.approx(sum(wanted), abs=1e-4)
        hits.append(
            sum(
                math.exp(told) * (1 - math.exp(anyway))
                for told, anyway in zip(wanted, blind, strict=True)
            )
        )
    assert caption_hits(captioner, views, captions).tolist() == pytest.approx(hits, abs=1e-4)


def test_what_would_be_said_anyway_is_no_hit(captioner, monkeypatch):
    """Of two tokens that are sure, one is where nothing is seen, too."""

    def sure(captioner, seen, rows):
        return torch.tensor([[0.0, 0.0 if seen.any() else 100.0]]), torch.ones(1, 2).bool()

    monkeypatch.setattr(captions, "_token_nats", sure)
    assert caption_hits(captioner, seen(captioner), ["a red dog"]).tolist() == [1.0]


@torch.no_grad()
def likeliest(captioner, caption, thing):
    """Return the likeliest ids after a caption and the beginning of a statement."""
    words = captioner.vocabulary
    ids = torch.cat([to_ids(words, caption), begin_statement(words, thing)])
    said, chance = [], 1.0
    unseen = torch.zeros(1, 1, captioner.net.config.joined)
    while len(said) < 8 and END not in said:
        before = torch.cat([torch.tensor([END]), ids])[None]
        best = captioner.net.say(unseen, before)[0, -1].softmax(0).max(0)
        chance *= float(best.values)
        said.append(int(best.indices))
        ids = torch.cat([ids, best.indices[None]])
    return said, chance


def stating(seed):
    """Return a captioner that states three things; some replies of each end soon, some never."""
    pairs = train_pairs(["a red dog is red", "a red cat is big"] * 3, 30)
    captioner = make(pairs, seed=seed)
    captioner.net.head.bias.data[END] += 1.5
    return replace(captioner, things=("coat", "size of it", "red"))


def test_statements_are_what_is_likeliest_after_a_caption():
    ended = set()
    captions = ("a red dog", "cat", "a cat that is far too long to be heard", "dog dog")
    for seed, caption in itertools.product(range(4), captions):
        captioner = stating(seed)
        replies = reply(captioner, caption)
        for thing, (ids, sure) in zip(captioner.things, replies, strict=True):
            said, chance = likeliest(captioner, caption, thing)
            ended.add(END in said)
            assert ids.tolist() == said
            assert sure == pytest.approx(chance, rel=1e-4)
    assert ended == {False, True}
    assert reply(make(BytePairs()), "a red dog") == []


def test_statement_hits_ask_each_thing_by_itself():
    captioner = stating(0)
    views = torch.cat([seen(captioner, 0), seen(captioner, 1), seen(captioner, 2)])
    captions = ["a red dog", "cat", "a red dog"]
    wanted = []
    for view, caption in zip(views, captions, strict=True):
        hits = 0.0
        for thing in captioner.things:
            said, sure = likeliest(captioner, caption, thing)
            begin = begin_statement(captioner.vocabulary, thing)
            ids = torch.cat([begin, torch.tensor(said)])
            with torch.no_grad():
                chances = captioner.net.say(view[None], begin_words(ids[None]))[0].softmax(1)
            own = chances[torch.arange(len(ids)), ids][len(begin) :]
            hits += sure * float(own.prod())
        wanted.append(hits)
    found = statement_hits(captioner, views, captions)
    assert found.tolist() == pytest.approx(wanted, rel=1e-4)
    assert len(set(wanted)) == 3
    assert statement_hits(replace(captioner, things=()), views, captions).tolist() == [0, 0, 0]


def gains(captioner, view, captions, usual):
    """Return what captions tell: their log-likelihood, less that of a network that sees nothing.

    What an end costs anyway is not taken off.
    """
    views = view.expand(len(captions), -1, -1)
    told = caption_nats(captioner, views, captions)
    nats, there = _token_nats(captioner, torch.zeros_like(views), _encode(captioner, captions))
    last = there.cumsum(1) == there.sum(1, keepdim=True)
    return told + usual * (nats * (there & ~last)).sum(1)


@pytest.fixture
def no_end_is_early(monkeypatch):
    monkeypatch.setattr(captions, "_EARLY", captions._RARE)


@pytest.mark.parametrize("usual", [0.0, 0.8])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.usefixtures("no_end_is_early")
def test_enough_beams_find_the_caption_that_tells_most(seed, usual):
    """Of all captions of up to two of the tokens that are not ruled out."""
    captioner = make(BytePairs(), limit=2, seed=seed)
    captioner.net.head.bias.data[4:] = -100  # three bytes and the end are left
    view = 4 * seen(captioner, seed)
    texts = [
        captioner.vocabulary.pairs.decode(tokens)
        for length in range(3)
        for tokens in itertools.product(range(3), repeat=length)
    ]
    told = gains(captioner, view, texts, usual)
    assert write_caption(captioner, view, beams=9, usual=usual) == texts[int(told.argmax())]


@pytest.mark.parametrize("seed", [1, 6, 7, 8])
@pytest.mark.usefixtures("no_end_is_early")
def test_more_beams_find_what_one_passes_by(seed):
    captioner = make(BytePairs(), limit=4, seed=seed)
    net = captioner.net
    net.head.bias.data.fill_(-100)
    net.head.bias.data[1 + ord("a") : 1 + ord("j")] = 0
    net.head.bias.data[END] = -2
    net.embedding.weight.data.mul_(4)  # what comes next hangs much on what came before
    net.tell.weight.data.mul_(4)
    net.head.weight.data.normal_(std=1, generator=torch.Generator().manual_seed(1))
    view = seen(captioner)
    few, many = (write_caption(captioner, view, beams=beams, usual=0) for beams in (1, 8))
    first, second = gains(captioner, view, [few, many], 0).tolist()
    assert second > first + 1


def test_what_is_hardly_possible_is_not_written():
    """However much less likely it is where nothing is seen."""
    captioner, bias = of_letters(limit=1)
    bias[END], bias[1 + ord("a")], bias[1 + ord("b")] = -1, 0, -20
    assert write_caption(captioner, seen(captioner), usual=2.0) == "a"


def test_words_are_not_said_twice_over():
    """A word that is likelier than usual where it is seen would be said for ever."""
    words = Vocabulary((Medium("text", 256),), BytePairs(), 12)
    said = [1 + letter for letter in b" no"]
    for ids, barred in (([], {}), (said[:2], {}), ([*said, *said[:2]], {said[2]}), (said[1:2], {})):
        gains = torch.zeros(1, 257)
        captions._bar_echoes(gains, torch.tensor([ids], dtype=torch.int64), words)
        assert {*(gains[0] < 0).nonzero()[:, 0].tolist()} == {*barred}, ids
    captioner, bias = of_letters(limit=9)
    bias[END], bias[1 + ord(" ")], bias[1 + ord("a")] = -9, 0, -0.1
    text = write_caption(captioner, seen(captioner), usual=0.0)
    assert not re.search(r"( \w*)\1", text)


def test_a_caption_does_not_end_where_captions_hardly_do():
    """Though whatever follows is unsure, and so costs more."""
    captioner, bias = of_letters(limit=2)
    bias[1 : 1 + 20] = 0  # one of twenty costs three nats
    bias[END] = -2.5
    assert write_caption(captioner, seen(captioner), usual=0.0) != ""
    bias[END] = -1.5
    assert write_caption(captioner, seen(captioner), usual=0.0) == ""


def test_describes_any_size_and_length(captioner):
    frames = torch.rand(70, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    found = caption_video(captioner, iter(frames))
    assert found.windows == 3
    least = captioner.net.config.apart + 1
    assert 1 < least < 15
    for length in (1, 15):  # a short one is not filled up, but to what can be looked at
        part = middle(torch.cat([frames[:length], *[frames[:1]] * (least - length)]))
        text = write_caption(captioner, look(captioner, part))
        nats = caption_nats(captioner, look(captioner, part), [text])
        short = caption_video(captioner, frames[:length])
        assert (short.text, short.windows) == (text, 1)
        assert short.nats == pytest.approx(float(nats), abs=1e-4)
    with pytest.raises(ValueError, match="frames must not be empty"):
        caption_video(captioner, [])
    with pytest.raises(ValueError, match="beams must be a whole number"):
        caption_video(captioner, frames[:1], beams=0)


def middle(frames):
    return torch.stack([middle_square(frame, 16) for frame in frames])[None].float() / 255


def save(path, captioner, **notes):
    card = Card("captioner", asdict(captioner.net.config), notes=notes)
    save_weights(path, captioner.net, card)
    return path


def test_survives_its_file(captioner, tmp_path):
    path = save(tmp_path / "c.safetensors", captioner, vocabulary=captioner.vocabulary.to_json())
    again = load_captioner(path)
    assert again.vocabulary.to_json() == captioner.vocabulary.to_json()
    assert torch.equal(seen(again), seen(captioner))
    assert again.things == ()
    notes = {VOCABULARY: captioner.vocabulary.to_json(), THINGS: things_to_json(["legs color"])}
    assert load_captioner(save(path, captioner, **notes)).things == ("legs color",)


@pytest.mark.parametrize(
    ("note", "problem"),
    [
        ("[", "note of things is broken"),
        ("[" * 100_000, "note of things is broken"),
        ("3", "no list"),
        ('["a", 3]', "holds other than words"),
        ('["a", ""]', "holds other than words"),
        (json.dumps(["a" * 65]), "holds other than words of up to 64 letters"),
        ('{"a": 1}', "no list"),
        (json.dumps(["a"] * (MOST_THINGS + 1)), "no list of up to 100"),
    ],
)
def test_refuses_broken_notes_of_things(captioner, tmp_path, note, problem):
    notes = {VOCABULARY: captioner.vocabulary.to_json(), THINGS: note}
    path = save(tmp_path / "c.safetensors", captioner, **notes)
    with pytest.raises(InputError, match=problem):
        load_captioner(path)


def test_too_many_things_are_not_noted():
    with pytest.raises(ValueError, match="labels must be of at most 100 things, got 101"):
        things_to_json(["a"] * 101)


def test_refuses_other_words(captioner, tmp_path):
    path = save(tmp_path / "c.safetensors", captioner)
    with pytest.raises(InputError, match="vocabulary is broken"):
        load_captioner(path)
    other = Vocabulary((Medium("text", 256),), BytePairs(), 6)
    path = save(tmp_path / "d.safetensors", captioner, **{VOCABULARY: other.to_json()})
    with pytest.raises(InputError, match="its vocabulary has 257 ids"):
        load_captioner(path)
