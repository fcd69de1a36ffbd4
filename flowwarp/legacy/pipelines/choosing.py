"""Which of several videos is taken: they are begun, rewritten, and finished by how they fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.data.media import VIDEO
from flowwarp.defaults import BEGINNINGS, BEST, CANDIDATES, REWRITES
from flowwarp.legacy.models.gpt import PATCH, SAMPLING, Sampling
from flowwarp.legacy.pipelines.captions import Reply, caption_hits, look, reply, statement_hits
from flowwarp.legacy.pipelines.hearing import hear
from flowwarp.legacy.pipelines.load import Judge, VideoModels
from flowwarp.legacy.pipelines.parts import can_fork, run_parts
from flowwarp.legacy.pipelines.revising import revise_videos
from flowwarp.legacy.pipelines.sequences import (
    Prompt,
    sample_video_tokens,
    seed_after,
    seeds_after,
    text_likelihood,
)
from flowwarp.legacy.pipelines.sketches import choose_sketches
from flowwarp.legacy.pipelines.tokens import detokenize
from flowwarp.precision import fast_autocast

_SAID = 0.25  # weight of a prompt's words where its statements count 1
# Between seeds of one video; odd, as torch's generator takes the lower 32 bits only.
_ENDING, _REWRITING = 0x27D4EB2F, 0x165667B1

Progress = Callable[[int, int], None]
# Sketches, codes and fits, from process to process: tensors would go by shared memory.
_Sent = tuple[list[NDArray[np.int64] | None], NDArray[np.int64], NDArray[np.float32]]


def draw_codes(
    models: VideoModels,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    sampling: Sampling = SAMPLING,
    candidates: int = CANDIDATES,
    best: int = BEST,
    progress: Progress | None = None,
) -> tuple[Tensor, list[Prompt]]:
    """Make the codes of videos, after sketches where there can be any.

    Args:
        models: from :func:`flowwarp.legacy.pipelines.load.load_models`.
        prompts: what each shall be; captions in all or none. A sketch is what its own begins with.
        seeds: one for each.
        sampling: how codes are drawn.
        candidates: see :func:`flowwarp.legacy.pipelines.generate.generate`.
        best: likewise.
        progress: called with (work done, work in all).

    Returns:
        (B, t, h, w) int64, and the prompts with their sketches.
    """
    told = any(prompt.caption is not None for prompt in prompts)
    count = best if told else 1
    early = count > 1 and _can_choose_early(models, prompts)
    each = count * BEGINNINGS if early else count
    replies = _replies(models, prompts) if count > 1 else None
    draw = partial(_draw, models, sampling=sampling, replies=replies)

    def sketched(part: range) -> list[Prompt]:
        return _sketched(models, prompts, seeds, candidates, each, part)

    asked = [prompt for prompt in prompts for _ in range(each)]
    every = [own for seed in seeds for own in seeds_after(seed, each)]
    if not early:
        drawn = draw(asked, every, sketched=sketched, progress=progress)
    else:
        opening = _opening(models)
        tells = [_part(progress, part, 3, math.prod(models.grid)) for part in range(3)]
        drawn = draw(asked, every, sketched=sketched, times=opening, progress=tells[0])
        again = drawn.best(len(prompts), count).ways(REWRITES)
        seeds_again = [
            (seed + _REWRITING * (number % REWRITES + 1)) % 2**63
            for number, seed in enumerate(again.seeds)
        ]
        half = opening * math.prod(models.grid[1:]) * models.gpt.vocabulary[VIDEO].digits // 2
        rewritten = draw(
            again.begun, seeds_again, times=opening, keep=half // PATCH * PATCH, progress=tells[1]
        )
        going = drawn.beside(rewritten, len(prompts)).best(len(prompts), count)
        ends = [(seed + _ENDING) % 2**63 for seed in going.seeds]
        drawn = draw(going.begun, ends, progress=tells[2])
    chosen = drawn.best(len(prompts), 1)
    return chosen.videos, chosen.asked


@dataclass(frozen=True)
class _Drawn:
    """Videos or how they begin, as many of each prompt, and how well they fit it.

    Args:
        asked: what each was to be, with its sketch.
        seeds: what each was drawn by.
        videos: (B, t, h, w) codes.
        fits: (B,), as :func:`agreement` says.
    """

    asked: list[Prompt]
    seeds: list[int]
    videos: Tensor
    fits: Tensor

    @property
    def begun(self) -> list[Prompt]:
        """What goes on from these."""
        return [
            replace(prompt, begin=video)
            for prompt, video in zip(self.asked, self.videos, strict=True)
        ]

    def take(self, rows: Tensor) -> _Drawn:
        """Return some, (n,) in their order."""
        numbers: list[int] = rows.tolist()
        return _Drawn(
            [self.asked[row] for row in numbers],
            [self.seeds[row] for row in numbers],
            self.videos[rows],
            self.fits[rows],
        )

    def best(self, prompts: int, count: int) -> _Drawn:
        """Return the ``count`` of each prompt that fit it best, best first."""
        fits = self.fits.view(prompts, -1)
        firsts = fits.shape[1] * torch.arange(prompts)[:, None]
        return self.take((fits.topk(count).indices + firsts).flatten())

    def ways(self, count: int) -> _Drawn:
        """Return each so many times."""
        return self.take(torch.arange(len(self.fits)).repeat_interleave(count))

    def beside(self, others: _Drawn, prompts: int) -> _Drawn:
        """Return these and others of the same prompts, those of each prompt side by side."""
        both = _Drawn(
            self.asked + others.asked,
            self.seeds + others.seeds,
            torch.cat([self.videos, others.videos]),
            torch.cat([self.fits, others.fits]),
        )
        rows, count = torch.arange(len(both.fits)), len(self.fits)
        own, more = rows[:count].view(prompts, -1), rows[count:].view(prompts, -1)
        return both.take(torch.cat([own, more], 1).flatten())


def _sketched(
    models: VideoModels,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    candidates: int,
    each: int,
    part: range,
) -> list[Prompt]:
    """Return with sketches what a part of the videos shall be of which there are ``each`` a prompt.

    What each is does not hang on what else is in its part.
    """
    asked: list[Prompt] = []
    share = max(1, candidates // each)
    for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        before = number * each
        own = range(max(0, part.start - before), min(each, part.stop - before))
        if own:
            first = seed_after(seed, share * own.start)
            asked += with_sketches(models, prompt, first, share * len(own), len(own))
    return asked


def _draw(
    models: VideoModels,
    asked: Sequence[Prompt],
    seeds: Sequence[int],
    *,
    sampling: Sampling,
    replies: Mapping[str, Sequence[Reply]] | None,
    sketched: Callable[[range], Sequence[Prompt]] | None = None,
    times: int | None = None,
    keep: int | None = None,
    progress: Progress | None = None,
) -> _Drawn:
    """Write videos, each thread some of them, and judge them if there will be a choice.

    Args:
        models: from :func:`flowwarp.legacy.pipelines.load.load_models`.
        asked: what each shall be.
        seeds: one for each.
        sampling: how codes are drawn.
        replies: to the captions; None if there will be no choice.
        sketched: returns a part of those asked with their sketches, if they have none yet.
        times: see :func:`flowwarp.legacy.pipelines.sequences.sample_video_tokens`.
        keep: likewise.
        progress: called with (codes done, codes in all) of the first part.
    """

    def write(part: range) -> _Sent:
        own = slice(part.start, part.stop)
        wanted = asked[own] if sketched is None else sketched(part)
        videos = sample_video_tokens(
            models.gpt,
            wanted,
            seeds[own],
            sampling,
            times=times,
            keep=keep,
            progress=progress if part.start == 0 else None,
        )
        captions = [prompt.caption for prompt in wanted if prompt.caption is not None]
        fits = torch.zeros(len(wanted))
        if replies is not None:
            fits = agreement(models, videos, captions, replies)
        sketches = [None if prompt.sketch is None else prompt.sketch.numpy() for prompt in wanted]
        return sketches, videos.numpy(), fits.numpy()

    threads = torch.get_num_threads() if can_fork(models.device) else 1
    sketches, videos, fits = zip(*run_parts(write, len(seeds), threads), strict=True)
    told = (None if own is None else torch.from_numpy(own) for part in sketches for own in part)
    return _Drawn(
        [replace(prompt, sketch=own) for prompt, own in zip(asked, told, strict=True)],
        list(seeds),
        torch.cat([*map(torch.from_numpy, videos)]),
        torch.cat([*map(torch.from_numpy, fits)]),
    )


def _replies(models: VideoModels, prompts: Sequence[Prompt]) -> dict[str, list[Reply]]:
    """Return what the captioner reads in prompts: once, before processes share out the videos.

    Of things that a prompt leaves open it can only guess. Where it is known which these are, what
    it says of them does not count.
    """
    eye = models.captioner
    if eye is None or models.judge is not None:
        return {}
    replies = {}
    for caption in {prompt.caption for prompt in prompts if prompt.caption is not None}:
        stated = hear(models.gpt, caption).stated
        replies[caption] = [
            (ids, sure if stated is None or thing in stated else 0.0)
            for thing, (ids, sure) in zip(eye.things, reply(eye, caption), strict=True)
        ]
    return replies


def _can_choose_early(models: VideoModels, prompts: Sequence[Prompt]) -> bool:
    """Return whether one can tell from how videos begin which of them shall go on."""
    looked_at = models.captioner is not None or models.judge is not None
    if not looked_at or any(prompt.begin is not None for prompt in prompts):
        return False
    return models.can_begin(_opening(models))


def _opening(models: VideoModels) -> int:
    """Return the token frames after which it is decided which videos go on.

    What is wrong with a video is mostly wrong from its first ones on.
    """
    return max(1, models.grid[0] // 4)


def _part(progress: Progress | None, part: int, parts: int, share: int) -> Progress | None:
    """Return what tells of a part of the work, each as large a share of all."""
    return progress and (
        lambda done, total: progress(part * share + share * done // total, parts * share)
    )


def agreement(
    models: VideoModels,
    videos: Tensor,
    captions: Sequence[str],
    replies: Mapping[str, Sequence[Reply]] | None = None,
) -> Tensor:
    """Return how well captions describe videos, (B,): the more, the better, of one caption.

    By the judge if there is one, else by the captioner, from what is decoded, and revised: how much
    of what they state is there, thing by thing, and, counting less, how much of what their words
    tell (:mod:`flowwarp.legacy.pipelines.captions`). Else the log-likelihood by the transformer.

    Args:
        models: from :func:`flowwarp.legacy.pipelines.load.load_models`.
        videos: (B, t, h, w) codes.
        captions: B of them.
        replies: see :func:`flowwarp.legacy.pipelines.captions.statement_hits`.
    """
    judge, eye = models.judge, models.captioner
    if judge is None and eye is None:
        return text_likelihood(models.gpt, videos, captions)
    with fast_autocast(models.device):  # as what will be shown is
        frames = [torch.stack(list(detokenize(models.dvae, video))) for video in videos]
        revised = revise_videos(models, torch.stack(frames), captions)
    if judge is not None:
        return _judged(judge, revised, captions)
    assert eye is not None
    seen = look(eye, _hold(revised, eye.net.config.apart))
    said = caption_hits(eye, seen, captions)
    return _SAID * said + statement_hits(eye, seen, captions, replies)


def _judged(judge: Judge, videos: Tensor, captions: Sequence[str]) -> Tensor:
    """Return how well captions describe videos (B, T, 3, H, W), by a judge from outside, (B,)."""
    fits = torch.zeros(len(captions))
    for caption in dict.fromkeys(captions):
        rows = [row for row, own in enumerate(captions) if own == caption]
        fits[rows] = judge(list(videos[rows]), caption)
    return fits


def _hold(frames: Tensor, apart: int) -> Tensor:
    """Return clips (B, T, ...) in which there are frames so far apart, still if they are too short.

    Each of a pair is then the same frame, as where nothing moves: of how a clip begins this shows
    who is there, though not what they do.
    """
    count = frames.shape[1]
    if count > apart:
        return frames
    period = math.gcd(count, apart)
    return frames[:, :period].repeat(1, apart // period + 1, 1, 1, 1)


def with_sketches(
    models: VideoModels, prompt: Prompt, seed: int, candidates: int, count: int
) -> list[Prompt]:
    """Return a prompt so many times, each with a sketch of what it says, where there can be one.

    A sketch that it has already is taken for the beginning of its own. A picture to begin with, and
    what was made after it, has none: what a sketch says could be something else.
    """
    unlike = prompt.frame is not None or (prompt.begin is not None and prompt.sketch is None)
    if not models.uses_sketches or prompt.caption is None or unlike:
        return [prompt] * count
    assert models.sketcher is not None
    gpt, eye, begin = models.gpt, models.sketcher, prompt.sketch
    made = choose_sketches(gpt, eye, prompt.caption, seed, candidates, count, begin)
    return [replace(prompt, sketch=sketch) for sketch in made]
