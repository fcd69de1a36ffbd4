"""Words to video and back: the stages as one stream are the stages one after the other."""

import dataclasses
import itertools
import time

import pytest
import torch

from flowwarp.data.captioned import middle_square
from flowwarp.data.sprites import bundled_layers
from flowwarp.data.tokens import Medium, join
from flowwarp.data.world import compose_clip
from flowwarp.errors import InputError
from flowwarp.io import checkpoints
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.metrics.video import psnr
from flowwarp.models.captioner import END, Captioner, CaptionerConfig
from flowwarp.models.dvae import DVAE, TINY
from flowwarp.models.gpt import GPT, Sampling
from flowwarp.models.upsampler import enlarge, halve, upsample_clip, upsample_frames
from flowwarp.pipelines import captions, text_video
from flowwarp.pipelines.captions import (
    MediaCaptioner,
    caption_hits,
    look,
    reply,
    statement_hits,
)
from flowwarp.pipelines.clip_motion import steady_clip_motion, steady_motion
from flowwarp.pipelines.hearing import hear
from flowwarp.pipelines.precision import fast_autocast
from flowwarp.pipelines.sequences import (
    CODES,
    SAMPLING,
    VOCABULARY,
    Prompt,
    describe,
    load_gpt,
    sample_video_tokens,
    seeds_after,
)
from flowwarp.pipelines.sketches import choose_sketches, sketch
from flowwarp.pipelines.text_video import (
    STAGES,
    VideoModels,
    agreement,
    describe_video,
    draw_codes,
    generate,
    load_models,
    with_sketches,
)
from flowwarp.pipelines.video_tokens import detokenize, fingerprint, tokenize
from flowwarp.train.captioner import text_vocabulary
from flowwarp.train.gpt import bits_by_medium, kinds_ahead
from flowwarp.train.tokenized import grid_media

CAPTION = "a red knight"
WINDOW, SIZE = 8, 32


@pytest.fixture(scope="module")
def models(video_weights):
    return load_models(**video_weights)


@pytest.fixture(autouse=True)
def _four_are_begun(monkeypatch):
    """Let the numbers of tests not hang on what is the default."""
    monkeypatch.setattr(text_video, "BEGINNINGS", 4)
    monkeypatch.setattr(text_video, "REWRITES", 2)


@pytest.fixture
def _exact(monkeypatch):
    """Let all stages compute in fp32, so that parts and whole are equal bit for bit."""
    monkeypatch.setattr(text_video, "fast_dtype", lambda device: torch.float32)


def make(models, prompt=CAPTION, best=1, **options):
    return torch.stack(list(generate(models, prompt, best=best, **options)))


def draw(models, codes, seed, temporal=True):
    """Do at once what the stream does frame by frame after the tokens."""
    decode = models.dvae.decode(codes[None])[0]
    large = enlarge(decode).clamp(0, 1)
    return upsample_clip(
        models.upsampler,
        decode,
        *steady_clip_motion(models.flownet, large, models.dvae.config.stride_time),
        torch.Generator().manual_seed(seed + 0xC2B2AE35),
        temporal=temporal,
    )


# ------------------------------------------------------------------ words to video


@pytest.mark.usefixtures("_exact")
@pytest.mark.parametrize("temporal", [True, False])
def test_is_tokens_then_decoder_then_upsampler(models, temporal):
    (codes,) = sample_video_tokens(models.gpt, [Prompt(CAPTION)], [5], SAMPLING)
    video = make(models, seed=5, temporal=temporal)
    assert video.shape == (WINDOW, 3, SIZE, SIZE)
    assert torch.equal(video, draw(models, codes, 5, temporal))


@pytest.mark.usefixtures("_exact")
def test_goes_on_without_a_seam(models):
    """Each window begins with the end of the last; decoder and upsampler see one long video."""
    (first,) = sample_video_tokens(models.gpt, [Prompt(CAPTION)], [5], SAMPLING)
    codes = first
    for window in (1, 2):
        prompt = Prompt(CAPTION, begin=codes[-1:])
        (more,) = sample_video_tokens(models.gpt, [prompt], [5 + window * 0x85EBCA6B], SAMPLING)
        assert torch.equal(more[:1], codes[-1:])
        codes = torch.cat([codes, more[1:]])
    assert len(codes) == 4
    video = make(models, seed=5, frames=14)
    assert torch.equal(video, draw(models, codes, 5)[:14])
    # But for those at its end, whose motion hangs on what comes after them.
    assert torch.equal(make(models, seed=5, frames=4), video[:4])


@pytest.mark.usefixtures("_exact")
def test_without_upsampler_frames_are_decoded_only(models):
    plain = dataclasses.replace(models, upsampler=None, flownet=None)
    (codes,) = sample_video_tokens(models.gpt, [Prompt(CAPTION)], [0], SAMPLING)
    assert torch.equal(make(plain), models.dvae.decode(codes[None])[0])
    assert (plain.size, models.size) == (SIZE // 2, SIZE)


def test_no_flow_is_estimated_for_frames_by_themselves(models, monkeypatch):
    still = make(dataclasses.replace(models, flownet=None))
    monkeypatch.setattr(text_video, "steady_motion", None)
    assert torch.equal(make(models, temporal=False), still)


def test_a_seed_is_a_video(models):
    video = make(models, seed=1)
    assert torch.equal(make(models, seed=1), video)
    assert not torch.equal(make(models, seed=2), video)
    assert not torch.equal(make(models, "left", seed=1), video)
    assert torch.equal(make(models, "  a red\n knight ", seed=1), video)
    assert not torch.equal(make(models, None, seed=1), video)
    assert not torch.equal(make(models, seed=1, steps=3), video)
    assert not torch.equal(make(models, seed=1, sampling=Sampling(temperature=0)), video)


def test_low_precision_is_near(models, monkeypatch):
    video = {}
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(text_video, "fast_dtype", lambda device, dtype=dtype: dtype)
        video[dtype] = make(models, seed=3)
        assert video[dtype].dtype == torch.float32
    difference = (video[torch.float32] - video[torch.bfloat16]).abs()
    assert 0 < float(difference.mean()) < 0.02


@pytest.fixture
def asked(monkeypatch):
    """Note the prompts of windows that are written."""
    prompts = []

    def spy(gpt, some, *rest, **named):
        prompts.extend(some)
        return sample_video_tokens(gpt, some, *rest, **named)

    monkeypatch.setattr(text_video, "sample_video_tokens", spy)
    return prompts


def test_a_video_begins_with_its_picture(models, asked, monkeypatch):
    monkeypatch.setattr(text_video, "fast_dtype", lambda device: torch.float32)
    picture = torch.rand(3, 20, 31, generator=torch.Generator().manual_seed(0))
    plain, told = dataclasses.replace(models, upsampler=None, flownet=None), []
    video = make(plain, image=picture, frames=12, progress=lambda *at: told.append(at))
    wanted = tokenize(models.dvae, middle_square(picture, 16)[None])
    assert torch.equal(asked[0].frame, wanted)
    assert torch.equal(asked[0].begin, wanted)
    assert torch.equal(video[:4], torch.stack(list(detokenize(models.dvae, wanted))))
    assert asked[1].frame is None
    assert asked[1].begin.shape == (1, 4, 4)
    assert not torch.equal(asked[1].begin, wanted)
    assert not torch.equal(video[4:WINDOW], make(plain)[4:])
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize(("size", "held"), [(SIZE, True), (SIZE + 7, True), (SIZE - 1, False)])
def test_the_first_frame_holds_on_to_its_picture(models, monkeypatch, size, held):
    given = []

    def spy(*args, begin=None, **named):
        given.append(begin)
        return upsample_frames(*args, begin=begin, **named)

    monkeypatch.setattr(text_video, "upsample_frames", spy)
    picture = torch.rand(3, size, size + 4, generator=torch.Generator().manual_seed(0))
    make(models, image=picture, frames=2)
    if held:
        assert torch.equal(given[0], middle_square(picture, SIZE)[None] / 255)
    else:  # enlarged, it would be blurred
        assert given == [None]


@pytest.mark.parametrize("size", [SIZE, SIZE - 1])
def test_a_picture_is_known_to_stand_still(models, monkeypatch, size):
    stands = []

    def spy(net, frames, apart, still=0):
        stands.append(still)
        return steady_motion(net, frames, apart, still)

    monkeypatch.setattr(text_video, "steady_motion", spy)
    make(models, image=torch.rand(3, size, size, generator=torch.Generator().manual_seed(0)))
    make(models)
    assert stands == [models.dvae.config.stride_time, 0]


def test_a_picture_that_no_video_can_begin_with_is_told(models, asked, monkeypatch):
    monkeypatch.setattr(VideoModels, "can_begin", lambda models, count: False)
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(make(models, image=picture), make(models))
    assert torch.equal(asked[0].frame, tokenize(models.dvae, picture[None]))
    assert asked[0].begin is None


def test_no_first_frame_holds_on_to_a_picture_that_is_only_told(models, monkeypatch):
    monkeypatch.setattr(VideoModels, "can_begin", lambda models, count: False)
    picture = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    held = make(models, image=picture)
    monkeypatch.setattr(text_video, "_full_size", lambda *_: 1 / 0)
    assert torch.equal(make(models, image=picture), held)


@pytest.mark.usefixtures("_exact")
def test_the_best_is_taken(models):
    seeds = [seed for own in (9, 4) for seed in seeds_after(own, 3)]
    captions = [CAPTION] * 3 + ["a knight"] * 3
    many = sample_video_tokens(models.gpt, list(map(Prompt, captions)), seeds, SAMPLING)
    scores = agreement(models, many, captions).view(2, 3)
    found, _ = draw_codes(models, [Prompt(CAPTION), Prompt("a knight")], [9, 4], best=3)
    assert torch.equal(found[0], many[scores[0].argmax()])
    assert torch.equal(found[1], many[3 + scores[1].argmax()])
    best = draw_codes(models, [Prompt(CAPTION)], [9], best=3)[0][0]
    assert torch.equal(make(models, seed=9, best=3), draw(models, best, 9))
    # Without words there is nothing to choose by.
    assert torch.equal(make(models, None, best=3), make(models, None))


def test_frames_come_while_others_are_to_be_written(models, monkeypatch):
    windows = []

    def spy(*arguments, **named):
        windows.append(arguments[2])
        return sample_video_tokens(*arguments, **named)

    monkeypatch.setattr(text_video, "sample_video_tokens", spy)
    frames = generate(models, CAPTION, frames=10**9)  # memory for all there is not
    assert windows == []
    for number in range(1, 18):
        next(frames)
        seen = number + 4  # a frame's motion hangs on those after it
        assert len(windows) == (
            1 if seen <= 8 else 2 if seen <= 12 else 3 if seen <= 16 else 4 if seen <= 20 else 5
        )
        assert not torch.is_autocast_enabled("cpu")
    assert len({tuple(seeds) for seeds in windows}) == 5


def test_tells_seconds_and_progress(models):
    seconds, told = {}, []
    start = time.perf_counter()
    for _ in generate(
        models, CAPTION, frames=10, seconds=seconds, progress=lambda *at: told.append(at)
    ):
        time.sleep(0.01)  # is nobody's
    wall = time.perf_counter() - start
    assert set(seconds) == set(STAGES)
    assert min(seconds.values()) > 0
    assert 0.5 * (wall - 0.1) < sum(seconds.values()) < wall - 0.1
    done, totals = zip(*told, strict=True)
    assert len(set(totals)) == 1
    assert list(done) == sorted(done)
    assert done[-1] == totals[0]


def test_torchs_default_type_is_no_matter(models, video_weights):
    wanted = make(models, steps=2), describe_video(models, numbered(WINDOW), seed=1, best=2)
    torch.set_default_dtype(torch.float64)
    try:
        again = load_models(**video_weights)
        found = make(again, steps=2), describe_video(again, numbered(WINDOW), seed=1, best=2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found[0], wanted[0])
    assert found[1] == wanted[1]


@pytest.mark.parametrize(
    ("prompt", "options", "problem"),
    [
        (CAPTION, {"frames": 0}, "frames must be a whole number"),
        (CAPTION, {"frames": 2.5}, "frames must be a whole number"),
        (CAPTION, {"best": 0}, "best must be a whole number"),
        (CAPTION, {"candidates": "x"}, "candidates must be a whole number"),
        (CAPTION, {"steps": 1.5}, "steps must be a whole number"),
        (" \n", {}, "prompt must not be empty"),
        (CAPTION, {"image": torch.zeros(4, 8, 8)}, "image must be"),
        (CAPTION, {"image": torch.zeros(3, 0, 8)}, "image must be"),
        (CAPTION, {"image": torch.full((3, 8, 8), 255.0)}, r"image must be in \[0, 1\].* 255"),
        (CAPTION, {"image": torch.full((3, 8, 8), torch.nan)}, r"image must be in \[0, 1\].* nan"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(models, prompt, options, problem):
    with pytest.raises(ValueError, match=problem):
        generate(models, prompt, **options)


def test_a_picture_of_another_type_is_refused(models):
    picture = torch.zeros(3, 8, 8)
    for wrong, got in ((picture.byte(), r"torch\.uint8"), (picture.numpy(), "ndarray")):
        with pytest.raises(TypeError, match=f"image must be .* got {got}"):
            generate(models, CAPTION, image=wrong)


@pytest.mark.parametrize(("size", "most"), [(20, 8), (24, None), (28, 8), (36, 8)])
def test_frames_of_an_odd_number_of_codes_are_not_gone_on_with(models, size, most):
    """One token frame is no whole patches: there is no place where another window could begin."""
    media = (models.gpt.vocabulary["text"], *grid_media(models.dvae, size, WINDOW))
    words = dataclasses.replace(models.gpt.vocabulary, media=media)
    odd = dataclasses.replace(models, gpt=dataclasses.replace(models.gpt, vocabulary=words))
    generate(odd, CAPTION, frames=WINDOW)
    assert odd.can_begin(1) == (most is None)
    if most is None:
        generate(odd, CAPTION, frames=WINDOW + 1)
    else:
        with pytest.raises(ValueError, match=f"frames must be at most {most} with this"):
            generate(odd, CAPTION, frames=WINDOW + 1)


@pytest.fixture(scope="module")
def sketching(models):
    """Return models that make videos after sketches."""
    words = models.gpt.vocabulary
    torch.manual_seed(0)
    eye = Captioner(
        CaptionerConfig(words.pairs.size + 1, size=32, apart=2, kinds=64, widths=(8, 8), hidden=8)
    )
    torch.nn.init.normal_(eye.head.weight, std=0.5)
    known = dataclasses.replace(words, media=(*words.media, Medium("sketch", 64, (2, 4, 4))))
    config = dataclasses.replace(models.gpt.net.config, vocabulary=known.size, kinds=64)
    net = GPT(config)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    net.head.weight.data.div_(3)  # else it is too sure of what comes to care what it is told
    gpt = dataclasses.replace(models.gpt, net=net.eval(), vocabulary=known)
    sketcher = MediaCaptioner(eye.eval(), text_vocabulary(words.pairs, 8))
    return dataclasses.replace(
        models, gpt=gpt, upsampler=None, captioner=sketcher, sketcher=sketcher
    )


def test_videos_are_made_after_sketches(sketching):
    made = make(sketching, frames=2 * WINDOW)
    assert torch.equal(make(sketching, frames=2 * WINDOW), made)
    plain = make(dataclasses.replace(sketching, sketcher=None))
    assert not torch.equal(plain, made[:WINDOW])
    assert not torch.equal(make(sketching, candidates=1), made[:WINDOW])
    without = dataclasses.replace(sketching, sketcher=None)
    # What nothing is said of, or a picture, has no sketch.
    assert torch.equal(make(sketching, None), make(without, None))
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(make(sketching, image=image), make(without, image=image))
    long = {"image": image, "frames": 2 * WINDOW}  # nor what goes on from it
    assert torch.equal(make(sketching, **long), make(without, **long))


def test_a_sketch_goes_on_where_the_one_before_ends(sketching, monkeypatch):
    asked = []

    def spy(gpt, captioner, caption, seed, candidates, count, begin=None):
        asked.append(begin)
        made.append(choose_sketches(gpt, captioner, caption, seed, 12, count, begin))
        return made[-1]

    made = []
    monkeypatch.setattr(text_video, "choose_sketches", spy)
    monkeypatch.setattr(  # the last is the best
        text_video, "agreement", lambda models, videos, *_: torch.arange(len(videos))
    )
    make(sketching, seed=1, frames=2 * WINDOW, best=3)
    assert asked[0] is None
    # Of twelve that are begun the last three go on, the last one first; of these it is the last.
    assert torch.equal(asked[1], made[0][9, 1:])
    assert not torch.equal(asked[1], made[0][11, 1:])


def test_what_is_begun_is_told_its_sketch_too(sketching):
    """As in training: so the likeliest end of the likeliest beginning is that of the whole."""
    gpt, sketch = sketching.gpt, torch.arange(32).view(2, 4, 4)
    likeliest = Sampling(temperature=0, guidance=2)

    def draw(begin):
        prompt = Prompt(CAPTION, begin=begin, sketch=sketch)
        return sample_video_tokens(gpt, [prompt], [0], likeliest, dtype=torch.float32)[0]

    whole = draw(None)
    assert torch.equal(draw(whole[:1]), whole)


def test_of_four_times_as_many_the_best_are_rewritten_and_of_all_the_best_go_on(
    sketching, monkeypatch
):
    def score(models, videos, *_):
        return -(videos.double() - 40).square().sum((1, 2, 3))

    monkeypatch.setattr(text_video, "agreement", score)
    prompts, seeds = [Prompt(CAPTION), Prompt("a knight")], [1, 2]

    def drawn(asked, seeds, **how):
        return sample_video_tokens(sketching.gpt, asked, seeds, SAMPLING, **how)

    def best(videos, count):
        """Rows of the best of each prompt, best first."""
        scores = score(None, videos, None).view(2, -1)
        return (scores.topk(count).indices + scores.shape[1] * torch.arange(2)[:, None]).tolist()

    first = [
        with_sketches(sketching, prompt, seed, 24, 12)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    asked = [*first[0], *first[1]]
    every = [own for seed in seeds for own in seeds_after(seed, 12)]
    begun = drawn(asked, every, times=1)
    assert begun.shape == (24, 1, 4, 4)
    rows = [row for own in best(begun, 3) for row in own for _ in range(2)]
    again = [dataclasses.replace(asked[row], begin=begun[row]) for row in rows]
    others = [
        (every[row] + 0x165667B1 * (1 + number % 2)) % 2**63 for number, row in enumerate(rows)
    ]
    rewritten = drawn(again, others, times=1, keep=16)
    assert torch.equal(rewritten[:, :, :2], begun[rows][:, :, :2])
    both = torch.cat([begun.view(2, 12, 1, 4, 4), rewritten.view(2, 6, 1, 4, 4)], 1).flatten(0, 1)
    whose = asked[:12] + again[:6] + asked[12:] + again[6:]
    by = every[:12] + others[:6] + every[12:] + others[6:]
    kept = [row for own in best(both, 3) for row in own]
    assert any(row % 18 >= 12 for row in kept)
    assert any(row % 18 < 12 for row in kept)
    ends = [dataclasses.replace(whose[row], begin=both[row]) for row in kept]
    videos = drawn(ends, [(by[row] + 0x27D4EB2F) % 2**63 for row in kept])
    ((one,), (other,)) = best(videos, 1)
    assert any(kept[row] % 18 >= 12 for row in (one, other))  # what was rewritten wins

    told = []
    found, chosen = draw_codes(
        sketching, prompts, seeds, candidates=24, best=3, progress=lambda *at: told.append(at)
    )
    assert torch.equal(found, videos[[one, other]])
    assert torch.equal(chosen[1].sketch, ends[other].sketch)
    assert told == sorted(told)
    assert told[-1] == (told[0][1], told[0][1])


def test_a_quarter_of_the_first_window_is_seen_before_the_choice(sketching, monkeypatch):
    lengths = []

    def spy(models, videos, *_):
        lengths.append(tuple(videos.shape[:2]))
        return torch.zeros(len(videos))

    monkeypatch.setattr(text_video, "agreement", spy)
    draw_codes(sketching, [Prompt(CAPTION)], [9], best=2)
    assert lengths == [(8, 1), (4, 1), (2, 2)]
    for times, opening in ((1, 1), (3, 1), (4, 1), (8, 2), (16, 4)):
        monkeypatch.setattr(VideoModels, "grid", (times, 4, 4))
        assert text_video._opening(sketching) == opening


@pytest.mark.parametrize(
    ("count", "apart", "wanted"),
    [
        (4, 4, [0, 1, 2, 3, 0, 1, 2, 3]),
        (2, 4, [0, 1, 0, 1, 0, 1]),
        (3, 4, [0, 0, 0, 0, 0]),
        (1, 2, [0, 0, 0]),
        (5, 4, [0, 1, 2, 3, 4]),
    ],
)
def test_what_is_too_short_to_be_compared_stands_still(count, apart, wanted):
    frames = torch.arange(2 * count).view(2, count, 1, 1, 1)
    held = text_video._hold(frames, apart)
    assert held[0].flatten().tolist() == wanted
    assert torch.equal(held[1], held[0] + count)
    if count <= apart:
        assert torch.equal(held[:, apart:], held[:, :-apart])


@pytest.fixture
def stating(sketching):
    """Networks whose captioner states things."""
    words = sketching.gpt.vocabulary
    torch.manual_seed(0)
    eye = Captioner(CaptionerConfig(words.pairs.size + 1, size=16, apart=2, widths=(8, 8)))
    torch.nn.init.normal_(eye.head.weight, std=0.5)
    captioner = MediaCaptioner(eye.eval(), text_vocabulary(words.pairs, 8), ("coat", "way"))
    return dataclasses.replace(sketching, captioner=captioner)


def test_what_prompts_state_is_read_once(stating, monkeypatch):
    prompts = [Prompt(CAPTION), Prompt("a knight"), Prompt(CAPTION)]
    wanted = draw_codes(stating, prompts, [9, 4, 2], best=2)[0]
    read = []

    def spy(captioner, caption):
        read.append(caption)
        return reply(captioner, caption)

    for module in (text_video, captions):
        monkeypatch.setattr(module, "reply", spy)
    assert torch.equal(draw_codes(stating, prompts, [9, 4, 2], best=2)[0], wanted)
    assert sorted(read) == ["a knight", CAPTION]
    # And what was read decides.
    found = []
    for sure in (1e6, -1e6):
        said = [(torch.tensor([END]), sure)] * 2
        monkeypatch.setattr(text_video, "reply", lambda *_, said=said: said)
        found.append(draw_codes(stating, prompts, [9, 4, 2], best=2)[0])
    assert not torch.equal(*found)


def test_what_a_prompt_leaves_open_decides_nothing(stating, monkeypatch):
    gpt = dataclasses.replace(stating.gpt, known=load_gpt().known)
    captioner = dataclasses.replace(stating.captioner, things=("direction", "torso color"))
    models = dataclasses.replace(stating, gpt=gpt, captioner=captioner)
    told = []

    def spy(models, videos, captions, replies):
        told.append({caption: [sure for _, sure in own] for caption, own in replies.items()})
        return agreement(models, videos, captions, replies)

    monkeypatch.setattr(text_video, "agreement", spy)
    draw_codes(
        models, [Prompt(hear(gpt, "a maroon shirt").text), Prompt("a knight")], [1, 2], best=2
    )
    (_, color), (way, _) = told[0]["a person in a maroon shirt"], told[0]["a knight"]
    assert told[0]["a person in a maroon shirt"][0] == way == 0
    assert color > 0


def test_agreement_is_of_words_and_of_statements(stating):
    models, captioner = stating, stating.captioner
    plain = dataclasses.replace(captioner, things=())
    videos = torch.randint(64, (3, 2, 4, 4), generator=torch.Generator().manual_seed(0))
    told = [CAPTION, CAPTION, "a knight"]
    with torch.inference_mode(), fast_autocast(models.device):
        frames = torch.stack([torch.stack(list(detokenize(models.dvae, v))) for v in videos])
    seen = look(captioner, frames)
    said, stated = (of(captioner, seen, told) for of in (caption_hits, statement_hits))
    torch.testing.assert_close(agreement(models, videos, told), said / 4 + stated)
    assert float(said.min()) > 0
    assert float(stated.min()) > 0
    only = dataclasses.replace(models, captioner=plain)
    torch.testing.assert_close(agreement(only, videos, told), said / 4)


def test_what_is_rewritten_or_goes_on_has_draws_of_its_own(sketching, monkeypatch):
    drawn = []

    def spy(gpt, prompts, seeds, *rest, **named):
        drawn.append({seed % 2**32 for seed in seeds})
        return sample_video_tokens(gpt, prompts, seeds, *rest, **named)

    monkeypatch.setattr(text_video, "sample_video_tokens", spy)
    monkeypatch.setattr(
        text_video, "agreement", lambda models, videos, *_: torch.arange(len(videos))
    )
    plain = dataclasses.replace(sketching, sketcher=None)
    draw_codes(plain, [Prompt(CAPTION)], [9], best=2)
    assert [len(own) for own in drawn] == [8, 4, 2]
    assert len(set().union(*drawn)) == 14


def test_sketches_do_not_hang_on_how_many_threads_there_are(sketching, monkeypatch):
    def choose(gpt, captioner, caption, seed, candidates, count, begin):
        """Tell the seeds of those that each is chosen among."""
        return torch.tensor(seeds_after(seed, candidates)).view(count, -1)

    monkeypatch.setattr(text_video, "choose_sketches", choose)
    prompts, seeds = [Prompt(CAPTION), Prompt("a knight")], [9, 4]

    def sketches(parts):
        ends = [24 * part // parts for part in range(parts + 1)]
        own = (range(*pair) for pair in itertools.pairwise(ends))
        asked = [text_video._sketched(sketching, prompts, seeds, 36, 12, part) for part in own]
        return torch.stack([prompt.sketch for prompt in itertools.chain(*asked)])

    whole = sketches(1)
    assert torch.equal(whole[:12].flatten(), torch.tensor(seeds_after(9, 36)))
    assert torch.equal(whole[12:].flatten(), torch.tensor(seeds_after(4, 36)))
    for parts in (2, 5, 24):
        assert torch.equal(sketches(parts), whole)


def test_each_thread_draws_a_part(sketching, monkeypatch):
    def score(models, videos, *_):
        return videos.double().sum((1, 2, 3))

    monkeypatch.setattr(text_video, "agreement", score)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    tasks = []

    def here(work, count, threads):
        torch.set_num_threads(1)
        tasks.append((count, threads))
        ends = [count * part // threads for part in range(threads + 1)]
        results = [work(range(*ends[part : part + 2])) for part in range(threads)]
        torch.set_num_threads(3)
        return results

    asked = [Prompt(CAPTION), Prompt("a knight")], [9, 4]
    told = []
    try:
        found, chosen = draw_codes(
            sketching, *asked, candidates=24, best=3, progress=lambda *at: told.append(at)
        )
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(text_video, "run_parts", here)
        wanted, same = draw_codes(sketching, *asked, candidates=24, best=3)
    finally:
        torch.set_num_threads(before)
    assert tasks == [(24, 3), (12, 3), (6, 3)]
    assert torch.equal(found, wanted)
    for one, other in zip(chosen, same, strict=True):
        assert torch.equal(one.sketch, other.sketch)
    assert told == sorted(told)
    assert told[-1] == (told[0][1], told[0][1])


def test_the_sketcher_chooses_sketches_and_the_captioner_videos(sketching, monkeypatch):
    words = sketching.gpt.vocabulary
    eye = Captioner(CaptionerConfig(words.pairs.size + 1, size=16, apart=2, widths=(8, 8)))
    captioner = MediaCaptioner(eye.eval(), text_vocabulary(words.pairs, 8))
    two = dataclasses.replace(sketching, captioner=captioner)
    choosing = []

    def spy(gpt, sketcher, *rest):
        choosing.append(sketcher)
        return choose_sketches(gpt, sketcher, *rest)

    def count(own, seen, captions):
        choosing.append(own)
        return caption_hits(own, seen, captions)

    monkeypatch.setattr(text_video, "choose_sketches", spy)
    monkeypatch.setattr(text_video, "caption_hits", count)
    draw_codes(two, [Prompt(CAPTION)], [1], candidates=8, best=2)
    assert choosing == [two.sketcher, captioner, captioner, captioner]


def test_the_captioner_judges_videos(models):
    videos = torch.randint(9, (2, *models.grid), generator=torch.Generator().manual_seed(0))
    captions = [CAPTION, "a knight"]
    words = models.gpt.vocabulary
    eye = Captioner(CaptionerConfig(words.pairs.size + 1, size=16, widths=(8, 8), hidden=8))
    torch.nn.init.normal_(eye.head.weight, std=0.5)
    captioner = MediaCaptioner(eye.eval(), text_vocabulary(words.pairs, 8))
    found = agreement(dataclasses.replace(models, captioner=captioner), videos, captions)
    decoded = models.dvae.decode(videos, WINDOW).detach()
    wanted = caption_hits(captioner, look(captioner, decoded), captions) / 4
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert not torch.equal(found, agreement(models, videos, captions))


def test_capitals_make_no_other_video_where_there_are_none(models):
    gpt = dataclasses.replace(models.gpt, known=frozenset(CAPTION.split()))
    small = dataclasses.replace(models, gpt=gpt, upsampler=None)
    assert torch.equal(make(small, CAPTION.title()), make(small))


# ------------------------------------------------------------------ weights


def rewritten(models, path, **notes):
    """Write the transformer's weights with other notes."""
    gpt = models.gpt
    notes = {VOCABULARY: gpt.vocabulary.to_json()} | notes
    save_weights(path, gpt.net, Card("gpt", dataclasses.asdict(gpt.net.config), 1, notes))
    return path


def test_a_vae_whose_codes_were_not_learned(models, video_weights, tmp_path):
    note = {CODES: fingerprint(models.dvae)}
    given = video_weights | {"gpt": rewritten(models, tmp_path / "gpt.safetensors", **note)}
    shipped, other = tmp_path / "shipped.safetensors", tmp_path / "other.safetensors"
    card = Card("dvae", dataclasses.asdict(models.dvae.config))
    save_weights(shipped, models.dvae, card, dtype=torch.bfloat16)
    save_weights(other, DVAE(models.dvae.config), card)
    for right in (video_weights["dvae"], shipped):
        assert load_models(**given | {"dvae": right}).gpt.codes == note[CODES]
    with pytest.raises(InputError, match=r"gpt.safetensors: learned the codes of another VAE;"):
        load_models(**given | {"dvae": other})
    load_models(**video_weights | {"dvae": other})  # older weights do not say


def test_weights_that_do_not_fit_each_other(models, video_weights, tmp_path):
    net = DVAE(dataclasses.replace(TINY, widths=(8, 16, 32), levels=(3, 4)))
    other = tmp_path / "other.safetensors"
    save_weights(other, net, Card("dvae", dataclasses.asdict(net.config)))
    numbers = f"writes {models.dvae.config.codes} codes, the VAE has {net.config.codes};"
    with pytest.raises(InputError, match=rf"gpt.safetensors: {numbers}"):
        load_models(**video_weights | {"dvae": other})
    with pytest.raises(InputError, match="weights of dvae, not of upsampler"):
        load_models(**video_weights | {"upsampler": other})


@pytest.mark.parametrize(
    ("media", "problem"),
    [
        (lambda text, video, frame: (text, video), "has no frame"),
        (lambda text, video, frame: (video, frame), "has no text"),
        (
            lambda text, *grids: (text, *(dataclasses.replace(m, grid=(1, 4, 2)) for m in grids)),
            "not of square videos",
        ),
        (
            lambda text, video, frame: (
                text,
                video,
                dataclasses.replace(frame, size=2, shares=None),
            ),
            "other codes for first frames",
        ),
    ],
)
def test_a_transformer_of_other_media(models, video_weights, tmp_path, media, problem):
    words = models.gpt.vocabulary
    words = dataclasses.replace(words, media=media(*words.media[:3]))
    net = GPT(dataclasses.replace(models.gpt.net.config, vocabulary=words.size))
    card = Card("gpt", dataclasses.asdict(net.config), 1, {VOCABULARY: words.to_json()})
    save_weights(tmp_path / "gpt.safetensors", net, card)
    with pytest.raises(InputError, match=problem):
        load_models(**video_weights | {"gpt": tmp_path / "gpt.safetensors"})


def test_a_captioner_that_is_given_is_taken(models, video_weights, tmp_path):
    pairs = models.gpt.vocabulary.pairs
    words = text_vocabulary(pairs, 8)
    torch.manual_seed(0)

    def save(name, **changes):
        config = CaptionerConfig(pairs.size + 1, size=16, widths=(8, 8), hidden=8, **changes)
        net = Captioner(config)
        card = Card("captioner", dataclasses.asdict(config), 1, {VOCABULARY: words.to_json()})
        save_weights(tmp_path / name, net, card)
        return net, tmp_path / name

    (teller, tells), (drawer, draws) = save("tells.safetensors"), save("draws", kinds=9)
    both = load_models(**video_weights, captioner=tells, sketcher=draws)
    one = load_models(**video_weights, captioner=tells)
    drawn = load_models(**video_weights, sketcher=draws)
    assert one.sketcher is None
    assert drawn.captioner is drawn.sketcher
    for found, wanted in (
        (both.captioner, teller),
        (one.captioner, teller),
        (both.sketcher, drawer),
        (drawn.sketcher, drawer),
    ):
        assert torch.equal(*(next(net.see.parameters()) for net in (found.net, wanted)))


@pytest.fixture(scope="module")
def shipped():
    """Return the networks in the package, a clip, at half its size, its codes and their decode."""
    models = load_models(flow=None)
    clip = compose_clip(bundled_layers(), 0, 0)
    small = (255 * halve(clip.video)).round().byte()
    codes = tokenize(models.dvae, small)
    with torch.no_grad():
        return models, clip, small, codes, torch.stack(list(detokenize(models.dvae, codes)))


# Other trainings move these figures by a few percent; if weights mean something else, more does.


def test_shipped_codes_stand_for_what_they_should(shipped):
    _, _, small, _, decode = shipped
    assert float(psnr(decode[None], small[None].float() / 255)) > 23.2  # 24.5


def test_shipped_codes_are_foretold_of_their_caption_and_sketch(shipped):
    models, clip, small, codes, _ = shipped
    words, order = models.gpt.vocabulary, ["text", "video"]
    kinds = sketch(models.sketcher, small, models.grid[0])

    def bits(caption, kinds):
        tokens = join([words.text(caption), words.segment("video", codes)])
        told = [kinds_ahead(tokens, words, kinds)]
        with torch.no_grad():
            table = bits_by_medium(models.gpt.net, [tokens], words, order, told)
        return table["video_after_text"]

    right = bits(clip.caption, kinds)
    assert right < 2.3  # 2.04 of 10
    assert bits("a skeleton in black armor shooting a bow on grass", kinds) > right + 0.05
    count = words["sketch"].size
    assert bits(clip.caption, (kinds + count // 2) % count) > right + 0.03


def test_what_is_shipped_upsamples_along_the_flow(shipped):
    models, clip, *_, decode = shipped
    truth, decode = clip.video[:4].float() / 255, decode[:4]

    def quality(video):
        return float(psnr(video[None], truth[None]))

    def upsample(sign, **options):
        known = sign * clip.flow_21[:3], clip.visible_21[:3], torch.Generator().manual_seed(0)
        return quality(upsample_clip(models.upsampler, decode, *known, **options))

    held, free, astray = upsample(1), upsample(1, temporal=False), upsample(-1)
    # 23.5 dB, 23.2 and 22.2; enlarged it has 23.1.
    assert held > quality(enlarge(decode).clamp(0, 1)) + 0.1
    assert held > free + 0.05
    assert free > astray + 0.5


@pytest.mark.parametrize("name", ["gpt", "dvae", "upsampler"])
def test_a_package_without_weights_says_so(video_weights, tmp_path, monkeypatch, name):
    monkeypatch.setattr(checkpoints, "bundled", lambda folder: tmp_path)
    with pytest.raises(
        InputError, match=f"^{name}_base: this package has no weights.*train-{name}"
    ):
        load_models(**video_weights | {name: "base"})


# ------------------------------------------------------------------ video to words


def numbered(count, size=16):
    """Return frames whose grey level is their number, of 255."""
    return [torch.full((3, size, size), number / 255) for number in range(count)]


def test_describes_by_what_fits_all_parts_best(models, monkeypatch):
    said = {"one": -5.0, "two": -1.0}
    parts = []

    def describe(gpt, videos, *arguments, **named):
        parts.append(len(videos))
        return ["one", "two"][: len(videos)]

    def judge(gpt, videos, captions):
        return torch.tensor([said[caption] - k for k, caption in enumerate(captions)])

    monkeypatch.setattr(text_video, "describe", describe)
    monkeypatch.setattr(text_video, "text_likelihood", judge)
    found = describe_video(models, numbered(2 * WINDOW), best=2)
    assert (found.text, found.nats, found.windows) == ("two", -1.5, 2)
    assert parts == [2, 2]


def test_each_description_is_drawn_by_a_seed_of_its_own(models, monkeypatch):
    seeds = []

    def spy(gpt, videos, sampling=None, *, seed=0):
        if sampling is not None:  # but for the likeliest
            seeds.append(seed)
        return describe(gpt, videos, sampling, seed=seed)

    monkeypatch.setattr(text_video, "describe", spy)
    describe_video(models, numbered(WINDOW), best=3, seed=5)
    assert seeds == [6, 7]


def test_describes_any_size(models):
    """What is said is what is said of the codes of the middle square."""
    frames = torch.rand(WINDOW, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    found = describe_video(models, iter(frames))
    square = torch.stack([middle_square(frame, 16) for frame in frames])
    assert [found.text] == describe(models.gpt, tokenize(models.dvae, square)[None])
    with pytest.raises(ValueError, match="frames must not be empty"):
        describe_video(models, [])
    with pytest.raises(ValueError, match="best must be"):
        describe_video(models, frames, best=0)
