"""From words to video, and from video to words, by networks trained apart.

A transformer writes a video as codes, window by window; the discrete VAE makes small frames of
them, and the reviser makes of these what was asked for; the upsampler draws each at twice the size,
held still by its own frame before, which is warped along the flow between the small frames. Each
stage takes what the one before it has ready: memory does not grow with the length of a video, and
frames come while later ones are still to be written.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from flowwarp.data.resizing import middle_square
from flowwarp.defaults import BEST, CANDIDATES, STEPS
from flowwarp.legacy.models.gpt import PATCH, SAMPLING, Sampling
from flowwarp.legacy.models.upsampler import enlarge, upsample_frames
from flowwarp.legacy.pipelines.choosing import Progress, draw_codes
from flowwarp.legacy.pipelines.clip_motion import steady_motion
from flowwarp.legacy.pipelines.hearing import hear
from flowwarp.legacy.pipelines.load import VideoModels
from flowwarp.legacy.pipelines.revising import revise, what_to_revise
from flowwarp.legacy.pipelines.sequences import Prompt, describe, text_likelihood
from flowwarp.legacy.pipelines.sketches import sketch_of_end
from flowwarp.legacy.pipelines.tokens import detokenize, tokenize
from flowwarp.legacy.pipelines.windows import Description, some_windows
from flowwarp.precision import fast_dtype
from flowwarp.tensors import check_whole

STAGES = ("tokens", "decode", "revise", "flow", "upsample")
# Between seeds of one video; odd, as torch's generator takes the lower 32 bits only.
_WINDOW, NOISE = 0x85EBCA6B, 0xC2B2AE35
# A frame takes as long as so many codes, sharpened and not.
_SHARP_FRAME, _PLAIN_FRAME = 40, 2

Item = TypeVar("Item")
Seconds = dict[str, float]


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
        models: from :func:`flowwarp.legacy.pipelines.load.load_models`.
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
        raise ValueError("nothing of the prompt can be read")
    if frames > models.window and not models.goes_on:
        raise ValueError(f"frames must be at most {models.window} with this transformer")
    first = begin = large = None
    if image is not None:
        models = replace(models, reviser=None)  # what the picture shows shall stay
        first = tokenize(models.dvae, middle_square(image, models.small, "image")[None])
        if models.can_begin(1):
            begin, large = first, _full_size(models, image)
    job = _Job(
        models=models,
        prompt=Prompt(caption, first, begin=begin),
        seed=seed,
        frames=frames,
        best=best,
        candidates=candidates,
        sampling=sampling,
        steps=steps,
        temporal=temporal,
        progress=progress,
        large=large,
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
        # Switched off rather than left out: a stage is asked for its items by the one after it.
        cast = torch.autocast(models.device.type, torch.bfloat16, enabled=low)
        return _stage(items, name, seconds, cast)

    codes = stage(_write(job, tell), "tokens")
    decodes = stage(detokenize(models.dvae, codes), "decode", low=half)
    revised = revise(models, decodes, what_to_revise(models, job.prompt.caption))
    # Those who look ahead shall not have another window written for it.
    decodes = itertools.islice(
        stage(revised, "revise", low=half),
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
        pictures = (frame[0].cpu() for frame in stage(drawn, "upsample", low=half))
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
        end, sketch = videos[0, -models.overlap :], chosen.sketch
        if sketch is not None:  # what its end shows is where the next one begins
            sketch = sketch_of_end(sketch, len(end), times)
            sketch = sketch if sketch.numel() % PATCH == 0 else None
        prompt, known = Prompt(prompt.caption, begin=end, sketch=sketch), len(end)


def _token_frames(job: _Job) -> int:
    """Return how many token frames are written, in whole windows."""
    times = job.models.grid[0]
    later = max(0, -(-job.frames // job.models.dvae.config.stride_time) - times)
    fresh = max(1, times - job.models.overlap)
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
        models: from :func:`flowwarp.legacy.pipelines.load.load_models`; upsampler and flow network
            are not used.
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
