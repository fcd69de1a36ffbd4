"""What was decoded is made what prompts state, where there is a network for it."""

import dataclasses
from dataclasses import replace

import pytest
import torch

from flowwarp.errors import InputError
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.legacy.models.reviser import Reviser, ReviserConfig
from flowwarp.legacy.pipelines import revising
from flowwarp.legacy.pipelines.generate import generate
from flowwarp.legacy.pipelines.hearing import Heard
from flowwarp.legacy.pipelines.load import load_models, load_reviser
from flowwarp.legacy.pipelines.revising import revise, revise_videos, what_to_revise

ATTRIBUTES = (("hair_color", ("blue", "red")), ("weapon", ("a bow", "a spear", "none")))
STATED = {
    "a red man": {"hair color": "red", "ground": "grass"},
    "an archer": {"weapon": "a bow"},
    "grass": {"ground": "grass"},
    "anything": None,
}


def make_reviser(**changes):
    torch.manual_seed(0)
    config = ReviserConfig(ATTRIBUTES, widths=(8, 16), blocks=(1, 1), embedding=8)
    net = Reviser(replace(config, **changes)).eval()
    torch.nn.init.normal_(net.head.weight, std=0.1)
    for table in net.tables:
        table.weight.data.mul_(3)
    for block in net.modules():
        if hasattr(block, "told"):
            torch.nn.init.normal_(block.told.weight, std=0.3)
    return net


@pytest.fixture
def revising_models(models, monkeypatch):
    def hear(gpt, text):
        return Heard(text, text, False, (), (), STATED[text])

    monkeypatch.setattr(revising, "hear", hear)
    return replace(models, reviser=make_reviser())


def test_what_is_stated_of_the_actor_is_told(revising_models, models):
    assert what_to_revise(revising_models, "a red man").tolist() == [[2, 0]]
    assert what_to_revise(revising_models, "an archer").tolist() == [[0, 1]]
    for caption in ("grass", "anything", None):
        assert what_to_revise(revising_models, caption) is None
    assert what_to_revise(models, "a red man") is None


def test_frames_are_revised_group_by_group(revising_models):
    video = torch.rand(8, 3, 16, 16)
    told = what_to_revise(revising_models, "a red man")
    with torch.no_grad():
        whole = revising_models.reviser(video[None], told)[0].clamp(0, 1)
    assert (whole - video).abs().mean() > 1e-3
    asked = []

    def frames():
        for number, frame in enumerate(video):
            asked.append(number)
            yield frame

    stream = revise(revising_models, frames(), told)
    first = next(stream)
    assert asked == [0, 1, 2, 3]
    torch.testing.assert_close(torch.stack([first, *stream]), whole, atol=1e-6, rtol=0)
    assert torch.equal(torch.stack(list(revise(revising_models, video, None))), video)


def test_videos_are_revised_each_by_its_caption(revising_models, models):
    videos = torch.rand(3, 8, 3, 16, 16)
    captions = ["a red man", "grass", "an archer"]
    made = revise_videos(revising_models, videos, captions)
    for row, caption in enumerate(captions):
        told = what_to_revise(revising_models, caption)
        own = torch.stack(list(revise(revising_models, videos[row], told)))
        torch.testing.assert_close(made[row], own, atol=1e-6, rtol=0)
    assert torch.equal(made[1], videos[1])
    assert torch.equal(revise_videos(models, videos, captions), videos)
    assert torch.equal(revise_videos(revising_models, videos, ["grass"] * 3), videos)


def draw(models, prompt, **options):
    return torch.stack(list(generate(models, prompt, best=1, candidates=1, **options)))


def test_videos_are_drawn_after_what_was_revised(revising_models, models, monkeypatch):
    from flowwarp.legacy.pipelines import generate

    def hear(gpt, text):
        return Heard(text, text, False, (), (), STATED[text])

    monkeypatch.setattr(generate, "hear", hear)
    small = replace(revising_models, upsampler=None)
    told = what_to_revise(small, "a red man")
    plain = draw(replace(small, reviser=None), "a red man", frames=12)
    revised = draw(small, "a red man", frames=12)
    assert len(revised) == 12
    wanted = torch.stack(list(revise(small, plain, told)))
    torch.testing.assert_close(revised, wanted, atol=2e-2, rtol=0)  # it may be made in bf16
    assert (revised - plain).abs().mean() > 1e-3
    assert torch.equal(draw(small, "grass"), draw(replace(small, reviser=None), "grass"))
    # What a picture shows shall stay.
    image = torch.rand(3, 16, 16)
    assert torch.equal(
        draw(small, "a red man", image=image),
        draw(replace(small, reviser=None), "a red man", image=image),
    )


def save(path, net):
    save_weights(path, net, Card("reviser", dataclasses.asdict(net.config)))
    return path


def test_weights_are_read_again(tmp_path):
    net = make_reviser()
    again = load_reviser(save(tmp_path / "net.safetensors", net))
    assert again.config == net.config
    video, told = torch.rand(1, 4, 3, 16, 16), net.tell([{"weapon": "a bow"}])
    with torch.no_grad():
        assert torch.equal(net(video, told), again(video, told))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 2}, "revises 2 frames at a time, the VAE decodes 4"),
        ({"widths": (8,) * 5, "blocks": (0,) * 5}, "frames of a multiple of 32 px, the VAE has 16"),
    ],
)
def test_a_reviser_that_does_not_fit_is_refused(tmp_path, video_weights, changes, message):
    path = save(tmp_path / "net.safetensors", make_reviser(**changes))
    with pytest.raises(InputError, match=message):
        load_models(**video_weights, reviser=path)
