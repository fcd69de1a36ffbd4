"""The transformer: what the probability of a digit depends on, and positions by hand."""

import math

import pytest
import torch

from flowwarp.models.gpt import (
    GPT,
    DigitHead,
    GPTConfig,
    MediumConfig,
    PatchEmbedding,
    first_rows,
    rotary_angles,
    rotate,
)

TINY = GPTConfig(width=24, depth=2, heads=2, digit_width=16)
MEDIA = (
    MediumConfig("text", (3, 1, 1), (7,)),
    MediumConfig("video", (2, 2, 2), (4, 3)),
    MediumConfig("picture", (1, 2, 2), (4, 3)),
)
ORDERS = [
    ("text", "video"),
    ("video", "text"),
    ("text", "picture", "video"),
    ("picture", "text", "video"),
    ("video",),
]


@pytest.fixture(scope="module")
def net():
    """Return a network all of whose parts matter: none is zero, and differences are large."""
    torch.manual_seed(0)
    net = GPT(TINY, MEDIA).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def segments(order, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    digits = {}
    for medium in MEDIA:
        values = [
            torch.randint(size, (batch, medium.patches), generator=generator)
            for size in medium.digits
        ]
        digits[medium.name] = torch.stack(values, -1)
    digits["text"][:, -1] = 0  # an end
    return [(name, digits[name]) for name in order]


def digit_by_digit(parts):
    """Return (B, all digits of a sequence) in the order in which they are written."""
    return torch.cat([part.flatten(1) for part in parts], 1)


@torch.no_grad()
@pytest.mark.parametrize("order", ORDERS)
def test_a_digit_depends_on_all_before_it_and_on_none_behind(net, order):
    given = segments(order)
    nats = digit_by_digit(net(given))
    at = 0
    for number, (name, digits) in enumerate(given):
        sizes = net.medium(name).digits
        for patch in range(digits.shape[1]):
            for slot in range(digits.shape[2]):
                changed = digits.clone()
                changed[:, patch, slot] = (changed[:, patch, slot] + 1) % sizes[slot]
                others = [*given[:number], (name, changed), *given[number + 1 :]]
                differs = digit_by_digit(net(others)) != nats
                assert not differs[:, :at].any()
                if patch + 1 < digits.shape[1]:  # the last one is no input of what is behind
                    assert differs[:, at:].any(0).float().mean() > 0.9
                at += 1


@torch.no_grad()
@torch.no_grad()
def test_the_last_patch_of_a_segment_conditions_the_next(net):
    (_, video), text = segments(("video", "text"))
    other = video.clone()
    other[:, -1, 0] = (other[:, -1, 0] + 1) % 4
    before, after = (net([("video", part), text])[1] for part in (video, other))
    assert ((before - after).abs().flatten(1).sum(1) > 1e-3).all()


def test_probabilities_of_a_digit_add_up_to_one(net):
    given = segments(("text", "video"))
    total = torch.zeros(2)
    for value in range(3):
        digits = given[1][1].clone()
        digits[:, 5, 1] = value
        total += (-net([given[0], ("video", digits)])[1][:, 5, 1]).exp()
    torch.testing.assert_close(total, torch.ones(2))


def test_an_untrained_network_finds_all_values_equally_likely():
    text, video = GPT(TINY, MEDIA)(segments(("text", "video")))
    torch.testing.assert_close(text, torch.full((2, 3, 1), math.log(7)))
    expected = torch.tensor([4.0, 3.0]).log().expand(2, 8, 2)
    torch.testing.assert_close(video, expected)


def test_a_segment_may_end_early(net):
    text, (name, digits) = segments(("text", "video"))
    torch.testing.assert_close(
        net([text, (name, digits[:, :5])])[1], net([text, (name, digits)])[1][:, :5]
    )


def test_each_example_depends_on_itself_alone(net):
    given = segments(("text", "picture", "video"), batch=4)
    together = net(given)
    for row in range(4):
        alone = net([(name, digits[row : row + 1]) for name, digits in given])
        for part, one in zip(together, alone, strict=True):
            torch.testing.assert_close(part[row], one[0])


def test_every_parameter_learns(net):
    orders = (("text", "picture", "video"), ("video", "text"))
    loss = sum(part.sum() for order in orders for part in net(segments(order)))
    parameters = dict(net.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if name != "heads.text.digit.weight":  # a word has no further digits
            assert gradient is not None, name
            assert gradient.any(), name


# ------------------------------------------------------------------ parts


def test_pooled_words_are_the_mean_of_those_that_are_not_padding(net):
    words = torch.tensor([[2], [5], [0]])
    table = net.embeddings["text"].patch.weight
    expected = net.pool((table[2] + table[5]) / 2)
    torch.testing.assert_close(net.pooled_words(words[None])[0, 0], expected)
    assert not net.pooled_words(torch.zeros(1, 3, 1, dtype=torch.int64)).any()


def test_pooled_words_reach_what_is_behind_them_alone(net):
    """Without blocks, attention aside, only the words' own input and the pool carry them."""
    flat = GPT(GPTConfig(24, 1, 2, 16), MEDIA)  # its blocks begin as the identity
    for head in flat.heads.values():
        for layer in head.out:
            torch.nn.init.normal_(layer.weight)
    text, picture, video = segments(("text", "picture", "video"))
    other = ("text", torch.tensor([[1], [6], [3]]).expand(2, -1, -1))
    one, two = flat([picture, text, video]), flat([picture, other, video])
    assert torch.equal(one[0], two[0])
    assert (one[2] != two[2]).any(-1).all()


def test_the_input_of_a_place_by_hand():
    """Of grid (2, 2, 2): the patch above is 2 places back, one time step is 4."""
    embedding = PatchEmbedding(MEDIA[1], 8)
    digits = segments(("video",))[0][1]
    made = embedding(digits)
    above, earlier = embedding.neighbours
    torch.testing.assert_close(made[:, 0], embedding.start.expand(2, -1))
    for b in range(2):
        vectors = [
            # the values of the second digit stand behind the first's
            table.weight[digits[b, place, 0]] + table.weight[4 + digits[b, place, 1]]
            for table, place in ((embedding.patch, 5), (above, 4), (earlier, 2))
        ]
        torch.testing.assert_close(made[b, 6], sum(vectors))
        torch.testing.assert_close(made[b, 1], embedding.embed(digits)[b, 0])


@pytest.mark.parametrize("medium", MEDIA, ids=lambda medium: medium.name)
def test_one_place_is_as_in_the_whole(medium):
    embedding = PatchEmbedding(medium, 8)
    ((_, digits),) = segments((medium.name,))
    whole = embedding(digits)
    for index in range(medium.patches):
        unknown = digits.clone()
        unknown[:, index:] = 0  # not read
        torch.testing.assert_close(embedding.at(unknown, index)[:, 0], whole[:, index])


def test_the_head_by_hand():
    """Writing digit after digit has the probabilities of the parallel pass."""
    torch.manual_seed(0)
    head = DigitHead(MEDIA[1], 24, 16)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, digits = torch.randn(2, 8, 24), segments(("video",))[0][1]
    state, expected = head.enter(x), []
    for slot in range(2):
        chances = head.predict(state, slot).log_softmax(-1)
        expected.append(-chances.gather(-1, digits[..., slot, None])[..., 0])
        state = state + head.written(digits[..., slot], slot)
    torch.testing.assert_close(head(x, digits), torch.stack(expected, -1))


def test_first_rows():
    assert first_rows((4, 3, 9)).tolist() == [0, 4, 7]
    assert first_rows((4,)).tolist() == [0]


# ------------------------------------------------------------------ positions


def test_rotary_angles_by_hand():
    angles = rotary_angles((2, 2, 3), 12)  # 6 pairs: 2 of t, of y, of x
    assert angles.shape == (12, 6)
    torch.testing.assert_close(angles[0], torch.zeros(6))
    t, y, x = 1, 0, 2
    place = (t * 2 + y) * 3 + x
    torch.testing.assert_close(angles[place], torch.tensor([1, 1 / 8, 0, 0, 2, 2 / 8]))


@pytest.mark.parametrize("head", [2, 4, 6, 8, 64])
def test_rotary_angles_use_every_pair(head):
    angles = rotary_angles((3, 3, 3), head)
    assert angles.shape == (27, head // 2)
    assert (angles[-1] > 0).all()


def test_rotation_keeps_lengths_and_depends_on_the_distance_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 12, generator=generator) for _ in range(2))
    angles = rotary_angles((9, 1, 1), 12)

    def product(i, j):
        return (rotate(q, angles[i : i + 1]) * rotate(k, angles[j : j + 1])).sum()

    torch.testing.assert_close(product(5, 2), product(8, 5))
    assert not torch.isclose(product(5, 2), product(2, 5))
    torch.testing.assert_close(rotate(q, angles[7:8]).norm(), q.norm())


def test_words_stand_before_the_first_frame(net):
    distance = rotary_angles((4, 1, 1), 12)
    torch.testing.assert_close(net.angles("text"), -distance[1:].flip(0))
    assert not net.angles("video")[0].any()


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"width": 30, "heads": 4}, "multiple of 2"),
        ({"width": 0}, "width"),
        ({"depth": 0}, "depth"),
        ({"heads": -1}, "heads"),
        ({"digit_width": 1.5}, "digit_width"),
        ({"depth": True}, "depth"),
    ],
)
def test_sizes_are_checked(change, match):
    with pytest.raises(ValueError, match=match):
        GPTConfig(**change)


@pytest.mark.parametrize(
    ("grid", "digits"),
    [((2, 0, 2), (4,)), ((2, 2, 2), (1,)), ((2, 2, 2), ()), ((2, 2), (4,)), ([2, 2, 2], (4,))],
)
def test_media_are_checked(grid, digits):
    with pytest.raises(ValueError, match=r"grid|digits"):
        MediumConfig("video", grid, digits)


def test_an_unknown_medium():
    with pytest.raises(ValueError, match=r"'sound'.*text, video, picture"):
        GPT(TINY, MEDIA).medium("sound")


@pytest.mark.parametrize("patches", [1, 2])
def test_segments_of_a_single_patch(patches):
    media = (MediumConfig("text", (patches, 1, 1), (2,)), MediumConfig("video", (1, 1, 1), (4, 3)))
    words = torch.zeros(2, patches, 1, dtype=torch.int64)
    video = torch.ones(2, 1, 2, dtype=torch.int64)
    shapes = [part.shape for part in GPT(TINY, media)([("text", words), ("video", video)])]
    assert shapes == [(2, patches, 1), (2, 1, 2)]
