"""A transformer with its vocabulary: what it writes, says and judges; its file."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from flowwarp.data.media import VOCABULARY
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.legacy.data.tokens import (
    MOTION_CODES,
    MOTION_GRID,
    Medium,
    Vocabulary,
    join,
    train_pairs,
    vocabulary_from_json,
)
from flowwarp.legacy.models.gpt import GPT, PATCH, TINY, Sampling, choose
from flowwarp.legacy.pipelines.sequences import (
    MediaGPT,
    Prompt,
    describe,
    load_gpt,
    sample_video_tokens,
    text_likelihood,
)

GRID = (2, 2, 4)


def make(seed=0):
    pairs = train_pairs(["a red knight walks left"] * 2, 20)
    media = (
        Medium("text", pairs.size),
        Medium("video", 6, GRID, digits=2),
        Medium("frame", 6, (1, 2, 4), first=0, shares="video", digits=2),
        Medium("motion", MOTION_CODES, MOTION_GRID),
    )
    words = Vocabulary(media, pairs, text_limit=8)
    torch.manual_seed(seed)
    net = GPT(replace(TINY, vocabulary=words.size, depth=2))
    torch.nn.init.normal_(net.head.weight, std=0.2)
    return MediaGPT(net.eval(), words)


GUIDED = Sampling(top_p=0.9, guidance=2.0)


def test_a_seed_is_a_video():
    gpt = make()
    prompts = [Prompt("a red knight"), Prompt("left")]
    videos = sample_video_tokens(gpt, prompts, [1, 2], GUIDED)
    assert videos.shape == (2, *GRID)
    assert int(videos.min()) >= 0
    assert int(videos.max()) < 36
    assert torch.equal(sample_video_tokens(gpt, prompts, [1, 2], GUIDED), videos)
    assert not torch.equal(sample_video_tokens(gpt, prompts, [1, 3], GUIDED)[1], videos[1])
    assert not torch.equal(sample_video_tokens(gpt, prompts[::-1], [1, 2], GUIDED), videos)


def test_a_video_does_not_hang_on_the_others():
    gpt = make()
    prompts = [Prompt("a red knight"), Prompt(), Prompt("left")]
    together = sample_video_tokens(gpt, prompts, [5, 6, 7], GUIDED, dtype=torch.float32)
    for row in range(3):
        alone = sample_video_tokens(
            gpt, prompts[row : row + 1], [5 + row], GUIDED, dtype=torch.float32
        )
        assert torch.equal(alone[0], together[row])


def test_each_part_of_a_prompt_is_heard():
    gpt = make()
    plain = sample_video_tokens(gpt, [Prompt()], [1])
    for prompt in (
        Prompt("a red knight"),
        Prompt(frame=torch.ones(1, 2, 4)),
        Prompt(motion=torch.ones(MOTION_GRID)),
    ):
        assert not torch.equal(sample_video_tokens(gpt, [prompt], [1]), plain)


def test_guidance_is_from_the_prompt_without_its_caption():
    gpt = make()
    frame = torch.arange(8).view(1, 2, 4)
    deaf = Sampling(guidance=0)
    got = sample_video_tokens(gpt, [Prompt("left", frame)], [1], deaf, dtype=torch.float32)
    plain = Sampling()
    wanted = sample_video_tokens(gpt, [Prompt(None, frame)], [1], plain, dtype=torch.float32)
    assert torch.equal(got, wanted)


def test_goes_on_from_a_beginning():
    """What comes after a beginning is what the plain network says of the whole sequence."""
    gpt = make()
    words = gpt.vocabulary
    with torch.no_grad():
        for block in gpt.net.blocks:
            block.out.weight.mul_(10)  # else an untrained network cares little what is where
    begin = torch.arange(8).view(1, 2, 4)
    got = sample_video_tokens(gpt, [Prompt("left", begin=begin)], [9], dtype=torch.float32)[0]
    assert torch.equal(got[:1], begin)
    tokens = join([words.text("left"), words.segment("video", got)])
    with torch.no_grad():
        logits = gpt.net(tokens.ids[None], tokens.places[None])[0]
    draws = torch.rand(16, generator=torch.Generator().manual_seed(9))
    # What is said of the last 8 codes, two digits each, before the marker at the end.
    said = logits[-16 - PATCH : -PATCH].unflatten(0, (8, 2)).unbind(1)
    wanted = [
        own[choose(part[:, own], draws[place::2], Sampling())]
        for place, (own, part) in enumerate(zip(words.choices("video"), said, strict=True))
    ]
    written = words.codes("video", got).ids[16:].view(8, 2)
    assert torch.equal(written, torch.stack(wanted, 1))


def test_what_it_began_with_is_copied_from():
    gpt = make()
    torch.nn.init.normal_(gpt.net.same.weight)
    likeliest = Sampling(temperature=0)

    def draw(begin):
        prompt = Prompt("left", begin=begin)
        return sample_video_tokens(gpt, [prompt], [1], likeliest, dtype=torch.float32)[0]

    whole = draw(None)
    assert torch.equal(draw(whole[:1]), whole)
    torch.nn.init.zeros_(gpt.net.same.weight)
    assert not torch.equal(draw(whole[:1]), whole)


@pytest.mark.parametrize("keep", [0, 8, 16, 24])
def test_what_is_kept_of_a_beginning_stays_and_the_rest_is_written_anew(keep):
    """As in one go: the likeliest codes again, after whatever stood behind those kept."""
    gpt = make()
    torch.nn.init.normal_(gpt.net.same.weight)  # what is kept, and that alone, is copied from
    with torch.no_grad():
        for block in gpt.net.blocks:
            block.out.weight.mul_(10)
    likeliest = Sampling(temperature=0, guidance=2)

    def draw(begin, keep=None, times=None):
        prompt = Prompt("left", begin=begin)
        return sample_video_tokens(
            gpt, [prompt], [1], likeliest, times=times, keep=keep, dtype=torch.float32
        )[0]

    whole, begin = draw(None), torch.arange(20, 28).view(1, 2, 4)
    written = gpt.vocabulary.codes("video", whole).ids
    if keep < 16:
        spoilt = gpt.vocabulary.codes("video", whole[:1]).ids
        spoilt[keep:] = gpt.vocabulary.codes("video", begin).ids[keep:]
        begin = gpt.vocabulary.read_grid("video", spoilt[None])[0]
        assert not torch.equal(begin, whole[:1])
        assert torch.equal(draw(begin, keep, times=1), whole[:1])
    else:
        begin = whole[:1] if keep == 16 else whole
    again = draw(begin, keep)
    assert torch.equal(gpt.vocabulary.codes("video", again).ids, written)


@pytest.mark.parametrize("keep", [-8, 4, 24])
def test_only_whole_patches_of_a_beginning_are_kept(keep):
    begin = torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match="begin must be whole patches of 8 of 16 tokens"):
        sample_video_tokens(make(), [Prompt(begin=begin)], [1], keep=keep)


@pytest.mark.parametrize(
    "begin", [torch.zeros(1, 2, 6), torch.full((1, 2, 4), 36), torch.full((1, 2, 4), -1)]
)
def test_wrong_beginnings_are_refused(begin):
    with pytest.raises(ValueError, match=r"begin must be|codes of video must be"):
        sample_video_tokens(make(), [Prompt(begin=begin)], [1])


def test_beginnings_must_leave_something_to_do_and_be_alike():
    with pytest.raises(ValueError, match="begin must have one length"):
        sample_video_tokens(make(), [Prompt(begin=torch.zeros(GRID))], [1])
    with pytest.raises(ValueError, match="begin must have one length"):
        sample_video_tokens(make(), [Prompt(), Prompt(begin=torch.zeros(1, 2, 4))], [1, 2])
    with pytest.raises(ValueError, match="one for each"):
        sample_video_tokens(make(), [Prompt()], [1, 2])


def test_likelihood_is_the_sum_over_the_text():
    gpt = make()
    videos = torch.randint(0, 36, (2, *GRID), generator=torch.Generator().manual_seed(0))
    captions = ["a red knight", "left"]
    got = text_likelihood(gpt, videos, captions)
    words = gpt.vocabulary

    def likelihoods(parts):
        """Return that of each part, given those before it."""
        tokens = join(parts)
        logits = gpt.net(tokens.ids[None], tokens.places[None])[0].detach()
        sums = [0.0] * len(parts)
        for at in range(PATCH, len(tokens)):
            for name in ("text", "video"):
                for own in words.choices(name):
                    if len(own) > 1 and tokens.ids[at] in own:
                        part = int(at >= len(parts[0]))
                        likely = logits[at - PATCH, own].log_softmax(-1)
                        sums[part] += float(likely[own == tokens.ids[at]])
        return sums

    for row, caption in enumerate(captions):
        video, text = words.segment("video", videos[row]), words.text(caption)
        alone, told = likelihoods([video, text])
        said, shown = likelihoods([text, video])
        assert float(got[row]) == pytest.approx((told + said + shown - alone) / 2, abs=1e-3)


def test_descriptions_are_text():
    gpt = make()
    videos = torch.randint(0, 36, (3, *GRID), generator=torch.Generator().manual_seed(0))
    told = describe(gpt, videos, dtype=torch.float32)
    assert len(told) == 3
    assert all(isinstance(text, str) for text in told)
    assert describe(gpt, videos[1:2], dtype=torch.float32) == told[1:2]


def test_a_seed_is_a_description():
    gpt = make()
    videos = torch.zeros(1, *GRID, dtype=torch.int64)
    one, again, other = (describe(gpt, videos, Sampling(), seed=seed) for seed in (1, 1, 2))
    assert one == again != other


def test_a_description_is_learned_in_seconds():
    """Of two videos and their captions the network learns which is which, both ways."""
    gpt = make()
    words, net = gpt.vocabulary, gpt.net
    videos = torch.stack([torch.full(GRID, 3), torch.full(GRID, 7)])
    captions = ["a red knight", "walks left"]
    sequences = []
    for video, caption in zip(videos, captions, strict=True):
        parts = [words.text(caption), words.segment("video", video)]
        sequences += [join(parts), join(parts[::-1])]
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)

    def nats(tokens):
        return net.nats(tokens.ids[None], tokens.places[None], words.all_choices())

    for _ in range(60):
        loss = sum(nats(tokens).mean() for tokens in sequences)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)  # or it may leap away
        optimizer.step()
    assert describe(gpt, videos) == captions
    greedy = Sampling(temperature=0)
    made = sample_video_tokens(gpt, [Prompt(c) for c in captions], [1, 2], greedy)
    assert torch.equal(made, videos)
    right = text_likelihood(gpt, videos, captions)
    wrong = text_likelihood(gpt, videos, captions[::-1])
    assert (right > wrong + 3).all()


# ------------------------------------------------------------------ the file


def save(path, gpt, **changes):
    notes = {VOCABULARY: gpt.vocabulary.to_json()} | changes.pop("notes", {})
    save_weights(path, gpt.net, Card("gpt", asdict(gpt.net.config) | changes, 1, notes))


def test_weights_bring_their_vocabulary(tmp_path):
    gpt = make()
    save(tmp_path / "gpt.safetensors", gpt)
    again = load_gpt(tmp_path / "gpt.safetensors")
    assert again.vocabulary.pairs.merges == gpt.vocabulary.pairs.merges
    prompts = [Prompt("a red knight")]
    assert torch.equal(
        sample_video_tokens(again, prompts, [1], GUIDED),
        sample_video_tokens(gpt, prompts, [1], GUIDED),
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"notes": {VOCABULARY: "{"}}, "vocabulary is broken"),
        ({"notes": {VOCABULARY: "null"}}, "vocabulary is broken"),
        ({"vocabulary": 999}, r"the network needs \(999"),
        ({"heads": 7}, "does not describe a gpt"),
        ({"depth": 3}, "lacks"),
        ({"nonsense": 1}, "does not describe a gpt"),
        ({"width": "wide"}, "does not describe a gpt"),
    ],
)
def test_a_broken_card_is_bad_input(tmp_path, changes, problem):
    path = tmp_path / "gpt.safetensors"
    save(path, make(), **changes)
    with pytest.raises(InputError, match=problem):
        load_gpt(path)


def test_another_vocabulary_is_noticed(tmp_path):
    gpt = make()
    content = json.loads(gpt.vocabulary.to_json())
    content["media"][1]["size"] += 1
    content["media"][2]["size"] += 1
    assert vocabulary_from_json(json.dumps(content), "card").size == gpt.vocabulary.size + 2
    save(tmp_path / "gpt.safetensors", gpt, notes={VOCABULARY: json.dumps(content)})
    with pytest.raises(InputError, match="its vocabulary has"):
        load_gpt(tmp_path / "gpt.safetensors")
