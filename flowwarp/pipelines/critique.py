"""A critic with what its phrases mean: how well a caption fits a video, of which codes are written.

It lets a transformer draw several videos at once, with a bias to codes that fit the prompt, and go
on, piece by piece, with those that have come out as the prompt says.
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
from flowwarp.pipelines.precision import fast_autocast
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
    return _scores(critic.net, critic.dvae.quantiser.values(codes.to(device)), known.to(device))


def _scores(net: Critic, values: Tensor, known: Tensor) -> Tensor:
    with fast_autocast(values.device):
        scores: Tensor = net(values, known)
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
    bags = critic.book.bags(captions, 3 * critic.book.limit)
    return _fit_bags(critic, codes, bags, written)


def _fit_bags(critic: Critique, codes: Tensor, bags: Tensor, written: int | None) -> Tensor:
    scores = phrase_scores(critic, codes, written)
    return fit(critic.net, scores, bags.to(scores.device))


# ------------------------------------------------------------------ words to video


def search_video_tokens(
    gpt: MediaGPT,
    critic: Critique,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    candidates: int,
    sampling: Sampling | None = None,
    *,
    strength: float = 2.0,
    pull: float = 1.5,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Make the codes of videos, each chosen from several candidates on the way.

    Every few patches candidates are weighed by how much better than before they fit the prompt;
    where few of them have most of the weight, all go on from these, each as often as it weighs
    (twisted sequential Monte Carlo; Zhao et al., "Probabilistic Inference in Language Models via
    Twisted Sequential Monte Carlo", ICML 2024). So what a prompt says is chosen piece by piece:
    hair when there is hair, clothes when there are clothes.

    What is drawn in between is drawn with a bias to what fits: each value of a code gains as much
    as the critic's gradient promises, were the codes that come next all in the middle of what they
    can be (as in Dathathri et al., "Plug and Play Language Models", ICLR 2020, and by classifier
    guidance, Dhariwal and Nichol, NeurIPS 2021). The weights do not take it back: both stress the
    prompt.

    Args:
        gpt: from :func:`flowwarp.pipelines.sequences.load_gpt`.
        critic: from :func:`load_critic`.
        prompts: as for :func:`flowwarp.pipelines.sequences.sample_video_tokens`, with captions.
        seeds: one for each.
        candidates: so many of each prompt are drawn side by side.
        sampling: how to draw.
        strength: what the critic's nats are multiplied by to weigh candidates. Beyond 1 it is
            stressed, as the prompt is by guidance.
        pull: what they are multiplied by in the bias; 0 for none.
        progress: called with (codes done, codes in all).

    Returns:
        (B, t, h, w) int64 codes: of each prompt's candidates, the one that fits best.

    Raises:
        ValueError: a prompt without a caption, or see ``sample_video_tokens``.
    """
    captions = [prompt.caption for prompt in prompts if prompt.caption is not None]
    if len(captions) < len(prompts):
        raise ValueError("prompts must have captions to choose by")
    search = _Search(gpt, critic, captions, seeds, candidates, strength, pull)
    every = [seed for own in seeds for seed in seeds_after(own, candidates)]
    many = [prompt for prompt in prompts for _ in range(candidates)]
    search.begin([prompt.begin for prompt in many])
    codes = sample_video_tokens(
        gpt,
        many,
        every,
        sampling,
        steer=search.steer,
        gains=search.gains if pull else None,
        progress=progress,
    )
    return search.best(codes)


class _Search:
    """How well candidates fit so far, and what they would gain by."""

    def __init__(
        self,
        gpt: MediaGPT,
        critic: Critique,
        captions: Sequence[str],
        seeds: Sequence[int],
        candidates: int,
        strength: float,
        pull: float,
    ) -> None:
        video = gpt.vocabulary[VIDEO]
        self.critic, self.strength, self.pull = critic, strength, pull
        told = [caption for caption in captions for _ in range(candidates)]
        self.bags = critic.book.bags(told, 3 * critic.book.limit)
        self.bags = self.bags.to(critic.net.head.weight.device)
        self.chances = [torch.Generator().manual_seed((s + _CHANCE) % 2**63) for s in seeds]
        self.digits = video.digits
        self.apart = _EVERY * PATCH // video.digits  # codes between choices
        self.order = gpt.vocabulary.written_order(VIDEO)
        self.first = torch.arange(len(captions))[:, None] * candidates
        self.fits = torch.zeros(len(captions), candidates)
        self.weights = torch.zeros_like(self.fits)
        self.values = _digit_values(critic.dvae, video.size, video.digits)

    def begin(self, begun: Sequence[Tensor | None]) -> None:
        """Find out what videos would gain by, of which there is nothing, or codes (n, h, w)."""
        codes = torch.zeros(len(begun), *self.critic.net.config.grid, dtype=torch.int64)
        written = 0
        for video, given in zip(codes, begun, strict=True):
            if given is not None:
                video[: len(given)] = given
                written = given.numel()
        self._ahead(codes, written)

    def steer(self, codes: Tensor, written: int) -> Tensor | None:
        """Return which candidate each goes on from; see ``sample_video_tokens``."""
        if written % self.apart:
            return None
        prompts, candidates = self.fits.shape
        now = _fit_bags(self.critic, codes, self.bags, written).cpu().view(prompts, candidates)
        self.weights += self.strength * (now - self.fits)
        rows = torch.arange(candidates).repeat(prompts, 1)
        for number, own in enumerate(self.weights):
            share = own.softmax(0)
            if 1 / float(share.square().sum()) < candidates / 2:  # the effective sample size
                rows[number] = _resample(share, self.chances[number])
                own.zero_()
        self.fits = now.gather(1, rows)
        chosen = (self.first + rows).flatten()
        self._ahead(codes[chosen], written)
        return chosen

    def gains(self, written: int) -> Tensor:
        """Return what each value of the next token is worth; see ``sample_video_tokens``."""
        place = self.order[written // self.digits]
        slopes = self.slopes[:, place]
        return slopes @ self.values[written % self.digits].T

    def best(self, codes: Tensor) -> Tensor:
        """Return each prompt's candidate that fits best."""
        fits = _fit_bags(self.critic, codes, self.bags, None).cpu().view_as(self.fits)
        return codes[self.first[:, 0] + fits.argmax(1)]

    def _ahead(self, codes: Tensor, written: int) -> None:
        """Note how the fit changes with the values of codes, those that come next included."""
        if self.pull and written < len(self.order):
            slopes = _slopes(self.critic, codes, self.bags, written, self.apart)
            self.slopes = self.pull * slopes.flatten(1, 3)  # (B, cells, channels)


def _slopes(critic: Critique, codes: Tensor, bags: Tensor, written: int, ahead: int) -> Tensor:
    """Return the gradient of the fit, (B, t, h, w, channels), some codes ahead.

    Args:
        critic: from :func:`load_critic`.
        codes: (B, t, h, w).
        bags: (B, L) phrases of captions.
        written: how many codes are there.
        ahead: how many more are taken to be there, with values of 0, the middle.
    """
    grid = codes.shape[1:]
    device = critic.net.head.weight.device
    there = written_cells(grid, written).to(device)
    known = written_cells(grid, written + ahead).to(device).expand(codes.shape)
    with torch.inference_mode(False), torch.enable_grad():  # sampling does without
        values = critic.dvae.quantiser.values(codes.to(device).clone()).detach()
        values = values.masked_fill(~there[..., None], 0.0).requires_grad_()
        scores = _scores(critic.net, values, known)
        (slopes,) = torch.autograd.grad(fit(critic.net, scores, bags.clone()).sum(), values)
    return slopes


def _digit_values(dvae: DVAE, size: int, digits: int) -> list[Tensor]:
    """Return what each value of each digit of a code adds to what the code stands for.

    Returns:
        For each digit (size, channels); what a code stands for is their sum and a constant.
    """
    quantiser = dvae.quantiser
    steps = torch.arange(size, device=next(dvae.parameters()).device)
    nothing = quantiser.values(torch.zeros_like(steps))
    return [
        (quantiser.values(steps * size ** (digits - 1 - digit)) - nothing).detach()
        for digit in range(digits)
    ]


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
