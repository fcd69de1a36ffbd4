"""A transformer with its vocabulary: it writes video from a prompt, describes video, and judges it.

Prompts and videos are codes here; :mod:`flowwarp.legacy.pipelines.tokens` turns them into pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.data.media import CODES, FRAME, MOTION, SKETCH, TEXT, VIDEO, VOCABULARY, WORDS
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import build
from flowwarp.io.shipped import SHIPPED, find_weights
from flowwarp.legacy.data.tokens import Tokens, Vocabulary, join, vocabulary_from_json
from flowwarp.legacy.models.gpt import GPT, PATCH, SAMPLING, GPTConfig, Resampling, Sampling, sample
from flowwarp.precision import matrix_dtype

WORD = re.compile(r"[^\W\d_]+|[^\w\s]")
# Between seeds of one choice; odd, as torch's generator takes the lower 32 bits only.
_APART = 0x9E3779B1


@dataclass(frozen=True)
class MediaGPT:
    """A transformer, what its integers mean, and what it learned from.

    Args:
        net: the network.
        vocabulary: what its integers mean.
        known: words of the captions that it learned from; None if its weights do not say.
        codes: the fingerprint of the discrete VAE whose codes it learned; None likewise.
        sketches: that of the captioner whose sketches it learned; None likewise.
    """

    net: GPT
    vocabulary: Vocabulary
    known: frozenset[str] | None = None
    codes: str | None = None
    sketches: str | None = None


@dataclass(frozen=True)
class Prompt:
    """What a video shall be.

    Args:
        caption: in words; None for anything.
        frame: (1, h, w), codes of the first frame as a still picture.
        motion: (4, 4, 4), codes of :func:`flowwarp.legacy.data.tokens.motion_codes`.
        begin: (n, h, w), the video's first token frames, to go on from.
        sketch: (t, y, x), kinds of places, of :func:`sample_sketches`.
    """

    caption: str | None = None
    frame: Tensor | None = None
    motion: Tensor | None = None
    begin: Tensor | None = None
    sketch: Tensor | None = None


def load_gpt(weights: str | Path = SHIPPED, device: str | torch.device = "cpu") -> MediaGPT:
    """Make a transformer and its vocabulary from weights.

    Args:
        weights: a ``.safetensors`` file with its card, such as ``train-gpt`` writes, or
            ``"base"`` for those in the package.
        device: where the network shall be.

    Raises:
        InputError: the file is missing, broken, or of another network.
    """
    weights = find_weights(weights, "gpt")
    net, card = build(weights, "gpt", lambda settings: GPT(GPTConfig(**settings)))
    vocabulary = vocabulary_from_json(card.notes.get(VOCABULARY, "null"), weights)
    if vocabulary.size != net.config.vocabulary:
        raise InputError(
            weights,
            f"its vocabulary has {vocabulary.size} ids, its network {net.config.vocabulary}",
        )
    known = frozenset(card.notes[WORDS].split()) if WORDS in card.notes else None
    codes, sketches = card.notes.get(CODES), card.notes.get(SKETCH)
    return MediaGPT(net.to(device).eval(), vocabulary, known, codes, sketches)


def kinds_of(words: Vocabulary, places: Tensor, sketch: Tensor | None) -> Tensor:
    """Return the kinds that a sketch gives to patches of a video; none without a sketch.

    Args:
        words: whose media ``video`` and ``sketch`` are.
        places: (n, 4) of the patches.
        sketch: (t, y, x).

    Returns:
        (n,) int64, as :meth:`flowwarp.legacy.models.gpt.GPT.features` is told them.
    """
    if sketch is None:
        return torch.full((len(places),), words[SKETCH].size)
    grid = words[VIDEO].grid
    assert grid is not None
    shares = torch.tensor(sketch.shape, dtype=torch.float32) / torch.tensor(grid)
    # Cells of a video are counted from 1.
    t, y, x = ((places[:, 1:] - 1) * shares).long().unbind(1)
    return sketch[t, y, x]


def words_of(text: str) -> list[str]:
    """Return the words and signs of a text, each once; digits are none of them.

    >>> words_of("a light-skinned man, aged 30, a fool")
    ['a', 'light', '-', 'skinned', 'man', ',', 'aged', 'fool']
    """
    return list(dict.fromkeys(WORD.findall(text)))


def sample_video_tokens(
    gpt: MediaGPT,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    sampling: Sampling = SAMPLING,
    *,
    times: int | None = None,
    keep: int | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Make the codes of videos, side by side.

    A video depends on its prompt, its seed and the sampling alone. On the same machine it is the
    same bit for bit, if as many are made at once and the longest prompt among them is as long; else
    sums round differently, which in bfloat16 may decide a code, and so all after it.

    Args:
        gpt: from :func:`load_gpt`.
        prompts: what each shall be; all with ``begin`` of one length, or without.
        seeds: one for each.
        sampling: how to draw.
        times: token frames after which to stop; all by default.
        keep: tokens of ``begin``, whole patches in the order in which they are written, after which
            it is written anew; all of them by default.
        dtype: of the matrices; by default what is fast here.
        progress: called with (codes done, codes in all).

    Returns:
        (B, times, h, w) int64 codes, those kept of ``begin`` included.

    Raises:
        ValueError: codes of a prompt out of range or of a wrong shape.
    """
    words = gpt.vocabulary
    grid = words[VIDEO].grid
    assert grid is not None
    if len(prompts) != len(seeds) or not prompts:
        raise ValueError(f"seeds must be one for each of {len(prompts)} prompts, got {len(seeds)}")
    lengths = {0 if prompt.begin is None else len(prompt.begin) for prompt in prompts}
    times = grid[0] if times is None else times
    if not 1 <= times <= grid[0]:
        raise ValueError(f"times must be 1 … {grid[0]}, got {times}")
    each = grid[1] * grid[2] * words[VIDEO].digits
    given = max(lengths) * each
    known = given if keep is None else keep
    if len(lengths) > 1 or known >= times * each:
        raise ValueError(f"begin must have one length, less than {times}, in all prompts")
    if known % PATCH or not 0 <= known <= given:
        raise ValueError(f"begin must be whole patches of {PATCH} of {given} tokens, got {known}")
    places = words.places(VIDEO, times * each)
    device = gpt.net.head.weight.device
    draws = _draws(seeds, len(places) - known)

    def opened(prompt: Prompt, caption: str | None) -> tuple[Tensor, Tensor]:
        ids, where = _to(_opened(words, prompt, caption), device)
        kept = len(ids) - given + known
        return ids[:kept], where[:kept]

    asked = [opened(prompt, prompt.caption) for prompt in prompts]
    told = None
    if any(prompt.sketch is not None for prompt in prompts):
        told = torch.stack([kinds_of(words, places[::PATCH], prompt.sketch) for prompt in prompts])
        told = told.to(device)
    begins = [words.codes(VIDEO, p.begin).ids for p in prompts if p.begin is not None]
    begun = torch.stack(begins) if begins else torch.empty(len(prompts), 0, dtype=torch.int64)
    begun = begun[:, :known]

    ids = sample(
        gpt.net,
        asked,
        places[known:].to(device),
        [ids.to(device) for ids in words.choices(VIDEO)],
        draws.to(device),
        sampling,
        without=[opened(prompt, None) for prompt in prompts],
        kinds=told,
        near=words.near(VIDEO, len(places))[known:].to(device),
        begun=begun.to(device),
        dtype=dtype or matrix_dtype(device),
        progress=progress,
    )
    return words.read_grid(VIDEO, torch.cat([begun, ids.cpu()], 1))


def sample_sketches(
    gpt: MediaGPT,
    captions: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    *,
    begin: Tensor | None = None,
    resampling: Resampling | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Make sketches of captions, side by side.

    Args:
        gpt: from :func:`load_gpt`, that knows sketches.
        captions: of the videos that they shall be of.
        seeds: one for each.
        sampling: how to draw.
        begin: (n, y, x), what the first of their times are; whole patches.
        resampling: which are given up for others meanwhile. It is shown (B, t, y, x) sketches,
            with the number of kinds where there is nothing yet.
        dtype: see :func:`sample_video_tokens`.

    Returns:
        (B, t, y, x) int64, kinds of places.
    """
    words = gpt.vocabulary
    device = gpt.net.head.weight.device
    begun = words.opening(SKETCH)
    known = torch.empty(0, dtype=torch.int64)
    if begin is not None:
        codes = words.codes(SKETCH, begin)
        begun, known = join([begun, codes]), codes.ids
    grid = words[SKETCH].grid
    assert grid is not None
    total = math.prod(grid)
    first = known.expand(len(captions), -1)

    def sketches(made: Tensor) -> Tensor:
        ids = torch.cat([first, made.cpu()], 1)
        missing = total - ids.shape[1]
        kinds = words.read_grid(SKETCH, F.pad(ids, (0, missing), value=int(ids[0, -1])))
        kinds.view(len(ids), total)[:, total - missing :] = words[SKETCH].size
        return kinds

    inner = None
    if (given := resampling) is not None:
        inner = replace(given, choose=lambda made: given.choose(sketches(made)).to(device))
    # Mostly many sketches of one caption, and long ones take their time.
    asked = {caption: _to(join([words.text(caption), begun]), device) for caption in set(captions)}
    ids = sample(
        gpt.net,
        [asked[caption] for caption in captions],
        words.places(SKETCH, total)[len(known) :].to(device),
        [ids.to(device) for ids in words.choices(SKETCH)],
        _draws(seeds, total - len(known)).to(device),
        sampling,
        without=[_to(begun, device)] * len(captions),
        near=words.near(SKETCH, total)[len(known) :].to(device),
        begun=first.to(device),
        resampling=inner,
        dtype=dtype or matrix_dtype(device),
    )
    return sketches(ids)


def seeds_after(seed: int, count: int) -> list[int]:
    """Return a seed and others that follow from it, so many in all."""
    return [seed_after(seed, number) for number in range(count)]


def seed_after(seed: int, number: int) -> int:
    """Return one of the seeds that follow from another, which is number 0."""
    return (seed + number * _APART) % 2**63


@torch.inference_mode()
def text_likelihood(gpt: MediaGPT, videos: Tensor, captions: Sequence[str]) -> Tensor:
    """Return the log-likelihood of captions, given videos.

    There are two ways to it: as the network reads the caption after the video, and, by Bayes'
    theorem, from how much likelier the caption makes the video. They err differently, and their
    mean is returned.

    Args:
        gpt: from :func:`load_gpt`.
        videos: (B, t, h, w) codes.
        captions: B of them.

    Returns:
        (B,) float32, in nats: the sum over all tokens of a caption and its end.
    """
    words = gpt.vocabulary
    device = gpt.net.head.weight.device
    choices = [ids.to(device) for ids in words.all_choices()]
    scores = []
    for video, caption in zip(videos, captions, strict=True):  # one by one: memory stays small
        shows, says = words.segment(VIDEO, video.cpu()), words.text(caption)
        alone, told = _log_likelihoods(gpt.net, shows, says, choices)
        said, shown = _log_likelihoods(gpt.net, says, shows, choices)
        scores.append((told + said + shown - alone) / 2)
    return torch.stack(scores).cpu()


def _log_likelihoods(
    net: GPT, first: Tokens, second: Tokens, choices: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the log-likelihoods of two media, the second one's given the first."""
    nats = token_nats(net, join([first, second]), choices)
    end = len(first) - PATCH  # there is none of the marker that opens it
    return -nats[:end].sum(), -nats[end:].sum()


def token_nats(net: GPT, tokens: Tokens, choices: Sequence[Tensor]) -> Tensor:
    """Return minus the log-likelihood of each token after the first patch, (L - 8,), in nats.

    Args:
        net: the network.
        tokens: a sequence.
        choices: see :meth:`GPT.nats`; where the network is.
    """
    device = net.head.weight.device
    ids, places, near = (part[None].to(device) for part in (tokens.ids, tokens.places, tokens.near))
    return net.nats(ids, places, choices, near=near)[0]


def describe(
    gpt: MediaGPT,
    videos: Tensor,
    sampling: Sampling | None = None,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> list[str]:
    """Say what videos show.

    Args:
        gpt: from :func:`load_gpt`.
        videos: (B, t, h, w) codes.
        sampling: how to draw words; by default the likeliest each time. Guidance does not apply.
        seed: of the draws.
        dtype: see :func:`sample_video_tokens`.

    Returns:
        B descriptions.

    Raises:
        ValueError: codes out of range or of a wrong shape.
    """
    words = gpt.vocabulary
    device = gpt.net.head.weight.device
    count = (words.text_limit + 1) * PATCH
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(videos), count, generator=generator, dtype=torch.float32)
    opened = [
        _to(join([words.segment(VIDEO, video.cpu()), words.opening(TEXT)]), device)
        for video in videos
    ]
    ids = sample(
        gpt.net,
        opened,
        words.places(TEXT, count).to(device),
        [ids.to(device) for ids in words.choices(TEXT)],
        draws.to(device),
        sampling or Sampling(temperature=0),
        stop=words.end(TEXT),
        dtype=dtype or matrix_dtype(device),
    )
    return [words.read_text(row) for row in ids.tolist()]


def _draws(seeds: Sequence[int], count: int) -> Tensor:
    """Return numbers in [0, 1) to draw tokens by, (B, count), each row by its own seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    draws = [torch.rand(count, generator=own, dtype=torch.float32) for own in generators]
    return torch.stack(draws)


def _opened(words: Vocabulary, prompt: Prompt, caption: str | None) -> Tokens:
    """Return a prompt up to where codes of the video are to come."""
    parts = [] if caption is None else [words.text(caption)]
    if prompt.frame is not None:
        parts.append(words.segment(FRAME, prompt.frame))
    if prompt.motion is not None:
        parts.append(words.segment(MOTION, prompt.motion))
    parts.append(words.opening(VIDEO))
    if prompt.begin is not None:
        grid = words[VIDEO].grid
        assert grid is not None
        if tuple(prompt.begin.shape[1:]) != grid[1:]:
            raise ValueError(f"begin must be (n, {grid[1]}, {grid[2]}) codes")
        parts.append(words.codes(VIDEO, prompt.begin))
    return join(parts)


def _to(tokens: Tokens, device: torch.device) -> tuple[Tensor, Tensor]:
    return tokens.ids.to(device), tokens.places.to(device)
