"""Training the captioner: examples are functions of their numbers, losses by hand, and learning."""

from types import SimpleNamespace

import pytest
import torch

from flowwarp.data.tokens import train_pairs
from flowwarp.models.captioner import CaptionerConfig
from flowwarp.pipelines.captions import Words, load_captioner, look, to_ids, write_caption
from flowwarp.train import loop
from flowwarp.train.captioner import (
    CaptionerDataConfig,
    CaptionerLossConfig,
    captioner_losses,
    captioner_task,
    draw_batch,
    presets,
    text_vocabulary,
)
from flowwarp.train.kept import keep_clips

COLORS = {"sand": (220, 200, 140), "snow": (250, 250, 255), "grass": (70, 140, 50)}
MODEL = CaptionerConfig(1, size=16, apart=1, widths=(16, 32), blocks=(1, 1), hidden=32, joined=48)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return clips to learn from, and others."""
    cache = tmp_path_factory.mktemp("cache")
    return [
        keep_clips(lambda index, seed=seed: draw(seed, index), str(seed), count, cache=cache)
        for seed, count in ((0, 40), (1, 8))
    ]


def draw(seed, index):
    """Show a dark square that goes left or right over a ground of one colour."""
    generator = loop.generator(seed, index)
    ground = list(COLORS)[int(torch.randint(len(COLORS), (), generator=generator))]
    way = 1 if float(torch.rand((), generator=generator)) < 0.5 else -1
    video = torch.tensor(COLORS[ground], dtype=torch.uint8).view(1, 3, 1, 1).repeat(4, 1, 16, 16)
    for frame in range(4):
        left = 6 + 2 * way * (frame - 1)
        video[frame, :, 6:10, left : left + 4] = 30
    return SimpleNamespace(video=video, caption=f"{'right' if way > 0 else 'left'} on {ground}")


WORDS = text_vocabulary(train_pairs([draw(9, i).caption for i in range(20)], 30), 8)
DATA = CaptionerDataConfig(clips=40, checked=8, frames=2, length=4, merges=30, text_limit=8)


def test_examples_are_functions_of_their_numbers(kept):
    batch = draw_batch(kept[1], WORDS, 3, range(8), DATA)
    assert batch["video"].shape == (8, 2, 3, 16, 16)
    for number in (1, 4):
        alone = draw_batch(kept[1], WORDS, 3, [number], DATA)
        assert torch.equal(alone["video"][0], batch["video"][number])
        ids = batch["ids"][number][batch["asked"][number]]
        assert torch.equal(alone["ids"][0], ids)
        clip = draw(1, loop.shuffled(3, number, 8))
        assert torch.equal(ids, to_ids(WORDS, clip.caption))


def test_losses_by_hand(kept):
    task = captioner_task(kept[0], {"val": kept[1]}, configs())
    net = task.model.eval()
    torch.nn.init.normal_(net.head.weight, std=0.3)
    examples = draw_batch(kept[0], WORDS, 3, range(4), DATA)
    with torch.no_grad():
        losses = captioner_losses(net, examples, 0.25, CaptionerLossConfig(0.02, 1.5))
    for row in range(4):
        ids = examples["ids"][row][examples["asked"][row]]
        before = torch.cat([torch.zeros(1, dtype=torch.int64), ids[:-1]])
        with torch.no_grad():
            blind = examples["blind"][row : row + 1]
            logits = net(examples["video"][row : row + 1], before[None], blind)[0]
        nats = -logits.log_softmax(1).gather(1, ids[:, None]).mean()
        assert float(losses["nats"][row]) == pytest.approx(float(nats), abs=1e-5)
        sketch = net.sketch(examples["video"][row : row + 1])
        places = net.gate.values(sketch)[0, 0]  # (rows, columns, numbers)
        steps = [places[1:] - places[:-1], places[:, 1:] - places[:, :-1]]
        rough = torch.cat([step.flatten() for step in steps]).abs().mean()
        assert float(losses["rough"][row]) == pytest.approx(float(rough), abs=1e-5)
        flat = net.latent(examples["video"][row : row + 1]).detach().reshape(-1, 3)
        spread = flat.var(0, correction=0).sqrt()
        penalty = (flat.mean(0).square() + (spread - 1).square()).mean()
        loss = float(nats + 0.75 * 0.02 * penalty + 0.25 * 1.5 * rough)
        assert float(losses["loss"][row]) == pytest.approx(loss, abs=1e-4)
        wrong = (logits.argmax(1) != ids).float().mean()
        assert float(losses["wrong"][row]) == pytest.approx(float(wrong))


def test_some_examples_are_blind(kept):
    blind = [draw_batch(kept[0], WORDS, 3, [n], DATA)["blind"] for n in range(200)]
    assert 5 < sum(map(int, blind)) < 40
    plain = CaptionerDataConfig(blind=0.0, frames=2, length=4, text_limit=8)
    assert not draw_batch(kept[0], WORDS, 3, range(50), plain)["blind"].any()


def test_where_nothing_is_asked_nothing_is_lost(kept):
    task = captioner_task(kept[0], {"val": kept[1]}, configs())
    examples = draw_batch(kept[0], WORDS, 3, range(2), DATA)
    examples["asked"][0] = False
    losses = captioner_losses(task.model, examples, 0.5, CaptionerLossConfig())
    assert losses["nats"].tolist()[0] == 0
    losses["loss"].sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in task.model.parameters() if p.grad is not None)


def configs(**changes):
    training = loop.LoopConfig(
        steps=300, batch_size=16, learning_rate=1e-2, warmup=10, ema=0.9, threads=1
    )
    # Of four places each borders on two: little of a sketch is smooth.
    losses = CaptionerLossConfig(rough=0.1)
    return {"loop": training, "model": MODEL, "data": DATA, "losses": losses} | changes


def test_learns_to_say_what_it_sees(kept, tmp_path):
    task = captioner_task(kept[0], {"val": kept[1], "other": kept[1]}, configs())
    with torch.no_grad():
        before = task.validate(task.model)
    result = loop.train(task, configs()["loop"], tmp_path / "run")
    after = result.last
    assert {"nats", "wrong", "other_nats", "other_wrong"} <= set(after)
    assert after["nats"] < 0.3 * before["nats"]
    captioner = load_captioner(result.weights)
    assert isinstance(captioner, Words)
    right = 0
    for index in range(20):
        clip = draw(77, index)
        seen = look(captioner, clip.video[None].float() / 255)
        right += write_caption(captioner, seen) == clip.caption
    assert right >= 18


def test_goes_on_from_other_weights(kept):
    first = captioner_task(kept[0], {"val": kept[1]}, configs())
    torch.nn.init.normal_(first.model.head.weight)
    again = captioner_task(kept[0], {"val": kept[1]}, configs(), start=(first.model, WORDS))
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, first.model.state_dict()[name])


def test_refuses_what_cannot_be(kept):
    with pytest.raises(ValueError, match="checks"):
        captioner_task(kept[0], {}, configs())
    few = configs(data=CaptionerDataConfig(clips=4, frames=1, length=4))
    with pytest.raises(ValueError, match="frames must be more than 1"):
        captioner_task(kept[0], {"val": kept[1]}, few)
    with pytest.raises(ValueError, match="at most 4"):
        CaptionerDataConfig(frames=5, length=4)
    with pytest.raises(ValueError, match="blind"):
        CaptionerDataConfig(blind=2.0)
    with pytest.raises(ValueError, match="clips"):
        CaptionerDataConfig(clips=0)


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_presets_fit_together(preset):
    made = presets(preset)
    assert made["data"].frames > made["model"].apart
