"""A critic with what its phrases mean: how well a caption fits a video, of which codes are written.

It lets a transformer draw several videos at once and go on, row by row of codes, with those that
have come out as the prompt says; see :func:`flowwarp.pipelines.sequences.sample_video_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.data.phrases import Phrasebook
from flowwarp.data.tokens import Vocabulary, vocabulary_from_json, written_cells
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import build
from flowwarp.models.critic import Critic, CriticConfig, fit
from flowwarp.models.dvae import DVAE
from flowwarp.models.gpt import PATCH, Lean, Sampling
from flowwarp.pipelines.precision import fast_dtype
from flowwarp.pipelines.sequences import (
    CODES,
    TEXT,
    VIDEO,
    VOCABULARY,
    MediaGPT,
    Prompt,
    sample_video_tokens,
    seeds_after,
)
from flowwarp.pipelines.video_tokens import fingerprint

_EVERY = 4  # patches between choices: half a row of a video of 64 pixels
_CHANCE = 0x27D4EB2F  # between the seed of a video and that of the choices on the way to it


@dataclass(frozen=True)
class Critique:
    """A critic, the phrases that it knows, and the VAE whose codes it looks at."""

    net: Critic
    book: Phrasebook
    dvae: DVAE


def load_critic(
    weights: str | Path, words: Vocabulary, dvae: DVAE, device: str | torch.device = "cpu"
) -> Critique:
    """Make a critic from weights.

    Args:
        weights: a ``.safetensors`` file with its card, such as ``train-critic`` writes.
        words: of the transformer that it is for.
        dvae: whose codes it shall look at.
        device: where the network shall be.

    Raises:
        InputError: the file is missing, broken, of another network, or for others than these.
    """
    net, card = build(weights, "critic", lambda settings: Critic(CriticConfig(**settings)))
    own = vocabulary_from_json(card.notes.get(VOCABULARY, "null"), weights)
    if own.pairs.merges != words.pairs.merges:
        raise InputError(weights, "reads words otherwise than the transformer")
    if card.notes.get(CODES) != fingerprint(dvae):
        raise InputError(weights, "learned the codes of another VAE")
    if net.config.grid != words[VIDEO].grid or net.config.channels != dvae.quantiser.outputs:
        raise InputError(weights, "looks at videos of another shape")
    for part, most in ((net.names, own.pairs.size), (net.references, net.config.phrases)):
        if part.is_floating_point() or int(part.min()) < 0 or int(part.max()) > most:
            raise InputError(weights, "its phrases are damaged")
    book = Phrasebook(net.names, own.pairs, own.text_limit)
    return Critique(net.to(device).eval(), book, dvae)


@torch.inference_mode()
def phrase_scores(critic: Critique, codes: Tensor, written: int | None = None) -> Tensor:
    """Return what the critic sees in videos, (B, phrases) float32.

    Args:
        critic: from :func:`load_critic`.
        codes: (B, t, h, w).
        written: how many codes are there, in the order in which they are written; all by default.
    """
    grid = codes.shape[1:]
    known = written_cells(grid, grid.numel() if written is None else written).expand(codes.shape)
    device = critic.net.head.weight.device
    half = fast_dtype(device) == torch.bfloat16
    values = critic.dvae.quantiser.values(codes.to(device))
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        scores: Tensor = critic.net(values, known.to(device))
    return scores


@torch.inference_mode()
def caption_fit(
    critic: Critique, codes: Tensor, captions: Sequence[str], written: int | None = None
) -> Tensor:
    """Return how well captions fit videos, in nats.

    Args:
        critic: from :func:`load_critic`.
        codes: (B, t, h, w).
        captions: B of them.
        written: see :func:`phrase_scores`.

    Returns:
        (B,): the log of how much likelier each caption is with its video than with none.
    """
    scores = phrase_scores(critic, codes, written)
    bags = critic.book.bags(captions, 3 * critic.book.limit)
    return fit(critic.net, scores, bags.to(scores.device))


def search_video_tokens(
    gpt: MediaGPT,
    critic: Critique,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    candidates: int,
    sampling: Sampling | None = None,
    *,
    strength: float = 2.0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Make the codes of videos, each chosen from several candidates on the way.

    Every few patches candidates are weighed by how much better than before they fit the prompt;
    where few of them have most of the weight, all go on from these, each as often as it weighs
    (twisted sequential Monte Carlo; Zhao et al., "Probabilistic Inference in Language Models via
    Twisted Sequential Monte Carlo", ICML 2024). So what a prompt says is chosen piece by piece:
    hair when there is hair, clothes when there are clothes.

    Args:
        gpt: from :func:`flowwarp.pipelines.sequences.load_gpt`.
        critic: from :func:`load_critic`.
        prompts: as for :func:`flowwarp.pipelines.sequences.sample_video_tokens`, with captions.
        seeds: one for each.
        candidates: so many of each prompt are drawn side by side.
        sampling: how to draw.
        strength: what the critic's nats are multiplied by. Beyond 1 it is stressed, as the prompt
            is by guidance.
        progress: called with (codes done, codes in all).

    Returns:
        (B, t, h, w) int64 codes: of each prompt's candidates, the one that fits best.

    Raises:
        ValueError: a prompt without a caption, or see ``sample_video_tokens``.
    """
    captions = [prompt.caption for prompt in prompts for _ in range(candidates)]
    told = [caption for caption in captions if caption is not None]
    if len(told) < len(captions):
        raise ValueError("prompts must have captions to choose by")
    chance = [torch.Generator().manual_seed((seed + _CHANCE) % 2**63) for seed in seeds]
    before = torch.zeros(len(prompts), candidates)
    weights = torch.zeros(len(prompts), candidates)
    first = torch.arange(len(prompts))[:, None] * candidates
    cells = PATCH // gpt.vocabulary[VIDEO].digits  # codes of a patch

    def steer(codes: Tensor, written: int) -> Tensor | None:
        nonlocal before, weights
        if written % (_EVERY * cells):
            return None
        now = caption_fit(critic, codes, told, written).cpu().view(len(prompts), candidates)
        weights = weights + strength * (now - before)
        rows = torch.arange(candidates).repeat(len(prompts), 1)
        for number, own in enumerate(weights):
            share = own.softmax(0)
            if 1 / float(share.square().sum()) < candidates / 2:  # the effective sample size
                rows[number] = _resample(share, chance[number])
                weights[number] = 0
        before = now.gather(1, rows)
        return (first + rows).flatten()

    every = [seed for own in seeds for seed in seeds_after(own, candidates)]
    many = [prompt for prompt in prompts for _ in range(candidates)]
    codes = sample_video_tokens(gpt, many, every, sampling, steer=steer, progress=progress)
    best = caption_fit(critic, codes, told).cpu().view(len(prompts), candidates).argmax(1)
    return codes[first[:, 0] + best]


def _resample(shares: Tensor, chance: torch.Generator) -> Tensor:
    """Return as many numbers as there are shares, each as often as its share; systematic."""
    count = len(shares)
    points = (torch.arange(count) + torch.rand((), generator=chance)) / count
    return torch.searchsorted(shares.cumsum(0), points).clamp_max(count - 1)


def lean_to(gpt: MediaGPT, critic: Critique, videos: Tensor, strength: float = 1.0) -> Lean:
    """Return what words gain by what the critic sees, for descriptions of videos (B, t, h, w).

    A word gains what it and its pairs with the two before it do: the critic's score of a video,
    less that of none.
    """
    words = gpt.vocabulary
    gains = phrase_scores(critic, videos) - phrase_scores(critic, videos, 0)
    gains = F.pad(strength * gains, (0, 1)).cpu()  # the last is of what is no known phrase
    start, count = words.range(TEXT).start, words[TEXT].size
    alone = torch.full((count + 1,), len(critic.book))  # of each word, and of the end
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, (far, last, word) in enumerate(critic.book.names.tolist()):
        if far or last:
            after.setdefault((far, last), []).append((word - 1, number))
        else:
            alone[word - 1] = number

    def lean(written: Tensor) -> Tensor:
        rows = gains[:, alone]
        for gain, row, ids in zip(gains, rows, written[:, ::PATCH].tolist(), strict=True):
            said = [i - start for i in ids if 0 <= i - start < count]
            row[said] = 0  # a bag has each phrase once
            ends = [(0, word + 1) for word in said[-1:]] + [(word + 1, 0) for word in said[-2:-1]]
            for end in ends:
                for word, number in after.get(end, ()):
                    row[word] += gain[number]
        return rows.to(written.device)

    return lean
