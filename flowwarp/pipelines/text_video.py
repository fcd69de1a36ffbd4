"""From words to video, and from video to words, by three networks trained apart.

A transformer writes a video as codes, window by window; the discrete VAE makes small frames of
them; the upsampler draws each of these at twice the size, held still by its own frame before, which
is warped along the flow between the small frames. Each stage takes what the one before it has
ready: memory does not grow with the length of a video, and frames come while later ones are still
to be written.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.data.captioned import middle_square
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import build
from flowwarp.models.dvae import DVAE
from flowwarp.models.flownet import FlowNet
from flowwarp.models.gpt import PATCH, Sampling
from flowwarp.models.upsampler import (
    SCALE,
    Upsampler,
    UpsamplerConfig,
    enlarge,
    upsample_frames,
)
from flowwarp.pipelines._defaults import BEGINNINGS, BEST, CANDIDATES, REWRITES, STEPS
from flowwarp.pipelines.captions import (
    MediaCaptioner,
    Reply,
    caption_hits,
    load_captioner,
    look,
    reply,
    statement_hits,
)
from flowwarp.pipelines.clip_motion import steady_motion
from flowwarp.pipelines.flow_estimation import load_flownet
from flowwarp.pipelines.hearing import hear
from flowwarp.pipelines.parts import can_fork, run_parts
from flowwarp.pipelines.precision import fast_autocast, fast_dtype
from flowwarp.pipelines.sequences import (
    FRAME,
    SAMPLING,
    SKETCH,
    TEXT,
    VIDEO,
    MediaGPT,
    Prompt,
    describe,
    load_gpt,
    sample_video_tokens,
    seeds_after,
    text_likelihood,
)
from flowwarp.pipelines.shipped import SHIPPED, find_weights
from flowwarp.pipelines.sketches import (
    check_sketches,
    choose_sketches,
    eye_print,
    sketch_of_end,
)
from flowwarp.pipelines.video_tokens import detokenize, fingerprint, load_dvae, tokenize
from flowwarp.pipelines.windows import Description, some_windows
from flowwarp.tensors import check_whole

STAGES = ("tokens", "decode", "flow", "upsample")
_SAID = 0.25  # weight of a prompt's words where its statements count 1
_OWN_VAE = "give the VAE that it was trained with"

# Between seeds of one video; odd, as torch's generator takes the lower 32 bits only.
_WINDOW, NOISE, _ENDING, _REWRITING = 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0x165667B1
# A frame takes as long as so many codes, sharpened and not.
_SHARP_FRAME, _PLAIN_FRAME = 40, 2

Item = TypeVar("Item")
Seconds = dict[str, float]
Progress = Callable[[int, int], None]
# Sketches, codes and fits, from process to process: tensors would go by shared memory.
_Sent = tuple[list[NDArray[np.int64] | None], NDArray[np.int64], NDArray[np.float32]]


# ------------------------------------------------------------------ the networks


@dataclass(frozen=True)
class VideoModels:
    """The networks that make video, all on one device.

    Args:
        gpt: writes codes, and words.
        dvae: whose codes they are.
        upsampler: doubles the size of frames; None to leave them as they are.
        flownet: the motion between them; None to draw each by itself.
        captioner: tells which of several videos is as prompted; without one the transformer does.
        sketcher: a captioner that sorts places into kinds, for a transformer that makes videos
            after its sketches; it tells which of several sketches is as prompted.
    """

    gpt: MediaGPT
    dvae: DVAE
    upsampler: Upsampler | None = None
    flownet: FlowNet | None = None
    captioner: MediaCaptioner | None = None
    sketcher: MediaCaptioner | None = None

    @property
    def sketches(self) -> bool:
        """Whether videos are made after sketches."""
        return self.sketcher is not None and self.gpt.vocabulary.knows(SKETCH)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Codes that are written at a time: token frames, rows, columns."""
        grid = self.gpt.vocabulary[VIDEO].grid
        assert grid is not None
        return grid

    @property
    def window(self) -> int:
        """Frames that are written at a time."""
        return self.grid[0] * self.dvae.config.stride_time

    @property
    def goes_on(self) -> bool:
        """Whether a window can begin with the end of another."""
        return self.can_begin(_overlap(self))

    def can_begin(self, count: int) -> bool:
        """Return whether a window can begin with so many token frames that are given."""
        times, rows, columns = self.grid
        tokens = count * rows * columns * self.gpt.vocabulary[VIDEO].digits
        # They must be whole patches, which frames of an odd number of codes are not.
        return count < times and tokens % PATCH == 0

    @property
    def small(self) -> int:
        """Side of the VAE's square frames, in pixels."""
        return self.grid[1] * self.dvae.config.stride

    @property
    def size(self) -> int:
        """Side of the frames that come out, in pixels."""
        return self.small * (1 if self.upsampler is None else SCALE)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.gpt.net.head.weight.device


def load_models(
    gpt: str | Path = SHIPPED,
    dvae: str | Path = SHIPPED,
    upsampler: str | Path | None = SHIPPED,
    flow: str | Path | None = SHIPPED,
    device: str | torch.device = "cpu",
    captioner: str | Path | None = None,
    sketcher: str | Path | None = None,
) -> VideoModels:
    """Load the networks that make video.

    Args:
        gpt: weights of ``train-gpt``, or ``"base"`` for those in the package.
        dvae: of ``train-dvae``, likewise: those that the transformer was trained with.
        upsampler: of ``train-upsampler``, likewise; None for none.
        flow: of ``train-flow``, likewise; None for none.
        device: where they shall be.
        captioner: of ``train-captioner``, likewise; None for that in the package if the sketcher
            is, else for the sketcher.
        sketcher: of ``train-captioner --kinds``, likewise: that whose sketches the transformer
            learned; None for that in the package if it is, else none.

    Raises:
        InputError: a file is missing, broken, of another network, or does not fit the others; or
            the package comes without weights.
    """
    transformer = load_gpt(gpt, device)
    vae = load_dvae(dvae, device)
    if sketcher is None and (gpt == SHIPPED or _learned_shipped_sketches(transformer)):
        sketcher = SHIPPED
    if sketcher == SHIPPED:
        captioner = captioner or SHIPPED
    eye = None if sketcher is None else load_captioner(sketcher, device, "sketcher")
    models = VideoModels(
        transformer,
        vae,
        None if upsampler is None else load_upsampler(upsampler, device),
        None if flow is None else load_flownet(flow, device),
        captioner=eye if captioner is None else load_captioner(captioner, device),
        sketcher=eye,
    )
    media = {medium.name: medium for medium in transformer.vocabulary.media}
    for name in (TEXT, VIDEO, FRAME):
        if name not in media:
            raise InputError(gpt, f"its vocabulary has no {name}")
    grid, codes = media[VIDEO].grid, models.dvae.config.codes
    if grid is None or grid[1] != grid[2] or media[FRAME].grid != (1, *grid[1:]):
        raise InputError(gpt, "its vocabulary is not of square videos and their first frames")
    if media[FRAME].codes != media[VIDEO].codes:
        raise InputError(gpt, "its vocabulary has other codes for first frames than for videos")
    if media[VIDEO].codes != codes:
        raise InputError(
            gpt,
            f"writes {media[VIDEO].codes} codes, the VAE has {codes}",
            _OWN_VAE,
        )
    if transformer.codes is not None and transformer.codes != fingerprint(models.dvae):
        raise InputError(gpt, "learned the codes of another VAE", _OWN_VAE)
    if eye is not None and transformer.vocabulary.knows(SKETCH):
        check_sketches(transformer, eye, sketcher)
    for looking, source in ((models.sketcher, sketcher), (models.captioner, captioner)):
        if looking is not None:
            _check_captioner(models, looking, source)
    return models


def _learned_shipped_sketches(gpt: MediaGPT) -> bool:
    """Return whether a transformer learned sketches of the sketcher in the package."""
    if gpt.sketches is None:
        return False
    try:
        eye = load_captioner(SHIPPED, network="sketcher")
    except InputError:  # a package without one
        return False
    return gpt.sketches == eye_print(eye)


def _check_captioner(models: VideoModels, eye: MediaCaptioner, source: str | Path | None) -> None:
    size, apart = eye.net.config.size, eye.net.config.apart
    if size != models.small:
        problem = f"sees frames of {size} px, the networks make {models.small}"
        raise InputError(source or "captioner", problem)
    if apart >= models.window:
        problem = f"compares frames {apart} apart, the networks make {models.window}"
        raise InputError(source or "captioner", problem)


def load_upsampler(weights: str | Path = SHIPPED, device: str | torch.device = "cpu") -> Upsampler:
    """Make an upsampler from weights.

    Args:
        weights: a ``.safetensors`` file with its card, such as ``train-upsampler`` writes, or
            ``"base"`` for those in the package.
        device: where it shall be.

    Raises:
        InputError: the file is missing, broken, or of another network.
    """
    net, _ = build(
        find_weights(weights, "upsampler"),
        "upsampler",
        lambda settings: Upsampler(UpsamplerConfig(**settings)),
    )
    return net.to(device).eval()


# ------------------------------------------------------------------ words to video


def generate(
    models: VideoModels,
    prompt: str | None,
    *,
    seed: int = 0,
    frames: int | None = None,
    image: Tensor | None = None,
    best: int = BEST,
    candidates: int = CANDIDATES,
    sampling: Sampling = SAMPLING,
    steps: int = STEPS,
    temporal: bool = True,
    seconds: Seconds | None = None,
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """Make the frames of a video, as they come.

    The same models, arguments and number of threads give the same video on the same machine, on a
    CPU bit for bit.

    Args:
        models: from :func:`load_models`.
        prompt: what it shall show; None for anything.
        seed: which of all possible videos.
        frames: how many; by default as many as the transformer writes at a time. Longer videos
            are written in windows, each of which begins with the last token frames of the one
            before.
        image: (3, H, W) in [0, 1], what it shall begin with; its middle square is used. It stands
            still for the frames of the first codes, which are its own; where a window cannot begin
            with so few, the transformer is told it alone. The upsampler's first frame holds on to
            it, if it has S pixels a side or more.
        best: so many videos of each window are written, and the one taken that the prompt
            describes best; without a prompt it is the first. Of several, where there is a captioner
            and nothing to go on from, be it a picture, ``BEGINNINGS`` times as many are begun, up
            to the first quarter of the window. The lower half of the best is rewritten in
            ``REWRITES`` ways each, and the best of all go on.
        candidates: so many sketches are made, shared out among the videos that are begun, each of
            which takes the best of its own, at least one for each.
        sampling: how codes are drawn.
        steps: of the upsampler for each frame.
        temporal: False: the upsampler draws each frame by itself.
        seconds: gets the time that each of ``STAGES`` took.
        progress: called with (work done, work in all).

    Yields:
        (3, S, S) float32 in [0, 1] on the CPU, where S is ``models.size``.

    Raises:
        TypeError: the image is not a floating-point tensor.
        ValueError: ``frames``, ``best``, ``candidates`` or ``steps`` is no whole number from 1,
            nothing of the prompt can be read, the image is none, is in 0 … 255 or holds NaN, or the
            video is longer than this transformer can go on.
    """
    frames = models.window if frames is None else frames
    numbers = {"frames": frames, "best": best, "candidates": candidates, "steps": steps}
    for name, value in numbers.items():
        check_whole(value, name, 1, 2**31)  # frames come one by one: there may be any number
    caption = None if prompt is None else hear(models.gpt, prompt).text
    if caption == "":
        raise ValueError("prompt must not be empty")
    if frames > models.window and not models.goes_on:
        raise ValueError(f"frames must be at most {models.window} with this transformer")
    first = begin = large = None
    if image is not None:
        first = tokenize(models.dvae, middle_square(image, models.small, "image")[None])
        if models.can_begin(1):
            begin, large = first, _full_size(models, image)
    job = _Job(
        models,
        Prompt(caption, first, begin=begin),
        seed,
        frames,
        best,
        candidates,
        sampling,
        steps,
        temporal,
        progress,
        large,
    )
    return _run(job, {} if seconds is None else seconds)


def _full_size(models: VideoModels, image: Tensor) -> Tensor | None:
    """Return a picture as the first frame would show it, (1, 3, S, S); None if it is smaller."""
    if min(image.shape[1:]) < models.size:
        return None
    return middle_square(image, models.size)[None].to(models.device).float() / 255


@dataclass(frozen=True)
class _Job:
    """What :func:`generate` was asked for."""

    models: VideoModels
    prompt: Prompt
    seed: int
    frames: int
    best: int
    candidates: int
    sampling: Sampling
    steps: int
    temporal: bool
    progress: Progress | None
    large: Tensor | None  # (1, 3, S, S), the picture it begins with at the size of what is made


def _run(job: _Job, seconds: Seconds) -> Iterator[Tensor]:
    models = job.models
    half = fast_dtype(models.device) == torch.bfloat16
    tell = _teller(job)

    def stage(items: Iterator[Item], name: str, low: bool = False) -> Iterator[Item]:
        cast = torch.autocast(models.device.type, torch.bfloat16, enabled=low)
        return _stage(items, name, seconds, cast)

    codes = stage(_write(job, tell), "tokens")
    # Those who look ahead shall not have another window written for it.
    decodes = itertools.islice(
        stage(detokenize(models.dvae, codes), "decode", half),
        models.dvae.config.stride_time * _token_frames(job),
    )
    pictures: Iterator[Tensor] = decodes
    if models.upsampler is not None:
        drawn = upsample_frames(
            models.upsampler,
            stage(_join_motion(job, decodes), "flow"),
            torch.Generator().manual_seed((job.seed + NOISE) % 2**63),
            steps=job.steps,
            temporal=job.temporal,
            begin=job.large,
        )
        pictures = (frame[0].cpu() for frame in stage(drawn, "upsample", half))
    for number, frame in zip(range(1, job.frames + 1), pictures, strict=False):
        tell("frames", number)
        yield frame


def _stage(
    items: Iterator[Item], name: str, seconds: Seconds, cast: torch.autocast
) -> Iterator[Item]:
    """Pass items on, each made under ``cast``; note the time, less that of the stages before."""
    while True:
        before, start = sum(seconds.values()), time.perf_counter()
        with cast:  # not while this generator waits: it would reach whoever takes the items
            item = next(items, None)
        took = time.perf_counter() - start - (sum(seconds.values()) - before)
        seconds[name] = seconds.get(name, 0.0) + took
        if item is None:
            return
        yield item


def _write(job: _Job, tell: Callable[[str, int], None]) -> Iterator[Tensor]:
    """Yield token frames (h, w), window after window."""
    models, prompt = job.models, job.prompt
    times, rows, columns = models.grid
    window = written = known = 0
    while True:
        fresh = (times - known) * rows * columns  # with those of a picture, which nobody has seen

        def told(done: int, total: int, before: int = written, fresh: int = fresh) -> None:
            tell("codes", before + fresh * done // total)

        seed = (job.seed + window * _WINDOW) % 2**63
        videos, (chosen,) = draw_codes(
            models, [prompt], [seed], job.sampling, job.candidates, job.best, told
        )
        yield from videos[0, known:]
        window, written = window + 1, written + fresh
        # The picture it began with says nothing of what comes now.
        end, sketch = videos[0, -_overlap(models) :], chosen.sketch
        if sketch is not None:  # what its end shows is where the next one begins
            sketch = sketch_of_end(sketch, len(end), times)
            sketch = sketch if sketch.numel() % PATCH == 0 else None
        prompt, known = Prompt(prompt.caption, begin=end, sketch=sketch), len(end)


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
        models: from :func:`load_models`.
        prompts: what each shall be; captions in all or none. A sketch is what its own begins with.
        seeds: one for each.
        sampling: how codes are drawn.
        candidates: see :func:`generate`.
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
            first = seeds_after(seed, share * own.start + 1)[-1]
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
        models: from :func:`load_models`.
        asked: what each shall be.
        seeds: one for each.
        sampling: how codes are drawn.
        replies: to the captions; None if there will be no choice.
        sketched: returns a part of those asked with their sketches, if they have none yet.
        times: see :func:`flowwarp.pipelines.sequences.sample_video_tokens`.
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
    if eye is None:
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
    """Return whether the captioner can tell from how videos begin which of them shall go on."""
    if models.captioner is None or any(prompt.begin is not None for prompt in prompts):
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

    By the captioner if there is one, from what is decoded: how much of what they state is there,
    thing by thing, and, counting less, how much of what their words tell
    (:mod:`flowwarp.pipelines.captions`). Else the log-likelihood by the transformer.

    Args:
        models: from :func:`load_models`.
        videos: (B, t, h, w) codes.
        captions: B of them.
        replies: see :func:`flowwarp.pipelines.captions.statement_hits`.
    """
    if models.captioner is None:
        return text_likelihood(models.gpt, videos, captions)
    with fast_autocast(models.device):  # as what will be shown is
        frames = [torch.stack(list(detokenize(models.dvae, video))) for video in videos]
    shown = _hold(torch.stack(frames), models.captioner.net.config.apart)
    seen = look(models.captioner, shown)
    said = caption_hits(models.captioner, seen, captions)
    return _SAID * said + statement_hits(models.captioner, seen, captions, replies)


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
    if not models.sketches or prompt.caption is None or unlike:
        return [prompt] * count
    assert models.sketcher is not None
    gpt, eye, begin = models.gpt, models.sketcher, prompt.sketch
    made = choose_sketches(gpt, eye, prompt.caption, seed, candidates, count, begin)
    return [replace(prompt, sketch=sketch) for sketch in made]


def _overlap(models: VideoModels) -> int:
    """Return the token frames with which a window begins that goes on with another."""
    return max(1, models.grid[0] // 2)


def _token_frames(job: _Job) -> int:
    """Return how many token frames are written, in whole windows."""
    times = job.models.grid[0]
    later = max(0, -(-job.frames // job.models.dvae.config.stride_time) - times)
    fresh = max(1, times - _overlap(job.models))
    return times + -(-later // fresh) * fresh


def _join_motion(
    job: _Job, decodes: Iterator[Tensor]
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Yield each small frame with the flow to the one before and what that shows, as wanted.

    Flow is estimated between enlarged frames, by the network alone. Its finest level is at a
    quarter of its input, which of small frames is 16 pixels wide: there it errs twice as much
    on sharp frames. A fit as well takes several times as long.
    """
    models = job.models
    if not job.temporal or models.flownet is None:
        for frame in decodes:
            yield frame[None].to(models.device), None, None
        return
    to_draw, to_track = itertools.tee(frame[None].to(models.device) for frame in decodes)
    large = (enlarge(decode).clamp(0, 1) for decode in to_track)
    apart = models.dvae.config.stride_time
    # A picture that it begins with fills the first codes alone.
    still = 0 if job.prompt.begin is None else apart * len(job.prompt.begin)
    motion = steady_motion(models.flownet, large, apart, still)
    for decode, moved in zip(to_draw, motion, strict=True):
        flow, visible = (None, None) if moved is None else moved
        yield decode, flow, visible


def _teller(job: _Job) -> Callable[[str, int], None]:
    """Return what takes (what, how many so far) and tells of the work as a whole."""
    models = job.models
    _, rows, columns = models.grid
    costs = {"codes": 1, "frames": _PLAIN_FRAME if models.upsampler is None else _SHARP_FRAME}
    total = _token_frames(job) * rows * columns + costs["frames"] * job.frames
    done: Counter[str] = Counter()

    def tell(what: str, count: int) -> None:
        done[what] = costs[what] * count
        if job.progress is not None:
            job.progress(done.total(), total)

    return tell


# ------------------------------------------------------------------ video to words


def describe_video(
    models: VideoModels, frames: Iterable[Tensor], *, best: int = 1, seed: int = 0
) -> Description:
    """Say what a video of any size and length shows.

    Its middle square is looked at, in parts as long as the transformer reads at a time: all of
    them in a short video, up to ``MOST_WINDOWS`` evenly over a long one. Each part is described,
    and each description judged by all parts.

    Args:
        models: from :func:`load_models`; upsampler and flow network are not used.
        frames: (3, H, W) in [0, 1], at least one; taken one at a time. Of a clip, whose ``video``
            is uint8, ``clip.video / 255``.
        best: so many descriptions of each part are tried; the first is the likeliest word by word.
        seed: of the others.

    Raises:
        TypeError: a frame is not a floating-point tensor.
        ValueError: there are no frames, one is none, is in 0 … 255 or holds NaN, or ``best`` is no
            whole number from 1.
    """
    check_whole(best, "best", 1)
    videos = _look(models, frames)
    said = describe(models.gpt, videos)
    for number in range(1, best):
        said += describe(models.gpt, videos, Sampling(), seed=seed + number)
    ranked = [
        (float(text_likelihood(models.gpt, videos, [text] * len(videos)).mean()), text)
        for text in dict.fromkeys(said)
    ]
    nats, text = max(ranked, key=lambda pair: pair[0])
    return Description(text, nats, len(videos))


def _look(models: VideoModels, frames: Iterable[Tensor]) -> Tensor:
    """Return the codes (N, t, h, w) of some windows of a video."""
    windows = some_windows(frames, models.window, models.small)
    return torch.stack([tokenize(models.dvae, window) for window in windows])
