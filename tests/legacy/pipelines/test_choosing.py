"""Videos are begun, rewritten and finished, the best of each."""

import dataclasses
import itertools

import pytest
import torch

from flowwarp.legacy.models.captioner import END, Captioner, CaptionerConfig
from flowwarp.legacy.models.gpt import SAMPLING
from flowwarp.legacy.pipelines import captions, choosing
from flowwarp.legacy.pipelines.captions import (
    MediaCaptioner,
    caption_hits,
    look,
    reply,
    statement_hits,
)
from flowwarp.legacy.pipelines.choosing import agreement, draw_codes, with_sketches
from flowwarp.legacy.pipelines.hearing import hear
from flowwarp.legacy.pipelines.load import VideoModels
from flowwarp.legacy.pipelines.sequences import Prompt, load_gpt, sample_video_tokens, seeds_after
from flowwarp.legacy.pipelines.sketches import choose_sketches
from flowwarp.legacy.pipelines.tokens import detokenize
from flowwarp.legacy.train.captioner import text_vocabulary
from flowwarp.precision import fast_autocast

CAPTION = "a red knight"
WINDOW = 8

pytestmark = pytest.mark.usefixtures("_four_are_begun")


def test_of_four_times_as_many_the_best_are_rewritten_and_of_all_the_best_go_on(
    sketching, monkeypatch
):
    def score(models, videos, *_):
        return -(videos.double() - 40).square().sum((1, 2, 3))

    monkeypatch.setattr(choosing, "agreement", score)
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


def test_a_judge_from_outside_takes_the_captioner_s_place(stating, monkeypatch):
    asked = []

    def judge(videos, caption):
        asked.append(caption)
        sign = 1 if caption == CAPTION else -1
        return torch.stack([sign * video.mean() for video in videos])

    def contrary(videos, caption):
        return -judge(videos, caption)

    monkeypatch.setattr(choosing, "look", None)  # the captioner is not asked
    one, other = (dataclasses.replace(stating, judge=own) for own in (judge, contrary))
    videos = torch.randint(9, (3, *one.grid), generator=torch.Generator().manual_seed(0))
    found = agreement(one, videos, [CAPTION, "a knight", CAPTION])
    with torch.inference_mode(), fast_autocast(one.device):
        bright = one.dvae.decode(videos, WINDOW).float().clamp(0, 1).mean((1, 2, 3, 4))
    torch.testing.assert_close(found, bright * torch.tensor([1, -1, 1]), rtol=1e-3, atol=1e-3)
    assert asked == [CAPTION, "a knight"]
    brightest, darkest = (
        draw_codes(own, [Prompt(CAPTION)], [3], best=3)[0] for own in (one, other)
    )
    fits = agreement(one, torch.cat([brightest, darkest]), [CAPTION] * 2)
    assert fits[0] > fits[1]


def test_what_begins_with_a_picture_has_no_sketch(sketching):
    picture = Prompt(CAPTION, frame=torch.zeros(1, 4, 4, dtype=torch.int64))
    assert with_sketches(sketching, picture, 1, 4, 2) == [picture] * 2
    assert all(p.sketch is not None for p in with_sketches(sketching, Prompt(CAPTION), 1, 4, 2))


def test_a_quarter_of_the_first_window_is_seen_before_the_choice(sketching, monkeypatch):
    lengths = []

    def spy(models, videos, *_):
        lengths.append(tuple(videos.shape[:2]))
        return torch.zeros(len(videos))

    monkeypatch.setattr(choosing, "agreement", spy)
    draw_codes(sketching, [Prompt(CAPTION)], [9], best=2)
    assert lengths == [(8, 1), (4, 1), (2, 2)]
    for times, opening in ((1, 1), (3, 1), (4, 1), (8, 2), (16, 4)):
        monkeypatch.setattr(VideoModels, "grid", (times, 4, 4))
        assert choosing._opening(sketching) == opening


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
    held = choosing._hold(frames, apart)
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

    for module in (choosing, captions):
        monkeypatch.setattr(module, "reply", spy)
    assert torch.equal(draw_codes(stating, prompts, [9, 4, 2], best=2)[0], wanted)
    assert sorted(read) == ["a knight", CAPTION]
    # And what was read decides.
    found = []
    for sure in (1e6, -1e6):
        said = [(torch.tensor([END]), sure)] * 2
        monkeypatch.setattr(choosing, "reply", lambda *_, said=said: said)
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

    monkeypatch.setattr(choosing, "agreement", spy)
    shirt = hear(gpt, "a maroon shirt").text
    draw_codes(models, [Prompt(shirt), Prompt("a knight")], [1, 2], best=2)
    (_, color), (way, _) = told[0][shirt], told[0]["a knight"]
    assert told[0][shirt][0] == way == 0
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

    monkeypatch.setattr(choosing, "sample_video_tokens", spy)
    monkeypatch.setattr(choosing, "agreement", lambda models, videos, *_: torch.arange(len(videos)))
    plain = dataclasses.replace(sketching, sketcher=None)
    draw_codes(plain, [Prompt(CAPTION)], [9], best=2)
    assert [len(own) for own in drawn] == [8, 4, 2]
    assert len(set().union(*drawn)) == 14


def test_sketches_do_not_hang_on_how_many_threads_there_are(sketching, monkeypatch):
    def choose(gpt, captioner, caption, seed, candidates, count, begin):
        """Tell the seeds of those that each is chosen among."""
        return torch.tensor(seeds_after(seed, candidates)).view(count, -1)

    monkeypatch.setattr(choosing, "choose_sketches", choose)
    prompts, seeds = [Prompt(CAPTION), Prompt("a knight")], [9, 4]

    def sketches(parts):
        ends = [24 * part // parts for part in range(parts + 1)]
        own = (range(*pair) for pair in itertools.pairwise(ends))
        asked = [choosing._sketched(sketching, prompts, seeds, 36, 12, part) for part in own]
        return torch.stack([prompt.sketch for prompt in itertools.chain(*asked)])

    whole = sketches(1)
    assert torch.equal(whole[:12].flatten(), torch.tensor(seeds_after(9, 36)))
    assert torch.equal(whole[12:].flatten(), torch.tensor(seeds_after(4, 36)))
    for parts in (2, 5, 24):
        assert torch.equal(sketches(parts), whole)


def test_each_thread_draws_a_part(sketching, monkeypatch):
    def score(models, videos, *_):
        return videos.double().sum((1, 2, 3))

    monkeypatch.setattr(choosing, "agreement", score)
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
        monkeypatch.setattr(choosing, "run_parts", here)
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
    chosen = []

    def spy(gpt, sketcher, *rest):
        chosen.append(sketcher)
        return choose_sketches(gpt, sketcher, *rest)

    def count(own, seen, captions):
        chosen.append(own)
        return caption_hits(own, seen, captions)

    monkeypatch.setattr(choosing, "choose_sketches", spy)
    monkeypatch.setattr(choosing, "caption_hits", count)
    draw_codes(two, [Prompt(CAPTION)], [1], candidates=8, best=2)
    assert chosen == [two.sketcher, captioner, captioner, captioner]


def test_the_captioner_judges_videos(models):
    videos = torch.randint(9, (2, *models.grid), generator=torch.Generator().manual_seed(0))
    captions = [CAPTION, "a knight"]
    words = models.gpt.vocabulary
    torch.manual_seed(0)
    eye = Captioner(CaptionerConfig(words.pairs.size + 1, size=16, widths=(8, 8), hidden=8))
    torch.nn.init.normal_(eye.head.weight, std=0.5)
    captioner = MediaCaptioner(eye.eval(), text_vocabulary(words.pairs, 8))
    found = agreement(dataclasses.replace(models, captioner=captioner), videos, captions)
    with torch.inference_mode(), fast_autocast(models.device):
        decoded = models.dvae.decode(videos, WINDOW)
    wanted = caption_hits(captioner, look(captioner, decoded), captions) / 4
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert not torch.equal(found, agreement(models, videos, captions))
