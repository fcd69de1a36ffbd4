"""What a reviser learns from, and that it learns."""

import dataclasses
from dataclasses import replace

import pytest
import torch

from flowwarp.data.sprite_world.labels import actor_values
from flowwarp.data.sprite_world.layers import bundled_layers
from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.models.reviser import Reviser, ReviserConfig
from flowwarp.legacy.pipelines.load import load_models
from flowwarp.legacy.pipelines.tokens import tokenize
from flowwarp.legacy.train import reviser
from flowwarp.legacy.train.perceptual import seen_loss
from flowwarp.legacy.train.reviser import (
    Pairs,
    ReviserDataConfig,
    ReviserLossConfig,
    Revisions,
    Spoiler,
    check_example,
    draw_batch,
    keep_revisions,
    reviser_losses,
    reviser_task,
)
from flowwarp.train import loop

DATA = ReviserDataConfig(size=16, length=8, clips=6, checked=4, groups=1)
CONFIG = ReviserConfig(actor_values(bundled_layers()), widths=(8, 16), blocks=(1, 1), embedding=8)


pytestmark = pytest.mark.usefixtures("few_grounds")


@pytest.fixture(scope="module")
def makers(video_weights):
    return load_models(video_weights["gpt"], video_weights["dvae"], None, None)


@pytest.fixture(scope="module")
def spoil(makers):
    return Spoiler(makers.dvae, makers.gpt)


@pytest.fixture(scope="module")
def pairs():
    return Pairs(bundled_layers(), (), 5, DATA)


@pytest.fixture(scope="module")
def revisions(pairs, spoil, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return keep_revisions(pairs, spoil, "some", DATA.clips, 0, DATA, cache=cache)


def spoilt(spoil, pair, seed=0, **changes):
    data = replace(DATA, **changes)
    return spoil(pair, data, torch.Generator().manual_seed(seed))


def decoded(makers, video):
    return makers.dvae.decode(tokenize(makers.dvae, video)[None])[0].clamp(0, 1)


def exchanged(pairs):
    return next(pair for pair in map(pairs, range(20)) if not torch.equal(pair.video, pair.other))


def test_unspoilt_it_is_the_counterpart_that_is_shown(makers, spoil, pairs):
    pair = exchanged(pairs)
    shown, _ = spoilt(spoil, pair, mixed=0.0, redrawn=0.0)
    torch.testing.assert_close(shown, decoded(makers, pair.other))


def test_mixed_it_has_something_of_both(makers, spoil, pairs):
    pair = exchanged(pairs)
    right, other = (tokenize(makers.dvae, video) for video in (pair.video, pair.other))
    differ = right != other
    shares = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        codes = reviser._mix(right, other, replace(DATA, mixed=1.0), generator)
        assert ((codes == right) | (codes == other)).all()
        shares.append(float((codes == right)[differ].float().mean()))
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_redrawn_patches_are_those_of_the_transformer(makers, spoil, pairs):
    """It changes codes of the video alone, the more the more patches it may."""
    codes = tokenize(makers.dvae, pairs(0).video)
    changed = []
    for most in (0.0, 0.5, 1.0):
        data, count = replace(DATA, redrawn=1.0, most=most), 0
        for seed in range(6):
            drawn = spoil._redraw(codes, data, torch.Generator().manual_seed(seed))
            assert drawn.shape == codes.shape
            assert drawn.min() >= 0
            assert drawn.max() < makers.dvae.config.codes
            count += int((drawn != codes).sum())
        changed.append(count)
    assert changed[0] == 0
    assert 0 < changed[1] < changed[2]


def test_what_is_wanted_is_right_where_the_actor_is_and_nowhere_else(makers, spoil, pairs):
    for number in range(4):
        pair = pairs(number)
        shown, wanted = spoilt(spoil, pair, seed=number, redrawn=1.0)
        actor = pair.actor.expand_as(shown)
        torch.testing.assert_close(wanted[actor], decoded(makers, pair.video)[actor])
        far = ~torch.nn.functional.max_pool2d(pair.actor.float(), 5, 1, 2).bool().expand_as(shown)
        assert torch.equal(wanted[far], shown[far])


def test_what_was_kept_is_read_again(pairs, spoil, revisions):
    assert (len(revisions), revisions.frames) == (6, 8)
    labels, own = revisions.told(3)
    pair = pairs(3)
    assert (labels, own) == (pair.labels, set(pair.exchanged))
    shown, wanted = spoil(pair, DATA, reviser.seeding.generator(0, 3))
    whole = slice(None)
    for name, video in (("shown", shown), ("wanted", wanted)):
        kept = revisions.video(name, 3, whole).float() / 255
        assert (kept - video).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(revisions.video("actor", 3, whole), pair.actor)


def test_another_writer_makes_another_store(pairs, spoil, makers, revisions):
    net = Reviser(CONFIG)  # any other weights
    del net
    other = replace(makers.gpt, net=type(makers.gpt.net)(makers.gpt.net.config).eval())
    cache = revisions.folder.parent
    for spoiler, data in ((Spoiler(makers.dvae, other), DATA), (spoil, replace(DATA, mixed=0.1))):
        made = keep_revisions(pairs, spoiler, "some", DATA.clips, 0, data, cache=cache)
        assert made.folder != revisions.folder
    again = keep_revisions(pairs, spoil, "some", DATA.clips, 0, DATA, cache=cache)
    assert again.folder == revisions.folder


def test_examples_hang_on_their_number_alone(revisions):
    net = Reviser(CONFIG)
    both = draw_batch(revisions, 0, [4, 9], net, DATA)
    alone = draw_batch(revisions, 0, [9], net, DATA)
    for name, value in alone.items():
        assert torch.equal(both[name][1:], value)
    assert both["shown"].shape == (2, 4, 3, 16, 16)


def test_what_may_be_wrong_is_always_told(revisions):
    net = Reviser(CONFIG)
    names = [name for name, _ in CONFIG.attributes]
    found = 0
    for number in range(len(revisions)):
        index = reviser.seeding.shuffled(0, number, len(revisions))
        labels, exchanged = revisions.told(index)
        (row,) = draw_batch(revisions, 0, [number], net, replace(DATA, told=0.0))["told"].tolist()
        told = {name for name, value in zip(names, row, strict=True) if value}
        assert told == {name for name in exchanged if labels[name] != "none"}
        found += len(told)
        (row,) = draw_batch(revisions, 0, [number], net, replace(DATA, told=1.0))["told"].tolist()
        told = {name for name, value in zip(names, row, strict=True) if value}
        assert told == {name for name in names if labels.get(name, "none") != "none"}
    assert found


def test_clips_with_another_weapon_can_come_more_often(revisions, monkeypatch):
    net, armed = Reviser(CONFIG), [1, 4]
    told = {index: revisions.told(index) for index in range(len(revisions))}
    for index in armed:
        told[index] = told[index][0], {"weapon"}
    monkeypatch.setattr(Revisions, "told", lambda _, index: told[index])
    revisions = Revisions(revisions.folder)

    def shown(index: int) -> torch.Tensor:
        return revisions.video("shown", index, slice(None))

    def drawn(share: float) -> list[int]:
        data = replace(DATA, groups=2, mirrored=0.0, weapons=share)
        videos = draw_batch(revisions, 0, range(24), net, data)["shown"]
        clips = range(len(revisions))
        return [next(i for i in clips if torch.equal(shown(i), video)) for video in videos]

    assert set(drawn(1.0)) == set(armed)
    assert set(drawn(0.0)) == set(range(len(revisions)))
    often, seldom = (sum(index in armed for index in drawn(share)) for share in (0.5, 0.0))
    assert 24 > often > seldom


def test_in_a_mirror_left_is_told_as_right(revisions):
    net, seen = Reviser(CONFIG), 0
    names = [name for name, _ in CONFIG.attributes]
    ways = ("none", *CONFIG.attributes[names.index("direction")][1])
    for number in range(len(revisions)):
        plain, turned = (
            draw_batch(revisions, 0, [number], net, replace(DATA, mirrored=share, told=1.0))
            for share in (0.0, 1.0)
        )
        for name in ("shown", "wanted", "actor"):
            assert torch.equal(plain[name].flip(-1), turned[name])
        before, after = (
            ways[int(drawn["told"][0, names.index("direction")])] for drawn in (plain, turned)
        )
        wanted = {"left": "right", "right": "left"}.get(before, before)
        assert after == wanted
        seen += before != after
    assert seen


def test_losses_by_hand():
    net = Reviser(replace(CONFIG, frames=1))
    shown = torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8)
    wanted, actor = shown.clone(), torch.zeros(1, 1, 1, 4, 4, dtype=torch.bool)
    wanted[..., 0, 0] = 255
    actor[..., 0, 0] = actor[..., 3, 3] = True
    examples = {"shown": shown, "wanted": wanted, "actor": actor, "told": net.tell([{}])}
    losses = ReviserLossConfig(gradient=0.0, actor=6.0, smooth=0.1, coarse=0.0)
    found = reviser_losses(net, examples, losses)
    # One of sixteen pixels is off by 1, of which 0.05 is not counted, and counts sevenfold.
    assert float(found["loss"].detach()) == pytest.approx(7 * 0.95 / 16)
    assert float(found["actor"]) == pytest.approx(0.5)
    sharp = replace(losses, gradient=1.0)
    more = reviser_losses(net, examples, sharp)["loss"] - found["loss"]
    assert float(more.detach()) == pytest.approx(7 * (1 / 12 + 1 / 12) / 2)
    rough = reviser_losses(net, examples, replace(losses, coarse=2.0))["loss"] - found["loss"]
    assert float(rough.detach()) == pytest.approx(2 * 7 / 16)
    wanted[..., 0, 3] = 30  # too near to what is shown to count as changed
    few, many = (
        reviser_losses(net, examples, replace(losses, changed=changed))["loss"]
        for changed in (0.0, 3.0)
    )
    assert float((many - few).detach()) == pytest.approx(3 * 7 * 0.95 / 16)


def test_errors_that_cancel_are_not_of_the_mean_colour():
    net = Reviser(replace(CONFIG, frames=1))
    shown = torch.full((1, 1, 3, 8, 8), 100, dtype=torch.uint8)
    speckled = shown.clone()
    speckled[..., ::2] += 20
    speckled[..., 1::2] -= 20
    brighter = shown + 20
    actor = torch.ones(1, 1, 1, 8, 8, dtype=torch.bool)

    def missed(wanted: torch.Tensor) -> float:
        examples = {"shown": shown, "wanted": wanted, "actor": actor, "told": net.tell([{}])}
        with_it, without = (
            reviser_losses(net, examples, ReviserLossConfig(coarse=weight))["loss"]
            for weight in (1.0, 0.0)
        )
        return float((with_it - without).detach())

    assert missed(speckled) == pytest.approx(0, abs=1e-6)
    assert missed(brighter) == pytest.approx(7 * 20 / 255)


def test_a_flat_colour_is_no_answer_where_there_are_stripes():
    net = Reviser(replace(CONFIG, frames=1))
    shown = torch.full((1, 1, 3, 8, 8), 100, dtype=torch.uint8)
    striped, brighter = shown.clone(), shown + 20
    striped[..., ::2] += 40
    actor = torch.ones(1, 1, 1, 8, 8, dtype=torch.bool)

    def missed(wanted: torch.Tensor) -> float:
        examples = {"shown": shown, "wanted": wanted, "actor": actor, "told": net.tell([{}])}
        with_it, without = (
            reviser_losses(net, examples, ReviserLossConfig(texture=weight))["loss"]
            for weight in (1.0, 0.0)
        )
        return float((with_it - without).detach())

    assert missed(brighter) == pytest.approx(0, abs=1e-6)
    assert missed(striped) == pytest.approx(7 * 20 / 255 / 8)


def test_what_captioners_see_counts_and_they_do_not_learn(revisions):
    net = Reviser(CONFIG)
    eye = Captioner(CaptionerConfig(9, size=16, apart=2, widths=(16, 16), pooled=8))
    losses = ReviserLossConfig(seen=0.5)
    examples = draw_batch(revisions, 0, range(3), net, DATA)
    plain = reviser_losses(net, examples, losses)
    assert "seen" not in plain
    found = reviser_losses(net, examples, losses, [eye])
    shown, wanted = (examples[name].float() / 255 for name in ("shown", "wanted"))
    torch.testing.assert_close(found["seen"], seen_loss(shown, wanted, [eye]))
    torch.testing.assert_close(found["loss"], plain["loss"] + 0.5 * found["seen"])
    configs = reviser.presets("tiny") | {"model": CONFIG, "data": DATA, "losses": losses}
    task = reviser_task(revisions, {"val": revisions}, configs, eyes=[eye])
    task.loss(task.model, examples, 0)["loss"].sum().backward()
    assert all(parameter.grad is None for parameter in eye.parameters())
    with torch.no_grad():
        assert task.validate(task.model)["seen"] > 0


def test_an_example_is_weighed_by_itself(revisions):
    net = Reviser(CONFIG)
    torch.nn.init.normal_(net.head.weight, std=0.1)
    both = draw_batch(revisions, 0, [0, 1], net, DATA)
    whole = reviser_losses(net, both, ReviserLossConfig())["loss"]
    for row in range(2):
        own = {name: value[row : row + 1] for name, value in both.items()}
        found = reviser_losses(net, own, ReviserLossConfig())["loss"]
        torch.testing.assert_close(found[0], whole[row])


def test_it_learns(revisions, tmp_path):
    """It brings back six clips that it has seen many times."""
    training = loop.LoopConfig(
        steps=80,
        batch_size=6,
        learning_rate=1e-2,
        warmup=10,
        muon=1.0,
        ema=0.9,
        validate_every=0,
        threads=1,
    )
    data = replace(DATA, groups=2, mirrored=0.0)
    configs = {"loop": training, "model": CONFIG, "data": data, "losses": ReviserLossConfig()}
    task = reviser_task(revisions, {"val": revisions}, configs)
    with torch.no_grad():
        before = task.validate(task.model)
    assert before["actor"] == pytest.approx(before["before"])
    result = loop.train(task, training, tmp_path / "run")
    assert result.figures["before"] == pytest.approx(before["before"])
    assert result.figures["actor"] < 0.6 * before["actor"]


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ({"size": 32}, {}, "size must be 16, as the transformer has it, got 32"),
        ({"length": 16}, {}, "length must be 8, as the transformer has it, got 16"),
        ({"groups": 3}, {}, "groups must be at most 2, got 3"),
        ({}, {"frames": 2}, "frames must be 4, as the VAE has it, got 2"),
        ({}, {"widths": (8,) * 5, "blocks": (1,) * 5}, "size must be a multiple of 32, got 16"),
    ],
)
def test_mismatched_shapes_are_refused(makers, data, model, message):
    with pytest.raises(ValueError, match=message):
        check_example(replace(DATA, **data), replace(CONFIG, **model), makers)


def test_a_captioner_of_other_clips_is_refused(makers):
    eye = Captioner(CaptionerConfig(9, size=16, apart=4, widths=(16, 16)))
    check_example(replace(DATA, groups=2), CONFIG, makers, [eye])
    with pytest.raises(ValueError, match="looks at more than 4 frames of 16 px, got 4 of 16"):
        check_example(DATA, CONFIG, makers, [eye])


def test_there_must_be_something_to_judge_by(revisions):
    configs = reviser.presets("tiny") | {"model": CONFIG, "data": DATA}
    with pytest.raises(ValueError, match="checks must hold some clips"):
        reviser_task(revisions, {}, configs)


def test_weights_of_a_start_are_gone_on_from(revisions):
    start = Reviser(CONFIG)
    torch.nn.init.normal_(start.head.weight)
    configs = reviser.presets("tiny") | {"data": DATA}
    task = reviser_task(revisions, {"val": revisions}, configs, start)
    assert task.trained
    for own, theirs in zip(task.model.parameters(), start.parameters(), strict=True):
        assert torch.equal(own, theirs)
    assert dataclasses.asdict(task.configs["model"]) == dataclasses.asdict(CONFIG)
    assert isinstance(revisions, Revisions)
