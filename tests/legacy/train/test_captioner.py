"""Training the captioner: examples are functions of their numbers, losses by hand, and learning."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from flowwarp.data.media import VOCABULARY
from flowwarp.data.sprite_world.captions import mirror_words
from flowwarp.legacy.data.tokens import train_pairs, vocabulary_from_json
from flowwarp.legacy.models.captioner import END, Captioner, CaptionerConfig
from flowwarp.legacy.pipelines.captions import (
    THINGS,
    MediaCaptioner,
    load_captioner,
    look,
    reply,
    statement_hits,
    to_ids,
    write_caption,
)
from flowwarp.legacy.train.captioner import (
    CaptionerDataConfig,
    captioner_losses,
    captioner_task,
    draw_batch,
    presets,
    text_vocabulary,
)
from flowwarp.legacy.train.kept import keep_clips
from flowwarp.train import loop, seeding

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
    generator = seeding.generator(seed, index)
    ground = list(COLORS)[int(torch.randint(len(COLORS), (), generator=generator))]
    way = 1 if float(torch.rand((), generator=generator)) < 0.5 else -1
    video = torch.tensor(COLORS[ground], dtype=torch.uint8).view(1, 3, 1, 1).repeat(4, 1, 16, 16)
    for frame in range(4):
        left = 6 + 2 * way * (frame - 1)
        video[frame, :, 6:10, left : left + 4] = 30
    side = "right" if way > 0 else "left"
    return SimpleNamespace(
        video=video,
        caption=f"{side} on {ground}",
        rewordings=(f"on {ground} {side}",),
        labels={"side": side} if index % 4 else {},
    )


SAID = [caption for i in range(20) for caption in (draw(9, i).caption, *draw(9, i).rewordings)]
WORDS = text_vocabulary(train_pairs(SAID, 30), 8)
DATA = CaptionerDataConfig(clips=40, checked=8, frames=2, length=4, merges=30, text_limit=8)


def test_examples_are_functions_of_their_numbers(kept):
    batch = draw_batch(kept[1], WORDS, 3, range(8), DATA)
    assert batch["video"].shape == (8, 2, 3, 16, 16)
    for number in (1, 4):
        alone = draw_batch(kept[1], WORDS, 3, [number], DATA)
        assert torch.equal(alone["video"][0], batch["video"][number])
        clip = draw(1, seeding.shuffled(3, number, 8))
        for row, caption in enumerate((clip.caption, *clip.rewordings)):
            for drawn, of in ((batch, number), (alone, 0)):
                ids = drawn["ids"][of, row][drawn["asked"][of, row]]
                assert torch.equal(ids, to_ids(WORDS, caption))
        stated, answers = batch["stated"][number], batch["answers"][number]
        if clip.labels:
            text = f"side is {clip.labels['side']}"
            assert WORDS.pairs.decode([n - 1 for n in stated[0].tolist() if n]) == text
            *value, end = stated[0][answers[0]].tolist()
            assert WORDS.pairs.decode([n - 1 for n in value]) == f" {clip.labels['side']}"
            assert end == END
        else:
            assert not answers.any()


def test_statements_are_asked_of_captions_too(kept):
    data = replace(DATA, mirrored=0.5)
    heard_of = set()
    for number in range(40):
        batch = draw_batch(kept[0], WORDS, 3, [number], data)
        heard, replies = batch["heard"][0], batch["replies"][0]
        clip = draw(0, seeding.shuffled(3, number, 40))
        if not clip.labels:
            assert not replies.any()
            continue
        asked = batch["asked"][0]
        captions = [ids[own].tolist() for ids, own in zip(batch["ids"][0], asked, strict=True)]
        length = int(replies[0].nonzero().max()) + 1
        stated = batch["stated"][0, 0, : int(batch["answers"][0, 0].nonzero().max()) + 1].tolist()
        said = heard[0, : length - len(stated)].tolist()
        assert heard[0, :length].tolist() == said + stated
        heard_of.add(captions.index(said))
        assert int(replies.sum()) == int(batch["answers"].sum())
        assert bool(replies[0, length - int(replies.sum()) : length].all())
    assert heard_of == {0, 1}


def test_a_few_statements_of_many_are_asked_of_captions(tmp_path):
    labels = dict(zip("abcde", "vwxyz", strict=True))
    clip = SimpleNamespace(**vars(draw(0, 0)) | {"labels": labels})
    clips = keep_clips(lambda _: clip, "many", 4, cache=tmp_path)
    batch = draw_batch(clips, WORDS, 3, range(20), DATA)
    assert batch["stated"].shape[1] == 5
    assert batch["heard"].shape[1] == 3
    said = [
        WORDS.pairs.decode([n - 1 for n in ids.tolist() if n])
        for ids in batch["heard"].flatten(0, 1)
    ]
    captions = (clip.caption, *clip.rewordings)
    assert set(said) == {
        f"{caption}{thing} is {value}" for caption in captions for thing, value in labels.items()
    }


def test_left_and_right_are_exchanged_in_what_is_seen_and_said(kept):
    assert mirror_words("left of him walks leftwards, leftover") == (
        "right of him walks rightwards, leftover"
    )
    plain = replace(DATA, share=0.0)
    as_is = draw_batch(kept[1], WORDS, 3, range(8), plain)
    turned = draw_batch(kept[1], WORDS, 3, range(8), replace(plain, mirrored=1.0))
    assert torch.equal(turned["video"], as_is["video"].flip(-1))
    for name in ("ids", "stated"):
        for row, other in zip(as_is[name].flatten(0, 1), turned[name].flatten(0, 1), strict=True):
            before, after = (
                WORDS.pairs.decode([n - 1 for n in r.tolist() if n]) for r in (row, other)
            )
            assert mirror_words(before) == after


def test_losses_by_hand(kept):
    task = captioner_task(kept[0], {"val": kept[1]}, configs())
    net = task.model.eval()
    torch.nn.init.normal_(net.head.weight, std=0.3)
    examples = draw_batch(kept[0], WORDS, 3, range(4), DATA)
    with torch.no_grad():
        losses = captioner_losses(net, examples)
        more = captioner_losses(net, examples, statements=0.5)
    assert "stated" not in losses
    for row in range(4):
        nats, wrong, stated, heard = [], [], 0.0, 0.0
        for text in range(2):
            ids = examples["ids"][row, text][examples["asked"][row, text]]
            logits = say(net, examples["video"][row], ids, examples["blind"][row : row + 1])
            nats.append(-logits.log_softmax(1).gather(1, ids[:, None]).mean())
            wrong.append((logits.argmax(1) != ids).float().mean())
        clip = draw(0, seeding.shuffled(3, row, 40))
        if clip.labels:
            ids = to_ids(WORDS, f"side is {clip.labels['side']}")
            begun = len(to_ids(WORDS, "side is")) - 1
            chances = say(net, examples["video"][row], ids).log_softmax(1)
            stated = float(-chances.gather(1, ids[:, None])[begun:].sum())
            replies = examples["replies"][row, 0]
            ids = examples["heard"][row, 0, : int(replies.nonzero().max()) + 1]
            unseen = torch.ones(1, dtype=torch.bool)
            chances = say(net, examples["video"][row], ids, unseen).log_softmax(1)
            heard = float(-chances.gather(1, ids[:, None])[replies[: len(ids)]].sum())
        assert float(losses["nats"][row]) == pytest.approx(float(sum(nats)) / 2, abs=1e-5)
        assert float(losses["loss"][row]) == float(losses["nats"][row])
        assert float(losses["wrong"][row]) == pytest.approx(float(sum(wrong)) / 2)
        assert float(more["stated"][row]) == pytest.approx(stated, abs=1e-4)
        assert float(more["heard"][row]) == pytest.approx(heard, abs=1e-4)
        told = float(losses["nats"][row]) + 0.5 * (stated + heard)
        assert float(more["loss"][row]) == pytest.approx(told, abs=1e-4)


@torch.no_grad()
def say(net, video, ids, blind=None):
    """Return the logits of each id of a text."""
    before = torch.cat([torch.zeros(1, dtype=torch.int64), ids[:-1]])
    return net(video[None], before[None], blind)[0]


def test_some_examples_are_blind(kept):
    blind = [draw_batch(kept[0], WORDS, 3, [n], DATA)["blind"] for n in range(200)]
    assert 5 < sum(map(int, blind)) < 40
    plain = CaptionerDataConfig(blind=0.0, frames=2, length=4, text_limit=8)
    assert not draw_batch(kept[0], WORDS, 3, range(50), plain)["blind"].any()


@torch.no_grad()
def test_a_sketch_that_is_begun_tells_of_its_upper_rows(kept, monkeypatch):
    examples = draw_batch(kept[0], WORDS, 3, range(100), DATA)
    assert 30 < int((examples["rows"] < 1).sum()) < 70
    torch.manual_seed(0)
    net = Captioner(replace(MODEL, vocabulary=WORDS["text"].size + 1, kinds=6)).eval()
    torch.nn.init.normal_(net.head.weight, std=0.3)
    torch.nn.init.normal_(net.unknown)
    sketch = net.sketch(examples["video"])
    other = sketch.clone()
    other[:, :, 1] = (other[:, :, 1] + 1) % 6

    def told(shown, rows):
        monkeypatch.setattr(net, "sort", lambda places: shown)
        changes = {"rows": torch.full((100,), rows), "blind": torch.zeros(100).bool()}
        changes["sketched"] = torch.ones(100).bool()
        return captioner_losses(net, examples | changes)["nats"]

    assert torch.equal(told(sketch, 0.4), told(other, 0.4))
    assert not bool((told(sketch, 0.6) == told(other, 0.6)).any())
    assert not bool((told(sketch, 0.4) == told(sketch, 1.0)).any())
    assert 40 < int(examples["sketched"].sum()) < 80
    whole = examples | {"sketched": torch.zeros(100).bool()}
    plain = captioner_losses(net, whole)["nats"]
    ids = examples["ids"]
    told = 0.0
    for text in range(2):
        own, asked = ids[:, text], examples["asked"][:, text]
        logits = net(examples["video"], F.pad(own[:, :-1], (1, 0)), examples["blind"])
        nats = F.cross_entropy(logits.mT, own, reduction="none") * asked
        told += nats.sum(1) / asked.sum(1) / 2
    torch.testing.assert_close(plain, told)


def test_where_nothing_is_asked_nothing_is_lost(kept):
    task = captioner_task(kept[0], {"val": kept[1]}, configs())
    examples = draw_batch(kept[0], WORDS, 3, range(2), DATA)
    examples["asked"][0] = False
    losses = captioner_losses(task.model, examples)
    assert losses["nats"].tolist()[0] == 0
    losses["loss"].sum().backward()
    grads = [p.grad for p in task.model.parameters() if p.grad is not None]
    assert any(grad.any() for grad in grads)
    assert all(bool(grad.isfinite().all()) for grad in grads)


def configs(**changes):
    training = loop.LoopConfig(
        steps=100, batch_size=16, learning_rate=1e-2, warmup=10, ema=0.9, threads=1
    )
    return {"loop": training, "model": MODEL, "data": DATA} | changes


@pytest.fixture(scope="module")
def trained(kept, tmp_path_factory):
    """A captioner that has learned, and what its validation said before."""
    task = captioner_task(kept[0], {"val": kept[1], "other": kept[1]}, configs())
    with torch.no_grad():
        before = task.validate(task.model)
    folder = tmp_path_factory.mktemp("trained") / "run"
    return loop.train(task, configs()["loop"], folder), before


def test_learns_to_say_what_it_sees(trained):
    result, before = trained
    after = result.figures
    assert {"nats", "wrong", "other_nats", "other_wrong"} <= set(after)
    assert after["nats"] < 0.3 * before["nats"]
    captioner = load_captioner(result.weights)
    assert isinstance(captioner, MediaCaptioner)
    right = 0
    for index in range(20):
        clip = draw(77, index)
        seen = look(captioner, clip.video[None].float() / 255)
        right += write_caption(captioner, seen) in (clip.caption, *clip.rewordings)
    assert right >= 18


def test_learns_to_state_what_is_said_and_seen(kept, tmp_path):
    training = replace(configs()["loop"], steps=280)
    settings = configs(
        loop=training, model=replace(MODEL, recalled=16), data=replace(DATA, statements=1.0)
    )
    task = captioner_task(kept[0], {"val": kept[1]}, settings)
    captioner = load_captioner(loop.train(task, training, tmp_path).weights)
    assert captioner.things == ("side",)
    for side in ("left", "right"):
        for caption in (f"{side} on sand", f"on snow {side}"):
            ((ids, sure),) = reply(captioner, caption)
            said = captioner.vocabulary.pairs.decode((ids[ids != END] - 1).tolist())
            assert said.strip() == side
            assert sure > 0.7
    shown = [draw(77, index) for index in range(20)]
    seen = look(captioner, torch.stack([clip.video for clip in shown]).float() / 255)
    sides = [clip.caption.split()[0] for clip in shown]
    others = [{"left": "right", "right": "left"}[side] for side in sides]
    hits = statement_hits(captioner, seen, [f"{side} on sand" for side in sides])
    misses = statement_hits(captioner, seen, [f"{side} on sand" for side in others])
    assert int((hits > misses).sum()) >= 18


def test_only_what_is_learned_is_noted(kept, tmp_path):
    def noted(clips, **changes):
        task = captioner_task(clips, {"val": kept[1]}, configs(data=replace(DATA, **changes)))
        return task.notes.get(THINGS)

    assert noted(kept[0]) == '["side"]'
    assert noted(kept[0], statements=0.0) is None
    plain = keep_clips(lambda _: draw(0, 0), "none", 3, cache=tmp_path)
    assert plain.labels(0) == {}
    assert noted(plain) is None


def test_goes_on_from_other_weights(kept):
    first = captioner_task(kept[0], {"val": kept[1]}, configs())
    torch.nn.init.normal_(first.model.head.weight)
    again = captioner_task(kept[0], {"val": kept[1]}, configs(), start=(first.model, WORDS))
    assert again.trained
    assert not first.trained
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, first.model.state_dict()[name])


def test_what_is_pooled_is_left_off_where_there_are_kinds(kept):
    pooling = configs() | {"model": replace(MODEL, pooled=5)}
    seeing = captioner_task(kept[0], {"val": kept[1]}, pooling).model
    sorting = captioner_task(
        kept[0], {"val": kept[1]}, configs(), start=(seeing, WORDS), kinds=12
    ).model
    assert (sorting.config.pooled, sorting.config.kinds) == (0, 12)
    video = kept[0].video(0, 0, 4)[None].float() / 255
    torch.testing.assert_close(sorting.places(video), seeing.places(video))
    placed = sorting.think.weight.shape[1]
    assert torch.equal(sorting.think.weight, seeing.think.weight[:, :placed])


def test_sorts_what_it_has_learned_to_see(kept, trained, tmp_path):
    """It loses little by it, and what it sees is what it has seen."""
    first, _ = trained
    seeing = load_captioner(first.weights)
    start = (seeing.net, seeing.vocabulary)
    task = captioner_task(kept[0], {"val": kept[1]}, configs(), start=start, kinds=12)
    net = task.model
    assert net.config.kinds == 12
    video = kept[0].video(0, 0, 4)[None].float() / 255
    assert torch.equal(net.places(video), seeing.net.places(video))
    assert len(net.book.unique(dim=0)) == 12
    again = captioner_task(kept[0], {"val": kept[1]}, configs(), start=start, kinds=12)
    assert torch.equal(net.book, again.model.book)
    book, eye = net.book.clone(), [p.clone() for p in net.see.parameters()]
    second = loop.train(task, configs()["loop"], tmp_path / "b")
    assert second.figures["nats"] < first.figures["nats"] + 0.1
    sorting = load_captioner(second.weights).net
    assert torch.equal(sorting.book, book)
    assert all(torch.equal(a, b) for a, b in zip(eye, sorting.see.parameters(), strict=True))
    whole = captioner_task(kept[0], {"val": kept[1]}, configs(), start=(sorting, WORDS))
    assert torch.equal(whole.model.book, book)
    for trained, kinds, wanted in (
        (None, 12, "learned to see"), ((sorting, WORDS), 12, "has none"), (start, 1000, "at most")
    ):  # fmt: skip
        with pytest.raises(ValueError, match=wanted):
            captioner_task(kept[0], {"val": kept[1]}, configs(), start=trained, kinds=kinds)


def test_a_run_that_is_resumed_hears_a_new_limit(kept):
    data = replace(DATA, text_limit=3)
    task = captioner_task(kept[0], {"val": kept[1]}, configs(data=data), vocabulary=WORDS)
    assert vocabulary_from_json(task.notes[VOCABULARY], "notes").text_limit == 3


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
