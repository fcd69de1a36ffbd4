"""Training the transformer: examples by number, orders, weights and losses by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from flowwarp.data.crops import random_crop
from flowwarp.data.tokens import to_patches
from flowwarp.models.dvae import DVAE, DVAEConfig
from flowwarp.models.gpt import GPTConfig
from flowwarp.pipelines.video.load import VideoConfig, video_media
from flowwarp.train import loop, seeding
from flowwarp.train.gpt import (
    Examples,
    GPTDataConfig,
    GPTLossConfig,
    code_weights,
    codes_of,
    gpt_losses,
    gpt_task,
    order_of_step,
    parse_order,
)
from squares import CAPTIONS, SOURCE, WORDS, draw

LEVELS = (3, 4)
CODES = DVAEConfig(LEVELS, encoder=16, encoder_blocks=0, widths=(8, 8, 8), blocks=(0, 0, 0))
SIZES = GPTConfig(width=16, depth=1, heads=2, digit_width=16)
DATA = GPTDataConfig(size=(16, 16), frames=4)
MEDIA = video_media(
    VideoConfig((16, 16), (16, 16), 4, 8.0, WORDS.words, WORDS.length, CODES, SIZES)
)


@pytest.fixture(scope="module")
def dvae():
    torch.manual_seed(0)
    net = DVAE(CODES).eval().requires_grad_(False)
    net.encoder[-1].weight.data *= 10  # codes of many values
    return net


def task(dvae, data=DATA, **changes):
    training = loop.LoopConfig(steps=4, batch_size=4, threads=1, **changes)
    configs = {"loop": training, "model": SIZES, "losses": GPTLossConfig()}
    whole = replace(data, swapped=0.0, caption_dropout=0.0)
    held_out = Examples(draw, dvae, WORDS, seeding.held_out_series(0), whole)(range(3))
    return gpt_task(Examples(SOURCE, dvae, WORDS, 0, data), held_out, MEDIA, configs)


# ------------------------------------------------------------------ examples


def test_an_example_is_a_function_of_its_number(dvae):
    together = Examples(draw, dvae, WORDS, 3, DATA)(range(6))
    shapes = {name: tuple(part.shape) for name, part in together.items()}
    assert shapes == {
        "text": (6, WORDS.length, 1),
        "video": (6, 4, 8),
        "seen": (6, 4, 8),
        "picture": (6, 4, 8),
        "dropped": (6,),
    }
    for number in range(6):
        alone = Examples(draw, dvae, WORDS, 3, DATA)([number])
        for name, part in together.items():
            assert torch.equal(alone[name][0], part[number]), name
    other = Examples(draw, dvae, WORDS, 4, DATA)(range(6))
    assert not torch.equal(other["video"], together["video"])


def test_an_example_is_the_codes_and_words_of_its_clip(dvae):
    example = Examples(draw, dvae, WORDS, 3, DATA)([5])
    assert WORDS.decode(example["text"][0, :, 0].tolist()) == CAPTIONS[5]
    video = random_crop(draw(3, 5).video[:4], (16, 16), seeding.generator(3, 5, 4))[None]
    assert torch.equal(example["video"], to_patches(dvae.encode(video)))
    still = video[:, :1].expand(-1, 4, -1, -1, -1)
    assert torch.equal(example["picture"], to_patches(dvae.encode(still)))


def test_a_picture_is_encoded_if_it_is_read(dvae):
    data = replace(DATA, orders=("text video 1", "text picture video 1"))
    made = task(dvae, data)
    for step in range(12):
        order = order_of_step(0, step, data.orders)
        for numbers in (range(4 * step, 4 * step + 4), range(4 * step + 2, 4 * step + 4)):
            assert ("picture" in made.batch(numbers)) == ("picture" in order)


def test_patches_of_other_clips_are_seen(dvae):
    """Twice the share at most, and half of that on average; each is a patch of its place."""

    def drawn(share, numbers=range(200)):
        data = replace(DATA, swapped=share)
        made = Examples(draw, dvae, WORDS, 3, data)
        return made(numbers), made.some_patches

    none, _ = drawn(0)
    assert torch.equal(none["seen"], none["video"])
    batch, some = drawn(0.2)
    assert torch.equal(batch["video"], none["video"])  # what is predicted stays
    other = (batch["seen"] != batch["video"]).any(-1)
    for example, place in other.nonzero().tolist():
        assert (some[:, place] == batch["seen"][example, place]).all(1).any()
    unlike = (some[None] != batch["video"][:, None]).any(-1).float().mean()  # if all are swapped
    assert float(other.float().mean()) == pytest.approx(0.2 * float(unlike), rel=0.2)
    everywhere, _ = drawn(0.5)
    shares = (everywhere["seen"] != everywhere["video"]).any(-1).float().mean(1)
    assert shares.max() > 0.7 > 0.3 > shares.min()


def test_every_second_example_is_mirrored_if_asked(dvae):
    data = replace(DATA, mirror=True)
    batch = Examples(draw, dvae, WORDS, 3, data)(range(40))
    mirrored = 0
    for number in range(40):
        video = random_crop(draw(3, number).video[:4], (16, 16), seeding.generator(3, number, 4))
        plain, turned = (to_patches(dvae.encode(v[None]))[0] for v in (video, video.flip(-1)))
        assert any(torch.equal(batch["video"][number], each) for each in (plain, turned))
        mirrored += torch.equal(batch["video"][number], turned)
    assert 10 < mirrored < 30


def test_captions_are_dropped_as_often_as_asked(dvae):
    def dropped(share):
        data = GPTDataConfig((16, 16), 4, caption_dropout=share)
        return Examples(draw, dvae, WORDS, 0, data)(range(200))["dropped"]

    assert not dropped(0).any()
    assert dropped(1).all()
    assert float(dropped(0.3).float().mean()) == pytest.approx(0.3, abs=0.1)


# ------------------------------------------------------------------ orders


def test_orders_are_drawn_by_their_shares():
    orders = ("text video 3", "video text 1", "text picture video 0")
    drawn = [tuple(order_of_step(0, step, orders)) for step in range(1000)]
    assert drawn[:50] == [tuple(order_of_step(0, step, orders)) for step in range(50)]
    assert set(drawn) == {("text", "video"), ("video", "text")}
    assert drawn.count(("text", "video")) / 1000 == pytest.approx(0.75, abs=0.05)
    assert drawn != [tuple(order_of_step(1, step, orders)) for step in range(1000)]


def test_default_orders_add_up_to_one():
    orders = [parse_order(order) for order in GPTDataConfig.orders]
    assert sum(share for _, share in orders) == pytest.approx(1)
    assert {name for media, _ in orders for name in media} == {m.name for m in MEDIA}


@pytest.mark.parametrize(
    "orders",
    [
        ("text video",),
        ("0.5",),
        ("",),
        ("text video -1",),
        ("text video nan",),
        ("text video inf",),
        ("text video 0",),
        (),
    ],
)
def test_orders_are_checked(orders):
    with pytest.raises(ValueError, match=r"orders|float"):
        GPTDataConfig(orders=orders)


@pytest.mark.parametrize(
    "changes",
    [{"frames": 0}, {"swapped": 1.5}, {"caption_dropout": 1.5}],
)
def test_data_are_checked(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        GPTDataConfig(**changes)


# ------------------------------------------------------------------ weights of codes


def test_weights_of_codes_by_hand():
    """Eight of ten codes are (0, 0), two (1, 2); a power of 1/2 of 1 / frequency."""
    codes = torch.tensor([[0, 0]] * 8 + [[1, 2]] * 2)
    weights = code_weights(codes, (2, 3), 0.5)
    assert weights.shape == (2, 3)
    once = math.sqrt(10)
    often, seldom = math.sqrt(10 / 8), math.sqrt(10 / 2)
    mean = (8 * often + 2 * seldom) / 10
    expected = torch.full((2, 3), once / mean)
    expected[0, 0], expected[1, 2] = often / mean, seldom / mean
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(weights[tuple(codes.T)].mean(), torch.tensor(1.0))


def test_without_a_power_all_codes_count_alike():
    codes = torch.randint(3, (50, 2), generator=seeding.generator(0))
    torch.testing.assert_close(code_weights(codes, (3, 3), 0), torch.ones(3, 3))


def test_codes_of_patches():
    codes = torch.randint(9, (2, 1, 4, 4, 3), generator=seeding.generator(0))
    found = codes_of(to_patches(codes), 3)
    assert found.shape == (2, 4, 4, 3)
    assert torch.equal(found[1, 3], codes[1, 0, 2:, 2:].reshape(4, 3))


# ------------------------------------------------------------------ losses


class Known(nn.Module):
    """Has nats that are known: the digits themselves, plus one; notes what it is given."""

    def __init__(self):
        super().__init__()
        self.seen, self.inputs = [], []

    def forward(self, segments, inputs):
        self.seen.append(segments)
        self.inputs.append(dict(inputs))
        return [digits.float() + 1 for _, digits in segments]


def examples(batch=3):
    random = seeding.generator(1)
    text = torch.tensor([[3], [5], [0], [0]]).expand(batch, -1, -1)
    video, picture = (
        torch.stack([torch.randint(size, (batch, 4), generator=random) for size in LEVELS * 4], -1)
        for _ in range(2)
    )
    dropped = torch.arange(batch) == 1
    return {"text": text, "video": video, "picture": picture, "seen": picture, "dropped": dropped}


def test_losses_by_hand():
    batch = examples()
    weights = torch.rand(LEVELS, generator=seeding.generator(2)) + 0.5
    terms = gpt_losses(Known(), batch, ["text", "picture", "video"], weights)
    assert set(terms) == {"loss", "video", "picture"}
    for b in range(3):
        loss = 0.0
        for name in ("video", "picture"):
            nats = batch[name][b].float() + 1
            torch.testing.assert_close(terms[name][b], nats.mean())
            total = weighted = 0.0
            for patch in range(4):
                for code in range(4):
                    first, second = batch[name][b, patch, 2 * code : 2 * code + 2].tolist()
                    weight = float(weights[first, second])
                    total += 2 * weight
                    weighted += weight * (first + second + 2)
            loss += weighted / total
        assert float(terms["loss"][b]) == pytest.approx(loss, rel=1e-5)


def test_words_in_front_are_dropped_and_not_predicted():
    net, batch = Known(), examples()
    terms = gpt_losses(net, batch, ["text", "video"], torch.ones(LEVELS))
    assert "text" not in terms
    (segments,) = net.seen
    name, words = segments[0]
    assert name == "text"
    assert torch.equal(words[0], batch["text"][0])
    assert not words[1].any()
    assert torch.equal(net.inputs[0]["text"], words)
    assert torch.equal(net.inputs[0]["video"], batch["seen"])


def test_words_at_the_end_are_predicted_up_to_theirs():
    net, batch = Known(), examples()
    terms = gpt_losses(net, batch, ["video", "text"], torch.ones(LEVELS))
    (segments,) = net.seen
    assert torch.equal(segments[1][1], batch["text"])  # none is dropped
    torch.testing.assert_close(terms["text"], torch.full((3,), (4 + 6 + 1) / 3))
    torch.testing.assert_close(terms["loss"], terms["text"] + terms["video"])


@pytest.mark.parametrize("order", [["text", "video"], ["video", "text"]])
def test_the_loss_of_an_example_is_its_own(dvae, order):
    made = task(dvae)
    for parameter in made.model.parameters():
        nn.init.normal_(parameter, std=0.2)
    batch = made.batch(range(4))
    weights = torch.rand(LEVELS, generator=seeding.generator(2)) + 0.5
    together = gpt_losses(made.model, batch, order, weights)
    for number in range(4):
        one = {name: part[number : number + 1] for name, part in batch.items()}
        alone = gpt_losses(made.model, one, order, weights)
        for name, term in together.items():
            torch.testing.assert_close(alone[name][0], term[number])


# ------------------------------------------------------------------ the task


@torch.no_grad()
def test_an_untrained_network_knows_nothing(dvae):
    made = task(dvae)
    figures = made.validate(made.model.eval())
    assert set(figures) == {"loss", "video_nats", "text_nats"}
    assert figures["loss"] == figures["video_nats"]
    assert figures["video_nats"] == pytest.approx((math.log(3) + math.log(4)) / 2, rel=1e-5)
    assert figures["text_nats"] == pytest.approx(math.log(len(WORDS)), rel=1e-5)


def test_the_order_of_a_step_is_the_same_again(dvae):
    data = GPTDataConfig((16, 16), 4, ("text video 1", "video text 1"))
    made = task(dvae, data)
    batch = made.batch(range(4))
    texts = ["text" in made.loss(made.model, batch, step) for step in range(20)]
    assert set(texts) == {False, True}
    assert texts == ["text" in made.loss(made.model, batch, step) for step in range(20)]
    assert made.data == "squares"


def test_a_few_steps_reduce_the_loss(dvae):
    made = task(dvae)
    optimizer = torch.optim.AdamW(made.model.parameters(), 1e-2)
    before = made.validate(made.model)
    for step in range(40):
        batch = made.batch(range(4 * step, 4 * step + 4))
        loss = made.loss(made.model, batch, step)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert made.validate(made.model)["loss"] < 0.8 * before["loss"]
