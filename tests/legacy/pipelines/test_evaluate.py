"""Figures of generated video: worked by hand, and those of the truth itself."""

import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import torch

from flowwarp import precision
from flowwarp.data.clip import Clip
from flowwarp.data.sprite_world.captions import draw_caption, prompt_for
from flowwarp.data.sprite_world.labels import JUDGED, label_clip, named
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.legacy.models.gpt import SAMPLING
from flowwarp.legacy.models.upsampler import enlarge, halve, upsample_clip
from flowwarp.legacy.pipelines import clip_motion
from flowwarp.legacy.pipelines import evaluate as video_evaluation
from flowwarp.legacy.pipelines import generate as text_video
from flowwarp.legacy.pipelines.clip_motion import steady_clip_motion
from flowwarp.legacy.pipelines.evaluate import (
    Tally,
    compare_upsampling,
    evaluate_classifier,
    evaluate_dvae,
    evaluate_gpt,
    evaluate_samples,
    evaluate_upsampler,
    heading,
    load_classifier,
    main_direction,
    mean_table,
    nearest_clips,
    prompt_of,
    read_labels,
    video_bits,
)
from flowwarp.legacy.pipelines.generate import NOISE, generate
from flowwarp.legacy.pipelines.load import load_models
from flowwarp.legacy.pipelines.sequences import Prompt, sample_video_tokens
from flowwarp.metrics.temporal import fine_energy, warping_error
from flowwarp.metrics.video import psnr
from flowwarp.models.classifier import Classifier, ClassifierConfig

FRAMES, SIZE = 8, 16
VALUES = {
    "action": ("walk", "stand"), "direction": ("left", "right"), "hair_color": ("none", "red"),
    "torso_style": ("dress", "robe"), "torso_color": ("blue", "green"),
    "legs_color": ("none", "black"), "weapon": ("none", "a spear"), "ground": ("sand", "snow"),
    "camera": ("still", "follow"),
}  # fmt: skip
PHRASES = {
    "a blue dress": {"torso_style": "dress", "torso_color": "blue"},
    "long red hair": {"hair_color": "red"},
    "a spear": {"weapon": "a spear"},
}


def clip(number=0, size=SIZE, actors=1, **changes):
    """Return noise that holds still, as a woman who walks."""
    generator = torch.Generator().manual_seed(number)
    frame = torch.randint(256, (1, 3, size, size), generator=generator, dtype=torch.uint8)
    actor = {
        "body": "woman", "skin": "", "hair": "long red hair", "hair_style": "long",
        "hair_color": "red", "torso": "a blue dress", "torso_style": "dress",
        "torso_color": "blue", "legs": "", "legs_style": "", "legs_color": "", "feet": "",
        "hat": "", "beard": "", "cape": "", "weapon": "a spear", "action": "walk",
        "direction": "left",
    } | changes  # fmt: skip
    attributes = {"actors": [actor] * actors, "ground": "sand", "camera": "still"}
    pairs, seen = (FRAMES - 1, 2, size, size), torch.ones(FRAMES - 1, 1, size, size).bool()
    return Clip(
        video=frame.expand(FRAMES, -1, -1, -1),
        flow_12=torch.zeros(pairs), flow_21=torch.zeros(pairs),
        valid_12=seen, valid_21=seen, visible_12=seen, visible_21=seen,
        caption=draw_caption(attributes, np.random.default_rng(number)),
        attributes=attributes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(video_weights):
    return load_models(**video_weights)


@pytest.fixture
def judge():
    """Return one who always sees a woman who walks to the left on snow, with a spear."""
    net = Classifier(ClassifierConfig(tuple(VALUES.items()), size=SIZE)).eval()
    said = {"ground": 1, "hair_color": 1, "weapon": 1}
    with torch.no_grad():
        for head, (name, _) in zip(net.heads, net.config.attributes, strict=True):
            head.weight.zero_()
            head.bias.zero_()
            head.bias[said.get(name, 0)] = 1
    return net


# ------------------------------------------------------------------ the judge


def test_labels_are_the_likeliest_values(judge):
    read = read_labels(judge, torch.rand(2, FRAMES, 3, SIZE, SIZE))
    assert read[0] == read[1]
    assert read[0] == label_clip(clip().attributes) | {"ground": "snow"}


def test_tallies_by_hand():
    tally = Tally()
    tally.add("truth", {"action": "walk", "ground": "sand"}, {"action": "walk", "ground": "snow"})
    tally.add("truth", {"action": "fall"}, {"action": "walk", "ground": "snow"})
    tally.add("truth", {"action": "walk"}, {"action": "walk"})
    tally.add("drawn", {"heading": "up"}, {"heading": "up"})
    tally.add("drawn", {"hair_color": "red"}, {"hair_color": "red", "legs_color": "red"})
    for wanted in ("blue", "blue", "red"):
        tally.add("drawn", {"legs_color": "red"}, {"legs_color": wanted})
    assert tally.table() == {
        "action %": {"truth": pytest.approx(200 / 3)},
        "hair_color %": {"drawn": 100},
        "legs_color %": {"drawn": pytest.approx(100 / 3)},
        "ground %": {"truth": 0},
        "heading %": {"drawn": 100},
        "colors %": {"drawn": 50},  # of four readings
        "mean %": {
            "truth": pytest.approx(100 / 3),
            "drawn": pytest.approx(200 / 3),  # of two attributes; a heading is none
        },
    }
    order = ["action", "hair_color", "legs_color", "ground", "heading", "colors", "mean"]
    assert list(tally.table()) == [f"{name} %" for name in order]
    assert tally.confusions == {
        ("ground", "truth", "snow", "sand"): 1,
        ("action", "truth", "walk", "fall"): 1,
        ("legs_color", "drawn", "blue", "red"): 2,
    }


def test_the_judge_is_judged(judge):
    clips = [clip(n, direction="left" if n < 5 else "right") for n in range(20)]
    table, confusions = evaluate_classifier(judge, clips)
    assert set(table) == {f"{name} %" for name in [*JUDGED, "colors", "mean"]}
    assert table["action %"] == {"truth": 100}
    assert table["direction %"] == {"truth": 25}
    assert table["ground %"] == {"truth": 0}
    assert confusions == [("ground", "sand", "snow", 20), ("direction", "right", "left", 15)]


def test_its_file(judge, tmp_path):
    path = tmp_path / "judge.safetensors"
    save_weights(path, judge, Card("classifier", dataclasses.asdict(judge.config)))
    loaded = load_classifier(path)
    assert loaded.config == judge.config
    video = torch.rand(1, FRAMES, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(loaded(video)["ground"], judge(video)["ground"])


@pytest.mark.parametrize(
    "config",
    [
        {}, {"attributes": 3}, {"attributes": [["a"]]}, {"attributes": [["a", ["x", "y"]]]},
        {"attributes": [["a", "xy"], ["a", "xy"]]}, {"size": 10**9}, {"norm": "batch"},
    ],
)  # fmt: skip
def test_cards_that_are_refused(judge, tmp_path, config):
    path = tmp_path / "judge.safetensors"
    good = dataclasses.asdict(judge.config) if {"size", "norm"} & set(config) else {}
    save_weights(path, judge, Card("classifier", good | config))
    with pytest.raises(InputError, match=r"judge\.safetensors"):
        load_classifier(path)


def test_confusions_come_in_the_order_of_attributes():
    """Not in one that hangs on the process: ties stay as they were counted."""
    names = [f"thing {number}" for number in range(12)]
    tally = Tally()
    tally.add("drawn", dict.fromkeys(names, "a"), dict.fromkeys(names[::-1], "b"))
    assert [name for (name, *_), _ in tally.confusions.most_common()] == names


# ------------------------------------------------------------------ the discrete VAE


def test_what_the_dvae_leaves(models, judge):
    clips = [clip(n) for n in range(17)] + [clip(99, actors=2)]  # in two batches
    table = evaluate_dvae(models.dvae, judge, clips)
    ratios, digits = [], [set() for _ in range(models.dvae.config.digits)]
    for one in clips:
        video = one.video[None].float() / 255
        found = models.dvae.encode(video)
        ratios.append(float(psnr(models.dvae.decode(found), video)))
        for place, seen in enumerate(digits):
            seen |= set((found // 9**place % 9).flatten().tolist())
    assert table["psnr dB"] == {"decoded": pytest.approx(sum(ratios) / 18, rel=1e-4)}
    used = sum(map(len, digits)) / len(digits) / 9  # levels of 3 and 3
    assert table["codes used %"] == {"decoded": pytest.approx(100 * used)}
    assert table["warping"]["truth"] == 0 < table["warping"]["decoded"]
    assert 0 < table["fine"]["decoded"] < 1
    assert table["ground %"] == {"truth": 0, "decoded": 0}
    assert table["action %"] == {"truth": 100, "decoded": 100}


# ------------------------------------------------------------------ the transformer


def test_bits_by_hand(models):
    gpt = models.gpt
    codes = torch.randint(
        models.dvae.config.codes, (2, 4, 4), generator=torch.Generator().manual_seed(0)
    )
    weights = gpt.net.head.weight, gpt.net.same.weight
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                weight.zero_()
        uniform = math.log2(gpt.vocabulary["video"].size)
        assert video_bits(gpt, codes, None) == pytest.approx(uniform, rel=1e-5)
        assert video_bits(gpt, codes, "a red knight") == pytest.approx(uniform, rel=1e-5)
    finally:
        with torch.no_grad():
            for weight, own in zip(weights, before, strict=True):
                weight.copy_(own)
    assert video_bits(gpt, codes, None) != video_bits(gpt, codes, "a red knight")


def test_what_a_perfect_transformer_would_get(models, judge, monkeypatch):
    clips = [clip(n, direction=["left", "right"][n % 2]) for n in range(20)]
    known = torch.cat([models.dvae.encode(c.video[None].float() / 255) for c in clips])
    asked, given = [], iter(known.split(video_evaluation._AT_ONCE))

    def draw(models, prompts, seeds, sampling, candidates, best):
        assert candidates == 5
        asked.extend(zip([prompt.caption for prompt in prompts], seeds, strict=True))
        return next(given), prompts

    captions = iter([c.caption for c in clips])
    monkeypatch.setattr(video_evaluation, "draw_codes", draw)
    monkeypatch.setattr(
        video_evaluation, "describe", lambda gpt, codes: [next(captions) for _ in codes]
    )
    table = evaluate_gpt(models, judge, clips, PHRASES, seed=7, candidates=5)
    for name in named(label_clip(clips[0].attributes)):
        row = table[f"{name} %"]
        assert row["drawn"] == row["decoded"]
        assert row.get("described", 100) == 100
    assert table["direction %"]["truth"] == 50
    assert "legs_color %" not in table  # no prompt says that there are none
    assert table["heading %"]["drawn"] == table["heading %"]["decoded"]
    assert 30 < table["said %"]["described"] < 100  # captions leave things out
    assert table["bits a token"]["truth"] > 0
    assert [seed for _, seed in asked] == list(range(7, 27))
    assert all("spear" in prompt and "blue dress" in prompt for prompt, _ in asked)
    assert len({prompt for prompt, _ in asked}) > 10


def test_what_is_made_up_counts_as_wrong(models, judge, monkeypatch):
    """One of two has the spear that both are said to have; nobody asked for a blue dress."""
    clips = [clip(0), clip(1, weapon="")]
    known = torch.cat([models.dvae.encode(c.video[None].float() / 255) for c in clips])
    monkeypatch.setattr(video_evaluation, "draw_codes", lambda *arguments: (known, []))
    monkeypatch.setattr(
        video_evaluation,
        "describe",
        lambda gpt, codes: ["a woman with a spear walks left"] * 2,
    )
    table = evaluate_gpt(models, judge, clips, PHRASES)
    assert table["weapon %"]["described"] == 50
    assert table["action %"]["described"] == 100
    # Of 7 and 6 that are there: weapon, action and direction, then the last two.
    assert table["said %"]["described"] == pytest.approx(100 * 5 / 13)
    for figure, told in (
        ("bits a token", [one.caption for one in clips]),
        ("bits, no caption", [None, None]),
    ):
        bits = map(partial(video_bits, models.gpt), known, told)
        assert table[figure]["truth"] == pytest.approx(sum(bits) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("action", "camera", "has"),
    [("walk", "still", True), ("walk", "pan left", False), ("stand", "still", False)],
)
def test_only_before_a_camera_that_stands_still_has_who_walks_a_heading(
    models, judge, monkeypatch, action, camera, has
):
    one = clip(action=action)
    one = dataclasses.replace(one, attributes=one.attributes | {"camera": camera})
    codes = models.dvae.encode(one.video[None].float() / 255)
    monkeypatch.setattr(video_evaluation, "draw_codes", lambda *arguments: (codes, []))
    monkeypatch.setattr(video_evaluation, "describe", lambda gpt, codes: [""])
    monkeypatch.setattr(video_evaluation, "heading", lambda net, video: "left")
    table = evaluate_gpt(models, judge, [one], PHRASES)
    assert table.get("heading %", {}) == dict.fromkeys(["truth", "decoded", "drawn"] * has, 100)


def test_words_are_not_drawn_as_the_clip_was():
    """What is seen follows from (seed, number) too: how it is said must not follow from that."""
    said = [prompt_of(clip(), 7, n) for n in range(20)]
    drawn = [prompt_for(clip().attributes, np.random.default_rng([7, n])) for n in range(20)]
    assert sum(one == two for one, two in zip(said, drawn, strict=True)) < 10


def test_figures_are_functions_of_the_seed(models, judge):
    clips = [clip(n) for n in range(2)]
    first = evaluate_gpt(models, judge, clips, PHRASES, seed=1)
    assert evaluate_gpt(models, judge, clips, PHRASES, seed=1) == first
    assert set(first["heading %"]) == {"truth", "decoded", "drawn"}


@pytest.mark.parametrize(
    ("x", "y", "wanted"), [(2, 0, "right"), (-2, 1, "left"), (0.5, 2, "down"), (0, -1, "up")]
)
@pytest.mark.parametrize("ground", [0.0, 1.5])
def test_directions_by_hand(x, y, wanted, ground):
    flow = torch.full((3, 2, 32, 32), ground)
    flow[:, 0, 10:20, 8:20] += x
    flow[:, 1, 10:20, 8:20] += y
    assert main_direction(flow) == wanted


def test_the_ground_is_what_the_rim_shows():
    """Of a figure so large that most of what is inside moves with it."""
    flow = torch.zeros(3, 2, 32, 32)
    flow[:, 1, 5:27, 5:27] = -1
    assert main_direction(flow) == "up"


def test_a_square_is_seen_to_move():
    from flowwarp.pipelines.flow.estimate import load_flownet

    coarse = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ground = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic")[0].clamp(0, 1)
    figure = torch.nn.functional.interpolate(coarse.flip(2), (24, 24), mode="bicubic")[0]
    frames = []
    for number in range(3):
        frame = ground.clone()
        frame[:, 20:44, 16 + 2 * number : 40 + 2 * number] = figure.clamp(0, 1)
        frames.append(frame)
    video = torch.stack(frames)
    net = load_flownet()
    assert heading(net, video) == "right"
    assert heading(net, video.flip(0)) == "left"
    assert heading(net, video.transpose(2, 3)) == "down"


# ------------------------------------------------------------------ the upsampler


def test_upsampling_by_hand():
    one = clip(size=2 * SIZE)
    truth = one.video.float() / 255
    decode = halve(one.video)
    brighter = 0.5 * truth + 0.25
    table = compare_upsampling(one, decode, {"held": truth, "free": truth + 0.1})
    assert set(table["psnr"]) == {"bicubic", "free", "held"}
    assert table["psnr"]["held"] == math.inf
    assert table["psnr"]["free"] == pytest.approx(20, abs=1e-3)
    assert table["ssim"]["held"] == pytest.approx(1)
    assert table["gradient"]["free"] == pytest.approx(0, abs=1e-6)
    assert table["fine"]["free"] == pytest.approx(1, rel=1e-4)
    assert table["fine"]["bicubic"] < 0.5
    assert table["consistency"]["truth"] == math.inf
    assert table["consistency"]["free"] == pytest.approx(20, abs=1e-3)
    assert table["warping"] == {"truth": 0, "bicubic": 0, "free": 0, "held": 0}
    dim = compare_upsampling(one, decode, {"held": brighter, "free": truth})
    assert dim["fine"]["held"] == pytest.approx(0.5, rel=1e-4)
    assert dim["gradient"]["held"] == pytest.approx(
        float((truth.diff(dim=-1).abs().mean() + truth.diff(dim=-2).abs().mean()) / 4)
    )
    grey = dataclasses.replace(one, video=torch.full_like(one.video, 51))  # 0.2
    flat = grey.video / 255
    similar = (2 * 0.2 * 0.3 + 1e-4) / (0.2**2 + 0.3**2 + 1e-4)  # of two plain greys
    table = compare_upsampling(grey, halve(grey.video), {"held": flat + 0.1})
    assert table["ssim"]["held"] == pytest.approx(similar, rel=1e-3)


@pytest.mark.parametrize("name", ["valid_21", "visible_21"])
def test_warping_is_judged_where_flow_is_exact_and_leads_to_what_is_seen(name):
    one = clip(size=2 * SIZE)
    video, seen = one.video.clone(), torch.ones_like(one.visible_21)
    video[3, :, :8] = 255 - video[3, :, :8]
    seen[2:4, :, :8] = False  # from the frame that differs, and back to it
    one = dataclasses.replace(one, video=video, **{name: seen})
    table = compare_upsampling(one, halve(video), {"held": video / 255})
    assert table["warping"]["truth"] == table["warping"]["held"] == 0


def test_reconstructions_are_upsampled_both_ways(models):
    clips = [clip(n, size=2 * SIZE) for n in range(2)]
    table = evaluate_upsampler(models.dvae, models.upsampler, clips, seed=3, steps=1)
    decode = models.dvae.decode(models.dvae.encode(halve(clips[0].video)[None]))[0]
    alone = evaluate_upsampler(models.dvae, models.upsampler, clips[:1], seed=3, steps=1)
    bicubic = enlarge(decode).clamp(0, 1)
    truth = clips[0].video.float() / 255
    assert alone["psnr"]["bicubic"] == pytest.approx(float(psnr(bicubic[None], truth[None])))
    assert table["psnr"]["free"] != table["psnr"]["held"]
    other = evaluate_upsampler(models.dvae, models.upsampler, clips[1:], seed=4, steps=1)
    assert table["psnr"]["held"] == pytest.approx(
        (alone["psnr"]["held"] + other["psnr"]["held"]) / 2
    )
    assert set(video_evaluation.STEADY) < set(table)


def test_what_is_held_by_estimated_flow_is_judged_by_the_exact(models):
    clips = [clip(0, size=2 * SIZE)]
    exact = evaluate_upsampler(models.dvae, models.upsampler, clips, seed=3)
    table = evaluate_upsampler(models.dvae, models.upsampler, clips, seed=3, flownet=models.flownet)
    decode = models.dvae.decode(models.dvae.encode(halve(clips[0].video)[None]))[0]
    large, apart = enlarge(decode).clamp(0, 1), models.dvae.config.stride_time
    flow, visible = steady_clip_motion(models.flownet, large, apart)
    drawn = upsample_clip(models.upsampler, decode, flow, visible, torch.Generator().manual_seed(3))
    known = clips[0].visible_21 & clips[0].valid_21
    error = float(warping_error(drawn[None], clips[0].flow_21[None], known[None]))
    assert table["warping"].pop("estimated") == pytest.approx(error, rel=1e-6)
    assert error != pytest.approx(table["warping"]["held"], rel=1e-5)
    assert table["warping"] == exact["warping"]


def test_free_samples_beside_originals(models, monkeypatch):
    def stands_still(net, video, apart):
        assert apart == models.dvae.config.stride_time
        return torch.zeros_like(video[1:, :2]), torch.ones_like(video[1:, :1]).bool()

    monkeypatch.setattr(clip_motion, "steady_clip_motion", stands_still)
    for module in (precision, text_video):  # so that both decode to the same bit
        monkeypatch.setattr(module, "fast_dtype", lambda device: torch.float32)
    clips = [clip(n, size=2 * SIZE) for n in range(2)]
    table = evaluate_samples(models, clips, seed=3, steps=1, best=1)
    assert set(table["warping"]) == {"truth", "bicubic", "free", "held"}
    assert table["warping"]["truth"] == 0 < min(table["warping"][w] for w in ("free", "held"))
    assert set(table["fine"]) == {"bicubic", "free", "held"}
    one = evaluate_samples(models, clips[:1], seed=3, steps=1, best=1)
    prompt = prompt_for(clips[0].attributes, np.random.default_rng([3, 0, 1]))
    codes = sample_video_tokens(models.gpt, [Prompt(prompt)], [3], SAMPLING)
    video = enlarge(models.dvae.decode(codes)[0]).clamp(0, 1)
    energies = fine_energy(video).mean() / fine_energy(clips[0].video.float() / 255).mean()
    assert one["fine"]["bicubic"] == pytest.approx(math.sqrt(energies), rel=1e-4)
    # Noise and codes have streams of their own, as when a video is made.
    frames = generate(models, prompt, seed=3, best=1, steps=1, temporal=False)
    made = torch.stack(list(frames))
    energies = fine_energy(made).mean() / fine_energy(clips[0].video.float() / 255).mean()
    assert one["fine"]["free"] == pytest.approx(math.sqrt(energies), rel=1e-4)
    assert evaluate_samples(models, clips, seed=3, steps=1, best=1) == table
    assert evaluate_samples(models, clips, seed=4, steps=1, best=1) != table


def test_each_video_is_judged_by_its_own_motion(models, monkeypatch):
    """Samples by that of what they were enlarged from, originals by that of their own."""
    one, judged = clip(size=2 * SIZE), []
    monkeypatch.setattr(video_evaluation, "enlarged_motion", lambda net, seen, apart: (seen, None))
    monkeypatch.setattr(
        video_evaluation, "_upsample", lambda sharp, decode, motion, **named: enlarge(decode)
    )
    monkeypatch.setattr(video_evaluation, "_error", lambda *given: judged.append(given) or 0.0)
    evaluate_samples(models, [one], best=1)
    for video, seen, _ in judged[:3]:
        assert torch.equal(video.clamp(0, 1), enlarge(seen).clamp(0, 1))
    truth, seen, _ = judged[3]
    assert torch.equal(truth, one.video.float() / 255)
    assert torch.equal(seen, halve(one.video))


def test_each_sample_has_a_seed_and_noise_of_its_own(models, monkeypatch):
    codes, noise, clips = [], [], [clip(n, size=2 * SIZE) for n in range(2)]

    def draw(models, prompts, seeds, *options):
        codes.append(seeds)
        return models.dvae.encode(halve(clips[0].video)[None]), prompts

    def upsample(upsampler, decode, motion, *, seed, steps, temporal=True):
        noise.append(seed)
        return enlarge(decode)

    monkeypatch.setattr(video_evaluation, "draw_codes", draw)
    monkeypatch.setattr(video_evaluation, "_upsample", upsample)
    monkeypatch.setattr(video_evaluation, "_AT_ONCE", 1)
    evaluate_samples(models, clips, seed=7)
    assert codes == [[7], [8]]
    assert noise == [7 + NOISE] * 2 + [8 + NOISE] * 2  # the same for free and held


def test_what_was_learned_by_heart_is_found():
    clips = [clip(n, size=2 * SIZE) for n in range(5)]
    samples = torch.stack([clips[n].video.float() / 255 for n in (3, 1)])
    samples[1] = (samples[1] + 0.1).clamp(0, 1)
    distances, found = nearest_clips(samples, iter(clips))
    assert distances[0] == 0
    assert 0.05 < distances[1] <= 0.1
    assert torch.equal(found[0], samples[0])
    assert torch.equal(found[1], clips[1].video.float() / 255)


def test_means_by_hand():
    tables = [{"a": {"x": 1.0, "y": math.nan}}, {"a": {"x": 4.0, "y": math.nan}}]
    means = mean_table(tables)
    assert means["a"]["x"] == 2.5
    assert math.isnan(means["a"]["y"])
    tables[0]["a"]["y"] = 3.0
    assert mean_table(tables)["a"]["y"] == 3
    assert mean_table([]) == {}
