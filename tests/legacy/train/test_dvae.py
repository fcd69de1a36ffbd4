"""The loss of the discrete VAE, and its trainer on a world of one moving square."""

import json
from dataclasses import replace

import pytest
import torch

from flowwarp.data.clip import Clip
from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.models.dvae import DVAE, TINY, nearest
from flowwarp.legacy.pipelines.tokens import load_dvae, tokenize
from flowwarp.legacy.train import dvae
from flowwarp.legacy.train.dvae import (
    DVAEDataConfig,
    DVAELossConfig,
    draw_examples,
    dvae_losses,
    dvae_task,
    fit_codebooks,
    presets,
)
from flowwarp.losses.reconstruction import warp_loss
from flowwarp.train import loop, seeding

SIZE, FRAMES = 16, 8


def square(seed, index):
    """A coloured square that moves 1 px to the right each frame."""
    random = seeding.generator(seed, index)
    colors = torch.randint(256, (2, 3, 1, 1), generator=random).byte()
    top, left = torch.randint(6, (2,), generator=random).tolist()
    video = colors[0].expand(FRAMES, 3, SIZE, SIZE).clone()
    flow = torch.zeros(FRAMES - 1, 2, SIZE, SIZE)
    known = torch.ones(FRAMES - 1, 1, SIZE, SIZE, dtype=torch.bool)
    for time in range(FRAMES):
        place = slice(top, top + 6), slice(left + time // 2, left + time // 2 + 6)
        video[(time, slice(None), *place)] = colors[1]
        if time < FRAMES - 1:
            flow[(time, 0, *place)] = (time + 1) // 2 - time // 2
            known[time, 0, :, left + time // 2 + 6] = False  # what the square is about to cover
    seen = torch.ones_like(known)
    return Clip(video, flow, -flow, known, known, seen, seen, "a square", {})


def settings(**changes):
    changes = {
        "steps": 6, "batch_size": 3, "precision": "fp32", "workers": 0, "threads": 1,
        "validate_every": 3, "samples_every": 3, "log_every": 2, "save_every": 2, "warmup": 2,
    } | changes  # fmt: skip
    configs = presets("tiny")
    return configs | {
        "loop": replace(configs["loop"], **changes),
        "model": replace(TINY, widths=(8, 16, 32)),
        "data": DVAEDataConfig(SIZE, FRAMES, validation=3),
    }


# Losses


def test_warp_loss_is_what_reconstructions_and_originals_differ_by():
    batch = draw_examples(square, 0, range(2), DVAEDataConfig(SIZE, FRAMES, stills=0), 4)
    original = batch["video"].float() / 255
    # The original's own error along its flow is 0: a reconstruction equal to a constant times it
    # moves as it does.
    assert warp_loss(original, batch["flow"], batch["known"]).max() < 1e-6
    assert warp_loss(original[:, :1], batch["flow"][:, :0], batch["known"][:, :0]).sum() == 0


def test_the_loss_is_a_weighted_sum_of_terms_of_each_example():
    torch.manual_seed(0)
    net = DVAE(settings()["model"])
    batch = draw_examples(square, 0, range(3), DVAEDataConfig(SIZE, FRAMES), 4)
    terms = dvae_losses(net, batch, 0.1, DVAELossConfig())
    assert all(value.shape == (3,) for value in terms.values())
    weighed = terms["color"] + 0.5 * terms["gradient"] + 0.25 * terms["warp"]
    assert torch.allclose(terms["loss"], weighed + 0.01 * terms["penalty"])


def eye(seed=0, **changes):
    torch.manual_seed(seed)
    return Captioner(CaptionerConfig(9, **{"size": SIZE, "widths": (16, 16)} | changes))


def test_captioners_teach_and_do_not_learn(tmp_path):
    net = eye()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    configs = settings(steps=2, accumulate=2)
    task = dvae_task(square, configs, eyes=[net])
    task.loss(task.model, task.batch(range(2)), 1)["loss"].sum().backward()
    with_eye = task.model.decoder.head.weight.grad.clone()
    assert all(parameter.grad is None for parameter in net.parameters())
    plain = dvae_task(square, configs)
    plain.loss(plain.model, plain.batch(range(2)), 1)["loss"].sum().backward()
    assert not torch.allclose(with_eye, plain.model.decoder.head.weight.grad)
    loop.train(task, configs["loop"], tmp_path / "run")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    for wrong in (eye(size=32), eye(apart=8)):
        with pytest.raises(ValueError, match="captioner looks at more than"):
            dvae_task(square, configs, eyes=[wrong])


def test_rounding_is_mixed_in():
    torch.manual_seed(0)
    net = DVAE(settings()["model"])
    mixes = []
    forward = net.forward
    net.forward = lambda video, mix, *rest: mixes.append(mix) or forward(video, mix, *rest)
    batch = draw_examples(square, 0, range(1), DVAEDataConfig(SIZE, FRAMES), 4)
    for progress in (0, 0.15, 0.3, 1):
        dvae_losses(net, batch, progress, DVAELossConfig())
    dvae_losses(net, batch, 0, DVAELossConfig(rounded_from=0))
    assert mixes == pytest.approx([0, 0.5, 1, 1, 1])


# Examples


def test_examples_are_a_function_of_their_number():
    config = DVAEDataConfig(SIZE, FRAMES, stills=0.5)
    together = draw_examples(square, 5, range(10, 14), config, 4)
    for place, number in enumerate(range(10, 14)):
        single = draw_examples(square, 5, [number], config, 4)
        assert all(torch.equal(together[name][place], single[name][0]) for name in together)
    many = draw_examples(square, 5, range(40), config, 4)["video"]
    still = (many[:, :3] == many[:, 3:4]).flatten(1).all(1)
    assert 10 < still.sum() < 30


def test_some_examples_begin_with_a_still():
    config = DVAEDataConfig(SIZE, FRAMES, stills=1)
    (batch, moving) = (
        draw_examples(square, 0, range(2), replace(config, stills=share), 4) for share in (1, 0)
    )
    video, flow, known = batch["video"], batch["flow"], batch["known"]
    assert torch.equal(video[:, :3], video[:, 3:4].expand(-1, 3, -1, -1, -1))
    assert torch.equal(video[:, 3:], moving["video"][:, 3:])
    assert not flow[:, :3].any()
    assert known[:, :3].all()
    assert torch.equal(flow[:, 3:], moving["flow"][:, 3:])
    assert torch.equal(square(0, 0).video, moving["video"][0])  # the source's clip is not touched


def test_only_what_is_valid_and_visible_is_known():
    def covered(seed, index):
        clip = square(seed, index)
        seen = torch.ones_like(clip.visible_12)
        seen[:, :, SIZE // 2 :] = False
        return replace(clip, visible_12=seen)

    known = draw_examples(covered, 0, range(2), DVAEDataConfig(SIZE, FRAMES, stills=0), 4)["known"]
    for number in range(2):
        clip = covered(0, number)
        assert torch.equal(known[number], clip.valid_12 & clip.visible_12)


# The trainer


def test_the_best_is_of_the_least_square(tmp_path):
    configs = settings(steps=2, validate_every=1, samples_every=2)
    result = loop.train(dvae_task(square, configs), configs["loop"], tmp_path / "run")
    figures = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    judged = [line for line in figures if line["split"] == "val"]
    assert len(judged) == 2
    assert {"psnr", "square", "codes_used", "use0", "use3"} <= judged[-1].keys()
    assert result.best[0] == min(line["square"] for line in judged)
    sheets = [file.name for file in (tmp_path / "run" / "samples").iterdir()]
    assert sheets == ["00000002-clips.png"]


def test_validation_examples_are_not_trained_on():
    """By clips of another series, and of whole ones: none of them begins with a still."""
    asked, seen = [], []

    def spy(seed, index):
        asked.append((seed, index))
        return square(seed, index)

    configs = settings()
    configs["data"] = replace(configs["data"], stills=1.0)
    task = dvae_task(spy, configs)
    judging = set(asked)
    asked.clear()
    learned = task.batch(range(3))["video"]
    assert judging.isdisjoint(asked)
    task.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        task.validate(task.model.eval())
    series = seeding.held_out_series(configs["loop"].seed)
    judged = torch.stack([square(series, number).video for number in range(3)]).float() / 255
    assert torch.equal(torch.cat(seen), judged)
    assert torch.equal(learned[:, 0], learned[:, 3])
    assert not torch.equal(judged[:, 0], judged[:, 3])


def test_clips_of_another_source_judge():
    asked = []

    def other(seed, index):
        asked.append(index)
        return square(seed, index)

    dvae_task(square, settings(), other)
    assert asked == [0, 1, 2]


def test_losses_hang_on_the_step_and_examples_on_the_seed():
    one, two = (dvae_task(square, settings(seed=seed)) for seed in (0, 1))
    batch = one.batch(range(3))
    assert not torch.equal(batch["video"], two.batch(range(3))["video"])
    first, last = (one.loss(one.model, batch, step)["color"] for step in (0, 5))
    assert (first != last).all()  # rounding is mixed in


def test_gumbel_trains_too(tmp_path):
    configs = settings(steps=3)
    configs["model"] = replace(configs["model"], quantiser="gumbel", entries=32)
    result = loop.train(dvae_task(square, configs), configs["loop"], tmp_path / "run")
    assert 0 < result.figures["codes_used"] <= 1
    assert "use0" not in result.figures


def test_gumbel_noise_is_of_the_example_alone():
    """Not of where it lies in a batch, nor of how that is split."""
    configs = settings()
    configs["model"] = replace(configs["model"], quantiser="gumbel", entries=32)
    task = dvae_task(square, configs)
    whole = task.loss(task.model, task.batch(range(4)), 1)["color"]
    parts = [task.loss(task.model, task.batch(range(n, n + 2)), 1)["color"] for n in (2, 0)]
    assert torch.allclose(whole, torch.cat(parts[::-1]), rtol=1e-6, atol=0)
    other = task.loss(task.model, task.batch(range(1, 5)), 1)["color"]
    assert torch.allclose(whole[1:], other[:-1], rtol=1e-6, atol=0)


def test_books_are_middles_of_places():
    torch.manual_seed(0)
    net = DVAE(replace(TINY, encoder=0, quantiser="residual", entries=8))
    videos = [square(0, number).video[None].float() / 255 for number in range(4)]
    fit_codebooks(net, videos, 300)
    books = net.quantiser.books.clone()
    places = net.encoder(torch.cat(videos)).permute(0, 2, 3, 1).flatten(0, 2)
    plain = (places - places.mean(0)).square().mean()
    one = (places - books[0][nearest(places, books[0])]).square().mean()
    two = (places - net.quantiser.values(net.quantiser.codes(places))).square().mean()
    assert two < 0.8 * one < 0.8 * 0.5 * plain
    fit_codebooks(net, iter(videos), 300)
    assert torch.equal(net.quantiser.books, books)
    net.quantiser.chroma = 3.0
    fit_codebooks(net, videos, 300)
    colored = net.quantiser.values(net.quantiser.codes(places))
    assert (places - colored).square().mean() < 0.8 * 0.8 * 0.5 * plain
    with pytest.raises(ValueError, match="at least 8"):
        fit_codebooks(net, videos[:1], 2)


def test_books_are_found_before_the_first_step_and_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(dvae, "_SORTED", 8)
    configs = settings(steps=3)
    configs["model"] = replace(
        configs["model"], encoder=0, quantiser="residual", entries=16, groups=2
    )
    found = []
    monkeypatch.setattr(
        dvae, "fit_codebooks", lambda *args: found.append(1) or fit_codebooks(*args)
    )
    task = dvae_task(square, configs)
    assert not task.model.quantiser.books.any()
    result = loop.train(task, configs["loop"], tmp_path / "run")
    net = load_dvae(result.weights)
    assert torch.equal(net.quantiser.books, task.model.quantiser.books)
    assert len(net.quantiser.books[0].unique(dim=0)) == 16
    assert 0 < result.figures["codes_used"] <= 1
    more = replace(configs["loop"], steps=4)
    again = loop.train(dvae_task(square, configs), more, tmp_path / "run", resume="changed")
    assert again.step == 4
    assert found == [1]
    codes = tokenize(net, square(0, 1).video)
    assert torch.equal(tokenize(load_dvae(again.weights), square(0, 1).video), codes)


def test_a_decoder_learns_alone(tmp_path):
    """Codes stay as they are, to the bit, while what becomes of them changes."""
    torch.manual_seed(5)
    trained = DVAE(replace(TINY, widths=(16, 32, 64)))
    task = dvae_task(square, settings(), start=trained, keep_codes=True)
    assert task.configs["model"] == trained.config
    assert task.trained
    loop.train(task, settings()["loop"], tmp_path / "run")
    net = load_dvae(tmp_path / "run" / "last.safetensors")
    video = square(0, 1).video
    assert torch.equal(tokenize(net, video), tokenize(trained.eval(), video))
    before, after = (model.decoder.head.weight for model in (trained, net))
    assert not torch.equal(before, after)
    # Its codes are rounded from the first step on, unless that is asked for.
    assert presets("tiny")["losses"].rounded_from > 0
    assert presets("tiny", trained)["losses"].rounded_from == 0
    task = dvae_task(square, settings(), start=trained)
    assert task.configs["losses"] == settings()["losses"]
    assert torch.equal(task.model.to_latent.weight, trained.to_latent.weight)
    assert all(parameter.requires_grad for parameter in task.model.parameters())


@pytest.mark.parametrize("norm", ["group", "none"])
def test_learns_one_clip(norm, tmp_path):
    def one(seed, index):
        return square(0, 3)

    configs = settings(
        steps=180, batch_size=1, learning_rate=1e-2, ema=0.9, validate_every=0, samples_every=0,
        save_every=1000,
    )  # fmt: skip
    configs["model"] = replace(TINY, norm=norm)
    result = loop.train(dvae_task(one, configs), configs["loop"], tmp_path / "run")
    assert result.figures["psnr"] > 30


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"size": 18}, "size must be a multiple of 4"), ({"frames": 6}, "frames must be a multiple")],
)
def test_sizes_that_do_not_fit(changes, words):
    configs = settings()
    configs["data"] = replace(configs["data"], **changes)
    with pytest.raises(ValueError, match=words):
        dvae_task(square, configs)
