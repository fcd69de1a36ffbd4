"""Sampling: draws by hand, guidance, continuation and likelihoods."""

import math

import pytest
import torch

from flowwarp.models.gpt import GPT, GPTConfig, MediumConfig
from flowwarp.models.sampling import SamplingConfig, draw, log_likelihood, sample, text_mask

MEDIA = (
    MediumConfig("text", (3, 1, 1), (7,)),
    MediumConfig("video", (2, 2, 1), (4, 3)),
)
PLAIN = SamplingConfig(temperature=1.0, guidance=1.0)
GREEDY = SamplingConfig(temperature=0, guidance=1.0)
WORDS = torch.tensor([[[2], [5], [0]], [[1], [0], [0]]])


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = GPT(GPTConfig(width=24, depth=2, heads=2, digit_width=16), MEDIA).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def shares(logits, config, count=20_000):
    """Return how often each value is drawn."""
    drawn = draw(torch.tensor(logits).expand(count, -1), config, seeded())
    return drawn.bincount(minlength=len(logits)) / count


# ------------------------------------------------------------------ one digit


def test_values_are_drawn_as_often_as_they_are_likely():
    logits = [math.log(0.6), math.log(0.3), math.log(0.1)]
    expected = torch.tensor([0.6, 0.3, 0.1])
    torch.testing.assert_close(shares(logits, PLAIN), expected, atol=0.015, rtol=0)


def test_temperature_is_a_power_of_the_probability():
    logits = [math.log(0.6), math.log(0.3), math.log(0.1)]
    expected = torch.tensor([0.36, 0.09, 0.01]) / 0.46
    found = shares(logits, SamplingConfig(temperature=0.5, guidance=1))
    torch.testing.assert_close(found, expected, atol=0.015, rtol=0)


@pytest.mark.parametrize("temperature", [0, 1e-300, 1e-6])
def test_temperature_0_takes_the_likeliest(temperature):
    logits = torch.tensor([[-500.0, 400.0, 399.0], [3.0, 1.0, 2.0]])
    config = SamplingConfig(temperature=temperature)
    assert draw(logits, config, seeded()).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1.0, [0.1, 0.5, 0.15, 0.25]),
        (0.95, [0.1, 0.5, 0.15, 0.25]),
        (0.8, [0, 0.5, 0.15, 0.25]),
        (0.7, [0, 0.5, 0, 0.25]),
        (0.3, [0, 0.5, 0, 0]),
        (1e-6, [0, 0.5, 0, 0]),
    ],
)
def test_top_p_by_hand(top_p, kept):
    """The likeliest values, until they have top_p together."""
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log().tolist()
    found = shares(logits, SamplingConfig(temperature=1, top_p=top_p))
    expected = torch.tensor(kept) / sum(kept)
    torch.testing.assert_close(found, expected, atol=0.015, rtol=0)
    assert torch.equal(found > 0, expected > 0)


def test_top_p_is_of_each_row():
    logits = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log().repeat(50, 1)
    drawn = draw(logits, SamplingConfig(temperature=1, top_p=0.5), seeded())
    assert drawn.tolist() == [0, 1] * 50


# ------------------------------------------------------------------ a segment


def test_a_seed_gives_the_same_draws(net):
    one, two, other = (
        sample(net, [("text", WORDS)], "video", PLAIN, seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == (2, 4, 2)
    assert one.dtype == torch.int64
    for slot, size in enumerate((4, 3)):
        assert one[..., slot].min() >= 0
        assert one[..., slot].max() < size


@torch.no_grad()
def test_digits_are_drawn_as_often_as_the_network_finds_them_likely(net):
    """Of the first digits of a video: probabilities from the whole network."""
    count = 4000
    words = WORDS[:1].expand(count, -1, -1)
    drawn = sample(net, [("text", words)], "video", PLAIN, seeded())
    for first in range(4):
        for second in range(3):
            digits = torch.tensor([[[first, second]]])
            nats = net([("text", WORDS[:1]), ("video", digits)])[1].sum()
            found = ((drawn[:, 0, 0] == first) & (drawn[:, 0, 1] == second)).float().mean()
            assert float(found) == pytest.approx(math.exp(-float(nats)), abs=0.03)


@torch.no_grad()
def test_greedy_digits_are_the_likeliest_given_those_before(net):
    drawn = sample(net, [("text", WORDS)], "video", GREEDY, seeded())
    best = net([("text", WORDS), ("video", drawn)])[1]
    for patch in range(4):
        for slot, size in enumerate((4, 3)):
            for value in range(size):
                other = drawn.clone()
                other[:, patch, slot] = value
                nats = net([("text", WORDS), ("video", other)])[1]
                assert (nats[:, patch, slot] >= best[:, patch, slot] - 1e-5).all()


def test_each_row_is_drawn_for_its_own_words(net):
    both = sample(net, [("text", WORDS)], "video", GREEDY, seeded())
    for row in range(2):
        alone = sample(net, [("text", WORDS[row : row + 1])], "video", GREEDY, seeded())
        assert torch.equal(alone[0], both[row])


def test_a_segment_continues_from_its_beginning(net):
    drawn = sample(net, [("text", WORDS)], "video", GREEDY, seeded())
    for known in range(5):
        rest = sample(net, [("text", WORDS)], "video", GREEDY, seeded(), drawn[:, :known])
        assert torch.equal(rest, drawn)
    begin = (drawn[:, :2] + 1) % 3
    other = sample(net, [("text", WORDS)], "video", GREEDY, seeded(), begin)
    assert torch.equal(other[:, :2], begin)


def test_video_to_words(net):
    patches = sample(net, [("text", WORDS)], "video", PLAIN, seeded())
    words = sample(net, [("video", patches)], "text", PLAIN, seeded())
    assert words.shape == (2, 3, 1)
    assert words.max() < 7


# ------------------------------------------------------------------ guidance


def first_logits(net, words, config):
    """Return the logits from which the first digit is drawn."""
    seen = []

    def record(logits, config, generator):
        seen.append(logits)
        return logits.argmax(-1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowwarp.models.sampling.draw", record)
        sample(net, [("text", words)], "video", config, seeded())
    return seen[0]


def test_guidance_by_hand(net):
    without = first_logits(net, torch.zeros_like(WORDS), PLAIN)
    with_words = first_logits(net, WORDS, PLAIN)
    assert not torch.allclose(without, with_words, atol=0.1)
    for guidance in (0.0, 0.5, 3.0):
        found = first_logits(net, WORDS, SamplingConfig(guidance=guidance))
        expected = without + guidance * (with_words - without)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_guidance_1_is_none(net):
    near = SamplingConfig(temperature=0, guidance=1 + 1e-9)  # written twice, with and without
    assert torch.equal(
        sample(net, [("text", WORDS)], "video", near, seeded()),
        sample(net, [("text", WORDS)], "video", GREEDY, seeded()),
    )


def test_guidance_needs_words(net):
    patches = sample(net, [("text", WORDS)], "video", PLAIN, seeded())
    guided = SamplingConfig(temperature=0, guidance=5)
    assert torch.equal(
        sample(net, [("video", patches)], "text", guided, seeded()),
        sample(net, [("video", patches)], "text", GREEDY, seeded()),
    )


# ------------------------------------------------------------------ likelihood


def test_the_likelihood_of_video_by_hand(net):
    given = [("text", WORDS), ("video", torch.ones(2, 4, 2, dtype=torch.int64))]
    found = log_likelihood(net, given)
    torch.testing.assert_close(found, -net(given)[1].sum((1, 2)))


def test_the_likelihood_of_words_ignores_what_is_behind_their_end(net):
    patches = torch.ones(2, 4, 2, dtype=torch.int64)
    found = log_likelihood(net, [("video", patches), ("text", WORDS)])
    nats = net([("video", patches), ("text", WORDS)])[1][..., 0]
    torch.testing.assert_close(found, -torch.stack([nats[0].sum(), nats[1, :2].sum()]))
    behind = WORDS.clone()
    behind[1, 2] = 4
    torch.testing.assert_close(log_likelihood(net, [("video", patches), ("text", behind)]), found)


def test_text_mask():
    words = torch.tensor([[3, 4, 0, 6, 2], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]])[..., None]
    expected = [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert text_mask(words)[..., 0].tolist() == expected


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": True},
        {"top_p": 0},
        {"top_p": 1.1},
        {"guidance": -1},
        {"guidance": math.inf},
        {"guidance": "2"},
    ],
)
def test_settings_are_checked(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SamplingConfig(**change)
