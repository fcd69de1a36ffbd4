"""Training the judge: examples are functions of their numbers, losses by hand, and learning."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from flowwarp.data.sprite_world.labels import mirror
from flowwarp.legacy.train.wear import wear
from flowwarp.models.classifier import Classifier, ClassifierConfig
from flowwarp.train import loop, seeding
from flowwarp.train.classifier import (
    ClassifierDataConfig,
    classifier_losses,
    classifier_task,
    draw_batch,
    show,
)

COLORS = {"sand": (220, 200, 140), "snow": (250, 250, 255), "grass": (70, 140, 50)}
MODEL = ClassifierConfig(
    (("direction", ("left", "right")), ("ground", tuple(COLORS))),
    size=16,
    apart=1,
    widths=(16, 32),
    blocks=(1, 1),
)
ACTOR = {
    "action": "walk", "hair_style": "", "hair_color": "", "torso_style": "", "torso_color": "",
    "legs_color": "", "weapon": "",
}  # fmt: skip


def source(seed, index):
    """Show a dark square that goes left or right over a ground of one colour."""
    generator = seeding.generator(seed, index)
    ground = list(COLORS)[int(torch.randint(len(COLORS), (), generator=generator))]
    way = 1 if float(torch.rand((), generator=generator)) < 0.5 else -1
    video = torch.tensor(COLORS[ground], dtype=torch.uint8).view(1, 3, 1, 1).repeat(4, 1, 16, 16)
    for frame in range(4):
        left = 6 + 2 * way * (frame - 1)
        video[frame, :, 6:10, left : left + 4] = 30
    actor = ACTOR | {"direction": "right" if way > 0 else "left"}
    attributes = {"actors": [actor], "ground": ground, "camera": "still"}
    return SimpleNamespace(video=video, attributes=attributes)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_wear_is_a_function_of_the_generator():
    video = torch.rand(4, 3, 16, 16, generator=generator())
    config = ClassifierDataConfig(share=1.0)
    worn = wear(video, config, generator(1))
    assert worn.shape == video.shape
    assert 0 <= float(worn.min()) <= float(worn.max()) <= 1
    assert torch.equal(wear(video, config, generator(1)), worn)
    assert not torch.equal(wear(video, config, generator(2)), worn)
    assert torch.equal(wear(video, ClassifierDataConfig(share=0.0), generator(1)), video)
    for end in (0, 1):
        worn = wear(torch.full_like(video, end), config, generator(1))
        assert 0 <= float(worn.min()) < float(worn.max()) <= 1


def test_wear_changes_little():
    video = torch.full((4, 3, 16, 16), 0.5)
    config = ClassifierDataConfig(share=1.0)
    errors = [(wear(video, config, generator(n)) - video).std() for n in range(20)]
    assert 0 < max(errors) < 2 * config.noise
    plain = ClassifierDataConfig(share=1.0, noise=0, tint=0)
    assert torch.allclose(wear(video, plain, generator()), video)  # nothing to blur


def test_noise_lasts_as_long_as_it_is_coarse():
    config, lasted = ClassifierDataConfig(share=1.0), set()
    for seed in range(12):
        worn = wear(torch.full((8, 3, 16, 16), 0.5), config, generator(seed))
        grain = 8 // len(worn.unique_consecutive(dim=0))
        assert len(worn[0, 0].unique_consecutive(dim=0)) == 16 // grain
        lasted.add(grain)
    assert lasted == {1, 2, 4}


@pytest.mark.parametrize("frames", [1, 3])
def test_wear_takes_any_length_and_odd_sizes(frames):
    for seed in range(6):  # each grain of noise comes
        worn = wear(torch.rand(frames, 3, 15, 17), ClassifierDataConfig(share=1.0), generator(seed))
        assert worn.shape == (frames, 3, 15, 17)


def test_mirrors_by_hand():
    video = torch.arange(6.0).view(1, 1, 2, 3)
    labels = {"direction": "left", "camera": "pan right", "ground": "sand", "hair_color": "red"}
    flipped, changed = mirror(video, labels)
    assert flipped.flatten().tolist() == [2, 1, 0, 5, 4, 3]
    assert changed == labels | {"direction": "right", "camera": "pan left"}
    assert mirror(flipped, changed)[1] == labels


def test_examples_are_functions_of_their_numbers():
    config = ClassifierDataConfig(clips=5, frames=2)
    shown = show(source, 8)
    batch = draw_batch(shown, 3, range(8), MODEL, config)
    assert batch["video"].shape == (8, 2, 3, 16, 16)
    for number in (1, 4):
        alone = draw_batch(show(source, 1), 3, [number], MODEL, config)
        assert all(torch.equal(alone[name][0], batch[name][number]) for name in batch)


@pytest.mark.parametrize("mirrored", [0.0, 1.0])
def test_examples_are_parts_of_clips(mirrored):
    config = ClassifierDataConfig(clips=50, frames=2, share=0.0, mirrored=mirrored)
    batch = draw_batch(show(source, 50), 3, range(30), MODEL, config)
    firsts = set()
    for number in range(30):
        clip = source(3, seeding.shuffled(3, number, 50))
        video, labels = clip.video.float() / 255, clip.attributes["actors"][0]
        way = ["left", "right"].index(labels["direction"])
        if mirrored:
            video, way = video.flip(-1), 1 - way
        found = [n for n in range(3) if torch.equal(batch["video"][number], video[n : n + 2])]
        assert len(found) == 1
        firsts |= set(found)
        assert batch["direction"][number] == way
        assert batch["ground"][number] == list(COLORS).index(clip.attributes["ground"])
    assert firsts == {0, 1, 2}


def test_a_clip_is_composed_once():
    drawn = []

    def watched(seed, index):
        drawn.append((seed, index))
        return source(seed, index)

    shown = show(watched, 5)
    first = draw_batch(
        shown, 3, range(10), MODEL, ClassifierDataConfig(clips=5, frames=2, share=1.0)
    )
    assert sorted(drawn) == [(3, index) for index in range(5)]
    again = draw_batch(
        shown, 3, range(10, 20), MODEL, ClassifierDataConfig(clips=5, frames=2, share=1.0)
    )
    assert len(drawn) == 5
    assert sorted(again["ground"].tolist()) == sorted(first["ground"].tolist())
    assert not torch.equal(again["video"], first["video"])  # worn differently, in another order


def test_losses_by_hand():
    net = Classifier(MODEL)
    with torch.no_grad():
        for head in net.heads:
            head.weight.zero_()
            head.bias.zero_()
        net.heads[0].bias[1] = math.log(3)  # right: 3 in 4
    examples = {
        "video": torch.rand(2, 4, 3, 16, 16),
        "direction": torch.tensor([1, 0]),
        "ground": torch.tensor([0, 2]),
    }
    losses = classifier_losses(net, examples)
    assert losses["loss"].tolist() == pytest.approx(
        [-math.log(0.75) + math.log(3), -math.log(0.25) + math.log(3)]
    )
    assert losses["wrong"].tolist() == [0, 1]  # all grounds alike: the first is taken


def test_it_learns_and_says_how_well():
    training = loop.LoopConfig(steps=60, batch_size=8)
    data = ClassifierDataConfig(clips=500, frames=2, validation=24)
    task = classifier_task(source, 4, {"loop": training, "model": MODEL, "data": data})
    model = task.model
    with torch.no_grad():
        before = task.validate(model.eval())
    assert before["error"] > 0.3
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(60):
        numbers = range(8 * step, 8 * step + 8)
        losses = task.loss(model.train(), task.batch(numbers), step)
        assert losses["loss"].shape == (8,)
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()
    with torch.no_grad():
        after = task.validate(model.eval())
    assert after["ground"] == 1
    assert after["direction"] > 0.9
    assert after["error"] == pytest.approx(1 - (after["ground"] + after["direction"]) / 2)


def test_validation_examples_are_not_trained_on():
    asked = []

    def spy(seed, index):
        asked.append((seed, index))
        return source(seed, index)

    data = ClassifierDataConfig(clips=6, frames=2, validation=4, share=1.0, mirrored=1.0)
    task = classifier_task(spy, 4, {"loop": loop.LoopConfig(), "model": MODEL, "data": data})
    task.batch(range(6))
    learned = set(asked)
    asked.clear()
    seen = []
    task.model.register_forward_pre_hook(lambda net, given: seen.extend(given[0]))
    with torch.no_grad():
        task.validate(task.model.eval())
    assert len(asked) == 4
    assert learned.isdisjoint(asked)
    for video, which in zip(seen, asked, strict=True):  # whole, neither worn nor mirrored
        assert torch.equal(video, source(*which).video / 255)


def test_goes_on_from_a_trained_network():
    torch.manual_seed(3)
    known = Classifier(MODEL)
    data = ClassifierDataConfig(clips=4, validation=2, frames=4)
    sizes = {"loop": loop.LoopConfig(), "data": data}
    other = replace(MODEL, widths=tuple(2 * width for width in MODEL.widths))
    task = classifier_task(source, 4, sizes | {"model": other}, start=known)
    assert task.configs["model"] == MODEL
    assert task.trained
    state = task.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in known.state_dict().items())


def test_what_cannot_be_told_is_passed_over():
    """It costs nothing, is not wrong, and what is shown says nothing of it."""
    torch.manual_seed(0)
    net = Classifier(MODEL)
    for head in net.heads:
        torch.nn.init.normal_(head.weight)
    data = ClassifierDataConfig(clips=4, validation=2, frames=4, mirrored=0.0)
    first, *others = (name for name, _ in MODEL.attributes)

    def shown(seed, index):
        return torch.zeros(4, 3, MODEL.size, MODEL.size, dtype=torch.uint8), dict(labels)

    labels = {name: values[0] for name, values in MODEL.attributes}
    whole = classifier_losses(net, draw_batch(shown, 0, range(1), MODEL, data))
    del labels[first]
    part = draw_batch(shown, 0, range(1), MODEL, data)
    assert part[first].tolist() == [-100]
    less = classifier_losses(net, part)
    scores = net(part["video"])[first]
    cost = F.cross_entropy(scores, torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(less["loss"] + cost, whole["loss"])
    wrong = [float(net(part["video"])[name].argmax() != part[name]) for name in others]
    assert float(less["wrong"]) == pytest.approx(sum(wrong) / max(len(wrong), 1))


@pytest.mark.parametrize("frames", [MODEL.apart, 5])
def test_examples_that_no_clip_is_long_enough_for(frames):
    data = ClassifierDataConfig(clips=4, validation=2, frames=frames)
    with pytest.raises(ValueError, match=rf"frames must be {MODEL.apart + 1} … 4, got {frames}"):
        classifier_task(source, 4, {"loop": loop.LoopConfig(), "model": MODEL, "data": data})
