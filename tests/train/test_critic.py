"""The critic's trainer: its examples, its loss, and that colours are told apart in seconds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowwarp.data.phrases import learn_phrases
from flowwarp.data.tokens import Medium, Vocabulary, train_pairs, written_cells
from flowwarp.data.world import Clip
from flowwarp.errors import Stopped
from flowwarp.io.checkpoints import load_weights
from flowwarp.models.critic import CriticConfig
from flowwarp.models.dvae import DVAE, TINY
from flowwarp.pipelines.critique import caption_fit, load_critic
from flowwarp.train import loop
from flowwarp.train.critic import (
    Captions,
    CriticDataConfig,
    _still_there,
    critic_losses,
    critic_task,
    draw_batch,
    presets,
)
from flowwarp.train.gpt import GPTMaterial
from flowwarp.train.tokenized import grid_media, tokenize_clips

SIZE, FRAMES = 16, 8
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}
DATA = CriticDataConfig(clips=64, checked=4, size=SIZE, frames=FRAMES, others=7, swapped=2, shift=1)


def square(seed, index):
    random = np.random.default_rng([seed, index])
    name = list(COLORS)[index % 4]
    video = torch.zeros(FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)
    top, left = random.integers(0, 8, 2).tolist()
    color = torch.tensor(COLORS[name], dtype=torch.uint8)
    video[:, :, top : top + 8, left : left + 8] = color[:, None, None]
    flow = torch.zeros(FRAMES - 1, 2, SIZE, SIZE)
    known = torch.ones(FRAMES - 1, 1, SIZE, SIZE, dtype=torch.bool)
    return Clip(video, flow, flow, known, known, known, known, f"a {name} square", {})


@pytest.fixture(scope="module")
def dvae():
    torch.manual_seed(0)
    return DVAE(replace(TINY, widths=(8, 16, 32))).eval()


@pytest.fixture(scope="module")
def material(dvae, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    media = grid_media(dvae, SIZE, FRAMES)
    stores = [
        tokenize_clips(lambda n, s=s: square(s, n), dvae, media, f"squares {s}", count, cache=cache)
        for s, count in ((0, DATA.clips), (1, DATA.checked))
    ]
    return GPTMaterial(stores[0], {"val": stores[1]}, media)


@pytest.fixture(scope="module")
def words(material):
    pairs = train_pairs(material.training.captions(), 40)
    return Vocabulary((Medium("text", pairs.size), *material.media), pairs, 12)


def settings(**changes):
    changes = {
        "steps": 6, "batch_size": 4, "precision": "fp32", "workers": 0, "threads": 1,
        "validate_every": 3, "log_every": 2, "save_every": 2, "warmup": 2,
    } | changes  # fmt: skip
    configs = presets("tiny")
    model = CriticConfig(1, references=8, longest=12, widths=(16, 16), blocks=(1, 1))
    return configs | {
        "loop": replace(configs["loop"], **changes), "model": model, "data": DATA
    }  # fmt: skip


class Numbered:
    """Captions each of which is one phrase, the clip's own number."""

    def __init__(self, count):
        self.bags = torch.arange(count)[:, None].int()

    def swap(self, index, count, generator):
        drawn = torch.randint(1000, 2000, (count, 1), generator=generator)
        return (drawn + index).int()


def test_examples_are_a_pure_function_of_their_numbers(material):
    captions = Numbered(DATA.clips)
    together = draw_batch(material.training, captions, 3, range(10, 16), DATA)
    assert together["codes"].shape == (6, *material.media[0].grid)
    assert together["bags"].shape == (6, 1 + 7 + 2, 1)
    for row, number in enumerate(range(10, 16)):
        alone = draw_batch(material.training, captions, 3, [number], DATA)
        for name, value in together.items():
            assert torch.equal(alone[name][0], value[row])
        assert int(together["bags"][row, 0, 0]) == loop.shuffled(3, number, DATA.clips)
    other = draw_batch(material.training, captions, 4, range(10, 16), DATA)
    assert not torch.equal(other["bags"], together["bags"])


def test_swapped_captions_differ_by_a_word_that_stands_there_elsewhere():
    told = ["a red knight walks", "a blue knight stands", "a red ghost walks", "a red knight walks"]
    pairs = train_pairs(told * 2, 60)
    book = learn_phrases(told * 2, pairs, 12, 200)
    captions = Captions(told, book)
    assert len(captions) == 4
    allowed = {
        frozenset(book.find(text))
        for text in ("a blue knight walks", "a red knight stands", "a red ghost walks", *told)
    }
    found = set()
    for seed in range(20):
        bags = captions.swap(0, 6, loop.generator(seed))
        assert torch.equal(bags, captions.swap(0, 6, loop.generator(seed)))
        found |= {frozenset(bag[bag < len(book)].tolist()) for bag in bags}
    assert found <= allowed
    assert frozenset(book.find("a blue knight walks")) in found
    assert frozenset(book.find("a red knight stands")) in found
    alone = Captions(["once", ""], learn_phrases(["once"] * 2, pairs, 12, 9))
    assert alone.swap(1, 3, loop.generator(0)).shape == (3, alone.bags.shape[1])


def test_what_is_there_was_written_first_and_moved(material):
    captions = Numbered(DATA.clips)
    examples = draw_batch(material.training, captions, 3, range(200), DATA)
    grid = material.media[0].grid
    whole = 0
    for codes, known, own in zip(
        examples["codes"], examples["known"], examples["bags"][:, 0, 0], strict=True
    ):
        before = material.training.codes("video", int(own))
        moves = [
            (down, across)
            for down in (-1, 0, 1)
            for across in (-1, 0, 1)
            if torch.equal(torch.roll(before, (down, across), (1, 2)), codes)
        ]
        assert moves
        kept = [
            torch.equal(known, written_cells(grid, n) & _still_there(codes, *move))
            for move in moves
            for n in range(1, codes.numel() + 1)
        ]
        assert any(kept)
        whole += any(torch.equal(known, _still_there(codes, *move)) for move in moves)
    assert 40 < whole < 90  # of 200, DATA.whole


def test_cells_that_came_in_from_the_other_side_are_not_there():
    codes = torch.zeros(1, 3, 4)
    assert _still_there(codes, 1, 0)[0].int().sum(1).tolist() == [0, 4, 4]
    assert _still_there(codes, -1, 0)[0].int().sum(1).tolist() == [4, 4, 0]
    assert _still_there(codes, 0, 2)[0].int().sum(0).tolist() == [0, 0, 3, 3]
    assert _still_there(codes, 0, -9)[0].int().sum() == 0
    assert _still_there(codes, 0, 0).all()


def test_a_loss_is_of_its_own_example(material, words, dvae):
    task = critic_task(material, settings(), words, dvae)
    torch.nn.init.normal_(task.model.head.weight)
    examples = task.batch(range(4))
    together = critic_losses(task.model, dvae, examples)
    for row in range(4):
        alone = critic_losses(task.model, dvae, task.batch(range(row, row + 1)))
        assert torch.allclose(alone["loss"][0], together["loss"][row], atol=1e-5)


def test_colours_are_told_apart_in_seconds(material, words, dvae, tmp_path):
    configs = settings(steps=120, batch_size=16, learning_rate=1e-2, validate_every=0)
    task = critic_task(material, configs, words, dvae)
    result = loop.train(task, configs["loop"], tmp_path / "run")
    # Four clips of four colours: by chance three are wrong. Others of an example may be its like.
    assert result.last["wrong"] <= 0.25
    critic = load_critic(result.weights, words, dvae)
    codes = torch.stack([material.checks["val"].codes("video", n) for n in range(4)])
    fits = torch.stack([caption_fit(critic, codes, [f"a {name} square"] * 4) for name in COLORS], 1)
    assert float((fits.argmax(1) == torch.arange(4)).float().mean()) >= 0.75
    nothing = caption_fit(critic, codes, ["a red square"] * 4, written=0)
    assert float(nothing.abs().max()) < float(fits.diagonal().mean())


def test_resumes_exactly(material, words, dvae, tmp_path):
    configs = settings()
    loop.train(critic_task(material, configs, words, dvae), configs["loop"], tmp_path / "whole")
    task = critic_task(material, configs, words, dvae)
    batch = task.batch

    def stop(numbers):
        if numbers.start == 12:
            import signal

            signal.raise_signal(signal.SIGTERM)
        return batch(numbers)

    with pytest.raises(Stopped):
        loop.train(replace(task, batch=stop), configs["loop"], tmp_path / "cut")
    task = critic_task(material, configs, words, dvae)
    loop.train(task, configs["loop"], tmp_path / "cut", resume="auto")
    whole, cut = (load_weights(tmp_path / n / "last.safetensors")[0] for n in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    lines = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("whole", "cut")]
    losses = [[json.loads(line).get("loss") for line in some] for some in lines]
    assert losses[0] == losses[1]


def test_goes_on_from_a_trained_one(material, words, dvae):
    first = critic_task(material, settings(), words, dvae).model
    torch.nn.init.normal_(first.head.weight)
    task = critic_task(material, settings(), words, dvae, start=first)
    assert all(torch.equal(a, b) for a, b in zip(
        first.state_dict().values(), task.model.state_dict().values(), strict=True
    ))  # fmt: skip
    examples = task.batch(range(4))
    assert torch.equal(
        critic_losses(task.model, dvae, examples)["loss"],
        critic_losses(first, dvae, examples)["loss"],
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"clips": 0}, "clips"), ({"whole": 1.5}, "whole"), ({"shift": -1}, "shift")],
)
def test_refuses_settings(changes, match):
    with pytest.raises(ValueError, match=match):
        replace(DATA, **changes)
