"""Training the discrete VAE: examples by number, the loss by hand, figures, and that it learns."""

from dataclasses import replace

import pytest
import torch

from flowwarp.models.dvae import DVAE, DVAEConfig
from flowwarp.train import loop, seeding
from flowwarp.train.dvae import (
    DVAEDataConfig,
    DVAELossConfig,
    draw_examples,
    dvae_losses,
    dvae_task,
)
from squares import SOURCE, WORDS, draw

MODEL = DVAEConfig(
    (4, 4), encoder=32, encoder_blocks=1, widths=(16, 8, 8), blocks=(0, 0, 0), vocabulary=len(WORDS)
)
DATA = DVAEDataConfig(size=(32, 32), frames=4, validation=5)


class Known(torch.nn.Module):
    """Reconstructs what it is given, off by a constant and by stripes."""

    def __init__(self, offset=0.0, stripes=0.0):
        super().__init__()
        self.offset, self.stripes = offset, stripes

    def forward(self, video, words):
        return video + self.offset + self.stripes * (torch.arange(video.shape[-1]) % 2)


def task(**changes):
    training = loop.LoopConfig(steps=4, batch_size=4, learning_rate=1e-2, threads=1, **changes)
    configs = {"loop": training, "model": MODEL, "data": DATA, "losses": DVAELossConfig()}
    return dvae_task(SOURCE, draw, WORDS, configs)


def test_an_example_is_a_function_of_its_number():
    together = draw_examples(draw, WORDS, 3, range(6), DATA)["video"]
    assert together.shape[:2] == (6, 4)
    assert together.min() >= 0
    assert together.max() <= 1
    for number in range(6):
        assert torch.equal(
            draw_examples(draw, WORDS, 3, [number], DATA)["video"][0], together[number]
        )
    assert not torch.equal(draw_examples(draw, WORDS, 4, range(6), DATA)["video"], together)


def test_an_example_begins_anywhere_in_its_clip():
    """Of a clip whose frames have the grey of their number."""

    def counting(seed, index):
        clip = draw(seed, index)
        grey = 20 * torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1)
        return clip.__class__(**{**vars(clip), "video": grey.expand(8, 3, 32, 32)})

    video = draw_examples(counting, WORDS, 0, range(60), DATA)["video"]
    numbers = (video.mean((2, 3, 4)) * 255 / 20).round().long()
    assert (numbers.diff(dim=1) == 1).all()
    assert numbers[:, 0].unique().tolist() == [0, 1, 2, 3, 4]


def test_words_come_with_their_clip_but_for_a_share():
    def words_of(data):
        return draw_examples(draw, WORDS, 3, range(100), data)["words"]

    captions = torch.tensor([WORDS.encode(draw(3, number).caption) for number in range(100)])
    assert torch.equal(words_of(replace(DATA, caption_dropout=0)), captions)
    some = words_of(replace(DATA, caption_dropout=0.3))
    dropped = (some == 0).all(1)
    assert 15 < dropped.sum() < 45
    assert torch.equal(some[~dropped], captions[~dropped])


def test_the_loss_by_hand():
    """Stripes of 0.2 differ by 0.2 between columns and not at all between rows."""
    video = torch.rand(2, 4, 3, 8, 8, generator=seeding.generator(0))
    terms = dvae_losses(
        Known(0.1, 0.2), {"video": video, "words": torch.zeros(2, 3)}, DVAELossConfig(3.0, 5.0)
    )
    color, square, gradient = (0.1 + 0.3) / 2, (0.01 + 0.09) / 2, 0.2 / 2
    expected = {
        "color": color,
        "square": square,
        "gradient": gradient,
        "loss": color + 3 * square + 5 * gradient,
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], torch.full((2,), value), msg=name)


def test_the_loss_of_an_example_is_its_own():
    made = task()
    batch = made.batch(range(4))
    together = made.loss(made.model, batch, 0)
    for number in range(4):
        example = {name: part[number : number + 1] for name, part in batch.items()}
        alone = made.loss(made.model, example, 0)
        for name, term in together.items():
            torch.testing.assert_close(alone[name][0], term[number])


@torch.no_grad()
def test_figures_of_the_validation():
    made = task()
    figures = made.validate(made.model.eval())
    assert set(figures) == {"psnr", "negative_psnr", "codes_used"}
    assert figures["psnr"] == -figures["negative_psnr"]
    assert 3 < figures["psnr"] < 40
    assert 1 <= figures["codes_used"] <= 16
    assert figures == made.validate(made.model)


@torch.no_grad()
def test_a_perfect_reconstruction_has_a_finite_figure():
    class Perfect(DVAE):
        def decode(self, codes, words):
            return self.kept

        def encode(self, video):
            self.kept = video
            return super().encode(video)

    assert task().validate(Perfect(MODEL))["psnr"] == 100


@torch.no_grad()
def test_samples_are_pictures():
    made = task()
    ((name, sheet),) = made.samples(made.model.eval())
    assert name == "clips"
    assert sheet.shape[0] == 3
    assert sheet.min() >= 0
    assert sheet.max() <= 1


def test_the_same_seed_gives_the_same_network():
    one, two, other = task(), task(), task(seed=1)
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name])
    assert not torch.equal(one.model.encoder[0].weight, other.model.encoder[0].weight)
    assert one.data == "squares"


def test_a_few_steps_reduce_the_loss():
    made = task()
    optimizer = torch.optim.AdamW(made.model.parameters(), 3e-3)
    losses = []
    for step in range(40):
        batch = made.batch(range(4 * step, 4 * step + 4))
        loss = made.loss(made.model, batch, step)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < sum(losses[:5]) / 2


@pytest.mark.parametrize(
    "changes",
    [{"size": (30, 32)}, {"size": (0, 32)}, {"frames": 6}, {"frames": 0}, {"validation": 0}],
)
def test_data_are_checked(changes):
    with pytest.raises(ValueError, match=r"blocks|frames|validation"):
        DVAEDataConfig(**changes)


def test_weights_of_terms_are_checked():
    with pytest.raises(ValueError, match="gradient"):
        DVAELossConfig(gradient=-1)
