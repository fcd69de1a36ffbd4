"""Words to video and back: the stages as one stream are the stages one after the other."""

import dataclasses
import time

import pytest
import torch

from flowwarp.data.resizing import middle_square
from flowwarp.legacy.models.gpt import SAMPLING, Sampling
from flowwarp.legacy.models.upsampler import enlarge, upsample_clip, upsample_frames
from flowwarp.legacy.pipelines import choosing
from flowwarp.legacy.pipelines import generate as text_video
from flowwarp.legacy.pipelines.choosing import agreement, draw_codes
from flowwarp.legacy.pipelines.clip_motion import steady_clip_motion, steady_motion
from flowwarp.legacy.pipelines.generate import STAGES, describe_video, generate
from flowwarp.legacy.pipelines.load import VideoModels, load_models
from flowwarp.legacy.pipelines.sequences import Prompt, describe, sample_video_tokens, seeds_after
from flowwarp.legacy.pipelines.sketches import choose_sketches
from flowwarp.legacy.pipelines.tokens import detokenize, tokenize
from flowwarp.legacy.train.tokenized import grid_media

CAPTION = "a red knight"
WINDOW, SIZE = 8, 32

pytestmark = pytest.mark.usefixtures("_four_are_begun")


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

    monkeypatch.setattr(choosing, "sample_video_tokens", spy)
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
        assert not torch.is_autocast_enabled("cpu")  # though the stages after this one are cast
        windows.append(arguments[2])
        return sample_video_tokens(*arguments, **named)

    monkeypatch.setattr(choosing, "sample_video_tokens", spy)
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
        (" \n", {}, "nothing of the prompt can be read"),
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
    monkeypatch.setattr(choosing, "choose_sketches", spy)
    monkeypatch.setattr(  # the last is the best
        choosing, "agreement", lambda models, videos, *_: torch.arange(len(videos))
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


def test_capitals_make_no_other_video_where_there_are_none(models):
    gpt = dataclasses.replace(models.gpt, known=frozenset(CAPTION.split()))
    small = dataclasses.replace(models, gpt=gpt, upsampler=None)
    assert torch.equal(make(small, CAPTION.title()), make(small))


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
