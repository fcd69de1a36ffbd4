"""A critic and what it is for: searching among videos in the making, and describing them."""

from dataclasses import asdict, replace

import pytest
import torch

from flowwarp.data.phrases import Phrasebook, learn_phrases
from flowwarp.data.tokens import (
    MOTION_CODES,
    MOTION_GRID,
    Medium,
    Vocabulary,
    train_pairs,
    written_cells,
)
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.models.critic import Critic, CriticConfig, fit
from flowwarp.models.dvae import DVAE
from flowwarp.models.dvae import TINY as TINY_DVAE
from flowwarp.models.gpt import GPT, TINY
from flowwarp.pipelines import critique
from flowwarp.pipelines.critique import (
    Critique,
    caption_fit,
    lean_to,
    load_critic,
    phrase_scores,
    search_video_tokens,
)
from flowwarp.pipelines.sequences import (
    CODES,
    VOCABULARY,
    MediaGPT,
    Prompt,
    describe,
    sample_video_tokens,
    seeds_after,
)
from flowwarp.pipelines.video_tokens import fingerprint

GRID = (1, 4, 4)
CAPTIONS = ["a red knight", "a blue knight", "a red ghost"]


@pytest.fixture(scope="module")
def parts():
    return make_parts(GRID)


def make_parts(grid):
    """Return a transformer and a critic that have learned nothing."""
    pairs = train_pairs(CAPTIONS * 2, 40)
    torch.manual_seed(0)
    dvae = DVAE(replace(TINY_DVAE, widths=(8, 16, 16)))
    codes, digits = dvae.config.book, dvae.config.digits
    media = (
        Medium("text", pairs.size),
        Medium("video", codes, grid, digits=digits),
        Medium("frame", codes, (1, *grid[1:]), first=0, shares="video", digits=digits),
        Medium("motion", MOTION_CODES, MOTION_GRID),
    )
    words = Vocabulary(media, pairs, text_limit=8)
    gpt = GPT(replace(TINY, vocabulary=words.size, depth=1))
    torch.nn.init.normal_(gpt.head.weight, std=0.05)
    book = learn_phrases(CAPTIONS * 2, pairs, 8, 100)
    net = Critic(CriticConfig(len(book), 3, 24, grid, dvae.quantiser.outputs, widths=(16, 16)))
    torch.nn.init.normal_(net.head.weight)
    net.names.copy_(book.names)
    net.references.copy_(book.bags(CAPTIONS, 24))
    return MediaGPT(gpt.eval(), words), Critique(net.eval(), book, dvae.eval())


def save(path, critic, words, codes):
    notes = {VOCABULARY: words.to_json(), CODES: codes}
    save_weights(path, critic.net, Card("critic", asdict(critic.net.config), notes=notes))
    return path


def test_survives_its_file(parts, tmp_path):
    gpt, critic = parts
    path = save(tmp_path / "c.safetensors", critic, gpt.vocabulary, fingerprint(critic.dvae))
    again = load_critic(path, gpt.vocabulary, critic.dvae)
    codes = torch.randint(0, 10, (2, *GRID))
    for caption in CAPTIONS:
        there, back = (caption_fit(c, codes, [caption] * 2) for c in (critic, again))
        assert torch.equal(there, back)


def test_refuses_what_it_is_not_for(parts, tmp_path):
    gpt, critic = parts
    path = save(tmp_path / "c.safetensors", critic, gpt.vocabulary, fingerprint(critic.dvae))
    other = replace(gpt.vocabulary, pairs=train_pairs(["else"], 1), media=gpt.vocabulary.media[1:])
    with pytest.raises(InputError, match="reads words otherwise"):
        load_critic(path, other, critic.dvae)
    torch.manual_seed(5)
    with pytest.raises(InputError, match="another VAE"):
        load_critic(path, gpt.vocabulary, DVAE(critic.dvae.config))
    text, video, *others = gpt.vocabulary.media
    longer = replace(gpt.vocabulary, media=(text, replace(video, grid=(2, 4, 4)), *others))
    with pytest.raises(InputError, match="another shape"):
        load_critic(path, longer, critic.dvae)


@pytest.mark.parametrize(("name", "value"), [("names", -1), ("names", 10**6), ("references", 99)])
def test_refuses_phrases_that_cannot_be(parts, tmp_path, name, value):
    gpt, critic = parts
    spoiled = Critic(critic.net.config)
    spoiled.load_state_dict(critic.net.state_dict())
    getattr(spoiled, name)[0, 0] = value
    own = Critique(spoiled, critic.book, critic.dvae)
    path = save(tmp_path / "c.safetensors", own, gpt.vocabulary, fingerprint(critic.dvae))
    with pytest.raises(InputError, match="damaged"):
        load_critic(path, gpt.vocabulary, critic.dvae)


def test_only_what_is_written_counts(parts):
    _, critic = parts
    codes = torch.zeros(2, *GRID, dtype=torch.int64)
    codes[1][~written_cells(GRID, 6)] = 9
    early = phrase_scores(critic, codes, 6)
    assert torch.equal(early[0], early[1])
    assert not torch.allclose(*phrase_scores(critic, codes), atol=1e-3)


def test_the_search_finds_what_fits_better(parts):
    gpt, critic = parts
    prompts, seeds = [Prompt(caption) for caption in CAPTIONS], [1, 2, 3]
    found = search_video_tokens(gpt, critic, prompts, seeds, 16)
    assert found.shape == (3, *GRID)
    assert torch.equal(search_video_tokens(gpt, critic, prompts, seeds, 16), found)
    first = sample_video_tokens(gpt, prompts, seeds)
    better = caption_fit(critic, found, CAPTIONS) - caption_fit(critic, first, CAPTIONS)
    assert bool((better > 0).all())
    alone = search_video_tokens(gpt, critic, prompts[:1], seeds[:1], 16)
    assert torch.equal(alone[0], found[0])


def test_a_search_on_the_way_is_better_than_a_choice_at_the_end(parts, monkeypatch):
    gpt, critic = parts

    def even(critic, codes, bags, written):
        """Return 2 nats for each even code that is written."""
        known = written_cells(GRID, 16 if written is None else written)
        return 2.0 * ((codes % 2 == 0) & known).flatten(1).sum(1)

    monkeypatch.setattr(critique, "_fit_bags", even)
    monkeypatch.setattr(critique, "_EVERY", 1)
    prompt = Prompt("a red knight")
    (found,) = search_video_tokens(gpt, critic, [prompt], [1], 16, pull=0)
    plain = sample_video_tokens(gpt, [prompt] * 16, seeds_after(1, 16))
    counts = even(critic, plain, None, None) / 2
    assert float(counts.amax()) < 13
    assert float(even(critic, found[None], None, None)) / 2 > float(counts.amax())


def test_where_all_fit_alike_nothing_is_chosen(parts, monkeypatch):
    gpt, critic = parts
    monkeypatch.setattr(critique, "_fit_bags", lambda c, codes, bags, n: torch.zeros(len(codes)))
    found = search_video_tokens(gpt, critic, [Prompt("a red knight")], [4], 3, pull=0)
    assert torch.equal(found, sample_video_tokens(gpt, [Prompt("a red knight")], [4]))


def test_what_is_drawn_leans_to_what_fits(parts, monkeypatch):
    gpt, critic = parts
    monkeypatch.setattr(critique, "_EVERY", 1)  # this video is no longer than four patches
    prompts, seeds = [Prompt("a red knight")] * 8, list(range(8))
    captions = ["a red knight"] * 8
    means = [
        float(caption_fit(critic, found, captions).mean())
        for pull in (0.0, 3.0)
        for found in [search_video_tokens(gpt, critic, prompts, seeds, 1, pull=pull)]
    ]
    assert means[1] > means[0] + 0.5
    assert torch.equal(
        search_video_tokens(gpt, critic, prompts, seeds, 1, pull=0),
        sample_video_tokens(gpt, prompts, seeds),
    )


def test_a_search_goes_on_from_a_beginning(monkeypatch):
    gpt, critic = make_parts((2, 4, 4))
    monkeypatch.setattr(critique, "_EVERY", 1)
    begin = torch.randint(0, critic.dvae.config.codes, (1, 4, 4))
    prompts, captions = [Prompt("a red knight", begin=begin)] * 8, ["a red knight"] * 8
    asked = []
    monkeypatch.setattr(
        critique, "_slopes", lambda *a, real=critique._slopes: asked.append(a) or real(*a)
    )
    means = []
    for pull in (0.0, 3.0):
        found = search_video_tokens(gpt, critic, prompts, list(range(8)), 1, pull=pull)
        assert torch.equal(found[:, :1], begin.expand(8, 1, 4, 4))
        means.append(float(caption_fit(critic, found, captions).mean()))
    assert means[1] > means[0] + 0.2  # half of it is chosen
    _, codes, _, written, ahead = asked[0]  # the first look is at the beginning, and what follows
    assert (written, ahead) == (16, 4)
    assert torch.equal(codes[:, :1], begin.expand(8, 1, 4, 4))


def test_slopes_are_those_of_the_fit(parts):
    _, critic = parts
    codes = torch.randint(0, critic.dvae.config.codes, (1, *GRID))
    bags = critic.book.bags(["a red knight"], 24)
    slopes = critique._slopes(critic, codes, bags, 4, 4)
    assert not slopes[0][~written_cells(GRID, 8)].any()
    values = critic.dvae.quantiser.values(codes)
    values[:, ~written_cells(GRID, 4)] = 0
    known = written_cells(GRID, 8).expand(codes.shape)
    place = (0, *written_cells(GRID, 5).logical_xor(written_cells(GRID, 4)).nonzero()[0].tolist())
    changes = []
    for step in (-0.05, 0.05):
        moved = values.clone()
        moved[(*place, 1)] += step
        with torch.no_grad():
            changes.append(float(fit(critic.net, critic.net(moved, known), bags)))
    assert (changes[1] - changes[0]) / 0.1 == pytest.approx(float(slopes[(*place, 1)]), rel=0.1)


def test_values_of_digits_add_up(parts):
    _, critic = parts
    config, quantiser = critic.dvae.config, critic.dvae.quantiser
    tables = critique._digit_values(critic.dvae, config.book, config.digits)
    codes = torch.randint(0, config.codes, (9,))
    total = quantiser.values(torch.zeros_like(codes))
    for place, table in enumerate(tables):
        total = total + table[codes // config.book ** (config.digits - 1 - place) % config.book]
    assert torch.allclose(total, quantiser.values(codes), atol=1e-6)


def test_a_search_needs_words(parts):
    with pytest.raises(ValueError, match="captions"):
        search_video_tokens(*parts, [Prompt()], [1], 4)


def test_shares_become_numbers():
    generator = torch.Generator().manual_seed(0)
    rows = critique._resample(torch.tensor([0.5, 0.0, 0.25, 0.25]), generator)
    assert rows.tolist() == [0, 0, 2, 3]
    assert critique._resample(torch.tensor([0.0, 1.0, 0.0]), generator).tolist() == [1, 1, 1]


def test_descriptions_lean_to_what_is_seen(parts):
    """A critic that sees "red", and that a ghost comes after it, says so."""
    gpt, critic = parts
    red = set(critic.book.find(" red"))
    ghost = set(critic.book.find(" red ghost")) - red
    scores = torch.full((1, len(critic.book)), -50.0)
    scores[0, list(red)] = 60.0
    scores[0, list(ghost)] = 80.0
    net = _Seen(critic.net, scores)
    seen = Critique(net, critic.book, critic.dvae)
    videos = torch.zeros(1, *GRID, dtype=torch.int64)
    (text,) = describe(gpt, videos, lean=lean_to(gpt, seen, videos))
    assert text.startswith(" ghost red")  # the surest first; it has no pair before it
    scores[0, list(ghost)] = 40.0
    (text,) = describe(gpt, videos, lean=lean_to(gpt, seen, videos))
    assert text.startswith(" red ghost")
    assert text.count("red") == 1
    assert "knight" not in text


class _Seen(torch.nn.Module):
    """Says some scores of what is there, and 0 of nothing."""

    def __init__(self, net, scores):
        super().__init__()
        self.head, self.scores = net.head, scores

    def forward(self, values, known):
        return self.scores.expand(len(values), -1) * known.flatten(1).any(1, keepdim=True)


def test_the_book_can_be_read_from_the_weights(parts):
    _, critic = parts
    again = Phrasebook(critic.net.names, critic.book.pairs, critic.book.limit)
    assert again.find("a blue knight") == critic.book.find("a blue knight")
